"""What runs/ and api/ speak about: peers, requests, sessions, runs and their states."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from supervisor.errors import StockadeError
    from supervisor.policy.snapshot import Profile
    from supervisor.runs.output import Output

RunState = Literal["pending", "running", "finished"]
SessionState = Literal["opening", "live", "closing", "ended"]


@dataclass(frozen=True, slots=True)
class Peer:
    """The process on the other end of the socket, as the kernel names it."""

    pid: int
    uid: int
    gid: int
    gids: tuple[int, ...]
    unit: str  # systemd system unit, "" when there is none
    inside: bool  # in one of Stockade's own session cgroups


@dataclass(frozen=True, slots=True)
class SessionRequest:
    workspace: str
    profile: str | None = None
    limits: dict[str, int] = field(default_factory=dict)  # keys of wire.messages.LIMITS, only narrower
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One tool call. Exactly one of `session` and `workspace`, exactly one of `argv` and `script`."""

    tool: str = "shell"
    session: str | None = None
    workspace: str | None = None
    profile: str | None = None
    argv: tuple[str, ...] | None = None
    script: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    cwd: str | None = None  # absolute, or relative to the workspace
    stdin: bytes | None = None
    stdin_stream: bool = False  # bytes follow on POST /v1/runs/{id}/stdin
    limits: dict[str, int] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    background: bool = False
    dry_run: bool = False


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
