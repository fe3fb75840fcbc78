"""Authority over a time: roles that come and go, rules, reloads, and what belongs to somebody else."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from supervisor import errors
from supervisor.approvals.deadlines import Steady
from supervisor.policy import snapshot as s
from tests.unit.decide.samples import peer
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT, STRANGER, VIEWER
from tests.unit.runs.deciding import (
    ASKING,
    JUDGE,
    asked,
    enrolled,
    finished,
    opened,
    reloaded,
    say,
    serving,
    settled,
)

RESPONDER = s.Role("responder", ("agent:read", "agent:execute", "agent:read_all", "agent:end_all"))
RULE = "/etc/stockade/policy.toml:70"


def never(*permissions: str, match: s.Context | tuple = (), **changes) -> s.Rule:
    return replace(s.Rule("never", permissions, match, "deny", RULE), **changes)


async def given(world, who, role: str, answer=JUDGE) -> str:
    """The grant of a role for a time."""
    desk = world.supervisor.desk
    await say(world, (await desk.request_access(who, role, 60_000, "a test")).id, answer)
    return next(g.id for g in desk.grants(who) if g.role == role and g.ended is None)


# --- what belongs to somebody else ------------------------------------------------------------------------------------


async def test_who_may_see_and_end_everybodys_runs_feeds_none_of_them(worlds) -> None:
    """What a shell is fed is executed: R60, agent:execute_all."""
    world = await serving(worlds, RESPONDER, of={2000: {"role": "responder"}})
    feed = world.supervisor.feed
    run = await world.run("sh", stdin_stream=True)
    with pytest.raises(errors.Denied) as refusal:
        await feed(STRANGER, run.id, b"touch fed\n", True)
    assert refusal.value.extra["permission"] == "agent:execute_all"
    with pytest.raises(errors.NotFound):
        await feed(JUDGE, run.id, b"touch fed\n", True)
    await feed(ADMINISTRATOR, run.id, b"touch administered\n", False)
    await feed(AGENT, run.id, b"", True)
    await world.supervisor.wait(run)
    assert os.listdir(world.workspace) == ["administered"]


async def test_a_breaker_is_told_to_its_caller_and_to_who_sees_all(worlds) -> None:
    world = await serving(worlds, breaker=s.Breaker(failures=1, source="p:1"))
    heard = {who.uid: world.supervisor.subscribe(who) for who in (AGENT, STRANGER, ADMINISTRATOR)}
    await finished(world, "false", labels={"agent": "mail-of-anna"})
    world.supervisor.events.close()
    told = {uid: [e.kind async for e in each if e.kind == "breaker.changed"] for uid, each in heard.items()}
    assert told == {1000: ["breaker.changed"], 2000: [], 0: ["breaker.changed"]}


async def test_events_of_others_end_with_the_role_that_showed_them(worlds) -> None:
    world = await serving(worlds, RESPONDER, of={2000: {"may_request": ("responder",)}})
    grant = await given(world, STRANGER, "responder")
    heard = world.supervisor.subscribe(STRANGER)
    first = await finished(world, "true")
    await world.supervisor.desk.revoke(STRANGER, grant, None)
    second = await finished(world, "true")
    again = world.supervisor.subscribe(STRANGER)
    await finished(world, "true")
    world.supervisor.events.close()
    seen = [e async for e in heard]
    runs = {e.data["run"] for e in seen if e.kind.startswith("run.")}
    assert first.id in runs
    assert second.id not in runs
    assert seen[-1].kind == "subscription.dropped"
    assert [e async for e in again] == []


async def test_who_policy_names_no_more_hears_nothing_more(worlds) -> None:
    world = await serving(worlds)
    heard, stays = world.supervisor.subscribe(STRANGER), world.supervisor.subscribe(AGENT)
    await reloaded(world, callers=tuple(c for c in world.snapshot.callers if c.uid != 2000))
    world.supervisor.events.close()
    assert [e.kind async for e in heard] == ["subscription.dropped"]
    assert [e.kind async for e in stays] == ["policy.reloaded"]


# --- roles for a time -------------------------------------------------------------------------------------------------


async def test_who_acts_by_a_role_for_a_time_obeys_what_is_said_of_it_and_of_their_own(worlds) -> None:
    of = {3000: {"may_request": ("operator",)}}
    for role in ("operator", "viewer"):
        world = await serving(worlds, of=of, rules=(never("agent:execute", match=(("role", (role,)),)),))
        await given(world, VIEWER, "operator")
        with pytest.raises(errors.Denied) as refusal:
            await world.run("true", who=VIEWER)
        assert refusal.value.rule == "rules.never"
        await reloaded(world, rules=(), contexts=(s.Context((("role", (role,)),), "p:50", autonomy="readonly"),))
        await given(world, VIEWER, "operator")
        assert (await opened(world, VIEWER)).readonly
        allowed = await finished(world, "true", who=VIEWER)
        assert allowed.decision["reason"].startswith("role operator")


async def test_what_holds_for_a_time_is_measured_by_a_clock_that_is_never_set_back(worlds) -> None:
    """What that clock does: approvals/test_approvals_deadlines.py."""
    world = await serving(worlds, of={3000: {"may_request": ("operator",)}})
    assert isinstance(world.supervisor.book._clock, Steady)
    await given(world, VIEWER, "operator")
    later = world.supervisor.book.now() + 60
    world.supervisor.book._clock = lambda: later
    assert world.supervisor.desk.roles(VIEWER) == ()


async def test_a_role_that_needs_two_people_needs_them_to_get_another(worlds) -> None:
    careful = s.Role("careful", ("agent:read", "agent:execute", "access:request"), second_person=True)
    world = await serving(worlds, careful, of={1000: {"role": "careful", "may_request": ("viewer",)}})
    question = await world.supervisor.desk.request_access(AGENT, "viewer", 60_000, "a test")
    assert question.needed == 2


async def test_who_may_ask_for_a_role_is_who_the_kernel_says_asks(worlds, monkeypatch) -> None:
    """A process that gave up its group is not in it, whatever the host's files say of its user."""
    bare = s.Caller(None, None, None, "viewer", (), (), any_owner=False, source="p:1")
    wheel, own = replace(bare, gid=990, may_request=("administrator",)), replace(bare, gid=6000)
    world = await serving(worlds)
    await reloaded(world, callers=(wheel, own, *world.snapshot.callers))
    monkeypatch.setattr("supervisor.runs.desk._groups", lambda _: {"gid": 6000, "gids": (6000, 990)})
    desk = world.supervisor.desk
    await desk.request_access(peer(6000, gids=(6000, 990)), "administrator", 60_000, "a test")
    with pytest.raises(errors.Denied) as refusal:
        await desk.request_access(peer(6000, unit="confined.service"), "administrator", 60_000, "a test")
    assert refusal.value.rule == "callers.may_request"


