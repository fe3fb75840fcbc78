"""What the fault tests look at from outside: who lives under which uid, what is left on the host, what the log says."""

from __future__ import annotations

import os
import queue
import random
import select
import signal
import threading
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.harness import REPOSITORY
from tests.kernel.hostile import cgroups_of, processes_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.harness import Daemon

PATIENCE = 30.0  # seconds; only something that hangs is waited for so long


def policy(uids: tuple[int, int]) -> str:
    """The default policy with uids of its own, so that whoever is found under them is ours."""
    text = (REPOSITORY / "policies" / "default.toml").read_text()
    return text.replace("[1900000000, 65536]", f"[{uids[0]}, {uids[1]}]").replace("sessions = 256", "sessions = 64")


def instance(daemon: Daemon) -> str:
    from supervisor.layout import layout

    return layout(str(daemon.root)).instance


def service_processes(root: Path) -> dict[int, str]:
    """pid -> command line of every process that was started for this root."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            words = line.split(b"\0")
            if any(w == bytes(root) or w.startswith(bytes(root) + b"/") for w in words):
                found[int(entry)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def host_mounts(root: Path) -> list[str]:
    """Mounts of the host below a root, and namespaces kept alive by a mount of their file."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [x for x in lines if x.split(" ")[4].startswith(str(root)) or " - nsfs " in x]


def all_gone(pids: Iterable[int], deadline: float) -> bool:
    """Wait for the end of these processes."""
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
        finally:
            os.close(fd)
    return True


def assert_nothing_lives(daemon: Daemon, uids: tuple[int, int]) -> None:
    """After the end of the service: no process of it or of its sessions, waited for by pidfd."""
    deadline = time.monotonic() + PATIENCE
    while left := {**processes_of(uids), **service_processes(daemon.root)}:
        assert all_gone(left, deadline), f"still alive: {left}"


def assert_nothing_left(daemon: Daemon, uids: tuple[int, int], mounts: list[str]) -> None:
    """After an orderly end: nothing on the host tells that it ever ran, but for its files."""
    assert_nothing_lives(daemon, uids)
    assert cgroups_of(instance(daemon)) == []
    assert host_mounts(daemon.root) == mounts
    state, run = daemon.root / "state", daemon.root / "run"
    assert [p for p in state.iterdir() if p.name.startswith("prove-")] == []
    assert [p for p in run.iterdir() if p.name not in ("lock", "api.sock")] == []


def kill(daemon: Daemon, victim: str) -> None:
    """kill -9 of one process of the service, then wait until all of it is gone."""
    pid = daemon.pid if victim == "main" else daemon.children()[victim]
    os.kill(pid, signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.wait(PATIENCE)
    daemon.process = None


def leader_of(daemon: Daemon, session_uid: int) -> int:
    """The pid of the session leader whose children run under this uid; leaders have the next one."""
    return next(pid for pid in processes_of((session_uid + 1, 1)))


class Log:
    """What the audit log says of runs."""

    def __init__(self, daemon: Daemon) -> None:
        self.records = daemon.audit()
        self.decided = Counter(
            r["run"] for r in self.records if r["event_type"] == "decision" and r["outcome"] == "allow"
        )
        self.ended = Counter(r["run"] for r in self.records if r["event_type"] == "outcome")
        self.causes = {r["run"]: r["outcome"] for r in self.records if r["event_type"] == "outcome"}

    def assert_whole(self, answered: dict[str, str], started: set[str]) -> None:
        """Each run that has a decision has one outcome, and what clients were told is what stands here."""
        assert {r: n for r, n in self.decided.items() if n != 1} == {}, "decided more than once"
        assert {r: n for r, n in self.ended.items() if n != 1} == {}, "ended more than once"
        assert self.decided.keys() == self.ended.keys()
        lost = started - self.decided.keys()
        assert lost == set(), f"acknowledged, but not in the log: {lost}"
        other = {run: (told, self.causes.get(run)) for run, told in answered.items() if self.causes.get(run) != told}
        assert other == {}, f"run: (as the client was told, as the log says): {other}"
        seqs = [r["seq"] for r in self.records]
        assert seqs == list(range(1, len(seqs) + 1))
        alarms = [r["reason"] for r in self.records if r["event_type"] == "security" and r["action"] == "confinement"]
        assert alarms == []


class Load:
    """Client threads that ask for short and long runs until the service is gone or they are told to stop."""

    def __init__(self, daemon: Daemon, workspaces: list[Path], seed: int) -> None:
        self.answered: dict[str, str] = {}  # finished runs, as the client was told
        self.started: set[str] = set()  # every run that a client was told of
        self.progress: queue.Queue[str] = queue.Queue()
        self.wrong: list[str] = []
        self._daemon, self._enough = daemon, threading.Event()
        self._threads = [
            threading.Thread(target=self._client, args=(workspace, random.Random(f"{seed}/{n}")))  # noqa: S311
            for n, workspace in enumerate(workspaces)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(t.is_alive() for t in self._threads)
        assert self.wrong == [], self.wrong

    def after(self, answers: int) -> None:
        """Wait until so many more answers were given."""
        for _ in range(answers):
            self.progress.get(timeout=PATIENCE)

    def _client(self, workspace: Path, dice: random.Random) -> None:
        session = ""
        try:
            while not self._enough.is_set():
                if not session and dice.random() < 0.5:
                    session = self._open(workspace)
                self._one(workspace, session if dice.random() < 0.7 else "", dice)
        except (OSError, HTTPException):
            pass  # the service is gone; that is what this is about
        except Exception as e:
            self.wrong.append(repr(e))
        self.progress.put("gone")

    def _open(self, workspace: Path) -> str:
        reply = self._daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)}, root=True)
        return str(reply.json["id"]) if reply.status == 201 else ""

    def _one(self, workspace: Path, session: str, dice: random.Random) -> None:
        what: dict[str, Any] = dice.choice(
            [
                {"argv": ["true"]},
                {"script": "echo $$; exit 3"},
                {"script": "for i in 1 2 3; do (sleep 60 &) ; done; head -c 100000 /dev/zero"},
                {"argv": ["sleep", "60"], "timeout": "300ms"},
                {"argv": ["sleep", "60"], "timeout": "5s", "background": True},
                {"script": "sleep 60 & sleep 60", "timeout": "2s", "background": True},
            ]
        )
        where = f"/v1/sessions/{session}/shell" if session else "/v1/runs"
        body = what if session else {**what, "workspace": str(workspace)}
        reply = self._daemon.request("POST", where, body, root=True)
        if reply.status in (200, 202):
            run = reply.json
            self.started.add(run["id"])
            if run["state"] == "finished":
                self.answered[run["id"]] = run["cause"]
        elif reply.status not in (404, 409, 429, 503):
            self.wrong.append(f"{reply.status}: {reply.body!r}")
        self.progress.put(str(reply.status))
