"""Events: in order, of one's own, and never a queue without bound."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.errors import LimitReached
from supervisor.runs.bus import QUEUE, SUBSCRIBERS, Bus


async def test_events_come_in_order_with_rising_ids() -> None:
    bus = Bus()
    bus.emit("run.started", 1000, run="before anyone listened")
    mine = bus.subscribe(1000)
    waiting = asyncio.ensure_future(anext(mine))
    await asyncio.sleep(0)
    bus.emit("run.started", 1000, run="a")
    bus.emit("run.finished", 1000, run="a")
    first = await waiting
    second = await anext(mine)
    assert (first.kind, second.kind) == ("run.started", "run.finished")
    assert second.id == first.id + 1 == 3
    mine.close()
    with pytest.raises(StopAsyncIteration):
        await anext(mine)


async def test_a_subscriber_sees_its_own_events_and_those_of_the_service() -> None:
    bus = Bus()
    mine, everything = bus.subscribe(1000), bus.subscribe(None)
    bus.emit("run.started", 2000, run="b")
    bus.emit("policy.reloaded", None)
    bus.close()
    assert [e.kind async for e in mine] == ["policy.reloaded"]
    assert [e.kind async for e in everything] == ["run.started", "policy.reloaded"]


async def test_a_slow_subscriber_is_dropped_and_told_so_at_the_end() -> None:
    bus = Bus()
    slow, quick = bus.subscribe(None), bus.subscribe(None)
    seen = []
    for _ in range(QUEUE + 50):
        bus.emit("run.started", 1)
        seen.append(await anext(quick))
    got = [e.kind async for e in slow]
    assert got == ["run.started"] * QUEUE + ["subscription.dropped"]
    assert len(seen) == QUEUE + 50


async def test_there_is_a_most_of_subscribers() -> None:
    bus = Bus()
    some = [bus.subscribe(None) for _ in range(SUBSCRIBERS)]
    with pytest.raises(LimitReached):
        bus.subscribe(None)
    some[0].close()
    assert bus.subscribe(None)


async def test_who_may_read_questions_is_told_of_others_too_and_of_nothing_else() -> None:
    bus = Bus()
    reader, asker, other = bus.subscribe(1, also=("approval.",)), bus.subscribe(2), bus.subscribe(3)
    bus.emit("approval.requested", 2, approval="apr-x")
    bus.emit("run.started", 2)
    bus.close()
    assert [e.kind async for e in reader] == ["approval.requested"]
    assert [e.kind async for e in asker] == ["approval.requested", "run.started"]
    assert [e.kind async for e in other] == []
