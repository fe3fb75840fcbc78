"""The desk: who may order what of the service, what is said about why, and what holds an agent up."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from supervisor import errors
from supervisor.policy import snapshot as s
from supervisor.runs import desk as desks
from tests.unit.decide.samples import peer
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT, STRANGER, VIEWER
from tests.unit.runs.deciding import (
    JUDGE,
    SECOND,
    admin,
    enrolled,
    opened,
    say,
    serving,
    settled,
    waits,
)

NEVER = s.Rule("frozen", ("config:*",), (), "deny", "/etc/stockade/policy.toml:70")
ORDER = ("config:write", {"order": "reload"})


# --- orders to the service --------------------------------------------------------------------------------------------


async def test_an_order_takes_a_role_that_has_it_and_its_refusal_is_recorded(worlds) -> None:
    world = await serving(worlds)
    await world.supervisor.desk.order(ADMINISTRATOR, *ORDER, None)
    for who in (AGENT, VIEWER, JUDGE):
        with pytest.raises(errors.Denied) as refusal:
            await world.supervisor.desk.order(who, *ORDER, None)
        assert refusal.value.rule == "callers.role"
    await settled(world)
    told = [(r["action"], r["outcome"], r["caller"]["uid"]) for r in world.auditor.of("security")]
    assert told == [("config:write", "deny", uid) for uid in (1000, 3000, 5000)]


async def test_who_policy_does_not_name_orders_nothing(worlds) -> None:
    world = await serving(worlds)
    with pytest.raises(errors.Denied, match="no \\[\\[callers\\]\\] entry"):
        await world.supervisor.desk.order(peer(9999), *ORDER, None)


async def test_what_a_role_does_not_have_is_recorded_for_questions_and_views_too(worlds) -> None:
    """R69: an operator at what is an administrator's."""
    world = await serving(worlds)
    desk = world.supervisor.desk
    with pytest.raises(errors.Denied):
        await desk.unused(JUDGE, 1)
    with pytest.raises(errors.Denied):
        await say(world, "apr-any", AGENT)
    with pytest.raises(errors.Denied):
        desk.usage(peer(9999))
    await settled(world)
    told = [(r["action"], r["outcome"], r["caller"]["uid"]) for r in world.auditor.of("security")]
    assert told == [
        ("config:read", "deny", JUDGE.uid), ("approvals:answer", "deny", AGENT.uid), ("agent:read", "deny", 9999),
    ]  # fmt: skip
    assert all(r["reason"] for r in world.auditor.of("security"))


async def test_a_rule_denies_an_order_with_its_line(worlds) -> None:
    world = await serving(worlds, rules=(NEVER,))
    with pytest.raises(errors.Denied) as refusal:
        await world.supervisor.reload(ADMINISTRATOR)
    assert (refusal.value.rule, refusal.value.source) == ("rules.frozen", NEVER.source)
    await world.supervisor.desk.order(ADMINISTRATOR, "service:stop", {}, None)


async def test_a_rule_can_ask_about_an_order_and_a_yes_is_good_for_one(worlds) -> None:
    world = await serving(worlds, rules=(s.Rule("mind", ("config:write",), (), "ask", NEVER.source),))
    order = world.supervisor.desk.order
    waiting = await waits(order(ADMINISTRATOR, *ORDER, None))
    assert (waiting.rule, waiting.source) == ("rules.mind", NEVER.source)
    await say(world, waiting.extra["approval"])
    await order(ADMINISTRATOR, *ORDER, None)
    again = await waits(order(ADMINISTRATOR, *ORDER, None))
    assert again.extra["approval"] != waiting.extra["approval"]


async def test_a_rule_sees_who_orders(worlds) -> None:
    mine = s.Rule("mine", ("config:write",), (("caller", ("uid:4000",)),), "deny", NEVER.source)
    world = await serving(worlds, rules=(mine,))
    await world.supervisor.desk.order(ADMINISTRATOR, *ORDER, None)
    with pytest.raises(errors.Denied):
        await world.supervisor.desk.order(SECOND, *ORDER, None)


