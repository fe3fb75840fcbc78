"""Whose question the parser answers next: callers take turns, so that nobody waits for more than one of another's.

The parser answers one question after another, and a text can be made that takes it all the time that it has.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MOST = 256  # questions that wait
MOST_OF_ONE = 64  # of one caller


class Turns:
    def __init__(self) -> None:
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()  # by caller; first is next
        self._taken = False
        self._last: int | None = None  # who has, or had, the turn

    def full(self, asker: int) -> bool:
        """Whether one more question of this caller is one too many."""
        return len(self._waiting.get(asker, ())) >= MOST_OF_ONE or sum(len(q) for q in self._waiting.values()) >= MOST

    @asynccontextmanager
    async def turn(self, asker: int) -> AsyncIterator[None]:
        """The parser is this caller's within; questions of one caller keep their order."""
        if self._taken:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(asker, deque()).append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    self._leave(asker, turn)
                else:  # it was given away at the same moment
                    self._next()
                raise
        self._taken, self._last = True, asker
        try:
            yield
        finally:
            self._next()

    def _leave(self, asker: int, turn: asyncio.Future[None]) -> None:
        own = self._waiting.get(asker)
        if own is not None and turn in own:
            own.remove(turn)
            if not own:
                del self._waiting[asker]

    def _next(self) -> None:
        if self._last is not None and self._last in self._waiting:  # others come first, whenever they came
            self._waiting.move_to_end(self._last)
        while self._waiting:
            asker, own = self._waiting.popitem(last=False)
            turn = own.popleft()
            if own:
                self._waiting[asker] = own  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
