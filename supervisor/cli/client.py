"""HTTP over the Unix socket of a running service, for the commands and for scripts.

    from supervisor.cli.client import Client

    run = Client().run(["git", "status"], workspace="/srv/agent/ws")
    print(run["exit_code"], run["stdout"])

Every problem document (RFC 9457) becomes the error of `supervisor.errors` with the same code; a service that
cannot be reached becomes Unavailable, a socket that may not be opened Denied, both with what to do about it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import http.client
import json
import os
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from supervisor import errors
from supervisor.layout import layout

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

CHUNK = 65536  # bytes; one pipe buffer
NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"
JSON = "application/json"
PROBLEM = "application/problem+json"
CODE = "X-Stockade-Code"


class _Connection(http.client.HTTPConnection):
    """An HTTP connection to a socket file instead of to a host."""

    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            _connect(sock, self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


def _connect(sock: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= 107:
        return sock.connect(path)
    # sun_path holds 108 bytes (unix(7)); a longer name is reached through its directory's descriptor.
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def unreachable(path: str, cause: OSError) -> errors.StockadeError:
    """The error for a socket that does not answer, by the kernel's reason (connect(2))."""
    if cause.errno in (errno.EACCES, errno.EPERM):
        return errors.Denied(
            f"you may not use the socket {path}: {cause.strerror}",
            hint="add your user to group stockade-clients (sudo usermod -aG stockade-clients USER) and log in again",
        )
    why = {
        errno.ENOENT: "the socket does not exist",
        errno.ECONNREFUSED: "nobody listens on it",
        errno.ENOTDIR: "a part of the path is not a directory",
    }.get(cause.errno or 0, cause.strerror or str(cause))
    return errors.Unavailable(
        f"the service cannot be reached at {path}: {why}",
        hint="start it with `systemctl start stockade`; another instance is named by --socket or STOCKADE_SOCKET",
    )


def from_problem(document: Any, status: int) -> errors.StockadeError:
    """The error that a problem document describes; also for an answer that is not one."""
    if not isinstance(document, dict) or "detail" not in document:
        return errors.Unavailable(
            f"the socket answered with HTTP status {status} and no problem document",
            hint="is this the socket of a Stockade service?",
        )
    known = ("hint", "field", "rule", "source", "layer", "allowed")
    fixed = {*known, "type", "title", "status", "code", "detail", "retry"}
    cls = errors.tree().get(str(document.get("code")), errors.Unavailable if status >= 500 else errors.StockadeError)
    extra = {str(k): v for k, v in document.items() if k not in fixed}
    return cls(str(document["detail"]), **{k: document.get(k) for k in known}, **extra)


def frame_bytes(frame: Mapping[str, Any]) -> bytes:
    """The bytes that a stdout or stderr frame carries."""
    if "data_base64" in frame:
        return base64.b64decode(frame["data_base64"])
    return str(frame.get("data", "")).encode("utf-8", "surrogateescape")


