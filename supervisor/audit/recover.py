"""What an existing log says at the auditor's start, and the records that close what was interrupted.

Bounded work: the log is read backwards in chunks to its newest checkpoint, which lists the runs open before it,
and forward from there. Lines that are no records are counted, never trusted and never fatal.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.audit.ledger import Ledger
from supervisor.wire.messages import MAX_INT

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 256 * 1024
# The longest line the auditor can write is a checkpoint of ledger.MAX_OPEN runs, about 1 MiB.
MAX_LINE = 2 * 1024 * 1024
_HEAD = 128  # no checkpoint's type stands further from its line's start

# Only the auditor writes `seq` first on a line, so no value that a peer sends can look like this.
_CHECKPOINT = re.compile(rb'\n(?=\{"seq":\d{1,16},"timestamp":"[^"\n]{20,40}","event_type":"checkpoint",)')


@dataclass(slots=True)
class Found:
    """`seq` is the last record's, `checkpoint` the newest checkpoint's (0: none); `torn` is in bytes."""

    seq: int = 0
    checkpoint: int = 0
    ledger: Ledger = field(default_factory=Ledger)
    garbage: int = 0
    torn: int = 0


def scan(fd: int, size: int) -> Found:
    """Read a log of `size` bytes. Raises OSError."""
    found = Found()
    end = start = _newest_checkpoint(fd, size)
    for line_end, line in _lines(fd, start, size):
        end = line_end
        if line == b"":
            continue
        record = _record(line)
        if record is None:
            found.garbage += 1
            continue
        found.seq = max(found.seq, record["seq"])
        if record["event_type"] == "checkpoint":
            found.checkpoint = record["seq"]
            found.ledger.open = {run: (session, seq) for run, session, seq in record["result"]["open"]}
        else:
            found.ledger.apply(record, record["seq"])
    found.torn = size - end
    return found


def repairs(found: Found) -> list[events.Event]:
    """The records that a start owes to the log; empty when the last end was clean."""
    owed: list[events.Event] = []
    if found.torn:
        owed.append(
            events.service(
                action="audit_recovery",
                outcome="torn",
                reason=f"the last line was cut off after {found.torn} bytes; it was never acknowledged",
                result={"bytes": found.torn},
            )
        )
    if found.garbage:
        owed.append(
            events.security(
                action="audit_recovery",
                outcome="garbage",
                reason=f"{found.garbage} lines since the last checkpoint are no records",
                result={"lines": found.garbage},
            )
        )
    owed += [
        events.outcome(
            run=run,
            outcome="lost",
            session_id=session,
            reason=f"interrupted: decision {seq} had no outcome when the auditor started",
        )
        for run, (session, seq) in found.ledger.open.items()
    ]
    # So that the next start neither reads nor reports the same damage again.
    return [*owed, events.checkpoint({})] if owed else []


def _newest_checkpoint(fd: int, size: int) -> int:
    """The offset of the newest whole checkpoint's line, or 0."""
    high = size
    while high > 0:
        low = max(0, high - CHUNK)
        # A line that begins before the chunk's upper edge may have its type behind it.
        window = os.pread(fd, min(high + _HEAD, size) - low, low)
        for match in reversed(list(_CHECKPOINT.finditer(window))):
            at = low + match.end()
            _, line = next(_lines(fd, at, min(at + MAX_LINE + 1, size)), (0, None))
            if _record(line) is not None:
                return at
        high = low
    return 0


def _lines(fd: int, start: int, end: int) -> Iterator[tuple[int, bytes | None]]:
    """Every line that ends before `end`, as (offset after it, its bytes or None when over MAX_LINE)."""
    rest = b""
    skipping = False
    at = start
    while at < end and (chunk := os.pread(fd, min(CHUNK, end - at), at)):
        done = at - len(rest)
        at += len(chunk)
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            done += len(line) + 1
            yield done, None if skipping or len(line) > MAX_LINE else line
            skipping = False
        if len(rest) > MAX_LINE:
            rest = b""
            skipping = True


def _record(line: bytes | None) -> dict[str, Any] | None:
    try:
        record = json.loads(line) if line is not None else None
    except (ValueError, RecursionError):
        return None
    if type(record) is not dict or type(record.get("event_type")) is not str:
        return None
    if not _is_seq(record.get("seq")):
        return None
    kind = record["event_type"]
    if kind == "checkpoint":
        result = record.get("result")
        rows = result.get("open") if type(result) is dict else None
        return record if type(rows) is list and all(map(_is_open_run, rows)) else None
    if kind in ("decision", "outcome"):
        checked = ("run", "session_id")
        return record if all(events.FIELDS[name](record.get(name)) for name in checked) else None
    return record


def _is_seq(v: Any) -> bool:
    return type(v) is int and 1 <= v < MAX_INT


def _is_open_run(row: Any) -> bool:
    if type(row) is not list or len(row) != 3:
        return False
    run, session, seq = row
    return run is not None and events.FIELDS["run"](run) and events.FIELDS["session_id"](session) and _is_seq(seq)
