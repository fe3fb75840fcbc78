"""One client: who it is, its share of the places, and how long it may take."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from supervisor.api import parse, peer, problems
from supervisor.errors import CallerUnknown, HeadersTooLarge, Internal, LimitReached, Malformed, StockadeError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from supervisor.runs.model import Peer

MAX_CONNECTIONS = 256
MAX_CONNECTIONS_OF_UID = 64
HEAD_SECONDS = 10.0  # from the first byte of a request to the end of its head
IDLE_SECONDS = 75.0  # between requests
STALL_SECONDS = 300.0  # how long a client may take nothing of an answer

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
            transport.write(problems.raw(e, problems.new_request_id()))
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
            reason = (message or "").strip().partition("\n")[0]
            error = Malformed(f"this is not HTTP/1.1: {parse.printable(reason, 200)}")
        else:
            log.error("failed outside of a handler", exc_info=exc)
            error = Internal("an error of Stockade's own; the log says more")
        answered = problems.response(error, problems.new_request_id())
        answered.force_close()
        return answered