async def test_a_role_that_needs_approval_is_asked_about_what_is_privileged(worlds) -> None:
    world = await serving(worlds, admin(requires_approval=True))
    desk = world.supervisor.desk
    waiting = await waits(desk.order(ADMINISTRATOR, *ORDER, None))
    assert (waiting.rule, waiting.source) == ("roles.administrator", admin().source)
    other = await waits(desk.order(ADMINISTRATOR, "config:write", {"order": "another"}, None))
    assert other.extra["approval"] != waiting.extra["approval"], "a yes is for exactly one order"
    await say(world, waiting.extra["approval"], approve=False, note="not now")
    with pytest.raises(errors.ApprovalDenied, match="not now"):
        await desk.order(ADMINISTRATOR, *ORDER, None)
    await desk.order(ADMINISTRATOR, "agent:end_all", {}, None)  # not among what is privileged


async def test_a_role_that_needs_a_second_person_needs_two(worlds) -> None:
    world = await serving(worlds, admin(requires_approval=True, second_person=True))
    desk = world.supervisor.desk
    ident = (await waits(desk.order(ADMINISTRATOR, *ORDER, None))).extra["approval"]
    assert (await say(world, ident)).state == "pending"
    await waits(desk.order(ADMINISTRATOR, *ORDER, None))
    assert (await say(world, ident, SECOND)).state == "approved"
    await desk.order(ADMINISTRATOR, *ORDER, None)


async def test_a_one_time_code_is_needed_right_and_new(worlds) -> None:
    world = await serving(worlds, admin(mfa_required=True))
    order = world.supervisor.desk.order
    with pytest.raises(errors.StepUpRequired, match="no one-time codes yet"):
        await order(ADMINISTRATOR, *ORDER, "123456")
    device = await enrolled(world)
    for code in (None, "", "12", device.wrong()):
        with pytest.raises(errors.StepUpRequired):
            await order(ADMINISTRATOR, *ORDER, code)
    code = device.code()
    await order(ADMINISTRATOR, *ORDER, code)
    with pytest.raises(errors.StepUpRequired, match="used before"):
        await order(ADMINISTRATOR, *ORDER, code)
    await order(AGENT, "agent:execute", {}, None)  # only of the role, and only for what is privileged


async def test_a_code_is_not_spent_on_a_request_that_waits_for_a_person_first(worlds) -> None:
    world = await serving(worlds, admin(mfa_required=True, requires_approval=True))
    order = world.supervisor.desk.order
    device = await enrolled(world)
    code = device.code()
    ident = (await waits(order(ADMINISTRATOR, *ORDER, code))).extra["approval"]
    await say(world, ident)
    with pytest.raises(errors.StepUpRequired):
        await order(ADMINISTRATOR, *ORDER, None)
    await order(ADMINISTRATOR, *ORDER, code)
    await waits(order(ADMINISTRATOR, *ORDER, None))


async def test_a_stop_waits_for_nobody_but_a_code_and_its_undoing_is_asked_about(worlds) -> None:
    rule = s.Rule("mind", ("service:stop",), (), "ask", NEVER.source)
    world = await serving(worlds, admin(requires_approval=True, second_person=True), rules=(rule,))
    await world.supervisor.stop(ADMINISTRATOR, "now")
    assert world.launcher.stopped
    ident = (await waits(world.supervisor.resume(ADMINISTRATOR))).extra["approval"]
    assert world.launcher.stopped
    await say(world, ident)
    await say(world, ident, SECOND)
    await world.supervisor.resume(ADMINISTRATOR)
    assert not world.launcher.stopped


async def test_a_stop_takes_the_code_of_a_role_that_needs_one(worlds) -> None:
    world = await serving(worlds, admin(mfa_required=True))
    device = await enrolled(world)
    with pytest.raises(errors.StepUpRequired):
        await world.supervisor.stop(ADMINISTRATOR, "now")
    assert not world.launcher.stopped
    await world.supervisor.stop(ADMINISTRATOR, "now", device.code())
    assert world.launcher.stopped


# --- why --------------------------------------------------------------------------------------------------------------


async def test_an_explanation_decides_and_does_nothing(worlds) -> None:
    world = await serving(worlds)
    desk = world.supervisor.desk
    said = await desk.explain(AGENT, world.request("touch", "x"))
    assert (said["verdict"], said["policy_digest"]) == ("ask", world.snapshot.digest())
    assert 'approval_patterns = ["sh approved.sh"]' in said["change"]
    assert (await desk.explain(VIEWER, world.request("ls")))["problem"]["rule"] == "callers.role"
    with pytest.raises(errors.Denied):
        await desk.explain(peer(9999), world.request("ls"))
    await settled(world)
    assert world.auditor.of("decision") == []
    assert desk.questions(ADMINISTRATOR, state=None, limit=9) == []
    assert world.launcher.sessions == []


