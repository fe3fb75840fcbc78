"""A session keeps what is its own from run to run, shares nothing with another one, and leaves no trace."""

from __future__ import annotations

import json
import os
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.system.outside import alive_with, events, listing, policy, streamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Agent

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, policy()) as running:
        yield running


@pytest.fixture
def session(daemon: Daemon) -> Iterator[Callable[..., str]]:
    """Open sessions; those that are left are closed with the test."""
    opened: list[str] = []

    def open_session(workspace: Path, **more: Any) -> str:
        reply = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace), **more})
        assert reply.status == 201, reply.body
        opened.append(reply.json["id"])
        return opened[-1]

    yield open_session
    for ident in opened:
        daemon.request("DELETE", f"/v1/sessions/{ident}")


def shell(daemon: Daemon, session: str, script: str, **more: Any) -> dict[str, Any]:
    reply = daemon.request("POST", f"/v1/sessions/{session}/shell", {"script": script, **more})
    assert reply.status == 200, reply.body
    return reply.json


@pytest.fixture
def second(ground: Path, agent: Agent) -> Iterator[Path]:
    """Another workspace of the same agent."""
    path = ground / f"second-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    os.chown(path, agent.uid, agent.gid)
    yield path
    for entry in path.iterdir():
        entry.unlink()
    path.rmdir()


PLACES = ("/tmp", "/var/tmp", "/dev/shm", "$HOME", ".")


def test_what_a_run_leaves_the_next_one_finds(daemon: Daemon, session: Callable[..., str], workspace: Path) -> None:
    ident = session(workspace)
    for place in PLACES:
        assert shell(daemon, ident, f"echo kept > {place}/kept")["exit_code"] == 0
    for place in PLACES:
        assert shell(daemon, ident, f"cat {place}/kept")["stdout"] == "kept\n"
    assert (workspace / "kept").read_text() == "kept\n"


def test_a_new_session_has_nothing_of_the_one_before(
    daemon: Daemon, session: Callable[..., str], workspace: Path
) -> None:
    first = session(workspace)
    shell(daemon, first, "for p in /tmp /var/tmp /dev/shm $HOME; do echo secret > $p/left; done")
    daemon.request("DELETE", f"/v1/sessions/{first}")
    found = shell(daemon, session(workspace), "ls -A /tmp /var/tmp /dev/shm $HOME | grep left")
    assert (found["stdout"], found["exit_code"]) == ("", 1)


HOLDING = """
import ctypes, os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind("\\x00" + sys.argv[1])
s.listen()
assert ctypes.CDLL(None).shmget(0x5eed, 4096, 0o1666) >= 0
for place in ("/tmp", "/var/tmp", "/dev/shm", os.environ["HOME"], "."):
    open(f"{place}/theirs", "w").close()
print("up", flush=True)
time.sleep(60)
"""

# The word that is looked for is put together here, so that this program does not find itself.
LOOKING = """
import ctypes, glob, json, os, socket
word, theirs = os.environ["A"] + os.environ["B"], os.environ["THEIRS"]
seen = []
for path in glob.glob("/proc/[0-9]*/cmdline") + ["/proc/net/unix"]:
    seen += [path] if word.encode() in open(path, "rb").read() else []
for place in ("/tmp", "/var/tmp", "/dev/shm", os.environ["HOME"], "."):
    seen += [place] if os.path.lexists(f"{place}/theirs") else []
seen += ["shm"] if ctypes.CDLL(None).shmget(0x5eed, 4096, 0) >= 0 else []
for path in (theirs, os.path.dirname(theirs)):
    try:
        seen += [entry for entry in os.listdir(path) if entry in theirs]
    except OSError:
        pass
try:
    socket.socket(socket.AF_UNIX).connect("\\x00" + word)
    seen.append("socket")
except OSError:
    pass
print(json.dumps({"seen": seen, "uid": os.getuid()}))
"""


def test_two_live_sessions_do_not_see_each_other(
    daemon: Daemon, session: Callable[..., str], workspace: Path, second: Path
) -> None:
    """Files, processes, shared memory, abstract sockets; and their uids differ. The holder itself finds all of it."""
    one, two = session(workspace), session(second)
    marker = uuid.uuid4().hex
    env = {"A": marker[:16], "B": marker[16:], "THEIRS": str(workspace)}
    with streamed(daemon, {"session": one, "argv": ["python3", "-c", HOLDING, marker]}) as frames:
        frames.until("up")
        assert len(alive_with(marker)) == 1
        inside, beside = (
            json.loads(shell(daemon, ident, "exec python3", stdin=LOOKING, env=env)["stdout"]) for ident in (one, two)
        )
    assert beside["seen"] == []
    assert {"shm", "/tmp", "/var/tmp", "/dev/shm", "/home/agent", "."} <= set(inside["seen"])
    assert inside["uid"] != beside["uid"]


def test_a_caller_sees_only_sessions_of_its_own(daemon: Daemon, session: Callable[..., str], workspace: Path) -> None:
    ident = session(workspace, labels={"agent": "mine"})
    assert ident in [s["id"] for s in daemon.request("GET", "/v1/sessions").json["sessions"]]
    shown = daemon.request("GET", f"/v1/sessions/{ident}").json
    assert (shown["state"], shown["workspace"], shown["labels"]) == ("live", str(workspace), {"agent": "mine"})
    everybodys = daemon.request("GET", "/v1/sessions", root=True).json["sessions"]
    assert ident in [s["id"] for s in everybodys]  # an administrator's view


