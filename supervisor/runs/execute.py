"""The way of one run: decide, open its session if it has none, pipes, record and launch at the same time, answer."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.decide import command
from supervisor.errors import (
    ApprovalRequired,
    LimitReached,
    StockadeError,
    Unavailable,
)
from supervisor.runs import deciding, sessions
from supervisor.runs.input import Input
from supervisor.runs.model import Run
from supervisor.runs.output import Output
from supervisor.runs.registry import new_id
from supervisor.runs.running import Running
from supervisor.wire.messages import LIMITS, StartRun, fingerprint

if TYPE_CHECKING:
    import asyncio

    from supervisor.approvals.model import Grant
    from supervisor.decide.admission import Admission
    from supervisor.runs.deciding import Decided, Notice
    from supervisor.runs.model import Peer, RunRequest, Session
    from supervisor.runs.service import Supervisor


async def start(room: Supervisor, peer: Peer, request: RunRequest, request_id: str, notice: Notice = None) -> Run:
    """Everything until the run was sent to the launcher. Refusals are recorded, then raised."""
    session: Session | None = None
    try:
        if request.session is not None:
            session = room.registry.find_session(request.session)
        decided = await deciding.decide(room, peer, session, request, request_id, notice)
        workspace = (request.workspace or "") if session is None else session.workspace
        session = decided.session
        message: StartRun | None = None
        try:
            message = _command(decided, workspace, request)
            # It takes its place before anything is awaited.
            counted = deciding.counted(room, peer, decided.admission, message)
            if session is None:
                session = await sessions.open_session(
                    room, peer, decided.admission, decided.place, workspace, one_shot=True
                )
            return _launch(room, peer, decided, session, message, request, request_id, counted)
        except BaseException:
            if message is not None:
                deciding.given_back(room, decided.admission.who, message)
            if session is not None and session.one_shot:
                room.spawn(sessions.close(room, session))
            raise
    except ApprovalRequired:
        raise  # a question is no refusal, and was recorded as one
    except StockadeError as refusal:
        refused(room, peer, request, request_id, refusal)
        raise


def _command(decided: Decided, workspace: str, request: RunRequest) -> StartRun:
    """Exactly what will be executed. Raises TooLarge."""
    run = new_id("run")
    profile = decided.admission.profile
    return StartRun(
        session=decided.place,
        run=run,
        argv=list(command.arguments(profile, request)),
        env=command.environment(profile, decided.place, run, request.env),
        cwd=command.directory(workspace, request.cwd),
        limits=sessions.narrowed(profile.limits, decided.admission.limits),
        held=decided.held,
    )


def _launch(
    room: Supervisor,
    peer: Peer,
    decided: Decided,
    session: Session,
    message: StartRun,
    request: RunRequest,
    request_id: str,
    counted: asyncio.Future[None],
) -> Run:
    """Record and launch. Nothing is awaited, so nothing can come between. Raises Conflict when a yes is over."""
    digest, admission, grant = room.serving.digest, decided.admission, decided.grant
    if grant is not None:
        room.book.carry_out(grant)
    record = events.decision(
        outcome="allow",
        run=message.run,
        request_id=request_id,
        session_id=session.id,
        caller=sessions.caller_of(peer),
        tool=request.tool,
        action="run",
        resource=session.workspace,
        args=message.argv,
        fingerprint=fingerprint(message),
        reason=admission.reason,
        authorization_policy=f"{admission.rule} {admission.source}",
        policy_digest=digest,
        labels=admission.labels,
        env_names=request.env,
        result=None if grant is None else {"grant": grant.id, "approval": grant.question, "by": list(grant.by)},
    )
    fed = request.stdin is not None or request.stdin_stream
    ours, theirs = _pipes(3 if fed else 2, fed=fed)
    try:
        ended = room.runtime.start_run(message, tuple(theirs))
        recorded = _record(room, message.run, record)
    except BaseException:
        _close(ours)
        raise
    finally:
        _close(theirs)
    running = Running(room, session, recorded, ended, counted, admission.who, held=bool(message.held))
    output = Output(
        ours[-2],
        ours[-1],
        limit=admission.limits.output,
        spool=room.registry.spool,
        name=message.run,
        on_flood=running.flooded,
    )
    running.run = run = Run(
        id=message.run,
        request_id=request_id,
        session=session.id,
        peer=peer,
        tool=request.tool,
        profile=admission.profile.name,
        argv=tuple(message.argv),
        script=request.script,
        cwd=message.cwd,
        workspace=session.workspace,
        labels=dict(admission.labels),
        background=request.background,
        decision=decision(admission, digest, grant),
        limits=limits_of(admission),
        output=output,
        state="running",
    )
    session.live_runs.add(run.id)
    session.used = time.monotonic()
    room.registry.add_run(run)
    room.running[run.id] = running
    if fed:
        running.stdin = Input(ours[0])
        if request.stdin is not None:
            running.stdin.send(request.stdin, eof=True)
    running.begin()
    return run


def _record(room: Supervisor, run: str, record: dict[str, Any]) -> asyncio.Future[int]:
    try:
        return room.audit.record(record)
    except BaseException:
        room.runtime.end_run(run, "denied")
        raise


def decision(admission: Admission, digest: str, grant: Grant | None = None) -> dict[str, Any]:
    """The decision as answers carry it."""
    found = {
        "verdict": admission.verdict if grant is None else "allow",
        "rule": admission.rule,
        "source": admission.source,
        "reason": admission.reason,
        "policy_digest": digest,
        "autonomy": admission.autonomy,
        "readonly": admission.readonly,
    }
    if admission.notes:
        found["notes"] = list(admission.notes)
    if admission.left:
        found["left"] = [{"rule": rule, "left": left} for rule, left in admission.left]
    if grant is not None:
        found |= {"grant": grant.id, "approval": grant.question}
    return found


def limits_of(admission: Admission) -> dict[str, int]:
    """The effective limits by their wire names."""
    return {name: getattr(admission.limits, name) for name in LIMITS}


def refused(room: Supervisor, peer: Peer, request: RunRequest, request_id: str, refusal: StockadeError) -> None:
    """Record a refusal. It is not waited for: nothing runs, whether it is durable or not."""
    deciding.noted(room, peer, request, refusal)
    known = room.registry.find_session(request.session) if request.session is not None else None
    room.post(
        events.decision(
            outcome="limit" if isinstance(refusal, LimitReached) else "deny",
            run=None,
            request_id=request_id,
            session_id=known.id if known is not None else None,
            caller=sessions.caller_of(peer),
            tool=request.tool,
            action="run",
            resource=known.workspace if known is not None else request.workspace,
            args=list(request.argv) if request.argv is not None else request.script,
            reason=f"{refusal.code}: {refusal.detail}",
            authorization_policy=f"{refusal.rule or ''} {refusal.source or ''}".strip() or None,
            policy_digest=room.digest,
            labels=request.labels,
            env_names=request.env,
        )
    )


def _pipes(count: int, *, fed: bool) -> tuple[list[int], list[int]]:
    """(our ends, the child's ends) of [stdin] stdout stderr; ours do not block. Raises Unavailable."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for i in range(count):
            reading, writing = os.pipe2(os.O_CLOEXEC)
            into = fed and i == 0
            own, other = (writing, reading) if into else (reading, writing)
            ours.append(own)
            theirs.append(other)
            # /dev/stdout and its like open the pipe anew, under the session's uid: proc_pid_fd(5).
            os.fchmod(own, 0o644 if into else 0o622)
            os.set_blocking(own, False)
    except OSError as e:
        _close(ours + theirs)
        raise Unavailable(f"no pipe can be made: {os.strerror(e.errno or 0)}", hint="try again later") from e
    return ours, theirs


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
