"""Mounts by descriptor: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2) and the two old calls that remain.

Everything is prepared as a detached mount and attached by descriptor, so that no path of the host is ever
resolved after the session's root has been entered.
"""

from __future__ import annotations

import os
import struct

from supervisor.kernel.syscalls import call

# mount(2), umount2(2)
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

# open_tree(2), move_mount(2)
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40

# mount_setattr(2)
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_IDMAP = 0x100000

# fsopen(2), fsconfig(2), fsmount(2)
FSOPEN_CLOEXEC = 1
FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6

# openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08


def open_beneath_root(path: str) -> int:
    """An O_PATH descriptor of an absolute path, no component of which is a symbolic link (openat2(2)).

    Raises OSError: ELOOP when one is, ENOENT, EACCES.
    """
    return _open_path(AT_FDCWD, path, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)


def open_beneath(fd: int, path: str) -> int:
    """An O_PATH descriptor of what lies at `path` beneath a directory: no symbolic link on the way, and no mount, which
    a session would not see either. Raises OSError: ELOOP, EXDEV, ENOENT, EACCES.
    """
    return _open_path(fd, path, RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)


def _open_path(at: int, path: str, resolve: int) -> int:
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, resolve)
    return call("openat2", at, os.fsencode(path) + b"\0", how, len(how))


def clone_tree(fd: int, *, recursive: bool = False) -> int:
    """A detached copy of the mount at `fd`, seen from there down."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return call("open_tree", fd, b"\0", flags)


def clone_path(path: str) -> int:
    """The same of what stands at a path."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return clone_tree(fd)
    finally:
        os.close(fd)


def set_attributes(fd: int, set_: int, *, clear: int = 0, userns_fd: int = 0, recursive: bool = False) -> None:
    """Change the attributes of a mount, and make it private. With MOUNT_ATTR_IDMAP, `userns_fd` maps ids.

    EINVAL with MOUNT_ATTR_IDMAP means that the file system cannot be id-mapped.
    """
    attr = struct.pack("=QQQQ", set_, clear, MS_PRIVATE, userns_fd)
    call("mount_setattr", fd, b"\0", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0), attr, len(attr))


def new_filesystem(kind: str, options: dict[str, str | None], attributes: int) -> int:
    """A detached mount of a new file system: tmpfs, proc, devpts. A value of None sets a flag."""
    fs = call("fsopen", kind.encode() + b"\0", FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            if value is None:
                call("fsconfig", fs, FSCONFIG_SET_FLAG, key.encode() + b"\0", None, 0)
            else:
                call("fsconfig", fs, FSCONFIG_SET_STRING, key.encode() + b"\0", value.encode() + b"\0", 0)
        call("fsconfig", fs, FSCONFIG_CMD_CREATE, None, None, 0)
        return call("fsmount", fs, FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(fs)


def attach(fd: int, path: str) -> None:
    """Put a detached mount at `path`."""
    call("move_mount", fd, b"\0", AT_FDCWD, os.fsencode(path) + b"\0", MOVE_MOUNT_F_EMPTY_PATH)


def attach_at(fd: int, place: int) -> None:
    """Put a detached mount over what an O_PATH descriptor is of."""
    call("move_mount", fd, b"\0", place, b"\0", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)


def detach(path: str) -> None:
    """Take the mount at `path` away (umount2(2), MNT_DETACH)."""
    call("umount2", os.fsencode(path) + b"\0", MNT_DETACH)


def make_private() -> None:
    """Stop mount events between this namespace and the one it was copied from."""
    call("mount", None, b"/\0", None, MS_REC | MS_PRIVATE, None)


def enter_root(path: str) -> None:
    """Make the mount at `path` the root of this mount namespace and drop the old one (pivot_root(2), NOTES)."""
    os.chdir(path)
    call("pivot_root", b".\0", b".\0")
    call("umount2", b".\0", MNT_DETACH)
    os.chdir("/")
