"""The launcher's end of the forge: orders go out, processes come back when they are made."""

from __future__ import annotations

import base64
import contextlib
import itertools
import socket
from typing import TYPE_CHECKING, Any

from supervisor.launcher.session import Process
from supervisor.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.kernel.cgroup import Group


class Smith:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.on_made: Callable[[Process], None] = lambda _: None
        self._numbers = itertools.count(1)
        self._ordered: dict[int, Process] = {}

    def order(self, order: dict[str, Any], group: Group, fds: tuple[int, ...] = ()) -> Process:
        """Have a process made; it can be spoken to at once, its pid comes with on_made. Raises OSError."""
        number = next(self._numbers)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._put({**order, "n": number}, (theirs.fileno(), *fds))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        process = self._ordered[number] = Process(ours, group, order.get("group", "leader"))
        return process

    def answered(self) -> bool:
        """Take one answer of the forge; False when it is gone."""
        try:
            data, fds, _ = framing.take(self.sock)
        except ConnectionResetError:  # it ended with orders unread
            return False
        if not data:
            return False
        body = framing.parse(data)
        process = self._ordered.pop(body["n"])
        process.made = True
        if fds:
            process.pid, process.pidfd, process.limits = body["pid"], fds[0], body["limits"]
            if process.doomed:
                process.kill()
        else:
            process.error = body["error"]
        self.on_made(process)
        return True

    def remove(self, groups: list[list[str]]) -> None:
        """Have groups removed, named from the session down, as soon as nothing dies in them any more."""
        self._put({"do": "remove", "groups": groups})

    def filters(self, programs: tuple[bytes, ...]) -> None:
        """What every process made from now on loads."""
        self._put({"do": "filters", "filters": [base64.b64encode(p).decode() for p in programs]})

    def _put(self, body: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its end is seen by answered(), once
            framing.put(self.sock, body, fds)
