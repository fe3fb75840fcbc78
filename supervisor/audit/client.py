"""Main's side of the auditor: a future per record, resolved when the record is durable. asyncio, no polling."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.errors import AuditUnavailable
from supervisor.wire import framing
from supervisor.wire.messages import AUDITOR_TO_MAIN, Ack, Closed, Message, Record, WireError

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

MAX_BACKLOG = 1024  # records that wait because the auditor's socket is full
RETRY = 2.0  # seconds until a log that took nothing is tried again
_HINT = "see the auditor's messages: journalctl -u stockade"


class AuditClient:
    """Owns its end of the main-auditor pair on `loop`; use it from that loop's thread only."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock = sock
        self._loop = loop
        self._next = 0
        self._pending: dict[int, asyncio.Future[int]] = {}
        self._closing: dict[str, asyncio.Future[int]] = {}
        self._backlog: deque[Message] = deque()
        self._callbacks: list[Callable[[], None]] = []
        self._changed: Callable[[bool], None] = lambda _: None
        self._working = True
        self._retry: asyncio.TimerHandle | None = None
        self._lost: str | None = None
        sock.setblocking(False)
        loop.add_reader(sock, self._readable)

    def record(self, event: dict[str, Any]) -> asyncio.Future[int]:
        """Send an event; the future gives its seq once it is durable, or AuditUnavailable when it never will be.

        Cancelling the future does not take the record back. Raises WireError when the event is too large, which
        none of audit.events' builders makes.
        """
        future: asyncio.Future[int] = self._loop.create_future()
        try:
            self._send(Record(self._next + 1, event))
        except AuditUnavailable as e:
            _fail(future, e)
        else:
            self._next += 1
            self._pending[self._next] = future
        return future

    def closed(self, run: str) -> asyncio.Future[int]:
        """The seq of a run's outcome, once the auditor has it from the launcher and it is durable.

        AuditUnavailable when it never will be. Ask when the run is started, forget() when no outcome will come.
        """
        future: asyncio.Future[int] = self._loop.create_future()
        if self._lost is None:
            self._closing[run] = future
        else:
            _fail(future, AuditUnavailable(self._lost, hint=_HINT))
        return future

    def forget(self, run: str) -> None:
        """No outcome of this run is waited for any more."""
        self._closing.pop(run, None)

    def post(self, event: dict[str, Any]) -> None:
        """Send an event without waiting. Raises AuditUnavailable when it certainly cannot be recorded.

        Nobody is told of its end, but where records were refused the answer says whether they are written again.
        """
        if self._working:
            self._send(Record(0, event))
        else:
            self.record(event).add_done_callback(lambda future: future.cancelled() or future.exception())

    def on_changed(self, callback: Callable[[bool], None]) -> None:
        """Call back with False when a record is refused (a full disk), with True when one is written again.

        While they are refused one is tried every RETRY seconds, so that this is known without a request.
        """
        self._changed = callback

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back once when the auditor has ended (soon, when it already has)."""
        if self._lost is None:
            self._callbacks.append(callback)
        else:
            self._loop.call_soon(callback)

    def close(self) -> None:
        """Give up the socket; what is pending fails, and no callback is called."""
        self._callbacks.clear()
        self._end("the audit client was closed")

    def _send(self, message: Record) -> None:
        if self._lost is not None:
            raise AuditUnavailable(self._lost, hint=_HINT)
        if len(self._backlog) >= MAX_BACKLOG:
            raise AuditUnavailable(f"the auditor does not read: {MAX_BACKLOG} records wait", hint=_HINT)
        if self._backlog:
            self._backlog.append(message)
            return
        try:
            framing.send(self._sock, message)
        except BlockingIOError:
            self._backlog.append(message)
            self._loop.add_writer(self._sock, self._writable)
        except (BrokenPipeError, ConnectionResetError):
            pass  # answers may still wait here; reading them ends with the end of the socket
        except OSError as e:
            raise AuditUnavailable(f"the auditor's socket: {e.strerror}", hint=_HINT) from e

    def _writable(self) -> None:
        while self._backlog:
            try:
                framing.send(self._sock, self._backlog[0])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._backlog.clear()
                break
            self._backlog.popleft()
        self._loop.remove_writer(self._sock)

    def _readable(self) -> None:
        while self._lost is None:
            try:
                packet = framing.receive(self._sock, AUDITOR_TO_MAIN)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # unix(7): told once, ahead of what the auditor still sent
            except WireError as e:
                self._end(f"the auditor sent a message that is none: {e}")
                return
            if packet is None:
                self._end("the auditor has ended")
                return
            self._answered(packet[0])

    def _answered(self, answer: Any) -> None:
        if isinstance(answer, Closed):
            self._close(answer)
            return
        future = self._pending.pop(answer.id, None)
        if future is None:
            self._end(f"the auditor answered record {answer.id}, which waits for no answer")
            return
        if self._working is not isinstance(answer, Ack):
            self._working = not self._working
            self._changed(self._working)
            self._again()
        if future.done():
            pass
        elif isinstance(answer, Ack):
            future.set_result(answer.seq)
        else:
            _fail(future, AuditUnavailable(f"the record was not written: {answer.detail}", hint=_HINT))

    def _again(self) -> None:
        """While records are refused: look again later."""
        if self._retry is not None:
            self._retry.cancel()
        self._retry = None if self._working else self._loop.call_later(RETRY, self._try)

    def _try(self) -> None:
        self.post(events.service(action="audit_again", outcome="ok"))
        self._again()

    def _close(self, answer: Closed) -> None:
        future = self._closing.pop(answer.run, None)
        if future is None or future.done():
            return
        if answer.detail:
            _fail(future, AuditUnavailable(f"the outcome was not written: {answer.detail}", hint=_HINT))
        else:
            future.set_result(answer.seq)

    def _end(self, why: str) -> None:
        if self._lost is not None:
            return
        self._lost = why
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        self._backlog.clear()
        pending = [*self._pending.values(), *self._closing.values()]
        self._pending, self._closing = {}, {}
        for future in pending:
            if not future.done():
                _fail(future, AuditUnavailable(why, hint=_HINT))
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._loop.call_soon(callback)


def _fail(future: asyncio.Future[int], error: AuditUnavailable) -> None:
    future.set_exception(error)
    future.exception()  # seen: whoever gave up waiting must not leave a warning behind
