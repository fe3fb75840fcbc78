"""Control groups of the launcher: one per session, one per run below it, on cgroup2, hybrid and v1 hosts.

    tree = detect(layout.instance)       Tree, kind "v2", "hybrid" or "v1"; OSError (ENOTSUP) where there is none
    tree.prepare()                       make the base; on v2 move our own process to the leaf, enable controllers
    tree.sweep()                         kill and remove all below the base, also what a killed predecessor left
    tree.layers() -> dict[str, bool]     memory pids cpu io kill freeze events: what this host can do
    tree.bases() -> list[str]            what /proc/PID/cgroup of a process in any session starts with
    tree.session(name, make=True) -> Group    holds no processes itself (v2's no-internal-process rule), only
                                         children; make=False for one that another process makes
    tree.remove() -> bool, tree.close()
    session.child(name, make=True) -> Group   a run, or the session's leader
    group.limit(memory=, cpu_percent=, pids=, swap0=True)    bytes, percent of one CPU, count
    group.read_limits() -> dict[str, int | None]             memory swap cpu_percent pids, None for unlimited
    group.clone_fd -> int | None         for CLONE_INTO_CGROUP (clone3(2)); covers the cgroup2 hierarchy alone
    group.join_fds(unified=True) -> tuple[int, ...]          a process that writes b"0" to each is inside
    group.join(unified=True)             the same by this process, which must have one thread
    group.pids() -> list[int]            every process inside; group.signal(number) sends to each
    group.kill()                         cgroup.kill, or one round of freeze, SIGKILL all, thaw: repeat until empty
    group.freeze(frozen)
    group.populated() -> bool            of the group and everything below it
    group.events_fd -> int | None        epoll(7) EPOLLPRI when populated() may have changed; None on pure v1
    group.counters() -> dict[str, int]   memory_peak memory_oom pids_peak pids_refused cpu_us cpu_user_us
                                         cpu_system_us read_bytes written_bytes, absent where the kernel has none
    group.cpu_us() -> int                the first of them alone
    group.remove() -> bool               False while busy; idempotent. group.close() only closes descriptors

Everything here raises OSError and says nothing. Nothing outside `bases()` is changed, but for the LEAF and the
controllers of our own cgroup2 directory. On v1 an out-of-memory kill takes one process; on v2 the whole run.
"""

from __future__ import annotations

import errno
import os
import time

from supervisor.kernel import cgroup_files as files
from supervisor.kernel import cgroup_signals as signals
from supervisor.kernel.cgroup_find import LEAF, Hierarchy, find

_SWEEP_SECONDS = 10.0  # a killed task may still be in the middle of a long uninterruptible call


