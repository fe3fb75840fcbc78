"""The HTTP/1.1 server on the Unix socket: bounds first, then identity, then the route."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import re
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from supervisor.api import idempotency, parse, peer, problems, routes, schema
from supervisor.api.call import NDJSON, Answer, Call
from supervisor.errors import (
    CallerUnknown,
    HeadersTooLarge,
    Internal,
    LimitReached,
    Malformed,
    RequestTimeout,
    SelfViewOnly,
    StockadeError,
    TooLarge,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Sequence

    from supervisor.runs.model import Peer
    from supervisor.runs.service import Supervisor

MAX_BODY = 1 << 20  # bytes
MAX_HEAD = 16 << 10  # bytes of all header fields together
MAX_FIELDS = 64
MAX_CONNECTIONS = 256
MAX_CONNECTIONS_OF_UID = 64
HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its head
BODY_SECONDS = 30.0
IDLE_SECONDS = 75.0  # between requests
STALL_SECONDS = 300.0  # how long a client may take nothing of an answer
STOP_SECONDS = 5.0  # for requests in flight when the server stops

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
log = logging.getLogger("stockade.api")


class Bounds:
    """Counts connections, in sum and for each uid."""

    def __init__(self, total: int = MAX_CONNECTIONS, per_uid: int = MAX_CONNECTIONS_OF_UID) -> None:
        self._total = total
        self._per_uid = per_uid
        self._of: Counter[int] = Counter()

    def enter(self, uid: int) -> None:
        """Raises LimitReached when one more is too many; otherwise leave() must follow."""
        if self._of.total() >= self._total:
            raise LimitReached(f"{self._total} connections are open", hint="close idle connections")
        if self._of[uid] >= self._per_uid:
            raise LimitReached(f"uid {uid} has {self._per_uid} connections open", hint="close idle connections")
        self._of[uid] += 1

    def leave(self, uid: int) -> None:
        self._of[uid] -= 1
        if self._of[uid] <= 0:
            del self._of[uid]


class Connection(web.RequestHandler):
    """One client. Knows who it is from the moment it is accepted, and how long it may take."""

    __slots__ = ("_bounds", "_head", "_stall", "_uid", "bases", "peer", "refusal")

    def __init__(self, manager: web.Server, *, bases: Sequence[str], bounds: Bounds, **options: Any) -> None:
        super().__init__(manager, **options)
        self.bases = bases
        self.peer: Peer | None = None
        self.refusal: StockadeError | None = None
        self._bounds = bounds
        self._uid: int | None = None
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", made)
        try:
            self.peer = peer.identify(transport.get_extra_info("socket"), self.bases)
        except CallerUnknown as e:
            self.refusal = e
        except OSError as e:
            self.refusal = CallerUnknown(f"the kernel does not say who is calling: {e.strerror}")
        uid = -1 if self.peer is None else self.peer.uid
        try:
            self._bounds.enter(uid)
        except LimitReached as e:
            transport.write(problems.raw(e, new_request_id()))
            transport.close()
            return
        self._uid = uid
        # pause_writing() as soon as the kernel takes no more, so that a client that reads nothing is noticed.
        transport.set_write_buffer_limits(high=0)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._uid is not None:
            self._bounds.leave(self._uid)
            self._uid = None
        self._stop_timer("_head")
        self._stop_timer("_stall")
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waiting = self._waiter is not None and not self._waiter.done()
        if waiting and not self._messages:  # bytes came, a whole head did not
            if self._head is None:
                self._head = self._loop.call_later(HEAD_SECONDS, self._abort)
        elif self._head is not None:
            self._stop_timer("_head")

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self._loop.call_later(STALL_SECONDS, self._abort)

    def resume_writing(self) -> None:
        self._stop_timer("_stall")
        super().resume_writing()

    def _stop_timer(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp's signature
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP, and bugs of ours outside of Api; the connection is closed after it."""
        if request.writer.output_size > 0:
            log.error("failed in the middle of an answer", exc_info=exc)
            raise ConnectionError("the answer has begun: nothing else can be said on this connection")
        error: StockadeError
        if isinstance(exc, LineTooLong):
            error = HeadersTooLarge("a line of the request's head is too long", allowed="8190 bytes")
        elif isinstance(exc, HttpProcessingError):
            error = Malformed(f"this is not HTTP/1.1: {parse.printable((message or '').splitlines()[0], 200)}")
        else:
            log.error("failed outside of a handler", exc_info=exc)
            error = Internal("an error of Stockade's own; the log says more")
        answered = problems.response(error, new_request_id())
        answered.force_close()
        return answered


class Server(web.Server):
    """aiohttp's low-level server with our own connections."""

    def __init__(self, api: Api, bases: Sequence[str], bounds: Bounds) -> None:
        super().__init__(api, handler_cancellation=True)
        self._ours: dict[str, Any] = {"bases": tuple(bases), "bounds": bounds}

    def __call__(self) -> web.RequestHandler:
        return Connection(
            self,
            loop=self._loop,
            tcp_keepalive=False,
            keepalive_timeout=IDLE_SECONDS,
            access_log=None,
            logger=log,
            max_headers=MAX_FIELDS,
            lingering_time=0,  # a body that is not wanted is not read either
            auto_decompress=False,
            **self._ours,
        )


def new_request_id() -> str:
    return f"req-{secrets.token_hex(8)}"


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
            request_id = new_request_id()
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
            response.force_close()  # what is left of the body would be taken for the next request
        return response

    async def _listen(self, http: web.BaseRequest, request_id: str) -> Answer | web.StreamResponse:
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._listeners.add(task)
        try:
            return await self._answer(http, request_id)
        finally:
            self._listeners.discard(task)

    async def _answer(self, http: web.BaseRequest, request_id: str) -> Answer | web.StreamResponse:
        connection = cast("Connection", http.protocol)
        if connection.peer is None:
            raise connection.refusal or CallerUnknown("the kernel does not say who is calling")
        path = http.rel_url.raw_path
        if connection.peer.inside and (http.method, path) != ("GET", "/v1/self"):
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
        call = Call(self._supervisor, http, connection.peer, request_id, name, body, query)
        key = http.headers.get("Idempotency-Key")
        if key is None or not route.acts:
            return await route.handler(call)
        what = idempotency.digest(http.method, http.path_qs, NDJSON if call.streams else "", data)
        once = functools.partial(self._keys.once, call.peer.uid, key, what)
        if call.streams and NDJSON in route.also:
            call.once = once  # a stream cannot be kept: only its start is done once, see handlers.begin()
            return await route.handler(call)
        return await once(lambda: cast("Coroutine[Any, Any, Answer]", route.handler(call)))


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
    runner = web.ServerRunner(Server(api, bases, Bounds()), shutdown_timeout=STOP_SECONDS)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
    except BaseException:
        with contextlib.suppress(Exception):
            await runner.cleanup()
        raise
    return Running(runner, api)
