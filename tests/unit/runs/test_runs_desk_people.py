"""Roles for a time, questions and grants: who asks, who answers, who sees and who takes back."""

from __future__ import annotations

import pwd
from dataclasses import replace

import pytest

from supervisor import errors
from supervisor.policy import snapshot as s
from tests.unit.decide.samples import peer
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT, STRANGER, VIEWER
from tests.unit.runs.deciding import (
    JUDGE,
    Authenticator,
    admin,
    asked,
    enrolled,
    reloaded,
    say,
    serving,
    until,
)

# --- roles for a time -------------------------------------------------------------------------------------------------

MAY_ASK = {3000: {"may_request": ("operator",)}}


async def access(world, who=VIEWER, role: str = "operator", duration_ms: int = 60_000, reason: str = "repair"):
    return await world.supervisor.desk.request_access(who, role, duration_ms, reason)


async def test_a_role_that_was_asked_for_and_given_works_until_it_is_revoked(worlds) -> None:
    world = await serving(worlds, of=MAY_ASK)
    desk = world.supervisor.desk
    with pytest.raises(errors.Denied) as refusal:
        await world.run("true", who=VIEWER)
    assert "access request --role operator" in (refusal.value.hint or "")
    found = await access(world)
    assert found.what == {"role": "operator", "duration_ms": 60_000, "reason": "repair"}
    assert desk.roles(VIEWER) == ()
    await say(world, found.id)
    assert desk.roles(VIEWER) == ("operator",)
    assert desk.permits(VIEWER, "agent:execute")
    run = await world.run("true", who=VIEWER)
    await world.supervisor.wait(run)
    assert run.exit_code == 0
    grant = desk.grants(VIEWER)[0]
    assert (grant.role, grant.by) == ("operator", (5000,))
    await desk.revoke(ADMINISTRATOR, grant.id, None)
    assert desk.roles(VIEWER) == ()
    with pytest.raises(errors.Denied):
        await world.run("true", who=VIEWER)


async def test_a_role_ends_by_itself(worlds) -> None:
    world = await serving(worlds, of=MAY_ASK)
    events = world.supervisor.subscribe(ADMINISTRATOR)
    await say(world, (await access(world, duration_ms=1)).id)
    seen = [e async for e in until(events, "grant.ended")]
    assert (seen[-1].data["role"], seen[-1].data["cause"]) == ("operator", "expired")
    assert world.supervisor.desk.roles(VIEWER) == ()
    events.close()


@pytest.mark.parametrize("how", ["revoked", "expired", "reloaded"])
async def test_who_had_a_role_for_a_time_does_not_go_on_seeing_what_it_let_them_see(worlds, how: str) -> None:
    watcher = s.Role("watcher", ("agent:read", "agent:read_all", "approvals:read"))
    world = await serving(worlds, watcher, of={3000: {"may_request": ("watcher",)}})
    desk = world.supervisor.desk
    await say(world, (await access(world, role="watcher", duration_ms=1000 if how == "expired" else 60_000)).id)
    seeing, own = world.supervisor.subscribe(VIEWER), world.supervisor.subscribe(AGENT)
    run = await world.run("true")
    await world.supervisor.wait(run)
    if how == "revoked":
        await desk.revoke(ADMINISTRATOR, desk.grants(VIEWER)[0].id, None)
    elif how == "reloaded":
        await reloaded(world, approvals=replace(world.snapshot.approvals, pending=7))
    seen = [e async for e in seeing]
    assert ("run.started", run.peer.uid) in [(e.kind, e.uid) for e in seen]
    assert (seen[-1].kind, seen[-1].data["reason"][:10]) == ("subscription.dropped", "what may b")
    run = await world.run("true")
    await world.supervisor.wait(run)
    for _ in range(2):  # who may see what they saw goes on
        last = [e async for e in until(own, "run.finished")][-1]
    assert last.data["run"] == run.id
    own.close()


async def test_nobody_asks_for_what_policy_does_not_let_be_asked_for(worlds) -> None:
    world = await serving(worlds, of=MAY_ASK)
    for who, role in ((VIEWER, "administrator"), (AGENT, "administrator"), (VIEWER, "no-such-role")):
        with pytest.raises(errors.Denied) as refusal:
            await access(world, who, role)
        assert refusal.value.rule == "callers.may_request"
        assert refusal.value.allowed in ("operator", "no role")
    with pytest.raises(errors.Denied):
        await access(world, JUDGE)  # it has no access:request
    with pytest.raises(errors.InvalidRequest):
        await access(world, reason="  ")
    assert world.supervisor.desk.questions(ADMINISTRATOR, state=None, limit=9) == []


