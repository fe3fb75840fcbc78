"""A session that nobody uses for a while: its leader waits on as cat(1), and everything else stays as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.kernel import cgroup
from supervisor.launcher import warden
from tests.kernel.hostile import Launcher, processes_of
from tests.kernel.sessions import opened, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Agent

pytestmark = pytest.mark.root

PATIENCE = 20.0  # seconds
LITTLE = """
[profiles.little]
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
allowed_commands = ["/usr/bin/echo"]
required = ["landlock", "seccomp", "namespaces"]
shell = "/bin/sh"
limits = { memory = "256M", cpu = "100%", processes = 64, files = 256, output = "1M", disk = "64M", timeout = "10s" }

[[callers]]                     # 2
user = "AGENT"
role = "operator"
workspaces = ["GROUND/*"]
profiles = ["shell", "little"]
"""


@pytest.fixture
def launcher(ground: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> Iterator[Launcher]:
    monkeypatch.setattr(warden, "_RETIRE_AFTER", 0.05)
    with Launcher(ground, agent, more=LITTLE.replace("GROUND", str(ground)).replace("AGENT", agent.name)) as made:
        made.reload()
        yield made


def until(what: Callable[[], bool]) -> None:
    """Look until it is so; each look is a walk through /proc."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        os.sched_yield()


def leaders(launcher: Launcher) -> dict[int, str]:
    """The leaders of sessions, which are PID 1 of their namespace and have given up everything; what they run."""
    found = {}
    for pid, named in processes_of(launcher.uids).items():
        with contextlib.suppress(FileNotFoundError):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            if status["NSpid"].split()[-1] == "1" and status["Seccomp"] == "2":
                found[pid] = named
    return found


def leader(launcher: Launcher) -> int:
    """That of the one session."""
    until(lambda: len(leaders(launcher)) == 1)
    return next(iter(leaders(launcher)))


def session_of(launcher: Launcher, pid: int) -> set[int]:
    """The processes of a leader's PID namespace; a session made ahead has one of its own."""
    found = set()
    for other in processes_of(launcher.uids):
        with contextlib.suppress(FileNotFoundError):
            if os.readlink(f"/proc/{other}/ns/pid") == os.readlink(f"/proc/{pid}/ns/pid"):
                found.add(other)
    return found


def kib(pid: int) -> int:
    """Private memory: proc_pid_smaps_rollup(5)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def test_a_leader_that_rests_keeps_its_session_and_little_memory(
    launcher: Launcher, workspace: Path, agent: Agent
) -> None:
    with opened(launcher, workspace, launcher.snapshot.digest(), caller=2) as session:
        pid = leader(launcher)
        before = Path(f"/proc/{pid}/status").read_text()
        until(lambda: leaders(launcher) == {pid: "cat "})
        after = Path(f"/proc/{pid}/status").read_text()
        assert kib(pid) < 1024
        for name in ("Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp", "NSpid", "SigIgn"):
            said = [next(x for x in text.splitlines() if x.startswith(f"{name}:")) for text in (before, after)]
            assert said[0] == said[1]
        ended = run(
            launcher, session.session, workspace, "/bin/sh", "-c", "echo still; ps -e -o pid= | wc -l; sleep 60 &"
        )
        assert ended.out.split()[0] == "still"
        until(lambda: session_of(launcher, pid) == {pid})  # what it left behind was reaped, and waiting ones too
    assert launcher.security() == []


def test_a_session_without_cat_goes_on_as_it_is(launcher: Launcher, workspace: Path) -> None:
    with opened(launcher, workspace, launcher.snapshot.digest(), caller=2, profile="little") as session:
        pid = leader(launcher)
        until(lambda: session_of(launcher, pid) == {pid})  # retired: no child waits
        assert run(launcher, session.session, workspace, "/usr/bin/echo", "still").out == "still\n"
        assert "python" in leaders(launcher)[pid]


def test_a_leader_that_rests_dies_with_the_launcher(launcher: Launcher, workspace: Path) -> None:
    answer = launcher.answer(launcher.opening(workspace, launcher.snapshot.digest(), caller=2))
    pid = leader(launcher)
    until(lambda: leaders(launcher) == {pid: "cat "})
    assert answer.session
    os.kill(launcher.pid, signal.SIGKILL)
    assert launcher._gone(PATIENCE)
    until(lambda: processes_of(launcher.uids) == {})
    tree = cgroup.detect(launcher.layout.instance)
    tree.sweep()  # as the next start does
    assert tree.remove()


def test_no_run_gets_a_child_that_was_given_up(
    ground: Path, workspace: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child in waiting that was told to die is there until it has: a run that comes just then takes another."""
    monkeypatch.setattr(warden, "_RETIRE_AFTER", 0.01)  # about what passes between two runs
    with Launcher(ground, agent, more=LITTLE.replace("GROUND", str(ground)).replace("AGENT", agent.name)) as launcher:
        with opened(launcher, workspace, launcher.reload(), caller=2) as session:
            for n in range(200):
                said = run(launcher, session.session, workspace, "/bin/echo", str(n))
                assert (said.ended.cause, said.out) == ("exited", f"{n}\n")
        assert launcher.security() == []
