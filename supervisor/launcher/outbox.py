"""Non-blocking sending to main and auditor: what does not fit now waits, bounded, until the socket takes it."""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from supervisor.wire import framing

if TYPE_CHECKING:
    import socket

    from supervisor.wire.messages import Message

_MOST = 4096  # messages; a peer that lets so many lie is broken


class Full(Exception):
    """The peer does not read any more."""


class Outbox:
    def __init__(self, sock: socket.socket, epoll: select.epoll) -> None:
        self._sock, self._epoll = sock, epoll
        self._waiting: deque[tuple[Message, tuple[int, ...]]] = deque()

    def send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        """Send now or when possible; descriptors are closed once sent. Raises Full; a gone peer is left to recv."""
        if not self._waiting and self._try(message, fds):
            return
        if len(self._waiting) >= _MOST:
            raise Full
        self._waiting.append((message, fds))
        self._epoll.modify(self._sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def flush(self) -> None:
        while self._waiting and self._try(*self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting:
            self._epoll.modify(self._sock.fileno(), select.EPOLLIN)

    def _try(self, message: Message, fds: tuple[int, ...]) -> bool:
        try:
            framing.send(self._sock, message, fds)
        except BlockingIOError:
            return False
        except OSError:
            pass  # its end is seen on the receiving side, where it is handled once
        for fd in fds:
            os.close(fd)
        return True
