"""The root side of the privilege line: one loop, one table of what main may ask for when, one answer to surprise.

A packet that is no message, a message that the table does not permit now, an id used twice, a fingerprint that is not
the recorded one: main is broken or taken over. Then everything is killed, the auditor is told, and the launcher ends;
what remains of the service restarts (design, section 3).
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.errors import Conflict, Denied, NotFound, StockadeError, Stopped
from supervisor.launcher import held
from supervisor.launcher import workspace as workspaces
from supervisor.launcher.outbox import Full, Outbox
from supervisor.launcher.reload import Reloading
from supervisor.launcher.runs import Surprise
from supervisor.launcher.warden import Warden
from supervisor.policy.narrow import narrow_limits, narrowed, narrowest, only_reads
from supervisor.policy.words import may_ever
from supervisor.wire import framing
from supervisor.wire import messages as w

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from supervisor.launcher.loop import Loop
    from supervisor.launcher.session import World
    from supervisor.layout import Layout
    from supervisor.policy.snapshot import Caller, Snapshot

# What may be asked in which state; anything else is a surprise. Without a policy nothing can be opened.
PERMITTED: dict[str, tuple[type[w.Message], ...]] = {
    "new": (w.Reload,),
    "serving": w.TO_LAUNCHER,
    "stopped": w.TO_LAUNCHER,  # opening and starting are refused, not fatal: main may have sent them before it knew
}


class Monitor:
    def __init__(self, loop: Loop, main: socket.socket, auditor: socket.socket, world: World, layout: Layout) -> None:
        self.loop = loop
        self.layout = layout
        self.state = "new"
        self.snapshot: Snapshot | None = None
        self.digest = ""
        self.refused: dict[str, str] = {}  # profile -> the probe that failed
        self._main, self._auditor = main, auditor
        for sock, handler in ((main, self._from_main), (auditor, self._from_auditor)):
            sock.setblocking(False)
            loop.watch(sock.fileno(), handler)
        self.to_main, self.to_auditor = Outbox(main, loop.epoll), Outbox(auditor, loop.epoll)
        self.copies = held.Copies(os.path.join(os.path.realpath(layout.run), "held"))
        self.copies.begin()
        self.warden = Warden(loop, world, self._record, self.to_main.send, copies=self.copies)
        loop.watch(world.forge.sock.fileno(), lambda _: self._from_forge(world))
        self._reloading: Reloading | None = None
        self._answers: dict[type[w.Message], Callable[[Any, list[int]], None]] = {
            w.Reload: self._reload,
            w.OpenSession: self._open_session,
            w.Inspect: self._inspect,
            w.StartRun: self._start_run,
            w.EndRun: self._end_run,
            w.SignalRun: self._signal_run,
            w.CloseSession: self._close_session,
            w.Stop: self._stop,
            w.Resume: self._resume,
        }

    # --- what comes in ------------------------------------------------------------------------------------------

    def _from_main(self, ready: int) -> None:
        if ready & select.EPOLLOUT:
            self.to_main.flush()
        if not ready & (select.EPOLLIN | select.EPOLLHUP):
            return
        try:
            received = framing.receive(self._main, w.TO_LAUNCHER)
            if received is None:
                self.loop.running = False
                return
            message, fds = received
            if type(message) not in PERMITTED[self.state]:
                raise Surprise(f"{message.KIND} in state {self.state}")
            self._answers[type(message)](message, fds)
        except BlockingIOError:
            return
        except ConnectionError:
            self.loop.running = False
        except (w.WireError, Surprise, Full) as e:
            self._surprised(f"main: {e or type(e).__name__}")

    def _from_auditor(self, ready: int) -> None:
        if ready & select.EPOLLOUT:
            self.to_auditor.flush()
        if not ready & (select.EPOLLIN | select.EPOLLHUP):
            return
        try:
            received = framing.receive(self._auditor, w.AUDITOR_TO_LAUNCHER)
        except BlockingIOError:
            return
        except (w.WireError, ConnectionError) as e:
            self._surprised(f"auditor: {e}")
            return
        if received is None:  # without a record nothing may run
            self.loop.running = False
            return
        message = received[0]
        try:
            if isinstance(message, w.Go):
                self.warden.runs.go(message.run, message.fingerprint)
            elif isinstance(message, w.Nogo):
                self.warden.runs.nogo(message.run, message.detail)
            else:
                self._surprised(f"auditor: {message.KIND} for a record that nobody waits for")
        except (Surprise, Full) as e:
            self._surprised(f"main: {e or type(e).__name__}")

    def _from_forge(self, world: World) -> None:
        if not world.forge.answered():
            self._surprised("the forge is gone")

    def _record(self, event: dict[str, Any]) -> None:
        """Record an event. Nobody here waits for it: of an outcome, the auditor tells main when it is durable."""
        self.to_auditor.send(w.Record(0, event))

    def _surprised(self, what: str) -> None:
        self.loop.running = False
        self._record(events.security(action="launcher", outcome="fatal", reason=what))
        with contextlib.suppress(OSError):  # a full or closed log of the service must not hide it from the auditor
            sys.stderr.write(f"launcher: fatal: {what}\n")

    def _refuse(self, ident: int, error: StockadeError) -> None:
        body = error.as_dict()
        extra = {k: v for k, v in body.items() if k not in ("type", "title", "status", "code", "detail", "retry")}
        self.to_main.send(w.Refused(ident, error.code, error.detail[:8000], extra))

    # --- what main may ask for ------------------------------------------------------------------------------------

    def _reload(self, message: w.Reload, _: list[int]) -> None:
        if self._reloading is not None:
            self._refuse(message.id, Conflict("a reload is under way", hint="wait for its end"))
            return
        self._reloading = Reloading(self.loop, self.layout, lambda result: self._reloaded(message.id, result))

    def _reloaded(self, ident: int, result: Any) -> None:
        self._reloading = None
        if isinstance(result, StockadeError):
            self._refuse(ident, result)
            return
        self.snapshot, self.digest, self.refused = result.snapshot, result.digest, result.refused
        self.warden.serve(result.snapshot, result.filters, result.refused)
        if self.state == "new":
            self.state = "serving"
        self.to_main.send(w.PolicyLoaded(ident, result.digest), (result.fd,))

    def _open_session(self, message: w.OpenSession, _: list[int]) -> None:
        self.warden.check_new(message.session)
        try:
            if self.state == "stopped":
                raise Stopped("the emergency stop is on", hint="an administrator resumes with `stockade resume`")
            caller = self._caller(message)
            assert self.snapshot is not None  # noqa: S101 - the state is not "new"
            granted = self.snapshot.profile(message.profile)
            if granted is None or message.profile not in caller.profiles or message.profile in self.refused:
                raise Denied(f"profile {message.profile} is not served to this caller", field="profile")
            tmp = narrow_limits(granted.limits, message.limits, source=granted.source).tmp
            # Whatever main says: where policy lets nothing be written, the kernel is told so.
            level = narrowest(caller.autonomy, granted.autonomy)
            readonly = message.readonly or level == "readonly" or only_reads(self.snapshot)
            profile = granted
            if readonly or message.network:
                profile = narrowed(profile, readonly=readonly, network=message.network)
            if tmp != profile.limits.tmp:  # the only limit of a session as a whole; the others main sends with each run
                profile = replace(profile, limits=replace(profile.limits, tmp=tmp))
            own = (self.layout.etc, self.layout.run, self.layout.state, self.layout.log)
            workspace = workspaces.open_workspace(message.workspace, caller, message.uid, own)
            try:
                self.warden.open_session(message, granted, profile, workspace)
            except OSError as e:
                raise Conflict(f"the session could not be made: {e}") from e
            finally:
                workspace.close()
        except StockadeError as e:
            self._refuse(message.id, e)

    def _caller(self, message: w.OpenSession) -> Caller:
        """The caller entry that main names, checked against what main says of the peer. Raises Conflict or Denied."""
        assert self.snapshot is not None  # noqa: S101
        if message.digest != self.digest:
            raise Conflict("the policy was reloaded meanwhile", hint="send the request again")
        if message.caller >= len(self.snapshot.callers):
            raise Denied("no such caller entry")
        caller = self.snapshot.callers[message.caller]
        named = (
            (caller.unit is not None and caller.unit == message.unit)
            or (caller.uid is not None and caller.uid == message.uid)
            or (caller.gid is not None and caller.gid in message.gids)
        )
        if not named or not may_ever(self.snapshot, caller, "agent:execute"):
            raise Denied("the caller entry is not this caller's, or may not run anything", source=caller.source)
        return caller

    def _inspect(self, message: w.Inspect, _: list[int]) -> None:
        session = self.warden.session(message.session)
        try:
            if session is None or session.ended or session.place is None:
                raise NotFound("the session is gone", field="session", hint="open a session")
            files = [held.inspect(session.place, path) for path in message.paths]
        except StockadeError as e:
            self._refuse(message.id, e)
            return
        self.to_main.send(w.Inspected(message.id, files))

    def _start_run(self, message: w.StartRun, fds: list[int]) -> None:
        self.warden.runs.start(message, fds, stopped=self.state == "stopped")

    def _end_run(self, message: w.EndRun, _: list[int]) -> None:
        self.warden.runs.end(message.run, message.cause)

    def _signal_run(self, message: w.SignalRun, _: list[int]) -> None:
        self.warden.runs.signal(message.run, message.signal, tree=message.tree)

    def _close_session(self, message: w.CloseSession, _: list[int]) -> None:
        self.warden.close(message.session, "closed")

    def _stop(self, message: w.Stop, _: list[int]) -> None:
        self.state = "stopped"
        self.warden.stop(lambda runs, sessions: self.to_main.send(w.Stopped(message.id, True, runs, sessions)))

    def _resume(self, message: w.Resume, _: list[int]) -> None:
        self.state = "serving"
        self.to_main.send(w.Stopped(message.id, False, 0, 0))
