"""The whole vocabulary between main, launcher and auditor.

A message is one JSON object in one SOCK_SEQPACKET packet, at most MAX_MESSAGE bytes, with at most MAX_FDS
descriptors beside it. Each field has a check that bounds it; anything else (unknown kind, missing or extra
field, wrong type, out of range) raises WireError, which the receiving side treats as fatal: a peer that
sends it is broken or taken over.

main -> launcher    Reload OpenSession StartRun EndRun SignalRun CloseSession Stop Resume
launcher -> main    PolicyLoaded SessionOpened SessionEnded RunEnded Refused Stopped
main -> auditor     Record                        launcher -> auditor    Record
auditor -> main     Ack Nack Closed               auditor -> launcher    Go Nogo Ack Nack
main -> parser      Parse                         parser -> main         Parsed
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

MAX_MESSAGE = 192 * 1024  # bytes; under the kernel's default wmem_max, so no privilege is needed to send one
MAX_FDS = 3
MAX_ARGS = 4096
MAX_TEXT = 96 * 1024  # bytes of argv and env together
MAX_INT = 2**53  # the largest integer that every JSON reader keeps exactly


class WireError(Exception):
    """A message that this vocabulary does not contain."""


Check = Callable[[Any], bool]

# Causes a run can end with (design, promise 6). The launcher finds the first group; main may ask for the second.
FOUND_CAUSES = ("exited", "signal", "timeout", "memory", "processes", "disk", "not_started", "lost")
ASKED_CAUSES = ("cancelled", "idle_timeout", "output", "stopped", "denied")
CAUSES = FOUND_CAUSES + ASKED_CAUSES

# The limits a request may narrow, as integers: bytes, percent of one CPU, counts, milliseconds.
LIMITS = ("memory", "cpu", "processes", "files", "output", "disk", "tmp", "timeout_ms", "idle_timeout_ms")

_ID = re.compile(r"(?:ses|run)-[0-9a-z]{8,32}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def _int(low: int, high: int = MAX_INT) -> Check:
    return lambda v: type(v) is int and low <= v <= high


def _text(limit: int, *, empty: bool = True) -> Check:
    return lambda v: type(v) is str and (empty or v != "") and len(v) <= limit and "\0" not in v


def _match(pattern: re.Pattern[str]) -> Check:
    return lambda v: type(v) is str and pattern.fullmatch(v) is not None


def _one_of(*values: str) -> Check:
    return lambda v: type(v) is str and v in values


def _bool(v: Any) -> bool:
    return type(v) is bool


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) + 1


def _argv(v: Any) -> bool:
    if type(v) is not list or not 1 <= len(v) <= MAX_ARGS:
        return False
    return all(_text(MAX_TEXT)(a) for a in v) and v[0] != "" and sum(map(_size, v)) <= MAX_TEXT


def _env(v: Any) -> bool:
    if type(v) is not dict or len(v) > MAX_ARGS:
        return False
    for name, value in v.items():
        if not _text(256, empty=False)(name) or "=" in name or not _text(MAX_TEXT)(value):
            return False
    return sum(_size(n) + _size(x) for n, x in v.items()) <= MAX_TEXT


def _limits(v: Any) -> bool:
    return type(v) is dict and all(k in LIMITS and _int(1)(x) for k, x in v.items())


def _path(v: Any) -> bool:
    return _text(4095)(v) and v.startswith("/")


def _object(v: Any) -> bool:
    return type(v) is dict


def _maybe(check: Check) -> Check:
    return lambda v: v is None or check(v)


def _is(check: Check, default: Any = ...) -> Any:
    if default is ...:
        return field(metadata={"check": check})
    return field(default=default, metadata={"check": check})


@dataclass(frozen=True, slots=True)
class Message:
    KIND: ClassVar[str] = ""
    FDS: ClassVar[tuple[int, int]] = (0, 0)  # how few and how many descriptors come with it


# --- main -> launcher ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reload(Message):
    """Compile the policy files, prove every profile, then serve the new snapshot. Answer: PolicyLoaded or Refused."""

    KIND: ClassVar[str] = "reload"
    id: int = _is(_int(1))


@dataclass(frozen=True, slots=True)
class OpenSession(Message):
    """Make a session of a profile for a caller's workspace. Answer: SessionOpened or Refused.

    `caller` is the index into the snapshot's callers and `uid`/`gids` what the kernel said of the peer; the
    launcher re-checks the entry, the profile and the workspace against its own snapshot.
    """

    KIND: ClassVar[str] = "open_session"
    id: int = _is(_int(1))
    session: str = _is(_match(_ID))
    digest: str = _is(_match(_DIGEST))
    profile: str = _is(_match(_NAME))
    caller: int = _is(_int(0, 4095))
    uid: int = _is(_int(0, 2**32 - 2))
    gids: list[int] = _is(lambda v: type(v) is list and len(v) <= 65536 and all(_int(0, 2**32 - 2)(g) for g in v))
    unit: str = _is(_text(255))
    workspace: str = _is(_path)
    limits: dict[str, int] = _is(_limits)


@dataclass(frozen=True, slots=True)
class StartRun(Message):
    """Run argv in a session, once the auditor says Go for it. Descriptors: [stdin] stdout stderr. Answer: RunEnded."""

    KIND: ClassVar[str] = "start_run"
    FDS: ClassVar[tuple[int, int]] = (2, 3)
    session: str = _is(_match(_ID))
    run: str = _is(_match(_ID))
    argv: list[str] = _is(_argv)
    env: dict[str, str] = _is(_env)
    cwd: str = _is(_path)
    limits: dict[str, int] = _is(_limits)


@dataclass(frozen=True, slots=True)
class EndRun(Message):
    """Kill the whole tree of a run; its RunEnded carries this cause."""

    KIND: ClassVar[str] = "end_run"
    run: str = _is(_match(_ID))
    cause: str = _is(_one_of(*ASKED_CAUSES))


@dataclass(frozen=True, slots=True)
class SignalRun(Message):
    """Send a signal to the first process of a run, or with `tree` to every process of it."""

    KIND: ClassVar[str] = "signal_run"
    run: str = _is(_match(_ID))
    signal: int = _is(_int(1, 64))
    tree: bool = _is(_bool)


@dataclass(frozen=True, slots=True)
class CloseSession(Message):
    """End a session: its runs end as cancelled, then everything of it is removed. Answer: SessionEnded."""

    KIND: ClassVar[str] = "close_session"
    session: str = _is(_match(_ID))


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Emergency stop: every tree dies, nothing starts until Resume. Answer: Stopped."""

    KIND: ClassVar[str] = "stop"
    id: int = _is(_int(1))


