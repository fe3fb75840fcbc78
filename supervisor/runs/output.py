"""What a run writes: two streams kept apart, whole up to the limit, at constant memory.

A little output stays in memory; more goes to one file per stream in the spool. Over the limit nothing more is kept,
the run is ended once, and what still comes is read and thrown away, so that its writers do not hang before they die.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from typing import TYPE_CHECKING, NamedTuple

from supervisor.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

STREAMS = ("stdout", "stderr")
CHUNK = 64 * 1024  # bytes read in one turn of the loop, and of one frame
IN_MEMORY = 16 * 1024  # bytes of both streams together
HEAD_TAIL = 64 * 1024
_SETTLE = 0.002  # seconds before the loop is asked to watch the pipes: most runs are over by then


class Frame(NamedTuple):
    stream: str  # one of STREAMS
    offset: int  # of the first byte of `data` in its stream
    data: bytes


class _Stream:
    """One stream: `seen` bytes came, the first `kept` of them are in `memory` or in the file at `path`."""

    __slots__ = ("fd", "file", "kept", "memory", "path", "seen")

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd  # of the pipe, -1 at its end
        self.file = -1  # of the spool while it is written
        self.path = path
        self.memory: bytearray | None = bytearray()
        self.seen = 0
        self.kept = 0

    def keep(self, data: bytes) -> None:
        """Raises OSError when the spool cannot take it; `kept` then tells what it took."""
        if self.memory is not None:
            self.memory += data
            self.kept += len(data)
            return
        while data:
            written = os.pwrite(self.file, data, self.kept)
            self.kept += written
            data = data[written:]

    def spill(self) -> None:
        """Move from memory to the file. Raises OSError with everything still in memory."""
        if self.memory is None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.file = os.open(self.path, flags, 0o600)
        memory, self.memory, self.kept = self.memory, None, 0
        try:
            self.keep(bytes(memory))
        except OSError:
            os.close(self.file)
            os.unlink(self.path)
            self.file, self.memory, self.kept = -1, memory, len(memory)
            raise

    def read(self, offset: int, length: int) -> bytes:
        length = min(length, self.kept - offset)
        if length <= 0:
            return b""
        if self.memory is not None:
            return bytes(self.memory[offset : offset + length])
        if self.file >= 0:
            return os.pread(self.file, length, offset)
        fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def release(self) -> None:
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


class Output:
    """Both streams of one run. Belongs to the loop it was made in; takes over the pipes' reading ends."""

    def __init__(
        self, stdout: int, stderr: int, *, limit: int, spool: str, name: str, on_flood: Callable[[str], None]
    ) -> None:
        """`limit` is in bytes, of both together. `on_flood(reason)` is called at most once."""
        self._loop = asyncio.get_running_loop()
        self._streams = {
            kind: _Stream(fd, os.path.join(spool, f"{name}.{kind}"))
            for kind, fd in zip(STREAMS, (stdout, stderr), strict=True)
        }
        self._room = limit
        self._on_flood = on_flood
        self._watched = False
        self._settle: asyncio.TimerHandle | None = self._loop.call_later(_SETTLE, self._watch)
        self._followers: list[asyncio.Future[None]] = []
        self.last = self._loop.time()  # when something came last, on the loop's clock
        self.flooded = False
        self.ended = False
        self.forgotten = False

    # --- what comes in --------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        self._settle = None
        self._watched = True
        for stream in self._streams.values():
            if stream.fd >= 0:
                self._loop.add_reader(stream.fd, self._read, stream)

    def _read(self, stream: _Stream, most: int = CHUNK) -> int:
        """Take what is there, at most `most` bytes. Returns how many; 0 at the end or when nothing is there."""
        try:
            data = os.read(stream.fd, most)
        except BlockingIOError:
            return 0
        if not data:
            self._close(stream)
            return 0
        self.last = self._loop.time()
        stream.seen += len(data)
        if not self.flooded:
            self._keep(stream, data)
        return len(data)

    def _keep(self, stream: _Stream, data: bytes) -> None:
        over = len(data) > self._room
        if over:
            data = data[: self._room]
        try:
            if stream.memory is not None and self.kept + len(data) > IN_MEMORY:
                for each in self._streams.values():
                    each.spill()
            self._room -= len(data)
            stream.keep(data)
        except OSError as e:
            self._flood(f"the spool cannot take the output: {os.strerror(e.errno or 0)}")
        else:
            if over:
                self._flood("more output than the limit allows")
        self._wake()

    def _flood(self, reason: str) -> None:
        self.flooded = True
        self._on_flood(reason)

    def _close(self, stream: _Stream) -> None:
        if self._watched:
            self._loop.remove_reader(stream.fd)
        os.close(stream.fd)
        stream.fd = -1

    def finish(self) -> None:
        """The run's cgroup is empty: take what its processes left in the pipes, then close them.

        Everything that the run wrote is in the pipes by now. An end of file may still be missing, when another run
        of the session was handed the writing end; that run's bytes are not this run's.
        """
        if self.ended:
            return
        if self._settle is not None:
            self._settle.cancel()
            self._settle = None
        for stream in self._streams.values():
            if stream.fd >= 0:
                left = _waiting(stream.fd)
                while left > 0 and stream.fd >= 0:
                    taken = self._read(stream, min(left, CHUNK))
                    left = left - taken if taken else 0
                if stream.fd >= 0:
                    self._close(stream)
        for stream in self._streams.values():
            stream.release()
        self.ended = True
        self._wake()

    def _wake(self) -> None:
        if self._followers:
            followers, self._followers = self._followers, []
            for follower in followers:
                if not follower.done():
                    follower.set_result(None)

    # --- what is asked --------------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """Bytes that are kept, of both streams."""
        stdout, stderr = self._streams.values()
        return stdout.kept + stderr.kept

    def size(self, stream: str) -> tuple[int, int]:
        """(bytes that came, bytes that are kept) of a stream."""
        found = self._streams[stream]
        return found.seen, found.kept

    def read(self, stream: str, offset: int, length: int) -> bytes:
        """Kept bytes of a stream; fewer than `length` at its end. Raises NotFound when forgotten."""
        if not self.forgotten:
            with contextlib.suppress(FileNotFoundError):
                return self._streams[stream].read(max(0, offset), length)
        raise NotFound("the output of this run is not kept any more", hint="only the newest outputs are kept")

    def head_tail(self, stream: str, cap: int = HEAD_TAIL) -> tuple[bytes, bool]:
        """The stream for an answer: whole, or its head and tail with the number of missing bytes between.

        The cuts do not split a UTF-8 sequence. Raises NotFound when forgotten.
        """
        seen, kept = self.size(stream)
        if kept <= cap:
            whole = self.read(stream, 0, kept)
            return (whole, False) if seen == kept else (whole + _marker(seen - kept, "over the limit"), True)
        half = cap // 2
        head = _whole_end(self.read(stream, 0, half))
        tail = _whole_start(self.read(stream, kept - half, half))
        parts = [head, _marker(kept - len(head) - len(tail), "left out here"), tail]
        if seen > kept:
            parts.append(_marker(seen - kept, "over the limit"))
        return b"".join(parts), True

    async def frames(self, start: Mapping[str, int] | None = None) -> AsyncIterator[Frame]:
        """Frames from the given offset of each stream (default 0), then live until the end of both."""
        at = {kind: max(0, (start or {}).get(kind, 0)) for kind in STREAMS}
        while True:
            quiet = True
            for kind in STREAMS:
                data = self.read(kind, at[kind], CHUNK)
                if data:
                    quiet = False
                    yield Frame(kind, at[kind], data)
                    at[kind] += len(data)
            if not quiet:
                continue
            if self.ended:
                return
            follower = self._loop.create_future()
            self._followers.append(follower)
            try:
                await follower
            finally:
                with contextlib.suppress(ValueError):
                    self._followers.remove(follower)

    def forget(self) -> None:
        """Give everything back, also the files. What is read afterwards raises NotFound."""
        self.finish()
        self.forgotten = True
        for stream in self._streams.values():
            if stream.memory is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(stream.path)
            stream.memory = None


def sweep(spool: str) -> int:
    """Remove what an earlier process left in the spool. Returns how many files."""
    removed = 0
    with os.scandir(spool) as entries:
        for entry in entries:
            if entry.name.startswith("run-") and entry.name.rpartition(".")[2] in STREAMS:
                os.unlink(entry.path)
                removed += 1
    return removed


def _waiting(fd: int) -> int:
    """Bytes in a pipe (ioctl_fionread, pipe(7))."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0\0\0\0"))[0])


def _marker(count: int, why: str) -> bytes:
    return f"\n[stockade: {count} bytes {why}]\n".encode()


def _whole_end(data: bytes) -> bytes:
    """Without a UTF-8 sequence that is cut off at the end (RFC 3629, section 3)."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return data[:-back] if needed > back else data
    return data


def _whole_start(data: bytes) -> bytes:
    """Without the rest of a UTF-8 sequence at the start."""
    for i in range(min(3, len(data))):
        if data[i] & 0xC0 != 0x80:
            return data[i:]
    return data[3:] if len(data) > 3 and data[3] & 0xC0 != 0x80 else data