async def test_a_role_with_a_second_person_is_given_by_two(worlds) -> None:
    world = await serving(
        worlds, s.Role("operator", ("agent:read", "agent:execute", "access:request"), second_person=True), of=MAY_ASK
    )
    found = await access(world)
    assert found.needed == 2
    await say(world, found.id)
    assert world.supervisor.desk.roles(VIEWER) == ()
    await say(world, found.id, ADMINISTRATOR)
    assert world.supervisor.desk.roles(VIEWER) == ("operator",)


async def test_what_policy_no_longer_lets_be_asked_for_is_no_longer_given(worlds) -> None:
    """Who may ask is looked at again when it is answered: by unit, uid or group."""
    world = await serving(worlds, of=MAY_ASK)
    desk = world.supervisor.desk
    desk.may_request(3000, "", "operator")
    with pytest.raises(errors.Denied, match="names this caller"):
        desk.may_request(9999, "", "operator")
    callers = world.snapshot.callers
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid and entry.pw_gid)
    group = s.Caller(
        None, None, user.pw_gid, "viewer", (), (), any_owner=False, source="p:1", may_request=("operator",)
    )
    unit = s.Caller("x.service", None, None, "viewer", (), (), any_owner=False, source="p:1", may_request=("operator",))
    await reloaded(world, callers=(unit, group, *callers[3:4]))
    desk.may_request(user.pw_uid, "", "operator")  # by group, as the host has it
    desk.may_request(9999, "x.service", "operator")
    with pytest.raises(errors.Denied):
        desk.may_request(9999, "y.service", "operator")


async def test_who_may_ask_is_said_by_the_entry_that_names_the_caller_and_not_by_the_first_that_could(worlds) -> None:
    """By unit, then by uid, then by group, as for everything else: callers.find_caller()."""
    world = await serving(worlds, of=MAY_ASK)
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid and entry.pw_gid)
    bare = s.Caller(None, None, None, "viewer", (), (), any_owner=False, source="p:1")
    group = replace(bare, gid=user.pw_gid, may_request=("operator",))
    own = replace(bare, uid=user.pw_uid)
    await reloaded(world, callers=(group, own, replace(bare, unit="x.service"), *world.snapshot.callers[3:4]))
    for unit in ("", "x.service"):
        with pytest.raises(errors.Denied) as refusal:
            world.supervisor.desk.may_request(user.pw_uid, unit, "operator")
        assert refusal.value.allowed == "no role"


# --- questions and grants ---------------------------------------------------------------------------------------------


async def a_question(world, who=AGENT) -> str:
    return await asked(world.run("touch", "x", who=who))


async def test_one_sees_ones_own_questions_and_who_may_read_them_all_sees_all(worlds) -> None:
    world = await serving(worlds)
    desk = world.supervisor.desk
    own, others = await a_question(world), await a_question(world, STRANGER)

    def seen(who, limit: int = 10):
        return [q.id for q in desk.questions(who, state=None, limit=limit)]

    assert (seen(AGENT), seen(STRANGER), seen(VIEWER)) == ([own], [others], [])
    assert seen(ADMINISTRATOR) == seen(JUDGE) == [others, own], "newest first"
    assert seen(JUDGE, limit=1) == [others]
    assert [q.id for q in desk.questions(JUDGE, state="approved", limit=10)] == []
    assert desk.question(AGENT, own).id == own
    for ident in (others, "apr-aaaaaaaaaaaaaaaaaaaa"):
        with pytest.raises(errors.NotFound):
            desk.question(AGENT, ident)
        with pytest.raises(errors.NotFound):
            await desk.wait(AGENT, ident)
        with pytest.raises(errors.NotFound):
            await desk.withdraw(AGENT, ident)


async def test_an_answer_takes_the_right_to_answer_and_is_not_for_ones_own(worlds) -> None:
    world = await serving(worlds)
    ident = await a_question(world)
    for who in (AGENT, STRANGER, VIEWER):
        with pytest.raises(errors.Denied) as refusal:
            await say(world, ident, who)
        assert refusal.value.rule == "callers.role"
    with pytest.raises(errors.NotFound):
        await say(world, "apr-aaaaaaaaaaaaaaaaaaaa")
    assert (await say(world, ident)).state == "approved"
    assert (await world.supervisor.desk.wait(AGENT, ident)).state == "approved"


