"""What the tests of meters share: meters on a real store, with a clock that is set."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.decide.bounds import Who
from supervisor.decide.meters import check
from supervisor.decide.windows import DAY
from supervisor.policy.snapshot import Breaker, Budget, Rate, Snapshot
from supervisor.runs.meters import Meters
from supervisor.state.store import Store
from tests.unit.decide.samples import snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = 1_790_000_000_000 // DAY * DAY / 1000 + 3600.0  # one o'clock, Unix seconds
WHO = Who("uid:1000", "planner", tool="shell")
AGENT = "uid:1000/planner"
RATES = replace(snapshot(), rates=(Rate("agent", 3, 100, 1000, "policy.toml:1"),))
BUDGETS = replace(snapshot(), budgets=(Budget("day", "agent", 10_000, 20_000, 1000, 50, "policy.toml:2"),))
BREAKER = replace(snapshot(), breaker=Breaker(2, 3, 60_000, 10_000, "policy.toml:3"))


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Desk:
    def __init__(self, store: Store, clock: Clock, bound: int) -> None:
        self.store, self.clock = store, clock
        self.meters = Meters(store, clock=clock, bound=bound)
        self.names = itertools.count()
        self.open_runs = 0  # that load() found

    def left(self, snap: Snapshot, who: Who = WHO, session: str = "ses-1") -> dict[str, int]:
        return dict(check(snap, who, session, self.meters.book, self.clock()).left)

    async def run(
        self, snap: Snapshot, who: Who = WHO, *, failed: bool | None = False, what: tuple[str, ...] = (), **usage: Any
    ) -> None:
        run = await self.begin(snap, who, what=what)
        await self.meters.end(snap.breaker, run, usage, failed=failed)

    async def begin(self, snap: Snapshot, who: Who = WHO, **more: Any) -> str:
        run = f"run-{next(self.names)}"
        await self.meters.begin(snap, run, who, "ses-1", **more)
        return run

    async def rows(self, table: str) -> int:
        return int(await self.store.read(lambda c: c.execute(f"SELECT count(*) FROM {table}").fetchone()[0]))  # noqa: S608


@asynccontextmanager
async def opened(path: Path, clock: Clock, bound: int = 1000) -> AsyncIterator[Desk]:
    """Runs that are not ended leave their rows, as after kill -9."""
    store = Store(str(path / "decisions.db"))
    await store.open()
    desk = Desk(store, clock, bound)
    desk.open_runs = await desk.meters.load()
    try:
        yield desk
    finally:
        await store.close()
