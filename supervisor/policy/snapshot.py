"""The compiled policy: what model and loader produce and what launcher and main decide by.

Plain frozen dataclasses without pydantic, so that the launcher can hold them. A snapshot is immutable; a
reload makes another one. The digest binds a request to the snapshot under which main decided it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, slots=True)
class Service:
    """Bounds of the whole service."""

    sessions: int
    runs: int
    session_idle_ms: int
    uid_base: int
    uid_count: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    profiles: tuple[Profile, ...]
    callers: tuple[Caller, ...]
    service: Service
    files: tuple[tuple[str, str], ...]  # (path, SHA-256 hex) of every file read

    def profile(self, name: str) -> Profile | None:
        return next((p for p in self.profiles if p.name == name), None)

    def digest(self) -> str:
        """SHA-256 over the canonical JSON, hex."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()


_LISTS = frozenset(("read", "write", "execute", "required", "workspaces", "profiles"))


def _fixed(raw: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if k in _LISTS else v for k, v in raw.items()}


def profile_from_json(raw: dict[str, Any]) -> Profile:
    """The profile of asdict(). Raises KeyError or TypeError when it is not one."""
    env = tuple((k, v) for k, v in raw["env"])
    return Profile(**{**_fixed(raw), "limits": Limits(**raw["limits"]), "env": env})


def from_json(data: bytes | dict[str, Any]) -> Snapshot:
    """The snapshot of to_json(). Raises KeyError or TypeError when it is not one."""
    raw: dict[str, Any] = json.loads(data) if isinstance(data, bytes) else data
    return Snapshot(
        profiles=tuple(profile_from_json(p) for p in raw["profiles"]),
        callers=tuple(Caller(**_fixed(c)) for c in raw["callers"]),
        service=Service(**raw["service"]),
        files=tuple((a, b) for a, b in raw["files"]),
    )
