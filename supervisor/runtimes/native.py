"""Main's end of the socket to the launcher: requests out, answers to whoever waits for them.

What comes is checked by the vocabulary like anything else. A packet that is no message, an answer that nobody asked
for, the end of the stream: the launcher is broken or gone, everything that waits fails, and main is told to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
from collections import deque
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.policy import snapshot as snapshots
from supervisor.runtimes.base import Loaded
from supervisor.wire import checks, framing
from supervisor.wire import messages as w

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

MAX_POLICY = 8 << 20  # bytes of the memfd that PolicyLoaded carries
BACKLOG = 1024  # messages that wait for the launcher to read
_BURST = 32  # messages that are taken in one turn of the loop
_PATIENCE = {
    "reload": 120.0,
    "open_session": 30.0,
    "inspect": 30.0,
    "close_session": 30.0,
    "stop": 30.0,
    "resume": 30.0,
}  # seconds


class LauncherClient:
    """The native runtime. Make it inside the running loop; it takes over the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        sock.setblocking(False)
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._runs: dict[str, asyncio.Future[w.RunEnded]] = {}
        self._closing: dict[str, asyncio.Future[None]] = {}
        self._backlog: deque[tuple[w.Message, tuple[int, ...]]] = deque()
        self._ended_callbacks: list[Callable[[str, str], None]] = []
        self._lost_callbacks: list[Callable[[], None]] = []
        self.lost: str | None = None  # why, once the launcher is gone
        self._loop.add_reader(sock.fileno(), self._readable)

    def on_session_ended(self, callback: Callable[[str, str], None]) -> None:
        self._ended_callbacks.append(callback)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back once when the launcher is gone or not to be believed (soon, if it already is); see `lost`."""
        if self.lost is None:
            self._lost_callbacks.append(callback)
        else:
            self._loop.call_soon(callback)

    # --- what is asked --------------------------------------------------------------------------------------------

    async def reload(self) -> Loaded:
        loaded: Loaded = await self._ask(w.Reload(next(self._ids)))
        return loaded

    async def open_session(self, request: w.OpenSession) -> dict[str, Any]:
        """As Runtime.open_session; `request.id` is replaced by one of this socket's own."""
        body = {f: getattr(request, f) for f in request.__dataclass_fields__ if f not in ("KIND", "FDS", "id")}
        opened: w.SessionOpened = await self._ask(w.OpenSession(id=next(self._ids), **body))
        return opened.receipt

    async def inspect(self, session: str, paths: list[str]) -> list[dict[str, Any]]:
        """As Runtime.inspect. Raises InvalidRequest for paths that no message can ask about, too."""
        if not checks.list_of(checks.beneath, 1, checks.MAX_HELD)(paths):
            raise errors.InvalidRequest(
                "these files cannot be looked at",
                field="files",
                allowed=f"1 to {checks.MAX_HELD} paths relative to the workspace, without . and ..",
                hint="name files of the workspace",
            )
        found: w.Inspected = await self._ask(w.Inspect(next(self._ids), session, paths))
        if [file["path"] for file in found.files] != paths:
            raise errors.Internal("the launcher answered about other files")
        return found.files

    def start_run(self, request: w.StartRun, fds: tuple[int, ...]) -> asyncio.Future[w.RunEnded]:
        """Raises LauncherUnavailable when it is gone or does not read, TooLarge when the packet would be."""
        self._send(request, fds)
        future: asyncio.Future[w.RunEnded] = self._loop.create_future()
        self._runs[request.run] = future
        return future

    def end_run(self, run: str, cause: str) -> None:
        if run in self._runs:
            with contextlib.suppress(errors.LauncherUnavailable):  # then its future has failed, or is about to
                self._send(w.EndRun(run, cause), vital=True)

    def signal_run(self, run: str, signal: int, *, tree: bool) -> None:
        if run in self._runs:
            self._send(w.SignalRun(run, signal, tree))

    async def close_session(self, session: str) -> None:
        future = self._closing.get(session)
        if future is None:
            self._send(w.CloseSession(session), vital=True)
            future = self._closing[session] = self._loop.create_future()
        await _patiently("close_session", asyncio.shield(future))  # others may wait for the same end

    async def stop(self) -> tuple[int, int]:
        stopped: w.Stopped = await self._ask(w.Stop(next(self._ids)))
        return stopped.runs, stopped.sessions

    async def resume(self) -> None:
        await self._ask(w.Resume(next(self._ids)))

    def close(self) -> None:
        """End the conversation: whatever waits fails with LauncherUnavailable; on_lost is not called."""
        self._lost_callbacks.clear()
        self._lose("this process is ending")

    # --- out ------------------------------------------------------------------------------------------------------

    async def _ask(self, message: Any) -> Any:
        """The answer. When the caller gives up, the cancelled future stays, so that a late answer is understood."""
        self._send(message, vital=not isinstance(message, w.OpenSession | w.Inspect))
        future = self._answers[message.id] = self._loop.create_future()
        return await _patiently(message.KIND, future)

    def _send(self, message: w.Message, fds: tuple[int, ...] = (), *, vital: bool = False) -> None:
        if self.lost is not None:
            raise errors.LauncherUnavailable(f"the launcher is gone: {self.lost}", hint="the service is restarting")
        try:
            if not self._backlog:
                framing.send(self._sock, message, fds)
                return
            w.encode(message)
        except BlockingIOError:
            pass
        except w.WireError as e:
            raise errors.TooLarge(
                f"the request does not fit one message to the launcher: {e}",
                allowed=f"{w.MAX_MESSAGE} bytes, with every character beyond ASCII as six or twelve",
                hint="put long input into stdin or into a file of the workspace",
            ) from e
        except OSError as e:  # answers may still wait here; reading them ends with the end of the socket
            detail = f"the launcher cannot be reached: {os.strerror(e.errno or 0)}"
            raise errors.LauncherUnavailable(detail, hint="see the service's log") from e
        if len(self._backlog) >= BACKLOG and not vital:
            raise errors.LauncherUnavailable("the launcher does not keep up", hint="try again later", retry_after=1)
        self._loop.add_writer(self._sock.fileno(), self._writable)
        self._backlog.append((message, tuple(os.dup(fd) for fd in fds)))

    def _writable(self) -> None:
        while self._backlog:
            message, fds = self._backlog[0]
            try:
                framing.send(self._sock, message, fds)
            except BlockingIOError:
                return
            except OSError:  # as in _send; what waited has nobody to go to
                while self._backlog:
                    _close_all(self._backlog.popleft()[1])
                break
            self._backlog.popleft()
            _close_all(fds)
        self._loop.remove_writer(self._sock.fileno())

    # --- in -------------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        for _ in range(_BURST):
            if self.lost is not None:
                return
            try:
                received = framing.receive(self._sock, w.FROM_LAUNCHER)
                if received is None:
                    self._lose("it ended")
                    return
                message, fds = received
                try:
                    self._answer(message, fds)
                finally:
                    _close_all(tuple(fds))
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # unix(7): told once, ahead of what the launcher still sent
            except (w.WireError, OSError) as e:
                self._lose(f"what it sent is not to be believed: {e}")
                return

    def _answer(self, message: Any, fds: list[int]) -> None:
        """Raises WireError for an answer that nobody asked for."""
        kind = type(message)
        if kind is w.RunEnded:
            run = self._runs.pop(message.run, None)
            if run is None:
                raise w.WireError(f"run_ended for {message.run}, which does not run")
            if not run.done():
                run.set_result(message)
            return
        if kind is w.SessionEnded:
            closing = self._closing.pop(message.session, None)
            if closing is not None and not closing.done():
                closing.set_result(None)
            for callback in self._ended_callbacks:
                callback(message.session, message.cause)
            return
        if message.id not in self._answers:
            raise w.WireError(f"{message.KIND} for request {message.id}, which was not made")
        # Read before the request counts as answered: when this raises, the request is among those that fail.
        result = read_policy(message, fds[0]) if kind is w.PolicyLoaded else message
        future = self._answers.pop(message.id)
        if kind is w.Refused:
            if not future.done():
                future.set_exception(rebuild(message))
            return
        if not future.done():
            future.set_result(result)
        elif kind is w.SessionOpened:  # nobody waits for it any more
            with contextlib.suppress(errors.LauncherUnavailable):
                self._send(w.CloseSession(message.session), vital=True)

    def _lose(self, reason: str) -> None:
        if self.lost is not None:
            return
        self.lost = reason
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for _, fds in self._backlog:
            _close_all(fds)
        self._backlog.clear()
        waiting: list[asyncio.Future[Any]] = [*self._answers.values(), *self._runs.values(), *self._closing.values()]
        for table in (self._answers, self._runs, self._closing):
            table.clear()
        for future in waiting:
            if not future.done():
                detail = f"the launcher is gone: {reason}"
                future.set_exception(errors.LauncherUnavailable(detail, hint="the service is restarting"))
                future.add_done_callback(_retrieved)
        callbacks, self._lost_callbacks = self._lost_callbacks, []
        for callback in callbacks:
            self._loop.call_soon(callback)


