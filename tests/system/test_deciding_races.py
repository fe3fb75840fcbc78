"""Sixteen clients at the same moment, over the real socket: no bound is passed by one, and no place is lost."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import Later, decisions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent, Reply

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("within_one_hour")]

CLIENTS = 16
MORE = """
[[rates]]
scope = "agent"
per_hour = 20

[[rates]]
scope = "user"
per_hour = 5

[breaker]
failures = 2
repeats = 0
open = "1s"

[concurrency]
runs_per_agent = 2
queue = 32
"""


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, decisions(uid_range(), MORE)) as running:
        yield running


@pytest.fixture
def shell(daemon: Daemon, workspace: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where runs of a session are asked for that was opened by an agent and a user of its own."""
    labels = {"channel": request.node.name}
    opened = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace), "labels": labels}).json
    yield f"/v1/sessions/{opened['id']}/shell"
    daemon.request("DELETE", f"/v1/sessions/{opened['id']}")


def at_once(daemon: Daemon, path: str, *bodies: dict[str, Any]) -> list[Reply]:
    return [later.result() for later in [Later(daemon, path, body) for body in bodies]]


def lefts(reply: Reply) -> list[int]:
    return [entry["left"] for entry in reply.json["decision"]["left"]]


def test_a_rate_of_five_lets_five_of_sixteen_through_whatever_else_they_state(daemon: Daemon, shell: str) -> None:
    bodies = ({"argv": ["true"], "labels": {"agent": f"agent-{n}", "user": "raced"}} for n in range(CLIENTS))
    replies = at_once(daemon, shell, *bodies)
    assert Counter(r.status for r in replies) == {200: 5, 429: CLIENTS - 5}
    assert {r.json["rule"] for r in replies if r.status == 429} == {"rates[1].per_hour"}
    assert sorted(lefts(r)[1] for r in replies if r.status == 200) == [0, 1, 2, 3, 4]


def test_dry_runs_and_what_is_refused_use_up_nothing(daemon: Daemon, shell: str, workspace: Path) -> None:
    labels = {"agent": "dry", "user": "dry"}
    for _ in range(7):
        dry = daemon.request("POST", shell, {"argv": ["true"], "labels": labels, "dry_run": True})
        assert (dry.status, lefts(dry)) == (200, [19, 4])
    for path in ("/v1/runs", "/v1/sessions"):
        gone = {
            "workspace": f"{workspace}-gone",
            "labels": labels,
            **({"argv": ["true"]} if path == "/v1/runs" else {}),
        }
        refused = daemon.request("POST", path, gone)
        assert refused.json["code"] == "workspace_refused"
    run = daemon.request("POST", shell, {"argv": ["true"], "labels": labels})
    assert lefts(run) == [19, 4]


def test_a_half_open_breaker_lets_one_of_sixteen_try(daemon: Daemon, shell: str, workspace: Path) -> None:
    labels = {"agent": "trying", "user": "t"}
    for _ in range(2):
        daemon.request("POST", shell, {"argv": ["false"], "labels": labels})
    asked = {"argv": ["true"], "labels": labels, "dry_run": True}
    assert daemon.request("POST", shell, asked).json["rule"] == "breaker"
    while daemon.request("POST", shell, asked).status == 429:
        pass
    replies = [Later(daemon, shell, {"script": "mkfifo t; read x < t", "labels": labels}) for _ in range(CLIENTS)]
    while sum(r.is_alive() for r in replies) > 1:
        replies[0].join(0.01)
    with open(workspace / "t", "w") as out:
        out.write("x\n")
    found = [r.result() for r in replies]
    assert Counter(r.status for r in found) == {200: 1, 429: CLIENTS - 1}
    assert all("one run is trying" in r.json["detail"] for r in found if r.status == 429)
    assert daemon.request("POST", shell, asked).status == 200, "it ended well"


def test_two_places_are_two_of_sixteen_and_everybody_has_a_turn(daemon: Daemon, shell: str, workspace: Path) -> None:
    """Each run says when it has its place and when it gives it back, in one write(2) to a file that all append to."""
    script = "echo 1 >> log; for i in 1 2 3; do true & wait; done; echo -1 >> log"
    bodies = ({"script": script, "labels": {"agent": "placed", "user": f"u{n}"}} for n in range(CLIENTS))
    replies = at_once(daemon, shell, *bodies)
    assert Counter(r.status for r in replies) == {200: CLIENTS}
    at, most = 0, 0
    for step in map(int, (workspace / "log").read_text().split()):
        at += step
        most = max(most, at)
    assert at == 0
    assert 1 <= most <= 2


def test_clients_that_vanish_in_the_queue_hold_up_nobody(daemon: Daemon, shell: str, workspace: Path) -> None:
    labels = {"agent": "vanishing", "user": "v"}
    first = [
        daemon.request(
            "POST", shell, {"script": f"mkfifo {n}; read x < {n}", "labels": labels, "background": True}
        ).json
        for n in ("f1", "f2")
    ]
    gone = []
    for _ in range(3):
        gone.append(daemon.connect())
        body = json.dumps({"argv": ["touch", "never"], "labels": labels})
        gone[-1].request("POST", shell, body, {"Content-Type": "application/json"})
    last = Later(daemon, shell, {"argv": ["true"], "labels": labels})
    queued(daemon, 4)
    for connection in gone:
        connection.close()
    assert [entry["argv"] for entry in queued(daemon, 1)] == [["true"]]
    for run, name in zip(first, ("f1", "f2"), strict=True):
        while not (workspace / name).exists():
            pass
        with open(workspace / name, "w") as out:
            out.write("x\n")
        daemon.request("GET", f"/v1/runs/{run['id']}/wait")
    assert lefts(last.result()) == [17, 2], "only those that ran were counted"
    assert sorted(os.listdir(workspace)) == ["f1", "f2"]


def queued(daemon: Daemon, length: int) -> list[dict[str, Any]]:
    for _ in range(5000):
        found: list[dict[str, Any]] = daemon.request("GET", "/v1/queue").json["queue"]
        if len(found) == length:
            return found
    raise AssertionError(f"{len(found)} wait, not {length}")
