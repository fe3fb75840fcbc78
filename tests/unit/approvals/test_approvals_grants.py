"""A grant holds for exactly what was approved, as often and as long as was said, and never once more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from supervisor.approvals.deadlines import Steady
from supervisor.errors import Conflict, Denied, NotFound, Unavailable
from tests.unit.approvals.test_approvals_model import OTHER
from tests.unit.approvals.world import AGENT, ANNA, APPROVALS, POLICY, REASON, SESSION, TARGET, World

OTHER_REASON = {**REASON, "subject": "risk secrets"}
DYNAMIC = {**REASON, "subject": "risk dynamic", "detail": "the command is $X", "blanket": False}


async def test_once_is_once(world: World) -> None:
    held = await world.grant("once")
    assert world.match() == held
    used = await world.book.use(held)
    assert (used.left, used.ended, used.last_used) == (0, "used_up", world.clock())
    assert world.match() is None
    with pytest.raises(Conflict, match="used_up"):
        await world.book.use(held)
    assert world.actions() == ["asked", "answered", "granted", "used"]
    assert world.kinds() == ["approval.requested", "approval.answered", "grant.used"]
    assert world.records[-1]["result"]["grant"] == held.id


async def test_n_times_are_never_more_also_at_the_same_moment(world: World) -> None:
    held = await world.grant("times", times=5)
    found = await asyncio.gather(*(world.book.use(held) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(f, Conflict) for f in found) == 15
    assert world.book.grant(held.id).used == 5
    await world.restart()
    assert (world.book.grant(held.id).used, world.book.grant(held.id).ended) == (5, "used_up")


async def test_uses_are_counted_over_restarts(world: World) -> None:
    held = await world.grant("times", times=3)
    for left in (2, 1, 0):
        found = world.match()
        assert found is not None
        await world.book.use(found)
        await world.restart()
        assert world.book.grant(held.id).left == left
    assert world.match() is None


@pytest.mark.parametrize("name", sorted(OTHER))
async def test_whatever_changed_does_not_run_on_that_grant(world: World, name: str) -> None:
    await world.grant("target")
    assert world.match() is not None
    assert world.match(**{name: OTHER[name]}) is None


async def test_until_ends_by_itself(world: World) -> None:
    held = await world.grant("until", duration_ms=30_000)
    assert held.until == world.clock() + 30
    world.clock.advance(29.9)
    assert world.match() is not None
    world.clock.advance(0.1)
    assert world.match() is None
    assert world.book.grant(held.id).ended == "expired"
    assert world.kinds()[-1] == "grant.ended"
    await world.restart()
    assert world.book.grant(held.id).ended == "expired"


async def test_a_grant_whose_time_is_over_is_not_used_also_when_the_timer_is_late(world: World) -> None:
    held = await world.grant("until", duration_ms=30_000)
    world.clock.time += 30
    assert world.match() is None
    with pytest.raises(Conflict, match="time is over"):
        await world.book.use(held)


async def test_a_target_may_be_used_as_often_as_asked_until_its_time(world: World) -> None:
    held = await world.grant("target", duration_ms=60_000)
    for _ in range(20):
        await world.book.use(held)
    assert (world.book.grant(held.id).used, world.book.grant(held.id).left) == (20, None)


async def test_a_session_covers_its_subjects_in_that_session_alone(world: World) -> None:
    await world.grant("session", REASON, OTHER_REASON)
    assert world.match(argv=("git", "push", "--force", "x")) is not None
    assert world.match(REASON, OTHER_REASON, argv=("other",)) is not None
    assert world.match({**REASON, "subject": "pattern rm"}) is None
    assert world.match(REASON, {**REASON, "subject": "pattern rm"}) is None
    assert world.match(session="ses-bbbbbbbbbbbb") is None
    assert world.match(session=None) is None
    assert world.match(uid=1001) is None
    assert world.match(unit="other.service") is None
    assert world.match(policy_digest="ef" * 32) is None


async def test_a_session_never_covers_what_nobody_can_know(world: World) -> None:
    await world.grant("session", REASON)
    assert world.match({**REASON, "blanket": False}) is None
    no_reason = world.book.match("0" * 64, SESSION, set(), TARGET.uid, TARGET.unit, POLICY, world.clock(), blanket=True)
    assert no_reason is None


@pytest.mark.parametrize(("reasons", "session"), [((REASON, DYNAMIC), SESSION), ((REASON,), None)])
async def test_a_yes_for_the_session_that_would_cover_too_much_is_refused_with_what_can_be_chosen(
    world: World, reasons: Any, session: str | None
) -> None:
    asked = await world.ask(*reasons, session=session)
    with pytest.raises(Denied) as caught:
        await world.book.answer(asked.id, ANNA, approve=True, scope="session")
    assert (caught.value.field, caught.value.allowed) == ("scope", "once, times, until, target")
    await world.book.answer(asked.id, ANNA, approve=True, scope="target")
    assert world.match(*reasons, session=session) is not None


@pytest.mark.parametrize(
    "terms", [{"scope": "times", "times": 2}, {"scope": "until", "duration_ms": 9}, {"scope": "target"}]
)
async def test_a_command_whose_input_is_not_known_yet_is_approved_once_and_no_more(world: World, terms: Any) -> None:
    asked = await world.ask(argv=("sh",), stdin="stream")
    with pytest.raises(Denied, match="not known") as caught:
        await world.book.answer(asked.id, ANNA, approve=True, **terms)
    assert caught.value.allowed == "once"
    await world.book.answer(asked.id, ANNA, approve=True)
    held = world.match(argv=("sh",), stdin="stream")
    assert held is not None
    assert held.left == 1


async def test_a_session_grant_ends_with_its_session(world: World) -> None:
    held = await world.grant("session")
    world.book.session_ended("ses-bbbbbbbbbbbb")
    assert world.match() is not None
    world.book.session_ended(SESSION)
    assert world.match() is None
    assert world.book.grant(held.id).ended == "session_ended"
    assert world.actions()[-1] == "ended"


async def test_sessions_end_with_the_service_and_their_grants_too_while_others_live_on(world: World) -> None:
    of_session = await world.grant("session")
    of_target = await world.grant("target", changes={"cwd": "/srv/ws/x"})
    await world.restart()
    assert world.book.grant(of_session.id).ended == "session_ended"
    assert world.book.grant(of_target.id) == of_target


async def test_a_revoked_grant_holds_no_more_and_cannot_be_revoked_twice(world: World) -> None:
    held = await world.grant("target")
    revoking = asyncio.ensure_future(world.book.revoke(held.id, ANNA))
    await asyncio.sleep(0)
    assert world.match() is None  # at once, not when the disk is done
    assert (await revoking).ended == "revoked"
    with pytest.raises(Conflict, match="revoked"):
        await world.book.revoke(held.id, ANNA)
    with pytest.raises(NotFound):
        await world.book.revoke("gra-unknown", ANNA)
    assert (world.kinds()[-1], world.records[-1]["result"]["by"]) == ("grant.revoked", ANNA)
    await world.restart()
    assert world.book.grant(held.id).ended == "revoked"


async def test_a_revocation_that_the_disk_refused_is_given_again_and_then_outlives_a_restart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the second try would say that there is nothing to take back, and the next start would give it back."""
    held = await world.grant("target")

    async def full(_: Any) -> None:
        raise Unavailable("the state cannot be kept: database or disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(world.store, "write", full)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await world.book.revoke(held.id, ANNA)
            assert world.match() is None
    assert (await world.book.revoke(held.id, ANNA)).ended == "revoked"
    with pytest.raises(Conflict, match="revoked"):
        await world.book.revoke(held.id, ANNA)
    assert world.actions().count("revoked") == 1
    await world.restart()
    assert world.match() is None


async def test_another_policy_makes_grants_stale_for_good_and_visible(world: World) -> None:
    held = await world.grant("target")
    await world.book.serve(APPROVALS, "ef" * 32)
    await world.book.serve(APPROVALS, POLICY)
    assert world.match() is None
    assert [g.ended for g in world.book.grants()] == ["stale"]
    await world.restart()
    assert world.book.grant(held.id).ended == "stale"


async def test_a_grant_that_is_revoked_while_a_reload_ends_others_ends_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.approvals.work.SLICE", 1)
    held = [await world.grant("target", changes={"cwd": f"/{n}"}) for n in range(3)]
    reload = asyncio.ensure_future(world.book.serve(APPROVALS, "ef" * 32))
    await asyncio.sleep(0)
    await world.book.revoke(held[2].id, ANNA)
    await reload
    assert [world.book.grant(g.id).ended for g in held] == ["stale", "stale", "revoked"]
    assert sorted(world.actions()[-3:]) == ["ended", "ended", "revoked"]


async def test_a_policy_that_changed_while_the_service_was_down_makes_them_stale_too(world: World) -> None:
    held = await world.grant("target")
    asked = await world.ask(cwd="/x")
    await world.restart(digest="ef" * 32)
    assert world.book.grant(held.id).ended == "stale"
    assert world.book.question(asked.id).state == "cancelled"


async def test_of_several_the_uncounted_one_is_used_first(world: World) -> None:
    await world.grant("times", times=2)
    endless = await world.grant("target")
    found = world.match()
    assert found is not None
    assert found.id == endless.id


async def test_what_cannot_be_written_down_is_not_used_and_not_given_back(world: World) -> None:
    held = await world.grant("once")
    await world.store.close()
    with pytest.raises(Exception, match="the state is closed"):
        await world.book.use(held)
    assert world.match() is None
    await world.start()
    assert world.match() is not None  # it was never acknowledged as used


async def test_who_goes_away_during_a_use_has_used_it(world: World) -> None:
    held = await world.grant("times", times=2)
    using = asyncio.ensure_future(world.book.use(held))
    await asyncio.sleep(0)
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    await world.restart()
    assert world.book.grant(held.id).left == 1


@pytest.mark.parametrize("scope", ["once", "until"])
async def test_what_was_spent_in_time_is_carried_out_while_it_holds(world: World, scope: Any) -> None:
    spent = await world.book.use(await world.grant(scope, duration_ms=60_000))
    world.book.carry_out(spent)
    world.clock.advance(59)
    world.book.carry_out(spent)


@pytest.mark.parametrize("scope", ["once", "until"])
@pytest.mark.parametrize("how", ["stale", "expired", "revoked"])
async def test_what_was_taken_back_before_it_began_is_not_carried_out(
    world: World, monkeypatch: pytest.MonkeyPatch, scope: Any, how: str
) -> None:
    """Also when it was forgotten meanwhile. What is used up cannot be revoked: there is nothing to take back."""
    monkeypatch.setattr("supervisor.approvals.index.KEPT_GRANTS", 0)
    spent = await world.book.use(await world.grant(scope, duration_ms=60_000))
    if how == "stale":
        await world.book.serve(APPROVALS, "cd" * 32)
    elif how == "expired":
        world.clock.advance(60)
    elif scope == "until":
        await world.book.revoke(spent.id, ANNA)
    else:
        world.book.carry_out(spent)
        return
    with pytest.raises(Conflict, match="does not hold any more"):
        world.book.carry_out(spent)


async def test_more_grants_than_there_is_room_for_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.approvals.terms.MAX_GRANTS", 2)
    first = await world.grant("target", changes={"cwd": "/1"})
    await world.grant("target", changes={"cwd": "/2"})
    asked = await world.ask(cwd="/3")
    with pytest.raises(Exception, match="2 grants hold"):
        await world.book.answer(asked.id, ANNA, approve=True)
    await world.book.revoke(first.id, ANNA)
    await world.book.answer(asked.id, ANNA, approve=True)


async def test_grants_that_ended_are_kept_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.approvals.index.KEPT_GRANTS", 3)
    for n in range(5):
        await world.book.use(await world.grant("once", changes={"cwd": f"/{n}"}))
    assert len(world.book.grants()) == 3
    await world.restart()
    assert len(world.book.grants()) == 3


async def test_a_clock_that_was_wrong_leaves_no_grant_that_holds_for_years(world: World) -> None:
    """Made while the clock was ahead, looked at by a process that begins when it is right again."""
    world.clock.time += 365 * 86_400
    held = await world.grant("until", duration_ms=30_000)
    world.clock.time -= 365 * 86_400
    await world.restart()
    assert world.match() is None
    assert world.book.grant(held.id).ended == "expired"


async def test_a_role_ends_after_its_time_though_the_clock_is_set_back(world: World) -> None:
    passed = 0.0
    steady = Steady(world.clock, lambda: passed)
    world.book._clock = steady
    what = {"role": "operator", "duration_ms": 60_000, "reason": "x"}
    question = await world.book.ask("access", AGENT, "0" * 64, what, [])
    await world.book.answer(question.id, ANNA, approve=True)
    owner = AGENT["uid"], AGENT["unit"]
    world.clock.time -= 86_400
    passed += 59
    assert world.book.roles(*owner, world.book.now()) == ["operator"]
    passed += 1
    assert world.book.roles(*owner, world.book.now()) == []
