"""The way of one run: decide, open its session if it has none, pipes, record and launch at the same time, answer."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.decide import command
from supervisor.decide.admission import admit_run
from supervisor.errors import (
    AuditUnavailable,
    CommandNotStarted,
    LauncherUnavailable,
    LimitReached,
    OutcomeUnrecorded,
    StockadeError,
    Unavailable,
)
from supervisor.runs import sessions
from supervisor.runs.input import Input
from supervisor.runs.model import Run
from supervisor.runs.output import Output
from supervisor.runs.registry import new_id
from supervisor.wire.messages import LIMITS, RunEnded, StartRun, fingerprint

if TYPE_CHECKING:
    from supervisor.decide.admission import Admission
    from supervisor.runs.model import Peer, RunRequest, Session
    from supervisor.runs.service import Supervisor


async def start(room: Supervisor, peer: Peer, request: RunRequest, request_id: str) -> Run:
    """Everything until the run was sent to the launcher. Refusals are recorded, then raised."""
    try:
        session = None if request.session is None else room.registry.find_session(request.session)
        admission = admit_run(room.serving.snapshot, room.refused, peer, session, request, room.counters())
        place = new_id("ses") if session is None else session.id
        workspace = (request.workspace or "") if session is None else session.workspace
        message = _command(admission, place, workspace, request)
        if session is None:
            room.registry.starting += 1
            try:
                session = await sessions.open_session(
                    room, peer, admission, place, workspace, request.labels, one_shot=True
                )
            finally:
                room.registry.starting -= 1
        try:
            return _launch(room, peer, admission, session, message, request, request_id)
        except StockadeError:
            if session.one_shot:
                room.spawn(sessions.close(room, session))
            raise
    except StockadeError as refusal:
        refused(room, peer, request, request_id, refusal)
        raise


def _command(admission: Admission, session: str, workspace: str, request: RunRequest) -> StartRun:
    """Exactly what will be executed. Raises TooLarge."""
    run = new_id("run")
    return StartRun(
        session=session,
        run=run,
        argv=list(command.arguments(admission.profile, request)),
        env=command.environment(admission.profile, session, run, request.env),
        cwd=command.directory(workspace, request.cwd),
        limits=sessions.narrowed(admission.profile.limits, admission.limits),
    )


def _launch(
    room: Supervisor,
    peer: Peer,
    admission: Admission,
    session: Session,
    message: StartRun,
    request: RunRequest,
    request_id: str,
) -> Run:
    """Record and launch. Nothing is awaited, so nothing can come between."""
    digest = room.serving.digest
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
        labels=request.labels,
        env_names=request.env,
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
    running = Running(room, session, recorded, ended)
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
        labels=request.labels,
        background=request.background,
        decision=decision(admission, digest),
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


class Running:
    """A run between its start and its end: what may end it from here, and what its end does."""

    __slots__ = ("_closed", "_ended", "_idle", "_recorded", "_room", "_session", "_unrecorded", "run", "stdin")

    run: Run

    def __init__(
        self, room: Supervisor, session: Session, recorded: asyncio.Future[int], ended: asyncio.Future[RunEnded]
    ) -> None:
        self._room = room
        self._session = session
        self._recorded = recorded
        self._closed: asyncio.Future[int]
        self._ended = ended
        self._idle: asyncio.TimerHandle | None = None
        self._unrecorded: str | None = None  # why the decision is not in the log
        self.stdin: Input | None = None

    def begin(self) -> None:
        run = self.run
        self._closed = self._room.audit.closed(run.id)
        self._recorded.add_done_callback(self._on_recorded)
        self._ended.add_done_callback(self._on_ended)
        if run.limits["idle_timeout_ms"]:
            self._watch(run.limits["idle_timeout_ms"] / 1000)
        self._room.events.emit("run.started", run.peer.uid, run=run.id, session=run.session, profile=run.profile)

    async def recorded(self) -> None:
        """Until the decision is durable. Raises AuditUnavailable."""
        await asyncio.shield(self._recorded)

    def _watch(self, delay: float) -> None:
        self._idle = asyncio.get_running_loop().call_later(delay, self._on_idle)

    def _on_idle(self) -> None:
        patience = self.run.limits["idle_timeout_ms"] / 1000
        left = self.run.output.last + patience - asyncio.get_running_loop().time()
        if left > 0:
            self._watch(left)
        else:
            self._room.runtime.end_run(self.run.id, "idle_timeout")

    def flooded(self, reason: str) -> None:
        """Called by the output, once, when it keeps nothing more."""
        self.run.detail = reason
        self._room.runtime.end_run(self.run.id, "output")

    def _on_recorded(self, recorded: asyncio.Future[int]) -> None:
        """The launcher has no Go then and does not start it; it is asked to forget it as well."""
        error = None if recorded.cancelled() else recorded.exception()
        if error is not None or recorded.cancelled():
            self._unrecorded = getattr(error, "detail", None) or "the record was given up"
            self._room.runtime.end_run(self.run.id, "denied")

    def _on_ended(self, ended: asyncio.Future[RunEnded]) -> None:
        """The tree is gone: take what is left in the pipes while the auditor writes the outcome."""
        run = self.run
        self.stop()
        error = None if ended.cancelled() else ended.exception()
        if error is None and not ended.cancelled():
            message = ended.result()
            run.cause, run.exit_code, run.signal = message.cause, message.exit_code, message.signal
            run.usage, run.receipt = message.usage, message.receipt
            run.detail = message.detail or run.detail
            run.error = self._problem(message)
        else:
            run.cause = "lost"
            run.detail = getattr(error, "detail", "the launcher gave no answer")
            run.error = LauncherUnavailable(run.detail, hint="the service is restarting", run=run.id)
        run.output.finish()
        run.finished = time.time()
        if error is None and not ended.cancelled() and ended.result().recorded:
            self._closed.add_done_callback(self._on_closed)
        else:
            self._room.audit.forget(run.id)
            self._conclude()

    def _on_closed(self, closed: asyncio.Future[int]) -> None:
        error = None if closed.cancelled() else closed.exception()
        if error is not None:
            said = getattr(error, "detail", str(error))
            self.run.detail = f"{self.run.detail}; {said}" if self.run.detail else said
            # The log will say `lost` of it, so no client may be told that it ended otherwise.
            self.run.error = self.run.error or OutcomeUnrecorded(
                f"the run ended, but that is not in the audit log: {said}",
                hint="what it did is done; see the service's log before you send it again",
                run=self.run.id,
            )
        self._conclude()

    def _conclude(self) -> None:
        """The answer: the tree is gone, its output is whole, its outcome is in the log."""
        run = self.run
        run.state = "finished"
        self._session.live_runs.discard(run.id)
        self._session.used = time.monotonic()
        self._room.running.pop(run.id, None)
        self._room.registry.finish_run(run)
        run.done.set()
        self._room.events.emit(
            "run.finished",
            run.peer.uid,
            run=run.id,
            session=run.session,
            cause=run.cause,
            exit_code=run.exit_code,
            signal=run.signal,
        )
        if self._session.one_shot:  # a task, so that whoever waits for the answer comes first
            self._room.spawn(sessions.close(self._room, self._session))

    def _problem(self, message: RunEnded) -> StockadeError | None:
        """Why nothing was executed at all, if so."""
        run = self.run
        if self._unrecorded is not None or message.cause == "denied":
            return AuditUnavailable(
                self._unrecorded or message.detail or "the decision was not recorded",
                hint="nothing was executed; see the service's log, then send the request again",
                run=run.id,
            )
        if message.cause != "not_started":
            return None
        return _not_started(run, message)

    def stop(self) -> None:
        """Give back what is only needed while it runs."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self.stdin is not None:
            self.stdin.close()


