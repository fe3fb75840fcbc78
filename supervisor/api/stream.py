"""Answers that take their time: NDJSON frames of a run's output, server-sent events, raw bytes of stdin, long lists.

Frames, one JSON object a line:

    {"type": "approval", "approval": {"id": "apr-…", …}}   somebody is asked first; for as long as the request waits
    {"type": "queued", "queued": "run-…", "position": 3}   it waits for a place; again whenever the position changes
    {"type": "started", "run": {…}}
    {"type": "stdout", "offset": 0, "data": "…"}          or "data_base64" where the bytes are not UTF-8
    {"type": "stderr", "offset": 0, "data": "…"}
    {"type": "heartbeat"}                                  after HEARTBEAT_SECONDS of silence
    {"type": "finished", "run": {…}}                       or {"type": "error", "problem": {…}}

`offset` counts bytes of the stream, so a client that lost its connection goes on with GET …/output?follow from the
next one. A character is never cut in two: the first bytes of an incomplete one wait for the rest.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from supervisor.api import problems, views
from supervisor.api.call import NDJSON
from supervisor.errors import Conflict, StockadeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable

    from supervisor.api.call import Call
    from supervisor.runs.bus import Event
    from supervisor.runs.model import Run

T = TypeVar("T")
Notice = Callable[[dict[str, Any]], None]

HEARTBEAT_SECONDS = 15.0
_STREAMS = ("stdout", "stderr")


def split_utf8(data: bytes) -> tuple[str | None, bytes]:
    """(text, the bytes of an incomplete last character), or (None, b"") when `data` is not UTF-8."""
    try:
        return data.decode("utf-8"), b""
    except UnicodeDecodeError as e:
        if e.reason == "unexpected end of data" and len(data) - e.start <= 3:
            return data[: e.start].decode("utf-8"), data[e.start :]
        return None, b""


class Frames:
    """Output bytes to frames, holding back incomplete characters; one for each client."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, bytes]] = {}

    def add(self, stream: str, offset: int, chunk: bytes) -> dict[str, Any] | None:
        """The frame for the next bytes of a stream; None when they are only the start of a character."""
        start, held = self._held.pop(stream, (offset, b""))
        text, rest = split_utf8(held + chunk)
        whole = len(held) + len(chunk) - len(rest)
        if rest:
            self._held[stream] = (start + whole, rest)
        if whole == 0:
            return None
        if text is None:
            return _binary(stream, start, held + chunk)
        return {"type": stream, "offset": start, "data": text}

    def flush(self) -> list[dict[str, Any]]:
        """What is still held back when no more bytes come."""
        left = [_binary(stream, start, held) for stream, (start, held) in self._held.items()]
        self._held.clear()
        return left


def _binary(stream: str, offset: int, data: bytes) -> dict[str, Any]:
    return {"type": stream, "offset": offset, "data_base64": base64.b64encode(data).decode("ascii")}


async def with_silence(source: AsyncIterator[T], seconds: float) -> AsyncIterator[T | None]:
    """Everything of `source`, and None whenever it has been silent for so long."""
    pending: asyncio.Future[T] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(source))
            done, _ = await asyncio.wait({pending}, timeout=seconds)
            if not done:
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            finally:
                pending = None
            yield item
    finally:
        if pending is not None:
            pending.cancel()
            await asyncio.wait({pending})


async def open_stream(call: Call, content_type: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"X-Request-Id": call.request_id, "Cache-Control": "no-store"})
    response.content_type = content_type
    await response.prepare(call.http)
    return response


