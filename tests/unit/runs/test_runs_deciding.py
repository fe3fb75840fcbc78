"""From a request to what may be launched: the wait for a yes, and that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from supervisor import errors
from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.shell.model import Analysis, Risk
from supervisor.policy import snapshot as s
from supervisor.runs import deciding
from tests.unit.decide import samples
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT
from tests.unit.runs.deciding import (
    ASKING,
    SECOND,
    asked,
    finished,
    nothing_left,
    opened,
    question,
    reloaded,
    say,
    script,
    serving,
    settled,
)

WAIT = 60_000  # ms; nothing here waits as long


# --- waiting for a yes ------------------------------------------------------------------------------------------------


async def test_without_waiting_the_question_is_the_answer_and_is_recorded_as_one(worlds) -> None:
    world = await serving(worlds)
    ident = await asked(world.run("touch", "x", labels={"agent": "a7"}))
    await settled(world)
    record = world.auditor.of("decision")[0]
    assert (record["outcome"], record["run"], record["result"]) == ("ask", None, {"approval": ident})
    assert record["authorization_policy"] == f"autonomy.approval_patterns[0] {ASKING.source}"
    assert os.listdir(world.workspace) == []
    await nothing_left(world)


async def test_whoever_waits_goes_on_with_the_yes_and_is_told_of_the_question(worlds, events) -> None:
    world = await serving(worlds)
    told: list[dict] = []
    seen = events(world)
    request = world.request("touch", "x", wait_approval_ms=WAIT)
    waiting = asyncio.ensure_future(world.supervisor.start(AGENT, request, "req-1", told.append))
    ident = await question(seen)
    assert world.launcher.sessions == [], "nothing is open while a person thinks"
    assert os.listdir(world.workspace) == []
    await say(world, ident)
    run = await waiting
    await world.supervisor.wait(run)
    assert os.listdir(world.workspace) == ["x"]
    assert [(t["type"], t["approval"]["id"]) for t in told] == [("approval", ident)]
    assert (run.decision["verdict"], run.decision["approval"]) == ("allow", ident)
    allowed = world.auditor.of("decision")[-1]
    assert (allowed["result"]["approval"], allowed["result"]["by"]) == (ident, [5000])
    await nothing_left(world)


async def test_whoever_waited_long_enough_is_told_that_it_is_still_asked(worlds) -> None:
    world = await serving(worlds)
    ident = await asked(world.run("touch", "x", wait_approval_ms=1))
    assert world.supervisor.desk.question(AGENT, ident).state == "pending"
    await nothing_left(world)


async def test_a_no_ends_the_wait_as_a_refusal(worlds, events) -> None:
    world = await serving(worlds)
    seen = events(world)
    waiting = asyncio.ensure_future(world.run("touch", "x", wait_approval_ms=WAIT))
    await say(world, await question(seen), approve=False, note="no")
    with pytest.raises(errors.ApprovalDenied):
        await waiting
    await settled(world)
    assert [r["outcome"] for r in world.auditor.of("decision")] == ["ask", "deny"]
    await nothing_left(world)


async def test_a_reload_in_between_ends_the_wait(worlds, events) -> None:
    world = await serving(worlds)
    seen = events(world)
    waiting = asyncio.ensure_future(world.run("touch", "x", wait_approval_ms=WAIT))
    ident = await question(seen)
    await reloaded(world, autonomy=replace(ASKING, blocked_commands=("touch",)))
    with pytest.raises(errors.Conflict):
        await waiting
    assert world.supervisor.desk.question(AGENT, ident).state == "cancelled"
    assert os.listdir(world.workspace) == []
    await nothing_left(world)


async def test_what_was_approved_is_decided_again_before_it_runs(worlds, events) -> None:
    """The emergency stop, a rate, a session that is gone: a yes is no way past any of them."""
    world = await serving(worlds, rates=(s.Rate("caller", 0, 0, 1, "p:1"),))
    seen = events(world)
    waiting = asyncio.ensure_future(world.run("touch", "x", wait_approval_ms=WAIT))
    ident = await question(seen)
    await finished(world, "true")
    await say(world, ident)
    with pytest.raises(errors.LimitReached):
        await waiting
    stopped = await serving(worlds)
    seen = events(stopped)
    waiting = asyncio.ensure_future(stopped.run("touch", "x", wait_approval_ms=WAIT))
    ident = await question(seen)
    await stopped.supervisor.stop(ADMINISTRATOR, "now")
    await say(stopped, ident)
    with pytest.raises(errors.Stopped):
        await waiting
    for each in (world, stopped):
        assert os.listdir(each.workspace) == []
        await nothing_left(each)


async def test_a_yes_for_a_session_that_is_closed_meanwhile_runs_nothing(worlds, events) -> None:
    world = await serving(worlds)
    session = await opened(world)
    seen = events(world)
    waiting = asyncio.ensure_future(world.run("touch", "x", session=session.id, wait_approval_ms=WAIT))
    ident = await question(seen)
    await world.supervisor.close_session(AGENT, session.id)
    await say(world, ident)
    with pytest.raises(errors.Conflict):
        await waiting
    assert os.listdir(world.workspace) == []
    await nothing_left(world)


async def test_a_client_that_goes_away_while_it_waits_leaves_nothing(worlds, events) -> None:
    world = await serving(worlds)
    script(world)
    for argv in (("touch", "x"), ("sh", "approved.sh")):
        seen = events(world)
        waiting = asyncio.ensure_future(world.run(*argv, wait_approval_ms=WAIT))
        ident = await question(seen)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await nothing_left(world)
        await say(world, ident)
    assert os.listdir(world.workspace) == ["approved.sh"], "a yes by itself runs nothing"


async def test_a_yes_is_bound_to_what_is_fed_and_for_a_stream_it_is_good_once(worlds) -> None:
    world = await serving(worlds)
    ident = await asked(world.run("touch", "x", stdin=b"one"))
    assert await asked(world.run("touch", "x", stdin=b"two")) != ident
    stream = await asked(world.run("touch", "x", stdin_stream=True))
    with pytest.raises(errors.Denied, match="not known"):
        await say(world, stream, scope="until", duration_ms=WAIT)
    await say(world, stream)
    run = await world.run("touch", "x", stdin_stream=True)
    await world.supervisor.feed(AGENT, run.id, b"", True)
    await world.supervisor.wait(run)
    assert await asked(world.run("touch", "x", stdin_stream=True)) != stream


async def test_a_yes_is_bound_to_what_variables_are_set_to(worlds) -> None:
    """PATH, LD_PRELOAD or BASH_ENV choose what is executed: the same names with other values are something else."""
    world = await serving(worlds)
    benign, hostile = {"PATH": "/usr/bin:/bin"}, {"PATH": f"{world.workspace}/bin:/usr/bin:/bin"}
    ident = await asked(world.run("touch", "x", env=benign))
    await say(world, ident, scope="until", duration_ms=WAIT)
    assert await asked(world.run("touch", "x", env=hostile)) != ident
    assert os.listdir(world.workspace) == []
    await finished(world, "touch", "x", env=benign)
    assert os.listdir(world.workspace) == ["x"]


async def test_a_yes_to_one_user_is_none_to_another(worlds) -> None:
    """All of them come through one caller: what it says of them is all that the person who answers is told."""
    world = await serving(worlds)
    ident = await asked(world.run("touch", "x", labels={"user": "anna"}))
    other = await asked(world.run("touch", "x", labels={"user": "mallory"}))
    assert other != ident
    await say(world, ident, scope="until", duration_ms=WAIT)
    assert await asked(world.run("touch", "x", labels={"user": "mallory"})) == other
    assert await asked(world.run("touch", "x")) not in (ident, other)
    await finished(world, "touch", "x", labels={"user": "anna"})


async def test_a_yes_to_one_reason_is_none_to_another(worlds) -> None:
    """What a rule asks about only now, nobody has been asked about."""
    rule = s.Rule("audited", ("agent:execute",), (), "ask", "p:70", audit=True)
    world = await serving(worlds, rules=(rule,))
    ident = await asked(world.run("touch", "x"))
    await say(world, ident, scope="until", duration_ms=WAIT)
    world.supervisor.audit_ok = False
    assert await asked(world.run("touch", "x")) != ident
    world.supervisor.audit_ok = True
    await finished(world, "touch", "x")


async def test_two_people_are_needed_where_the_role_says_so(worlds) -> None:
    role = s.Role("operator", ("agent:read", "agent:execute"), second_person=True)
    world = await serving(worlds, role)
    ident = await asked(world.run("touch", "x"))
    await say(world, ident)
    assert await asked(world.run("touch", "x")) == ident
    await say(world, ident, SECOND)
    await finished(world, "touch", "x")
    assert os.listdir(world.workspace) == ["x"]


async def test_opening_a_session_can_be_asked_about(worlds) -> None:
    rule = s.Rule("mind", ("agent:execute",), (("agent", ("new",)),), "ask", "p:70")
    world = await serving(worlds, rules=(rule,))
    ident = await asked(opened(world, labels={"agent": "new"}))
    assert world.launcher.sessions == []
    assert world.supervisor.desk.question(AGENT, ident).what["parameters"]["workspace"] == world.workspace
    await say(world, ident)
    session = await opened(world, labels={"agent": "new"})
    assert world.launcher.sessions == [session.id]
    assert await asked(opened(world, labels={"agent": "new"})) != ident


async def test_a_session_that_was_approved_is_for_the_user_that_was_shown_and_decided_again(worlds) -> None:
    rule = s.Rule("mind", ("agent:execute",), (), "ask", "p:70")
    world = await serving(worlds, rules=(rule,), rates=(s.Rate("caller", 0, 0, 1, "p:1"),))
    idents = [await asked(opened(world, labels={"user": user})) for user in ("anna", "mallory")]
    assert idents[0] != idents[1]
    for ident in idents:
        await say(world, ident)
    both = [opened(world, labels={"user": user}) for user in ("anna", "mallory")]
    found = await asyncio.gather(*both, return_exceptions=True)
    assert [type(one) for one in found].count(errors.LimitReached) == 1, "each was let through while none had begun"
    assert len(world.launcher.sessions) == 1


async def test_a_dry_run_asks_nobody(worlds) -> None:
    world = await serving(worlds)
    said = await world.supervisor.dry_run(AGENT, world.request("touch", "x"))
    assert said["decision"]["verdict"] == "ask"
    assert world.supervisor.desk.questions(ADMINISTRATOR, state=None, limit=9) == []
    await nothing_left(world)


def decided(*risks: str, **changes):
    """A decision that somebody is asked about for these risks."""
    policy = samples.snapshot(samples.caller(), samples.caller(uid=0, role="administrator"))
    policy = replace(policy, autonomy=s.Autonomy(approval_risks=("mining", "scanning"), source="p:1"))
    seen = Analysis(risks=tuple(Risk(kind, "x", 0, 1) for kind in risks))
    found = admit_run(policy, {}, samples.peer(), None, samples.request(), Counters(), seen)
    return replace(found, **changes)


def test_after_the_wait_it_may_be_asked_about_for_less_and_for_nothing_else() -> None:
    asked_for = decided("mining", "scanning")
    for now in (decided("mining", "scanning"), decided("scanning"), decided()):
        assert deciding.anew(asked_for, now) is now
    for now in (
        decided("scanning", readonly=True),
        decided("mining", network="none"),
        decided("mining", "scanning", readonly=True),
    ):
        with pytest.raises(errors.Conflict):
            deciding.anew(asked_for, now)
    with pytest.raises(errors.Conflict):
        deciding.anew(decided("mining"), asked_for)


def test_what_a_reason_says_may_change_while_it_is_waited_for() -> None:
    """A rule about hours names the minute."""
    before = decided("mining")
    now = replace(before, reasons=tuple(replace(r, detail="it is 22:01 in UTC") for r in before.reasons))
    assert deciding.anew(before, now) is now
