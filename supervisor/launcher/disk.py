"""The disk limit of a run, on file systems that offer no quota for it.

Two facts together: the file system lost more than the limit since the session began to watch, and the processes of
this run dirtied more than the limit (proc_pid_io(5), write_bytes less cancelled_write_bytes, which truncation and
deletion give back). Neither alone would do: others use the same disk, and rewriting one file uses no more of it.
A single file is bounded exactly by RLIMIT_FSIZE; a run that makes files faster than the interval of looking may
pass the limit by what it writes within one interval. Inodes are bounded by the free ones of the file system alone.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BYTES_PER_INODE = 4096
_FEWEST_INODES = 1024


def dirtied(pids: list[int]) -> int:
    """Bytes that these processes, with their reaped children, wrote and did not take back."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/io", "rb", buffering=0) as f:
                fields = dict(line.split(b": ") for line in f.read(1024).splitlines())
        except OSError:
            continue  # it ended meanwhile; its parent has its numbers
        total += int(fields[b"write_bytes"]) - int(fields[b"cancelled_write_bytes"])
    return total


class DiskWatch:
    """Watches the file system of one workspace by a descriptor that stays its owner's to close."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def mark(self) -> tuple[int, int]:
        """(free bytes, free inodes) now."""
        found = os.fstatvfs(self._fd)
        return found.f_bfree * found.f_frsize, found.f_ffree

    def exceeded(self, limit: int, start: tuple[int, int], pids: Callable[[], list[int]]) -> bool:
        """Whether a run with these processes used more than `limit` bytes, or a file for each 4 KiB of it."""
        free, inodes = self.mark()
        if start[1] - inodes > max(_FEWEST_INODES, limit // _BYTES_PER_INODE):
            return True
        return start[0] - free > limit and dirtied(pids()) > limit
