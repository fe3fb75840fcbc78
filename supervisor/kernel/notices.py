"""Being asked before a file is opened, and being told that a name was changed: fanotify(7), inotify(7)."""

from __future__ import annotations

import errno
import os
import struct
from typing import NamedTuple

from supervisor.kernel.mounts import AT_FDCWD
from supervisor.kernel.syscalls import call, path

FAN_CLOEXEC, FAN_NONBLOCK, FAN_CLASS_CONTENT = 0x1, 0x2, 0x4
FAN_MARK_ADD, FAN_MARK_MOUNT = 0x1, 0x10
FAN_OPEN_PERM = 0x10000
FAN_ALLOW, FAN_DENY = 0x1, 0x2

IN_MOVED_FROM, IN_MOVED_TO, IN_CREATE, IN_DELETE = 0x40, 0x80, 0x100, 0x200
IN_UNMOUNT, IN_Q_OVERFLOW, IN_ONLYDIR = 0x2000, 0x4000, 0x01000000

_ASKED = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata: length, version, -, -, mask, fd, pid
_ANSWER = struct.Struct("=iI")  # struct fanotify_response
_CHANGED = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, bytes of the name that follows
_BYTES = 1 << 16


class Change(NamedTuple):
    watch: int  # -1 when some were lost
    name: bytes
    mask: int


def ask_before_opening(mounts: list[str]) -> int:
    """A descriptor that is asked whenever a file (no directory) is opened, also for execution, through one of these
    mounts of the caller's namespace. Needs CAP_SYS_ADMIN. While it is open each such open(2) waits for the answer; when
    it is closed they are permitted. Raises OSError.
    """
    # What an event brings is opened here: without O_NONBLOCK a FIFO would be waited for.
    fd = call(
        "fanotify_init", FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    )
    try:
        for name in mounts:
            call("fanotify_mark", fd, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN_PERM, AT_FDCWD, path(name) + b"\0")
    except OSError as e:
        os.close(fd)
        if e.errno == errno.EINVAL:
            raise OSError(e.errno, "this kernel has no CONFIG_FANOTIFY_ACCESS_PERMISSIONS") from e
        raise
    return fd


def asked(fd: int) -> list[int]:
    """Descriptors of what is about to be opened, the caller's to answer and to close; none when nothing waits.

    What cannot be opened here (a device on such a mount) the kernel has refused by then.
    """
    try:
        data = os.read(fd, _BYTES)
    except OSError:  # EAGAIN, or the first one could not be opened
        return []
    found, at = [], 0
    while at + _ASKED.size <= len(data):
        length, _, _, _, _, opened, _ = _ASKED.unpack_from(data, at)
        if opened >= 0:
            found.append(opened)
        at += max(length, _ASKED.size)
    return found


def answer(fd: int, opened: int, *, allow: bool) -> None:
    """Let the open go on, or fail with EPERM. Who asked may be gone by now."""
    try:
        os.write(fd, _ANSWER.pack(opened, FAN_ALLOW if allow else FAN_DENY))
    except OSError as e:
        if e.errno != errno.ENOENT:
            raise


def tell_of_changes() -> int:
    """A descriptor for `watch_names` and `changes`."""
    return call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)


def watch_names(fd: int, directory: int) -> int:
    """Be told when a name in a directory (an O_PATH descriptor) comes, goes, or becomes another file."""
    name = b"/proc/self/fd/%d\0" % directory
    return call("inotify_add_watch", fd, name, IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_ONLYDIR)


def changes(fd: int) -> list[Change]:
    """What was changed since the last look."""
    found: list[Change] = []
    while True:
        try:
            data = os.read(fd, _BYTES)
        except BlockingIOError:
            return found
        at = 0
        while at + _CHANGED.size <= len(data):
            watch, mask, _, length = _CHANGED.unpack_from(data, at)
            name = data[at + _CHANGED.size : at + _CHANGED.size + length].rstrip(b"\0")
            found.append(Change(watch, name, mask))
            at += _CHANGED.size + length
