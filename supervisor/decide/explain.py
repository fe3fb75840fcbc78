"""Why a request is decided as it is, with every rule that took part, and the least that would allow just this. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.decide.admission import admit_run
from supervisor.decide.change import change
from supervisor.decide.trace import Effect, Trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.decide.admission import Admission, Counters
    from supervisor.decide.request import Peer, RunRequest
    from supervisor.decide.shell.model import Analysis
    from supervisor.policy.snapshot import Snapshot
    from supervisor.runs.model import Session

_MOST = 256  # commands and paths that are shown


def explain(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    session: Session | None,
    request: RunRequest,
    state: Counters,
    analysis: Analysis,
) -> dict[str, Any]:
    """What would be decided, without deciding it: {verdict, steps, commands, paths, risks, change, …}.

    Raises InvalidRequest for what is no request at all.
    """
    trace = Trace()
    found: Admission | None = None
    refusal: errors.StockadeError | None = None
    try:
        found = admit_run(snapshot, refused, peer, session, request, state, analysis, trace)
    except errors.StockadeError as e:
        if type(e) is errors.InvalidRequest:  # nothing that a policy decides about
            raise
        refusal = e
        effect: Effect = "limit" if isinstance(e, errors.LimitReached) else "deny"
        if not trace or trace[-1].effect != "deny":  # else who refused has said so
            trace.step(e.rule or e.code, e.source or "", effect, e.detail)
    body: dict[str, Any] = {
        "verdict": verdict(found, refusal),
        "steps": [asdict(step) for step in trace],
        "parsed": analysis.parsed,
        "commands": [_command(c) for c in analysis.commands[:_MOST]],
        "risks": [asdict(r) for r in analysis.risks[:_MOST]],
        "paths": [asdict(p) for p in analysis.paths[:_MOST]],
        "change": change(
            snapshot,
            peer,
            request,
            lambda policy: admit_run(policy, refused, peer, session, request, state, analysis),
        ),
    }
    if not analysis.parsed:
        body["error"] = analysis.error
    if refusal is not None:
        body["problem"] = refusal.as_dict()
    if found is not None:
        body |= granted(found)
    return body


def verdict(found: Admission | None, refusal: errors.StockadeError | None) -> str:
    """ "allow", "ask", "deny" or "limit"."""
    if found is not None:
        return found.verdict
    return "limit" if isinstance(refusal, errors.LimitReached) else "deny"


def granted(found: Admission) -> dict[str, Any]:
    """What an admitted request has, as answers carry it."""
    return {
        "profile": found.profile.name,
        "autonomy": found.autonomy,
        "zone": found.context.zone,
        "readonly": found.readonly,
        "network": found.network or found.profile.network,
        "reasons": [asdict(r) for r in found.reasons],
        "notes": list(found.notes),
        "left": [{"rule": rule, "left": left} for rule, left in found.left],
        "waits": found.waits,
    }


def _command(command: Any) -> dict[str, Any]:
    words = [w if w is not None else "<only known at run time>" for w in command.words]
    return {"words": words, "via": command.via, "start": command.start, "end": command.end}
