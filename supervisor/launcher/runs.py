"""Runs from StartRun to RunEnded: the auditor's word, the launch, what is due, the kill, the conclusion."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.errors import Denied, StockadeError
from supervisor.kernel import notices
from supervisor.launcher import ending
from supervisor.launcher.plan import WORKSPACE, executes
from supervisor.launcher.session import Process, Run, Session, order
from supervisor.policy.narrow import narrow_limits
from supervisor.wire import messages as w

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.launcher.held import Copies
    from supervisor.launcher.loop import Loop, Timer
    from supervisor.launcher.warden import Warden
    from supervisor.policy.snapshot import Limits

_GO_PATIENCE = 30.0  # seconds that a run waits for the auditor's word
_DISK_INTERVAL = 0.1
_REFILL_DELAY = 0.005  # seconds
_STILL_INTERVAL = 0.002  # seconds between two looks at a dying tree, where the kernel does not tell of its end
_MOST_WORDS = 4096
_ATTEMPTS = 3


class Surprise(Exception):
    """Something that an honest main never asks for."""


@dataclass(slots=True)
class Pending:
    """A run that waits for the auditor's word. A reason not to start it is kept until then: once the decision is
    in the log its outcome belongs there too."""

    message: w.StartRun
    fds: list[int]
    refusal: tuple[str, str] | None = None
    overdue: Timer | None = None

    def refuse(self, cause: str, detail: str) -> None:
        self.refusal = self.refusal or (cause, detail)

    def close(self) -> None:
        if self.overdue is not None:
            self.overdue.cancel()
        for fd in self.fds:
            os.close(fd)

    def ended(self, *, recorded: bool) -> w.RunEnded:
        cause, detail = self.refusal or ("lost", "")
        return w.RunEnded(self.message.run, cause, None, None, {}, {}, detail[:4000], recorded)


class Runs:
    def __init__(
        self,
        loop: Loop,
        warden: Warden,
        record: Callable[[dict[str, Any]], None],
        to_main: Callable[[w.Message], None],
        copies: Copies | None,
    ) -> None:
        self._loop, self._warden, self._record, self._to_main = loop, warden, record, to_main
        self._copies = copies
        self._runs: dict[str, Run] = {}
        self._by_child: dict[Process, Run] = {}
        self._pending: dict[str, Pending] = {}  # asked for by main, not yet answered by the auditor
        self._words: dict[str, Callable[[], None]] = {}  # answered by the auditor, not yet asked for

    def __len__(self) -> int:
        return len(self._runs) + len(self._pending)

    def of(self, session: Session) -> list[Run]:
        return [self._runs[ident] for ident in session.runs]

    def start(self, message: w.StartRun, fds: list[int], *, stopped: bool) -> None:
        """Run when the auditor's Go for exactly this is there. RunEnded follows in every case."""
        if message.run in self._runs or message.run in self._pending:
            raise Surprise(f"run {message.run} twice")
        pending = self._pending[message.run] = Pending(message, fds)
        if stopped:
            pending.refuse("stopped", "the emergency stop is on")
        elif not all(ending.is_plain(fd) for fd in fds):
            pending.refuse("denied", "a descriptor is not a pipe")
        elif self._warden.service is not None and len(self) > self._warden.service.runs:
            pending.refuse("denied", f"more runs at once than the {self._warden.service.runs} of [service] runs")
        if message.run in self._words:
            self._words.pop(message.run)()
        else:
            due = time.monotonic() + _GO_PATIENCE
            pending.overdue = self._loop.at(due, lambda: self.nogo(message.run, "the auditor gave no word"))

    def go(self, run: str, fingerprint: str) -> None:
        """The decision about this run is durable: launch it, if it is the very one that was recorded."""
        if run not in self._pending:
            self._early(run, lambda: self.go(run, fingerprint))
            return
        pending = self._pending.pop(run)
        message = pending.message
        if w.fingerprint(message) != fingerprint:
            raise Surprise(f"run {run} is not what was recorded")
        session = self._warden.session(message.session)
        if pending.refusal is None and (session is None or session.ended):
            pending.refuse("lost", "the session is gone")
        elif pending.refusal is None and session is not None and session.outdated:
            pending.refuse("denied", "the policy was reloaded and would not open this session as it is: open a new one")
        if pending.refusal is None and session is not None:
            try:
                self._launch(session, message, pending.fds)
            except StockadeError as e:
                pending.refuse("denied", e.detail)
            except Exception as e:  # noqa: BLE001 - whatever kept it from starting, main must hear of its end
                cause = "lost" if ending.is_ending(session.leader) else "not_started"
                pending.refuse(cause, f"the child could not be made: {e}")
        pending.close()
        if pending.refusal is not None:
            cause, detail = pending.refusal
            self._record(events.outcome(run=run, session_id=message.session, outcome=cause, reason=detail))
            self._to_main(pending.ended(recorded=True))

    def nogo(self, run: str, detail: str) -> None:
        """The decision is not in the log, so there is nothing to run and nothing to close there."""
        pending = self._pending.pop(run, None)
        if pending is None:
            self._early(run, lambda: self.nogo(run, detail))
            return
        pending.refuse("denied", f"not recorded, so not run: {detail}")
        pending.close()
        self._to_main(pending.ended(recorded=False))

    def _early(self, run: str, again: Callable[[], None]) -> None:
        """The auditor was quicker than main; keep its word, bounded."""
        if run in self._runs:
            return
        if len(self._words) >= _MOST_WORDS:
            self._words.pop(next(iter(self._words)))
        self._words[run] = again

    def _launch(self, session: Session, message: w.StartRun, fds: list[int]) -> None:
        limits = session.profile.limits
        if message.limits:
            limits = narrow_limits(limits, message.limits, source=session.profile.source)
        run = (
            self._order_held(session, message, limits, fds)
            if message.held
            else self._order(session, message, limits, fds)
        )
        self._runs[run.id] = self._by_child[run.process] = run
        session.runs.add(run.id)
        run.timers["due"] = self._loop.at(run.deadline, lambda: self._kill(run, "timeout"))
        self._look_at_disk(run)
        # Not at once: making the next child would take from the CPU what this run needs for its first steps.
        run.timers["refill"] = self._loop.at(time.monotonic() + _REFILL_DELAY, lambda: self._warden.refill(session))

    def _order_held(self, session: Session, message: w.StartRun, limits: Limits, fds: list[int]) -> Run:
        """As _order, to a child of its own. Raises StockadeError when a file is not what was approved, OSError."""
        if self._copies is None or session.place is None or session.ruleset < 0:
            raise Denied("files can be held only in a session that is open")
        executable = executes(session.profile, WORKSPACE)
        held = self._copies.hold(session.place, message.run, message.held, executable=executable)
        try:
            child = self._warden.child_with(session, limits, held)
            run = Run(message.run, session, child, limits, 0, 0, held=held)
            if session.disk is not None:
                run.disk_start = session.disk.mark()
            order(run, message.argv, message.env, message.cwd, fds)
        except BaseException:
            self._copies.drop(held)
            raise
        held.close_tree()
        self._loop.watch(child.ctl.fileno(), lambda _: self._child_says(run))
        self._loop.watch(held.guard.fd, lambda _: self._changed(run))
        return run

    def _child_says(self, run: Run) -> None:
        """The child of a held run tells of its own confinement, and how it is asked about what it opens."""
        while (fd := ending.hear(run)) is not None:
            if fd >= 0 and run.held is not None:
                run.held.asks = fd
                self._loop.watch(fd, lambda _: self._asked(run))
        if run.process.silent:
            self._loop.forget(run.process.ctl.fileno())

    def _asked(self, run: Run) -> None:
        """The run is about to open files: not when the name of one that is held led elsewhere since it is held."""
        held = run.held
        if held is None or held.asks < 0:
            return
        for opened in notices.asked(held.asks):
            notices.answer(held.asks, opened, allow=not held.guard.touched())
            os.close(opened)
        self._changed(run)  # after the answers: on cgroup v1 what waits for one may not be frozen, and so not killed

    def _changed(self, run: Run) -> None:
        """Something beside a held file was changed; when it is that file itself the run ends."""
        touched = run.held.guard.touched() if run.held is not None else ""
        if touched and not run.refused:
            run.refused = f"{touched} was replaced after it was approved, so the run was ended"
            self._kill(run, "denied")

    def _order(self, session: Session, message: w.StartRun, limits: Limits, fds: list[int]) -> Run:
        """Give the orders to a child; one that waited and died meanwhile is passed over. Raises OSError."""
        for attempt in range(_ATTEMPTS):
            child = self._warden.take_child(session, limits)
            run = Run(message.run, session, child, limits, 0, 0)
            try:
                if child.made:
                    run.cpu_baseline_us = child.group.cpu_us()
                if session.disk is not None:
                    run.disk_start = session.disk.mark()
                order(run, message.argv, message.env, message.cwd, fds)
            except BaseException as e:
                child.kill()
                if not isinstance(e, BrokenPipeError | ConnectionResetError) or attempt == _ATTEMPTS - 1:
                    raise
            else:
                return run
        raise AssertionError("the last attempt returns or raises")

    def _look_at_disk(self, run: Run) -> None:
        run.timers["disk"] = self._loop.at(time.monotonic() + _DISK_INTERVAL, lambda: self._watch_disk(run))

    def _watch_disk(self, run: Run) -> None:
        disk, process = run.session.disk, run.process
        if disk is not None and process.made and disk.exceeded(run.limits.disk, run.disk_start, process.group.pids):
            self._kill(run, "disk")
        else:
            self._look_at_disk(run)

    def child_ended(self, child: Process) -> bool:
        """The first process of a run ended, or could not be made; False when the child had no run."""
        run = self._by_child.pop(child, None)
        if run is None:
            return False
        if child.error:
            if run.cause is None and ending.is_ending(run.session.leader):
                run.cause = "lost"
            else:
                run.failure = {"step": "make", "error": child.error, "errno": None}
            self._finish(run)
            return True
        ending.first_process_ended(run)
        if child.group.populated():
            run.killed = run.killed or len(child.group.pids())
            self._kill_until_empty(run)
        else:
            self._finish(run)
        return True

    def end(self, ident: str, cause: str) -> None:
        """Kill a run's tree; one that is over already is no surprise."""
        if ident in self._pending:
            self._pending[ident].refuse(cause, "ended before it began")
        elif ident in self._runs:
            self._kill(self._runs[ident], cause)

    def signal(self, ident: str, number: int, *, tree: bool) -> None:
        run = self._runs.get(ident)
        if run is None or run.status is not None or not run.process.made:
            return
        if tree:
            run.process.group.signal(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.process.pidfd, number)

    def _kill(self, run: Run, cause: str) -> None:
        run.cause = run.cause or cause
        run.process.doomed = True
        if not run.process.made:
            return
        run.killed = run.killed or len(run.process.group.pids())
        run.process.group.kill()
        if run.status is not None:
            self._kill_until_empty(run)

    def _kill_until_empty(self, run: Run) -> None:
        """Kill what is left of a run's tree; the run is finished when the kernel says that its cgroup is empty."""
        group = run.process.group
        group.kill()
        if not group.populated():
            self._finish(run)
            return
        fd = group.events_fd
        if fd is None or run.waits:
            self._loop.at(time.monotonic() + _STILL_INTERVAL, lambda: self._still(run))
            return
        run.waits = True
        self._loop.watch(fd, lambda _: self._still(run), select.EPOLLPRI)
        self._still(run)  # it may have become empty between the look and the watch

    def _still(self, run: Run) -> None:
        if run.id not in self._runs:
            return
        if run.process.group.populated():
            if not run.waits:
                self._kill_until_empty(run)
            return
        self._finish(run)

    def _finish(self, run: Run) -> None:
        if self._runs.pop(run.id, None) is None:
            return
        for timer in run.timers.values():
            timer.cancel()
        if run.waits and run.process.group.events_fd is not None:
            self._loop.forget(run.process.group.events_fd)
        run.session.runs.discard(run.id)
        if run.held is not None and self._copies is not None:
            for fd in (run.held.asks, run.held.guard.fd, run.process.ctl.fileno()):
                self._loop.forget(fd)
            self._copies.drop(run.held)
        ended = ending.conclude(run)
        for wrong in ending.wrongs(run):
            self._record(events.security(action="confinement", outcome="wrong", run=run.id, reason=wrong))
        record = events.outcome(run=run.id, session_id=run.session.id, outcome=ended.cause, result=ending.result(ended))
        self._record(record)
        self._to_main(ended)
        self._loop.later(lambda: self._warden.refill(run.session))
        self._loop.later(lambda: self._warden.drop_child(run.session, run.process))

    def refuse_pending(self, cause: str, detail: str) -> None:
        """What waits for the auditor's word will not start."""
        for pending in self._pending.values():
            pending.refuse(cause, detail)
