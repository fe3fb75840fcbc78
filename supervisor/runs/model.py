"""What runs/ and api/ speak about: sessions, runs and their states. Peers and requests are decide/request.py's."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from supervisor.decide.request import Peer, RunRequest, SessionRequest

if TYPE_CHECKING:
    from supervisor.errors import StockadeError
    from supervisor.policy.snapshot import Profile
    from supervisor.runs.output import Output

__all__ = ["Peer", "Run", "RunRequest", "RunState", "Session", "SessionRequest", "SessionState"]

RunState = Literal["pending", "running", "finished"]
SessionState = Literal["opening", "live", "closing", "ended"]


@dataclass(slots=True)
class Session:
    id: str
    peer: Peer
    caller: int  # index into the snapshot's callers
    profile: str
    workspace: str
    digest: str  # of the snapshot it lives under
    one_shot: bool
    labels: dict[str, str]
    state: SessionState = "opening"
    receipt: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    used: float = field(default_factory=time.monotonic)
    live_runs: set[str] = field(default_factory=set)
    ended_cause: str | None = None
    limits: dict[str, int] = field(default_factory=dict)  # what the session narrowed of its profile's
    granted: Profile | None = None  # the profile as it was when the session was opened
    readonly: bool = False  # its workspace is mounted so
    network: str = ""  # narrower than the profile's


@dataclass(slots=True)
class Run:
    id: str
    request_id: str
    session: str
    peer: Peer
    tool: str
    profile: str
    argv: tuple[str, ...]
    script: str | None
    cwd: str
    workspace: str
    labels: dict[str, str]
    background: bool
    decision: dict[str, Any]
    limits: dict[str, int]  # effective
    output: Output
    state: RunState = "pending"
    cause: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    detail: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    receipt: dict[str, Any] = field(default_factory=dict)
    created: float = field(default_factory=time.time)
    finished: float | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: StockadeError | None = None  # why it never ran: not recorded, not started, launcher lost
