"""The supervisor: every question and every order of the API arrives here, with the peer who asks."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.decide.admission import Counters, admit_run, admit_session, find_caller, permits, require
from supervisor.errors import (
    AuditUnavailable,
    Conflict,
    Denied,
    InvalidRequest,
    StockadeError,
    Unavailable,
)
from supervisor.runs import execute, overview, proofs, sessions, stopfile
from supervisor.runs.bus import Bus
from supervisor.runs.registry import Registry, new_id
from supervisor.wire.messages import ASKED_CAUSES

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from supervisor.audit.client import AuditClient
    from supervisor.layout import Layout
    from supervisor.policy.snapshot import Caller
    from supervisor.runs.bus import Subscription
    from supervisor.runs.model import Peer, Run, RunRequest, Session, SessionRequest
    from supervisor.runtimes.base import Loaded, Runtime


class Supervisor:
    """Make it inside the running loop, then `await load()`."""

    def __init__(self, runtime: Runtime, audit: AuditClient, layout: Layout, version: str) -> None:
        self.runtime = runtime
        self.audit = audit
        self.layout = layout
        self.version = version
        self.registry = Registry(layout.spool)
        self.events = Bus()
        self.running: dict[str, execute.Running] = {}
        self.timers: dict[str, asyncio.TimerHandle] = {}  # of idle sessions
        self.refused: dict[str, dict[str, Any]] = {}  # profile -> the proof that failed
        self.failure: dict[str, Any] | None = None  # of the last reload, when it failed
        self.since: float | None = None  # when the policy in force began to serve, Unix time
        self.stopped = stopfile.read(layout.state)
        self.audit_ok = True
        self._loaded: Loaded | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reloading = asyncio.Lock()
        runtime.on_session_ended(lambda ident, cause: sessions.ended(self, ident, cause))
        audit.on_lost(self._audit_lost)

    # --- what the parts of runs/ ask of each other ----------------------------------------------------------------

    @property
    def serving(self) -> Loaded:
        """The policy in force. Raises Unavailable before the first one."""
        if self._loaded is None:
            raise Unavailable("no policy is loaded yet", hint="see the service's log, then `stockade policy check`")
        return self._loaded

    @property
    def digest(self) -> str | None:
        return None if self._loaded is None else self._loaded.digest

    @property
    def idle_seconds(self) -> float:
        """After how long a session without runs is closed; 0 is never."""
        return self.serving.snapshot.service.session_idle_ms / 1000

    def counters(self) -> Counters:
        return self.registry.counters(stopped=self.stopped is not None)

    def post(self, event: dict[str, Any]) -> None:
        """Record what nothing waits for. When it cannot be, nothing can run either, and the service ends."""
        with contextlib.suppress(AuditUnavailable):
            self.audit.post(event)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, StockadeError):
            context = {"message": "a background task failed", "exception": error, "task": task}
            asyncio.get_running_loop().call_exception_handler(context)

    def _audit_lost(self) -> None:
        self.audit_ok = False

    def _who(self, peer: Peer) -> Caller:
        return find_caller(self.serving.snapshot, peer)[1]

    def _sees(self, peer: Peer, action: str = "see_all") -> int | None:
        """The uid whose things this peer may see (or end); None is everybody's. Raises Denied."""
        caller = self._who(peer)
        require(caller, "read")
        return None if permits(caller, action) else peer.uid

    def _order(self, peer: Peer, action: str) -> None:
        """Raises Denied, recorded, unless the peer may give this order."""
        try:
            require(self._who(peer), action)
        except Denied as refusal:
            self.post(
                events.security(action=action, outcome="deny", reason=refusal.detail, caller=sessions.caller_of(peer))
            )
            raise

    # --- policy ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """The first policy; and the emergency stop, when it was on as the last process ended."""
        await self.reload(None)
        if self.stopped is not None:
            await self.runtime.stop()

    async def reload(self, peer: Peer | None) -> dict[str, Any]:
        """Load the policy files anew; None is the operator's signal. Raises PolicyInvalid: the last good one serves."""
        if peer is not None:
            self._order(peer, "reload")
        caller = None if peer is None else sessions.caller_of(peer)
        async with self._reloading:
            try:
                loaded = await self.runtime.reload()
                own = await proofs.prove(loaded.snapshot, self.layout.spool)
                loaded = replace(loaded, proofs=(*loaded.proofs, *own))
            except StockadeError as e:
                self.failure = {
                    "time": time.time(),
                    "code": e.code,
                    "detail": e.detail,
                    "findings": e.extra.get("findings", []),
                }
                self.post(
                    events.policy(
                        action="reload", outcome="refused", policy_digest=self.digest, reason=e.detail, caller=caller
                    )
                )
                self.events.emit("policy.refused", None, detail=e.detail)
                raise
            self._loaded = loaded
            self.failure, self.since = None, time.time()
            names = [p.name for p in loaded.snapshot.profiles]
            self.refused = {name: proof for name in names if (proof := loaded.refusal(name)) is not None}
        self.post(
            events.policy(
                action="reload",
                outcome="loaded",
                policy_digest=loaded.digest,
                caller=caller,
                result={"files": dict(loaded.snapshot.files), "refused": sorted(self.refused)},
            )
        )
        self.events.emit("policy.reloaded", None, digest=loaded.digest, refused=sorted(self.refused))
        return {
            "digest": loaded.digest,
            "files": [path for path, _ in loaded.snapshot.files],
            "profiles": names,
            "refused": overview.doctor(self)["refused"],
        }

    # --- sessions -------------------------------------------------------------------------------------------------

    async def open_session(self, peer: Peer, request: SessionRequest, request_id: str) -> Session:
        ident = new_id("ses")
        try:
            admission = admit_session(self.serving.snapshot, self.refused, peer, request, self.counters())
            session = await sessions.open_session(
                self, peer, admission, ident, request.workspace, request.labels, one_shot=False
            )
        except StockadeError as refusal:
            self.post(
                events.session(
                    session_id=ident,
                    action="open",
                    outcome="deny",
                    caller=sessions.caller_of(peer),
                    resource=request.workspace,
                    request_id=request_id,
                    reason=f"{refusal.code}: {refusal.detail}",
                    policy_digest=self.digest,
                    labels=request.labels,
                )
            )
            raise
        await sessions.opened(self, session, request_id)
        return session

    async def close_session(self, peer: Peer, ident: str) -> None:
        """Its runs end as cancelled. Raises NotFound, Denied, Conflict, LauncherUnavailable."""
        require(self._who(peer), "run")
        await sessions.close(self, self.registry.session(ident, self._sees(peer, "end_all")))

    def sessions(self, peer: Peer) -> list[Session]:
        return self.registry.sessions(self._sees(peer))

    def session(self, peer: Peer, ident: str) -> Session:
        return self.registry.session(ident, self._sees(peer))

    # --- runs -----------------------------------------------------------------------------------------------------

    async def start(self, peer: Peer, request: RunRequest, request_id: str) -> Run:
        """Decide, and send what was allowed to the launcher. Raises the refusal, which is recorded."""
        return await execute.start(self, peer, request, request_id)

    async def recorded(self, run: Run) -> None:
        """Until the decision about this run is durable. Raises AuditUnavailable."""
        running = self.running.get(run.id)
        if running is not None:
            await running.recorded()

    async def wait(self, run: Run) -> None:
        """Until the run is finished. Raises why nothing was executed: AuditUnavailable, CommandNotStarted,
        LauncherUnavailable.
        """
        if not run.done.is_set():
            await run.done.wait()
        if run.error is not None:
            raise run.error

    def run(self, peer: Peer, ident: str) -> Run:
        return self.registry.run(ident, self._sees(peer))

    def runs(
        self, peer: Peer, *, session: str | None = None, state: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """Newest first."""
        found: list[Run] = []
        for run in self.registry.runs(self._sees(peer)):
            if limit is not None and len(found) >= limit:
                break
            if session in (None, run.session) and state in (None, run.state):
                found.append(run)
        return found

    async def end(self, peer: Peer, ident: str, cause: str = "cancelled") -> None:
        """Ask for the end of a run, without waiting for it; one that is over stays as it is."""
        if cause not in ASKED_CAUSES:
            raise InvalidRequest(f"no cause {cause!r}", field="cause", allowed=", ".join(ASKED_CAUSES))
        if self._own(peer, ident).state != "finished":
            self.runtime.end_run(ident, cause)

    def abandon(self, run: Run) -> None:
        """The client that waited for this run is gone. Nobody asks for anything here, so no role is looked up."""
        if run.state != "finished":
            self.runtime.end_run(run.id, "cancelled")

    def signal(self, peer: Peer, ident: str, signum: int, tree: bool) -> None:
        """Raises Conflict when the run is over."""
        if not 1 <= signum <= 64:
            raise InvalidRequest(f"no signal {signum}", field="signal", allowed="1 to 64")
        if self._own(peer, ident).state == "finished":
            raise Conflict("the run is over", field="run", hint="there is nothing left to signal")
        self.runtime.signal_run(ident, signum, tree=tree)

    async def feed(self, peer: Peer, ident: str, chunk: bytes, eof: bool) -> None:
        """Hand bytes to a run's stdin, at the pace at which it reads. Raises Conflict when it takes none."""
        run = self._own(peer, ident)
        running = self.running.get(run.id)
        if running is None or running.stdin is None:
            detail = "the run is over" if running is None else "the run was started without stdin_stream"
            raise Conflict(detail, field="stdin", hint="start the run with stdin_stream")
        await running.stdin.feed(chunk, eof=eof)

    def _own(self, peer: Peer, ident: str) -> Run:
        require(self._who(peer), "run")
        return self.registry.run(ident, self._sees(peer, "end_all"))

    def dry_run(self, peer: Peer, request: RunRequest) -> dict[str, Any]:
        """The decision alone: what start() would be allowed. Raises the refusal; nothing is recorded or opened."""
        session = None if request.session is None else self.registry.find_session(request.session)
        admission = admit_run(self.serving.snapshot, self.refused, peer, session, request, self.counters())
        return {
            "dry_run": True,
            "decision": execute.decision(admission, self.serving.digest),
            "profile": admission.profile.name,
            "limits": execute.limits_of(admission),
        }

    # --- the emergency stop ---------------------------------------------------------------------------------------

    async def stop(self, peer: Peer, reason: str) -> dict[str, Any]:
        """Every tree dies now and nothing starts until resume(), also not after a restart.

        Raises Unavailable when that cannot be written down; then everything is dead all the same.
        """
        self._order(peer, "stop")
        if self.stopped is None:
            self.stopped = {"reason": reason, "since": time.time(), "by": sessions.caller_of(peer)}
        ending = asyncio.ensure_future(self.runtime.stop())
        await asyncio.sleep(0)  # the order is on its way to the launcher before the disk is waited for
        problem = None
        try:
            stopfile.write(self.layout.state, self.stopped)
        except OSError as e:
            problem = e
        runs, closed = await ending
        counts = {"runs": runs, "sessions": closed}
        self.post(events.service(action="stop", outcome="stopped", reason=reason, result=counts | self.stopped))
        self.events.emit("service.stopped", None, reason=reason, **counts)
        if problem is not None:
            raise Unavailable(
                f"everything is stopped, but a restart would forget it: {problem}",
                hint=f"make {self.layout.state} writable, then stop again",
            )
        return {"stopped": True, **self.stopped, **counts}

    async def resume(self, peer: Peer) -> dict[str, Any]:
        """Undo stop(). It is recorded first. Raises AuditUnavailable, LauncherUnavailable, Unavailable."""
        self._order(peer, "stop")
        if self.stopped is None:
            return {"stopped": False}
        caller = sessions.caller_of(peer)
        await self.audit.record(events.service(action="resume", outcome="resumed", result={"by": caller}))
        await self.runtime.resume()
        try:
            stopfile.remove(self.layout.state)
        except OSError as e:
            await self.runtime.stop()
            raise Unavailable(f"the stop cannot be taken back: {e}", hint=f"make {self.layout.state} writable") from e
        self.stopped = None
        self.events.emit("service.resumed", None)
        return {"stopped": False}

    # --- the service ----------------------------------------------------------------------------------------------

    def subscribe(self, peer: Peer, after: int | None = None) -> Subscription:
        """Events that this peer may see, those after the id `after` first; close it afterwards.

        Raises Denied, LimitReached.
        """
        return self.events.subscribe(self._sees(peer), after)

    def status(self, peer: Peer) -> dict[str, Any]:
        self._sees(peer)
        return overview.status(self, peer)

    def doctor(self) -> dict[str, Any]:
        return overview.doctor(self)

    def policy(self, peer: Peer) -> dict[str, Any]:
        self._sees(peer)
        return overview.policy(self, peer)

    def self_view(self, peer: Peer) -> dict[str, Any]:
        return overview.self_view(self, peer)

    async def close(self) -> None:
        """Give back every task, timer, descriptor and file of this process. The launcher ends what still runs."""
        for timer in self.timers.values():
            timer.cancel()
        self.timers.clear()
        for running in self.running.values():
            running.stop()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.registry.close()
        self.events.close()
