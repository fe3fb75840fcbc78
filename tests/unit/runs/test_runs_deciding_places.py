"""Places, queue and counts of decisions: each is taken once, and given back by what does not run."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import replace

import pytest

from supervisor import errors
from supervisor.decide.bounds import Who
from supervisor.policy import snapshot as s
from supervisor.runs.model import SessionRequest
from supervisor.wire import messages as w
from tests.unit.runs.conftest import AGENT, STRANGER
from tests.unit.runs.deciding import (
    ASKING,
    JUDGE,
    asked,
    finished,
    nothing_left,
    opened,
    question,
    reloaded,
    say,
    serving,
    until,
)

WAIT = 60_000  # ms; nothing here waits as long


# --- waiting for a place ----------------------------------------------------------------------------------------------

ONE = s.Concurrency(runs_per_agent=1, queue=4, source="p:9")


async def queued(world, *argv, **changes) -> asyncio.Future:
    """A request that waits for a place, and has been told so."""
    told = asyncio.Event()

    def notice(said: dict) -> None:
        if said["type"] == "queued":
            told.set()

    waiting = asyncio.ensure_future(world.supervisor.start(AGENT, world.request(*argv, **changes), "req-2", notice))
    await told.wait()
    return waiting


async def test_whoever_waits_for_a_place_is_decided_again_when_it_is_there(worlds) -> None:
    world = await serving(worlds, concurrency=ONE)
    first = await world.run("sleep", "60")
    allowed, refused = await queued(world, "true"), await queued(world, "touch", "x")
    assert [row["argv"] for row in world.supervisor.desk.queue(AGENT)] == [["true"], ["touch", "x"]]
    await reloaded(world, autonomy=replace(ASKING, blocked_commands=("touch",)))
    await world.supervisor.end(AGENT, first.id)
    await world.supervisor.wait(await allowed)
    with pytest.raises(errors.Denied) as refusal:
        await refused
    assert refusal.value.rule == "autonomy.blocked_commands[0]"
    assert os.listdir(world.workspace) == []
    await nothing_left(world)


async def test_a_client_that_goes_away_in_the_queue_leaves_nothing(worlds) -> None:
    world = await serving(worlds, concurrency=ONE)
    first = await world.run("sleep", "60")
    waiting = await queued(world, "true")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert world.supervisor.desk.queue(AGENT) == []
    await world.supervisor.end(AGENT, first.id)
    await world.supervisor.wait(first)
    await nothing_left(world)


async def test_a_request_can_be_taken_out_of_the_queue_by_its_caller_alone(worlds) -> None:
    world = await serving(worlds, concurrency=ONE)
    first = await world.run("sleep", "60")
    waiting = await queued(world, "true")
    ident = world.supervisor.desk.queue(AGENT)[0]["id"]
    for who in (JUDGE, STRANGER):
        with pytest.raises((errors.NotFound, errors.Denied)):
            await world.supervisor.desk.leave_queue(who, ident)
    await world.supervisor.desk.leave_queue(AGENT, ident)
    with pytest.raises(errors.Conflict, match="taken out"):
        await waiting
    await world.supervisor.end(AGENT, first.id)
    await world.supervisor.wait(first)
    await nothing_left(world)


async def test_what_is_approved_waits_for_its_place_as_well(worlds, events) -> None:
    world = await serving(worlds, concurrency=ONE)
    seen = events(world)
    waiting = asyncio.ensure_future(world.run("touch", "x", wait_approval_ms=WAIT))
    ident = await question(seen)
    first = await world.run("sleep", "60")
    await say(world, ident)
    assert [e.data["position"] async for e in until(seen, "run.queued") if e.kind == "run.queued"] == [1]
    assert os.listdir(world.workspace) == []
    await world.supervisor.end(AGENT, first.id)
    await world.supervisor.wait(await waiting)
    assert os.listdir(world.workspace) == ["x"]
    await nothing_left(world)


# --- places and counts ------------------------------------------------------------------------------------------------


async def test_a_run_that_is_refused_after_it_was_counted_gives_its_place_and_its_count_back(worlds) -> None:
    world = await serving(worlds, rates=(s.Rate("caller", 0, 0, 1, "p:1"),), concurrency=replace(ONE, queue=0))
    world.launcher.refuse = w.Refused(0, "workspace", "it is not there", {})
    with pytest.raises(errors.StockadeError, match="not there"):
        await world.run("true")
    assert world.supervisor.meters.book.live == {}
    assert world.supervisor.meters.book.running(Who("uid:1000", tool="shell")) == 0
    await finished(world, "true")
    with pytest.raises(errors.LimitReached):
        await world.run("true")
    await nothing_left(world)


async def test_a_place_that_is_given_back_goes_to_whoever_waits_for_it(worlds) -> None:
    """Nothing else ends here that would have the queue look again."""
    world = await serving(worlds, concurrency=ONE)
    opening, answer, open_session = asyncio.Event(), asyncio.Event(), world.client.open_session

    async def slow(message):
        opening.set()
        await answer.wait()
        return await open_session(message)

    world.client.open_session = slow
    world.launcher.refuse = w.Refused(0, "workspace", "it is not there", {})
    refused = asyncio.ensure_future(world.run("true"))
    await opening.wait()
    waiting = await queued(world, "true")
    answer.set()
    with pytest.raises(errors.StockadeError, match="not there"):
        await refused
    await world.supervisor.wait(await waiting)
    await nothing_left(world)


async def test_what_is_never_opened_leaves_no_budget_of_a_session(worlds) -> None:
    """Else who names a workspace that is not there, again and again, fills the book of counters of all callers."""
    world = await serving(worlds, budgets=(s.Budget("session", "agent", 1000, 0, 0, 0, "p:1"),))
    world.launcher.refuse = w.Refused(0, "workspace", "it is not there", {})
    with pytest.raises(errors.StockadeError, match="not there"):
        await world.run("true")
    assert len(world.supervisor.meters.book) == 0
    session = await opened(world)
    assert (await finished(world, "true", session=session.id)).cause == "exited"
    assert list(world.supervisor.meters.book.sessions) == [session.id]
    await world.supervisor.close_session(AGENT, session.id)
    assert len(world.supervisor.meters.book) == 0


async def test_a_session_that_is_refused_does_not_count(worlds) -> None:
    world = await serving(worlds, rates=(s.Rate("caller", 0, 0, 1, "p:1"),))
    world.launcher.refuse = w.Refused(0, "workspace", "it is not there", {})
    with pytest.raises(errors.StockadeError, match="not there"):
        await opened(world)
    session = await opened(world)
    with pytest.raises(errors.LimitReached):
        await opened(world)
    await world.supervisor.close_session(AGENT, session.id)


async def test_a_session_whose_count_cannot_be_written_is_not_left_open(worlds) -> None:
    world = await serving(worlds, rates=(s.Rate("caller", 0, 0, 9, "p:1"),))
    await world.supervisor.store.write(lambda c: c.set_authorizer(no_changes))
    with pytest.raises(errors.Unavailable):
        await opened(world)
    await world.supervisor.store.write(lambda c: c.set_authorizer(None))
    await nothing_left(world)


def no_changes(operation: int, *_: object) -> int:
    changes = sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE
    return sqlite3.SQLITE_DENY if operation in changes else sqlite3.SQLITE_OK


async def test_a_client_that_goes_away_while_its_session_is_opened_leaves_no_place_and_no_session(worlds) -> None:
    world = await serving(worlds, rates=(s.Rate("caller", 0, 0, 1, "p:1"),))
    opening, open_session = asyncio.Event(), world.client.open_session

    async def told(message):
        opening.set()
        return await open_session(message)

    world.client.open_session = told
    waiting = asyncio.ensure_future(world.run("true"))
    await opening.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await nothing_left(world)
    await finished(world, "true")


async def test_a_refusal_counts_for_the_breaker_and_a_question_does_not(worlds) -> None:
    world = await serving(
        worlds,
        breaker=s.Breaker(failures=2, source="p:1"),
        autonomy=replace(ASKING, blocked_commands=("nmap",)),
    )
    for _ in range(3):
        await asked(world.run("touch", "x"))
    assert world.supervisor.meters.book.breakers == {}
    for _ in range(2):
        with pytest.raises(errors.Denied):
            await world.run("nmap", "x")
    with pytest.raises(errors.LimitReached) as refusal:
        await world.run("true")
    assert refusal.value.rule == "breaker"
    assert await world.supervisor.open_session(STRANGER, SessionRequest(world.workspace), "req-1"), "its own"


async def test_rules_that_took_part_are_noted_as_used(worlds) -> None:
    context = s.Context((("channel", ("irc",)),), "p:50")
    world = await serving(worlds, contexts=(context,), autonomy=replace(ASKING, blocked_commands=("nmap",)))
    await finished(world, "true", labels={"channel": "irc"})
    with pytest.raises(errors.Denied):
        await world.run("nmap")
    rules = world.supervisor.meters.rules
    used = {key for key, (name, _) in rules._entries.items() if rules._rules[name][0]}
    assert {"contexts[0]", "callers[0]", "profiles.shell", "autonomy.blocked_commands[0]"} <= used
    assert "profiles.other" not in used


async def test_labels_that_may_not_be_stated_fill_no_book(worlds) -> None:
    """It is one for all callers: who is refused for each of a million labels would take it from everybody."""
    only = {1000: {"labels": (("agent", ("good*",)),)}}
    world = await serving(worlds, breaker=s.Breaker(failures=50, source="p:3"), of=only)
    for n in range(20):
        with pytest.raises(errors.Denied):
            await world.run("true", labels={"agent": f"bad{n}"})
    with pytest.raises(errors.Denied):
        await world.run("touch", "x", labels={"agent": "good", "user": "bad"})
    states = {agent: state.failures for agent, state in world.supervisor.meters.book.breakers.items()}
    assert states == {"uid:1000/": 20, "uid:1000/good": 1}
    await nothing_left(world)