class _Early:
    """Sends what start() has to say before a run begins, from a task of its own that only exists if there is any."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._frames: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._sender: asyncio.Task[web.StreamResponse] | None = None

    def notice(self, frame: dict[str, Any]) -> None:
        """Send a frame, without waiting for it."""
        if frame["type"] == "approval":
            frame = {**frame, "approval": views.timed(frame["approval"])}
        self._frames.put_nowait(frame)
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> web.StreamResponse:
        response = await open_stream(self._call, NDJSON)
        async for frame in with_silence(self._until_over(), HEARTBEAT_SECONDS):
            await _send(response, frame or {"type": "heartbeat"})
        return response

    async def _until_over(self) -> AsyncIterator[dict[str, Any]]:
        while (frame := await self._frames.get()) is not None:
            yield frame

    async def over(self) -> web.StreamResponse | None:
        """Everything is sent: the response that was opened for it, None when nothing was to be said."""
        if self._sender is None:
            return None
        self._frames.put_nowait(None)
        return await self._sender

    async def close(self) -> None:
        if self._sender is not None and not self._sender.done():
            self._sender.cancel()
            await asyncio.wait({self._sender})


async def listed(call: Call, name: str, things: Iterable[dict[str, Any]]) -> web.StreamResponse:
    """An object of one list, written thing by thing: a thousand questions can take a hundred MiB, and a client that
    does not read what it asked for costs no more than one of them.
    """
    response = await open_stream(call, "application/json")
    between = f'{{"{name}":['
    for thing in things:
        await response.write(f"{between}{json.dumps(thing, separators=(',', ':'))}".encode("ascii"))
        between = ","
        await asyncio.sleep(0)  # others are served between
    await response.write((between if between != "," else "").encode("ascii") + b"]}")
    await response.write_eof()
    return response


async def begun(call: Call, start: Callable[[Notice], Awaitable[Run]], *, owner: bool) -> web.StreamResponse:
    """Start a run and stream it. What is to be said before its start are the first frames.

    Without any, an error of the start is raised, so that it has a status of its own; after one it is the last frame.
    """
    early = _Early(call)
    run: Run | None = None
    try:
        run = await start(early.notice)
        response = await early.over()
        await call.supervisor.recorded(run)  # naming a run acknowledges it: it has to survive kill -9
    except StockadeError as e:
        response = await early.over()
        if response is None:
            raise
        await _send(response, _problem(call, e))
        await response.write_eof()
        return response
    except (asyncio.CancelledError, ConnectionError):
        if owner and run is not None:
            call.supervisor.abandon(run)
        raise
    finally:
        await early.close()
    return await frames(call, run, {}, owner=owner, response=response)


async def frames(
    call: Call, run: Run, offsets: dict[str, int], *, owner: bool, response: web.StreamResponse | None = None
) -> web.StreamResponse:
    """Stream a run from `offsets` until it is finished. `owner`: the run ends when this client is gone."""
    try:
        response = response if response is not None else await open_stream(call, NDJSON)
        await _send(response, {"type": "started", "run": views.run(run, output=False)})
        try:
            async for frame in _output(run, offsets):
                if run.peer.uid != call.peer.uid:
                    call.supervisor.run(call.peer, run.id)  # a role that showed what is another's may have ended
                await _send(response, frame)
            last = await _last(call, run)
        except StockadeError as e:
            last = _problem(call, e)
        await _send(response, last)
    except (asyncio.CancelledError, ConnectionError):
        if owner:
            call.supervisor.abandon(run)
        raise
    await response.write_eof()
    return response


async def _output(run: Run, offsets: dict[str, int]) -> AsyncIterator[dict[str, Any]]:
    cutter = Frames()
    async for item in with_silence(run.output.frames(offsets), HEARTBEAT_SECONDS):
        frame = {"type": "heartbeat"} if item is None else cutter.add(*item)
        if frame is not None:
            yield frame
    for frame in cutter.flush():
        yield frame


async def _last(call: Call, run: Run) -> dict[str, Any]:
    """The last frame. The status line has long been sent, so an error becomes a frame as well."""
    try:
        await call.supervisor.wait(run)
    except StockadeError as e:
        return _problem(call, e)
    return {"type": "finished", "run": views.run(run, output=False)}


def _problem(call: Call, error: StockadeError) -> dict[str, Any]:
    return {"type": "error", "problem": problems.members(error, call.request_id)}


async def _send(response: web.StreamResponse, frame: dict[str, Any]) -> None:
    await response.write(json.dumps(frame, separators=(",", ":")).encode("ascii") + b"\n")


async def stdin(call: Call, run: Run, *, eof: bool) -> int:
    """Hand the request's body to a run as it arrives, no faster than the run reads it. Returns how many bytes.

    Ends early when the run does. An upload that breaks off leaves the run's stdin open, with what came so far.
    """
    sent = 0
    over = asyncio.ensure_future(call.supervisor.wait(run))
    try:
        while chunk := await _unless(over, call.http.content.readany()):
            await _unless(over, call.supervisor.feed(call.peer, run.id, chunk, eof=False))
            sent += len(chunk)
        if eof:
            await _unless(over, call.supervisor.feed(call.peer, run.id, b"", eof=True))
    except _RunIsOverError:
        pass
    except Conflict:
        if sent == 0:  # otherwise the run took what it wanted and has closed its end
            raise
    finally:
        over.cancel()
        await asyncio.wait({over})
    return sent


class _RunIsOverError(Exception):
    pass


async def _unless(over: asyncio.Future[None], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Raises _RunIsOverError, with `work` cancelled, when `over` comes first."""
    task = asyncio.ensure_future(work)
    both: set[asyncio.Future[Any]] = {task, over}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise _RunIsOverError
    return task.result()


async def events(call: Call) -> web.StreamResponse:
    """Server-sent events (HTML standard, section 9.2) of what concerns the caller, until the client is gone.

    With Last-Event-ID those that the client has missed come first.
    """
    last = call.http.headers.get("Last-Event-ID", "")
    after = int(last) if re.fullmatch("[0-9]{1,15}", last, re.ASCII) else None
    subscription = call.supervisor.subscribe(call.peer, after)
    try:
        response = await open_stream(call, "text/event-stream")
        await response.write(b": stockade\n\n")
        async for event in with_silence(subscription, HEARTBEAT_SECONDS):
            await response.write(b": heartbeat\n\n" if event is None else _server_sent(event))
        await response.write_eof()
        return response
    finally:
        subscription.close()


def _server_sent(event: Event) -> bytes:
    data = json.dumps(
        {"kind": event.kind, "time": views.moment(event.time), **views.timed(event.data)}, separators=(",", ":")
    )
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n".encode("ascii")
