"""The life of a child from clone to exec. It is made ahead of its run, in its own cgroup and confined by every layer,
and then waits for what to execute; so nothing of this is on a request's path.
"""

from __future__ import annotations

import errno
import json
import os
import resource
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from supervisor.kernel import landlock, mounts, notices, seccomp
from supervisor.kernel import process as p
from supervisor.launcher import held
from supervisor.launcher.leader import tell
from supervisor.wire import framing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from supervisor.launcher.plan import Identity

_SIGKILL = 9  # the enum members of `signal` are objects, and so pages, of their own
_OOM_SCORE_ADJ = b"500"  # the kernel takes a sandboxed process before a service of the host (proc_pid_oom_score_adj(5))


class Orders(NamedTuple):
    """What a child is made with; everything else comes over `ctl`."""

    identity: Identity
    filters: tuple[seccomp.Loadable, ...]
    processes: int  # RLIMIT_NPROC, the second line behind pids.max
    leader: int  # pidfd
    ruleset: int | None  # None: it comes over `ctl`
    join: tuple[int, ...]  # cgroup files that take who writes "0"
    attempt: Callable[[str], bytes] | None = None  # in the prover only
    places: list[str] | tuple[str, ...] = ()  # of files that are held
    copies: int | None = None  # a mount of their copies
    watched: list[str] | tuple[str, ...] = ()  # mounts through which the launcher is asked before a file is opened


def limit(kind: int, value: int) -> None:
    """Set both limits, never above the hard limit that is there: without CAP_SYS_RESOURCE it cannot be raised."""
    hard = resource.getrlimit(kind)[1]
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bound, bound))


def confine(orders: Orders, ctl: socket.socket) -> None:
    """Every layer, in the order in which each still may be set. Raises OSError at the first that fails.

    What can be given up for good before the fork, the forge has given up. Each page that is touched here is copied
    first, so this is one plain function.
    """
    leader, ruleset, own = orders.leader, orders.ruleset, ctl.fileno()
    for fd in orders.join:
        os.write(fd, b"0")
    p.close_from(3, tuple(fd for fd in (leader, own, ruleset, orders.copies) if fd is not None))
    os.setsid()
    p.setns(leader, p.CLONE_NEWNS | p.CLONE_NEWNET | p.CLONE_NEWIPC | p.CLONE_NEWUTS)
    p.unshare(p.CLONE_NEWCGROUP)
    os.close(leader)
    if orders.copies is not None:  # in a namespace of its own, so that others of the session see the files themselves
        p.unshare(p.CLONE_NEWNS)
        mounts.make_private()
        held.put_in_place(orders.copies, list(orders.places))
        asks = notices.ask_before_opening(list(orders.watched))
        tell(ctl, {"asks": True}, asks)
        os.close(asks)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)  # the session's own, so that /dev/stdin can be opened anew
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)
    score = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(score, _OOM_SCORE_ADJ)
    os.close(score)
    limit(resource.RLIMIT_NPROC, orders.processes)
    p.give_up(orders.identity.uid, orders.identity.gid)
    p.prctl(p.PR_SET_PDEATHSIG, _SIGKILL)
    p.prctl(p.PR_SET_DUMPABLE, 0)
    if ruleset is None:
        data, fds, _ = framing.take(ctl)
        if not data:
            os._exit(0)
        ruleset = fds[0]
    landlock.restrict_self(ruleset)
    os.close(ruleset)
    for filter_ in orders.filters:
        filter_.load()


def execute(argv: list[str], env: dict[str, str], shell: str) -> NoReturn:
    """execvp(3) with an environment: PATH search, and a script without interpreter line goes to the shell.

    Raises OSError as exec would: EACCES when something was found that may not be executed, else ENOENT.
    """
    raw = [os.fsencode(a) for a in argv]
    environment = {os.fsencode(k): os.fsencode(v) for k, v in env.items()}
    name = raw[0]
    directories = [b""] if b"/" in name else environment.get(b"PATH", b"/usr/bin:/bin").split(b":")
    worst: OSError = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for directory in directories:
        path = os.path.join(directory, name) if directory else name
        try:
            os.execve(path, raw, environment)  # noqa: S606 - this is the one exec of the product
        except OSError as e:
            if e.errno == errno.ENOEXEC:
                os.execve(shell, [os.fsencode(shell), path, *raw[1:]], environment)  # noqa: S606
            if e.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            worst = e
            if e.errno != errno.EACCES:
                break
    raise worst


def live(ctl: socket.socket, orders: Orders) -> NoReturn:
    """Confine, wait, exec. Never returns and never raises; a failure is told over `ctl`, which exec closes."""
    step = "confine"
    try:
        confine(orders, ctl)
        tell(ctl, {"confined": True})
        step = "wait"
        data, fds, _ = framing.take(ctl)
        if not data:
            os._exit(0)
        order = json.loads(data)
        step = "descriptors"
        for target, fd in zip((0, 1, 2) if len(fds) == 3 else (1, 2), fds, strict=True):
            os.dup2(fd, target)
            os.close(fd)
        step = "limits"
        limit(resource.RLIMIT_NOFILE, order["files"])
        limit(resource.RLIMIT_FSIZE, order["disk"])
        step = "cwd"
        os.chdir(order["cwd"])
        if orders.attempt is not None:  # a child of the prover: it tries what is forbidden instead of executing
            os.write(1, orders.attempt(order["argv"][1]))
            os._exit(0)
        step = "exec"
        execute(order["argv"], order["env"], order["shell"])
    except BaseException as e:  # noqa: BLE001 - whatever it was, the launcher must hear of it and this process must end
        try:
            tell(ctl, {"step": step, "errno": getattr(e, "errno", None), "error": str(e)})
        finally:
            os._exit(127)
