"""The life of a session leader: PID 1 of the session's PID namespace.

It makes the mount tree while it still may, waits for the workspace, builds the Landlock ruleset that every child of
the session will be restricted by, hands it to the launcher, gives up everything, and from then on only exists: its
end is the end of every process of the session, and the kernel reaps for it because it ignores SIGCHLD (wait(2)).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING, Any, NoReturn

from supervisor.kernel import landlock, mounts, seccomp
from supervisor.kernel import process as p
from supervisor.launcher import plan as plans
from supervisor.launcher.operations import LOCKED_DOWN, Missing, ReadOnly, Tmpfs, make_mountpoint
from supervisor.wire import framing

if TYPE_CHECKING:
    from supervisor.launcher.plan import Identity
    from supervisor.policy.snapshot import Profile

NAMESPACES = p.CLONE_NEWNS | p.CLONE_NEWPID | p.CLONE_NEWNET | p.CLONE_NEWIPC | p.CLONE_NEWUTS

_ROOT_SIZE = 1 << 20  # bytes of the root tmpfs: directories, links and the synthetic /etc
_ROOT_INODES = 4096
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def tell(ctl: socket.socket, body: dict[str, Any], fd: int | None = None) -> None:
    """One JSON packet to the launcher, with at most one descriptor."""
    socket.send_fds(ctl, [json.dumps(body).encode()], [] if fd is None else [fd])


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(s, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def make_tree(profile: Profile, identity: Identity, staging: str) -> list[str]:
    """Build the mount tree and enter it; the paths of the profile that the host does not have come back."""
    mounts.make_private()
    ready, missing = [], []
    for operation in plans.mount_tree(profile, identity):
        try:
            operation.prepare()
            ready.append(operation)
        except Missing as e:
            missing.append(str(e))
    Tmpfs(staging, _ROOT_SIZE, _ROOT_INODES).execute()
    mounts.enter_root(staging)
    for operation in ready:
        try:
            operation.execute()
        except OSError as e:
            raise OSError(e.errno, f"{operation.describe()}: {e.strerror}") from e
    return missing


def forbid_memfd_exec() -> None:
    """Programs in memory have no path that Landlock could judge, so this PID namespace's memfds are not executable
    (vm.memfd_noexec, kernel 6.3). The filter refuses MFD_EXEC, and every memfd where the kernel has no such switch.
    """
    with contextlib.suppress(FileNotFoundError), open("/proc/sys/vm/memfd_noexec", "w", encoding="ascii") as f:
        f.write("1")


def pin(workspace: str) -> None:
    """Keep the name of a workspace that lies deep in a place of the session's own. Whoever owns /tmp may rename
    /tmp/a, and put another /tmp/a/b in the place of the one that policy granted. Not what is a mount (rename(2)).
    """
    top = plans.own_parent(workspace)
    if top is None:
        return
    tree = mounts.clone_path(top)
    try:
        mounts.set_attributes(tree, LOCKED_DOWN | mounts.MOUNT_ATTR_RDONLY | mounts.MOUNT_ATTR_NOEXEC)
        mounts.attach(tree, top)
    finally:
        os.close(tree)


def adopt(profile: Profile, workspace: str, tree: int) -> tuple[int, list[str]]:
    """Put the workspace in its place, close the tree, and build the ruleset: (its descriptor, paths not there)."""
    make_mountpoint(workspace, directory=True)
    pin(workspace)
    mounts.attach(tree, workspace)
    os.close(tree)
    ReadOnly("/").execute()
    rules = plans.landlock_rules(profile, workspace)
    return landlock.build(
        read=[*rules.read, workspace],
        write=rules.write,
        execute=rules.execute,
        devices=rules.devices,
        tcp=profile.network == "loopback",
    )


def rest(ctl: socket.socket) -> None:
    """Wait on as cat(1), which ends like this one when `ctl` does, and needs a tenth of Python's memory.

    Its signals that are ignored, its parent-death signal and its filter stay (execve(2), prctl(2), seccomp(2)). A
    session that has no cat, or may not execute it, goes on as it is.
    """
    with contextlib.suppress(OSError), open("/dev/null", "r+b", buffering=0) as null:
        for fd, target in ((ctl.fileno(), 0), (null.fileno(), 1), (null.fileno(), 2)):
            os.dup2(fd, target)
        for program in ("/usr/bin/cat", "/bin/cat"):
            with contextlib.suppress(OSError):
                os.execve(program, ["cat"], {})  # noqa: S606 - of the host's own, from a tree that no run can change


def lead(ctl: socket.socket, profile: Profile, identity: Identity, staging: str, filters: seccomp.Loadable) -> NoReturn:
    """Be the leader until the launcher lets go of `ctl`. Never returns and never raises."""
    step = "start"
    try:
        p.close_from(3, (ctl.fileno(),))
        p.prctl(p.PR_SET_PDEATHSIG, signal.SIGKILL)
        step = "mounts"
        missing = make_tree(profile, identity, staging)
        p.set_hostname(plans.HOSTNAME)
        if profile.network == "loopback":
            loopback_up()
        forbid_memfd_exec()
        tell(ctl, {"ready": True, "missing": missing})
        step = "workspace"
        data, fds, _ = framing.take(ctl)
        if not data:
            os._exit(0)
        ruleset, absent = adopt(profile, json.loads(data)["workspace"], fds[0])
        tell(ctl, {"adopted": True, "missing": absent}, ruleset)
        os.close(ruleset)
        step = "privileges"
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        p.give_up(identity.leader, identity.leader)
        # Changing ids cleared the signal (prctl(2)), and the launcher may have died since: then ctl is at its end.
        p.prctl(p.PR_SET_PDEATHSIG, signal.SIGKILL)
        p.prctl(p.PR_SET_DUMPABLE, 0)
        filters.load()
        while ctl.recv(1):
            rest(ctl)
    except BaseException as e:  # noqa: BLE001 - whatever it was, the launcher must hear of it and this process must end
        try:
            tell(ctl, {"error": f"{step}: {e}", "errno": getattr(e, "errno", None)})
        finally:
            os._exit(1)
    os._exit(0)
