"""The whole vocabulary between main, launcher and auditor.

A message is one JSON object in one SOCK_SEQPACKET packet, at most MAX_MESSAGE bytes, with at most MAX_FDS
descriptors beside it. Each field has a check that bounds it; anything else (unknown kind, missing or extra
field, wrong type, out of range) raises WireError, which the receiving side treats as fatal: a peer that
sends it is broken or taken over.

main -> launcher    Reload OpenSession Inspect StartRun EndRun SignalRun CloseSession Stop Resume
launcher -> main    PolicyLoaded SessionOpened SessionEnded Inspected RunEnded Refused Stopped
main -> auditor     Record                        launcher -> auditor    Record
auditor -> main     Ack Nack Closed               auditor -> launcher    Go Nogo Ack Nack
main -> parser      Parse                         parser -> main         Parsed
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

from supervisor.wire import checks as c
from supervisor.wire.checks import LIMITS as LIMITS
from supervisor.wire.checks import MAX_ARGS as MAX_ARGS
from supervisor.wire.checks import MAX_HELD as MAX_HELD
from supervisor.wire.checks import MAX_INT as MAX_INT
from supervisor.wire.checks import MAX_TEXT as MAX_TEXT

MAX_MESSAGE = 192 * 1024  # bytes; under the kernel's default wmem_max, so no privilege is needed to send one
MAX_FDS = 3
dumps = json.JSONEncoder(separators=(",", ":")).encode  # made once; json.dumps() with arguments makes one each time


class WireError(Exception):
    """A message that this vocabulary does not contain."""


# Causes a run can end with (design, promise 6). The launcher finds the first group; main may ask for the second.
FOUND_CAUSES = ("exited", "signal", "timeout", "memory", "processes", "disk", "not_started", "lost")
ASKED_CAUSES = ("cancelled", "idle_timeout", "output", "stopped", "denied")
CAUSES = FOUND_CAUSES + ASKED_CAUSES


@dataclass(frozen=True, slots=True)
class Message:
    KIND: ClassVar[str] = ""
    FDS: ClassVar[tuple[int, int]] = (0, 0)  # how few and how many descriptors come with it


# --- main -> launcher ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reload(Message):
    """Compile the policy files, prove every profile, then serve the new snapshot. Answer: PolicyLoaded or Refused."""

    KIND: ClassVar[str] = "reload"
    id: int = c.checked(c.integer(1))


@dataclass(frozen=True, slots=True)
class OpenSession(Message):
    """Make a session of a profile for a caller's workspace. Answer: SessionOpened or Refused.

    `caller` is the index into the snapshot's callers and `uid`/`gids` what the kernel said of the peer; the
    launcher re-checks the entry, the profile and the workspace against its own snapshot. `readonly` and `network`
    ("" is the profile's own) only narrow, and the launcher makes a session read-only by itself where policy says so.
    """

    KIND: ClassVar[str] = "open_session"
    id: int = c.checked(c.integer(1))
    session: str = c.checked(c.match(c.ID))
    digest: str = c.checked(c.match(c.DIGEST))
    profile: str = c.checked(c.match(c.NAME))
    caller: int = c.checked(c.integer(0, 4095))
    uid: int = c.checked(c.integer(0, 2**32 - 2))
    gids: list[int] = c.checked(c.list_of(c.integer(0, 2**32 - 2), 0, 65536))
    unit: str = c.checked(c.text(255))
    workspace: str = c.checked(c.path)
    limits: dict[str, int] = c.checked(c.limits)
    readonly: bool = c.checked(c.boolean, False)
    network: str = c.checked(c.one_of("", "none", "loopback"), "")


@dataclass(frozen=True, slots=True)
class Inspect(Message):
    """Say what files of a session's workspace hold now, for a human to judge. Answer: Inspected or Refused.

    Paths are relative to the workspace, without `.` and `..`.
    """

    KIND: ClassVar[str] = "inspect"
    id: int = c.checked(c.integer(1))
    session: str = c.checked(c.match(c.ID))
    paths: list[str] = c.checked(c.list_of(c.beneath, 1, MAX_HELD))


@dataclass(frozen=True, slots=True)
class StartRun(Message):
    """Run argv in a session, once the auditor says Go for it. Descriptors: [stdin] stdout stderr. Answer: RunEnded.

    `held`: files of the workspace (relative paths, as Inspect) -> SHA-256 that they must have. The run sees copies of
    them in their places, whatever becomes of the files; if one has another content it does not run.
    """

    KIND: ClassVar[str] = "start_run"
    FDS: ClassVar[tuple[int, int]] = (2, 3)
    session: str = c.checked(c.match(c.ID))
    run: str = c.checked(c.match(c.ID))
    argv: list[str] = c.checked(c.argv)
    env: dict[str, str] = c.checked(c.environment)
    cwd: str = c.checked(c.path)
    limits: dict[str, int] = c.checked(c.limits)
    held: dict[str, str] = c.checked(c.held, dict)


@dataclass(frozen=True, slots=True)
class EndRun(Message):
    """Kill the whole tree of a run; its RunEnded carries this cause."""

    KIND: ClassVar[str] = "end_run"
    run: str = c.checked(c.match(c.ID))
    cause: str = c.checked(c.one_of(*ASKED_CAUSES))


@dataclass(frozen=True, slots=True)
class SignalRun(Message):
    """Send a signal to the first process of a run, or with `tree` to every process of it."""

    KIND: ClassVar[str] = "signal_run"
    run: str = c.checked(c.match(c.ID))
    signal: int = c.checked(c.integer(1, 64))
    tree: bool = c.checked(c.boolean)


@dataclass(frozen=True, slots=True)
class CloseSession(Message):
    """End a session: its runs end as cancelled, then everything of it is removed. Answer: SessionEnded."""

    KIND: ClassVar[str] = "close_session"
    session: str = c.checked(c.match(c.ID))


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """Emergency stop: every tree dies, nothing starts until Resume. Answer: Stopped."""

    KIND: ClassVar[str] = "stop"
    id: int = c.checked(c.integer(1))


@dataclass(frozen=True, slots=True)
class Resume(Message):
    """Undo Stop. Answer: Stopped with stopped=false."""

    KIND: ClassVar[str] = "resume"
    id: int = c.checked(c.integer(1))


# --- launcher -> main ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PolicyLoaded(Message):
    """The new snapshot serves. The descriptor is a sealed memfd with JSON: {snapshot, proofs, host}."""

    KIND: ClassVar[str] = "policy_loaded"
    FDS: ClassVar[tuple[int, int]] = (1, 1)
    id: int = c.checked(c.integer(1))
    digest: str = c.checked(c.match(c.DIGEST))


@dataclass(frozen=True, slots=True)
class SessionOpened(Message):
    KIND: ClassVar[str] = "session_opened"
    id: int = c.checked(c.integer(1))
    session: str = c.checked(c.match(c.ID))
    receipt: dict[str, Any] = c.checked(c.table)


@dataclass(frozen=True, slots=True)
class SessionEnded(Message):
    """Everything of the session is gone. `cause`: closed, lost (its leader died), stopped."""

    KIND: ClassVar[str] = "session_ended"
    session: str = c.checked(c.match(c.ID))
    cause: str = c.checked(c.one_of("closed", "lost", "stopped"))


@dataclass(frozen=True, slots=True)
class Inspected(Message):
    """One object for each path that was asked about, in that order: path, sha256, size in bytes, and head, the first
    4 KiB as text (less where that would be more than 16 KiB of JSON)."""

    KIND: ClassVar[str] = "inspected"
    id: int = c.checked(c.integer(1))
    files: list[dict[str, Any]] = c.checked(c.list_of(c.file, 1, MAX_HELD))


@dataclass(frozen=True, slots=True)
class RunEnded(Message):
    """The run's cgroup is empty. `exit_code` or `signal` is that of the first process, where it had one.

    `usage`: wall_us cpu_us cpu_user_us cpu_system_us memory_peak memory_oom pids_peak pids_refused read_bytes
    written_bytes killed (processes still alive when the first one ended or the run was ended); absent keys are
    counters that this kernel does not have.
    """

    KIND: ClassVar[str] = "run_ended"
    run: str = c.checked(c.match(c.ID))
    cause: str = c.checked(c.one_of(*CAUSES))
    exit_code: int | None = c.checked(c.maybe(c.integer(0, 255)))
    signal: int | None = c.checked(c.maybe(c.integer(1, 64)))
    usage: dict[str, Any] = c.checked(c.table)
    receipt: dict[str, Any] = c.checked(c.table)
    detail: str = c.checked(c.text(4096), "")
    recorded: bool = c.checked(
        c.boolean, False
    )  # an outcome is on its way to the log: the auditor sends Closed when it is there


@dataclass(frozen=True, slots=True)
class Refused(Message):
    """A request with an id that was not carried out; `code` is one of errors.tree(), `extra` its other members."""

    KIND: ClassVar[str] = "refused"
    id: int = c.checked(c.integer(1))
    code: str = c.checked(c.match(c.NAME))
    detail: str = c.checked(c.text(8192))
    extra: dict[str, Any] = c.checked(c.table)


@dataclass(frozen=True, slots=True)
class Stopped(Message):
    KIND: ClassVar[str] = "stopped"
    id: int = c.checked(c.integer(1))
    stopped: bool = c.checked(c.boolean)
    runs: int = c.checked(c.integer(0))  # how many runs were killed
    sessions: int = c.checked(c.integer(0))


# --- the auditor ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record(Message):
    """One event for the log. The auditor adds seq and timestamp. With id > 0 it is acknowledged when durable."""

    KIND: ClassVar[str] = "record"
    id: int = c.checked(c.integer(0))
    event: dict[str, Any] = c.checked(c.table)


@dataclass(frozen=True, slots=True)
class Ack(Message):
    KIND: ClassVar[str] = "ack"
    id: int = c.checked(c.integer(1))
    seq: int = c.checked(c.integer(1))


@dataclass(frozen=True, slots=True)
class Nack(Message):
    """The record is not durable and is not in the log."""

    KIND: ClassVar[str] = "nack"
    id: int = c.checked(c.integer(1))
    detail: str = c.checked(c.text(1024))


@dataclass(frozen=True, slots=True)
class Closed(Message):
    """The outcome of this run is durable; with a detail it is not, and the run stays open in the log.

    Sent to main for an outcome that the launcher does not wait for (id 0): both can go on while the disk writes.
    """

    KIND: ClassVar[str] = "closed"
    run: str = c.checked(c.match(c.ID))
    seq: int = c.checked(c.integer(0))
    detail: str = c.checked(c.text(1024), "")


@dataclass(frozen=True, slots=True)
class Go(Message):
    """The decision to allow this run is durable. Main cannot forge it: it comes on the auditor's own socket."""

    KIND: ClassVar[str] = "go"
    run: str = c.checked(c.match(c.ID))
    fingerprint: str = c.checked(c.match(c.DIGEST))


@dataclass(frozen=True, slots=True)
class Nogo(Message):
    """The decision could not be recorded: the run must not start."""

    KIND: ClassVar[str] = "nogo"
    run: str = c.checked(c.match(c.ID))
    detail: str = c.checked(c.text(1024))


# --- the parser ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parse(Message):
    """Say what a command looks like it does: one of argv and script, and what is fed to it. Answer: Parsed."""

    KIND: ClassVar[str] = "parse"
    id: int = c.checked(c.integer(1))
    argv: list[str] | None = c.checked(c.maybe(c.argv))
    script: str | None = c.checked(c.maybe(c.text(MAX_TEXT)))
    stdin: str | None = c.checked(c.maybe(c.text(MAX_TEXT)))


@dataclass(frozen=True, slots=True)
class Parsed(Message):
    """`analysis` is decide.shell's, as JSON; main reads it with the bounds of that."""

    KIND: ClassVar[str] = "parsed"
    id: int = c.checked(c.integer(1))
    analysis: dict[str, Any] = c.checked(c.table)


TO_LAUNCHER = (Reload, OpenSession, Inspect, StartRun, EndRun, SignalRun, CloseSession, Stop, Resume)
FROM_LAUNCHER = (PolicyLoaded, SessionOpened, SessionEnded, Inspected, RunEnded, Refused, Stopped)
TO_AUDITOR = (Record,)
AUDITOR_TO_MAIN = (Ack, Nack, Closed)
AUDITOR_TO_LAUNCHER = (Go, Nogo, Ack, Nack)
TO_PARSER = (Parse,)
FROM_PARSER = (Parsed,)


def _rows(kinds: tuple[type[Message], ...]) -> dict[str, tuple[type[Message], dict[str, c.Check]]]:
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
    data = dumps([message.KIND, body]).encode("ascii")
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
    narrowed, held = sorted(run.limits.items()), sorted(run.held.items())
    what = [run.session, run.run, run.argv, sorted(run.env.items()), run.cwd, narrowed, held]
    return hashlib.sha256(dumps(what).encode("ascii")).hexdigest()


def describe(message: Message) -> str:
    """One line for logs; values that may be long or secret are left out."""
    named = ("run", "session", "cause", "code")
    shown = {k: v for k, v in asdict(message).items() if isinstance(v, int) or k in named}
    return f"{message.KIND} {shown}"
