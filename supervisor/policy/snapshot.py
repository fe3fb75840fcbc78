"""The compiled policy: what model and loader produce and what launcher and main decide by.

Plain frozen dataclasses without pydantic, so that the launcher can hold them. A snapshot is immutable; a
reload makes another one. The digest binds a request to the snapshot under which main decided it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one run. Integers only: bytes, percent of one CPU, counts, milliseconds (0 = none)."""

    memory: int
    cpu: int
    processes: int
    files: int
    output: int
    disk: int
    tmp: int
    timeout_ms: int
    idle_timeout_ms: int


@dataclass(frozen=True, slots=True)
class Profile:
    """A named confinement. Paths are absolute; `$WORKSPACE` stays as written until a session is opened."""

    name: str
    read: tuple[str, ...]
    write: tuple[str, ...]
    execute: tuple[str, ...]
    network: str  # "none" or "loopback"
    limits: Limits
    required: tuple[str, ...]  # layers without which the profile is refused
    env: tuple[tuple[str, str], ...]
    shell: str  # runs "script" requests
    workspace_owner: str  # "mapped": id-mapped mount; "shared": documented mode for file systems without it
    source: str  # FILE:LINE
    autonomy: str = "full"  # the most that a run under it has: "readonly", "supervised" or "full"
    allowed_commands: tuple[str, ...] = ()  # as policy names them; empty: whatever `execute` grants
    programs: tuple[str, ...] = ()  # the files that those are on this host, with what they need in order to start
    covered: tuple[str, ...] = ()  # directories of programs, which are noexec but for `programs`


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that any profile and any caller of this policy may be granted."""

    read: tuple[str, ...]
    write: tuple[str, ...]
    execute: tuple[str, ...]
    network: str
    limits: Limits
    workspaces: tuple[str, ...]
    source: str
    roles: tuple[str, ...] = ("viewer", "operator")  # of callers in drop-ins


@dataclass(frozen=True, slots=True)
class Caller:
    """Who may use the socket, matched by exactly one of unit, uid or gid (names are resolved at load)."""

    unit: str | None
    uid: int | None
    gid: int | None
    role: str  # viewer, operator, administrator
    workspaces: tuple[str, ...]  # fnmatch patterns over real paths; `*` does not cross `/`, `**` does
    profiles: tuple[str, ...]
    any_owner: bool  # may hand in workspaces that belong to another (non-root) uid
    source: str
    autonomy: str = "full"  # the most that its requests have
    zone: int = 3  # trust zone, R66: 0 public, 1 user, 2 API, 3 agent runtime, 4 privileged
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (name or "*", patterns of the value) that it may state
    must_state: tuple[str, ...] = ()  # labels without which its requests are refused
    may_request: tuple[str, ...] = ()  # roles that it may ask for, for a time
    name: str = ""  # the user or group as policy writes it


@dataclass(frozen=True, slots=True)
class Service:
    """Bounds of the whole service."""

    sessions: int
    runs: int
    session_idle_ms: int
    uid_base: int
    uid_count: int


@dataclass(frozen=True, slots=True)
class Tools:
    """Which tools there are for anybody (R49, R50)."""

    policy: str = (
        "enabled"  # "enabled": all that are switched on; "whitelist": of these `allow_list`; "restrictive": none
    )
    allow_list: tuple[str, ...] = ()
    shell_enabled: bool = True
    file_write_enabled: bool = True  # False: every workspace is mounted read-only
    browser_enabled: bool = False
    source: str = ""


@dataclass(frozen=True, slots=True)
class Autonomy:
    """What is denied, asked about and named off limits, for everybody."""

    level: str = "supervised"
    blocked_commands: tuple[str, ...] = ()
    approval_patterns: tuple[str, ...] = ()
    approval_risks: tuple[str, ...] = ()  # of decide.shell.RISKS
    unparsed: str = "ask"  # what becomes of a script that cannot be parsed: "ask" or "readonly"
    workspace_only: bool = True
    forbidden_paths: tuple[str, ...] = ()
    granted_paths: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    permissions: tuple[str, ...]  # "agent:read"; `*` matches within one of the two halves
    requires_approval: bool = False  # for permissions of decide.roles.PRIVILEGED
    mfa_required: bool = False
    second_person: bool = False  # what it is asked about takes two people
    source: str = "built in"


@dataclass(frozen=True, slots=True)
class Context:
    """What holds for requests that carry certain labels. Every entry that matches applies, and each only narrows."""

    match: tuple[tuple[str, tuple[str, ...]], ...]  # label (or caller, role, tool, zone) -> patterns, all must match
    source: str
    zone: int | None = None
    role: str | None = None
    autonomy: str | None = None
    profiles: tuple[str, ...] | None = None  # of what the caller is granted, these only
    network: str | None = None
    tools: tuple[str, ...] | None = None
    blocked_commands: tuple[str, ...] = ()
    approval_patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A request that `permissions` and `match` concern is denied, or asked about, unless all of `require` holds."""

    name: str
    permissions: tuple[str, ...]
    match: tuple[tuple[str, tuple[str, ...]], ...]
    effect: str  # "deny" or "ask"
    source: str
    time: tuple[tuple[int, int], ...] = ()  # minutes of the day, from and to; a span may go over midnight
    days: tuple[int, ...] = ()  # 0 is Monday
    timezone: str = "UTC"
    source_ip: tuple[str, ...] = ()  # networks that the label source_ip must be in
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    audit: bool = False  # the audit log must be working


