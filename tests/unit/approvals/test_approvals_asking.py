"""A question is asked once, is durable before anybody is told, and ends by an answer or by its time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from supervisor.approvals import terms
from supervisor.errors import ApprovalDenied, Conflict, Denied, InvalidRequest, LimitReached, NotFound
from supervisor.policy.snapshot import Approvals
from tests.unit.approvals.world import AGENT, ANNA, APPROVALS, BERT, POLICY, REASON, SESSION, TARGET, World


async def test_the_same_thing_asked_again_is_the_same_question(world: World) -> None:
    first = await world.ask()
    assert (await world.ask()).id == first.id
    assert (await world.ask(argv=("git", "push"))).id != first.id
    assert [q.id for q in world.book.questions("pending")][-1] == first.id
    assert world.actions() == ["asked", "asked"]


async def test_the_same_thing_asked_at_the_same_time_is_one_question(world: World) -> None:
    found = await asyncio.gather(*(world.ask() for _ in range(20)))
    assert len({q.id for q in found}) == 1
    assert world.actions() == ["asked"]


async def test_a_question_shows_what_will_run_and_why(world: World) -> None:
    asked = await world.ask()
    assert asked.what["argv"] == ["git", "push", "--force"]
    assert asked.reasons == [REASON]
    assert (asked.session, asked.expires - asked.created) == (SESSION, 600.0)
    kind, uid, data = world.events[0]
    assert (kind, uid, data["approval"], data["expires"]) == ("approval.requested", 1000, asked.id, asked.expires)
    record = world.records[0]
    assert (record["event_type"], record["outcome"], record["args"]) == (
        "approval",
        "pending",
        ["git", "push", "--force"],
    )
    assert (record["caller"]["unit"], record["session_id"]) == ("agent.service", SESSION)
    assert REASON["detail"] in record["reason"]


async def test_an_asker_who_goes_away_leaves_a_whole_question(world: World) -> None:
    asking = asyncio.ensure_future(world.ask())
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await world.book.settled()
    (asked,) = world.book.questions("pending")
    await world.restart()
    assert world.book.questions("pending") == [asked]


async def test_a_yes_wakes_whoever_waits(world: World) -> None:
    asked = await world.ask()
    waiting = [asyncio.ensure_future(world.book.wait(asked.id, None)) for _ in range(3)]
    await asyncio.sleep(0)
    await world.book.answer(asked.id, ANNA, approve=True)
    assert {q.state for q in await asyncio.gather(*waiting)} == {"approved"}
    assert (await world.book.wait(asked.id, None)).state == "approved"


async def test_who_waits_too_short_gets_the_question_as_it_is(world: World) -> None:
    asked = await world.ask()
    assert await world.book.wait(asked.id, 0) == asked
    with pytest.raises(NotFound):
        await world.book.wait("apr-unknown", 0)


async def test_a_question_that_nobody_answers_is_denied_and_says_so(world: World) -> None:
    asked = await world.ask()
    waiting = asyncio.ensure_future(world.book.wait(asked.id, None))
    await asyncio.sleep(0)
    world.clock.advance(600)
    assert (await waiting).state == "expired"
    assert world.kinds()[-1] == "approval.expired"
    assert world.actions() == ["asked", "expired"]
    with pytest.raises(ApprovalDenied, match="nobody answered") as caught:
        await world.ask()
    assert caught.value.extra["approval"] == asked.id
    with pytest.raises(Conflict, match="is over: expired"):
        await world.book.answer(asked.id, ANNA, approve=True)
    assert world.book.grants() == []


async def test_an_answer_after_the_time_is_too_late_also_when_the_timer_is_late(world: World) -> None:
    asked = await world.ask()
    world.clock.time += 600  # no timer has rung
    with pytest.raises(Conflict, match="is over: expired"):
        await world.book.answer(asked.id, ANNA, approve=True)
    assert world.match() is None


async def test_what_a_person_refused_is_not_asked_again_for_a_while(world: World) -> None:
    asked = await world.ask()
    await world.book.answer(asked.id, ANNA, approve=False, note="not on fridays")
    with pytest.raises(ApprovalDenied, match="uid 2001 said no to exactly this: not on fridays") as caught:
        await world.ask()
    assert caught.value.extra["retry_after"] == 601
    assert caught.value.as_dict()["code"] == "approval_denied"
    await world.ask(argv=("git", "push"))  # something else may be asked
    await world.restart()
    with pytest.raises(ApprovalDenied):
        await world.ask()
    world.clock.advance(601)
    assert (await world.ask()).state == "pending"


async def test_one_no_ends_it_whoever_said_yes_before(world: World) -> None:
    asked = await world.ask(needed=2)
    assert (await world.book.answer(asked.id, ANNA, approve=True)).state == "pending"
    assert (await world.book.answer(asked.id, BERT, approve=False)).state == "denied"
    assert world.book.grants() == []


async def test_two_people_have_to_say_yes_and_the_same_one_does_not_count_twice(world: World) -> None:
    asked = await world.ask(needed=2)
    await world.book.answer(asked.id, ANNA, approve=True)
    assert world.match() is None
    for approve in (True, False):
        with pytest.raises(Conflict, match="uid 2001 has said yes"):
            await world.book.answer(asked.id, ANNA, approve=approve)
    assert (await world.book.answer(asked.id, BERT, approve=True)).state == "approved"
    held = world.match()
    assert held is not None
    assert held.by == (ANNA, BERT)


async def test_two_people_have_to_agree_to_the_same_terms(world: World) -> None:
    asked = await world.ask(needed=2)
    await world.book.answer(asked.id, ANNA, approve=True, scope="times", times=3)
    with pytest.raises(Conflict, match="uid 2001 said yes with scope times, 3 times"):
        await world.book.answer(asked.id, BERT, approve=True, scope="times", times=4)
    await world.book.answer(asked.id, BERT, approve=True, scope="times", times=3)
    assert [g.left for g in world.book.grants()] == [3]


async def test_two_people_at_the_same_moment_both_count(world: World) -> None:
    asked = await world.ask(needed=2)
    await asyncio.gather(*(world.book.answer(asked.id, uid, approve=True) for uid in (ANNA, BERT)))
    assert world.book.question(asked.id).state == "approved"
    assert len(world.book.grants()) == 1


async def test_two_yes_to_one_question_at_the_same_moment_give_one_grant(world: World) -> None:
    asked = await world.ask()
    answers = [world.book.answer(asked.id, uid, approve=True) for uid in (ANNA, BERT)]
    found = await asyncio.gather(*answers, return_exceptions=True)
    assert sorted(type(f).__name__ for f in found) == ["Conflict", "Question"]
    assert len(world.book.grants()) == 1


@pytest.mark.parametrize(("uid", "unit"), [(1000, ""), (1000, "agent.service"), (2001, "agent.service")])
@pytest.mark.parametrize("approve", [True, False])
async def test_nobody_answers_their_own_request(world: World, uid: int, unit: str, approve: bool) -> None:
    asked = await world.ask()
    with pytest.raises(Denied, match="nobody answers their own request"):
        await world.book.answer(asked.id, uid, approve=approve, unit=unit)
    assert world.book.question(asked.id) == asked
    record = world.records[-1]
    assert (record["action"], record["outcome"], record["result"]["by"]) == ("refused", "deny", uid)


async def test_what_policy_would_not_let_be_asked_any_more_is_not_approved(world: World) -> None:
    def check(question: object) -> None:
        raise Denied("not any more")

    asked = await world.ask()
    with pytest.raises(Denied, match="not any more"):
        await world.book.answer(asked.id, ANNA, approve=True, check=check)
    assert (await world.book.answer(asked.id, ANNA, approve=False, check=check)).state == "denied"


@pytest.mark.parametrize("withdrawn", [False, True])
async def test_an_order_that_was_begun_in_time_counts_although_the_time_ends_meanwhile(
    world: World, withdrawn: bool
) -> None:
    asked = await world.ask(needed=2)
    order = world.book.withdraw(asked.id) if withdrawn else world.book.answer(asked.id, ANNA, approve=True)
    begun = asyncio.ensure_future(order)
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # it is on its way to the disk
    world.clock.advance(600)
    assert world.book.question(asked.id).state == "pending"
    assert (await begun).state == ("cancelled" if withdrawn else "pending")
    world.clock.advance(1)  # the second yes is late
    after = world.book.question(asked.id)
    assert (after.state, len(after.answers)) == (("cancelled", 0) if withdrawn else ("expired", 1))
    await world.restart()
    assert world.book.question(asked.id).state == after.state


async def test_a_withdrawn_question_is_over_and_may_be_asked_again(world: World) -> None:
    asked = await world.ask()
    waiting = asyncio.ensure_future(world.book.wait(asked.id, None))
    await asyncio.sleep(0)
    await world.book.withdraw(asked.id)
    assert (await waiting).state == "cancelled"
    with pytest.raises(Conflict, match="is over: cancelled"):
        await world.book.withdraw(asked.id)
    assert world.actions() == ["asked", "withdrawn"]
    assert (await world.ask()).id != asked.id


async def test_a_reload_ends_questions_of_the_old_policy_and_only_those(world: World) -> None:
    asked = await world.ask()
    waiting = asyncio.ensure_future(world.book.wait(asked.id, None))
    await asyncio.sleep(0)
    await world.book.serve(APPROVALS, POLICY)
    assert not waiting.done()
    await world.book.serve(APPROVALS, "ef" * 32)
    assert (await waiting).state == "cancelled"
    with pytest.raises(Conflict, match="is over"):
        await world.book.answer(asked.id, ANNA, approve=True)


async def test_an_answer_that_meets_a_reload_grants_nothing_that_holds(world: World) -> None:
    asked = await world.ask()
    answering = asyncio.ensure_future(world.book.answer(asked.id, ANNA, approve=True))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the answer is on its way to the disk
    await world.book.serve(APPROVALS, "ef" * 32)
    await answering
    assert [g.ended for g in world.book.grants()] == ["stale"]


async def test_a_question_that_meets_a_reload_is_over_at_once(world: World) -> None:
    asking = asyncio.ensure_future(world.ask())
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the question is on its way to the disk
    await world.book.serve(APPROVALS, "ef" * 32)
    assert (await asking).state == "cancelled"
    assert world.book.questions("pending") == []


async def test_answers_that_wait_for_a_reload_are_told_and_the_reload_waits_for_none_of_them(world: World) -> None:
    asked = [await world.ask(cwd=f"/{n}") for n in range(4)]
    answers = [world.book.answer(q.id, ANNA, approve=True) for q in asked]
    found = await asyncio.gather(
        answers[0], world.book.serve(APPROVALS, "ef" * 32), *answers[1:], return_exceptions=True
    )
    assert sum(isinstance(f, Conflict) for f in found) >= 3
    assert {g.ended for g in world.book.grants()} <= {"stale"}
    assert world.book.questions("pending") == []


async def test_a_reload_that_ends_many_leaves_each_ended_once(world: World) -> None:
    await world.book.serve(replace(APPROVALS, pending=1000), POLICY)
    await asyncio.gather(*(world.ask(cwd=f"/{n}") for n in range(400)))
    reload = asyncio.ensure_future(world.book.serve(APPROVALS, "ef" * 32))
    await asyncio.sleep(0)
    world.clock.advance(600)  # some expire while others are still to be ended
    await reload
    assert len(world.book.questions()) == 400
    assert {q.state for q in world.book.questions()} == {"cancelled", "expired"}
    assert sum(a in ("withdrawn", "expired") for a in world.actions()) == 400
    assert world.book._index.weight == 0


async def test_at_the_bound_one_more_is_refused_by_the_rule(world: World) -> None:
    await world.book.serve(replace(APPROVALS, pending=3), POLICY)
    asked = [await world.ask(cwd=f"/srv/ws/{n}") for n in range(3)]
    with pytest.raises(LimitReached, match="3 questions wait") as caught:
        await world.ask(cwd="/srv/ws/x")
    assert (caught.value.rule, caught.value.source, caught.value.allowed) == (
        "approvals.pending", "policy.toml:9", "3 questions",
    )  # fmt: skip
    assert (await world.ask(cwd="/srv/ws/0")).id == asked[0].id
    await world.book.answer(asked[1].id, ANNA, approve=False)
    await world.ask(cwd="/srv/ws/x")


async def test_the_bound_holds_for_those_that_ask_at_once(world: World) -> None:
    await world.book.serve(replace(APPROVALS, pending=3), POLICY)
    found = await asyncio.gather(*(world.ask(cwd=f"/{n}") for n in range(10)), return_exceptions=True)
    assert sum(isinstance(f, LimitReached) for f in found) == 7
    assert len(world.book.questions("pending")) == 3


async def test_what_all_questions_show_together_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "MAX_SHOWN", 1500)
    found = await asyncio.gather(*(world.ask(cwd=f"/{n}") for n in range(100)), return_exceptions=True)
    refused = [f for f in found if isinstance(f, LimitReached)]
    assert 0 < len(refused) < 100
    assert "fill what there is for them" in refused[0].detail
    (first, *_) = world.book.questions("pending")
    await world.book.withdraw(first.id)
    await world.ask(cwd="/x")


async def test_labels_take_room_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept as they came; 32 labels of 256 characters are more than most scripts."""
    monkeypatch.setattr(terms, "MAX_SHOWN", 100_000)
    labels = {f"l{n}": "\U0001f600" * 256 for n in range(32)}
    for n in range(3):
        await world.book.ask("run", AGENT, f"{n}", {"tool": "shell"}, [REASON], labels=labels)
    with pytest.raises(LimitReached, match="fill what there is"):
        await world.book.ask("run", AGENT, "3", {"tool": "shell"}, [REASON], labels=labels)
    await world.restart()
    for question in world.book.questions("pending"):
        await world.book.withdraw(question.id)
    assert world.book._index.weight == 0


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"scope": "forever"}, "scope"),
        ({"scope": "times"}, "times"),
        ({"scope": "times", "times": 0}, "times"),
        ({"scope": "times", "times": 10_001}, "times"),
        ({"scope": "once", "times": 2}, "times"),
        ({"scope": "until"}, "duration"),
        ({"scope": "until", "duration_ms": 0}, "duration"),
        ({"scope": "until", "duration_ms": 86_400_001}, "duration"),
        ({"scope": "session", "duration_ms": 86_400_001}, "duration"),
        ({"note": "x" * 4097}, "note"),
    ],
)
async def test_a_wrong_answer_is_refused_and_the_question_stays(world: World, answer: Any, field: str) -> None:
    asked = await world.ask()
    with pytest.raises(InvalidRequest) as caught:
        await world.book.answer(asked.id, ANNA, approve=True, **answer)
    assert caught.value.field == field
    assert caught.value.allowed
    assert world.book.question(asked.id) == asked
    assert world.actions() == ["asked", "refused"]