def test_closing_a_session_ends_its_runs_and_itself(
    daemon: Daemon, session: Callable[..., str], workspace: Path
) -> None:
    ident, marker = session(workspace), uuid.uuid4().hex
    with streamed(daemon, {"session": ident, "argv": ["sh", "-c", f"echo up; sleep 60; : {marker}"]}) as frames:
        frames.until("up")
        closed = daemon.request("DELETE", f"/v1/sessions/{ident}")
        assert (closed.status, closed.json["state"], closed.json["live_runs"]) == (200, "ended", [])
        assert alive_with(marker) == []
        assert frames.rest()[-1]["run"]["cause"] == "cancelled"
    late = daemon.request("POST", f"/v1/sessions/{ident}/shell", {"script": "true"})
    assert late.status in (404, 409)
    assert late.json["hint"]


def test_a_session_narrows_its_profile_and_a_run_can_only_narrow_further(
    daemon: Daemon, session: Callable[..., str], workspace: Path
) -> None:
    ident = session(workspace, limits={"processes": 50, "timeout": "30s"})
    wider = daemon.request("POST", f"/v1/sessions/{ident}/shell", {"script": "true", "limits": {"processes": 51}})
    assert (wider.status, wider.json["field"], wider.json["allowed"]) == (403, "limits.processes", "processes up to 50")
    run = shell(daemon, ident, "true", limits={"processes": 49})
    assert (run["limits"]["processes"], run["limits"]["timeout_ms"]) == (49, 30_000)


def test_a_session_without_runs_expires_and_tells(ground: Path, agent: Agent, workspace: Path) -> None:
    """Not while something runs in it: the run below lasts longer than the session may idle."""
    text = policy(('session_idle = "10m"', 'session_idle = "1s"'))
    with Daemon(ground, agent, sys.executable, text) as short, events(short) as told:
        ident = short.request("POST", "/v1/sessions", {"workspace": str(workspace)}).json["id"]
        run = shell(short, ident, "sleep 1.5; echo still there")
        assert run["stdout"] == "still there\n"
        ended = next(e for e in told if e["kind"] == "session.ended")
        assert (ended["session"], ended["cause"]) == (ident, "expired")
        gone = short.request("POST", f"/v1/sessions/{ident}/shell", {"script": "true"})
        assert gone.status in (404, 409)


def plant(workspace: Path, agent: Agent) -> None:
    """Everything that a tree may hold, with modes and times that nothing else would give it."""
    (workspace / "dir" / "empty").mkdir(parents=True)
    (workspace / "dir" / "file").write_text("contents")
    (workspace / ".hidden").write_text("x")
    (workspace / "ümläut €").write_text("")
    (workspace / "link").symlink_to("dir/file")
    (workspace / "dangling").symlink_to("/nowhere/at/all")
    os.link(workspace / "dir" / "file", workspace / "hard")
    os.mkfifo(workspace / "pipe")
    for path in [workspace, *workspace.rglob("*")]:
        os.chown(path, agent.uid, agent.gid, follow_symlinks=False)
    (workspace / "dir" / "file").chmod(0o4751)
    (workspace / "dir").chmod(0o1770)
    os.setxattr(workspace / ".hidden", "user.note", b"kept")
    for path in [*workspace.rglob("*"), workspace]:
        os.utime(path, ns=(10**18 + 1, 10**18 + 2), follow_symlinks=False)


@pytest.mark.parametrize("how", ["one_shot", "session", "killed", "refused"])
def test_confinement_leaves_no_trace_in_the_workspace(
    daemon: Daemon, session: Callable[..., str], agent: Agent, workspace: Path, how: str
) -> None:
    plant(workspace, agent)
    before = listing(workspace)
    if how == "one_shot":
        assert daemon.run(workspace, script="ls -laR . > /dev/null; cat dir/file")["stdout"] == "contents"
    elif how == "session":
        ident = session(workspace)
        assert shell(daemon, ident, "find . -type f -exec cat {} + > /tmp/all; wc -c < /tmp/all")["exit_code"] == 0
        assert listing(workspace) == before
        daemon.request("DELETE", f"/v1/sessions/{ident}")
    elif how == "killed":
        assert daemon.run(workspace, "sleep", "60", timeout="200ms")["cause"] == "timeout"
    else:
        assert daemon.request("POST", "/v1/runs", {"workspace": str(workspace), "argv": ["no-such"]}).status == 422
    assert listing(workspace) == before


def test_what_a_run_makes_belongs_to_the_owner_of_the_workspace(daemon: Daemon, agent: Agent, workspace: Path) -> None:
    plant(workspace, agent)
    before = listing(workspace)
    script = "mkdir made && echo x > made/file && ln -s file made/link && mkfifo made/pipe && cp dir/file made/copy"
    assert daemon.run(workspace, script=script)["exit_code"] == 0
    after = listing(workspace)
    made = {name: seen for name, seen in after.items() if name.startswith("made")}
    assert len(made) == 5
    assert {(seen[1], seen[2]) for seen in made.values()} == {(agent.uid, agent.gid)}
    untouched = set(before) - {"."}
    assert {name: after[name] for name in untouched} == {name: before[name] for name in untouched}
