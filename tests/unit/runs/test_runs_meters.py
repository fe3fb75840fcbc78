"""Meters on a real store: what survives a restart, what is told, what a disk that refuses does to the counts."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from supervisor.decide.windows import DAY, HOUR, MINUTE, Spent
from supervisor.errors import LimitReached, NotFound, Unavailable
from supervisor.policy.snapshot import Rate, Rule
from supervisor.runs import tally
from supervisor.runs.meters import failure, spent
from tests.unit.decide.samples import profile, snapshot
from tests.unit.runs.metering import AGENT, BREAKER, BUDGETS, NOW, RATES, WHO, Clock, opened

if TYPE_CHECKING:
    from pathlib import Path


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


async def test_a_row_that_is_none_of_ours_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        await desk.begin(BUDGETS, timeout_ms=2000, cpu=50)
        await desk.store.write(lambda conn: conn.execute("UPDATE live_runs SET charged = '7'"))
    with pytest.raises(Unavailable, match="is damaged: a row is none of ours") as refused:
        async with opened(tmp_path, clock):
            pass
    assert "restore the file from a backup" in str(refused.value.hint)


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


async def test_a_disk_that_goes_on_refusing_begins_nothing_more_and_what_waits_for_it_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.runs.meters.UNWRITTEN", 20)
    clock = Clock()
    async with opened(tmp_path, clock) as desk:
        await desk.store.write(lambda c: c.set_authorizer(no_changes))
        for _ in range(50):
            with pytest.raises(Unavailable):
                await desk.begin(BUDGETS)
        assert len(desk.meters.book.live) == 20
        with pytest.raises(Unavailable, match="20 counts"):
            desk.meters.begin(BUDGETS, "run-x", WHO, "ses-1")
        with pytest.raises(Unavailable, match="20 counts"):
            desk.meters.opened(RATES, WHO)
        assert len(desk.meters.book.windows[MINUTE]) == 0
        await desk.store.write(lambda c: c.set_authorizer(None))
        with pytest.raises(Unavailable):  # and what the disk had refused is written now
            await desk.begin(BUDGETS)
        assert await desk.rows("live_runs") == 20
        await desk.begin(BUDGETS)
        assert await desk.rows("live_runs") == 21


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


async def test_a_rule_with_dots_in_its_name_is_known_by_all_of_it(tmp_path: Path) -> None:
    clock = Clock()
    rules = tuple(Rule(name, ("agent:execute",), (), "deny", "p:1") for name in ("a", "a.b"))
    policy = replace(snapshot(), callers=(), profiles=(profile("x.y"), profile("x")), rules=rules)
    async with opened(tmp_path, clock) as desk:
        desk.meters.known(policy)
        clock.now += 86_400
        for used in ("rules.a.b", "profiles.x.y.limits.memory"):
            desk.meters.rule_used(used)
        assert {r["rule"] for r in desk.meters.unused(policy, 1, clock())} == {"rules.a", "profiles.x"}


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
