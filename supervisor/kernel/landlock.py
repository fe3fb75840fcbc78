"""Landlock rulesets (landlock(7)): every right that the kernel's ABI offers is handled, what is not named is denied.

Built on the `landlock` package's plumbing, which knows the file system part and ABI 5. The rest stands here: TCP
(ABI 4), scopes (ABI 6) and the log flags (ABI 7), and a guard, because the package takes a stale errno for a failure.

What older kernels lack, and so what a profile can ask for through `required`:
  ABI 1  no REFER: renames and links from one directory to another are always denied, in writable places too
  ABI 2  no TRUNCATE: truncate(2) on a readable file is not denied by Landlock
  ABI 3  no TCP rights         ABI 4  no IOCTL_DEV: device ioctls are not denied by Landlock
  ABI 5  no scopes             ABI 6  no log flags (nothing less is denied)
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import stat
from dataclasses import dataclass
from typing import Any

from landlock import SyscallError
from landlock import plumbing as _plumbing

from supervisor.kernel.syscalls import call, path

FS = _plumbing.FSAccess

NEWEST = 7  # what this module knows; a newer kernel is asked for these rights and no others

NET = {"BIND_TCP": 1 << 0, "CONNECT_TCP": 1 << 1}
SCOPED = {"ABSTRACT_UNIX_SOCKET": 1 << 0, "SIGNAL": 1 << 1}

RULE_PATH_BENEATH = 1
RULE_NET_PORT = 2

LOG_SAME_EXEC_OFF = 1 << 0
LOG_NEW_EXEC_ON = 1 << 1
LOG_SUBDOMAINS_OFF = 1 << 2

# What a rule on something that is no directory may hold; anything else there is EINVAL.
FILE_RIGHTS = int(FS.EXECUTE | FS.WRITE_FILE | FS.READ_FILE | FS.TRUNCATE | FS.IOCTL_DEV)

READ = int(FS.READ_FILE | FS.READ_DIR)
EXECUTE = int(FS.EXECUTE | FS.READ_FILE | FS.READ_DIR)
# Everything a directory of one's own needs, but never MAKE_CHAR and MAKE_BLOCK, and no ioctl on devices.
WRITE = int(
    FS.READ_FILE
    | FS.READ_DIR
    | FS.WRITE_FILE
    | FS.REMOVE_DIR
    | FS.REMOVE_FILE
    | FS.MAKE_DIR
    | FS.MAKE_REG
    | FS.MAKE_SYM
    | FS.MAKE_SOCK
    | FS.MAKE_FIFO
    | FS.REFER
    | FS.TRUNCATE
)
DEVICE = int(FS.READ_FILE | FS.WRITE_FILE | FS.READ_DIR | FS.IOCTL_DEV)


class _RulesetAttr(_plumbing.RulesetAttr):  # type: ignore[misc]
    """struct landlock_ruleset_attr up to ABI 7; the kernel is told how much of it counts."""

    _fields_ = [("handled_access_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _NetPortAttr(ctypes.Structure):
    _fields_ = [("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64)]


_package_errcheck = _plumbing.syscall_errcheck


def _errcheck(result: int, func: Any, arguments: tuple[Any, ...], reason: str | None = None) -> int:
    # The package raises whenever errno is not 0, even after a success; only -1 is a failure (syscall(2)).
    return int(_package_errcheck(result, func, arguments, reason)) if result == -1 else result


_plumbing.syscall_errcheck = _errcheck


@functools.cache
def abi() -> int:
    """The kernel's Landlock ABI; 0 when it is not built in or not enabled at boot. Raises OSError otherwise."""
    try:
        return int(_plumbing.landlock_abi_version())
    except SyscallError as e:
        if e.errno in {errno.ENOSYS, errno.EOPNOTSUPP}:
            return 0
        raise _as_oserror(e) from None


@dataclass(frozen=True, slots=True)
class Rights:
    """The masks of one ABI: what a ruleset of ours handles there, so what it denies unless a rule grants it."""

    version: int
    fs: int
    net: int
    scoped: int

    @property
    def size(self) -> int:
        """Bytes of struct landlock_ruleset_attr that this ABI reads; more would be E2BIG on its kernel."""
        return 24 if self.scoped else 16 if self.net else 8


def rights(version: int | None = None) -> Rights:
    """The rights of an ABI, or of this kernel. Raises OSError(EOPNOTSUPP) where there is none.

    A version above `NEWEST` means `NEWEST`; one above the kernel's is refused, since it cannot be kept.
    """
    offered = abi()
    wanted = offered if version is None else version
    if wanted < 1 or wanted > offered:
        raise OSError(errno.EOPNOTSUPP, f"Landlock ABI {wanted} was asked for, this kernel offers {offered}")
    return table(wanted)