async def test_an_explanation_of_a_session_is_for_who_may_know_of_it(worlds) -> None:
    world = await serving(worlds)
    session = await opened(world)
    request = world.request("ls", session=session.id)
    assert (await world.supervisor.desk.explain(AGENT, request))["verdict"] == "allow"
    said = await world.supervisor.desk.explain(STRANGER, request)
    assert (said["verdict"], said["problem"]["code"]) == ("deny", "not_found")


async def test_tools_have_the_answer_that_a_request_would_get_with_its_rule(worlds) -> None:
    tools = s.Tools(browser_enabled=True, source="/etc/stockade/policy.toml:30")
    only = s.Context((("caller", ("uid:2000",)),), "/etc/stockade/policy.toml:50", tools=("file",))
    world = await serving(worlds, tools=tools, contexts=(only,), of={4000: {"must_state": ("agent",)}})
    desk = world.supervisor.desk

    def answers(who):
        return {t["tool"]: (t["allowed"], t["rule"]) for t in desk.tools(who)}

    assert answers(AGENT) == {
        "shell": (True, "tools.shell_enabled"),
        "file": (False, "tools"),
        "browser": (False, "tools"),
    }
    assert answers(VIEWER)["shell"] == (False, "callers.role")
    assert answers(STRANGER)["shell"] == (False, "contexts[0].tools")
    assert answers(SECOND)["shell"][0], "labels that have to be stated are not known here"
    assert desk.tool(AGENT, "shell") == desk.tools(AGENT)[0]
    assert all(t["source"] and t["reason"] for t in desk.tools(AGENT))
    with pytest.raises(errors.NotFound):
        desk.tool(AGENT, "telnet")


async def test_rules_that_had_no_part_in_any_decision_are_named(worlds, monkeypatch) -> None:
    world = await serving(worlds)
    desk = world.supervisor.desk
    await world.supervisor.wait(await world.run("true"))
    with pytest.raises(errors.WorkspaceRefused):
        await world.run("true", workspace="/elsewhere")
    with pytest.raises(errors.InvalidRequest):
        await desk.unused(AGENT, 0)
    assert await desk.unused(AGENT, 1) == [], "none is known for a day"
    later = time.time() + 2 * 86_400
    monkeypatch.setattr(desks, "time", SimpleNamespace(time=lambda: later))
    unused = {row["rule"] for row in await desk.unused(AGENT, 1)}
    assert {"autonomy.approval_patterns[0]", "profiles.other"} <= unused
    assert {row["count"] for row in await desk.unused(AGENT, 1) if row["rule"] == "profiles.shell"} == {1}
    with pytest.raises(errors.Denied):
        await desk.unused(JUDGE, 1)  # it has no config:read


# --- what holds an agent up -------------------------------------------------------------------------------------------


async def test_a_breaker_is_seen_by_its_agent_and_reset_by_who_may(worlds) -> None:
    world = await serving(worlds, breaker=s.Breaker(failures=1, source="p:1"))
    desk = world.supervisor.desk
    await world.supervisor.wait(await world.run("false"))
    with pytest.raises(errors.LimitReached) as refusal:
        await world.run("true")
    assert refusal.value.rule == "breaker"
    key = desk.breakers(AGENT)[0]["key"]
    assert [b["key"] for b in desk.breakers(ADMINISTRATOR)] == [key]
    assert desk.breakers(STRANGER) == []
    with pytest.raises(errors.Denied):
        await desk.reset_breaker(AGENT, key, None)
    assert (await desk.reset_breaker(ADMINISTRATOR, key, None))["state"] == "closed"
    await world.supervisor.wait(await world.run("true"))
    with pytest.raises(errors.NotFound):
        await desk.reset_breaker(ADMINISTRATOR, "uid:77/", None)


async def test_what_is_used_of_a_rate_is_said_to_its_caller(worlds) -> None:
    world = await serving(worlds, rates=(s.Rate("caller", 0, 0, 9, "p:1"),))
    await world.supervisor.wait(await world.run("true"))
    used = {who.uid: world.supervisor.desk.usage(who)["rates"][0]["used"] for who in (AGENT, STRANGER)}
    assert used == {1000: 1, 2000: 0}
