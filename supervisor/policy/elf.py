"""What a file is to execve(2): a program with its loader, a script with its interpreter, or neither."""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

_HEAD = 4096  # bytes; the kernel itself looks at 256 for a script's first line
_LINE = 256
_PT_INTERP = 3
_MOST_HEADERS = 128


class Kind(NamedTuple):
    """`elf`: a program or library. `loader`: its PT_INTERP, "" for a static one. `line`: the words after `#!`."""

    elf: bool
    loader: str
    line: tuple[str, ...]


NOTHING = Kind(elf=False, loader="", line=())


def kind(path: str) -> Kind:
    """Raises OSError when the file cannot be read. What is cut off or not understood has no loader and no line."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, _HEAD, 0)
        if head.startswith(b"#!"):
            line = re.split(rb"[\n\0]", head[2:_LINE], maxsplit=1)[0].decode("utf-8", "surrogateescape")
            return Kind(elf=False, loader="", line=tuple(line.split(maxsplit=1)))
        if not head.startswith(b"\x7fELF"):
            return NOTHING
        try:
            return Kind(elf=True, loader=_loader(fd, head), line=())
        except (struct.error, IndexError, OverflowError, OSError):
            return Kind(elf=True, loader="", line=())
    finally:
        os.close(fd)


def is_elf(path: str) -> bool:
    """Whether a file has the magic of ELF; False when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.pread(fd, 4, 0) == b"\x7fELF"
    except OSError:
        return False
    finally:
        os.close(fd)


def _loader(fd: int, head: bytes) -> str:
    """The string of PT_INTERP (elf(5)), "" without one. Raises one of several for a head that is cut off."""
    wide, order = head[4] == 2, "<" if head[5] == 1 else ">"
    if wide:
        offset, (size, count) = struct.unpack_from(f"{order}Q", head, 32)[0], struct.unpack_from(f"{order}HH", head, 54)
    else:
        offset, (size, count) = struct.unpack_from(f"{order}I", head, 28)[0], struct.unpack_from(f"{order}HH", head, 42)
    table = os.pread(fd, size * min(count, _MOST_HEADERS), offset)
    for at in range(0, len(table) - size + 1, max(1, size)):
        if struct.unpack_from(f"{order}I", table, at)[0] != _PT_INTERP:
            continue
        place, _, _, length = struct.unpack_from(
            f"{order}QQQQ" if wide else f"{order}IIII", table, at + (8 if wide else 4)
        )
        return os.pread(fd, min(length, _HEAD), place).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return ""