def table(version: int) -> Rights:
    """The rights of an ABI, whatever this kernel offers (pure)."""
    fs = (1 << 13) - 1  # EXECUTE (bit 0) to MAKE_SYM (bit 12)
    for since, right in ((2, FS.REFER), (3, FS.TRUNCATE), (5, FS.IOCTL_DEV)):
        if version >= since:
            fs |= int(right)
    return Rights(
        version=min(version, NEWEST),
        fs=fs,
        net=sum(NET.values()) if version >= 4 else 0,
        scoped=sum(SCOPED.values()) if version >= 6 else 0,
    )


def build(
    *,
    read: list[str],
    write: list[str],
    execute: list[str],
    devices: list[str] | None = None,
    tcp: bool,
    ports: tuple[tuple[str, int], ...] = (),
    version: int | None = None,
) -> tuple[int, list[str]]:
    """A ruleset as (descriptor, paths that do not exist). The descriptor is close-on-exec and the caller's to close.

    `read`: files and directories below. `execute`: also run, with Landlock's own limit that a readable file can
    still be mapped or interpreted. `write`: also make, change, remove and rename; no device nodes. `devices`: read,
    write and ioctl. Paths are absolute and resolved now, in the caller's mount namespace, following symlinks (/lib is
    one); a rule then holds the inode, not the name. One path in several lists gets the union.

    `tcp=False` denies every TCP bind and connect (ABI 4) but `ports`, pairs of a NET name and a port. `tcp=True`
    leaves TCP alone. Abstract Unix sockets and signals stay inside the domain (ABI 6). `version` pins an older ABI.

    Raises OSError: EOPNOTSUPP (no such ABI), EINVAL (relative path), or the kernel's.
    """
    has = rights(version)
    net = 0 if tcp else has.net
    attr = _RulesetAttr(has.fs, net, has.scoped)
    try:
        ruleset = int(_plumbing.get_create_ruleset()(ctypes.byref(attr), has.size, 0))
    except SyscallError as e:
        raise _as_oserror(e) from None
    missing: list[str] = []
    try:
        granted = ((read, READ), (write, WRITE), (execute, EXECUTE), (devices or [], DEVICE))
        for names, wanted in granted:
            for name in names:
                if not _allow_path(ruleset, name, wanted & has.fs) and name not in missing:
                    missing.append(name)
        if net:
            for right, port in ports:
                _allow_port(ruleset, NET[right], port)
    except BaseException:
        os.close(ruleset)
        raise
    return ruleset, missing


def _allow_path(ruleset: int, name: str, wanted: int) -> bool:
    """Add one rule; False when there is nothing at `name`."""
    if not os.path.isabs(name):
        raise OSError(errno.EINVAL, "a Landlock rule needs an absolute path", name)
    try:
        fd = os.open(path(name), os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            wanted &= FILE_RIGHTS
        _add_rule(ruleset, RULE_PATH_BENEATH, _plumbing.PathBeneathAttr(wanted, fd))
    finally:
        os.close(fd)
    return True


def _allow_port(ruleset: int, wanted: int, port: int) -> None:
    _add_rule(ruleset, RULE_NET_PORT, _NetPortAttr(wanted, port))


def _add_rule(ruleset: int, kind: int, attr: ctypes.Structure) -> None:
    # The package declares the attribute as the path kind; the kernel reads it by `kind`.
    pointer = ctypes.cast(ctypes.byref(attr), ctypes.POINTER(_plumbing.PathBeneathAttr))
    try:
        _plumbing.get_add_rule()(ruleset, kind, pointer, 0)
    except SyscallError as e:
        raise _as_oserror(e) from None


def restrict_self(ruleset: int, flags: int | None = None) -> None:
    """Enforce a ruleset on the calling thread and all that it starts. Needs no_new_privs or CAP_SYS_ADMIN.

    Without `flags`, ABI 7 gets LOG_SUBDOMAINS_OFF: a child may nest domains of its own, and must not be able to fill
    the host's audit log through them. The package's own call has no flags, so this one is raw.
    """
    if flags is None:
        flags = LOG_SUBDOMAINS_OFF if abi() >= 7 else 0
    call("landlock_restrict_self", ruleset, flags)


def receipt(version: int | None = None, *, tcp: bool = False) -> dict[str, Any]:
    """What a ruleset of `build` handles: {"abi", "fs", "net", "scoped"}, names in lower case."""
    has = rights(version)
    return {
        "abi": has.version,
        "fs": [str(right.name).lower() for right in FS if right & has.fs],
        "net": [] if tcp else [name.lower() for name, bit in NET.items() if bit & has.net],
        "scoped": [name.lower() for name, bit in SCOPED.items() if bit & has.scoped],
    }


def _as_oserror(error: SyscallError) -> OSError:
    # Its repr and str raise or repeat the ctypes call; errno is all that is worth keeping.
    number = error.errno or errno.EIO
    return OSError(number, os.strerror(number))
