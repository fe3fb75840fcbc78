"""Sessions and their children from first to last: who exists, what is made ahead, who is gone."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

from supervisor.errors import LayerMissing, LimitReached
from supervisor.launcher import ending
from supervisor.launcher.plan import Identity
from supervisor.launcher.pool import PROVER_UIDS, Blanks, Identities
from supervisor.launcher.runs import Runs, Surprise
from supervisor.launcher.session import Process, Session, World
from supervisor.policy.narrow import outdated
from supervisor.wire import messages as w

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.launcher.held import Copies, Held
    from supervisor.launcher.loop import Loop
    from supervisor.launcher.workspace import Workspace
    from supervisor.policy.snapshot import Limits, Profile, Service, Snapshot

_RETIRE_AFTER = 20.0  # seconds without a run after which a session keeps no waiting child
_WAITING = 2  # children that a session in use keeps ready: one for the next run while another is being made
_MOST_WAITING = 8  # children that a busy session keeps ready
_BUSY_INTERVAL = 0.005  # seconds between two looks at a session whose last task is dying


class Warden:
    def __init__(
        self,
        loop: Loop,
        world: World,
        record: Callable[[dict[str, Any]], None],
        to_main: Callable[[w.Message], None],
        *,
        copies: Copies | None = None,
        prefix: str = "s",
        ahead: int = 1,
    ) -> None:
        self._loop, self._world, self._to_main = loop, world, to_main
        self._identities = Identities(0, 0)
        world.forge.on_made = self.made
        self._blanks = Blanks(self._begin, ahead)
        self._names = (f"{prefix}{n}" for n in itertools.count(1))
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, int] = {}  # session -> id of the request
        self.runs = Runs(loop, self, record, to_main, copies)
        self._made: dict[Process, Callable[[], None]] = {}  # what follows when the forge has made it
        self._busy: dict[str, tuple[int, float]] = {}  # session -> children to keep ready, when last used
        self._closing: dict[str, str] = {}
        self._dying: set[Session] = set()  # blanks that nobody wants any more
        self._stopping: list[Callable[[], None]] = []
        self.service: Service | None = None  # the bounds of the policy; the prover has none

    def serve(self, snapshot: Snapshot, filters: tuple[bytes, ...], refused: Mapping[str, str]) -> None:
        """From now on make sessions of this snapshot. Those that live keep theirs, and no run starts any more in one
        that is not what it would be now.
        """
        for session in self._sessions.values():
            session.outdated = session.profile.name in refused or outdated(session.granted, session.profile, snapshot)
        for blank in self._blanks.clear():
            self._discard(blank)
        uids = (snapshot.service.uid_base, snapshot.service.uid_count - PROVER_UIDS)
        if uids != self._identities.range:
            leaders = [session.identity.leader for session in (*self._sessions.values(), *self._dying)]
            self.use_identities(Identities(*uids, [uid for leader in leaders for uid in (leader - 1, leader)]))
        self.service = snapshot.service
        self._world.forge.filters(filters)

    def use_identities(self, identities: Identities) -> None:
        self._identities = identities

    # --- sessions -------------------------------------------------------------------------------------------------

    def session(self, ident: str) -> Session | None:
        return self._sessions.get(ident)

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

    def open_session(self, message: w.OpenSession, granted: Profile, profile: Profile, workspace: Workspace) -> None:
        """Make the session; SessionOpened follows once its leader built the ruleset. Raises StockadeError, OSError.

        `granted` is what policy says, `profile` what of it the session gets.
        """
        # Main counts the same, and more than these; only one that was taken over comes here.
        if self.service is not None and sum(not s.ended for s in self._sessions.values()) >= self.service.sessions:
            raise LimitReached(f"{self.service.sessions} sessions live", hint="close some", rule="service.sessions")
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
        session.granted = granted
        self._sessions[message.session] = session
        self._opening[message.session] = message.id
        if "tmp" not in message.limits:  # no blanks are kept for sizes that clients think of
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
            self._busy[session.id] = (_WAITING, time.monotonic())
            self._loop.later(lambda: self.refill(session))
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
        for run in self.runs.of(session):
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
            self._loop.at(time.monotonic() + _BUSY_INTERVAL, lambda: self._clean_up(session))
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

    def _spawn(self, session: Session, limits: Limits, held: Held | None = None) -> Process:
        """Have a child made. Raises OSError only when the forge is gone, and then everything ends."""
        child = session.spawn(limits, held)
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

    def refill(self, session: Session) -> None:
        wanted, _ = self._busy.get(session.id, (0, 0.0))
        while not session.ended and sum(not child.doomed for child in session.idle) < wanted:
            session.idle.append(self._spawn(session, session.profile.limits))

    def _retire(self, session: Session) -> None:
        """A session that nobody used for a while keeps no child in waiting, and no timer; its next run makes both."""
        if session.ended or session.id not in self._busy:
            return
        _, used = self._busy[session.id]
        now = time.monotonic()
        if session.runs or used + _RETIRE_AFTER > now:
            self._loop.at((now if session.runs else used) + _RETIRE_AFTER, lambda: self._retire(session))
            return
        self._busy[session.id] = (0, used)
        for child in session.idle:
            child.kill()
        session.rest()

    def _child_ended(self, session: Session, child: Process) -> None:
        if child.pidfd >= 0:
            self._loop.forget(child.pidfd)
        if not self.runs.child_ended(child):
            child.reap()
            if child in session.idle:
                session.idle.remove(child)
            self.drop_child(session, child)

    def take_child(self, session: Session, limits: Limits) -> Process:
        """A child for a run with these limits: one that waits, or else a new one, and more kept ready from then on."""
        wanted, _ = self._busy.get(session.id, (_WAITING, 0.0))
        if not wanted:
            wanted = _WAITING
            self._loop.at(time.monotonic() + _RETIRE_AFTER, lambda: self._retire(session))
        nominal = limits == session.profile.limits
        # One that was told to die stays until it has: it would take an order, and never carry it out.
        child = next((c for c in session.idle if (c.made or nominal) and not c.doomed), None)
        if child is None:
            child = self._spawn(session, limits)
            wanted = min(_MOST_WAITING, max(_WAITING, wanted * 2))
        else:
            session.idle.remove(child)
            if not nominal:
                child.group.limit(memory=limits.memory, cpu_percent=limits.cpu, pids=limits.processes)
                child.narrowed = True
        self._busy[session.id] = (wanted, time.monotonic())
        return child

    def child_with(self, session: Session, limits: Limits, held: Held) -> Process:
        """A child that sees the copies of one run; there is none of that kind in waiting."""
        wanted, _ = self._busy.get(session.id, (_WAITING, 0.0))
        self._busy[session.id] = (wanted, time.monotonic())
        return self._spawn(session, limits, held)

    def drop_child(self, session: Session, child: Process) -> None:
        child.close()
        if not child.error:
            self._world.forge.remove([[session.name, child.group_name]])
        if session.ended:
            self._clean_up(session)

    # --- stop -----------------------------------------------------------------------------------------------------

    def stop(self, done: Callable[[int, int], None]) -> None:
        """Kill every tree; `done(runs, sessions)` when all is gone."""
        runs, sessions = len(self.runs), len(self._sessions)
        self.runs.refuse_pending("stopped", "emergency stop")
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
        # The end of a PID namespace's init waits until everything in it is reaped, and a forge that was killed may have
        # made children that it did not tell of: so whatever ends is reaped until the last leader is.
        leaders = {session.leader.pid for session in left if session.leader.pidfd >= 0}
        with contextlib.suppress(ChildProcessError):
            while leaders and (ended := os.waitid(os.P_ALL, 0, os.WEXITED)) is not None:
                leaders.discard(ended.si_pid)