# --- rules ------------------------------------------------------------------------------------------------------------


async def test_a_rule_denies_a_yes_and_a_request_for_a_role(worlds) -> None:
    world = await serving(worlds, rules=(never("approvals:answer", "access:request"),), of={
        3000: {"may_request": ("operator",)}
    })  # fmt: skip
    ident = await asked(world.run("touch", "x"))
    for work in (say(world, ident), world.supervisor.desk.request_access(VIEWER, "operator", 60_000, "a test")):
        with pytest.raises(errors.Denied) as refusal:
            await work
        assert (refusal.value.rule, refusal.value.source) == ("rules.never", RULE)
    assert world.supervisor.desk.question(AGENT, ident).state == "pending"


async def test_a_rule_takes_what_is_everybodys_and_leaves_what_is_ones_own(worlds) -> None:
    world = await serving(worlds, rules=(never("*", match=(("role", ("administrator",)),)),))
    service = world.supervisor
    run = await world.run("sleep", "60")
    with pytest.raises(errors.NotFound):
        service.run(ADMINISTRATOR, run.id)
    with pytest.raises(errors.NotFound):
        await service.end(ADMINISTRATOR, run.id)
    assert service.runs(ADMINISTRATOR) == []
    with pytest.raises(errors.Denied):
        service.policy(ADMINISTRATOR)
    assert "callers" not in service.self_view(ADMINISTRATOR)["permissions"]
    assert service.self_view(ADMINISTRATOR)["permissions"] == ["agent:read", "agent:execute"]
    assert service.runs(AGENT) == [run]
    await service.end(AGENT, run.id)
    await run.done.wait()


