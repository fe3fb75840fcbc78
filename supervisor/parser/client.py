"""Main's side of the parser: a question for each new script, an answer from memory for one that was seen before."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.decide.shell.analyse import analyse_argv, needs_parser
from supervisor.decide.shell.model import Analysis, Risk
from supervisor.decide.shell.programs import SQL_CLIENTS, base, family, is_interpreter
from supervisor.parser.turns import Turns
from supervisor.policy.words import MAX_SCRIPT
from supervisor.wire import framing
from supervisor.wire.messages import FROM_PARSER, TO_PARSER, Parse, WireError, decode, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

KEPT = 1024  # analyses
KEPT_SIZE = 8192  # characters of what was found, roughly: loops make much of little
KEPT_TEXT = 2048  # characters of a command that is kept; longer ones are seldom sent twice
LOCAL = 512  # characters of a command that is looked at here: what is longer may take long, and everybody waits
PATIENCE = 5.0  # seconds; the parser itself gives up earlier
WHOLE = 20.0  # seconds for an answer with the wait for a turn: ten others that take all their time
UNSEEN = "stockade-input-that-nobody-has-seen\n"  # stands for it: a program that would run it, runs what comes


class ParserClient:
    """Owns its end of the main-parser pair on `loop`; use it from that loop's thread only."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._sock, self._loop = sock, loop
        self._next = 0
        self._waiting: dict[int, asyncio.Future[Analysis]] = {}
        self._kept: OrderedDict[tuple[str | tuple[str, ...], str | None], Analysis] = OrderedDict()
        self._callbacks: list[Callable[[], None]] = []
        self._lost = False
        self._turns = Turns()
        sock.setblocking(False)
        loop.add_reader(sock, self._readable)

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call back once when the parser has ended (soon, when it already has)."""
        if self._lost:
            self._loop.call_soon(callback)
        else:
            self._callbacks.append(callback)

    async def analyse(
        self,
        argv: Sequence[str] | None,
        script: str | None,
        stdin: bytes | None = None,
        *,
        streamed: bool = False,
        asker: int = -1,
    ) -> Analysis:
        """What a command looks like it does, with what is fed to it; `streamed` is input that nobody has seen yet.
        `asker` is the uid for whom it is: different ones take turns at the parser.

        Never raises for what it cannot understand: that is `parsed` False.
        """
        words = tuple(argv or ())
        given = stdin is not None or streamed
        reads = given and (script is not None or any(is_interpreter(word) for word in words))  # `env sh` does, too
        fed = None if stdin is None else stdin[:MAX_SCRIPT].decode("utf-8", "replace").replace("\0", "")
        if len(stdin or b"") > MAX_SCRIPT:
            unread = f"what is fed to it is longer than {MAX_SCRIPT} bytes"
            if script is not None:  # whether it takes commands from that is up to the script, as with a stream
                unfed = await self.analyse(None, script, streamed=True, asker=asker)
                names = [command.words[0] for command in unfed.commands]
                fed_sql = any(name is None or family(base(name)) in SQL_CLIENTS for name in names)
                return replace(unfed, parsed=False, error=unread) if fed_sql else unfed
            if reads or any(family(base(word)) in SQL_CLIENTS for word in words):
                return Analysis(parsed=False, error=unread)
        if streamed and reads:
            fed = UNSEEN
        what = (script if script is not None else words, fed)
        found = self._kept.get(what)
        if found is not None:
            self._kept.move_to_end(what)
            return found
        size = len(script) if script is not None else sum(len(word) + 1 for word in words)
        short = script is None and size + len(fed or "") <= LOCAL
        if short and not needs_parser(words) and not (reads and fed is not None):
            found = analyse_argv(words, None, fed)
        elif size > MAX_SCRIPT and (script is not None or any(is_interpreter(word) for word in words)):
            return Analysis(parsed=False, error=f"longer than {MAX_SCRIPT} characters")
        else:
            found = _streamed(await self._in_turn(asker, words, script, fed))
        if found.parsed and size + len(fed or "") <= KEPT_TEXT and _weight(found) <= KEPT_SIZE:
            self._kept[what] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    async def _in_turn(self, asker: int, argv: Sequence[str], script: str | None, stdin: str | None) -> Analysis:
        if self._turns.full(asker):
            return Analysis(parsed=False, error="the parser is busy")
        try:
            async with asyncio.timeout(WHOLE), self._turns.turn(asker):
                return await self._ask(argv, script, stdin)
        except TimeoutError:
            return Analysis(parsed=False, error="the parser is busy")

    async def _ask(self, argv: Sequence[str], script: str | None, stdin: str | None) -> Analysis:
        if self._lost:
            return Analysis(parsed=False, error="the parser has ended")
        self._next += 1
        ident = self._next
        question = Parse(ident, None if script is not None else list(argv), script, stdin)
        answer: asyncio.Future[Analysis] = self._loop.create_future()
        try:
            decode(encode(question), TO_PARSER)  # one that it could not read would end it
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


def _weight(found: Analysis) -> int:
    """What an analysis takes, as if every part of it took as much as some 200 characters."""
    words = sum(len(word or "") for command in found.commands for word in command.words)
    fed = sum(len(command.stdin or "") for command in found.commands)
    return words + fed + 200 * (len(found.commands) + len(found.paths) + len(found.risks) + len(found.scripts))


def _streamed(found: Analysis) -> Analysis:
    """A program that takes commands from a stream runs what is only known when it comes."""
    unseen = [c for c in found.commands if c.words[:1] == (UNSEEN.strip(),)]
    if not unseen:
        return found
    risk = Risk("dynamic", "takes its commands from a stream that nobody has seen", unseen[0].start, unseen[0].end)
    commands = tuple(c for c in found.commands if c not in unseen)
    return replace(found, commands=commands, risks=(*found.risks, risk))


def _read(body: dict[str, object]) -> Analysis:
    try:
        return Analysis.from_json(body)
    except (KeyError, TypeError, ValueError) as e:
        return Analysis(parsed=False, error=f"the parser's answer cannot be read: {e}")
