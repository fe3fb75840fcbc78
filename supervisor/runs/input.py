"""A run's standard input: the writing end of a pipe, fed at the pace at which the run reads."""

from __future__ import annotations

import asyncio
import os

from supervisor.errors import Conflict


class Input:
    """Belongs to the loop it was made in; takes over the pipe's writing end."""

    def __init__(self, fd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._left = memoryview(b"")
        self._eof = False
        self._watched = False
        self._drained: asyncio.Future[None] | None = None

    @property
    def open(self) -> bool:
        return self._fd >= 0

    def send(self, data: bytes, *, eof: bool) -> None:
        """Write what the pipe takes now and the rest as it takes it; after `eof` the pipe is closed behind it."""
        self._left = memoryview(data)
        self._eof = eof
        self._write()

    async def feed(self, data: bytes, *, eof: bool) -> None:
        """As send(), but returns when the pipe has taken everything.

        Raises Conflict when the run does not read its input any more, or another feed is under way.
        """
        if self._drained is not None or self._left:
            raise Conflict("another request is feeding this run's stdin", hint="send one chunk after the other")
        if not self.open or self._eof:
            raise _closed()
        self.send(data, eof=eof)
        if self._left:
            self._drained = self._loop.create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def close(self) -> None:
        """Close the pipe; a feed that waits is told."""
        if self._fd < 0:
            return
        if self._watched:
            self._loop.remove_writer(self._fd)
            self._watched = False
        os.close(self._fd)
        self._fd = -1
        unwritten, self._left = len(self._left), memoryview(b"")
        if self._drained is not None and not self._drained.done():
            if unwritten:
                self._drained.set_exception(_closed())
            else:
                self._drained.set_result(None)

    def _write(self) -> None:
        while self._left:
            try:
                taken = os.write(self._fd, self._left)
            except BlockingIOError:
                if not self._watched:
                    self._watched = True
                    self._loop.add_writer(self._fd, self._write)
                return
            except BrokenPipeError:
                self.close()
                return
            self._left = self._left[taken:]
        if self._eof:
            self.close()
            return
        if self._watched:
            self._loop.remove_writer(self._fd)
            self._watched = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


def _closed() -> Conflict:
    return Conflict("the run does not read its stdin any more", hint="it has ended, or its stdin is closed")