@dataclass(frozen=True, slots=True)
class Resume(Message):
    """Undo Stop. Answer: Stopped with stopped=false."""

    KIND: ClassVar[str] = "resume"
    id: int = _is(_int(1))


# --- launcher -> main ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PolicyLoaded(Message):
    """The new snapshot serves. The descriptor is a sealed memfd with JSON: {snapshot, proofs, host}."""

    KIND: ClassVar[str] = "policy_loaded"
    FDS: ClassVar[tuple[int, int]] = (1, 1)
    id: int = _is(_int(1))
    digest: str = _is(_match(_DIGEST))


@dataclass(frozen=True, slots=True)
class SessionOpened(Message):
    KIND: ClassVar[str] = "session_opened"
    id: int = _is(_int(1))
    session: str = _is(_match(_ID))
    receipt: dict[str, Any] = _is(_object)


@dataclass(frozen=True, slots=True)
class SessionEnded(Message):
    """Everything of the session is gone. `cause`: closed, lost (its leader died), stopped."""

    KIND: ClassVar[str] = "session_ended"
    session: str = _is(_match(_ID))
    cause: str = _is(_one_of("closed", "lost", "stopped"))


@dataclass(frozen=True, slots=True)
class RunEnded(Message):
    """The run's cgroup is empty. `exit_code` or `signal` is that of the first process, where it had one.

    `usage`: wall_us cpu_us cpu_user_us cpu_system_us memory_peak memory_oom pids_peak pids_refused read_bytes
    written_bytes killed (processes still alive when the first one ended or the run was ended); absent keys are
    counters that this kernel does not have.
    """

    KIND: ClassVar[str] = "run_ended"
    run: str = _is(_match(_ID))
    cause: str = _is(_one_of(*CAUSES))
    exit_code: int | None = _is(_maybe(_int(0, 255)))
    signal: int | None = _is(_maybe(_int(1, 64)))
    usage: dict[str, Any] = _is(_object)
    receipt: dict[str, Any] = _is(_object)
    detail: str = _is(_text(4096), "")
    recorded: bool = _is(_bool, False)  # an outcome is on its way to the log: the auditor sends Closed when it is there


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """A request with an id that was not carried out; `code` is one of errors.tree(), `extra` its other members."""

    KIND: ClassVar[str] = "refused"
    id: int = _is(_int(1))
    code: str = _is(_match(_NAME))
    detail: str = _is(_text(8192))
    extra: dict[str, Any] = _is(_object)


@dataclass(frozen=True, slots=True)
class Stopped(Message):
    KIND: ClassVar[str] = "stopped"
    id: int = _is(_int(1))
    stopped: bool = _is(_bool)
    runs: int = _is(_int(0))  # how many runs were killed
    sessions: int = _is(_int(0))


# --- the auditor ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record(Message):
    """One event for the log. The auditor adds seq and timestamp. With id > 0 it is acknowledged when durable."""

    KIND: ClassVar[str] = "record"
    id: int = _is(_int(0))
    event: dict[str, Any] = _is(_object)


@dataclass(frozen=True, slots=True)
class Ack(Message):
    KIND: ClassVar[str] = "ack"
    id: int = _is(_int(1))
    seq: int = _is(_int(1))


@dataclass(frozen=True, slots=True)
class Nack(Message):
    """The record is not durable and is not in the log."""

    KIND: ClassVar[str] = "nack"
    id: int = _is(_int(1))
    detail: str = _is(_text(1024))


