"""Signals to the members of cgroups: freeze, the kill loop of hosts without cgroup.kill, and one signal to each."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from supervisor.kernel import cgroup_files as files
from supervisor.kernel.cgroup_find import memberships

if TYPE_CHECKING:
    from supervisor.kernel.cgroup_find import Hierarchy


def freeze(h: Hierarchy, directory: str, frozen: bool) -> None:
    try:
        if h.version == 2:
            files.write(directory + "/cgroup.freeze", b"1" if frozen else b"0")
        elif "freezer" in h.carries:
            files.write(directory + "/freezer.state", b"FROZEN" if frozen else b"THAWED")
    except FileNotFoundError:
        return


def kill_round(dirs: dict[Hierarchy, str]) -> None:
    """Freeze, SIGKILL everything in these groups and below, thaw. v1's frozen tasks die only when thawed.

    Every hierarchy is asked for its processes: one that died while it joined may be in some of them only.
    """
    inside = paths(dirs)
    groups = [(h, g) for h, d in dirs.items() for g in files.walk(d)]
    for h, group in groups:
        freeze(h, group, frozen=True)
    try:
        for pid in set().union(*(files.pids(d) for d in dirs.values())):
            signal_member(pid, inside, signal.SIGKILL)
    finally:
        for h, group in groups:
            freeze(h, group, frozen=False)


def paths(dirs: dict[Hierarchy, str]) -> list[str]:
    """These groups as /proc/PID/cgroup names them."""
    return [h.path + d[len(h.base) :] for h, d in dirs.items()]


def signal_member(pid: int, paths: list[str], number: int) -> None:
    """Signal a process if it is in one of these cgroups or below, however its pid may have been reused.

    The pidfd pins one process first. If the look at /proc meets another one under the same number, the pinned
    one is dead and the signal goes nowhere.
    """
    if pid == os.getpid():
        return
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as f:
            member = memberships(f.read()).values()
        if any(m == p or m.startswith(p + "/") for m in member for p in paths):
            signal.pidfd_send_signal(fd, number)
    except (FileNotFoundError, ProcessLookupError):
        return
    finally:
        os.close(fd)