def detect(name: str, *, allow: frozenset[str] = frozenset(("v2", "hybrid", "v1"))) -> Tree:
    """The tree for a base called `name` on this host. Raises OSError (ENOTSUP) when no allowed layout is mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        mountinfo = f.read()
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as f:
        own = f.read()
    kind, hierarchies = find(mountinfo, own, _checked(name), allow)
    return Tree(kind, hierarchies)


class Tree:
    """The base in every hierarchy."""

    def __init__(self, kind: str, hierarchies: list[Hierarchy]) -> None:
        self.kind = kind
        self._hierarchies = hierarchies
        self._layers = dict.fromkeys(("memory", "pids", "cpu", "io", "kill", "freeze", "events"), False)

    def prepare(self) -> None:
        """Make the base; idempotent. A controller that cannot be enabled shows in layers(), not as an error."""
        for h in self._hierarchies:
            if h.version == 2 and h.carries:
                if h.move:
                    _move_to_leaf(h.home)
                h.carries = _enable(h.home, h.carries)
            _mkdir(h.base)
            if h.version == 2 and h.carries:
                h.carries = _enable(h.base, h.carries)
        carried = {c for h in self._hierarchies for c in h.carries}
        unified = self._unified()
        self._layers = {
            **{c: c in carried for c in ("memory", "pids", "cpu", "io")},
            # Without the file (before 5.14) a kill is a loop over frozen processes, as on v1: slower, as sure.
            "kill": unified is not None and os.path.exists(unified.base + "/cgroup.kill"),
            "freeze": "freezer" in carried or (unified is not None and os.path.exists(unified.base + "/cgroup.freeze")),
            "events": unified is not None,
        }

    def layers(self) -> dict[str, bool]:
        """What the kernel offers below the base, as found by prepare(); all False before it."""
        return dict(self._layers)

    def bases(self) -> list[str]:
        """A process P is in one of our sessions if a path of /proc/P/cgroup is one of these or lies below it."""
        return sorted({h.path for h in self._hierarchies})

    def session(self, name: str, *, make: bool = True) -> Group:
        return Group(self, {h: f"{h.base}/{_checked(name)}" for h in self._hierarchies}, leaf=False, make=make)

    def sweep(self) -> None:
        """Kill every process below the base and remove every group there. Raises OSError (EBUSY) if one survives."""
        deadline = time.monotonic() + _SWEEP_SECONDS
        while True:
            if any(files.pids(h.base) for h in self._hierarchies):
                signals.kill_round({h: h.base for h in self._hierarchies})
            left = [g for h in self._hierarchies for g in files.walk(h.base)[:-1] if not _rmdir(g)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "processes survive SIGKILL in", left[0])
            time.sleep(0.001)

    def remove(self) -> bool:
        """Remove the base; False while sessions are left."""
        left = [h.base for h in self._hierarchies if not _rmdir(h.base)]
        return not left

    def close(self) -> None:
        """Nothing is held open by the tree itself; groups hold descriptors and close their own."""

    def _unified(self) -> Hierarchy | None:
        return next((h for h in self._hierarchies if h.version == 2), None)


class Group:
    """A cgroup of the same name in every hierarchy."""

    __slots__ = ("_clone", "_dirs", "_events", "_join", "_leaf", "_removed", "_tree", "_unified")

    def __init__(self, tree: Tree, dirs: dict[Hierarchy, str], *, leaf: bool, make: bool = True) -> None:
        self._tree = tree
        self._dirs = dirs
        self._leaf = leaf
        self._unified = next((d for h, d in dirs.items() if h.version == 2), None)
        self._clone = -1
        self._events = -1
        self._join: dict[str, int] = {}
        self._removed = False
        if not make:
            return
        made: list[str] = []
        try:
            for h, directory in dirs.items():
                os.mkdir(directory, 0o755)
                made.append(directory)
                if not leaf and h.version == 2 and h.carries:
                    files.write(directory + "/cgroup.subtree_control", _plus(h.carries))
        except OSError:
            for directory in made:
                _rmdir(directory)
            raise

    def child(self, name: str, *, make: bool = True) -> Group:
        dirs = {h: f"{d}/{_checked(name)}" for h, d in self._dirs.items()}
        return Group(self._tree, dirs, leaf=True, make=make)

    def limit(
        self,
        *,
        memory: int | None = None,
        cpu_percent: int | None = None,
        pids: int | None = None,
        swap0: bool = True,
    ) -> None:
        """Write limits. Raises OSError (ENOTSUP) for one whose controller this host lacks: nothing is skipped."""
        if memory is not None:
            h, directory = self._with("memory")
            files.limit_memory(directory, h.version, memory, swap0=swap0, leaf=self._leaf)
        if cpu_percent is not None:
            h, directory = self._with("cpu")
            files.limit_cpu(directory, h.version, cpu_percent)
        if pids is not None:
            files.limit_pids(self._with("pids")[1], pids)

    def read_limits(self) -> dict[str, int | None]:
        """What the kernel says is in force, for receipts; a key is absent where the controller is."""
        found: dict[str, int | None] = {}
        for h, directory in self._dirs.items():
            if "memory" in h.carries:
                found.update(files.read_memory(directory, h.version))
            if "cpu" in h.carries:
                found["cpu_percent"] = files.read_cpu(directory, h.version)
            if "pids" in h.carries:
                found["pids"] = files.read_pids(directory)
        return found

    @property
    def clone_fd(self) -> int | None:
        if self._unified is None or self._removed:
            return None
        if self._clone < 0:
            self._clone = os.open(self._unified, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._clone

    @property
    def events_fd(self) -> int | None:
        if self._unified is None or self._removed:
            return None
        if self._events < 0:
            self._events = os.open(self._unified + "/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            os.pread(self._events, 256, 0)  # poll(2) of kernfs files reports changes since the last read
        return self._events

    def join_fds(self, *, unified: bool = True) -> tuple[int, ...]:
        """A file of every hierarchy that takes who writes "0" into it, kept open.

        `unified=False` leaves out the one that CLONE_INTO_CGROUP has seen to.

        On v1 that is `tasks`: for the writing thread itself the kernel then skips the lock that cgroup.procs takes on
        every thread group of the host, and with it an RCU grace period of 5 to 25 ms after idleness (5.4 and later).
        The caller must have one thread only.
        """
        if self._removed:
            raise OSError(errno.ENOENT, "the group is removed")
        for directory in self._dirs.values():
            if directory not in self._join:
                name = "/cgroup.procs" if directory == self._unified else "/tasks"
                self._join[directory] = os.open(directory + name, os.O_WRONLY | os.O_CLOEXEC)
        return tuple(fd for d, fd in self._join.items() if unified or d != self._unified)

    def join(self, *, unified: bool = True) -> None:
        for fd in self.join_fds(unified=unified):
            os.write(fd, b"0")

    def pids(self) -> list[int]:
        """Every process inside, as this PID namespace names it."""
        if self._removed:
            return []
        return sorted(files.pids(self._unified or next(iter(self._dirs.values()))))

    def signal(self, number: int) -> None:
        """Send a signal to every process inside; what is forked meanwhile may miss it."""
        paths = signals.paths(self._dirs)
        for pid in self.pids():
            signals.signal_member(pid, paths, number)

    def kill(self) -> None:
        """Send SIGKILL to everything inside; what a v1 round misses (a fork in flight) the next one gets."""
        if self._removed:
            return
        if self._unified is not None and self._tree.layers()["kill"]:
            files.write(self._unified + "/cgroup.kill", b"1")
            return
        signals.kill_round(self._dirs)

    def freeze(self, frozen: bool) -> None:
        for h, directory in self._dirs.items():
            signals.freeze(h, directory, frozen)

    def populated(self) -> bool:
        if self._removed:
            return False
        try:
            fd = self.events_fd
        except FileNotFoundError:  # not made yet, or removed by another
            return False
        if fd is not None:
            return b"populated 1" in os.pread(fd, 256, 0)
        return any(files.pids(d) for d in self._dirs.values())

    def cpu_us(self) -> int:
        """CPU time used so far, in microseconds; 0 where the kernel does not count it."""
        for h, directory in self._dirs.items():
            if h.version == 2:
                return files.cpu_counters(directory)["cpu_us"] or 0
            if "cpuacct" in h.carries:
                return files.cpuacct_counters(directory)["cpu_us"] or 0
        return 0

    def counters(self) -> dict[str, int]:
        found: dict[str, int | None] = {}
        for h, directory in self._dirs.items():
            if "memory" in h.carries:
                found.update(files.memory_counters(directory, h.version))
            if "pids" in h.carries:
                found.update(files.pids_counters(directory))
            if "cpuacct" in h.carries:
                found.update(files.cpuacct_counters(directory))
            if "io" in h.carries:
                found.update(files.io_counters(directory))
            if h.version == 2:
                found.update(files.cpu_counters(directory))
        return {k: v for k, v in found.items() if v is not None}

    def remove(self) -> bool:
        if not self._removed:
            # All are tried, so that a second call has only the busy ones left.
            left = [d for d in self._dirs.values() if not _rmdir(d)]
            self._removed = not left
            if self._removed:
                self.close()
        return self._removed

    def close(self) -> None:
        for fd in (self._clone, self._events, *self._join.values()):
            if fd >= 0:
                os.close(fd)
        self._clone = self._events = -1
        self._join = {}

    def _with(self, controller: str) -> tuple[Hierarchy, str]:
        for h, directory in self._dirs.items():
            if controller in h.carries:
                return h, directory
        raise OSError(errno.ENOTSUP, f"no {controller} controller in cgroup layout {self._tree.kind}")


def _checked(name: str) -> str:
    if not name or "/" in name or "\n" in name or name in (".", "..", LEAF):
        raise OSError(errno.EINVAL, "not a name for a cgroup", name)
    return name


def _plus(controllers: tuple[str, ...]) -> bytes:
    return b" ".join(b"+" + c.encode() for c in controllers)


def _enable(directory: str, controllers: tuple[str, ...]) -> tuple[str, ...]:
    """Enable each controller for the children of a cgroup2 directory; those that the kernel then says are on."""
    path = directory + "/cgroup.subtree_control"
    for c in controllers:
        if c.encode() not in files.read(path).split():
            try:
                files.write(path, _plus((c,)))
            except OSError:
                continue  # one at a time: real-time tasks may keep cpu off and must not take memory with it
    on = files.read(path).split()
    return tuple(c for c in controllers if c.encode() in on)


def _move_to_leaf(home: str) -> None:
    """Move every process of `home`, which is ours alone, to its child LEAF."""
    leaf = os.path.join(home, LEAF)
    _mkdir(leaf)
    for _ in range(16):  # a process may fork while it is being moved
        with open(home + "/cgroup.procs", "rb") as f:
            pids = f.read().split()
        if not pids:
            return
        for pid in pids:
            try:
                files.write(leaf + "/cgroup.procs", pid)
            except ProcessLookupError:
                continue


def _mkdir(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return


def _rmdir(path: str) -> bool:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as e:
        if e.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