class Client:
    """Calls one service. Holds no connection between calls, so it may be shared between threads.

    `timeout` bounds each wait for bytes in seconds; None waits for ever, as a run without output needs.
    """

    def __init__(self, path: str | None = None, *, timeout: float | None = None) -> None:
        self.path = path or os.environ.get("STOCKADE_SOCKET") or layout().socket
        self.timeout = timeout

    def call(self, method: str, route: str, body: Any = None, *, code: str | None = None, **query: Any) -> Any:
        """The JSON answer of one request (None when it has no body). Raises errors.StockadeError.

        `code` is a one-time code, for what takes one. What waits for a person raises ApprovalRequired.
        """
        with self._answer(method, route, body, JSON, query, _coded(code)) as answer:
            return self._json(answer)

    def raw(self, method: str, route: str, **query: Any) -> bytes:
        """The bytes of one answer. Raises errors.StockadeError."""
        with self._answer(method, route, None, "*/*", query) as answer:
            return self._read(answer)

    def frames(
        self, method: str, route: str, body: Any = None, *, code: str | None = None, **query: Any
    ) -> Generator[dict[str, Any]]:
        """The NDJSON frames of an answer as they arrive; closing the iterator closes the connection."""
        with self._answer(method, route, body, NDJSON, query, _coded(code)) as answer:
            if answer.headers.get_content_type() != NDJSON:
                raise errors.Unavailable(f"{route} answered {answer.headers.get_content_type()}, not {NDJSON}")
            for line in self._lines(answer):
                if line:
                    yield _object(line)

    def events(
        self, route: str = "/v1/events", *, opened: Callable[[], None] | None = None, **query: Any
    ) -> Generator[tuple[str, Any]]:
        """(event, data) of a server-sent stream as they arrive. `opened` is called once nothing can be missed."""
        with self._answer("GET", route, None, EVENTS, query) as answer:
            if opened is not None:
                opened()
            name, data = "message", b""
            for line in self._lines(answer):
                key, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                if not line and data:
                    yield name, json.loads(data)
                if not line:
                    name, data = "message", b""
                elif key == b"event":
                    name = value.decode()
                elif key == b"data":
                    data += value

    def send(self, route: str, chunks: Iterable[bytes]) -> None:
        """POST a body of unknown length, chunk by chunk (RFC 9112, 7.1). Raises errors.StockadeError."""
        headers = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
        with self._answer("POST", route, chunks, JSON, {}, headers, chunked=True) as answer:
            self._read(answer)

    def run(
        self,
        argv: Sequence[str] | None = None,
        *,
        script: str | None = None,
        workspace: str | None = None,
        session: str | None = None,
        stdin: bytes | None = None,
        **fields: Any,
    ) -> dict[str, Any]:
        """One run to its end: the run object. `fields` are other members of the request (profile, env, limits …)."""
        body: dict[str, Any] = {"tool": "shell", "script": script, "workspace": workspace, "session": session, **fields}
        body["argv"] = None if argv is None else list(argv)
        if stdin is not None:
            body |= stdin_member(stdin)
        answer = self.call("POST", "/v1/runs", {k: v for k, v in body.items() if v is not None})
        if not isinstance(answer, dict):
            raise errors.Unavailable("POST /v1/runs answered something that is not a run")
        return answer

    @contextlib.contextmanager
    def _answer(
        self,
        method: str,
        route: str,
        body: Any,
        accept: str,
        query: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
    ) -> Iterator[http.client.HTTPResponse]:
        target = route + ("?" + urlencode({k: v for k, v in query.items() if v is not None}) if query else "")
        fields = {"Accept": accept, **(headers or {})}
        if body is not None and not chunked:
            body, fields["Content-Type"] = json.dumps(body).encode("ascii"), JSON
        connection = _Connection(self.path, self.timeout)
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError as e:
                raise unreachable(self.path, e) from e
            # A refusal may come, and the connection close, before the whole body is read: read it all the same.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, target, body, fields, encode_chunked=chunked)
            try:
                answer = connection.getresponse()
            except (OSError, http.client.HTTPException) as e:
                raise _broken(e) from e
            with contextlib.closing(answer):
                if answer.status >= 400 or answer.headers.get_content_type() == PROBLEM:
                    raise from_problem(self._json(answer, strict=False), answer.status)
                yield answer

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as e:
            raise _broken(e) from e

    def _json(self, answer: http.client.HTTPResponse, *, strict: bool = True) -> Any:
        data = self._read(answer)
        try:
            return json.loads(data) if data else None
        except ValueError as e:
            if not strict:
                return None
            raise errors.Unavailable(f"the service answered with something that is not JSON: {data[:80]!r}") from e

    def _lines(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """Lines as soon as their newline is there (read1 gives what has arrived; readline is slow on chunks)."""
        rest: list[bytes] = []
        while True:
            try:
                data = answer.read1(CHUNK)
            except (OSError, http.client.HTTPException) as e:
                raise _broken(e) from e
            if not data:
                if rest and any(rest):
                    raise _broken(EOFError("the stream ends inside a line"))
                return
            *whole, tail = data.split(b"\n")
            for line in whole:
                yield b"".join([*rest, line]).removesuffix(b"\r")
                rest = []
            rest.append(tail)


def _coded(code: str | None) -> dict[str, str]:
    return {} if code is None else {CODE: code}


def stdin_member(data: bytes) -> dict[str, str]:
    """The member of a request that carries standard input: text when it is UTF-8, else base64."""
    try:
        return {"stdin": data.decode("utf-8")}
    except UnicodeDecodeError:
        return {"stdin_base64": base64.b64encode(data).decode("ascii")}


def _object(line: bytes) -> dict[str, Any]:
    try:
        frame = json.loads(line)
    except ValueError as e:
        raise errors.Unavailable(f"the stream carries a line that is not JSON: {line[:80]!r}") from e
    if not isinstance(frame, dict):
        raise errors.Unavailable(f"the stream carries a line that is not an object: {line[:80]!r}")
    return frame


def _broken(cause: BaseException) -> errors.Unavailable:
    return errors.Unavailable(
        f"the service broke the connection off ({type(cause).__name__}: {cause})",
        hint="`stockade status` says whether it is back; `stockade ps --all` lists what became of the run",
    )
