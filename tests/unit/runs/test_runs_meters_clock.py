"""Meters whose clock is set back: nothing is forgotten, and nobody is held until it is as late again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from supervisor.decide.usual import Usual
from supervisor.decide.windows import MINUTE
from supervisor.errors import LimitReached
from supervisor.policy.snapshot import Alerts, Rate
from tests.unit.decide.samples import snapshot
from tests.unit.runs.metering import AGENT, BREAKER, BUDGETS, RATES, WHO, Clock, Desk, opened

if TYPE_CHECKING:
    from pathlib import Path


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
