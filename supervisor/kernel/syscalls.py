"""Raw system calls: one errno-safe handle to libc, one table of numbers, nothing else.

Everything here is silent and raises OSError with the kernel's errno; whoever owns the user's sentence adds it.
An architecture that the table does not know is refused at import (ENOTSUP), because a guessed number is another
system call. Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; syscalls(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

# use_errno keeps a private copy of errno per thread, so neither the interpreter nor another library can
# overwrite it between the call and the look at it.
LIBC = ctypes.CDLL(None, use_errno=True)
# The same library, but calls keep the GIL. A raw clone(2) needs it: with the GIL released, the child would have
# to take a lock whose owner does not exist in it.
LIBC_HOLDING_GIL = ctypes.PyDLL(None, use_errno=True)

_syscall = LIBC["syscall"]
_syscall.restype = ctypes.c_long
_syscall_holding_gil = LIBC_HOLDING_GIL["syscall"]
_syscall_holding_gil.restype = ctypes.c_long

Argument = int | bytes | ctypes.Array[ctypes.c_char] | ctypes.c_void_p | ctypes.c_char_p | None

# name -> (x86_64, aarch64); None where the architecture never had the call. Only what this project calls by
# number, or names in a filter although libseccomp 2.5 may not know it.
TABLE: dict[str, tuple[int | None, int | None]] = {
    "add_key": (248, 217),
    "bpf": (321, 280),
    "cachestat": (451, 451),
    "capget": (125, 90),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "creat": (85, None),
    "epoll_pwait2": (441, 441),
    "execve": (59, 221),
    "execveat": (322, 281),
    "exit_group": (231, 94),
    "faccessat2": (439, 439),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "file_getattr": (468, 468),
    "file_setattr": (469, 469),
    "fork": (57, None),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futex_requeue": (456, 456),
    "futex_wait": (455, 455),
    "futex_waitv": (449, 449),
    "futex_wake": (454, 454),
    "getpid": (39, 172),
    "getxattrat": (464, 464),
    "inotify_add_watch": (254, 27),
    "inotify_init1": (294, 26),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "kcmp": (312, 272),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "listmount": (458, 458),
    "listns": (470, 470),
    "listxattrat": (465, 465),
    "lsm_get_self_attr": (459, 459),
    "lsm_list_modules": (461, 461),
    "lsm_set_self_attr": (460, 460),
    "map_shadow_stack": (453, 453),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mseal": (462, 462),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl_fd": (443, 443),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "set_mempolicy_home_node": (450, 450),
    "setfsgid": (123, 152),
    "setfsuid": (122, 151),
    "setgroups": (116, 159),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setxattrat": (463, 463),
    "statmount": (457, 457),
    "tgkill": (234, 131),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uprobe": (336, None),
    "uretprobe": (335, None),
    "userfaultfd": (323, 282),
    "vfork": (58, None),
    "waitid": (247, 95),
}

ARCHITECTURES = ("x86_64", "aarch64")


def numbers(machine: str) -> dict[str, int]:
    """The column of one architecture (`uname -m`). Raises OSError(ENOTSUP) for one that has no column.

    A 32-bit interpreter on a 64-bit kernel makes its calls by another table, so it is refused as well.
    """
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOTSUP, f"no system call table for {machine!r}, only for {', '.join(ARCHITECTURES)}")
    if sys.maxsize <= 2**32:
        raise OSError(errno.ENOTSUP, f"a 32-bit interpreter on {machine} uses another system call table")
    column = ARCHITECTURES.index(machine)
    return {name: nr for name, row in TABLE.items() if (nr := row[column]) is not None}


MACHINE = platform.machine()
NR = numbers(MACHINE)


def _prepare(nr: str | int, args: tuple[Argument, ...]) -> list[object]:
    # ctypes would pass a plain int as a C int and cut it at 32 bits. c_ulong wraps negative values as C does.
    number = NR[nr] if isinstance(nr, str) else nr
    return [ctypes.c_long(number), *(ctypes.c_ulong(a) if isinstance(a, int) else a for a in args)]


def _result(value: int) -> int:
    if value == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return value


def call(nr: str | int, *args: Argument) -> int:
    """syscall(2): the result, or OSError. `nr` is a name of the table (KeyError if unknown) or a number.

    int goes as an unsigned long, bytes and ctypes objects as a pointer, None as NULL. EINTR is the caller's to
    repeat. bytes go as they are: a path must come from `path()`, which refuses NUL.
    """
    return _result(_syscall(*_prepare(nr, args)))


def call_holding_gil(nr: str | int, *args: Argument) -> int:
    """`call` without releasing the GIL: for a raw clone(2) whose child goes on in Python. Never for what blocks."""
    return _result(_syscall_holding_gil(*_prepare(nr, args)))


def path(name: str | bytes) -> bytes:
    """The bytes of a path for `call`. Raises OSError(EINVAL) for a NUL, at which the kernel would stop reading."""
    encoded = os.fsencode(name)
    if b"\0" in encoded:
        raise OSError(errno.EINVAL, "a path cannot hold a NUL byte", name)
    return encoded
