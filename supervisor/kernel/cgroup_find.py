"""Where this process may make cgroups: /proc/self/mountinfo and /proc/self/cgroup read into hierarchies.

See cgroups(7), "/proc files", and proc_pid_mountinfo(5). Nothing is made or changed here; the only look at the
file system beyond the two texts is which controllers an own cgroup2 directory offers and whether it is ours alone.
"""

from __future__ import annotations

import errno
import os

LEAF = "supervisor"  # where our own processes sit on cgroup2, so that its parent may enable controllers
WANTED = ("cpu", "io", "memory", "pids")
V1_LIMITS = ("cpu", "memory", "pids")
V1_ALONE = ("cpuacct", "freezer")  # only where no cgroup2 mount has cpu.stat, cgroup.kill and cgroup.freeze


class Hierarchy:
    """One mounted hierarchy and our base in it.

    `home` is the directory that holds the base; `base` the directory `home`/NAME; `path` the base as
    /proc/PID/cgroup writes it. `carries` is what we use it for. On cgroup2, `move` says that the processes of
    `home` must go to LEAF before controllers can be enabled there (no-internal-process rule).
    """

    __slots__ = ("base", "carries", "home", "move", "path", "version")

    def __init__(self, version: int, home: str, path: str, name: str, carries: tuple[str, ...], *, move: bool) -> None:
        self.version = version
        self.home = home
        self.base = os.path.join(home, name)
        self.path = os.path.join(path, name)
        self.carries = carries
        self.move = move


class _Mount:
    __slots__ = ("controllers", "point", "root", "version")

    def __init__(self, version: int, root: str, point: str, controllers: frozenset[str]) -> None:
        self.version = version
        self.root = root
        self.point = point
        self.controllers = controllers


def _unescape(text: str) -> str:
    for code, char in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, char)
    return text


def mounts(mountinfo: str) -> list[_Mount]:
    """Every writable cgroup mount; for v1 with the controllers that its super options name."""
    found = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if kind[0] not in ("cgroup", "cgroup2") or "rw" not in fields[5].split(","):
            continue
        version = 2 if kind[0] == "cgroup2" else 1
        controllers = frozenset(kind[2].split(",")) if version == 1 else frozenset()
        found.append(_Mount(version, _unescape(fields[3]), _unescape(fields[4]), controllers))
    return found


def memberships(text: str) -> dict[str, str]:
    """/proc/PID/cgroup as controller -> path; the cgroup2 line has the key "" (cgroups(7))."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def place(mount: _Mount, own: str) -> str | None:
    """The directory of cgroup `own` in a mount, or None when this mount does not show it (bind, namespace)."""
    root = mount.root.rstrip("/")
    if own.startswith("/..") or not (own == mount.root or own.startswith(root + "/")):
        return None
    return (mount.point + own[len(root) :]).rstrip("/")


def _read(path: str) -> str:
    with open(path, encoding="ascii") as f:
        return f.read()


def _delegated(directory: str) -> bool:
    """Whether systemd marked the cgroup as its unit's own (Delegate=yes, see CGROUP_DELEGATION.md)."""
    for name in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(directory, name) == b"1":
                return True
        except OSError:
            continue
    return False


def _exclusive(directory: str) -> bool:
    return _delegated(directory) or set(_read(directory + "/cgroup.procs").split()) <= {str(os.getpid())}


def _unified(mount: _Mount, own: str, name: str) -> Hierarchy | None:
    if os.path.basename(own) == LEAF:
        own = os.path.dirname(own)
    directory = place(mount, own)
    if directory is None:
        return None
    offered = _read(directory + "/cgroup.controllers").split()
    carries = tuple(c for c in WANTED if c in offered)
    # The real root has no cgroup.events; it alone may hold processes beside children with controllers.
    rooted = not os.path.exists(directory + "/cgroup.events")
    if rooted or not _read(mount.point + "/cgroup.controllers").split():
        return Hierarchy(2, directory, own, name, carries, move=False)
    if _exclusive(directory):
        return Hierarchy(2, directory, own, name, carries, move=True)
    # Other people's processes share our cgroup and are not ours to move: the base goes to the top instead.
    offered = _read(mount.point + "/cgroup.controllers").split()
    return Hierarchy(2, mount.point, mount.root, name, tuple(c for c in WANTED if c in offered), move=False)


def find(mountinfo: str, own: str, name: str, allow: frozenset[str]) -> tuple[str, list[Hierarchy]]:
    """(kind, hierarchies) for a base called `name`; kind is "v2", "hybrid" or "v1", cgroup2 comes last.

    `allow` says which kinds will do: without "v2" and "hybrid" a cgroup2 mount is not used even where it is
    there. Raises OSError (ENOTSUP) when nothing usable is mounted writable or the kind found is not allowed.
    """
    here = memberships(own)
    listed = mounts(mountinfo)
    unified = None
    if allow & {"v2", "hybrid"} and "" in here:
        for mount in (m for m in listed if m.version == 2):
            unified = unified or _unified(mount, here[""], name)
    carried = set(unified.carries) if unified else set()
    found: list[Hierarchy] = []
    wanted = [c for c in V1_LIMITS + (() if unified else V1_ALONE) if c not in carried and c in here]
    for mount in (m for m in listed if m.version == 1):
        carries = tuple(c for c in wanted if c in mount.controllers)
        directory = place(mount, here[carries[0]]) if carries else None
        if directory is not None:
            found.append(Hierarchy(1, directory, here[carries[0]], name, carries, move=False))
            wanted = [c for c in wanted if c not in carries]
    kind = "v1" if unified is None else "hybrid" if found else "v2"
    usable = unified is not None or any("freezer" in h.carries for h in found)
    if not usable or kind not in allow:
        raise OSError(errno.ENOTSUP, f"cgroup layout {kind if usable else 'none'}: not among {sorted(allow)}")
    return kind, found + ([unified] if unified else [])
