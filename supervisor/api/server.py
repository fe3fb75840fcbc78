"""The HTTP/1.1 server on the Unix socket: bounds first, then identity, then the route."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from supervisor.api import connection, idempotency, parse, problems, routes, schema
from supervisor.api.call import NDJSON, Answer, Call
from supervisor.errors import (
    CallerUnknown,
    HeadersTooLarge,
    Internal,
    InvalidRequest,
    Malformed,
    RequestTimeout,
    SelfViewOnly,
    StockadeError,
    TooLarge,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Sequence

    from supervisor.runs.service import Supervisor

MAX_BODY = 1 << 20  # bytes
MAX_HEAD = 16 << 10  # bytes of all header fields together
MAX_FIELDS = 64
BODY_SECONDS = 30.0
LINGER_SECONDS = 2.0  # for the rest of a body that nobody wants, after the answer
STOP_SECONDS = 5.0  # for requests in flight when the server stops

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
_CODE = re.compile(r"[0-9]{6,8}", re.ASCII)
log = logging.getLogger("stockade.api")


class Server(web.Server):
    """aiohttp's low-level server with our own connections."""

    def __init__(self, api: Api, bases: Sequence[str], bounds: connection.Bounds) -> None:
        super().__init__(api, handler_cancellation=True)
        self._ours: dict[str, Any] = {"bases": tuple(bases), "bounds": bounds}

    def __call__(self) -> web.RequestHandler:
        return connection.Connection(
            self,
            loop=self._loop,
            tcp_keepalive=False,
            keepalive_timeout=connection.IDLE_SECONDS,
            access_log=None,
            logger=log,
            max_headers=MAX_FIELDS,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            **self._ours,
        )


