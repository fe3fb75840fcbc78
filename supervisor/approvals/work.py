"""Work that is finished whoever waits for it, so that memory and the store always agree in the end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from supervisor.approvals.deadlines import SLICE
from supervisor.errors import Unavailable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Coroutine

    from supervisor.state.store import Store

T = TypeVar("T")


class Work:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: set[asyncio.Future[Any]] = set()

    async def settled(self) -> None:
        """Until everything that was begun is durable, or has failed."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def _paced(self, things: list[T], end: Callable[[list[T]], None]) -> None:
        """End any number of things, a slice at a time: the loop serves others between, and the auditor keeps up."""
        for start in range(0, len(things), SLICE):
            end(things[start : start + SLICE])
            with contextlib.suppress(Unavailable):  # as in _post(): it comes to the same at the next start
                await self._store.write(_nothing)  # jobs are done in their order, so what was posted is durable now

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._track(task)
        return task

    def _post(self, write: Callable[[sqlite3.Connection], None]) -> None:
        """Write down what holds in memory already; where that fails, the next start comes to the same by itself."""
        with contextlib.suppress(Unavailable):
            self._track(self._store.post(write))

    def _track(self, work: asyncio.Future[Any]) -> None:
        self._tasks.add(work)
        work.add_done_callback(self._done)

    def _done(self, work: asyncio.Future[Any]) -> None:
        self._tasks.discard(work)
        if not work.cancelled():
            work.exception()  # whoever still waits is told; what nobody waits for is done again at the next start


def _nothing(_: sqlite3.Connection) -> None:
    pass
