"""Alerts over the real socket: each action, who is told, what is shown, and that kill -9 forgets nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import answer, asked, audit_of, decisions, post_run
from tests.system.faults import kill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Agent, Reply

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("within_one_hour")]

FAILED, SENSITIVE, BLOCKED = (f"alerts.{key}" for key in ("failed_per_hour", "sensitive_per_hour", "blocked_command"))
UNUSUAL = "alerts.unusual[0]"
FIXED = "failed_per_hour = 2\nsensitive_per_hour = 2\nblocked_command = true\n"
SECRET = ("cat", ".ssh/id_ed25519")


@pytest.fixture
def serving(ground: Path, agent: Agent) -> Iterator[Callable[..., Daemon]]:
    """A service whose alerts come to this action. It asks about nothing else that is tried here."""
    made: list[Daemon] = []

    def start(action: str, bounds: str = FIXED) -> Daemon:
        more = f'[alerts]\n{bounds}action = "{action}"\n'
        made.append(Daemon(ground, agent, sys.executable, decisions(uid_range(), more, **{', "secrets"': ""})))
        return made[-1].__enter__()

    yield start
    for daemon in made:
        daemon.__exit__()


def failing(daemon: Daemon, workspace: Path, agent: str, times: int = 2) -> None:
    for _ in range(times):
        assert daemon.run(workspace, "false", labels={"agent": agent})["exit_code"] == 1


def wanting(daemon: Daemon, workspace: Path, agent: str, *argv: str) -> Reply:
    return post_run(daemon, workspace, *(argv or ("true",)), labels={"agent": agent})


def alerts_of(daemon: Daemon) -> list[tuple[str, str, int, str]]:
    found = audit_of(daemon, "security", action="alert")
    assert all(r["caller"]["uid"] == daemon.agent.uid for r in found)
    return [(r["result"]["rule"], r["result"]["agent"], r["result"]["count"], r["outcome"]) for r in found]


def counts_of(daemon: Daemon, rule: str) -> dict[str, int]:
    rows: list[dict[str, Any]] = daemon.request("GET", "/v1/usage").json["alerts"]
    return {row["of"]: row["used"] for row in rows if row["rule"] == rule and row["of"]}


def test_an_agent_that_is_told_of_goes_on(serving: Callable[..., Daemon], workspace: Path) -> None:
    daemon = serving("tell")
    failing(daemon, workspace, "failing", 3)
    for _ in range(3):
        assert wanting(daemon, workspace, "curious", *SECRET).status == 200
    for _ in range(2):
        assert wanting(daemon, workspace, "stubborn", "nmap", "x").status == 403
    assert wanting(daemon, workspace, "failing").status == 200
    # The first failure of a secret's reader is one of its runs too: there is no such file.
    assert sorted(alerts_of(daemon)) == [
        (BLOCKED, "stubborn", 1, "tell"), (BLOCKED, "stubborn", 1, "tell"), (FAILED, "curious", 2, "tell"),
        (FAILED, "failing", 2, "tell"), (SENSITIVE, "curious", 2, "tell"),
    ]  # fmt: skip
    assert counts_of(daemon, SENSITIVE) == {"curious": 3}
    assert daemon.request("GET", "/v1/status").json["alerts"] == {"agents": 2}


def test_an_agent_that_is_asked_about_runs_with_a_yes_alone(serving: Callable[..., Daemon], workspace: Path) -> None:
    daemon = serving("ask")
    failing(daemon, workspace, "failing")
    ident = asked(wanting(daemon, workspace, "failing"))
    reasons = daemon.request("GET", f"/v1/approvals/{ident}").json["reasons"]
    assert [(r["rule"], r["blanket"]) for r in reasons] == [(FAILED, False)]
    assert answer(daemon, ident, scope="session").status >= 400, "a yes to everything is none that can be given"
    assert answer(daemon, ident).status == 200
    assert wanting(daemon, workspace, "failing").status == 200
    assert asked(wanting(daemon, workspace, "failing")) != ident
    assert wanting(daemon, workspace, "other").status == 200
    assert alerts_of(daemon) == [(FAILED, "failing", 2, "ask")]


def test_an_agent_that_is_stopped_stays_so_over_kill_9(serving: Callable[..., Daemon], workspace: Path) -> None:
    daemon = serving("stop")
    failing(daemon, workspace, "failing")
    failing(daemon, workspace, "near", 1)
    for _ in range(2):
        denied = post_run(daemon, workspace, "sh", "-c", "cat .ssh/id_rsa; nmap x", labels={"agent": "curious"})
        assert denied.status == 403, denied.body
    before = [stopped(daemon, workspace, name, rule) for name, rule in (("failing", FAILED), ("curious", SENSITIVE))]
    told = alerts_of(daemon)
    kill(daemon, "main")
    daemon.start()
    after = [stopped(daemon, workspace, name, rule) for name, rule in (("failing", FAILED), ("curious", SENSITIVE))]
    assert all(0 < later <= earlier for later, earlier in zip(after, before, strict=True))
    assert counts_of(daemon, FAILED) == {"failing": 2, "near": 1}
    assert alerts_of(daemon) == told, "told of once, also by the next process"
    assert wanting(daemon, workspace, "other").status == 200
    failing(daemon, workspace, "near", 1)
    stopped(daemon, workspace, "near", FAILED)
    assert alerts_of(daemon) == [*told, (FAILED, "near", 2, "stop")]


def test_each_count_has_an_action_of_its_own(serving: Callable[..., Daemon], workspace: Path) -> None:
    daemon = serving("tell", f'{FIXED}actions = {{ sensitive = "stop", failed = "ask" }}\n')
    failing(daemon, workspace, "failing")
    asked(wanting(daemon, workspace, "failing"))
    for _ in range(2):
        denied = post_run(daemon, workspace, "sh", "-c", "cat .ssh/id_rsa; nmap x", labels={"agent": "curious"})
        assert denied.status == 403, denied.body
    stopped(daemon, workspace, "curious", SENSITIVE)
    assert [(rule, agent, action) for rule, agent, _, action in alerts_of(daemon) if rule != BLOCKED] == [
        (FAILED, "failing", "ask"), (SENSITIVE, "curious", "stop"),
    ]  # fmt: skip


def test_an_hour_that_is_not_usual_for_an_agent_stops_it(serving: Callable[..., Daemon], workspace: Path) -> None:
    """A day of hours takes a day, so they are written where the service keeps what it learned."""
    bounds = 'unusual = ["runs"]\nunusual_least = 3\nunusual_threshold = 2\nunusual_period = "24h"\n'
    daemon = serving("stop", bounds)
    for agent in ("steady", "returned"):
        assert wanting(daemon, workspace, agent).status == 200
    kill(daemon, "main")
    with contextlib.closing(sqlite3.connect(daemon.root / "state/decisions.db")) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        (hour,) = db.execute("SELECT hour FROM usual WHERE key LIKE 'n:%/steady' AND count = 1").fetchone()
        for agent, ago in (("steady", 1), ("returned", 30)):  # the period is over since the one that returned
            new = (hour - ago, f"n:%/{agent}")
            db.execute("UPDATE usual SET hour = ?, hours = 30, mean = 1.0 WHERE key LIKE ?", new)
        db.commit()
    daemon.start()
    assert [wanting(daemon, workspace, "steady").status for _ in range(4)] == [200] * 4
    assert 0 < stopped(daemon, workspace, "steady", UNUSUAL) <= 3600
    assert [wanting(daemon, workspace, "returned").status for _ in range(6)] == [200] * 6
    assert wanting(daemon, workspace, "other").status == 200
    assert counts_of(daemon, UNUSUAL) == {"steady": 4}
    kill(daemon, "main")
    daemon.start()
    stopped(daemon, workspace, "steady", UNUSUAL)
    assert alerts_of(daemon) == [(UNUSUAL, "steady", 4, "stop")]


def stopped(daemon: Daemon, workspace: Path, agent: str, rule: str) -> float:
    """Seconds until it passes again, as the refusal says."""
    reply = wanting(daemon, workspace, agent)
    assert reply.status == 429, reply.body
    problem = reply.json
    assert (problem["rule"], problem["retry"]) == (rule, "later")
    assert problem["allowed"]
    assert problem["hint"]
    return float(problem["retry_after"])
