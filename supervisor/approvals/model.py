"""What is asked, what is answered, what is granted, and exactly what a yes is bound to. No I/O.

Times are Unix seconds. A question and a grant are immutable; what happens to them makes another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from supervisor.audit.bounded import args_within, safe, within
from supervisor.errors import TooLarge

Kind = Literal["run", "access", "operation"]
State = Literal["pending", "approved", "denied", "expired", "cancelled"]
Scope = Literal["once", "times", "until", "session", "target"]

SCOPES: tuple[Scope, ...] = ("once", "times", "until", "session", "target")
STATES: tuple[State, ...] = ("pending", "approved", "denied", "expired", "cancelled")

MEMBER_BYTES = 64 * 1024  # of JSON that one member of what is shown may take; over it head, size and SHA-256 are kept
SHOWN_BYTES = 256 * 1024  # of JSON that all of them may take

_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8  # a character for each value of a byte


def new_id(kind: str) -> str:
    """`apr-` or `gra-` and 100 random bits in lower-case base32 (RFC 4648, section 6)."""
    return f"{kind}-{os.urandom(20).translate(_BASE32).decode()}"


def canonical(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, ASCII (a lone surrogate is an escape and stays itself)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_of(kind: Kind, value: dict[str, Any]) -> str:
    """SHA-256 over a kind and what is asked of it, hex; two kinds never share one."""
    return hashlib.sha256(canonical([kind, value])).hexdigest()


@dataclass(frozen=True, slots=True)
class Target:
    """Exactly what is approved of one run. Whatever of it changes makes another target, which no grant matches."""

    uid: int
    unit: str
    tool: str
    argv: tuple[str, ...] | None
    script: str | None
    cwd: str  # absolute, as it will be entered
    env_names: tuple[str, ...]
    stdin: str  # "" is none, "stream" is bytes that follow, else the SHA-256 of what is fed
    workspace: str
    profile: str
    readonly: bool
    network: str  # "" is the profile's own
    files: tuple[tuple[str, str], ...]  # (path, SHA-256) of every script that is named
    policy_digest: str
    env: str = ""  # SHA-256 of the variables with what they are set to; nobody is shown it
    labels: tuple[
        tuple[str, str], ...
    ] = ()  # on whose behalf, as the caller says: a yes to one user is none to another
    reasons: tuple[tuple[str, str], ...] = ()  # (rule, subject): a yes to one reason is none to another

    def digest(self) -> str:
        """SHA-256, hex. The order of environment names and of files does not count."""
        whole = (
            self._plain()
        )  # not asdict(): it copies in depth, and this is on the way of every run that is asked about
        whole["env_names"] = sorted(set(self.env_names))
        whole["files"] = sorted(set(self.files))
        return digest_of("run", whole)

    def to_json(self) -> dict[str, Any]:
        pairs = {name: [list(p) for p in getattr(self, name)] for name in ("files", "labels", "reasons")}
        return {**self._plain(), **pairs}

    def _plain(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Target:
        """The target of to_json(), also after JSON. Raises KeyError or TypeError when it is not one."""
        return cls(
            **{
                **raw,
                "argv": None if raw["argv"] is None else tuple(raw["argv"]),
                "env_names": tuple(raw["env_names"]),
                **{name: tuple((a, b) for a, b in raw[name]) for name in ("files", "labels", "reasons")},
            }
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What one person said. Terms (scope, times, duration) belong to a yes."""

    uid: int
    approve: bool
    scope: Scope
    times: int | None
    duration_ms: int | None
    note: str
    time: float

    @property
    def terms(self) -> tuple[Scope, int | None, int | None]:
        return self.scope, self.times, self.duration_ms

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Answer:
        return cls(**raw)


