"""Processes, credentials and capabilities: clone3(2), setns(2), prctl(2), capset(2), credentials(7)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
from typing import TYPE_CHECKING

from supervisor.kernel.syscalls import call, call_holding_gil

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_PIDFD = 0x1000
CLONE_PARENT = 0x8000
CLONE_INTO_CGROUP = 0x200000000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_GET_DUMPABLE = 3
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

# capabilities(7): every securebit on and locked, so that no later uid change gives anything back
SECUREBITS_LOCKED = 0b11101111

# capabilities(7): numbers of those that the launcher keeps
CAPABILITIES = {
    "chown": 0,
    "dac_override": 1,
    "dac_read_search": 2,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_admin": 12,
    "sys_chroot": 18,
    "sys_ptrace": 19,
    "sys_admin": 21,
    "sys_resource": 24,
    "mknod": 27,
}

_CAPABILITY_VERSION_3 = 0x20080522
_NOBODY = 0xFFFFFFFF  # (uid_t) -1


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    return call("prctl", option, a, b, c, d)


def clone(flags: int, *, cgroup_fd: int | None = None) -> tuple[int, int]:
    """fork by clone3(2) with namespace flags, born in the cgroup2 at `cgroup_fd`: (pid, pidfd); (0, -1) inside.

    For single-threaded callers only: it skips fork handlers on purpose, the child of the launcher execs or ends.
    The GIL stays held, because the child must not wait for a lock that another thread would have to give back.
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup_fd is not None else 0)
    # With CLONE_PARENT the exit signal is that of the caller and must not be given (clone(2)).
    exit_signal = 0 if flags & CLONE_PARENT else signal.SIGCHLD
    args = struct.pack("=11Q", flags, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup_fd or 0)
    pid = call_holding_gil("clone3", args, len(args))
    return (pid, pidfd.value) if pid else (0, -1)


def setns(fd: int, kinds: int) -> None:
    """Enter namespaces of a pidfd or a namespace descriptor (setns(2)); CLONE_NEWPID concerns later children only."""
    call("setns", fd, kinds)


def unshare(kinds: int) -> None:
    call("unshare", kinds)


def set_hostname(name: str) -> None:
    raw = name.encode()
    call("sethostname", raw, len(raw))


def close_from(first: int, keep: tuple[int, ...] = ()) -> None:
    """Close every descriptor from `first` on but those in `keep` (close_range(2))."""
    low = first
    for fd in sorted(keep):
        if fd > low:
            call("close_range", low, fd - 1, 0)
        low = max(low, fd + 1)
    call("close_range", low, 0xFFFFFFFF, 0)


def last_capability() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as f:
        return int(f.read())


def set_capabilities(effective: int, permitted: int, inheritable: int = 0) -> None:
    """capset(2) for the calling thread; the arguments are bit masks."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low = (effective & 0xFFFFFFFF, permitted & 0xFFFFFFFF, inheritable & 0xFFFFFFFF)
    high = (effective >> 32, permitted >> 32, inheritable >> 32)
    call("capset", header, struct.pack("=6I", *low, *high))


def bound_capabilities(keep: tuple[int, ...], last: int) -> None:
    """Drop every capability but `keep` from the bounding set, for this process and all that come from it."""
    for cap in range(last + 1):
        if cap not in keep and prctl(PR_CAPBSET_READ, cap):
            prctl(PR_CAPBSET_DROP, cap)


def lock_down(last: int) -> None:
    """What a process may give up for itself and all that come from it while it still changes ids: ambient and bounding
    set, supplementary groups, gaining privileges by exec, and with the securebits any effect of ids on capabilities.
    """
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    bound_capabilities((), last)
    prctl(PR_SET_SECUREBITS, SECUREBITS_LOCKED)
    os.setgroups([])
    prctl(PR_SET_NO_NEW_PRIVS, 1)


@contextlib.contextmanager
def reading_as(uid: int, gid: int) -> Iterator[None]:
    """Be another for the file system alone until the end of the block (setfsuid(2)): root's power over files is gone
    with root's id (capabilities(7)), so nothing opens that this user could not open. Raises OSError(EPERM).

    The kernel also forgets the parent-death signal of the caller, and that it is undumpable; the latter is put back.
    """
    dumpable = prctl(PR_GET_DUMPABLE)
    try:
        _file_ids(uid, gid)
        yield
    finally:
        _file_ids(os.geteuid(), os.getegid())
        if dumpable in (0, 1):  # 2 is the host's own wish (fs.suid_dumpable), and cannot be asked for
            prctl(PR_SET_DUMPABLE, dumpable)


def _file_ids(uid: int, gid: int) -> None:
    for name, wanted in (("setfsgid", gid), ("setfsuid", uid)):
        call(name, wanted)
        if call(name, _NOBODY) != wanted:  # it answers with the id in force, and an id that is none changes nothing
            raise OSError(errno.EPERM, f"{name} {wanted} did not take effect")


def give_up(uid: int, gid: int) -> None:
    """After lock_down: take ids for good and empty every capability set. Raises OSError; the caller must then end."""
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    set_capabilities(0, 0)
