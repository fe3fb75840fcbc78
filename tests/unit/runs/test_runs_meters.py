"""Meters on a real store: what survives a restart, what is told, what a disk that refuses does to the counts."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.decide.bounds import Who
from supervisor.decide.meters import check
from supervisor.decide.usual import Usual
from supervisor.decide.windows import DAY, HOUR, MINUTE, Spent
from supervisor.errors import LimitReached, NotFound, Unavailable
from supervisor.policy.snapshot import Alerts, Breaker, Budget, Rate, Snapshot
from supervisor.runs import tally
from supervisor.runs.meters import Meters, failure, spent
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


async def test_rates_go_on_where_they_were(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        for _ in range(3):
            await desk.run(RATES)
    async with opened(tmp_path, clock) as desk:
        with pytest.raises(LimitReached) as refusal:
            desk.left(RATES)
        clock.now += refusal.value.extra["retry_after"]
        assert desk.left(RATES) == {
            "rates[0].per_minute": 0, "rates[0].per_hour": 96, "rates[0].per_day": 996,
        }  # fmt: skip


async def test_budgets_go_on_and_end_with_the_day(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        await desk.run(BUDGETS, cpu_us=4_000_000, wall_us=5_000_000, written_bytes=300, pids_peak=7)
    async with opened(tmp_path, clock) as desk:
        await desk.run(BUDGETS, cpu_us=1_000_000)
        left = {"cpu": 5000, "wall": 15_000, "written": 700, "processes": 43}
        assert desk.left(BUDGETS) == {f"budgets[0].{name}": n for name, n in left.items()}
        clock.now += 23 * 3600
        assert desk.left(BUDGETS)["budgets[0].cpu"] == 10_000
        await desk.run(BUDGETS, cpu_us=2_000_000)
    async with opened(tmp_path, clock) as desk:
        assert desk.left(BUDGETS)["budgets[0].cpu"] == 8000


async def test_a_breaker_goes_on_open_half_open_and_closed(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        await desk.run(BREAKER, failed=True)
    async with opened(tmp_path, clock) as desk:
        await desk.run(BREAKER, failed=True)
    async with opened(tmp_path, clock) as desk:
        with pytest.raises(LimitReached, match="2 runs in a row"):
            desk.left(BREAKER)
        clock.now += 10
        await desk.begin(BREAKER)
        with pytest.raises(LimitReached, match="one run is trying"):
            desk.left(BREAKER)
    async with opened(tmp_path, clock) as desk:
        await desk.run(BREAKER)  # the one that tried is gone with the process, so the next may try
    async with opened(tmp_path, clock) as desk:
        assert desk.meters.breakers() == []
        assert await desk.rows("breakers") == 0


async def test_repetition_is_counted_over_a_restart(tmp_path: Path) -> None:
    clock = Clock()
    for i in range(3):
        async with opened(tmp_path, clock) as desk:
            assert desk.left(BREAKER) == {}
            run = await desk.begin(BREAKER, what=("ls", "-l"))
            await desk.meters.end(BREAKER.breaker, run, {}, failed=None)
            clock.now += i
    async with opened(tmp_path, clock) as desk:
        with pytest.raises(LimitReached, match="the same command was begun 3 times"):
            desk.left(BREAKER)


async def test_a_run_that_was_open_is_charged_once_and_at_most_its_deadline(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        await desk.begin(BUDGETS, timeout_ms=2000, cpu=50)
        await desk.begin(BUDGETS, timeout_ms=0, cpu=200)
    clock.now += 3
    for expected in (2, 0, 0):
        async with opened(tmp_path, clock) as desk:
            assert desk.open_runs == expected
            assert desk.meters.book.day.spent == {f"a:{AGENT}": Spent(7_000_000, 5_000_000, 0, 2)}
            assert desk.meters.book.running(WHO) == 0


async def test_a_run_that_the_launcher_lost_is_charged_the_same(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        run = await desk.begin(BUDGETS, timeout_ms=2000, cpu=50)
        clock.now += 1
        await desk.meters.end(BUDGETS.breaker, run, None, failed=failure("lost", None))
        assert desk.left(BUDGETS)["budgets[0].wall"] == 19_000
        assert await desk.rows("live_runs") == 0


async def test_without_rates_and_budgets_nothing_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as desk:
        run = "run-x"
        assert desk.meters.begin(snapshot(), run, WHO, "ses-1", what=("ls",)).done()
        assert desk.meters.end(snapshot().breaker, run, {"cpu_us": 5}, failed=True).done()
        assert len(desk.meters.book) == 0


async def test_what_was_not_launched_leaves_nothing(tmp_path: Path) -> None:
    clock = Clock()
    both = replace(RATES, budgets=BUDGETS.budgets)
    async with opened(tmp_path, clock) as desk:
        desk.meters.forget(await desk.begin(both))
        await desk.meters.flush()
        assert (await desk.rows("rates"), await desk.rows("live_runs")) == (0, 0)
    async with opened(tmp_path, clock) as desk:
        assert desk.left(RATES)["rates[0].per_minute"] == 2


async def test_rows_of_windows_that_are_over_go(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock, bound=100_000) as desk:
        for i in range(2 * tally.PURGED):
            desk.meters.opened(RATES, WHO._replace(agent=f"a{i}"))
        await desk.meters.flush()
        assert await desk.rows("rates") == 6 * tally.PURGED
        clock.now += 2 * 86_400
        await desk.run(BUDGETS)
        await desk.run(RATES)
        while await desk.rows("rates") > 3:  # each look lets the next part of the work be posted
            pass
        assert len(desk.meters.book) == 4


async def test_a_clock_that_is_set_back_loses_no_counts_and_holds_nobody_for_long(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        for _ in range(3):
            await desk.run(RATES)
        clock.now -= 5000
        with pytest.raises(LimitReached):
            desk.left(RATES)
        desk.meters.opened(RATES, WHO._replace(agent="other"))
        await desk.meters.flush()
    async with opened(tmp_path, clock) as desk:
        with pytest.raises(LimitReached):
            desk.left(RATES)
        clock.now += 120
        assert desk.left(RATES)["rates[0].per_minute"] == 2


async def test_a_restart_with_the_clock_set_back_counts_what_was_as_of_now(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        for _ in range(3):
            await desk.run(replace(RATES, budgets=BUDGETS.budgets), cpu_us=1_000_000)
    clock.now -= 3 * 86_400
    for _ in range(2):
        async with opened(tmp_path, clock) as desk:
            with pytest.raises(LimitReached):
                desk.left(RATES)
            assert desk.left(BUDGETS)["budgets[0].cpu"] == 7000
            assert await desk.rows("rates") == 3


async def test_a_restart_with_the_clock_set_back_a_little_forgets_nothing(tmp_path: Path) -> None:
    """A window goes on where its rows are of the next one, and what was counted before it stays before it."""
    clock = Clock()
    snap = replace(RATES, rates=(Rate("agent", 4, 0, 0, "policy.toml:1"),))
    async with opened(tmp_path, clock) as desk:
        for seconds in (58, 2):
            clock.now += seconds
            await desk.run(snap)
            await desk.run(snap)
    for back in (3, 200):
        clock.now -= back
        async with opened(tmp_path, clock) as desk:
            with pytest.raises(LimitReached):
                desk.left(replace(snap, rates=(Rate("agent", 2, 0, 0, "policy.toml:1"),)))
            window = desk.meters.book.windows[MINUTE]
            assert (dict(window.before), dict(window.counts)) == ({f"a:{AGENT}": 2}, {f"a:{AGENT}": 2})


@pytest.mark.parametrize("restart", [False, True])
async def test_a_clock_that_is_set_back_holds_a_breaker_no_longer_than_policy_says(
    tmp_path: Path, restart: bool
) -> None:
    """As where the clock of a host was in the future until it was set over the network."""
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        for _ in range(2):
            await desk.run(BREAKER, what=("ls",), failed=True)
        clock.now -= 3 * 3600
        if not restart:
            await held_and_let_go(desk)
    if restart:
        async with opened(tmp_path, clock) as desk:
            await held_and_let_go(desk)
    async with opened(tmp_path, clock) as desk:
        assert desk.meters.book.breakers == {}


async def held_and_let_go(desk: Desk) -> None:
    with pytest.raises(LimitReached) as refusal:
        desk.left(BREAKER)
    assert refusal.value.extra["retry_after"] == 10
    assert [r for (r,) in map(dict.values, desk.meters.book.repeats.values())] == [(int(desk.clock() * 1000), 0, 2)]
    desk.clock.now += 10
    await desk.run(BREAKER)


async def test_a_clock_that_is_set_back_keeps_no_agent_unusual_for_longer_than_its_hour(tmp_path: Path) -> None:
    clock = Clock()
    strange = Alerts(unusual=("runs",), unusual_least=3, action="stop", source="policy.toml:4")
    snap = replace(snapshot(), alerts=strange)
    async with opened(tmp_path, clock) as desk:
        book, key = desk.meters.book, f"n:{AGENT}"
        book.usual[key] = Usual(int(clock.now) // 3600, 50, 40, 1.0, 0.0)
        with pytest.raises(LimitReached, match="stopped for it"):
            desk.left(snap)
        clock.now -= 5 * 3600
        with pytest.raises(LimitReached, match="stopped for it") as refusal:
            desk.left(snap)
        clock.now += refusal.value.extra["retry_after"]
        assert desk.left(snap) == {}


def no_changes(operation: int, *_: object) -> int:
    changes = sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE
    return sqlite3.SQLITE_DENY if operation in changes else sqlite3.SQLITE_OK


async def test_what_the_disk_refused_is_written_with_the_next_change(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        run = await desk.begin(BUDGETS)
        await desk.store.write(lambda c: c.set_authorizer(no_changes))
        with pytest.raises(Unavailable):
            await desk.meters.end(BUDGETS.breaker, run, {"cpu_us": 1_000_000}, failed=False)
        with pytest.raises(Unavailable):
            await desk.begin(BUDGETS)
        await desk.store.write(lambda c: c.set_authorizer(None))
        await desk.run(BUDGETS, WHO._replace(agent="other"))
    async with opened(tmp_path, clock) as desk:
        assert desk.open_runs == 1  # the one whose begin was refused, never ended here
        assert desk.left(BUDGETS)["budgets[0].cpu"] == 9000


async def test_a_closed_store_refuses_at_once_and_counts_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as desk:
        pass
    with pytest.raises(Unavailable):
        desk.meters.begin(RATES, "run-x", WHO, "ses-1")
    assert desk.left(RATES)["rates[0].per_minute"] == 2
    assert desk.meters.book.running(WHO) == 0


async def test_breakers_are_listed_told_and_reset(tmp_path: Path) -> None:
    clock, told = Clock(), []
    async with opened(tmp_path, clock) as desk:
        desk.meters.on_breaker(told.append)
        await desk.run(BREAKER, failed=True)
        desk.meters.denied(BREAKER, WHO)
        desk.meters.denied(BREAKER, WHO._replace(agent="other"))
        listed = desk.meters.breakers()
        assert [(b["key"], b["state"], b["failures"]) for b in listed] == [
            (AGENT, "open", 1), ("uid:1000/other", "closed", 1),
        ]  # fmt: skip
        assert listed[0]["until"] == clock.now + 10
        with pytest.raises(NotFound):
            await desk.meters.reset("uid:1000/nobody")
        assert (await desk.meters.reset(AGENT))["state"] == "closed"
        assert desk.left(BREAKER) == {}
        assert [t["state"] for t in told] == ["open", "closed"]
    async with opened(tmp_path, clock) as desk:
        assert [b["key"] for b in desk.meters.breakers()] == ["uid:1000/other"]


async def test_usage_says_how_full_the_book_is(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as desk:
        await desk.run(RATES)
        found = desk.meters.usage(RATES, "uid:1000", NOW)
        assert (found["counters"], found["counters_allowed"]) == (3, 1000)
        assert {(r["of"], r["per"], r["used"]) for r in found["rates"]} >= {("planner", "minute", 1)}


@pytest.mark.parametrize(("cause", "code", "expected"), [
    ("exited", 0, False), ("exited", 1, True), ("signal", None, True), ("memory", None, True), ("timeout", None, True),
    ("not_started", None, True), ("output", None, True),
    ("cancelled", None, None), ("stopped", None, None), ("lost", None, None), ("denied", None, None),
    (None, None, None),
])  # fmt: skip
def test_which_ends_speak_against_an_agent(cause: str | None, code: int | None, expected: bool | None) -> None:
    assert failure(cause, code) is expected


def test_counters_that_a_host_lacks_are_nothing() -> None:
    assert spent({"cpu_us": 5, "wall_us": True, "written_bytes": -3, "step": "exec"}) == Spent(5, 0, 0, 0)


async def test_many_at_once_are_each_durable(tmp_path: Path) -> None:
    wide = replace(RATES, rates=(Rate("agent", 10_000, 10_000, 10_000, "policy.toml:1"),), budgets=BUDGETS.budgets)
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        await asyncio.gather(*(desk.run(wide, cpu_us=1000) for _ in range(300)))
    async with opened(tmp_path, clock) as desk:
        assert desk.left(BUDGETS)["budgets[0].cpu"] == 9700
        assert desk.open_runs == 0
        assert {span: sum(w.counts.values()) for span, w in desk.meters.book.windows.items()} == {
            MINUTE: 300, HOUR: 300, DAY: 300,
        }  # fmt: skip


# --- when rules were used last --------------------------------------------------------------------------------------


async def test_rules_that_nobody_needs_are_found_and_their_history_follows_what_they_say(tmp_path: Path) -> None:
    clock = Clock()
    one, two = (Rate("agent", n, 0, 0, f"policy.toml:{n}") for n in (5, 6))
    before, after = (replace(snapshot(), callers=(), rates=rates) for rates in ((one, two), (two, one)))
    async with opened(tmp_path, clock) as desk:
        desk.meters.known(before)
        clock.now += 86_400 * 90
        desk.meters.rule_used("rates[1].per_minute")
        desk.meters.rule_used("nothing.of[9].that.kind")
        await desk.meters.flush()
    async with opened(tmp_path, clock) as desk:
        desk.meters.known(after)
        found = {r["rule"]: r for r in desk.meters.unused(after, 90, clock())}
        assert "rates[0]" not in found, "two has moved to the front, and its use with it"
        assert (found["rates[1]"]["count"], found["rates[1]"]["last_used"]) == (0, None)
        assert found["rates[1]"]["source"] == "policy.toml:5"
        assert not desk.meters.unused(after, 91, clock()), "not known for as long"


async def test_a_rule_is_written_at_most_once_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        desk.meters.known(RATES)
        writes = await desk.store.read(lambda c: c.total_changes)
        for _ in range(1000):
            desk.meters.rule_used("rates[0].per_hour")
        assert await desk.store.read(lambda c: c.total_changes) - writes == 1
        await desk.meters.flush()
        assert await desk.store.read(lambda c: c.execute("SELECT max(count) FROM rules").fetchone()[0]) == 1000
