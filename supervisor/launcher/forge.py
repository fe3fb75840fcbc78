"""The forge: a small root process that makes groups and clones processes, so that the launcher itself never forks.

After a fork both sides fault on each page that they write. The launcher writes many and is on the path of every
request; the forge writes few and works ahead. What it clones are children of the launcher (CLONE_PARENT, clone(2)),
which alone waits for them and holds their pidfds. It knows nothing of policy and speaks with nobody but the launcher.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import stat
import time
from typing import TYPE_CHECKING, Any, NoReturn

from supervisor.kernel import process as p
from supervisor.kernel import seccomp
from supervisor.launcher.child import Orders, live
from supervisor.launcher.leader import NAMESPACES, lead
from supervisor.launcher.plan import Identity
from supervisor.policy.snapshot import profile_from_json
from supervisor.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.kernel.cgroup import Group, Tree

_GC_THRESHOLD = 10_000  # allocations: often enough for the forge, never in the short life of a child
_BUSY_INTERVAL = 0.003  # seconds until a group that still had a dying task in it is tried again
_LAST_PATIENCE = 5.0  # seconds at the end for groups to become empty


class Forge:
    """The life of the process."""

    def __init__(self, sock: socket.socket, tree: Tree, staging: str, attempt: Callable[[str], bytes] | None) -> None:
        self._sock, self._tree, self._staging, self._attempt = sock, tree, staging, attempt
        self._filters = seccomp.Loadable(())
        self._memoryless = seccomp.Loadable((seccomp.withheld("memfd_create"),))
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._busy: list[list[str]] = []

    def run(self) -> None:
        """Work until the launcher is gone, then remove what is left to remove."""
        self._prepare()
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        while True:
            ready, _, _ = select.select([self._sock], [], [], _BUSY_INTERVAL if self._busy else None)
            if ready:
                data, fds, _ = framing.take(self._sock)
                if not data:
                    break
                self._serve(json.loads(data), fds)
            else:
                self._remove([])
        end = time.monotonic() + _LAST_PATIENCE
        while self._busy and time.monotonic() < end:
            self._remove([])
            time.sleep(_BUSY_INTERVAL)

    @staticmethod
    def _prepare() -> None:
        """Everything that all processes made here have in common and can inherit."""
        os.setsid()  # a signal from a terminal is for main
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)  # Python and the launcher ignore some, and exec would keep that
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        p.lock_down(p.last_capability())

    def _serve(self, order: dict[str, Any], fds: list[int]) -> None:
        try:
            if order["do"] == "remove":
                self._remove(order["groups"])
            elif order["do"] == "filters":
                self._filters = seccomp.Loadable(tuple(base64.b64decode(part) for part in order["filters"]))
            else:
                self._clone(order, fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _clone(self, order: dict[str, Any], fds: list[int]) -> None:
        make = self._lead if order["do"] == "lead" else self._make
        try:
            pid, pidfd, held = make(order, fds)
        except OSError as e:
            framing.put(self._sock, {"n": order["n"], "errno": e.errno, "error": str(e)})
            return
        try:
            framing.put(self._sock, {"n": order["n"], "pid": pid, "limits": held}, (pidfd,))
        finally:
            os.close(pidfd)

    def _lead(self, order: dict[str, Any], fds: list[int]) -> tuple[int, int, dict[str, Any]]:
        """The session's group and its leader."""
        profile, identity = profile_from_json(order["profile"]), Identity(*order["identity"])
        ctl = _socket(fds)
        try:
            session = self._tree.session(order["session"])
        except OSError:
            ctl.close()
            raise
        leaf = None
        try:
            session.limit(**order["limits"])
            leaf = session.child("leader")

            join = leaf.join_fds(unified=leaf.clone_fd is None)

            def life() -> NoReturn:
                for fd in join:
                    os.write(fd, b"0")
                lead(ctl, profile, identity, self._staging, self._filters)

            return *self._fork(NAMESPACES, leaf, life), {}
        except OSError:
            self._remove([[order["session"], "leader"], [order["session"]]] if leaf else [[order["session"]]])
            raise
        finally:
            session.close()
            ctl.close()
            if leaf is not None:
                leaf.close()

    def _make(self, order: dict[str, Any], fds: list[int]) -> tuple[int, int, dict[str, Any]]:
        """A run's group and its child, which waits for its orders."""
        ctl, leader = _socket(fds), fds[0]
        copies = fds[-1] if "held" in order else None
        try:
            group = self._tree.session(order["session"], make=False).child(order["group"])
        except OSError:
            ctl.close()
            raise
        try:
            group.limit(**order["limits"])
            held = group.read_limits()
            orders = Orders(
                identity=Identity(*order["identity"]),
                filters=(self._filters,) if order["memory"] else (self._memoryless, self._filters),
                processes=order["processes"],
                leader=leader,
                ruleset=fds[1] if len(fds) > (1 if copies is None else 2) else None,
                join=group.join_fds(unified=group.clone_fd is None),
                attempt=self._attempt,
                places=order.get("held", []),
                watched=order.get("watched", []),
                copies=copies,
            )
            # Only children are concerned by this setns (pid_namespaces(7)); it is undone at once.
            p.setns(leader, p.CLONE_NEWPID)
            try:
                return *self._fork(0, group, lambda: live(ctl, orders)), held
            finally:
                p.setns(self._own_pid_namespace, p.CLONE_NEWPID)
        except OSError:
            self._remove([[order["session"], order["group"]]])
            raise
        finally:
            group.close()
            ctl.close()

    @staticmethod
    def _fork(flags: int, group: Group, life: Callable[[], NoReturn]) -> tuple[int, int]:
        """Clone into `group`: born there where the kernel can do that, else it joins by itself. (pid, pidfd)."""
        pid, pidfd = p.clone(flags | p.CLONE_PARENT, cgroup_fd=group.clone_fd)
        if pid == 0:
            try:
                life()
            finally:
                os._exit(1)
        return pid, pidfd

    def _remove(self, groups: list[list[str]]) -> None:
        """Remove groups, inner before outer; those that are busy are kept for later."""
        wanted, self._busy = [*self._busy, *groups], []
        for names in wanted:
            group = self._tree.session(names[0], make=False)
            for name in names[1:]:
                group = group.child(name, make=False)
            if not group.remove():
                self._busy.append(names)


def _socket(fds: list[int]) -> socket.socket:
    """The process's end of its socket, which is the first descriptor of every order; it takes the descriptor over."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=fds.pop(0))


def _close_sockets(keep: int) -> None:
    """Close the launcher's conversations with main and auditor; the lock of the instance stays held."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the listing's own descriptor is gone again
            if fd not in (0, 1, 2, keep) and stat.S_ISSOCK(os.fstat(fd).st_mode):
                os.close(fd)


def start(tree: Tree, staging: str, attempt: Callable[[str], bytes] | None = None) -> socket.socket:
    """Fork the forge; our end of its socket. It ends when that is closed, or with this process."""
    ours, theirs = framing.pair()
    launcher = os.getpid()
    if os.fork() == 0:
        try:
            ours.close()
            _close_sockets(theirs.fileno())
            p.prctl(p.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == launcher:
                Forge(theirs, tree, staging, attempt).run()
        except BaseException:  # noqa: BLE001 - the end of this process; the launcher sees its socket close
            import traceback

            with contextlib.suppress(Exception):
                traceback.print_exc()
        finally:
            os._exit(0)
    theirs.close()
    return ours