def pack(what: dict[str, Any], reasons: list[dict[str, Any]]) -> bytes:
    """What a person is shown, as it is kept: compressed JSON. Raises TooLarge.

    A member over MEMBER_BYTES keeps its head, its size and its SHA-256: the target is bound to the whole all the same.
    """
    shown = {name: _member(value) for name, value in what.items()}
    whole = canonical({"what": shown, "reasons": safe(reasons)})
    if len(whole) > SHOWN_BYTES:
        raise TooLarge(
            f"what somebody has to be asked about takes {len(whole)} bytes to show",
            allowed=f"{SHOWN_BYTES} bytes",
            hint="put the script into a file of the workspace, and name fewer files and variables",
        )
    return zlib.compress(whole, 1)


def _member(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)):
        return args_within(value, MEMBER_BYTES)
    return within(safe(value), MEMBER_BYTES)


@dataclass(frozen=True, slots=True)
class Question:
    id: str
    kind: Kind
    state: State
    asker: dict[str, Any]  # uid, pid, unit: as the kernel named who asks
    labels: dict[str, str]
    session: str | None  # None: the request opens one for itself alone
    target: str  # Target.digest(), or digest_of() for the other kinds
    policy_digest: str
    created: float
    expires: float
    needed: int  # different people who must say yes
    shown: bytes  # pack()
    answers: tuple[Answer, ...] = ()
    ended: float | None = None

    @property
    def who(self) -> tuple[int, str]:
        """Uid and unit of who asks."""
        return self.asker["uid"], self.asker["unit"]

    @property
    def what(self) -> dict[str, Any]:
        """Exactly what will be done, for a person to read."""
        found: dict[str, Any] = self._unpacked()["what"]
        return found

    @property
    def reasons(self) -> list[dict[str, Any]]:
        """Why it is asked: rule, source, detail, subject, start, end, blanket."""
        found: list[dict[str, Any]] = self._unpacked()["reasons"]
        return found

    def _unpacked(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(zlib.decompress(self.shown))
        return found

    @property
    def weight(self) -> int:
        """Bytes that grow with what the request says; labels are four bytes a character at most (PEP 393)."""
        return len(self.shown) + 4 * sum(len(name) + len(value) for name, value in self.labels.items())

    @property
    def yes(self) -> int:
        """How many people have said yes."""
        return sum(answer.approve for answer in self.answers)

    def to_json(self) -> dict[str, Any]:
        """Everything, with what is shown in clear."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("shown", "answers")}
        return {**plain, **self._unpacked(), "answers": [a.to_json() for a in self.answers]}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Question:
        """The question of to_json(), also after JSON. Raises KeyError or TypeError when it is not one."""
        rest = {k: v for k, v in raw.items() if k not in ("what", "reasons", "answers")}
        answers = tuple(Answer.from_json(a) for a in raw["answers"])
        return cls(**rest, shown=pack(raw["what"], raw["reasons"]), answers=answers)


@dataclass(frozen=True, slots=True)
class Grant:
    """A yes that holds: for whom, for what, how often and how long. `ended` is why it holds no more."""

    id: str
    question: str
    kind: Kind
    scope: str  # "target": exactly that; "session": these subjects in that session; "role": the role of an access
    uid: int  # of its owner, who asked
    unit: str
    target: str
    session: str | None
    subjects: tuple[str, ...]
    role: str | None
    policy_digest: str
    by: tuple[int, ...]  # the uids of those who said yes
    created: float
    until: float
    uses: int | None  # how often in all; None: as often as asked until it ends
    used: int = 0
    last_used: float | None = None
    ended: str | None = None  # used_up, expired, revoked, stale, session_ended
    ended_at: float | None = None

    @property
    def left(self) -> int | None:
        return None if self.uses is None else self.uses - self.used

    def holds(self, digest: str, now: float) -> bool:
        return (
            self.ended is None
            and now < self.until
            and (self.uses is None or self.used < self.uses)
            and self.policy_digest == digest
        )

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "left": self.left}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Grant:
        rest = {k: v for k, v in raw.items() if k != "left"}
        return cls(**{**rest, "subjects": tuple(raw["subjects"]), "by": tuple(raw["by"])})
