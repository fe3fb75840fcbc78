"""Files of a workspace that are looked at, and held: what a human approved is what a run sees.

Whoever owns the workspace decides what is read: the files are opened beneath its descriptor with the owner's rights
over files, not with root's. For a run each is copied once; the copy is what is hashed, and what the run finds in the
file's place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.errors import Denied, InvalidRequest, LimitReached, StockadeError
from supervisor.kernel import mounts as m
from supervisor.kernel import process as p
from supervisor.launcher.guard import Guard
from supervisor.launcher.operations import noexec

if TYPE_CHECKING:
    from supervisor.launcher.workspace import Workspace

MOST_BYTES = 1 << 20  # of one file
MOST_HELD = 64 << 20  # bytes of all runs together; the service's directory is often in memory
HEAD_BYTES = 4096
_HEAD_JSON = 16 << 10  # bytes of a head in a message, so that a message holds as many as may be asked about
_BESIDE = "/run"  # of a session, where its copies are for a moment


class Content(NamedTuple):
    """What a file held when it was read, its mode and time, and which file it is."""

    data: bytes
    mode: int
    mtime_ns: int
    identity: tuple[int, int]  # device and inode

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
    return Content(data, info.st_mode, info.st_mtime_ns, (info.st_dev, info.st_ino))


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


@dataclass(slots=True)
class Held:
    """The copies of one run: where they lie, and a detached mount of their directory, in which they are named 0, 1 …"""

    directory: str
    places: list[str]  # where a session sees the files
    size: int
    guard: Guard
    tree: int = -1
    asks: int = -1  # is asked before the run opens a file (kernel.notices), from when the child sent it

    def close_tree(self) -> None:
        """Let go of the mount; the child has it now."""
        if self.tree >= 0:
            os.close(self.tree)
            self.tree = -1


@dataclass(slots=True)
class Copies:
    """Every copy that is held, below one directory of the service, so that a crash leaves nothing unknown."""

    directory: str
    size: int = 0

    def begin(self) -> None:
        """Begin with nothing, whatever an earlier launcher left."""
        self.end()
        os.mkdir(self.directory, 0o700)

    def end(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def hold(self, place: Workspace, run: str, wanted: dict[str, str], *, executable: bool) -> Held:
        """Copy files of a workspace for a run. Raises Denied when one is not what was approved, LimitReached when too
        much is held, InvalidRequest as `read`, OSError; then nothing is kept."""
        try:
            guard = Guard(place, list(wanted))
        except (OSError, UnicodeEncodeError) as e:
            raise _refused(", ".join(wanted)[:200], getattr(e, "strerror", None) or "no name of a file") from e
        try:
            contents = self._read(place, wanted, guard)
            held = Held(
                os.path.join(self.directory, run),
                [f"{place.path}/{path}" for path in wanted],
                sum(len(content.data) for content in contents),
                guard,
            )
            if self.size + held.size > MOST_HELD:
                raise LimitReached(f"more than {MOST_HELD} bytes of files are held", hint="wait for other runs to end")
            os.mkdir(held.directory, 0o700)
        except BaseException:
            guard.close()
            raise
        self.size += held.size
        try:
            for number, content in enumerate(contents):
                _write(os.path.join(held.directory, str(number)), content)
            held.tree = _mount(held.directory, executable=executable)
        except BaseException:
            self.drop(held)
            raise
        return held

    @staticmethod
    def _read(place: Workspace, wanted: dict[str, str], guard: Guard) -> list[Content]:
        found = []
        for path, sha256 in wanted.items():
            content = read(place, path)
            if content.sha256 != sha256:
                raise Denied(f"{path} is not what was approved: it was changed since", field="files", hint="ask again")
            guard.holds(path, content.identity)
            found.append(content)
        return found

    def drop(self, held: Held) -> None:
        """Remove the copies of a run that has ended, or did not begin."""
        held.close_tree()
        held.guard.close()
        if held.asks >= 0:
            os.close(held.asks)
            held.asks = -1
        self.size -= held.size
        shutil.rmtree(held.directory)


def _write(path: str, content: Content) -> None:
    """A copy that everybody may read, and execute where the file was executable, and nobody may write."""
    mode = 0o555 if content.mode & 0o111 else 0o444
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with open(fd, "wb") as f:
        f.write(content.data)
        os.fchmod(f.fileno(), mode)
    os.utime(path, ns=(content.mtime_ns, content.mtime_ns))


def _mount(directory: str, *, executable: bool) -> int:
    tree = m.clone_path(directory)
    try:
        # The place of the copies may be noexec for the host's own reasons; what counts is how the workspace is mounted.
        set_ = m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | noexec(executable)
        m.set_attributes(tree, set_, clear=m.MOUNT_ATTR_NOEXEC & ~set_)
    except BaseException:
        os.close(tree)
        raise
    return tree


def put_in_place(tree: int, places: list[str]) -> None:
    """In a mount namespace of the caller's own: see the copies of `tree` over the files at `places`.

    Raises OSError: ELOOP where a symbolic link is on the way now, ENOENT where nothing is. /run is empty in a session.
    """
    m.attach(tree, _BESIDE)
    os.close(tree)
    try:
        for number, place in enumerate(places):
            fd = os.open(f"{_BESIDE}/{number}", os.O_PATH | os.O_CLOEXEC)
            over = m.open_beneath_root(place)
            copy = m.clone_tree(fd)
            m.attach_at(copy, over)
            for done in (fd, over, copy):
                os.close(done)
    finally:
        m.detach(_BESIDE)
