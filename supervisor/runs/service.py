"""The supervisor: every question and every order of the API arrives here, with the peer who asks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.approvals.access import Access
from supervisor.approvals.book import Book
from supervisor.approvals.report import Report
from supervisor.approvals.totp import Codes
from supervisor.audit import events
from supervisor.decide.admission import Counters, admit_session
from supervisor.decide.explain import granted
from supervisor.errors import (
    ApprovalRequired,
    AuditUnavailable,
    Conflict,
    InvalidRequest,
    StockadeError,
    Unavailable,
)
from supervisor.runs import deciding, execute, overview, proofs, sessions, stopfile, stopping
from supervisor.runs.bus import Bus
from supervisor.runs.desk import Desk
from supervisor.runs.line import Line
from supervisor.runs.meters import Meters
from supervisor.runs.registry import Registry, new_id
from supervisor.state.store import Store
from supervisor.wire.messages import ASKED_CAUSES

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from supervisor.audit.client import AuditClient
    from supervisor.layout import Layout
    from supervisor.parser.client import ParserClient
    from supervisor.runs.bus import Subscription
    from supervisor.runs.deciding import Notice
    from supervisor.runs.model import Peer, Run, RunRequest, Session, SessionRequest
    from supervisor.runs.running import Running
    from supervisor.runtimes.base import Loaded, Runtime


_AUDIT_PATIENCE = 10.0  # seconds for the record of an order that waits for it


class Supervisor:
    """Make it inside the running loop, then `await load()`."""

    def __init__(
        self, runtime: Runtime, audit: AuditClient, parser: ParserClient, layout: Layout, version: str
    ) -> None:
        self.runtime = runtime
        self.audit = audit
        self.parser = parser
        self.layout = layout
        self.version = version
        self.registry = Registry(layout.spool)
        self.events = Bus()
        self.desk = Desk(self)
        self.store = Store(os.path.join(layout.state, "decisions.db"))
        self.meters = Meters(self.store)
        self.line = Line(self)
        self.book = Book(self.store, Report(self.events.emit, self.post))
        self.codes = Codes(self.store, self._code_used)
        self.access = Access(self.book, self.desk.may_request)
        self.running: dict[str, Running] = {}
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
        audit.on_changed(self._audit_works)
        audit.on_lost(lambda: self._audit_works(False))

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

    def counters(self, peer: Peer | None = None) -> Counters:
        """What a decision about this peer asks for."""
        return replace(
            self.registry.counters(stopped=self.stopped is not None),
            runs=len(self.meters.book.live),
            now=time.time(),
            audit_ok=self.audit_ok,
            roles=() if peer is None else self.desk.roles(peer),
            book=self.meters.book,
        )

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

    def _audit_works(self, works: bool) -> None:
        self.audit_ok = works

    def _code_used(self, action: str, uid: int, outcome: str, reason: str | None) -> None:
        self.post(events.security(action=f"totp.{action}", outcome=outcome, reason=reason, result={"uid": uid}))

    def _breaker_changed(self, shown: dict[str, Any]) -> None:
        self.post(events.security(action="breaker", outcome=shown["state"], reason=shown["why"] or None, result=shown))
        self.events.emit("breaker.changed", shown["caller"], **shown)

    # --- policy ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """What the last process left, the first policy, and the emergency stop, when it was on as that ended."""
        await self.store.open()
        await self.meters.load()
        await self.book.load()
        await self.codes.load()
        self.meters.on_breaker(self._breaker_changed)
        await self.reload(None)
        if self.stopped is not None:
            await self.runtime.stop()

    async def reload(self, peer: Peer | None, code: str | None = None) -> dict[str, Any]:
        """Load the policy files anew; None is the operator's signal. Raises PolicyInvalid: the last good one serves.

        It is recorded before it is done (R63): raises AuditUnavailable, and nothing has changed.
        """
        if peer is not None:
            await self.desk.order(peer, "config:write", {"order": "reload"}, code)
        caller = None if peer is None else sessions.caller_of(peer)
        asked = events.policy(action="reload", outcome="asked", policy_digest=self.digest, caller=caller)
        try:
            async with asyncio.timeout(_AUDIT_PATIENCE):
                await asyncio.shield(self.audit.record(asked))
        except TimeoutError as e:
            raise AuditUnavailable(
                f"the audit log did not answer within {_AUDIT_PATIENCE:g} s, so the policy stays as it is",
                hint="see the auditor's messages: journalctl -u stockade",
            ) from e
        async with self._reloading:
            try:
                loaded = await self.runtime.reload()
                own = await proofs.prove(loaded.snapshot, self.layout.spool, self.store)
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
            names = [p.name for p in loaded.snapshot.profiles]
            # Nothing is awaited between these: no request meets a policy with what another one refused.
            self._loaded = loaded
            self.refused = {name: proof for name in names if (proof := loaded.refusal(name)) is not None}
            self.meters.known(loaded.snapshot)
            await self.book.serve(loaded.snapshot.approvals, loaded.digest)
            self.line.freed()
            self.failure, self.since = None, time.time()
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
            admission = admit_session(self.serving.snapshot, self.refused, peer, request, self.counters(peer))
            if admission.verdict == "ask":
                grant = await deciding.session_approved(self, peer, request, admission)
                again = admit_session(self.serving.snapshot, self.refused, peer, request, self.counters(peer))
                admission = deciding.anew(admission, again)
                self.book.carry_out(grant)
            session = await sessions.open_counted(self, peer, admission, ident, request.workspace)
        except ApprovalRequired:
            raise
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
        await sessions.close(self, self.registry.session(ident, self.desk.sees(peer, "agent:end_all", "agent:execute")))

    def sessions(self, peer: Peer) -> list[Session]:
        return self.registry.sessions(self.desk.sees(peer))

    def session(self, peer: Peer, ident: str) -> Session:
        return self.registry.session(ident, self.desk.sees(peer))

    # --- runs -----------------------------------------------------------------------------------------------------

    async def start(self, peer: Peer, request: RunRequest, request_id: str, notice: Notice = None) -> Run:
        """Decide, and send what was allowed to the launcher. Raises the refusal, which is recorded.

        `notice` is called with what a client may want to know while it waits: a question, a place in the queue.
        """
        return await execute.start(self, peer, request, request_id, notice)

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
        return self.registry.run(ident, self.desk.sees(peer))

    def runs(
        self, peer: Peer, *, session: str | None = None, state: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """Newest first."""
        found: list[Run] = []
        for run in self.registry.runs(self.desk.sees(peer)):
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
        run = self.run(peer, ident)
        self.desk.require(peer, "agent:execute")
        if run.peer.uid != peer.uid:
            self.desk.require(peer, "agent:execute_all")  # what is fed to a shell is executed
        running = self.running.get(run.id)
        if running is None or running.stdin is None:
            detail = "the run is over" if running is None else "the run was started without stdin_stream"
            raise Conflict(detail, field="stdin", hint="start the run with stdin_stream")
        await running.stdin.feed(chunk, eof=eof)

    def _own(self, peer: Peer, ident: str) -> Run:
        return self.registry.run(ident, self.desk.sees(peer, "agent:end_all", "agent:execute"))

    async def dry_run(self, peer: Peer, request: RunRequest) -> dict[str, Any]:
        """The decision alone. Raises the refusal; nothing is recorded, asked or opened."""
        session = None if request.session is None else self.registry.find_session(request.session)
        analysis = await deciding.analysed(self, peer, request)
        admission = deciding.admit(self, peer, session, request, analysis)
        return {
            "dry_run": True,
            "decision": execute.decision(admission, self.serving.digest) | granted(admission),
            "profile": admission.profile.name,
            "limits": execute.limits_of(admission),
        }

    # --- the emergency stop ---------------------------------------------------------------------------------------

    async def stop(self, peer: Peer, reason: str, code: str | None = None) -> dict[str, Any]:
        """Every tree dies now and nothing starts until resume(), also not after a restart. No person is waited for.

        Raises Unavailable when that cannot be written down; then everything is dead all the same.
        """
        await self.desk.order(peer, "service:stop", {"order": "stop"}, code, unasked=True)
        return await stopping.stop(self, peer, reason)

    async def resume(self, peer: Peer, code: str | None = None) -> dict[str, Any]:
        """Undo stop(). It is recorded first. Raises AuditUnavailable, LauncherUnavailable, Unavailable."""
        await self.desk.order(peer, "service:stop", {"order": "resume"}, code)
        return await stopping.resume(self, peer)

    # --- the service ----------------------------------------------------------------------------------------------

    def subscribe(self, peer: Peer, after: int | None = None) -> Subscription:
        """Events that this peer may see, those after the id `after` first; close it afterwards.

        Raises Denied, LimitReached.
        """
        return self.desk.subscribe(peer, after)

    def status(self, peer: Peer) -> dict[str, Any]:
        self.desk.sees(peer)
        return overview.status(self, peer)

    def doctor(self) -> dict[str, Any]:
        return overview.doctor(self)

    def policy(self, peer: Peer) -> dict[str, Any]:
        self.desk.require(peer, "config:read")
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
        self.line.close(Unavailable("the service is ending", hint="try again once it is back"))
        await self.book.close()
        with contextlib.suppress(Unavailable):
            await self.meters.flush()
        await self.store.close()
        self.registry.close()
        self.events.close()
