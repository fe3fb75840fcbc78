"""What stands in the audit log: the record's fields, declared once, and one builder per event type.

A builder is pure and total over what an agent can influence: text that is too long is cut with a marker that
names its size and its SHA-256, text that is not Unicode is written in escapes, and numbers that JSON readers
would change become text. Environment values never enter: builders take names. `seq` and `timestamp` are added
by the auditor; `prev` and `hash` are reserved for the chain. Fields: R120, R121; events: R122.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from supervisor.audit.bounded import MAX_DEPTH, args_within, cut, list_within, plain, safe, unicode_text, within
from supervisor.wire.messages import Go, OpenSession

Event = dict[str, Any]

# What main and the launcher may send, and what only the auditor itself writes.
SENT_TYPES = ("decision", "outcome", "session", "policy", "service", "security", "approval")
EVENT_TYPES = (*SENT_TYPES, "checkpoint")
VERDICTS = ("allow", "deny", "ask", "limit")
APPROVAL_ACTIONS = (
    "asked", "answered", "refused", "expired", "withdrawn", "granted", "used", "revoked", "ended", "enrolled", "code",
)  # fmt: skip
LABELS = ("user", "agent", "channel", "device_id", "source_ip")

# Bounds in bytes of ASCII JSON. All together stay well below wire.messages.MAX_MESSAGE.
LABEL_BYTES = 512
TEXT_BYTES = 8 * 1024
PATH_BYTES = 16 * 1024
ARGS_BYTES = 8 * 1024
ENV_BYTES = 8 * 1024
RESULT_BYTES = 64 * 1024

Check = Callable[[Any], bool]


def _text(limit: int) -> Check:
    return lambda v: v is None or (type(v) is str and len(v) <= limit)


def _object(v: Any) -> bool:
    return v is None or type(v) is dict


def _rule(message: type, name: str) -> Check:
    check: Check = next(f.metadata["check"] for f in fields(message) if f.name == name)
    return lambda v: v is None or check(v)


# Every field a sender fills, in the order in which it is written; absent is null.
FIELDS: dict[str, Check] = {
    "event_type": lambda v: v in SENT_TYPES,
    "request_id": _text(LABEL_BYTES),
    "run": _rule(Go, "run"),
    "session_id": _rule(OpenSession, "session"),
    "user": _text(LABEL_BYTES),
    "agent": _text(LABEL_BYTES),
    "channel": _text(LABEL_BYTES),
    "device_id": _text(LABEL_BYTES),
    "source_ip": _text(LABEL_BYTES),
    "caller": _object,
    "tool": _text(LABEL_BYTES),
    "action": _text(LABEL_BYTES),
    "resource": _text(PATH_BYTES),
    "args": lambda v: v is None or type(v) in (str, list, dict),
    "env_names": lambda v: v is None or type(v) in (list, dict),
    "outcome": _text(LABEL_BYTES),
    "reason": _text(TEXT_BYTES),
    "authorization_policy": _text(TEXT_BYTES),
    "policy_digest": _text(64),
    "fingerprint": _rule(Go, "fingerprint"),
    "result": _object,
    "compliance_checks": lambda v: type(v) is list,
}


def decision(
    *,
    outcome: str,
    run: str | None,
    request_id: str | None,
    session_id: str | None,
    caller: Mapping[str, Any],
    tool: str,
    action: str,
    resource: str | None,
    args: Sequence[str] | str | None,
    fingerprint: str | None = None,
    reason: str | None = None,
    authorization_policy: str | None = None,
    policy_digest: str | None = None,
    labels: Mapping[str, str] | None = None,
    env_names: Iterable[str] = (),
    compliance_checks: Sequence[Any] = (),
    result: Mapping[str, Any] | None = None,
) -> Event:
    """What was decided about one request, before anything runs.

    `outcome` is one of VERDICTS. With "allow", `run` and `fingerprint` (wire.messages.fingerprint of the
    StartRun) are what the auditor's Go will name. `labels` are those of LABELS that the caller stated; `user`
    is "uid:N" when it stated none. `authorization_policy` is the rule and its FILE:LINE. `result` names the approval
    that was asked for, or the grant under which it runs. Raises ValueError when an identifier is not one.
    """
    return _event(
        "decision",
        outcome=outcome,
        run=run,
        request_id=request_id,
        session_id=session_id,
        caller=caller,
        tool=tool,
        action=action,
        resource=resource,
        args=args,
        fingerprint=fingerprint,
        reason=reason,
        authorization_policy=authorization_policy,
        policy_digest=policy_digest,
        labels=labels,
        env_names=env_names,
        compliance_checks=compliance_checks,
        result=result,
    )


def outcome(
    *,
    run: str,
    outcome: str,
    session_id: str | None = None,
    request_id: str | None = None,
    tool: str | None = None,
    reason: str | None = None,
    policy_digest: str | None = None,
    fingerprint: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> Event:
    """How a run ended: `outcome` is its cause, `result` {exit_code, signal, usage, receipt}. Raises ValueError."""
    return _event(
        "outcome",
        run=run,
        outcome=outcome,
        session_id=session_id,
        request_id=request_id,
        tool=tool,
        reason=reason,
        policy_digest=policy_digest,
        fingerprint=fingerprint,
        result=result,
    )


def session(
    *,
    session_id: str,
    action: str,
    outcome: str,
    caller: Mapping[str, Any] | None = None,
    resource: str | None = None,
    request_id: str | None = None,
    reason: str | None = None,
    policy_digest: str | None = None,
    labels: Mapping[str, str] | None = None,
    result: Mapping[str, Any] | None = None,
) -> Event:
    """A session opened, was refused or ended. Raises ValueError when `session_id` is not one."""
    return _event(
        "session",
        session_id=session_id,
        action=action,
        outcome=outcome,
        caller=caller,
        resource=resource,
        request_id=request_id,
        reason=reason,
        policy_digest=policy_digest,
        labels=labels,
        result=result,
    )


def service(*, action: str, outcome: str, reason: str | None = None, result: Mapping[str, Any] | None = None) -> Event:
    """Something about Stockade itself: start, stop, emergency stop, a log that needed repair."""
    return _event("service", action=action, outcome=outcome, reason=reason, result=result)


def security(
    *,
    action: str,
    outcome: str,
    reason: str | None = None,
    caller: Mapping[str, Any] | None = None,
    run: str | None = None,
    session_id: str | None = None,
    request_id: str | None = None,
    resource: str | None = None,
    labels: Mapping[str, str] | None = None,
    result: Mapping[str, Any] | None = None,
) -> Event:
    """Something that should not happen: a hostile message, a foreign peer, a damaged log."""
    return _event(
        "security",
        action=action,
        outcome=outcome,
        reason=reason,
        caller=caller,
        run=run,
        session_id=session_id,
        request_id=request_id,
        resource=resource,
        labels=labels,
        result=result,
    )


def policy(
    *,
    action: str,
    outcome: str,
    policy_digest: str | None,
    reason: str | None = None,
    caller: Mapping[str, Any] | None = None,
    request_id: str | None = None,
    resource: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> Event:
    """A policy was loaded or refused; `policy_digest` is of the snapshot that serves afterwards."""
    return _event(
        "policy",
        action=action,
        outcome=outcome,
        policy_digest=policy_digest,
        reason=reason,
        caller=caller,
        request_id=request_id,
        resource=resource,
        result=result,
    )


def approval(
    *,
    action: str,
    outcome: str,
    caller: Mapping[str, Any] | None,
    reason: str | None = None,
    session_id: str | None = None,
    request_id: str | None = None,
    tool: str | None = None,
    resource: str | None = None,
    args: Sequence[str] | str | None = None,
    policy_digest: str | None = None,
    labels: Mapping[str, str] | None = None,
    result: Mapping[str, Any] | None = None,
) -> Event:
    """Somebody was asked, answered, or used or lost what was granted; `action` is one of APPROVAL_ACTIONS.

    `caller` is who asked and whom the grant is for; who answered or revoked stands in `result` as `by`. Only main
    sends it. Raises ValueError when the action is none of them.
    """
    return _event(
        "approval",
        action=action,
        outcome=outcome,
        caller=caller,
        reason=reason,
        session_id=session_id,
        request_id=request_id,
        tool=tool,
        resource=resource,
        args=args,
        policy_digest=policy_digest,
        labels=labels,
        result=result,
    )


def checkpoint(open_runs: Mapping[str, tuple[str | None, int]]) -> Event:
    """Which runs are open before this record, as [run, session_id, seq of the decision]; only the auditor writes it."""
    return {
        "event_type": "checkpoint",
        "action": "checkpoint",
        "outcome": "ok",
        "result": {"open": [[run, session_id, seq] for run, (session_id, seq) in open_runs.items()]},
    }


def problem(event: Mapping[str, Any]) -> str | None:
    """Why this is not an event that a peer may send, or None. Never shows a value: it may be hostile or secret."""
    if event.keys() != FIELDS.keys():
        return "wrong fields"
    for name, check in FIELDS.items():
        if not check(event[name]):
            return f"{name}: out of bounds"
    if not plain(event, MAX_DEPTH):
        return "not plain JSON"
    kind, verdict = event["event_type"], event["outcome"]
    if kind == "decision" and verdict not in VERDICTS:
        return "outcome: not a verdict"
    if kind == "decision" and verdict == "allow" and None in (event["run"], event["fingerprint"]):
        return "allow needs run and fingerprint"
    if kind == "outcome" and None in (event["run"], verdict):
        return "an outcome needs run and cause"
    if kind == "approval" and event["action"] not in APPROVAL_ACTIONS:
        return "action: not one of an approval"
    return None


def _event(event_type: str, labels: Mapping[str, str] | None = None, **given: Any) -> Event:
    caller = given.get("caller")
    result = given.get("result")
    stated = {name: cut(labels[name], LABEL_BYTES) for name in LABELS if labels and labels.get(name)}
    if "user" not in stated and caller is not None and "uid" in caller:
        stated["user"] = f"uid:{caller['uid']}"
    event: Event = {
        **dict.fromkeys(FIELDS),
        "event_type": event_type,
        **stated,
        "run": given.get("run"),
        "session_id": given.get("session_id"),
        "fingerprint": given.get("fingerprint"),
        "policy_digest": given.get("policy_digest"),
        "resource": cut(given.get("resource"), PATH_BYTES),
        "reason": cut(given.get("reason"), TEXT_BYTES),
        "authorization_policy": cut(given.get("authorization_policy"), TEXT_BYTES),
        "compliance_checks": list_within(given.get("compliance_checks", ()), TEXT_BYTES),
        **{n: cut(given.get(n), LABEL_BYTES) for n in ("request_id", "tool", "action", "outcome")},
    }
    if caller is not None:
        event["caller"] = {n: safe(caller[n]) for n in ("uid", "pid") if n in caller}
        event["caller"]["unit"] = cut(caller.get("unit"), LABEL_BYTES)
    if result is not None:
        event["result"] = within(safe(dict(result)), RESULT_BYTES)
    if given.get("args") is not None:
        event["args"] = args_within(given["args"], ARGS_BYTES)
    if names := sorted(set(given.get("env_names", ()))):
        event["env_names"] = within([unicode_text(n) for n in names], ENV_BYTES)
    if why := problem(event):
        raise ValueError(f"audit event {event_type}: {why}")
    return event
