"""A service of its own to measure, with a throwaway agent; all of it is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import proc
from tests.bench.client import Client
from tests.harness import REPOSITORY, Agent, Daemon, ensure_accounts, make_agent, remove_account

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSIONS = 300


@dataclass(frozen=True)
class Place:
    agent: Agent
    ground: Path
    workspace: str
    daemon: Daemon

    def client(self) -> Client:
        return Client(self.daemon.socket)

    def service(self) -> list[int]:
        """Every process of the service, those of sessions too."""
        return proc.tree(self.daemon.pid)

    def own(self) -> dict[str, int]:
        """Its four lasting processes by name."""
        children = self.daemon.children()
        launcher = children["launcher"]
        below = map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())
        forge = next(pid for pid in below if proc.is_root(pid) and not proc.place_in_tree(pid)[0])
        return {
            "main": self.daemon.pid,
            "launcher": launcher,
            "forge": forge,
            "auditor": children["auditor"],
            "parser": children["parser"],
        }

    def settle(self, seconds: float = 10) -> None:
        """Until the service has done what it does after answers: no process comes or goes, no CPU is used."""
        until, last = time.monotonic() + seconds, None
        while time.monotonic() < until:
            pids = self.service()
            now = (sorted(pids), proc.cpu_ms(pids))
            if now == last:
                return
            last = now
            time.sleep(0.2)


def policy() -> str:
    """The default policy with room for the sessions that are opened here."""
    text = (REPOSITORY / "policies" / "default.toml").read_text()
    text, changed = re.subn(r"^sessions = \d+", f"sessions = {SESSIONS}", text, count=1, flags=re.MULTILINE)
    if not changed:
        raise RuntimeError("policies/default.toml has no line `sessions = N`")
    return text


@contextlib.contextmanager
def place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        for kind, made in ensure_accounts():
            stack.callback(remove_account, kind, made)
        name = f"stk-bench-{os.getpid()}"
        agent = make_agent(name, clients=True)
        stack.callback(remove_account, "user", name)
        # /var/tmp: tmpfs is no place for the log whose fdatasync(2) is part of every run.
        ground = Path(tempfile.mkdtemp(prefix="stk-bench-", dir="/var/tmp"))
        stack.callback(shutil.rmtree, ground)
        ground.chmod(0o755)
        workspace = ground / "workspace"
        workspace.mkdir(mode=0o755)
        os.chown(workspace, agent.uid, agent.gid)
        daemon = stack.enter_context(Daemon(ground, agent, sys.executable, policy()))
        there = Place(agent, ground, str(workspace), daemon)
        stack.callback(_gone, there, there.service())
        yield there


def _gone(there: Place, pids: list[int]) -> None:
    """Stop the service and wait for those of its processes that outlive main by a moment."""
    with contextlib.ExitStack() as stack:
        watched = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                watched.append(os.pidfd_open(pid))
                stack.callback(os.close, watched[-1])
        there.daemon.stop()
        for pidfd in watched:
            _ended(pidfd)


def _ended(pidfd: int, seconds: float = 20) -> None:
    if not select.select([pidfd], [], [], seconds)[0]:
        raise RuntimeError("a process of the service did not end")


@contextlib.contextmanager
def as_agent(agent: Agent) -> Iterator[None]:
    """Be the agent with real and effective ids, so that programs started here are really its; root stays saved."""
    own = os.getgroups()
    os.setgroups(agent.groups)
    os.setresgid(agent.gid, agent.gid, 0)
    os.setresuid(agent.uid, agent.uid, 0)
    try:
        yield
    finally:
        _root(own)


@contextlib.contextmanager
def as_root(agent: Agent) -> Iterator[None]:
    """Back to root within as_agent, for a program that only root may start."""
    _root([])
    try:
        yield
    finally:
        os.setgroups(agent.groups)
        os.setresgid(agent.gid, agent.gid, 0)
        os.setresuid(agent.uid, agent.uid, 0)


def become(agent: Agent) -> None:
    """For good."""
    os.setgroups(agent.groups)
    os.setresgid(agent.gid, agent.gid, agent.gid)
    os.setresuid(agent.uid, agent.uid, agent.uid)


def _root(groups: list[int]) -> None:
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)
    os.setgroups(groups)
