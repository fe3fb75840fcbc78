"""Runs, sessions, questions and grants as the JSON that the API answers. By hand: runs are the hot path."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.approvals.model import Answer, Grant, Question
    from supervisor.runs.model import Run, Session

HEAD_TAIL_BYTES = 64 << 10  # of each stream in an answer; what is longer is cut to its head and tail
STREAMS = ("stdout", "stderr")
_MOMENTS = frozenset(("created", "expires", "known_since", "last_used", "since", "until"))


def moment(seconds: float | None) -> str | None:
    """RFC 3339, UTC, of seconds since the epoch."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timed(members: dict[str, Any]) -> dict[str, Any]:
    """`members` with those that are a Unix time written as everywhere else in the API."""
    return {k: moment(v) if k in _MOMENTS and isinstance(v, (int, float)) else v for k, v in members.items()}


def run(found: Run, *, output: bool = True) -> dict[str, Any]:
    """A run; with `output` also the head and tail of what it wrote."""
    seen: dict[str, Any] = {
        "id": found.id,
        "session": found.session,
        "request_id": found.request_id,
        "tool": found.tool,
        "profile": found.profile,
        "workspace": found.workspace,
        "argv": list(found.argv),
        "script": found.script,
        "cwd": found.cwd,
        "labels": found.labels,
        "background": found.background,
        "state": found.state,
        "cause": found.cause,
        "exit_code": found.exit_code,
        "signal": found.signal,
        "detail": found.detail,
        "problem": None if found.error is None else found.error.as_dict(),
        "created": moment(found.created),
        "finished": moment(found.finished),
    }
    counts: dict[str, Any] = {}
    for stream in STREAMS:
        counts[f"{stream}_bytes"], counts[f"{stream}_kept"] = found.output.size(stream)
    counts["forgotten"] = found.output.forgotten
    if output and not found.output.forgotten:
        counts["truncated"] = False
        for stream in STREAMS:
            data, cut = found.output.head_tail(stream, HEAD_TAIL_BYTES)
            counts["truncated"] |= cut
            _text(seen, stream, data)
    seen["output"] = counts
    seen["decision"] = found.decision
    seen["limits"] = found.limits
    seen["usage"] = usage(found.usage)
    seen["receipt"] = found.receipt
    return seen


def usage(counters: dict[str, Any]) -> dict[str, Any]:
    """The launcher counts time in microseconds; the API speaks of milliseconds."""
    return {
        f"{k[:-3]}_ms" if k.endswith("_us") else k: v / 1000 if k.endswith("_us") else v for k, v in counters.items()
    }


def _text(seen: dict[str, Any], stream: str, data: bytes) -> None:
    try:
        seen[stream] = data.decode("utf-8")
    except UnicodeDecodeError:
        seen[f"{stream}_base64"] = base64.b64encode(data).decode("ascii")


def session(found: Session) -> dict[str, Any]:
    return {
        "id": found.id,
        "state": found.state,
        "profile": found.profile,
        "workspace": found.workspace,
        "policy_digest": found.digest,
        "one_shot": found.one_shot,
        "labels": found.labels,
        "limits": found.limits,
        "created": moment(found.created),
        "live_runs": sorted(found.live_runs),
        "ended_cause": found.ended_cause,
        "receipt": found.receipt,
    }


def question(found: Question) -> dict[str, Any]:
    """A question with everything that a person needs to answer it."""
    seen = found.to_json()
    return {
        "id": found.id,
        "kind": found.kind,
        "state": found.state,
        "asker": found.asker,
        "labels": found.labels,
        "session": found.session,
        "what": seen["what"],
        "reasons": seen["reasons"],
        "target": found.target,
        "policy_digest": found.policy_digest,
        "created": moment(found.created),
        "expires": moment(found.expires),
        "ended": moment(found.ended),
        "needed": found.needed,
        "answers": [_answer(a) for a in found.answers],
    }


def _answer(found: Answer) -> dict[str, Any]:
    seen: dict[str, Any] = {"uid": found.uid, "approve": found.approve, "note": found.note, "time": moment(found.time)}
    if found.approve:
        seen |= {"scope": found.scope, "times": found.times, "duration_ms": found.duration_ms}
    return seen


def grant(found: Grant) -> dict[str, Any]:
    """A yes that holds, or held."""
    return {
        "id": found.id,
        "question": found.question,
        "kind": found.kind,
        "scope": found.scope,
        "uid": found.uid,
        "unit": found.unit,
        "target": found.target,
        "session": found.session,
        "subjects": list(found.subjects),
        "role": found.role,
        "policy_digest": found.policy_digest,
        "by": list(found.by),
        "created": moment(found.created),
        "until": moment(found.until),
        "uses": found.uses,
        "used": found.used,
        "left": found.left,
        "last_used": moment(found.last_used),
        "ended": found.ended,
        "ended_at": moment(found.ended_at),
    }