async def test_a_longer_time_than_policy_allows_names_the_rule(world: World) -> None:
    asked = await world.ask()
    with pytest.raises(InvalidRequest, match="longer than policy") as caught:
        await world.book.answer(asked.id, ANNA, approve=True, scope="until", duration_ms=86_400_001)
    assert (caught.value.rule, caught.value.source) == ("approvals.longest", "policy.toml:9")


async def test_questions_that_are_over_are_kept_for_a_while_and_then_forgotten(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.approvals.index.KEPT_QUESTIONS", 5)
    asked = [await world.ask(cwd=f"/{n}") for n in range(8)]
    for question in asked:
        await world.book.answer(question.id, ANNA, approve=False)
    kept = {q.id for q in world.book.questions()}
    assert kept == {q.id for q in asked[3:]}
    await world.restart()
    assert {q.id for q in world.book.questions()} == kept
    count = await world.store.read(lambda c: c.execute("SELECT count(*) FROM answers").fetchone()[0])
    assert count == 5


async def test_a_restart_forgets_nothing_and_goes_on_with_the_time_that_is_left(world: World) -> None:
    asked = await world.ask(needed=2)
    await world.book.answer(asked.id, ANNA, approve=True, scope="times", times=2, note="ok")
    before = world.book.question(asked.id)
    world.clock.advance(599)
    await world.restart()
    assert world.book.question(asked.id) == before
    await world.book.answer(asked.id, BERT, approve=True, scope="times", times=2)
    (held,) = world.book.grants()
    assert (held.left, held.by) == (2, (ANNA, BERT))
    other = await world.ask(cwd="/srv/ws/x")
    world.clock.advance(590)
    await world.restart()
    world.clock.advance(10)
    assert world.book.question(other.id).state == "expired"


async def test_a_question_whose_time_ended_while_the_service_was_down_is_denied(world: World) -> None:
    asked = await world.ask()
    await world.stop()
    world.clock.time += 3600
    await world.start()
    assert world.book.question(asked.id).state == "expired"
    await world.restart()
    assert world.book.question(asked.id).state == "expired"
    assert world.actions().count("expired") == 1


async def test_defaults_are_those_of_policy(world: World) -> None:
    await world.book.serve(Approvals(timeout_ms=1000, grant_ms=2000), POLICY)
    asked = await world.ask()
    assert asked.expires == asked.created + 1
    await world.book.answer(asked.id, ANNA, approve=True)
    (held,) = world.book.grants()
    assert (held.scope, held.uses, held.until - held.created) == ("target", 1, 2.0)


async def test_a_store_that_fails_changes_nothing(world: World) -> None:
    asked = await world.ask()
    await world.store.close()
    for order in (world.ask(cwd="/x"), world.book.answer(asked.id, ANNA, approve=True), world.book.withdraw(asked.id)):
        with pytest.raises(Exception, match="the state is closed"):
            await order
    assert world.book.questions() == [asked]
    assert world.book.grants() == []
    await world.start()
    assert world.book.questions() == [asked]


async def test_who_floods_the_questions_shuts_nobody_else_out(world: World) -> None:
    """Where there is no room, the newest of who asks most go, down to an equal share, and no further."""
    await world.book.serve(replace(APPROVALS, pending=6), POLICY)
    other = {"uid": 1001, "pid": 8, "unit": "other.service"}

    async def theirs(n: int) -> None:
        target = replace(TARGET, uid=1001, unit="other.service", cwd=f"/srv/ws/{n}").digest()
        await world.book.ask("run", other, target, {"tool": "shell", "argv": ["x"]}, [REASON])

    flood = []
    for n in range(6):
        flood.append((await world.ask(cwd=f"/srv/ws/{n}")).id)
        world.clock.advance(1)
    with pytest.raises(LimitReached, match="6 questions wait"):
        await world.ask(cwd="/srv/ws/more")
    for n in range(3):
        await theirs(n)
        world.clock.advance(1)
    with pytest.raises(LimitReached, match="6 questions wait"):
        await theirs(3)
    with pytest.raises(LimitReached, match="6 questions wait"):
        await world.ask(cwd="/srv/ws/more")
    assert [q.id for q in world.book.questions("pending") if q.asker == AGENT] == flood[2::-1]
    gone = [world.book.question(ident) for ident in flood[3:]]
    assert {q.state for q in gone} == {"cancelled"}
    assert world.events[-4][2]["reason"] == "others had no room left to ask; ask again later"
    await world.restart()
    assert len(world.book.questions("pending")) == 6