def _not_started(run: Run, message: RunEnded) -> CommandNotStarted:
    """What of the request it was, by the step that failed in the child."""
    step, number = message.usage.get("step"), message.usage.get("errno")
    why = os.strerror(number) if type(number) is int else message.detail or "unknown"
    name = repr(run.argv[0][:128])
    field = "argv[0]" if run.script is None else "script"
    if step == "cwd":
        field, detail = "cwd", f"{run.cwd[:512]!r} cannot be entered: {why}"
        hint = "give a directory that exists inside the session: in the workspace, or /tmp"
    elif step == "exec":
        detail = f"{name} cannot be executed: {why}"
        where = "in a directory of PATH" if "/" not in run.argv[0] else "inside the session"
        hint = (
            f"it has to be an executable file {where}, as has the interpreter that its first line names, and in what "
            f"profile {run.profile} may execute"
        )
    else:
        detail, hint = message.detail or f"{name} could not be started", "see the service's log"
    return CommandNotStarted(detail, field=field, hint=hint, run=run.id, errno=number, step=step)


def decision(admission: Admission, digest: str) -> dict[str, object]:
    """The decision as answers carry it."""
    return {
        "verdict": admission.verdict,
        "rule": admission.rule,
        "source": admission.source,
        "reason": admission.reason,
        "policy_digest": digest,
    }


def limits_of(admission: Admission) -> dict[str, int]:
    """The effective limits by their wire names."""
    return {name: getattr(admission.limits, name) for name in LIMITS}


def refused(room: Supervisor, peer: Peer, request: RunRequest, request_id: str, refusal: StockadeError) -> None:
    """Record a refusal. It is not waited for: nothing runs, whether it is durable or not."""
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
