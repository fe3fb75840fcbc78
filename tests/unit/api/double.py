"""A Supervisor without confinement: real children, pipes, spool and bus, so that the HTTP side can be driven alone."""

# ruff: noqa: ARG002 - the arguments are those of the real Supervisor
from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

from supervisor.decide.command import check_command
from supervisor.errors import Conflict, NotFound
from supervisor.runs.bus import Bus, Subscription
from supervisor.runs.input import Input
from supervisor.runs.model import Peer, Run, RunRequest, Session, SessionRequest
from supervisor.runs.output import Output
from supervisor.runs.registry import new_id
from tests.unit.api.desk import DeskDouble

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SYSTEM_ENV = {"PATH": "/usr/bin:/bin"}


class Double:
    """The part of Supervisor's face that api/ uses.

    `refuse` is raised by the next start(), after what `notices` has for its client, and after `hold`.
    """

    def __init__(self, spool: Path) -> None:
        self.bus = Bus()
        self.desk = DeskDouble()
        self.refuse: Exception | None = None
        self.notices: list[dict[str, Any]] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.requests: list[RunRequest] = []
        self.given_up = asyncio.Event()
        self.starts = 0
        self.started: asyncio.Queue[Run] = asyncio.Queue()
        self.ended: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.stopping, self.go_on, self.stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.go_on.set()
        self.peers: list[Peer] = []
        self._spool = spool
        self._runs: dict[str, Run] = {}
        self._sessions: dict[str, Session] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._inputs: dict[str, Input] = {}
        self._waits: set[asyncio.Task[None]] = set()

    async def open_session(self, peer: Peer, request: SessionRequest, request_id: str) -> Session:
        session = Session(new_id("ses"), peer, 0, "shell", request.workspace, "0" * 64, False, request.labels, "live")
        self._sessions[session.id] = session
        return session

    async def close_session(self, peer: Peer, ident: str) -> None:
        session = self.session(peer, ident)
        session.state, session.ended_cause = "ended", "closed"

    def sessions(self, peer: Peer) -> list[Session]:
        return list(self._sessions.values())

    def session(self, peer: Peer, ident: str) -> Session:
        if ident not in self._sessions:
            raise NotFound(f"there is no session {ident}")
        return self._sessions[ident]

    async def dry_run(self, peer: Peer, request: RunRequest) -> dict[str, Any]:
        return {"dry_run": True, "decision": {}, "profile": "shell", "limits": request.limits}

    async def start(
        self,
        peer: Peer,
        request: RunRequest,
        request_id: str,
        notice: Callable[[dict[str, Any]], None] | None = None,
    ) -> Run:
        self.peers.append(peer)
        self.requests.append(request)
        for frame in self.notices if notice is not None else ():
            notice(frame)  # type: ignore[misc]
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.given_up.set()
            raise
        if self.refuse is not None:
            refusal, self.refuse = self.refuse, None
            raise refusal
        check_command(request)
        self.starts += 1
        argv = request.argv or ("/bin/sh", "-c", request.script or "")
        run_id = new_id("run")
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        stdin = os.pipe2(os.O_CLOEXEC) if request.stdin_stream or request.stdin is not None else None
        ours = [r for r, _ in pipes] + ([stdin[1]] if stdin else [])
        for fd in ours:
            os.set_blocking(fd, False)
        child = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            argv,
            stdin=subprocess.DEVNULL if stdin is None else stdin[0],
            stdout=pipes[0][1],
            stderr=pipes[1][1],
            env=SYSTEM_ENV | request.env,
            start_new_session=True,
        )
        for fd in [w for _, w in pipes] + ([stdin[0]] if stdin else []):
            os.close(fd)
        output = Output(*ours[:2], limit=1 << 24, spool=str(self._spool), name=run_id, on_flood=lambda _: None)
        run = Run(
            run_id, request_id, request.session or new_id("ses"), peer, request.tool, "shell", argv, request.script,
            "/", request.workspace or "/", request.labels, request.background, {"verdict": "allow"}, request.limits,
            output, "running",
        )  # fmt: skip
        self._runs[run_id], self._children[run_id] = run, child
        if stdin is not None:
            self._inputs[run_id] = Input(stdin[1])
            if request.stdin is not None:
                self._inputs[run_id].send(request.stdin, eof=True)
        task = asyncio.create_task(self._reap(run, child))
        self._waits.add(task)
        task.add_done_callback(self._waits.discard)
        self.started.put_nowait(run)
        self.bus.emit("run.started", peer.uid, run=run.id)
        return run

    async def _reap(self, run: Run, child: subprocess.Popen[bytes]) -> None:
        over = asyncio.get_running_loop().create_future()
        pidfd = os.pidfd_open(child.pid)
        asyncio.get_running_loop().add_reader(pidfd, lambda: over.done() or over.set_result(None))
        try:
            await over
        finally:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
        if status < 0:
            run.signal = -status
        else:
            run.exit_code = status
        run.cause = run.cause or ("signal" if status < 0 else "exited")
        run.usage, run.receipt = {"wall_ms": 1}, {"layers": []}
        run.output.finish()
        if run.id in self._inputs:
            self._inputs[run.id].close()
        run.state, run.finished = "finished", run.created
        run.done.set()
        self.bus.emit("run.finished", run.peer.uid, run=run.id)

    async def recorded(self, run: Run) -> None:
        assert run.id in self._runs

    async def wait(self, run: Run) -> None:
        await run.done.wait()

    def run(self, peer: Peer, ident: str) -> Run:
        if ident not in self._runs:
            raise NotFound(f"there is no run {ident}")
        return self._runs[ident]

    def runs(
        self, peer: Peer, *, session: str | None = None, state: str | None = None, limit: int | None = None
    ) -> list[Run]:
        found = [r for r in reversed(self._runs.values()) if session in (None, r.session) and state in (None, r.state)]
        return found[:limit]

    async def end(self, peer: Peer, ident: str, cause: str = "cancelled") -> None:
        self.abandon(self.run(peer, ident), cause)

    def abandon(self, run: Run, cause: str = "cancelled") -> None:
        if run.state != "finished":
            run.cause = cause
            self.ended.put_nowait((run.id, cause))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._children[run.id].pid, signal.SIGKILL)

    def signal(self, peer: Peer, ident: str, signum: int, tree: bool) -> None:
        self._children[self.run(peer, ident).id].send_signal(signum)

    async def feed(self, peer: Peer, ident: str, chunk: bytes, eof: bool) -> None:
        if ident not in self._inputs:
            raise Conflict("this run has no stdin")
        await self._inputs[ident].feed(chunk, eof=eof)

    async def stop(self, peer: Peer, reason: str, code: str | None = None) -> dict[str, Any]:
        self.desk.asked.append(("stop", code))
        self.stopping.set()
        await self.go_on.wait()
        self.stopped.set()
        return {"stopped": True, "reason": reason}

    async def resume(self, peer: Peer, code: str | None = None) -> dict[str, Any]:
        self.desk.asked.append(("resume", code))
        return {"stopped": False}

    async def reload(self, peer: Peer, code: str | None = None) -> dict[str, Any]:
        if self.refuse is not None:
            raise self.refuse
        raise RuntimeError("the double's own bug: secret-detail")

    def policy(self, peer: Peer) -> dict[str, Any]:
        return {"profiles": []}

    def status(self, peer: Peer) -> dict[str, Any]:
        return {"state": "serving"}

    def doctor(self) -> dict[str, Any]:
        return {"proofs": []}

    def self_view(self, peer: Peer) -> dict[str, Any]:
        return {"uid": peer.uid, "pid": peer.pid, "unit": peer.unit, "inside": peer.inside}

    def subscribe(self, peer: Peer, after: int | None = None) -> Subscription:
        return self.bus.subscribe(peer.uid, after)

    async def close(self) -> None:
        """Nothing of the test stays: children, pipes, spool."""
        for ident in self._runs:
            if self._runs[ident].state != "finished":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._children[ident].pid, signal.SIGKILL)
        await asyncio.gather(*self._waits)
        for run in self._runs.values():
            run.output.forget()
