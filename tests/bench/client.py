"""The leanest client: what is measured is the service, not a library for HTTP."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def message(method: str, path: str, body: Any = None, *, close: bool = False) -> bytes:
    """The bytes of a request, made once and sent often."""
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n" + ("Connection: close\r\n" if close else "")
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return head.encode() + b"\r\n" + data


class Client:
    """One connection at a time, opened on first use. Raises RuntimeError for anything but success."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._sock: socket.socket | None = None

    def call(self, request: bytes) -> bytes:
        """The body of the answer."""
        if self._sock is None:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._sock.settimeout(60)
            self._sock.connect(self._path)
        self._sock.sendall(request)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        found = _LENGTH.search(data, 0, end + 2)
        size = int(found[1]) if found else 0
        while len(data) < end + 4 + size:
            data += self._more()
        if data[9:10] != b"2":
            raise RuntimeError(f"the service refused: {data[:12].decode()} {data[end + 4 :].decode()[:400]}")
        return data[end + 4 :]

    def once(self, request: bytes) -> bytes:
        """The same on a connection of its own."""
        self.close()
        try:
            return self.call(request)
        finally:
            self.close()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """For what is not measured; on a new connection, because the service closes those that are idle for long."""
        data = self.once(message(method, path, body))
        return json.loads(data) if data else None

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _more(self) -> bytes:
        assert self._sock is not None
        got = self._sock.recv(65536)
        if not got:
            raise RuntimeError("the service closed the connection")
        return got


def succeeded(body: bytes) -> None:
    """Raises RuntimeError when a run was not what it should be: a fast failure is no result."""
    run = json.loads(body)
    if run["cause"] != "exited" or run["exit_code"] != 0:
        raise RuntimeError(f"a run did not succeed: {body.decode()[:400]}")
