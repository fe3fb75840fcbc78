"""Files of a workspace that are looked at, and held: what a human approved is what a run sees.

Whoever owns the workspace decides what is read: the files are opened beneath its descriptor with the owner's rights
over files, not with root's. For a run each is copied once; the copy is what is hashed, and what the run finds in the
file's place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.errors import InvalidRequest, StockadeError
from supervisor.kernel import mounts as m
from supervisor.kernel import process as p

if TYPE_CHECKING:
    from supervisor.launcher.workspace import Workspace

MOST_BYTES = 1 << 20  # of one file
HEAD_BYTES = 4096
_HEAD_JSON = 16 << 10  # bytes of a head in a message, so that a message holds as many as may be asked about


class Content(NamedTuple):
    """What a file held when it was read, and its mode and time."""

    data: bytes
    mode: int
    mtime_ns: int

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def read(place: Workspace, path: str) -> Content:
    """A regular file of a workspace, whole. Raises InvalidRequest (field "files") when it is none, is not there, is
    larger than MOST_BYTES, or the owner of the workspace may not read it."""
    try:
        with p.reading_as(place.uid, place.gid):
            found = m.open_beneath(place.fd, path)
            try:
                info = os.fstat(found)
                if not stat.S_ISREG(info.st_mode):
                    raise _refused(path, "not a regular file")
                if info.st_size > MOST_BYTES:
                    raise _refused(path, f"larger than {MOST_BYTES} bytes")
                # By its descriptor, so it is the file that was looked at; a lease of its owner is not waited for.
                fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            finally:
                os.close(found)
    except OSError as e:
        why = "a component is a symbolic link" if e.errno == errno.ELOOP else os.strerror(e.errno or 0)
        raise _refused(path, why) from e
    except UnicodeEncodeError as e:
        raise _refused(path, "no name of a file") from e
    with open(fd, "rb", buffering=0) as file:
        try:
            data = _whole(file.fileno())
        except OSError as e:
            raise _refused(path, os.strerror(e.errno or 0)) from e
    if len(data) > MOST_BYTES:
        raise _refused(path, f"larger than {MOST_BYTES} bytes")
    return Content(data, info.st_mode, info.st_mtime_ns)


def _whole(fd: int) -> bytes:
    """What a file holds, or one byte more than is permitted."""
    data = b""
    while len(data) <= MOST_BYTES and (part := os.read(fd, MOST_BYTES + 1 - len(data))):
        data += part
    return data


def _refused(path: str, why: str) -> StockadeError:
    return InvalidRequest(
        f"{path}: {why}",
        field="files",
        allowed=f"regular files of the workspace, at most {MOST_BYTES} bytes, with no symbolic link on the way",
        hint="name a file that lies in the workspace itself",
    )


def inspect(place: Workspace, path: str) -> dict[str, Any]:
    """What Inspected says of a file. Raises as `read`."""
    content = read(place, path)
    head = content.data[:HEAD_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")
    while len(json.dumps(head)) > _HEAD_JSON:
        head = head[: len(head) * 3 // 4]
    return {"path": path, "sha256": content.sha256, "size": len(content.data), "head": head}
