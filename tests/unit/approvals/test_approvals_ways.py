"""The ways to a yes: a run's, a role's for a time, a privileged order's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from supervisor.approvals import gate, operations
from supervisor.approvals.access import Access
from supervisor.approvals.gate import obtain
from supervisor.approvals.report import Report
from supervisor.errors import ApprovalDenied, ApprovalRequired, Conflict, Denied, InvalidRequest, Unavailable
from tests.unit.approvals.world import AGENT, ANNA, APPROVALS, BERT, POLICY, REASON, SESSION, TARGET, World

HOUR = 3_600_000


def run(world: World, **given: Any) -> Any:
    what = gate.what_of(TARGET, session=SESSION, marks=[], files=[])
    return obtain(world.book, "run", AGENT, TARGET.digest(), what, [REASON], **{"session": SESSION, **given})


# --- a run --------------------------------------------------------------------------------------------------------


async def test_a_run_that_may_not_wait_is_told_what_to_wait_for(world: World) -> None:
    with pytest.raises(ApprovalRequired) as caught:
        await run(world)
    (asked,) = world.book.questions("pending")
    told = caught.value.as_dict()
    assert (told["status"], told["code"], told["retry"]) == (202, "approval_required", "after_approval")
    assert (told["approval"], told["expires"], told["reasons"]) == (asked.id, asked.expires, [REASON])
    assert (told["rule"], told["source"]) == (REASON["rule"], REASON["source"])
    with pytest.raises(ApprovalRequired):
        await run(world)
    assert len(world.book.questions()) == 1


async def test_a_run_that_waits_goes_on_at_the_answer_and_has_spent_its_grant(world: World) -> None:
    running = asyncio.ensure_future(run(world, wait_ms=60_000))
    asked = await world.next_question()
    await world.book.answer(asked.id, ANNA, approve=True)
    assert (await running).left == 0
    assert world.match() is None


async def test_a_run_that_was_approved_meanwhile_needs_no_question(world: World) -> None:
    held = await world.grant("times", times=2)
    assert gate.held(world.book, AGENT, TARGET.digest(), [REASON], SESSION) == held
    assert (await run(world)).left == 1
    assert (await run(world)).left == 0
    with pytest.raises(ApprovalRequired):
        await run(world)


async def test_a_grant_that_the_disk_knows_to_be_over_is_asked_about_anew(world: World) -> None:
    await world.grant("once")
    await world.store.write(lambda conn: conn.execute("UPDATE grants SET used = 1, ended = 'used_up'").rowcount)
    with pytest.raises(ApprovalRequired):
        await run(world)


async def test_two_who_wait_for_one_yes_share_no_use(world: World) -> None:
    runs = [asyncio.ensure_future(run(world, wait_ms=60_000)) for _ in range(2)]
    asked = await world.next_question()
    await world.book.answer(asked.id, ANNA, approve=True)
    done, waiting = await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    again = await world.next_question()
    assert again.id != asked.id
    await world.book.answer(again.id, ANNA, approve=False, note="enough")
    (other,) = waiting
    with pytest.raises(ApprovalDenied, match="enough"):
        await other


async def test_a_run_whose_policy_goes_just_after_the_yes_is_not_asked_about_under_the_next_one(world: World) -> None:
    """What it asks for was worked out, and how many people it takes, by the policy that is gone."""
    running = asyncio.ensure_future(run(world, wait_ms=60_000))
    asked = await world.next_question()
    reloads: list[asyncio.Task[None]] = []

    def emit(kind: str, _uid: int | None, **_: Any) -> None:  # told of the answer before whoever waits for it
        if kind == "approval.answered":
            reloads.append(asyncio.create_task(world.book.serve(APPROVALS, "cd" * 32)))

    world.book._report = Report(emit, world.kept)
    await world.book.answer(asked.id, ANNA, approve=True)
    with pytest.raises(Conflict, match="reloaded"):
        await running
    await asyncio.gather(*reloads)
    assert [q.id for q in world.book.questions()] == [asked.id]


@pytest.mark.parametrize(("how", "error"), [("no", ApprovalDenied), ("time", ApprovalDenied), ("gone", Conflict)])
async def test_a_run_that_waits_is_told_why_not(world: World, how: str, error: type[Exception]) -> None:
    running = asyncio.ensure_future(run(world, wait_ms=60_000))
    asked = await world.next_question()
    if how == "no":
        await world.book.answer(asked.id, ANNA, approve=False)
    elif how == "time":
        world.clock.advance(600)
    else:
        await world.book.withdraw(asked.id)
    with pytest.raises(error):
        await running
    assert world.book.grants() == []


def test_a_person_is_shown_all_that_the_yes_is_bound_to() -> None:
    files = [{"path": "/srv/ws/x.sh", "sha256": "cd" * 32, "size": 5, "head": "ls\n"}]
    shown = gate.what_of(TARGET, session=None, marks=[{"start": 0, "end": 3, "detail": "x"}], files=files)
    elsewhere = {"uid", "unit", "labels", "reasons", "policy_digest"}  # in the question itself
    secret = {"env"}  # of variables a person is shown the names
    bound = set(TARGET.to_json()) - elsewhere - secret - {"script"}
    assert bound <= set(shown)
    assert "script" not in shown
    assert shown["files"] == files


# --- a role for a time ----------------------------------------------------------------------------------------------


def access(world: World, *roles: str) -> Access:
    def allowed(uid: int, unit: str, role: str) -> None:
        if role not in roles:
            raise Denied(f"uid {uid} of {unit} may not ask for {role}", rule="callers.may_request")

    return Access(world.book, allowed)


async def test_a_role_is_given_by_another_for_the_time_that_was_asked_for_and_ends_by_itself(world: World) -> None:
    asked = await access(world, "administrator").request(AGENT, "administrator", HOUR, "the disk is full")
    assert asked.what == {"role": "administrator", "duration_ms": HOUR, "reason": "the disk is full"}
    assert world.book.roles(1000, "agent.service", world.clock()) == []
    await world.book.answer(asked.id, ANNA, approve=True)
    assert world.book.roles(1000, "agent.service", world.clock()) == ["administrator"]
    assert world.book.roles(1000, "", world.clock()) == []
    assert world.book.roles(1001, "agent.service", world.clock()) == []
    world.clock.advance(HOUR / 1000 - 1)
    await world.restart()
    assert world.book.roles(1000, "agent.service", world.clock()) == ["administrator"]
    world.clock.advance(1)
    assert world.book.roles(1000, "agent.service", world.clock()) == []
    assert world.events[-1][0] == "grant.ended"
    assert world.events[-1][2]["role"] == "administrator"
    assert world.actions() == ["asked", "answered", "granted", "ended"]


async def test_who_answers_may_give_a_shorter_time_and_never_a_longer_one(world: World) -> None:
    asked = await access(world, "administrator").request(AGENT, "administrator", HOUR, "x")
    with pytest.raises(InvalidRequest) as caught:
        await world.book.answer(asked.id, ANNA, approve=True, duration_ms=HOUR + 1)
    assert caught.value.rule == "approvals.access"
    with pytest.raises(InvalidRequest, match="a role is given once"):
        await world.book.answer(asked.id, ANNA, approve=True, scope="times", times=2)
    await world.book.answer(asked.id, ANNA, approve=True, duration_ms=1000)
    world.clock.advance(1)
    assert world.book.roles(1000, "agent.service", world.clock()) == []


async def test_nobody_gives_themselves_a_role(world: World) -> None:
    asked = await access(world, "administrator").request(AGENT, "administrator", HOUR, "x")
    with pytest.raises(Denied, match="nobody answers their own"):
        await world.book.answer(asked.id, 1000, approve=True)
    assert world.book.roles(1000, "agent.service", world.clock()) == []


async def test_a_role_can_be_taken_back(world: World) -> None:
    asked = await access(world, "administrator").request(AGENT, "administrator", HOUR, "x")
    await world.book.answer(asked.id, ANNA, approve=True)
    (held,) = world.book.grants()
    await world.book.revoke(held.id, BERT)
    assert world.book.roles(1000, "agent.service", world.clock()) == []


@pytest.mark.parametrize(
    ("role", "duration", "reason", "error"),
    [
        ("root", HOUR, "x", Denied),
        ("administrator", 4 * HOUR + 1, "x", InvalidRequest),
        ("administrator", 0, "x", InvalidRequest),
        ("administrator", HOUR, " ", InvalidRequest),
        ("administrator", HOUR, "x" * 2049, InvalidRequest),
    ],
)
async def test_what_may_not_be_asked_for_is_not_asked(
    world: World, role: str, duration: int, reason: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await access(world, "administrator").request(AGENT, role, duration, reason)
    assert world.book.questions() == []


async def test_other_words_for_the_same_role_are_the_same_question_and_the_same_no(world: World) -> None:
    way = access(world, "administrator")
    asked = await way.request(AGENT, "administrator", HOUR, "x")
    assert (await way.request(AGENT, "administrator", HOUR, "please")).id == asked.id
    with pytest.raises(Conflict, match="asked for already"):
        await way.request(AGENT, "administrator", HOUR // 2, "please")
    await world.book.answer(asked.id, ANNA, approve=False)
    with pytest.raises(ApprovalDenied):
        await way.request(AGENT, "administrator", HOUR // 2, "pretty please")


async def test_a_role_that_is_held_is_not_asked_for(world: World) -> None:
    way = access(world, "administrator")
    asked = await way.request(AGENT, "administrator", HOUR, "x")
    await world.book.answer(asked.id, ANNA, approve=True)
    with pytest.raises(Conflict, match="held already"):
        await way.request(AGENT, "administrator", HOUR, "x")


async def test_a_role_that_may_not_be_asked_for_any_more_is_not_given(world: World) -> None:
    asked = await access(world, "administrator").request(AGENT, "administrator", HOUR, "x")
    now = access(world)
    with pytest.raises(Denied, match="may not ask for"):
        await world.book.answer(asked.id, ANNA, approve=True, check=now.check)
    now.check(await world.ask())  # other questions are none of its business


async def test_another_policy_ends_roles_for_a_time(world: World) -> None:
    asked = await access(world, "administrator").request(AGENT, "administrator", HOUR, "x")
    await world.book.answer(asked.id, ANNA, approve=True)
    await world.book.serve(APPROVALS, "ef" * 32)
    assert world.book.roles(1000, "agent.service", world.clock()) == []


# --- a privileged order ---------------------------------------------------------------------------------------------


async def permit(world: World, parameters: dict[str, Any], needed: int = 1) -> Any:
    return await operations.permit(
        world.book, AGENT, "config:write", parameters, rule="roles.administrator", source="policy.toml:4", needed=needed
    )


async def test_a_privileged_order_takes_a_yes_to_exactly_it_and_takes_it_once(world: World) -> None:
    with pytest.raises(ApprovalRequired) as caught:
        await permit(world, {"file": "a.toml"})
    ident = caught.value.extra["approval"]
    assert world.book.question(ident).what == {"permission": "config:write", "parameters": {"file": "a.toml"}}
    with pytest.raises(InvalidRequest, match="allowed once"):
        await world.book.answer(ident, ANNA, approve=True, scope="target")
    await world.book.answer(ident, ANNA, approve=True)
    with pytest.raises(ApprovalRequired):
        await permit(world, {"file": "b.toml"})
    assert (await permit(world, {"file": "a.toml"})).ended == "used_up"
    with pytest.raises(ApprovalRequired):
        await permit(world, {"file": "a.toml"})


async def test_a_privileged_order_may_take_two_people(world: World) -> None:
    with pytest.raises(ApprovalRequired, match="2 people have to say yes"):
        await permit(world, {}, needed=2)
    (asked,) = world.book.questions("pending")
    await world.book.answer(asked.id, ANNA, approve=True)
    with pytest.raises(ApprovalRequired):
        await permit(world, {}, needed=2)
    await world.book.answer(asked.id, BERT, approve=True)
    assert (await permit(world, {}, needed=2)).by == (ANNA, BERT)


def test_an_order_is_bound_to_who_gives_it_and_to_the_policy() -> None:
    one = operations.target(1, "a", "config:write", {"x": 1}, POLICY)
    others = [
        operations.target(2, "a", "config:write", {"x": 1}, POLICY),
        operations.target(1, "b", "config:write", {"x": 1}, POLICY),
        operations.target(1, "a", "service:stop", {"x": 1}, POLICY),
        operations.target(1, "a", "config:write", {"x": 2}, POLICY),
        operations.target(1, "a", "config:write", {"x": 1}, "ef" * 32),
    ]
    assert one not in others


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE questions SET asker = '{'",
        "UPDATE questions SET labels = '[]'",
        "UPDATE questions SET state = 'maybe'",
        "UPDATE grants SET subjects = '{}'",
        "UPDATE grants SET granted_by = '7'",
    ],
)
async def test_a_row_that_is_none_of_ours_is_an_error_that_says_what_to_do(world: World, damage: str) -> None:
    await world.grant("until", duration_ms=60_000)
    await world.store.write(lambda conn: conn.execute(damage))
    with pytest.raises(Unavailable, match="is damaged: a row is none of ours") as refused:
        await world.restart()
    assert "restore the file from a backup" in str(refused.value.hint)
    await world.store.write(lambda conn: conn.execute("DELETE FROM questions"))
    await world.store.write(lambda conn: conn.execute("DELETE FROM grants"))
    await world.book.load()
