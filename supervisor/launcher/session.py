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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from supervisor.kernel import process as p
from supervisor.launcher import workspace as workspaces
from supervisor.launcher.child import Orders, live
from supervisor.launcher.leader import NAMESPACES, lead
from supervisor.launcher.plan import WORKSPACE, Identity, executes
from supervisor.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.kernel.cgroup import Group, Tree
    from supervisor.launcher.disk import DiskWatch
    from supervisor.launcher.workspace import Mappings, Workspace
    from supervisor.policy.snapshot import Limits, Profile

_SESSION_SLACK_BYTES = 64 << 20  # leader, children being made and tmpfs, above what one run may use
_SESSION_SLACK_PIDS = 32


class World(NamedTuple):
    """What every session of this launcher shares."""

    tree: Tree
    staging: str  # a directory of the host over which new roots are staged, each in its own mount namespace
    filters: tuple[bytes, ...]
    last_capability: int
    own_pid_namespace: int
    layers: dict[str, Any]  # the part of every receipt that is the same for all sessions
    mappings: Mappings
    attempt: Callable[[str], bytes] | None = None  # in the prover only (launcher/probes.py)


@dataclass(slots=True, eq=False)
class Process:
    """A direct child of ours and our end of its socket."""

    pid: int
    pidfd: int
    ctl: socket.socket
    group: Group
    limits: dict[str, Any] = field(default_factory=dict)  # as the kernel holds them
    silent: bool = False  # its end of the socket is closed
    narrowed: bool = False  # for one run, since they were read

    def kill(self) -> None:
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


def _fork(flags: int, group: Group, life: Callable[[socket.socket, Callable[[], None]], NoReturn]) -> Process:
    """Clone a process into `group` that lives `life`; it is born there where the kernel can do that, else it joins."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid, pidfd = p.clone(flags, cgroup_fd=group.clone_fd)
        if pid == 0:
            life(theirs, lambda: group.join(unified=group.clone_fd is None))
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return Process(pid, pidfd, ours, group)


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
    ruleset: int = -1
    ready: bool = False
    missing: list[str] = field(default_factory=list)
    idle: list[Process] = field(default_factory=list)  # children that wait for a run
    runs: set[str] = field(default_factory=set)
    ended: bool = False  # killed; its processes are going
    gone: bool = False  # removed
    failure: str = ""
    disk: DiskWatch | None = None
    _count: int = 0

    def begin(self) -> None:
        """Make the cgroup and the leader. Raises OSError with nothing left behind."""
        limits = self.profile.limits
        self.group = self.world.tree.session(self.name)
        try:
            self.group.limit(
                memory=limits.memory + limits.tmp + _SESSION_SLACK_BYTES,
                pids=limits.processes + _SESSION_SLACK_PIDS,
            )
            leaf = self.group.child("leader")
        except OSError:
            self.group.remove()
            raise
        world, profile, identity = self.world, self.profile, self.identity

        def life(ctl: socket.socket, join: Callable[[], None]) -> NoReturn:
            try:
                join()
            except OSError:
                os._exit(1)
            lead(ctl, profile, identity, world.staging, world.filters, world.last_capability)

        try:
            self.leader = _fork(NAMESPACES, leaf, life)
        except OSError:
            leaf.remove()
            self.group.remove()
            raise

    def spawn(self) -> Process:
        """Make a child in a cgroup of its own; it confines itself and waits. Raises OSError."""
        self._count += 1
        limits = self.profile.limits
        group = self.group.child(f"run-{self._count}")
        leader, ruleset = self.leader.pidfd, self.ruleset
        orders = Orders(
            self.identity, self.world.filters, self.world.last_capability, limits.processes, self.world.attempt
        )

        def life(ctl: socket.socket, join: Callable[[], None]) -> NoReturn:
            live(ctl, orders, leader, join, ruleset if ruleset >= 0 else None)

        try:
            apply_limits(group, limits)
            held = group.read_limits()
            # Only later children are concerned by this setns, and it is undone at once: the launcher itself
            # stays where it is (pid_namespaces(7)).
            p.setns(leader, p.CLONE_NEWPID)
            try:
                child = _fork(0, group, life)
            finally:
                p.setns(self.world.own_pid_namespace, p.CLONE_NEWPID)
        except OSError:
            group.remove()
            raise
        child.limits = held
        self.idle.append(child)
        return child

    def adopt(self, ident: str, uid: int, workspace: Workspace) -> None:
        """Give a blank its workspace; the leader answers with the ruleset. Raises LayerMissing or OSError."""
        writable = any(path.startswith(WORKSPACE) for path in self.profile.write)
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

    def adopted(self, ruleset: int) -> None:
        """The leader built the ruleset: every child that waits for it gets it, later ones are born with it."""
        self.ruleset = ruleset
        for child in self.idle:
            with contextlib.suppress(OSError):
                socket.send_fds(child.ctl, [b"ruleset"], [ruleset])

    def processes(self) -> list[Process]:
        return [self.leader, *self.idle]

    def kill(self) -> None:
        """End everything at once. The monitor reaps what is ours; the kernel the rest, with the PID namespace."""
        self.ended = True
        self.group.kill()
        self.leader.kill()
        for child in self.idle:
            child.kill()

    def remove(self) -> bool:
        """Take the cgroups and descriptors away once all processes are reaped; False while something is busy."""
        for process in self.processes():
            if process.pidfd >= 0:
                return False
            process.ctl.close()
            process.group.remove()
        if not self.group.remove():
            return False
        if self.ruleset >= 0:
            os.close(self.ruleset)
            self.ruleset = -1
        if self.disk is not None:
            self.disk.close()
        return True


def apply_limits(group: Group, limits: Limits) -> None:
    group.limit(memory=limits.memory, cpu_percent=limits.cpu, pids=limits.processes)


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
    failure: dict[str, Any] | None = None  # what the child said instead of exec
    proc_status: dict[str, str] = field(default_factory=dict)
    disk_start: tuple[int, int] = (0, 0)
    waits: bool = False  # for the cgroup to become empty

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
