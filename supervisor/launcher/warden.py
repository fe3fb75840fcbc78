"""Sessions and runs from first to last: who exists, what is due, what each process's end means."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.errors import LayerMissing
from supervisor.launcher import ending
from supervisor.launcher.disk import DiskWatch
from supervisor.launcher.plan import Identity
from supervisor.launcher.pool import PROVER_UIDS, Blanks, Identities
from supervisor.launcher.session import Process, Run, Session, World, order
from supervisor.policy.narrow import narrow_limits
from supervisor.wire import messages as w

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.launcher.loop import Loop
    from supervisor.launcher.workspace import Workspace
    from supervisor.policy.snapshot import Limits, Profile, Snapshot

_GO_PATIENCE = 30.0  # seconds that a run waits for the auditor's word
_RETIRE_AFTER = 20.0  # seconds without a run after which a session keeps no waiting child
_MOST_WAITING = 8  # children that a busy session keeps ready
_DISK_INTERVAL = 0.1
_MOST_WORDS = 4096


class Surprise(Exception):
    """Something that an honest main never asks for."""


@dataclass(slots=True)
class Pending:
    """A run that waits for the auditor's word. A reason not to start it is kept until then: once the decision is
    in the log its outcome belongs there too."""

    message: w.StartRun
    fds: list[int]
    refusal: tuple[str, str] | None = None

    def refuse(self, cause: str, detail: str) -> None:
        self.refusal = self.refusal or (cause, detail)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)

    def ended(self) -> w.RunEnded:
        cause, detail = self.refusal or ("lost", "")
        return w.RunEnded(self.message.run, cause, None, None, {}, {}, detail[:4000])


class Warden:
    def __init__(
        self,
        loop: Loop,
        world: World,
        record: Callable[[dict[str, Any], Callable[[], None] | None], None],
        to_main: Callable[[w.Message], None],
        *,
        prefix: str = "s",
        ahead: int = 1,
    ) -> None:
        self._loop, self._world, self._record, self._to_main = loop, world, record, to_main
        self._identities = Identities(0, 0)
        world.forge.on_made = self.made
        self._blanks = Blanks(self._begin, ahead)
        self._names = (f"{prefix}{n}" for n in itertools.count(1))
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, int] = {}  # session -> id of the request
        self._runs: dict[str, Run] = {}
        self._by_child: dict[Process, Run] = {}
        self._made: dict[Process, Callable[[], None]] = {}  # what follows when the forge has made it
        self._pending: dict[str, Pending] = {}  # asked for by main, not yet answered by the auditor
        self._words: dict[str, Callable[[], None]] = {}  # answered by the auditor, not yet asked for
        self._busy: dict[str, tuple[int, float]] = {}  # session -> children to keep ready, when last used
        self._closing: dict[str, str] = {}
        self._dying: set[Session] = set()  # blanks that nobody wants any more
        self._stopping: list[Callable[[], None]] = []

    def serve(self, snapshot: Snapshot, filters: tuple[bytes, ...]) -> None:
        """From now on make sessions of this snapshot; those that live keep theirs."""
        uids = (snapshot.service.uid_base, snapshot.service.uid_count - PROVER_UIDS)
        if uids != self._identities.range:
            self.use_identities(Identities(*uids))
        self._world.forge.filters(filters)
        for blank in self._blanks.clear():
            self._discard(blank)

    def use_identities(self, identities: Identities) -> None:
        self._identities = identities

    # --- sessions -------------------------------------------------------------------------------------------------

    def check_new(self, session: str) -> None:
        if session in self._sessions or session in self._opening:
            raise Surprise(f"session {session} twice")

    def _begin(self, profile: Profile, identity: Identity | None = None) -> Session:
        """Start a blank. Raises OSError."""
        pool = self._identities
        identity = identity or pool.take()
        session = Session(self._world, profile, identity, next(self._names), lambda: pool.give_back(identity))
        try:
            session.begin()
        except OSError:
            session.release()
            raise
        self._made[session.leader] = lambda: self._leader_made(session)
        return session

    def _leader_made(self, session: Session) -> None:
        if session.leader.error:
            session.failure = session.leader.error
            self._leader_ended(session)
        else:
            # Heard only from now on: what it says may be there before the forge's word of it, without which no child
            # can be made in its namespaces.
            self._loop.watch(session.leader.ctl.fileno(), lambda _: self._leader_says(session))
            self._loop.watch(session.leader.pidfd, lambda _: self._leader_ended(session))

    def open_session(self, message: w.OpenSession, profile: Profile, workspace: Workspace) -> None:
        """Make the session; SessionOpened follows once its leader built the ruleset. Raises StockadeError, OSError."""
        if profile.workspace_owner == "mapped":
            session = self._blanks.take(profile)
        else:
            leader = self._identities.take()
            session = self._begin(profile, Identity(workspace.uid, workspace.gid, leader.leader))
        try:
            session.adopt(message.session, message.uid, workspace)
        except (OSError, LayerMissing):
            self._discard(session)
            raise
        session.disk = DiskWatch(workspace.fd)
        self._sessions[message.session] = session
        self._opening[message.session] = message.id
        self._loop.later(lambda: self._fill(profile))

    def _fill(self, profile: Profile) -> None:
        if profile.workspace_owner == "mapped" and self._blanks.wants(profile):
            with contextlib.suppress(OSError):  # the next session that needs one will say why
                self._blanks.keep(self._begin(profile))

    def _leader_says(self, session: Session) -> None:
        while (said := session.leader.heard()) is not None:
            self._leader_said(session, *said)
        if session.leader.silent:
            self._loop.forget(session.leader.ctl.fileno())

    def _leader_said(self, session: Session, body: dict[str, Any], ruleset: int | None) -> None:
        if body.get("ready"):
            session.missing = body["missing"]
            if not session.ended:
                session.idle.append(self._spawn(session, session.profile.limits))
        if body.get("adopted") and ruleset is not None:
            session.adopted(ruleset)
            ident = self._opening.pop(session.id)
            self._busy[session.id] = (1, time.monotonic())
            self._loop.at(time.monotonic() + _RETIRE_AFTER, lambda: self._retire(session))
            self._to_main(
                w.SessionOpened(ident, session.id, {**ending.session_receipt(session), "missing": session.missing[:64]})
            )
        if "error" in body:
            session.failure = body["error"]

    def _leader_ended(self, session: Session) -> None:
        """The PID namespace is gone with it; what is left is to reap and to remove."""
        self._leader_says(session)
        self._loop.forget(session.leader.pidfd)
        self._loop.forget(session.leader.ctl.fileno())
        session.leader.reap()
        self._blanks.drop(session)
        session.kill()
        ident = self._opening.pop(session.id, None)
        if ident is not None:
            detail = f"the session could not be made: {session.failure or 'its leader died'}"
            self._to_main(w.Refused(ident, "layer_missing", detail, {"layer": "namespaces"}))
            self._closing.setdefault(session.id, "silent")
        self._clean_up(session)

    def close(self, ident: str, cause: str) -> None:
        """End a session with all its runs. SessionEnded follows, also for one that is not there any more."""
        session = self._sessions.get(ident)
        if session is None:
            self._to_main(w.SessionEnded(ident, "closed"))
            return
        self._closing.setdefault(ident, cause)
        for run in [self._runs[r] for r in session.runs]:
            run.cause = run.cause or ("stopped" if cause == "stopped" else "cancelled")
        session.kill()

    def _discard(self, session: Session) -> None:
        self._dying.add(session)
        session.kill()

    def _clean_up(self, session: Session) -> None:
        """Remove a dead session when its last process is reaped and its last cgroup is empty."""
        if session.gone or session.leader.alive or session.runs:
            return
        if not session.remove():
            self._loop.at(time.monotonic() + 0.005, lambda: self._clean_up(session))
            return
        session.gone = True
        self._dying.discard(session)
        session.release()
        self._busy.pop(session.id, None)
        if session.id and self._sessions.pop(session.id, None) is not None:
            cause = self._closing.pop(session.id, "lost")
            if cause != "silent":
                self._to_main(w.SessionEnded(session.id, cause))
        self._stopped_yet()

    # --- children -------------------------------------------------------------------------------------------------

    def _spawn(self, session: Session, limits: Limits) -> Process:
        """Have a child made. Raises OSError only when the forge is gone, and then everything ends."""
        child = session.spawn(limits)
        self._made[child] = lambda: self._child_made(session, child)
        return child

    def made(self, process: Process) -> None:
        """The forge answered."""
        self._made.pop(process)()

    def _child_made(self, session: Session, child: Process) -> None:
        if child.error:
            self._child_ended(session, child)
            return
        if session.ended:
            child.kill()
        self._loop.watch(child.pidfd, lambda _: self._child_ended(session, child))

    def _refill(self, session: Session) -> None:
        wanted, _ = self._busy.get(session.id, (0, 0.0))
        while not session.ended and len(session.idle) < wanted:
            session.idle.append(self._spawn(session, session.profile.limits))

    def _retire(self, session: Session) -> None:
        """A session that nobody used for a while keeps no child in waiting; its next run makes one."""
        if session.ended or session.id not in self._busy:
            return
        wanted, used = self._busy[session.id]
        due = used + _RETIRE_AFTER
        if due <= time.monotonic() and not session.runs:
            self._busy[session.id] = (0, used)
            for child in session.idle:
                child.kill()
        elif due <= time.monotonic() and wanted > 1:
            self._busy[session.id] = (1, used)
        self._loop.at(max(due, time.monotonic() + 1), lambda: self._retire(session))

    def _child_ended(self, session: Session, child: Process) -> None:
        if child.pidfd >= 0:
            self._loop.forget(child.pidfd)
        run = self._by_child.pop(child, None)
        if run is None:
            child.reap()
            if child in session.idle:
                session.idle.remove(child)
            self._drop_child(session, child)
            return
        if child.error:
            run.failure = {"step": "make", "error": child.error, "errno": None}
            self._finish(run)
            return
        ending.first_process_ended(run)
        if child.group.populated():
            run.killed = len(child.group.pids())
            self._kill_until_empty(run)
        else:
            self._finish(run)

    def _drop_child(self, session: Session, child: Process) -> None:
        child.close()
        if not child.error:
            self._world.forge.remove([[session.name, child.group_name]])
        if session.ended:
            self._clean_up(session)

    # --- runs -----------------------------------------------------------------------------------------------------

    def start(self, message: w.StartRun, fds: list[int], *, stopped: bool) -> None:
        """Run when the auditor's Go for exactly this is there. RunEnded follows in every case."""
        if message.run in self._runs or message.run in self._pending:
            raise Surprise(f"run {message.run} twice")
        pending = self._pending[message.run] = Pending(message, fds)
        if stopped:
            pending.refuse("stopped", "the emergency stop is on")
        elif not all(ending.is_plain(fd) for fd in fds):
            pending.refuse("denied", "a descriptor is not a pipe")
        if message.run in self._words:
            self._words.pop(message.run)()
        else:
            due = time.monotonic() + _GO_PATIENCE
            self._loop.at(due, lambda: self.nogo(message.run, "the auditor gave no word"))

    def go(self, run: str, fingerprint: str) -> None:
        """The decision about this run is durable: launch it, if it is the very one that was recorded."""
        if run not in self._pending:
            self._early(run, lambda: self.go(run, fingerprint))
            return
        pending = self._pending.pop(run)
        message = pending.message
        if w.fingerprint(message) != fingerprint:
            raise Surprise(f"run {run} is not what was recorded")
        session = self._sessions.get(message.session)
        if pending.refusal is None and (session is None or session.ended):
            pending.refuse("lost", "the session is gone")
        if pending.refusal is None and session is not None:
            try:
                self._launch(session, message, pending.fds)
            except Exception as e:  # noqa: BLE001 - whatever kept it from starting, main must hear of its end
                pending.refuse("not_started", f"the child could not be made: {e}")
        pending.close()
        if pending.refusal is not None:
            cause, detail = pending.refusal
            record = events.outcome(run=run, session_id=message.session, outcome=cause, reason=detail)
            self._record(record, lambda: self._to_main(pending.ended()))

    def nogo(self, run: str, detail: str) -> None:
        """The decision is not in the log, so there is nothing to run and nothing to close there."""
        pending = self._pending.pop(run, None)
        if pending is None:
            self._early(run, lambda: self.nogo(run, detail))
            return
        pending.refuse("denied", f"not recorded, so not run: {detail}")
        pending.close()
        self._to_main(pending.ended())

    def _early(self, run: str, again: Callable[[], None]) -> None:
        """The auditor was quicker than main; keep its word, bounded."""
        if run in self._runs:
            return
        if len(self._words) >= _MOST_WORDS:
            self._words.pop(next(iter(self._words)))
        self._words[run] = again

    def _launch(self, session: Session, message: w.StartRun, fds: list[int]) -> None:
        limits = narrow_limits(session.profile.limits, message.limits, source=session.profile.source)
        wanted, _ = self._busy.get(session.id, (1, 0.0))
        child = next((c for c in session.idle if c.made or limits == session.profile.limits), None)
        if child is None:
            child = self._spawn(session, limits)
            wanted = min(_MOST_WAITING, max(1, wanted * 2))
        else:
            session.idle.remove(child)
            if limits != session.profile.limits:
                child.group.limit(memory=limits.memory, cpu_percent=limits.cpu, pids=limits.processes)
                child.narrowed = True
        self._busy[session.id] = (wanted, time.monotonic())
        run = Run(message.run, session, child, limits, 0, 0)
        if child.made:
            run.cpu_baseline_us = child.group.cpu_us()
        if session.disk is not None:
            run.disk_start = session.disk.mark()
        order(run, message.argv, message.env, message.cwd, fds)
        self._runs[run.id] = self._by_child[child] = run
        session.runs.add(run.id)
        self._loop.at(run.deadline, lambda: self._due(run))
        self._loop.at(time.monotonic() + _DISK_INTERVAL, lambda: self._watch_disk(run))
        self._refill(session)

    def _due(self, run: Run) -> None:
        if run.id in self._runs:
            self._kill(run, "timeout")

    def _watch_disk(self, run: Run) -> None:
        if run.id not in self._runs or run.status is not None:
            return
        disk = run.session.disk if run.process.made else None
        if disk is not None and disk.exceeded(run.limits.disk, run.disk_start, run.process.group.pids):
            self._kill(run, "disk")
            return
        self._loop.at(time.monotonic() + _DISK_INTERVAL, lambda: self._watch_disk(run))

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
            self._loop.at(time.monotonic() + 0.002, lambda: self._still(run))
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
        if run.waits and run.process.group.events_fd is not None:
            self._loop.forget(run.process.group.events_fd)
        run.session.runs.discard(run.id)
        ended = ending.conclude(run)
        for wrong in ending.wrongs(run):
            self._record(events.security(action="confinement", outcome="wrong", run=run.id, reason=wrong), None)
        record = events.outcome(run=run.id, session_id=run.session.id, outcome=ended.cause, result=ending.result(ended))
        self._record(record, lambda: self._to_main(ended))
        self._loop.later(lambda: self._after(run))

    def _after(self, run: Run) -> None:
        self._drop_child(run.session, run.process)

    # --- stop -----------------------------------------------------------------------------------------------------

    def stop(self, done: Callable[[int, int], None]) -> None:
        """Kill every tree; `done(runs, sessions)` when all is gone."""
        runs, sessions = len(self._runs) + len(self._pending), len(self._sessions)
        for pending in self._pending.values():
            pending.refuse("stopped", "emergency stop")
        for blank in self._blanks.clear():
            self._discard(blank)
        self._stopping.append(lambda: done(runs, sessions))
        for ident in list(self._sessions):
            self.close(ident, "stopped")
        self._stopped_yet()

    def _stopped_yet(self) -> None:
        if not self._sessions and self._stopping:
            for done in self._stopping:
                done()
            self._stopping.clear()

    def end_now(self) -> None:
        """At the end of this process: kill everything, wait for it, take the cgroups away."""
        left = [*self._sessions.values(), *self._dying, *self._blanks.clear()]
        while self._made and self._world.forge.answered():
            pass  # what the forge was making when the end came is ours to reap as well
        for session in left:
            session.kill()
        for session in left:
            # Children first: the end of a PID namespace's init waits until all of them are reaped.
            for process in [*(self._runs[r].process for r in session.runs), *session.idle, session.leader]:
                process.reap(block=True)
