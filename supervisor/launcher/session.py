"""Sessions and their children as the launcher holds them: pids, descriptors, cgroups. No event loop in here.

A session begins blank (namespaces, mounts, a leader, a first child) and is adopted when a workspace comes; blanks are
made ahead, so that a first run does not wait for a network namespace. All talk with leaders and children is by
non-blocking packets that the monitor (or the prover) reads when they are there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.launcher import workspace as workspaces
from supervisor.launcher.disk import DiskWatch
from supervisor.launcher.plan import (
    WORKSPACE,
    Identity,
    changeable,
    executes,
    executes_own,
    writes_workspace,
)
from supervisor.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.kernel.cgroup import Group, Tree
    from supervisor.launcher.held import Held
    from supervisor.launcher.loop import Timer
    from supervisor.launcher.smith import Smith
    from supervisor.launcher.workspace import Mappings, Workspace
    from supervisor.policy.snapshot import Limits, Profile

_SESSION_SLACK_BYTES = 64 << 20  # leader, children being made and tmpfs, above what one run may use
_SESSION_SLACK_PIDS = 32


class World(NamedTuple):
    """What every session of this launcher shares."""

    tree: Tree
    forge: Smith
    layers: dict[str, Any]  # the part of every receipt that is the same for all sessions
    mappings: Mappings
    inherited: int  # seccomp filters of the launcher, which are not ours


@dataclass(slots=True, eq=False)
class Process:
    """A child of ours that the forge makes, and our end of its socket. What is sent before it lives waits there."""

    ctl: socket.socket
    group: Group
    group_name: str
    pid: int = 0
    pidfd: int = -1
    made: bool = False  # the forge answered
    doomed: bool = False  # to be killed as soon as it is there
    error: str = ""  # why the forge could not make it
    limits: dict[str, Any] = field(default_factory=dict)  # as the kernel holds them
    silent: bool = False  # its end of the socket is closed
    narrowed: bool = False  # for one run, since they were read

    @property
    def alive(self) -> bool:
        """Not reaped yet, or not even there."""
        return self.pidfd >= 0 or not self.made

    def close(self) -> None:
        self.ctl.close()
        self.group.close()

    def kill(self) -> None:
        self.doomed = True
        if self.pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self, *, block: bool = False) -> tuple[int | None, int | None] | None:
        """(exit status, None) or (None, signal) once it has ended, else None. Closes the pidfd then."""
        if self.pidfd < 0:
            return None
        found = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | (0 if block else os.WNOHANG))
        if found is None:
            return None
        os.close(self.pidfd)
        self.pidfd = -1
        return (found.si_status, None) if found.si_code == os.CLD_EXITED else (None, found.si_status)

    def heard(self) -> tuple[dict[str, Any], int | None] | None:
        """The next packet of the other side and its descriptor, or None when there is none or it is gone."""
        try:
            data, fds, _ = framing.take(self.ctl, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            data, fds = b"", []
        if not data:
            self.silent = True
            return None
        return json.loads(data), fds[0] if fds else None


@dataclass(slots=True, eq=False)
class Session:
    world: World
    profile: Profile
    identity: Identity
    name: str  # of its cgroup; the id that the API knows comes at adoption
    release: Callable[[], None]  # gives the identity back, once nothing runs under it any more
    id: str = ""
    uid: int = -1  # whose it is
    group: Group = field(init=False)
    leader: Process = field(init=False)
    workspace: str = ""
    place: Workspace | None = None  # the workspace by descriptor, and whose it is
    ruleset: int = -1
    missing: list[str] = field(default_factory=list)
    idle: list[Process] = field(default_factory=list)  # children that wait for a run
    runs: set[str] = field(default_factory=set)
    granted: Profile | None = None  # what policy said when it was opened; `profile` may be narrower
    outdated: bool = False  # policy says something else by now
    rests: bool = False  # its leader was told that nobody used it for a while
    ended: bool = False  # killed; its processes are going
    gone: bool = False  # removed
    failure: str = ""
    disk: DiskWatch | None = None
    _count: int = 0

    def begin(self) -> None:
        """Ask the forge for the cgroup and the leader."""
        limits = self.profile.limits
        self.group = self.world.tree.session(self.name, make=False)
        order = {
            "do": "lead",
            "session": self.name,
            "profile": asdict(self.profile),
            "identity": self.identity,
            "limits": {
                "memory": limits.memory + limits.tmp + _SESSION_SLACK_BYTES,
                "pids": limits.processes + _SESSION_SLACK_PIDS,
            },
        }
        self.leader = self.world.forge.order(order, self.group.child("leader", make=False))

    def spawn(self, limits: Limits, held: Held | None = None) -> Process:
        """Ask the forge for a child in a cgroup of its own with these limits; it confines itself and waits. With `held`
        it has a mount namespace of its own, in which it sees the copies."""
        self._count += 1
        name = f"run-{self._count}"
        order = {
            "do": "make",
            "session": self.name,
            "group": name,
            "identity": self.identity,
            "limits": {"memory": limits.memory, "cpu_percent": limits.cpu, "pids": limits.processes},
            "memory": executes_own(self.profile),  # whether it may have files in memory
            "processes": 4 * self.profile.limits.processes + _SESSION_SLACK_PIDS,
        }
        fds = (self.leader.pidfd,) if self.ruleset < 0 else (self.leader.pidfd, self.ruleset)
        if held is not None:
            order["held"] = held.places
            order["watched"] = changeable(self.profile, self.workspace)
            fds = (*fds, held.tree)
        return self.world.forge.order(order, self.group.child(name, make=False), fds)

    def adopt(self, ident: str, uid: int, workspace: Workspace) -> None:
        """Give a blank its workspace; the leader answers with the ruleset. Raises LayerMissing or OSError."""
        writable = writes_workspace(self.profile)
        mapped = self.profile.workspace_owner == "mapped"
        tree = workspaces.mount(
            workspace,
            self.identity,
            self.world.mappings,
            writable=writable,
            executable=executes(self.profile, WORKSPACE),
            mapped=mapped,
        )
        try:
            socket.send_fds(self.leader.ctl, [json.dumps({"workspace": workspace.path}).encode()], [tree])
        finally:
            os.close(tree)
        self.id, self.uid, self.workspace = ident, uid, workspace.path
        self.place = workspace.again()
        self.disk = DiskWatch(self.place.fd)

    def adopted(self, ruleset: int) -> None:
        """The leader built the ruleset: every child that waits for it gets it, later ones are born with it."""
        self.ruleset = ruleset
        for child in self.idle:
            with contextlib.suppress(OSError):
                socket.send_fds(child.ctl, [b"ruleset"], [ruleset])

    def rest(self) -> None:
        """Nothing but waiting is left to do for the leader: it may give up what it does not need for that."""
        if not self.rests:
            self.rests = True
            with contextlib.suppress(OSError):
                self.leader.ctl.send(b"r", socket.MSG_DONTWAIT)

    def processes(self) -> list[Process]:
        return [self.leader, *self.idle]

    def kill(self) -> None:
        """End everything at once. The monitor reaps what is ours; the kernel the rest, with the PID namespace."""
        self.ended = True
        with contextlib.suppress(FileNotFoundError):  # the forge has not made it yet; its answer is a process to kill
            self.group.kill()
        self.leader.kill()
        for child in self.idle:
            child.kill()

    def remove(self) -> bool:
        """Give the cgroups to the forge for removal once all is reaped and empty; False while something is not."""
        if any(process.alive for process in self.processes()) or self.group.populated():
            return False
        for process in self.processes():
            process.close()
        names = [process.group_name for process in self.processes()]
        self.world.forge.remove([*([self.name, name] for name in names), [self.name]])
        self.group.close()
        if self.ruleset >= 0:
            os.close(self.ruleset)
            self.ruleset = -1
        if self.place is not None:
            self.place.close()
        return True


@dataclass(slots=True, eq=False)
class Run:
    """A child that was given its orders."""

    id: str
    session: Session
    process: Process
    limits: Limits
    wall_started: int  # monotonic ns
    cpu_baseline_us: int
    cause: str | None = None  # asked by main or found by the monitor before the first process ended
    status: tuple[int | None, int | None] | None = None
    killed: int = 0
    wall_us: int = 0
    confined: bool = False  # the child said so; without that it never came to its orders
    failure: dict[str, Any] | None = None  # what the child said instead of exec
    proc_status: dict[str, str] = field(default_factory=dict)
    disk_start: tuple[int, int] = (0, 0)
    waits: bool = False  # for the cgroup to become empty
    timers: dict[str, Timer] = field(default_factory=dict)
    held: Held | None = None
    refused: str = ""  # why it was ended although it was permitted: a held file was replaced

    @property
    def deadline(self) -> float:
        """On the monotonic clock, in seconds."""
        return (self.wall_started + self.limits.timeout_ms * 1_000_000) / 1e9


def order(run: Run, argv: list[str], env: dict[str, str], cwd: str, fds: list[int]) -> None:
    """Hand a waiting child what to execute. Raises OSError when it is gone."""
    body = {
        "argv": argv,
        "env": env,
        "cwd": cwd,
        "files": run.limits.files,
        "disk": run.limits.disk,
        "shell": run.session.profile.shell,
    }
    socket.send_fds(run.process.ctl, [json.dumps(body).encode()], fds)
    run.wall_started = time.monotonic_ns()
