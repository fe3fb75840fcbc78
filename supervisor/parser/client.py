"""Main's side of the parser: a question for each new script, an answer from memory for one that was seen before."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING

from supervisor.decide.shell.analyse import analyse_argv, needs_parser
from supervisor.decide.shell.model import Analysis
from supervisor.policy.words import MAX_SCRIPT
from supervisor.wire import framing
from supervisor.wire.messages import FROM_PARSER, Parse, WireError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

KEPT = 1024  # analyses
KEPT_TEXT = 2048  # characters of a command that is kept; longer ones are seldom sent twice
PATIENCE = 5.0  # seconds; the parser itself gives up earlier
MOST_WAITING = 256


class ParserClient:
    """Owns its end of the main-parser pair on `loop`; use it from that loop's thread only."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock, self._loop = sock, loop
        self._next = 0
        self._waiting: dict[int, asyncio.Future[Analysis]] = {}
        self._kept: OrderedDict[str | tuple[str, ...], Analysis] = OrderedDict()
        self._callbacks: list[Callable[[], None]] = []
        self._lost = False
        sock.setblocking(False)
        loop.add_reader(sock, self._readable)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back once when the parser has ended (soon, when it already has)."""
        if self._lost:
            self._loop.call_soon(callback)
        else:
            self._callbacks.append(callback)

    async def analyse(self, argv: Sequence[str] | None, script: str | None) -> Analysis:
        """What a command looks like it does. Never raises for what it cannot understand: that is `parsed` False."""
        if script is None and not needs_parser(argv or ()):
            return analyse_argv(argv or ())
        what: str | tuple[str, ...] = script if script is not None else tuple(argv or ())
        found = self._kept.get(what)
        if found is not None:
            self._kept.move_to_end(what)
            return found
        size = len(script) if script is not None else sum(len(a) + 1 for a in argv or ())
        if size > MAX_SCRIPT:
            return Analysis(parsed=False, error=f"longer than {MAX_SCRIPT} characters")
        found = await self._ask(argv, script)
        if found.parsed and size <= KEPT_TEXT:
            self._kept[what] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    async def _ask(self, argv: Sequence[str] | None, script: str | None) -> Analysis:
        if self._lost or len(self._waiting) >= MOST_WAITING:
            return Analysis(parsed=False, error="the parser has ended" if self._lost else "the parser is busy")
        self._next += 1
        ident = self._next
        question = Parse(ident, None if script is not None else list(argv or ()), script)
        answer: asyncio.Future[Analysis] = self._loop.create_future()
        try:
            framing.send(self._sock, question)
        except (OSError, WireError) as e:  # more than a packet holds, or more waiting than the socket holds
            return Analysis(parsed=False, error=f"the parser cannot be asked: {e}")
        self._waiting[ident] = answer
        try:
            async with asyncio.timeout(PATIENCE):
                return await answer
        except TimeoutError:
            return Analysis(parsed=False, error=f"the parser gave no answer within {PATIENCE:g} s")
        finally:
            self._waiting.pop(ident, None)

    def _readable(self) -> None:
        while not self._lost:
            try:
                received = framing.receive(self._sock, FROM_PARSER)
            except BlockingIOError:
                return
            except (OSError, WireError):
                received = None
            if received is None:
                self._end()
                return
            waiting = self._waiting.get(received[0].id)
            if waiting is not None and not waiting.done():
                waiting.set_result(_read(received[0].analysis))

    def _end(self) -> None:
        self._lost = True
        self._loop.remove_reader(self._sock)
        self._sock.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(Analysis(parsed=False, error="the parser has ended"))
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._loop.call_soon(callback)

    def close(self) -> None:
        """Give up the socket; no callback is called."""
        self._callbacks.clear()
        if not self._lost:
            self._end()


def _read(body: dict[str, object]) -> Analysis:
    try:
        return Analysis.from_json(body)
    except (KeyError, TypeError, ValueError) as e:
        return Analysis(parsed=False, error=f"the parser's answer cannot be read: {e}")
