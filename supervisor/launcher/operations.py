"""What a mount tree is made of: small objects that know their place, say it in a line, and carry themselves out.

`prepare()` runs before the new root is entered and takes from the host what it needs by descriptor; `execute()`
runs in the new root, where no path of the host can be resolved any more.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from supervisor.kernel import mounts as m

LOCKED_DOWN = m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV


class Missing(Exception):
    """A path of the profile that this host does not have; the receipt names it."""


def noexec(executable: bool) -> int:
    # Landlock judges what is executed, not what the dynamic loader maps for execution; noexec stops both.
    return 0 if executable else m.MOUNT_ATTR_NOEXEC


def make_parents(path: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)


def make_mountpoint(path: str, *, directory: bool) -> None:
    make_parents(path)
    if directory:
        os.makedirs(path, mode=0o755, exist_ok=True)
    elif not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444))


@dataclass(slots=True)
class Operation:
    path: str

    def prepare(self) -> None:
        """Take what is needed of the host. Raises Missing or OSError."""

    def execute(self) -> None:
        raise NotImplementedError

    def describe(self) -> str:
        return f"{type(self).__name__.lower()} {self.path}"


@dataclass(slots=True)
class Bind(Operation):
    """A path of the host, seen read-only (or writable) at the same place; a symbolic link is made again as such."""

    writable: bool = False
    executable: bool = True
    _tree: int = field(default=-1, repr=False)
    _link: str | None = field(default=None, repr=False)
    _directory: bool = field(default=True, repr=False)

    def prepare(self) -> None:
        try:
            info = os.lstat(self.path)
            if stat.S_ISLNK(info.st_mode):
                self._link = os.readlink(self.path)
                return
            fd = m.open_beneath_root(self.path)
        except OSError as e:
            raise Missing(f"{self.path}: {os.strerror(e.errno or 0)}") from e
        try:
            self._directory = stat.S_ISDIR(info.st_mode)
            self._tree = m.clone_tree(fd, recursive=not self.writable)
            attributes = LOCKED_DOWN | (0 if self.writable else m.MOUNT_ATTR_RDONLY) | noexec(self.executable)
            m.set_attributes(self._tree, attributes, recursive=not self.writable)
        finally:
            os.close(fd)

    def execute(self) -> None:
        if self._link is not None:
            make_parents(self.path)
            if not os.path.lexists(self.path):
                os.symlink(self._link, self.path)
            return
        make_mountpoint(self.path, directory=self._directory)
        m.attach(self._tree, self.path)
        os.close(self._tree)
        self._tree = -1

    def describe(self) -> str:
        return f"bind {self.path} {'rw' if self.writable else 'ro'}"


@dataclass(slots=True)
class Tmpfs(Operation):
    """A private tmpfs of at most `size` bytes and `inodes` files."""

    size: int = 0
    inodes: int = 0
    mode: int = 0o755
    attributes: int = LOCKED_DOWN

    def execute(self) -> None:
        make_mountpoint(self.path, directory=True)
        options: dict[str, str | None] = {
            "size": str(self.size),
            "nr_inodes": str(self.inodes),
            "mode": f"{self.mode:o}",
        }
        fd = m.new_filesystem("tmpfs", options, self.attributes)
        try:
            m.attach(fd, self.path)
        finally:
            os.close(fd)

    def describe(self) -> str:
        return f"tmpfs {self.path} size={self.size} inodes={self.inodes} mode={self.mode:o}"


@dataclass(slots=True)
class Scratch(Operation):
    """One private tmpfs seen at several places, so that `size` bounds their sum; at `path` only while it is made."""

    size: int = 0
    inodes: int = 0
    uid: int = 0
    gid: int = 0
    places: tuple[tuple[str, int, bool], ...] = ()  # (where, mode, whether programs may be executed there)

    def execute(self) -> None:
        Tmpfs(self.path, self.size, self.inodes).execute()
        for number, (where, mode, executable) in enumerate(self.places):
            part = f"{self.path}/{number}"
            os.mkdir(part)
            os.chown(part, self.uid, self.gid)
            os.chmod(part, mode)
            tree = m.clone_path(part)
            try:
                make_mountpoint(where, directory=True)
                m.set_attributes(tree, LOCKED_DOWN | noexec(executable))
                m.attach(tree, where)
            finally:
                os.close(tree)
        m.detach(self.path)
        os.rmdir(self.path)

    def describe(self) -> str:
        return f"scratch {' '.join(p for p, _, _ in self.places)} size={self.size} inodes={self.inodes}"


@dataclass(slots=True)
class Proc(Operation):
    """A /proc of this PID namespace in which a process sees only those that it may trace (proc(5), hidepid)."""

    def execute(self) -> None:
        make_mountpoint(self.path, directory=True)
        fd = m.new_filesystem("proc", {"hidepid": "invisible"}, LOCKED_DOWN | m.MOUNT_ATTR_NOEXEC)
        try:
            m.attach(fd, self.path)
        finally:
            os.close(fd)


@dataclass(slots=True)
class Devpts(Operation):
    def execute(self) -> None:
        make_mountpoint(self.path, directory=True)
        options: dict[str, str | None] = {"newinstance": None, "ptmxmode": "0666", "mode": "0600"}
        fd = m.new_filesystem("devpts", options, m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NOEXEC)
        try:
            m.attach(fd, self.path)
        finally:
            os.close(fd)


@dataclass(slots=True)
class Device(Operation):
    """A character device of our own; the tmpfs below it is the only mount of the tree without nodev."""

    major: int = 0
    minor: int = 0

    def execute(self) -> None:
        os.mknod(self.path, stat.S_IFCHR | 0o666, os.makedev(self.major, self.minor))
        os.chmod(self.path, 0o666)  # noqa: S103 - these devices are world-writable everywhere; umask must not matter


@dataclass(slots=True)
class Mask(Operation):
    """Hide a file of /proc behind an empty read-only one."""

    def execute(self) -> None:
        if not os.path.lexists(self.path):
            return
        tree = m.clone_path("/dev/null")
        try:
            m.set_attributes(tree, m.MOUNT_ATTR_RDONLY | m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NOEXEC)
            m.attach(tree, self.path)
        finally:
            os.close(tree)


@dataclass(slots=True)
class Symlink(Operation):
    target: str = ""

    def execute(self) -> None:
        make_parents(self.path)
        os.symlink(self.target, self.path)


@dataclass(slots=True)
class Directory(Operation):
    mode: int = 0o755

    def execute(self) -> None:
        os.makedirs(self.path, mode=self.mode, exist_ok=True)


@dataclass(slots=True)
class File(Operation):
    """A small file of our own making, readable by everyone in the session."""

    content: str = ""

    def execute(self) -> None:
        make_parents(self.path)
        fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o444)
        try:
            os.write(fd, self.content.encode())
        finally:
            os.close(fd)


@dataclass(slots=True)
class ReadOnly(Operation):
    """Nothing is added to this mount any more."""

    def execute(self) -> None:
        fd = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        try:
            m.set_attributes(fd, m.MOUNT_ATTR_RDONLY)
        finally:
            os.close(fd)