async def test_a_rule_of_what_is_done_in_anothers_session_holds_there_alone(worlds) -> None:
    world = await serving(worlds, rules=(never("agent:execute_all"),))
    session = await opened(world)
    await finished(world, "true", session=session.id)
    with pytest.raises(errors.Denied) as refusal:
        await world.run("true", who=ADMINISTRATOR, session=session.id)
    assert refusal.value.rule == "rules.never"
    await reloaded(world, rules=(never("agent:execute_all", effect="ask"),))
    assert world.supervisor.session(AGENT, session.id).state == "live"
    await finished(world, "true", session=session.id)
    await asked(world.run("true", who=ADMINISTRATOR, session=session.id))


# --- reloads ----------------------------------------------------------------------------------------------------------


async def test_a_yes_that_is_being_used_when_policy_changes_is_for_nothing(worlds) -> None:
    """Whether it takes two people by now, or runs as more, is for the new policy to ask."""
    world = await serving(worlds)
    await say(world, await asked(world.run("touch", "x")), scope="target")
    book, use = world.supervisor.book, world.supervisor.book.use

    async def used(grant):
        found = await use(grant)
        await reloaded(world, roles=(*world.snapshot.roles, s.Role("operator", ("agent:*",), second_person=True)))
        return found

    book.use = used
    with pytest.raises(errors.Conflict, match="reloaded"):
        await world.run("touch", "x")
    book.use = use
    assert os.listdir(world.workspace) == []


async def test_opening_a_session_on_a_yes_that_is_being_used_when_policy_changes_opens_none(worlds) -> None:
    mind = s.Rule("mind", ("agent:execute",), (), "ask", RULE)
    world = await serving(worlds, rules=(mind,))
    await say(world, await asked(opened(world)))
    book, use = world.supervisor.book, world.supervisor.book.use

    async def used(grant):
        found = await use(grant)
        await reloaded(world, roles=(*world.snapshot.roles, s.Role("operator", ("agent:*",), second_person=True)))
        return found

    book.use = used
    with pytest.raises(errors.Conflict, match="reloaded"):
        await opened(world)
    book.use = use
    assert world.launcher.sessions == []


async def test_no_request_meets_a_new_policy_before_what_it_refused(worlds, monkeypatch) -> None:
    world = await serving(worlds)
    service, serve = world.supervisor, world.supervisor.book.serve
    world.snapshot = world.launcher.snapshot = replace(world.snapshot, autonomy=replace(ASKING, level="full"))
    loaded = await service.runtime.reload()
    proof = {"profile": "shell", "probe": "network", "key": "network", "ok": False, "detail": "no"}

    async def reload():
        return replace(loaded, proofs=(proof,))

    seen: list[object] = []

    async def slowly(*said):
        seen.append(dict(service.refused))
        await serve(*said)

    monkeypatch.setattr(service.runtime, "reload", reload)
    monkeypatch.setattr(service.book, "serve", slowly)
    await service.reload(None)
    assert seen == [{"shell": proof}]


async def test_one_code_for_two_orders_at_once_is_for_one(worlds) -> None:
    world = await serving(worlds, s.Role("administrator", ("*",), mfa_required=True))
    code = (await enrolled(world)).code()
    orders = [world.supervisor.desk.order(ADMINISTRATOR, "config:write", {"n": n}, code) for n in range(8)]
    found = await asyncio.gather(*orders, return_exceptions=True)
    assert [type(one) for one in found].count(errors.StepUpRequired) == 7
    assert found.count(None) == 1
    await settled(world)
