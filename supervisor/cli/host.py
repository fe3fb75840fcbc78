"""What can be seen of the host without a service: each check is read-only and says its own remedy.

The service's own doctor launches real children and is the truth; this is for the machine on which it does not
start. Sources: proc(5), sysfs(5), cgroups(7), landlock(7), seccomp(2).
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST_KERNEL = (5, 13)  # Landlock
GROUP = "stockade-clients"


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool | None  # None: could not be seen from here
    detail: str
    remedy: str = ""
    required: bool = True


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read(65536)
    except OSError:
        return None


def kernel(release: str) -> Check:
    parts = release.split("-")[0].split(".")
    version = tuple(int(p) for p in parts[:2] if p.isdecimal())
    return Check("kernel", version >= OLDEST_KERNEL, release, "Linux 5.13 or newer is needed, for Landlock")


def landlock(lsm: str | None) -> Check:
    if lsm is None:
        return Check("landlock", None, "/sys/kernel/security/lsm cannot be read here")
    return Check(
        "landlock",
        "landlock" in lsm.strip().split(","),
        f"active security modules: {lsm.strip()}",
        "boot with landlock in lsm= (kernel command line) and CONFIG_SECURITY_LANDLOCK=y",
    )


def seccomp(actions: str | None) -> Check:
    return Check("seccomp", actions is not None, (actions or "absent").strip(), "a kernel with CONFIG_SECCOMP_FILTER=y")


def cgroups(mounts: str | None, controllers: str | None) -> Check:
    """`mounts` is /proc/self/mounts, `controllers` the root's cgroup.controllers where v2 is at /sys/fs/cgroup."""
    wanted = {"memory", "pids", "cpu"}
    lines = [line.split() for line in (mounts or "").splitlines()]
    v1 = {option for line in lines if line[2:3] == ["cgroup"] for option in line[3].split(",")}
    v2 = set((controllers or "").split())
    missing = wanted - v1 - v2
    detail = ", ".join(f"{c} {'v2' if c in v2 else 'v1' if c in v1 else 'missing'}" for c in sorted(wanted))
    return Check("cgroups", not missing, detail, "mount cgroup2 on /sys/fs/cgroup with memory, pids and cpu enabled")


def client_group() -> Check:
    import grp

    try:
        group = grp.getgrnam(GROUP)
    except KeyError:
        return Check(
            "group", False, f"no group {GROUP}", f"groupadd --system {GROUP} (scripts/install does it)", required=False
        )
    mine = os.geteuid() == 0 or group.gr_gid in {os.getegid(), *os.getgroups()}
    remedy = f"sudo usermod -aG {GROUP} USER, then log in again"
    return Check("group", mine, f"{GROUP} exists, you are {'' if mine else 'not '}in it", remedy, required=False)


def policy() -> Check:
    from supervisor import errors

    try:
        from supervisor.layout import layout
        from supervisor.policy.load import load

        snapshot = load(layout())
    except errors.StockadeError as e:
        return Check("policy", False, e.detail, "`stockade policy check` lists every finding")
    except OSError as e:
        return Check("policy", None, f"{e.filename}: {e.strerror}")
    return Check("policy", True, f"{len(snapshot.profiles)} profiles, {len(snapshot.callers)} callers")


def checks() -> Iterator[Check]:
    """Every check, on this machine."""
    yield kernel(platform.release())
    yield landlock(_read("/sys/kernel/security/lsm"))
    yield seccomp(_read("/proc/sys/kernel/seccomp/actions_avail"))
    yield cgroups(_read("/proc/self/mounts"), _read("/sys/fs/cgroup/cgroup.controllers"))
    yield client_group()
    yield policy()
