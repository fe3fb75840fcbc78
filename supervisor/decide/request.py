"""What a decision is about: who asks, and for what."""

from __future__ import annotations

from dataclasses import dataclass, field


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
    wait_approval_ms: int = 0  # how long the client waits for an answer when it is asked about; 0: not at all
    code: str | None = None  # a one-time code
