"""A run between its start and its end: what may end it from main's side, and what its end does."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from supervisor.errors import (
    AuditUnavailable,
    CommandNotStarted,
    Denied,
    LauncherUnavailable,
    OutcomeUnrecorded,
    StockadeError,
)
from supervisor.runs import deciding, sessions

if TYPE_CHECKING:
    from supervisor.decide.bounds import Who
    from supervisor.runs.input import Input
    from supervisor.runs.model import Run, Session
    from supervisor.runs.service import Supervisor
    from supervisor.wire.messages import RunEnded


class Running:
    """A run between its start and its end: what may end it from here, and what its end does."""

    __slots__ = (
        "_closed", "_counted", "_ended", "_held", "_idle", "_recorded", "_room", "_session", "_unrecorded", "_who",
        "run", "stdin",
    )  # fmt: skip

    run: Run

    def __init__(
        self,
        room: Supervisor,
        session: Session,
        recorded: asyncio.Future[int],
        ended: asyncio.Future[RunEnded],
        counted: asyncio.Future[None],
        who: Who,
        *,
        held: bool,
    ) -> None:
        self._room = room
        self._held = held  # whether it is bound to files as they were approved
        self._counted = counted
        self._who = who
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
        """Until the decision and its counts are durable. Raises AuditUnavailable, Unavailable."""
        await asyncio.shield(self._recorded)
        await asyncio.shield(self._counted)

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
        recorded = error is None and not ended.cancelled() and ended.result().recorded
        charged = deciding.charged(self._room, run, self._who, counters=None if run.cause == "lost" else run.usage)
        self._counted = _both(self._counted, charged)
        if recorded:
            self._closed.add_done_callback(self._on_closed)
        else:
            self._room.audit.forget(run.id)
            self._when_counted()

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
        self._when_counted()

    def _when_counted(self) -> None:
        if self._counted.done():
            self._on_counted(self._counted)
        else:
            self._counted.add_done_callback(self._on_counted)

    def _on_counted(self, counted: asyncio.Future[None]) -> None:
        """What the run used is on the disk: a restart now would neither forget nor double it."""
        error = None if counted.cancelled() else counted.exception()
        if error is not None:
            said = getattr(error, "detail", str(error))
            self.run.error = self.run.error or OutcomeUnrecorded(
                f"the run ended, but what it used cannot be written down: {said}",
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
        if message.cause == "denied" and self._unrecorded is None and self._held:
            return None if message.usage else _not_as_approved(run, message.detail)
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


def _not_as_approved(run: Run, detail: str) -> Denied:
    return Denied(
        detail or "a file is not what was approved",
        field="files",
        rule="approvals",
        layer="launcher",
        allowed="the files as they were approved",
        hint="nothing was executed; send the request again, and what is there now is asked about",
        run=run.id,
    )


def _both(one: asyncio.Future[None], other: asyncio.Future[None]) -> asyncio.Future[None]:
    """Done when both are; without a task where they are already."""
    if one.done() and one.exception() is None:
        return other
    if other.done() and other.exception() is None:
        return one
    return asyncio.ensure_future(_after(one, other))


async def _after(one: asyncio.Future[None], other: asyncio.Future[None]) -> None:
    await asyncio.wait((one, other))
    one.result()
    other.result()


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
