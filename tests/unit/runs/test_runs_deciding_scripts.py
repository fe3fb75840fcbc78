"""Scripts that a yes is bound to: looked at, shown, held, in a session that does not stay open."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from supervisor import errors
from supervisor.policy import snapshot as s
from supervisor.wire import messages as w
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT
from tests.unit.runs.deciding import (
    asked,
    finished,
    nothing_left,
    opened,
    say,
    script,
    serving,
)

WAIT = 60_000  # ms; nothing here waits as long


async def test_a_script_is_shown_and_what_was_shown_is_what_is_sent_to_run(worlds) -> None:
    world = await serving(worlds)
    script(world)
    ident = await asked(world.run("sh", "approved.sh"))
    file = world.supervisor.desk.question(AGENT, ident).what["files"][0]
    assert (file["path"], file["head"]) == ("approved.sh", "echo approved\n")
    await nothing_left(world)
    await say(world, ident)
    run = await finished(world, "sh", "approved.sh")
    assert run.output.head_tail("stdout")[0] == b"approved\n"
    assert world.launcher.of(w.StartRun)[0].held == {"approved.sh": file["sha256"]}
    assert len(world.launcher.of(w.OpenSession)) == 2, "the run is in the session in which it was looked at"
    await nothing_left(world)


async def test_another_content_is_another_question(worlds) -> None:
    world = await serving(worlds)
    script(world)
    ident = await asked(world.run("sh", "approved.sh"))
    await say(world, ident)
    script(world, "touch ran\n")
    assert await asked(world.run("sh", "approved.sh")) != ident
    assert os.listdir(world.workspace) == ["approved.sh"]
    await nothing_left(world)


async def test_whoever_waits_with_a_script_has_nothing_open_and_runs_what_was_shown(worlds) -> None:
    world = await serving(worlds)
    script(world)
    told: asyncio.Queue[dict] = asyncio.Queue()
    request = world.request("sh", "approved.sh", wait_approval_ms=WAIT)
    waiting = asyncio.ensure_future(world.supervisor.start(AGENT, request, "req-1", told.put_nowait))
    ident = (await told.get())["approval"]["id"]
    assert world.launcher.sessions == [], "it was closed before anybody was told to wait"
    script(world, "touch ran\n")
    await say(world, ident)
    await world.supervisor.wait(await waiting)
    shown = world.supervisor.desk.question(AGENT, ident).what["files"][0]["sha256"]
    assert world.launcher.of(w.StartRun)[0].held == {"approved.sh": shown}, "the launcher refuses the other content"
    await nothing_left(world)


async def test_in_a_session_that_lives_it_is_looked_at_there(worlds) -> None:
    world = await serving(worlds)
    script(world)
    session = await opened(world)
    await asked(world.run("sh", "approved.sh", session=session.id))
    assert world.launcher.sessions == [session.id]
    assert [m.session for m in world.launcher.of(w.Inspect)] == [session.id]
    await world.supervisor.close_session(AGENT, session.id)
    await nothing_left(world)


async def test_when_it_cannot_be_looked_at_nothing_is_asked_and_nothing_stays_open(worlds) -> None:
    world = await serving(worlds)
    script(world)
    opening = w.Refused(0, "workspace", "it is not there", {})
    world.launcher.refuse = opening
    with pytest.raises(errors.StockadeError):
        await world.run("sh", "approved.sh")
    await nothing_left(world)
    looking = world.launcher._on_inspect

    def refused(message: w.Inspect, fds: list[int]) -> None:
        world.launcher.refuse = replace(opening, code="denied", detail="it is a directory")
        looking(message, fds)

    world.launcher._on_inspect = refused
    with pytest.raises(errors.StockadeError, match="directory"):
        await world.run("sh", "approved.sh")
    assert world.supervisor.desk.questions(ADMINISTRATOR, state=None, limit=9) == []
    await nothing_left(world)


async def test_a_client_that_goes_away_while_it_is_looked_at_leaves_nothing(worlds) -> None:
    world = await serving(worlds)
    script(world)
    world.launcher.looks = False
    inspecting, inspect = asyncio.Event(), world.client.inspect

    async def told(session: str, paths: list[str]):
        inspecting.set()
        return await inspect(session, paths)

    world.client.inspect = told
    waiting = asyncio.ensure_future(world.run("sh", "approved.sh"))
    await inspecting.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await nothing_left(world)


async def test_requests_that_are_looked_at_at_once_do_not_share_what_is_left_of_a_rate(worlds) -> None:
    """Each was let through while none had begun: so each is decided again before it begins."""
    world = await serving(worlds, rates=(s.Rate("caller", 0, 0, 2, "p:1"),))
    script(world)
    await say(world, await asked(world.run("sh", "approved.sh")), scope="until", duration_ms=WAIT)
    runs = await asyncio.gather(*(world.run("sh", "approved.sh") for _ in range(4)), return_exceptions=True)
    begun = [run for run in runs if not isinstance(run, BaseException)]
    assert len(begun) == 2
    assert all(isinstance(run, errors.LimitReached) for run in runs if run not in begun)
    for run in begun:
        await world.supervisor.wait(run)
    await nothing_left(world)


async def test_limits_that_were_asked_for_hold_in_the_session_that_was_opened_to_look(worlds) -> None:
    world = await serving(worlds)
    script(world)
    of = {"agent": "a"}
    await say(world, await asked(world.run("sh", "approved.sh", labels=of)), scope="until", duration_ms=WAIT)
    run = await finished(world, "sh", "approved.sh", limits={"memory": 64 << 20}, labels=of)
    assert (run.limits["memory"], run.labels) == (64 << 20, {"agent": "a"})
    assert world.launcher.of(w.OpenSession)[-1].limits == {"memory": 64 << 20}


async def test_what_cannot_be_sent_leaves_no_session_open(worlds) -> None:
    """It was opened to look at the script, and only then it shows that the variables are too many for an exec."""
    world = await serving(worlds)
    script(world)
    room = w.MAX_TEXT - len("sh approved.sh ")  # what a request may bring; the profile and the base come on top
    env = {"A": "x" * (room // 2 - 3), "B": "x" * (room // 2 - 3)}
    await say(world, await asked(world.run("sh", "approved.sh", env=env)), scope="until", duration_ms=WAIT)
    for _ in range(2):
        with pytest.raises(errors.TooLarge):
            await world.run("sh", "approved.sh", env=env)
        await nothing_left(world)
