"""The machine is what it is said to be, and an installation that fails leaves it so."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import tempfile
from pathlib import Path

from tests.vm.guest.tools import PROJECT, must, sh

_SYS_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1


def traces() -> list[str]:
    """Whatever on this machine is Stockade's, by name; the policy, state and log directories too."""
    found = [
        str(p)
        for top in ("/etc", "/opt", "/run", "/usr", "/var", "/sys/fs/cgroup", "/srv")
        for p in Path(top).rglob("*stockade*")
        if "stockade-vm" not in str(p) and not str(p).startswith("/var/log/journal/")
    ]
    found += [f"user {u.pw_name}" for u in pwd.getpwall() if u.pw_name.startswith("stockade")]
    found += [f"group {line}" for line in Path("/etc/group").read_text().splitlines() if line.startswith("stockade")]
    return found


def a_machine_without_compiler_and_network() -> str:
    """What is installed here is installed without a compiler and without fetching anything."""
    must(not [c for c in ("gcc", "cc", "g++", "clang", "tcc", "make", "ld", "as") if shutil.which(c)])
    must(sorted(os.listdir("/sys/class/net")) == ["lo"], os.listdir("/sys/class/net"))
    return sh("systemctl", "--version").stdout.splitlines()[0]


def cgroup_v2_alone_and_landlock_6() -> str:
    """The machine has the unified hierarchy only and a kernel whose Landlock ABI is 6."""
    must(Path("/proc/self/cgroup").read_text().startswith("0::/system.slice/"))
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    must("cgroup2" in kinds)
    must("cgroup" not in kinds)
    abi = ctypes.CDLL(None, use_errno=True).syscall(
        _SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION)
    )
    must(abi == 6, f"Landlock ABI {abi}")
    return os.uname().release


def a_failed_installation_leaves_nothing() -> None:
    """scripts/install that cannot finish ends non-zero and takes back all that it did."""
    with tempfile.TemporaryDirectory() as empty:
        done = sh(f"{PROJECT}/scripts/install", "--offline", empty, status=None)
    must(done.returncode != 0, "an installation without wheels succeeded")
    must(not traces(), f"{traces()}\n{done.stdout}{done.stderr}")


CHECKS = (a_machine_without_compiler_and_network, cgroup_v2_alone_and_landlock_6, a_failed_installation_leaves_nothing)