@dataclass(frozen=True, slots=True)
class Rate:
    """How many actions each caller, agent, user or channel may take; 0 is no such bound."""

    scope: str
    per_minute: int
    per_hour: int
    per_day: int
    source: str


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may be used in sum, as the kernel counts it; 0 is no such bound."""

    period: str  # "session" or "day" (of UTC)
    scope: str  # of a day: caller, agent, user or channel
    cpu_ms: int
    wall_ms: int
    written: int  # bytes
    processes: int
    source: str


@dataclass(frozen=True, slots=True)
class Breaker:
    """When an agent that fails or repeats itself is stopped for a while; 0 is never."""

    failures: int = 0  # in a row
    repeats: int = 0  # of one command within repeat_window_ms
    repeat_window_ms: int = 60_000
    open_ms: int = 300_000
    source: str = ""


@dataclass(frozen=True, slots=True)
class Alerts:
    """What of one agent somebody is told of, and what is done about it; 0 is never."""

    failed_per_hour: int = 0  # runs that failed
    sensitive_per_hour: int = 0  # requests that reach for secrets or for what is off limits
    blocked_command: bool = False  # each command that is blocked
    unusual: tuple[str, ...] = ()  # "runs", "failed", "sensitive": compared with what is usual for the agent
    unusual_period: int = 7 * 86_400_000  # ms
    unusual_threshold: int = 3  # standard deviations
    unusual_least: int = 20  # fewer in an hour are never unusual
    action: str = "tell"  # or "ask", "stop": until the hour's count is below the bound again
    actions: tuple[tuple[str, str], ...] = ()  # (what is counted, what is done in place of `action`)
    source: str = ""

    @property
    def asks(self) -> bool:
        """Whether anything of it may ask."""
        return self.action == "ask" or (bool(self.actions) and any(action == "ask" for _, action in self.actions))


@dataclass(frozen=True, slots=True)
class Concurrency:
    runs_per_agent: int = 0  # at once; 0 is no such bound
    queue: int = 0  # requests that may wait for a free place, all together; 0: refuse at once
    queue_per_agent: int = 16
    queue_time_ms: int = 60_000
    source: str = ""


@dataclass(frozen=True, slots=True)
class Approvals:
    timeout_ms: int = 600_000  # of a question: then it is denied
    pending: int = 1000  # questions at once
    grant_ms: int = 600_000  # how long an answer holds that names no time
    longest_ms: int = 86_400_000  # the longest time that an answer may name
    access_ms: int = 14_400_000  # the longest time of a role that was asked for
    source: str = ""


@dataclass(frozen=True, slots=True)
class Test:
    """A decision that policy says it makes; looked at before the policy serves."""

    tool: str
    command: str | None  # a script
    argv: tuple[str, ...] | None
    caller: str | None  # unit, user or group as an entry of callers names it; None: the first that may run anything
    profile: str | None
    workspace: str | None
    labels: tuple[tuple[str, str], ...]
    expect: str  # "allow", "ask" or "deny"
    source: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    profiles: tuple[Profile, ...]
    callers: tuple[Caller, ...]
    service: Service
    files: tuple[tuple[str, str], ...]  # (path, SHA-256 hex) of every file read
    tools: Tools = Tools()
    autonomy: Autonomy = Autonomy()
    roles: tuple[Role, ...] = ()  # declared ones; those built in are in decide.roles
    contexts: tuple[Context, ...] = ()
    rules: tuple[Rule, ...] = ()
    rates: tuple[Rate, ...] = ()
    budgets: tuple[Budget, ...] = ()
    breaker: Breaker = Breaker()
    alerts: Alerts = Alerts()
    concurrency: Concurrency = Concurrency()
    approvals: Approvals = Approvals()
    tests: tuple[Test, ...] = ()
    ceiling: Ceiling | None = None  # None: made by hand, without a file that could have one

    def profile(self, name: str) -> Profile | None:
        return next((p for p in self.profiles if p.name == name), None)

    def digest(self) -> str:
        """SHA-256 over the canonical JSON, hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were; nothing in a snapshot is a list."""
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value


def _made(cls: type[Any], raw: dict[str, Any]) -> Any:
    return cls(**{k: _tuples(v) for k, v in raw.items()})


def _limited(cls: type[Any], raw: dict[str, Any]) -> Any:
    return replace(_made(cls, {**raw, "limits": None}), limits=Limits(**raw["limits"]))


def profile_from_json(raw: dict[str, Any]) -> Profile:
    """The profile of asdict(). Raises KeyError or TypeError when it is not one."""
    found: Profile = _limited(Profile, raw)
    return found


_SINGLE: dict[str, type[Any]] = {
    "service": Service,
    "tools": Tools,
    "autonomy": Autonomy,
    "breaker": Breaker,
    "alerts": Alerts,
    "concurrency": Concurrency,
    "approvals": Approvals,
}
_SEVERAL: dict[str, type[Any]] = {
    "callers": Caller,
    "roles": Role,
    "contexts": Context,
    "rules": Rule,
    "rates": Rate,
    "budgets": Budget,
    "tests": Test,
}


def from_json(data: bytes | dict[str, Any]) -> Snapshot:
    """The snapshot of to_json(). Raises KeyError or TypeError when it is not one."""
    raw: dict[str, Any] = json.loads(data) if isinstance(data, bytes) else data
    found: dict[str, Any] = {name: _made(cls, raw[name]) for name, cls in _SINGLE.items()}
    found |= {name: tuple(_made(cls, one) for one in raw[name]) for name, cls in _SEVERAL.items()}
    found["ceiling"] = None if raw["ceiling"] is None else _limited(Ceiling, raw["ceiling"])
    return Snapshot(profiles=tuple(profile_from_json(p) for p in raw["profiles"]), files=_tuples(raw["files"]), **found)