def rebuild(message: w.Refused) -> errors.StockadeError:
    """The error that the launcher raised, as it raised it."""
    cls = errors.tree().get(message.code, errors.Internal)
    extra = {k: v for k, v in message.extra.items() if k not in ("self", "detail")}
    return cls(message.detail, **extra)


def read_policy(message: w.PolicyLoaded, fd: int) -> Loaded:
    """What the memfd of PolicyLoaded holds. Raises WireError when it is not what the message says."""
    size = os.fstat(fd).st_size
    if size > MAX_POLICY:
        raise w.WireError(f"a policy of {size} bytes, at most {MAX_POLICY}")
    try:
        raw = json.loads(os.pread(fd, size, 0))
        snapshot = snapshots.from_json(raw["snapshot"])
        loaded = Loaded(snapshot, message.digest, tuple(raw["proofs"]), dict(raw["host"]))
        if any(not {"profile", "probe", "ok"} <= proof.keys() for proof in loaded.proofs):
            raise w.WireError("a proof without its fields")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise w.WireError(f"no policy: {type(e).__name__}: {e}") from e
    if snapshot.digest() != message.digest:
        raise w.WireError("the policy is not the one that its digest names")
    return loaded


async def _patiently(kind: str, future: asyncio.Future[Any]) -> Any:
    """Raises LauncherUnavailable when no answer comes in the time that this kind may take."""
    try:
        async with asyncio.timeout(_PATIENCE[kind]):
            return await future
    except TimeoutError as e:
        detail = f"the launcher did not answer {kind} in {_PATIENCE[kind]:.0f} s"
        raise errors.LauncherUnavailable(detail, hint="see the service's log") from e


def _retrieved(future: asyncio.Future[Any]) -> None:
    """Look at the outcome, so that asyncio does not report it as forgotten."""
    if not future.cancelled():
        future.exception()


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        os.close(fd)
