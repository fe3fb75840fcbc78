"""Nothing outside a run is signalled, traced, read, written or steered; the session's leader survives its children."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.escapes.running import ATTACKS, PYTHON, assert_all_denied, assert_noticed, confined, shell, unconfined

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Daemon

pytestmark = pytest.mark.root

LEADER = frozenset(f"leader_{n}" for n in ("kill", "stop", "term", "pidfd", "mem", "environ", "root", "fds", "limits"))


class Canary:
    """A process of the host under the very uid of the session, so that no permission bit is what saves it."""

    def __init__(self, uid: int) -> None:
        self.process = subprocess.Popen(
            [PYTHON, "-B", "-c", (ATTACKS / "canary.py").read_text()],
            user=uid, group=uid, extra_groups=[], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True, text=True, cwd="/",
        )  # fmt: skip
        assert self.process.stdout is not None
        self.address: int = json.loads(self.process.stdout.readline())["address"]
        self.before = self.state()

    def state(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("state\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    @property
    def target(self) -> dict[str, Any]:
        return {"pid": self.process.pid, "address": self.address}

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def canaries(session: dict[str, Any]) -> Iterator[tuple[Canary, Canary]]:
    uid = session["receipt"]["uid"]
    made = Canary(uid), Canary(uid)
    try:
        yield made
    finally:
        for one in made:
            one.end()


def test_no_process_of_the_host_is_reached_even_under_the_same_uid(
    daemon: Daemon, workspace: Path, control_workspace: Path, session: dict[str, Any], canaries: tuple[Canary, Canary]
) -> None:
    """Signals, ptrace, memory, pidfd_getfd, limits and scheduling, of a pid that is known and of those guessed."""
    inside, outside = canaries
    uid = session["receipt"]["uid"]
    found = confined(daemon, workspace, "processes.py", inside.target, session["id"])
    assert inside.process.poll() is None
    assert inside.state() == inside.before

    control = unconfined(control_workspace, "processes.py", outside.target, uid)
    assert_noticed(control, host=LEADER)
    after = outside.state()
    assert after["cell"] == "attackedd"
    assert after["signals"]
    assert (after["nice"], after["core"]) == (18, [0, 0])
    assert_all_denied(found, control)


def test_a_session_survives_the_attempt_to_kill_its_leader_and_everything_else(
    daemon: Daemon, session: dict[str, Any], canaries: tuple[Canary, Canary]
) -> None:
    script = "trap '' TERM; ( kill -STOP 1; kill -9 1; kill -TERM -1; kill -9 -1 ); echo not reached"
    assert shell(daemon, session, script)["signal"] == 9
    assert shell(daemon, session, "echo alive; kill -0 1 2>/dev/null && echo reached")["stdout"] == "alive\n"
    assert all(c.process.poll() is None and c.state() == c.before for c in canaries)


def test_a_run_cannot_kill_another_run_of_its_own_session(daemon: Daemon, session: dict[str, Any]) -> None:
    """The signal scope is the run's own Landlock domain (ABI 6)."""
    if session["receipt"]["landlock"] < 6:
        pytest.skip("no signal scope before Landlock ABI 6")
    other = shell(daemon, session, "echo ready; exec sleep 1000", background=True)
    shell(daemon, session, "kill -9 -1")
    assert daemon.request("GET", f"/v1/runs/{other['id']}").json["state"] == "running"
    ended = daemon.request("DELETE", f"/v1/runs/{other['id']}").json
    assert ended["cause"] == "cancelled"