@dataclass(frozen=True, slots=True)
class Closed(Message):
    """The outcome of this run is durable; with a detail it is not, and the run stays open in the log.

    Sent to main for an outcome that the launcher does not wait for (id 0): both can go on while the disk writes.
    """

    KIND: ClassVar[str] = "closed"
    run: str = _is(_match(_ID))
    seq: int = _is(_int(0))
    detail: str = _is(_text(1024), "")


@dataclass(frozen=True, slots=True)
class Go(Message):
    """The decision to allow this run is durable. Main cannot forge it: it comes on the auditor's own socket."""

    KIND: ClassVar[str] = "go"
    run: str = _is(_match(_ID))
    fingerprint: str = _is(_match(_DIGEST))


@dataclass(frozen=True, slots=True)
class Nogo(Message):
    """The decision could not be recorded: the run must not start."""

    KIND: ClassVar[str] = "nogo"
    run: str = _is(_match(_ID))
    detail: str = _is(_text(1024))


# --- the parser ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parse(Message):
    """Say what a command looks like it does: one of argv and script. Answer: Parsed."""

    KIND: ClassVar[str] = "parse"
    id: int = _is(_int(1))
    argv: list[str] | None = _is(_maybe(_argv))
    script: str | None = _is(_maybe(_text(MAX_TEXT)))


@dataclass(frozen=True, slots=True)
class Parsed(Message):
    """`analysis` is decide.shell's, as JSON; main reads it with the bounds of that."""

    KIND: ClassVar[str] = "parsed"
    id: int = _is(_int(1))
    analysis: dict[str, Any] = _is(_object)


TO_LAUNCHER = (Reload, OpenSession, StartRun, EndRun, SignalRun, CloseSession, Stop, Resume)
FROM_LAUNCHER = (PolicyLoaded, SessionOpened, SessionEnded, RunEnded, Refused, Stopped)
TO_AUDITOR = (Record,)
AUDITOR_TO_MAIN = (Ack, Nack, Closed)
AUDITOR_TO_LAUNCHER = (Go, Nogo, Ack, Nack)
TO_PARSER = (Parse,)
FROM_PARSER = (Parsed,)


def _rows(kinds: tuple[type[Message], ...]) -> dict[str, tuple[type[Message], dict[str, Check]]]:
    return {k.KIND: (k, {f.name: f.metadata["check"] for f in fields(k)}) for k in kinds}


Vocabulary = tuple[type[Message], ...]
_GROUPS: tuple[Vocabulary, ...] = (
    TO_LAUNCHER,
    FROM_LAUNCHER,
    TO_AUDITOR,
    AUDITOR_TO_MAIN,
    AUDITOR_TO_LAUNCHER,
    TO_PARSER,
    FROM_PARSER,
)
_TABLES = {group: _rows(group) for group in _GROUPS}


def encode(message: Message) -> bytes:
    """The packet of a message. Raises WireError when it is over MAX_MESSAGE."""
    body = {f: getattr(message, f) for f in message.__dataclass_fields__ if f not in ("KIND", "FDS")}
    data = json.dumps([message.KIND, body], separators=(",", ":")).encode("ascii")
    if len(data) > MAX_MESSAGE:
        raise WireError(f"{message.KIND}: {len(data)} bytes, at most {MAX_MESSAGE}")
    return data


def decode(data: bytes, permitted: Vocabulary, fds: int = 0) -> Any:
    """The message in a packet, if it is one of `permitted` and every field passes its check.

    Raises WireError on anything else. `fds` is how many descriptors came with it.
    """
    if len(data) > MAX_MESSAGE:
        raise WireError("oversized packet")
    try:
        kind, body = json.loads(str(data, "ascii"))  # json.loads alone would guess UTF-16 and UTF-32 as well
        cls, checks = _TABLES[permitted][kind]
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise WireError(f"no such message here: {type(e).__name__}") from e
    if type(body) is not dict or body.keys() != checks.keys():
        raise WireError(f"{kind}: wrong fields")
    for name, check in checks.items():
        if not check(body[name]):
            raise WireError(f"{kind}.{name}: out of bounds")
    if not cls.FDS[0] <= fds <= cls.FDS[1]:
        raise WireError(f"{kind}: {fds} descriptors")
    return cls(**body)


def fingerprint(run: StartRun) -> str:
    """What the audit record of a decision is bound to: the exact thing that will be executed (SHA-256, hex)."""
    what = [run.session, run.run, run.argv, sorted(run.env.items()), run.cwd, sorted(run.limits.items())]
    return hashlib.sha256(json.dumps(what, separators=(",", ":")).encode("ascii")).hexdigest()


def describe(message: Message) -> str:
    """One line for logs; values that may be long or secret are left out."""
    named = ("run", "session", "cause", "code")
    shown = {k: v for k, v in asdict(message).items() if isinstance(v, int) or k in named}
    return f"{message.KIND} {shown}"
