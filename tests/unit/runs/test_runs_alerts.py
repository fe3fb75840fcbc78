"""Alerts in a world of real peers: what counts once, who is told, what is done, and what a restart leaves."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

from supervisor import errors
from supervisor.decide.bounds import Who
from supervisor.decide.meters import check
from supervisor.decide.usual import Usual
from supervisor.decide.windows import HOUR
from supervisor.policy import snapshot as s
from supervisor.runs.meters import Meters
from supervisor.state.store import Store
from tests.unit.decide.samples import snapshot
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT
from tests.unit.runs.deciding import ASKING, asked, finished, nothing_left, question, say, serving, settled

SOURCE = "/etc/stockade/policy.toml:9"
NOW = 1_790_000_000.0
WHO = Who("uid:1000", "planner")
BLOCKING = replace(ASKING, blocked_commands=("nmap",))


def alerts(action: str = "tell", **bounds: Any) -> s.Alerts:
    return s.Alerts(action=action, source=SOURCE, **bounds)


async def told(world) -> list[tuple]:
    """Every alert in the audit log, as (rule, agent, count, outcome)."""
    await settled(world)
    found = [r for r in world.auditor.of("security") if r["action"] == "alert"]
    assert all(r["caller"]["uid"] == AGENT.uid and r["reason"] for r in found)
    assert all(r["result"]["source"] == SOURCE for r in found)
    return [(r["result"]["rule"], r["result"]["agent"], r["result"]["count"], r["outcome"]) for r in found]


async def heard(subscription) -> list[dict]:
    """Every alert that was told of until now, of the caller whose request it was."""
    subscription.close()
    found = [e async for e in subscription if e.kind == "alert.raised"]
    assert {e.uid for e in found} <= {AGENT.uid}
    return [e.data for e in found]


async def test_runs_that_fail_are_told_of_once_and_change_nothing_else(worlds, events) -> None:
    world = await serving(worlds, alerts=alerts(failed_per_hour=2))
    seen = events(world)
    for argv in (("false",), ("true",), ("false",), ("false",), ("false",)):
        await finished(world, *argv, labels={"agent": "a7"})
    await finished(world, "false", labels={"agent": "a8"})
    rule = "alerts.failed_per_hour"
    assert await told(world) == [(rule, "a7", 2, "tell")]
    assert await heard(seen) == [{"agent": "a7", "rule": rule, "count": 2, "action": "tell"}]
    usage = world.supervisor.desk.usage(AGENT)["alerts"]
    assert {(row["of"], row["used"]) for row in usage} == {("", 0), ("a7", 4), ("a8", 1)}
    assert world.supervisor.status(ADMINISTRATOR)["alerts"] == {"agents": 1}
    await nothing_left(world)


async def test_an_hour_that_is_not_usual_is_told_of_and_done_something_about(worlds, events, monkeypatch) -> None:
    """What is usual was learned before; runs, failures and what reaches for secrets are compared, each for itself."""
    every = alerts("stop", unusual=("runs", "failed", "sensitive"), unusual_least=2)
    world = await serving(worlds, alerts=every)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # no hour ends in the middle of this
    monkeypatch.setattr(world.supervisor.meters, "_clock", lambda: now)
    book, hour = world.supervisor.meters.book, int(now * 1000) // HOUR
    for key in ("n:uid:1000/a7", "f:uid:1000/a7", "s:uid:1000/a7"):
        book.usual[key] = Usual(hour - 1, 1, 40, 1.0, 0.0)
    seen = events(world)
    for argv in (("true",), ("cat", ".ssh/id_rsa"), ("false",), ("false",)):
        await finished(world, *argv, labels={"agent": "a7"})
    assert await told(world) == []
    await finished(world, "false", labels={"agent": "a7"})
    rules = [("alerts.unusual[0]", "a7", 5, "stop")]
    assert await told(world) == rules
    assert [e["count"] for e in await heard(seen)] == [5]
    with pytest.raises(errors.LimitReached) as refusal:
        await world.run("true", labels={"agent": "a7"})
    assert refusal.value.rule == "alerts.unusual[0]"
    await finished(world, "true", labels={"agent": "a8"})
    assert [book.usual[f"{kind}:uid:1000/a7"].count for kind in "nfs"] == [5, 4, 1]
    await nothing_left(world)


async def test_what_is_usual_goes_on_after_a_restart(tmp_path) -> None:
    """Learned, counted and told, as it was, in the same transaction as whatever else a run counts."""
    policy = replace(snapshot(), alerts=alerts(unusual=("runs",), unusual_least=3))
    hours = [2] * 25 + [9, 1]
    left = []
    for n, count in enumerate(hours):
        store = Store(str(tmp_path / "decisions.db"))
        await store.open()
        meters = Meters(store, clock=lambda n=n: NOW + n * 3600)
        await meters.load()
        (bound,) = meters.book.plan(policy).unusual
        left.append([meters.strange(bound, WHO) for _ in range(count)])
        await meters.save()
        known = meters.book.usual["n:uid:1000/planner"]
        await store.close()
    assert [row for row in left if any(one != (0, 0) for one in row)] == [left[25]]
    assert [one for one in left[25] if one != (0, 0)] == [(7, 7)]
    assert (known.count, known.hours, known.told) == (1, 26, False)


async def test_what_ends_without_saying_anything_of_the_agent_does_not_count(worlds) -> None:
    world = await serving(worlds, alerts=alerts(failed_per_hour=1))
    run = await world.run("sleep", "60")
    await world.supervisor.end(AGENT, run.id)
    await world.supervisor.wait(run)
    assert await told(world) == []


async def test_an_agent_that_is_over_a_bound_that_stops_begins_nothing(worlds) -> None:
    world = await serving(worlds, alerts=alerts("stop", failed_per_hour=2))
    for _ in range(2):
        await finished(world, "false")
    with pytest.raises(errors.LimitReached) as refusal:
        await world.run("true")
    assert (refusal.value.rule, refusal.value.source) == ("alerts.failed_per_hour", SOURCE)
    await finished(world, "true", labels={"agent": "other"})
    assert [row[-1] for row in await told(world)] == ["stop"]
    await nothing_left(world)


async def test_an_agent_that_is_over_a_bound_that_asks_runs_with_a_yes_alone(worlds) -> None:
    autonomy = replace(ASKING, level="full")
    world = await serving(worlds, alerts=alerts("ask", failed_per_hour=1), autonomy=autonomy)
    await finished(world, "false")
    ident = await asked(world.run("true"))
    question = world.supervisor.desk.question(ADMINISTRATOR, ident)
    assert [(r["rule"], r["blanket"]) for r in question.reasons] == [("alerts.failed_per_hour", False)]
    await say(world, ident)
    await finished(world, "true")
    assert await asked(world.run("true")) != ident
    await nothing_left(world)


async def test_a_yes_from_before_an_agent_was_over_a_bound_is_none_to_what_it_wants_now(worlds) -> None:
    world = await serving(worlds, alerts=alerts("ask", failed_per_hour=1))
    await say(world, await asked(world.run("touch", "x")), scope="times", times=5)
    await finished(world, "touch", "x")
    await finished(world, "false")
    await asked(world.run("touch", "x"))
    await nothing_left(world)


@pytest.mark.parametrize("argv", [("cat", ".ssh/id_rsa"), ("nmap", "--key", ".ssh/id_rsa")], ids=["allowed", "denied"])
async def test_a_request_that_reaches_for_secrets_counts_once_whatever_is_decided(worlds, argv) -> None:
    world = await serving(worlds, alerts=alerts(sensitive_per_hour=2), autonomy=BLOCKING)
    for _ in range(2):
        if argv[0] == "nmap":
            with pytest.raises(errors.Denied):
                await world.run(*argv)
        else:
            await finished(world, *argv)
    await finished(world, "true")
    await world.supervisor.dry_run(AGENT, world.request("cat", ".ssh/id_rsa"))
    assert await told(world) == [("alerts.sensitive_per_hour", "", 2, "tell")]
    (own,) = world.supervisor.desk.usage(AGENT)["alerts"]
    assert own["used"] == 2


async def test_a_request_that_is_asked_about_counts_once_and_goes_on_with_its_yes(worlds, events) -> None:
    """It is what brings the agent to the bound, and it was asked about."""
    world = await serving(worlds, alerts=alerts("ask", sensitive_per_hour=1))
    seen = events(world)
    request = world.request("touch", ".ssh/id_rsa", wait_approval_ms=60_000)
    waiting = asyncio.ensure_future(world.supervisor.start(AGENT, request, "req-1"))
    await say(world, await question(seen))
    await world.supervisor.wait(await waiting)
    assert await told(world) == [("alerts.sensitive_per_hour", "", 1, "ask")]
    assert world.supervisor.desk.usage(AGENT)["alerts"][0]["used"] == 1
    await asked(world.run("true"))
    await nothing_left(world)


async def test_what_a_limit_refuses_does_not_count_so_the_time_that_it_said_holds(worlds) -> None:
    world = await serving(worlds, alerts=alerts("stop", sensitive_per_hour=1))
    await finished(world, "cat", ".ssh/id_rsa")
    for _ in range(3):
        with pytest.raises(errors.LimitReached):
            await world.run("cat", ".ssh/id_rsa")
    assert world.supervisor.desk.usage(AGENT)["alerts"][0]["used"] == 1


async def test_each_blocked_command_is_told_of_and_other_refusals_are_not(worlds, events) -> None:
    world = await serving(worlds, alerts=alerts("stop", blocked_command=True), autonomy=BLOCKING)
    seen = events(world)
    for _ in range(3):
        with pytest.raises(errors.Denied):
            await world.run("nmap", "x", labels={"agent": "a7"})
    with pytest.raises(errors.Denied):
        await world.run("true", tool="browser")
    await finished(world, "true", labels={"agent": "a7"})
    assert await told(world) == [("alerts.blocked_command", "a7", 1, "tell")] * 3
    assert [e["rule"] for e in await heard(seen)] == ["alerts.blocked_command"] * 3


async def test_without_alerts_nothing_is_told_counted_or_shown(worlds) -> None:
    world = await serving(worlds, autonomy=BLOCKING)
    await finished(world, "cat", ".ssh/id_rsa")
    with pytest.raises(errors.Denied):
        await world.run("nmap")
    assert await told(world) == []
    assert len(world.supervisor.meters.book) == 0
    assert world.supervisor.desk.usage(AGENT)["alerts"] == []
    assert world.supervisor.status(ADMINISTRATOR)["alerts"] == {"agents": 0}


async def test_counts_and_who_was_told_of_go_on_after_a_restart(tmp_path) -> None:
    policy = replace(snapshot(), alerts=alerts("stop", failed_per_hour=2, sensitive_per_hour=3))
    found = []
    for _ in range(3):
        store = Store(str(tmp_path / "decisions.db"))
        await store.open()
        meters = Meters(store, clock=lambda: NOW)
        await meters.load()
        failing, sensitive = meters.book.plan(policy).alerts
        found.append((meters.alarm(failing, WHO), meters.alarm(sensitive, WHO)))
        await meters.save()
        left = {"alerts.failed_per_hour": 1, "alerts.sensitive_per_hour": 2}
        if len(found) == 1:
            assert dict(check(policy, WHO, "", meters.book, NOW).left) == left
        await store.close()
    assert found == [(0, 0), (2, 0), (0, 3)], "each is told once"