class Api:
    """From a parsed request to an answer. The order is the point: who, whether at all, what, and only then the body."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._keys = idempotency.Keys()
        self._listeners: set[asyncio.Task[Any]] = set()

    def cancel_listeners(self) -> None:
        """End every GET in flight: they wait for something or follow it, and would never end by themselves."""
        for task in self._listeners:
            task.cancel()

    async def __call__(self, http: web.BaseRequest) -> web.StreamResponse:
        request_id = http.headers.get("X-Request-Id", "")
        if _REQUEST_ID.fullmatch(request_id) is None:
            request_id = problems.new_request_id()
        try:
            given = (
                await self._listen(http, request_id) if http.method == "GET" else await self._answer(http, request_id)
            )
        except StockadeError as e:
            response: web.StreamResponse = problems.response(e, request_id)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            if http.writer.output_size > 0:
                raise
            log.exception("request %s: %s %s failed", request_id, http.method, http.rel_url.raw_path)
            response = problems.response(Internal("an error of Stockade's own; the log says more"), request_id)
        else:
            if not isinstance(given, Answer):
                return given
            response = web.Response(body=given.body, status=given.status, content_type=given.content_type)
            response.headers["X-Request-Id"] = request_id
            response.headers.update(given.headers)
        if not http.content.is_eof():
            await _end_early(http, response)
        return response

    async def _listen(self, http: web.BaseRequest, request_id: str) -> Answer | web.StreamResponse:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._listeners.add(task)
        try:
            return await self._answer(http, request_id)
        finally:
            self._listeners.discard(task)

    async def _answer(self, http: web.BaseRequest, request_id: str) -> Answer | web.StreamResponse:
        client = cast("connection.Connection", http.protocol)
        if client.peer is None:
            raise client.refusal or CallerUnknown("the kernel does not say who is calling")
        path = http.rel_url.raw_path
        if client.peer.inside and (http.method, path) != ("GET", "/v1/self"):
            raise SelfViewOnly(
                "this process runs inside Stockade and may not ask for anything but its own view",
                allowed="GET /v1/self",
            )
        if sum(len(name) + len(value) + 4 for name, value in http.raw_headers) > MAX_HEAD:
            raise HeadersTooLarge("the header fields are too large together", allowed=f"{MAX_HEAD} bytes")
        route, name = routes.match(http.method, path)
        query = parse.typed(route.query, parse.query_values(http.query.items()))
        data = b"" if route.body is None or route.body_stream else await read_body(http)
        if route.body_stream:
            await _continue(http)
        body = None
        if route.body is not None:
            body = _typed(route.body, http, data, optional=route.body_optional)
        call = Call(self._supervisor, http, client.peer, request_id, name, body, query, code=_code(http))
        key = http.headers.get("Idempotency-Key")
        if key is None or not route.acts:
            return await route.handler(call)
        what = idempotency.digest(http.method, http.path_qs, NDJSON if call.streams else "", data)
        once = functools.partial(self._keys.once, call.peer.uid, key, what)
        if call.streams and NDJSON in route.also:
            call.once = once  # a stream cannot be kept: only its start is done once, see handlers.begin()
            return await route.handler(call)
        return await once(lambda: cast("Coroutine[Any, Any, Answer]", route.handler(call)))


def _code(http: web.BaseRequest) -> str | None:
    """The one-time code (RFC 6238) that came with a request. Raises InvalidRequest, without repeating it."""
    given = http.headers.get("X-Stockade-Code")
    if given is not None and _CODE.fullmatch(given) is None:
        raise InvalidRequest("X-Stockade-Code is no one-time code", field="X-Stockade-Code", allowed="6 to 8 digits")
    return given


def _typed(model: type[schema.Request], http: web.BaseRequest, data: bytes, *, optional: bool) -> schema.Request:
    if not data and not optional:
        raise Malformed("the body is empty", hint="send a JSON object")
    value = {}
    if data:
        value = parse.json_body(data, http.headers.get("Content-Type"), http.headers.get("Content-Encoding"))
    return parse.typed(model, value)


async def read_body(http: web.BaseRequest) -> bytes:
    """The whole body. Raises TooLarge before anything of a declared length over MAX_BODY is read, RequestTimeout."""
    too_large = TooLarge("the body is too large", allowed=f"{MAX_BODY} bytes", hint="put large input into a file")
    if (http.content_length or 0) > MAX_BODY:
        raise too_large
    try:
        if http.content.is_eof():  # as a rule it came together with the head
            data = http.content.read_nowait()
        else:
            data = await _arriving(http, too_large)
    except (web.RequestPayloadError, HttpProcessingError) as e:
        raise Malformed("the body's transfer coding is broken") from e
    if len(data) > MAX_BODY:
        raise too_large
    return data


async def _arriving(http: web.BaseRequest, too_large: TooLarge) -> bytes:
    await _continue(http)
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while chunk := await http.content.readany():
                data += chunk
                if len(data) > MAX_BODY:
                    raise too_large
    except TimeoutError as e:
        raise RequestTimeout(f"the body did not arrive within {BODY_SECONDS:.0f} s") from e
    return bytes(data)


async def _end_early(http: web.BaseRequest, response: web.StreamResponse) -> None:
    """Answer while the body is still on its way, and end the connection: the rest would be taken for a request.

    Only our direction is closed here. aiohttp throws away what comes for LINGER_SECONDS: a client in the middle of
    write(2) would have EPIPE or ECONNRESET for the answer otherwise (RFC 9112 section 9.6, unix(7)).
    """
    response.force_close()
    await response.prepare(http)
    await response.write_eof()
    if http.transport is not None:
        http.transport.write_eof()


async def _continue(http: web.BaseRequest) -> None:
    """Tell a client that asked (Expect: 100-continue, RFC 9110 section 10.1.1) to send its body."""
    if http.headers.get("Expect", "").lower() == "100-continue":
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        http.writer.output_size = 0


class Running:
    """A server that serves until stop()."""

    def __init__(self, runner: web.ServerRunner, api: Api) -> None:
        self._runner = runner
        self._api = api

    async def stop(self) -> None:
        """Accept nothing more, cancel who only listens, let the others end for STOP_SECONDS, then cancel them."""
        self._api.cancel_listeners()
        await self._runner.cleanup()


async def serve(supervisor: Supervisor, sock: socket.socket, bases: Sequence[str]) -> Running:
    """Serve the API on a listening AF_UNIX stream socket, which from now on belongs to the server.

    `bases` are the cgroup paths, as in /proc/PID/cgroup, below which Stockade's own sessions live.
    """
    api = Api(supervisor)
    runner = web.ServerRunner(Server(api, bases, connection.Bounds()), shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
    except BaseException:
        with contextlib.suppress(Exception):
            await runner.cleanup()
        raise
    return Running(runner, api)
