"""How much: rates, budgets, breaker, places and the queue, over the real socket and over a restart."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import Later, answer, audit_of, decisions, post_run
from tests.system.faults import kill
from tests.system.test_deciding import wait_for_question

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent, Reply

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("within_one_hour")]

MORE = """
[[rates]]
scope = "agent"
per_hour = 3

[[budgets]]
period = "session"
processes = 2

[[budgets]]
period = "day"
scope = "user"
cpu = "50ms"

[breaker]
failures = 3
repeats = 0
open = "1h"
"""


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, decisions(uid_range(), MORE)) as running:
        yield running


def limited(reply: Reply, rule: str) -> dict[str, Any]:
    assert reply.status == 429, reply.body
    problem: dict[str, Any] = reply.json
    assert problem["rule"] == rule
    assert problem["allowed"]
    assert problem["hint"]
    return problem


def test_a_rate_is_reached_by_one_agent_and_says_when_to_come_again(daemon: Daemon, workspace: Path) -> None:
    left = []
    for _ in range(3):
        run = daemon.run(workspace, "true", labels={"agent": "rated"})
        left.append(next(e["left"] for e in run["decision"]["left"] if e["rule"] == "rates[0].per_hour"))
    assert left == [2, 1, 0]
    reply = post_run(daemon, workspace, "true", labels={"agent": "rated"})
    problem = limited(reply, "rates[0].per_hour")
    assert 0 < float(reply.headers["Retry-After"]) <= 7200
    assert problem["retry"] == "later"
    assert post_run(daemon, workspace, "true", labels={"agent": "other"}).status == 200
    assert audit_of(daemon, "decision", outcome="limit")


def test_a_budget_of_a_day_is_what_the_kernel_counted(daemon: Daemon, workspace: Path) -> None:
    spin = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    labels = {"user": "busy", "agent": "b1"}
    run = daemon.run(workspace, script=spin, labels=labels)
    assert run["usage"]["cpu_ms"] > 50
    limited(post_run(daemon, workspace, "true", labels={"user": "busy", "agent": "b2"}), "budgets[1].cpu")
    assert post_run(daemon, workspace, "true", labels={"user": "idle", "agent": "b3"}).status == 200


def test_a_budget_of_a_session_ends_with_it(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "labels": {"agent": "sessions", "user": "s"}}
    opened = daemon.request("POST", "/v1/sessions", body).json
    path = f"/v1/sessions/{opened['id']}/shell"
    try:
        for _ in range(2):
            daemon.request("POST", path, {"argv": ["true"]})
        problem = limited(daemon.request("POST", path, {"argv": ["true"]}), "budgets[0].processes")
        assert problem["code"] == "session_spent"
    finally:
        daemon.request("DELETE", f"/v1/sessions/{opened['id']}")


def test_a_breaker_opens_is_shown_and_reset(daemon: Daemon, workspace: Path) -> None:
    labels = {"agent": "failing", "user": "f"}
    for _ in range(3):
        daemon.run(workspace, "false", labels=labels)
    # The rate is reached as well by now; the breaker says so first, because a loop is not to be continued later.
    problem = limited(post_run(daemon, workspace, "true", labels=labels), "breaker")
    assert "stockade breakers reset" in problem["hint"]
    shown = daemon.request("GET", "/v1/breakers").json["breakers"]
    mine = next(b for b in shown if b["agent"] == "failing")
    assert mine["state"] == "open"
    assert daemon.request("POST", "/v1/breakers/reset", {"key": mine["key"]}).status == 403
    assert daemon.request("POST", "/v1/breakers/reset", {"key": mine["key"]}, root=True).status == 200
    assert post_run(daemon, workspace, "true", labels=labels).json["rule"] != "breaker"


def test_refusals_count_as_failures(daemon: Daemon, workspace: Path) -> None:
    labels = {"agent": "stubborn", "user": "t"}
    for _ in range(3):
        assert post_run(daemon, workspace, "nmap", "x", labels=labels).status == 403
    limited(post_run(daemon, workspace, "true", labels=labels), "breaker")


def test_nothing_is_forgotten_over_kill_9(daemon: Daemon, workspace: Path) -> None:
    labels = {"agent": "survivor", "user": "u"}
    for _ in range(2):
        daemon.run(workspace, "true", labels=labels)
    for _ in range(3):
        daemon.run(workspace, "false", labels={"agent": "broken", "user": "v"})
    kill(daemon, "main")
    daemon.start()
    run = daemon.run(workspace, "true", labels=labels)
    assert next(e["left"] for e in run["decision"]["left"] if e["rule"] == "rates[0].per_hour") == 0
    limited(post_run(daemon, workspace, "true", labels=labels), "rates[0].per_hour")
    limited(post_run(daemon, workspace, "true", labels={"agent": "broken", "user": "v"}), "breaker")


def test_usage_tells_what_is_left(daemon: Daemon) -> None:
    usage = daemon.request("GET", "/v1/usage").json
    assert {r["rule"] for r in usage["rates"]} == {"rates[0].per_hour"}
    assert usage["counters"] < usage["counters_allowed"]


QUEUE = """
[concurrency]
runs_per_agent = 1
queue = 8
queue_time = "30s"
"""


@pytest.fixture(scope="module")
def queueing(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, decisions(uid_range(), QUEUE)) as running:
        yield running


def test_a_run_over_the_bound_of_its_agent_waits_visibly_and_can_be_taken_out(
    queueing: Daemon, workspace: Path
) -> None:
    fifo = workspace / "go"
    body = {"workspace": str(workspace), "script": "mkfifo go; read x < go", "background": True}
    first = queueing.request("POST", "/v1/runs", body).json
    waiting = [Later(queueing, "/v1/runs", {"workspace": str(workspace), "argv": ["echo", str(n)]}) for n in range(2)]
    entries = wait_for_queue(queueing, 2)
    assert [e["position"] for e in entries] == [1, 2]
    assert all(e["waits_for"] == "its own runs" for e in entries)
    other = post_run(queueing, workspace, "true", labels={"agent": "other"})
    assert other.status == 200, "another agent does not wait behind this one"
    gone = queueing.request("DELETE", f"/v1/queue/{entries[1]['id']}")
    assert gone.status == 200
    while not fifo.exists():
        pass
    with open(fifo, "w") as out:
        out.write("x\n")
    queueing.request("GET", f"/v1/runs/{first['id']}/wait")
    statuses = sorted(w.result().status for w in waiting)
    assert statuses == [200, 409]
    assert queueing.request("GET", "/v1/queue").json["queue"] == []


@pytest.mark.parametrize("how", ["reload", "revoke"])
def test_a_yes_that_is_taken_back_while_its_run_waits_for_a_place_lets_nothing_run(
    queueing: Daemon, workspace: Path, how: str
) -> None:
    """The use is spent before the run has its place, and what policy or a person says meanwhile holds for it."""
    body = {"workspace": str(workspace), "argv": ["touch", "asked", how], "wait_approval": "60s"}
    waiting = Later(queueing, "/v1/runs", body)
    ident = wait_for_question(queueing, how)
    busy = {"workspace": str(workspace), "script": "mkfifo go; read x < go", "background": True}
    first = queueing.request("POST", "/v1/runs", busy).json
    assert answer(queueing, ident, scope="until", duration="1h").status == 200
    wait_for_queue(queueing, 1)
    grant = next(g for g in queueing.request("GET", "/v1/grants").json["grants"] if g["question"] == ident)
    assert grant["used"] == 1
    if how == "reload":
        text = (queueing.root / "etc" / "policy.toml").read_text()
        queueing.write_policy(text + "\n# another digest\n")
        assert queueing.request("POST", "/v1/policy/reload", root=True).status == 200
    else:
        assert queueing.request("DELETE", f"/v1/grants/{grant['id']}", root=True).status == 200
    while not (workspace / "go").exists():
        pass
    with open(workspace / "go", "w") as out:
        out.write("x\n")
    queueing.request("GET", f"/v1/runs/{first['id']}/wait")
    reply = waiting.result()
    assert (reply.status, reply.json["code"]) == (409, "conflict"), reply.body
    assert not (workspace / "asked").exists()
    assert post_run(queueing, workspace, "true").status == 200, "its place is free again"


def wait_for_queue(daemon: Daemon, length: int) -> list[dict[str, Any]]:
    for _ in range(5000):
        found: list[dict[str, Any]] = daemon.request("GET", "/v1/queue").json["queue"]
        if len(found) == length:
            return found
    raise AssertionError(f"{len(found)} wait, not {length}")
