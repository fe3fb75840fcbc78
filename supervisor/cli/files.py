"""Writing a file whole or not at all: beside it, synced, then in its place. What it was it stays: mode and owner."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

from supervisor import errors


def replace(path: str, text: str, *, mode: int = 0o644) -> None:
    """Put `text` in the place of `path`; `mode` is for a file that is not there yet.

    Raises errors.StockadeError; then the file is as it was. A symbolic link is refused rather than replaced.
    """
    directory = os.path.dirname(os.path.abspath(path))
    temporary = ""
    try:
        try:
            old: os.stat_result | None = os.lstat(path)
        except FileNotFoundError:
            old = None
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise errors.InvalidRequest(f"{path} is not a regular file", field="file")
        fd, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
        with os.fdopen(fd, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            if old is not None and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, old.st_uid, old.st_gid)
            os.fchmod(fd, stat.S_IMODE(old.st_mode) if old is not None else mode)
            os.fsync(fd)
        os.rename(temporary, path)
        temporary = ""
        _sync(directory)
    except OSError as e:
        raise errors.Unavailable(
            f"{path} cannot be written: {e.strerror or e}", hint="run it as the file's owner, often root"
        ) from e
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _sync(directory: str) -> None:
    """Make the new name durable, fsync(2)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
