"""What the end of a run means: its status, its one cause, its counters, its receipt."""

from __future__ import annotations

import errno
import os
import signal
import stat
import time
from typing import TYPE_CHECKING, Any

from supervisor.launcher import receipt as receipts
from supervisor.launcher.plan import writes_workspace
from supervisor.wire.messages import RunEnded

if TYPE_CHECKING:
    from supervisor.launcher.session import Process, Run, Session

_PF_EXITING = 0x4  # include/linux/sched.h


def is_plain(fd: int) -> bool:
    """Whether a descriptor from main may become a child's: a pipe, so nothing of main itself is handed in."""
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


def first_process_ended(run: Run) -> None:
    """Read what only now can be read: /proc of the zombie, what it said instead of exec, its status."""
    process = run.process
    run.wall_us = (time.monotonic_ns() - run.wall_started) // 1000
    try:
        run.proc_status = receipts.read_status(process.pid)
    except OSError:
        run.proc_status = {}
    while (fd := hear(run)) is not None:
        if fd >= 0:
            os.close(fd)
    run.status = process.reap(block=True)
    if run.status == (None, signal.SIGKILL) and run.cause is None and is_ending(run.session.leader):
        run.cause = "lost"


def hear(run: Run) -> int | None:
    """Take one message of a run's child: its descriptor (a held run's sends one) or -1, None when there is none."""
    said = run.process.heard()
    if said is None:
        return None
    body, fd = said
    if "confined" in body:
        run.confined = True
    elif "asks" not in body:
        run.failure = body
    return -1 if fd is None else fd


def is_ending(leader: Process) -> bool:
    """Whether a session's leader was killed or has ended. Its end becomes visible only after that of its last child,
    which the kernel kills with it (pid_namespaces(7)), so the flags of the task are asked (proc_pid_stat(5)).
    """
    if leader.pidfd < 0:
        return leader.made
    try:
        with open(f"/proc/{leader.pid}/stat", "rb", buffering=0) as f:
            flags = int(f.read(4096).rpartition(b")")[2].split()[6])
    except OSError:
        return True
    return bool(flags & _PF_EXITING)


def cause(run: Run, counters: dict[str, int]) -> str:
    """The one named cause (design, promise 6); what was asked for or due comes before what followed from it."""
    code, number = run.status or (None, None)
    failed = bool(code) or number is not None
    if run.refused:
        return "denied"
    if run.failure is not None:
        return "not_started"
    if run.cause is not None:
        return run.cause
    if counters.get("memory_oom", 0) and failed:
        return "memory"
    if number == signal.SIGXFSZ or code == 128 + signal.SIGXFSZ:  # a shell reports so what its child died of
        return "disk"
    if counters.get("pids_refused", 0) and (failed or run.killed):
        return "processes"
    return "exited" if number is None else "signal"


def conclude(run: Run) -> RunEnded:
    """The message that tells main of the end."""
    counters = run.process.group.counters()
    if "cpu_us" in counters:
        counters["cpu_us"] = max(0, counters["cpu_us"] - run.cpu_baseline_us)
    code, number = run.status or (None, None)
    failure = run.failure or {}
    if failure:
        code = number = None
    detail = run.refused or (f"{failure['step']}: {failure['error']}" if failure else "")
    if failure.get("step") == "exec" and failure["errno"] == errno.EACCES and run.session.profile.allowed_commands:
        allowed = ", ".join(run.session.profile.allowed_commands)[:1000]
        detail += f"; allowed_commands of profile {run.session.profile.name} ({run.session.profile.source}): {allowed}"
    usage: dict[str, Any] = {"wall_us": run.wall_us, "killed": run.killed, **counters}
    if failure:
        usage = {"errno": failure["errno"], "step": failure["step"]}
    layers = session_receipt(run.session)
    limits = run.process.group.read_limits() if run.process.narrowed else run.process.limits
    return RunEnded(
        run=run.id,
        cause=cause(run, counters),
        exit_code=code,
        signal=number,
        usage=usage,
        receipt=receipts.receipt(run.proc_status, layers, limits),
        detail=detail[:4000],
        recorded=True,
    )


def wrongs(run: Run) -> list[str]:
    """How what ran was not confined as every run must be. A child that never got to exec is no such case."""
    if not run.confined or run.failure is not None or not run.proc_status:
        return []
    return receipts.violations(run.proc_status, run.session.identity, run.session.world.inherited)


def session_receipt(session: Session) -> dict[str, Any]:
    """What all runs of a session have in common; paths that the host lacks are named once, with the session."""
    return {
        **session.world.layers,
        "uid": session.identity.uid,
        "workspace": session.profile.workspace_owner,
        "network": session.profile.network,
        "readonly": not writes_workspace(session.profile),
    }


def result(ended: RunEnded) -> dict[str, Any]:
    """The part of RunEnded that belongs into the audit record."""
    return {"exit_code": ended.exit_code, "signal": ended.signal, "usage": ended.usage, "receipt": ended.receipt,
            **({"detail": ended.detail} if ended.detail else {})}  # fmt: skip
