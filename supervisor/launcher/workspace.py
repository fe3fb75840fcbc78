"""The one path that a client names to root: opened once, checked on the descriptor, bound by descriptor.

A root process that binds paths for others is a confused deputy in waiting (design, section 3). So no component may
be a symbolic link, the checks look at what was opened and not at the name, and what is mounted is that descriptor.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.errors import LayerMissing, WorkspaceRefused
from supervisor.kernel import idmap
from supervisor.kernel import mounts as m
from supervisor.launcher.operations import noexec
from supervisor.policy.match import inside, path_matches, secret_part, secrets_kept

if TYPE_CHECKING:
    from supervisor.launcher.plan import Identity
    from supervisor.policy.snapshot import Caller

_KEPT_MAPPINGS = 512


@dataclass(slots=True)
class Workspace:
    path: str
    fd: int
    uid: int
    gid: int

    def again(self) -> Workspace:
        """The same with a descriptor of its own."""
        return Workspace(self.path, os.dup(self.fd), self.uid, self.gid)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_workspace(path: str, caller: Caller, uid: int, own: tuple[str, ...] = ()) -> Workspace:
    """Open and check the workspace that a caller with `uid` hands in; never one that holds, or lies in, a directory
    of `own`: the service's policy, socket, state and log. Raises WorkspaceRefused."""

    def refuse(detail: str, hint: str) -> WorkspaceRefused:
        return WorkspaceRefused(f"{path}: {detail}", field="workspace", hint=hint, source=caller.source)

    if os.path.normpath(path) != path or not path.startswith("/") or path == "/":
        raise refuse("not a normalised absolute path below /", "give the path as `realpath` prints it")
    if path_matches(path, caller.workspaces) is None:
        raise refuse(
            "outside the workspaces that policy grants this caller", f"granted: {', '.join(caller.workspaces)}"
        )
    if any(inside(path, os.path.realpath(d)) or inside(os.path.realpath(d), path) for d in own):
        raise refuse("belongs to this service or contains what does", "use a directory of its own for the agent's work")
    if part := secret_part(path):
        raise refuse(f"lies in {part}, a directory of secrets", "use a directory of its own for the agent's work")
    try:
        fd = m.open_beneath_root(path)
    except OSError as e:
        hint = "give the path as `realpath` prints it" if e.errno == 40 else "make the directory first"
        what = "a component is a symbolic link" if e.errno == 40 else os.strerror(e.errno or 0)
        raise refuse(what, hint) from e
    try:
        info = os.fstat(fd)
        if not stat.S_ISDIR(info.st_mode):
            raise refuse("not a directory", "give a directory")
        if info.st_uid == 0:
            raise refuse("belongs to root", "chown it to the user whose agent works there")
        if info.st_uid != uid and not caller.any_owner:
            raise refuse(f"belongs to uid {info.st_uid}, the caller is uid {uid}", "hand in a directory of your own")
        if kept := next((name for name in secrets_kept(path) if _is_there(fd, name)), None):
            raise refuse(
                f"holds {kept}, and so all of it could be read", f"hand in a directory beside {kept}, or move that away"
            )
        return Workspace(path, os.dup(fd), info.st_uid, info.st_gid)
    finally:
        os.close(fd)


def _is_there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


class Mappings:
    """Descriptors of id mappings, kept because making one costs a process; the oldest goes first."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, int, int], int] = {}

    def get(self, key: tuple[int, int, int, int]) -> int:
        fd = self._kept.pop(key, None)
        if fd is None:
            if len(self._kept) >= _KEPT_MAPPINGS:
                os.close(self._kept.pop(next(iter(self._kept))))
            fd = idmap.mapping(*key)
        self._kept[key] = fd
        return fd


def mount(
    workspace: Workspace, identity: Identity, mappings: Mappings, *, writable: bool, executable: bool, mapped: bool
) -> int:
    """A detached mount of the workspace for a session. Raises LayerMissing where it cannot be id-mapped."""
    tree = m.clone_tree(workspace.fd)
    attributes = m.MOUNT_ATTR_NOSUID | m.MOUNT_ATTR_NODEV | (0 if writable else m.MOUNT_ATTR_RDONLY)
    attributes |= noexec(executable)
    try:
        if mapped:
            try:
                userns = mappings.get((workspace.uid, workspace.gid, identity.uid, identity.gid))
                m.set_attributes(tree, attributes | m.MOUNT_ATTR_IDMAP, userns_fd=userns)
            except OSError as e:
                raise LayerMissing(
                    f"{workspace.path}: its file system cannot be id-mapped here ({os.strerror(e.errno or 0)})",
                    field="workspace",
                    layer="idmap",
                    hint="put the workspace on ext4, xfs or btrfs, or let policy choose workspace_owner = "
                    '"shared" for this profile: children then run as the owner of the workspace',
                ) from e
        else:
            m.set_attributes(tree, attributes)
    except BaseException:
        os.close(tree)
        raise
    return tree
