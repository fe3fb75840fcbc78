"""A small real HTTP/1.1 server on a Unix socket, which answers as each test tells it to."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

RUN_ID = "run-0123456789"
PROGRAM = "from supervisor.cli.main import main; main()"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Service

    def _answer(self) -> None:
        self.close_connection = True
        path, _, query = self.path.partition("?")
        self.query = query
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        if not chunked:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.server.requests.append((self.command, self.path, json.loads(data) if data else None))
        found = self.server.routes.get((self.command, path))
        if found is None:
            self.json({"code": "not_found", "title": "none", "detail": f"no route {self.command} {path}"}, 404)
        elif callable(found):
            found(self)
        else:
            self.json(found)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        """Tests look at `requests` instead."""

    def json(self, value: Any, status: int = 200) -> None:
        kind = "application/json" if status < 400 else "application/problem+json"
        self.bytes(json.dumps(value).encode(), kind, status)

    def bytes(self, data: bytes, kind: str = "application/octet-stream", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, kind: str = "application/x-ndjson") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def frame(self, frame: dict[str, Any]) -> None:
        self.chunk(json.dumps(frame).encode() + b"\n")

    def body(self) -> Iterator[bytes]:
        """The chunks of a request body as they arrive (RFC 9112, 7.1)."""
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()


class Service(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: str) -> None:
        super().__init__(path, Handler)
        self.path = path
        self.routes: dict[tuple[str, str], Any] = {}
        self.requests: list[tuple[str, str, Any]] = []

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is a case of several tests."""

    def bodies(self, method: str, path: str) -> list[Any]:
        return [body for m, p, body in self.requests if (m, p) == (method, path)]

    def streams(self, *frames: dict[str, Any], **run: Any) -> None:
        """POST /v1/runs streams these frames between `started` and `finished` (with these members of the run)."""

        def answer(handler: Handler) -> None:
            handler.stream()
            handler.frame({"type": "started", "run": {"id": RUN_ID, "state": "running"}})
            for frame in frames:
                handler.frame(frame)
            handler.frame({"type": "finished", "run": ended(**run)})
            handler.chunk(b"")

        self.routes["POST", "/v1/runs"] = answer


def ended(**members: Any) -> dict[str, Any]:
    run = {"id": RUN_ID, "state": "finished", "cause": "exited", "exit_code": 0, "signal": None, "detail": ""}
    return {**run, "limits": {}, "usage": {}, **members}


@pytest.fixture
def service() -> Iterator[Service]:
    directory = tempfile.mkdtemp(prefix="stockade-cli-")
    server = Service(os.path.join(directory, "api.sock"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        shutil.rmtree(directory)


@pytest.fixture
def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "STOCKADE_SOCKET", "STOCKADE_DEBUG")}
    import supervisor

    return {**kept, "PYTHONPATH": os.path.dirname(os.path.dirname(supervisor.__file__)), "LC_ALL": "C.UTF-8"}


@pytest.fixture
def start(service: Service, environment: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `stockade ARGS` as a process of its own against the service; ended with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def starter(
        *args: str, closed: str | None = None, env: dict[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        # `closed` is a descriptor that the program starts without.
        shell = ["sh", "-c", f'exec "$@" {closed}>&-', "sh"] if closed else []
        defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [*shell, sys.executable, "-W", "error", "-c", PROGRAM, *args],
            env={**environment, "STOCKADE_SOCKET": service.path, **(env or {})},
            **{**defaults, **options},
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def stockade(start: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run `stockade ARGS` to its end: status and both streams."""

    def run(*args: str, input: bytes | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        if input is not None:
            options["stdin"] = subprocess.PIPE
        process = start(*args, **options)
        out, err = process.communicate(input, timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    return run