async def test_a_yes_takes_the_code_of_a_role_that_needs_one_and_a_no_does_not(worlds) -> None:
    world = await serving(worlds, s.Role("judge", ("agent:read", "approvals:*"), mfa_required=True))
    device = await enrolled(world, JUDGE)
    one, other = await a_question(world), await a_question(world, STRANGER)
    with pytest.raises(errors.StepUpRequired):
        await say(world, one)
    assert (await say(world, one, code=device.code())).state == "approved"
    assert (await say(world, other, approve=False)).state == "denied"


async def test_a_question_is_withdrawn_by_who_asked_or_by_who_may_answer(worlds) -> None:
    world = await serving(worlds, s.Role("reader", ("agent:read", "approvals:read")), of={3000: {"role": "reader"}})
    desk = world.supervisor.desk
    assert (await desk.withdraw(AGENT, await a_question(world))).state == "cancelled"
    ident = await a_question(world)
    with pytest.raises(errors.Denied):
        await desk.withdraw(VIEWER, ident)
    assert (await desk.withdraw(JUDGE, ident)).state == "cancelled"
    with pytest.raises(errors.Conflict):
        await desk.withdraw(AGENT, ident)


async def test_a_grant_is_seen_and_revoked_by_its_owner_and_by_who_may(worlds) -> None:
    world = await serving(worlds)
    desk = world.supervisor.desk
    for _ in range(2):
        await say(world, await a_question(world), scope="until", duration_ms=60_000)
        await world.supervisor.wait(await world.run("touch", "x"))
        grant = next(g for g in desk.grants(AGENT) if g.ended is None)
        assert desk.grants(STRANGER) == []
        assert grant.id in [g.id for g in desk.grants(JUDGE)]
        with pytest.raises(errors.NotFound):
            await desk.revoke(STRANGER, grant.id, None)
        with pytest.raises(errors.Denied):
            await desk.revoke(JUDGE, grant.id, None)  # sees it, and does not have grants:revoke
        who = AGENT if _ else ADMINISTRATOR
        assert (await desk.revoke(who, grant.id, None)).ended == "revoked"
        await desk.withdraw(AGENT, await a_question(world))


async def test_another_ones_grant_is_revoked_as_an_order_and_ones_own_is_not(worlds) -> None:
    world = await serving(worlds, admin(mfa_required=True))
    desk = world.supervisor.desk
    await say(world, await a_question(world), scope="until", duration_ms=60_000)
    grant = desk.grants(AGENT)[0]
    with pytest.raises(errors.StepUpRequired):
        await desk.revoke(ADMINISTRATOR, grant.id, None)
    await desk.revoke(AGENT, grant.id, None)


async def test_a_second_secret_for_codes_takes_a_code_of_the_first(worlds) -> None:
    world = await serving(worlds)
    desk = world.supervisor.desk
    first = await desk.enroll(AGENT, None)
    assert first["uri"].startswith("otpauth://totp/")
    with pytest.raises(errors.StepUpRequired):
        await desk.enroll(AGENT, None)
    second = await desk.enroll(AGENT, Authenticator(first["secret"]).code())
    assert second["secret"] != first["secret"]
    with pytest.raises(errors.Denied):
        await desk.enroll(peer(9999), None)


async def test_the_codes_of_somebody_who_lost_the_device_are_forgotten_by_another_administrator(worlds) -> None:
    world = await serving(worlds)
    desk = world.supervisor.desk
    await enrolled(world, AGENT)
    for who in (STRANGER, JUDGE):
        with pytest.raises(errors.Denied):
            await desk.forget_codes(who, AGENT.uid, None)
    with pytest.raises(errors.Denied, match="own key"):
        await desk.forget_codes(ADMINISTRATOR, ADMINISTRATOR.uid, None)
    assert await desk.forget_codes(ADMINISTRATOR, AGENT.uid, None) == {"uid": AGENT.uid}
    with pytest.raises(errors.Conflict):
        await desk.forget_codes(ADMINISTRATOR, AGENT.uid, None)
    assert await desk.enroll(AGENT, None), "a new one takes no code of the old"
