"""Why a request is decided as it is, with every rule that took part, and the least that would allow just this. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.decide.admission import admit_run
from supervisor.decide.callers import entry_for, find_caller
from supervisor.decide.trace import Effect, Trace
from supervisor.policy import units

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
    """What would be decided, without deciding it: {verdict, steps, commands, paths, risks, change, …}."""
    trace = Trace()
    found: Admission | None = None
    refusal: errors.StockadeError | None = None
    try:
        found = admit_run(snapshot, refused, peer, session, request, state, analysis, trace)
    except errors.StockadeError as e:
        refusal = e
        effect: Effect = "limit" if isinstance(e, errors.LimitReached) else "deny"
        trace.step(e.rule or e.code, e.source or "", effect, e.detail)
    body: dict[str, Any] = {
        "verdict": verdict(found, refusal),
        "steps": [asdict(step) for step in trace],
        "parsed": analysis.parsed,
        "commands": [_command(c) for c in analysis.commands[:_MOST]],
        "risks": [asdict(r) for r in analysis.risks[:_MOST]],
        "paths": [asdict(p) for p in analysis.paths[:_MOST]],
        "change": change(snapshot, peer, request, found, refusal),
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


def change(
    snapshot: Snapshot,
    peer: Peer,
    request: RunRequest,
    found: Admission | None,
    refusal: errors.StockadeError | None,
) -> str | None:
    """The smallest change of policy, as TOML with the place in a comment, that would allow just this; None for none.

    It is for a person to judge, not to be applied by a program: what is refused is refused for a reason.
    """
    if refusal is not None:
        return _for_refusal(snapshot, peer, request, refusal)
    if found is not None and found.reasons:
        reason = found.reasons[0]
        text = _without(snapshot, reason.rule, reason.source)
        return text or f"# {reason.source}\n# take out or change {reason.rule}\n"
    return None


def _for_refusal(
    snapshot: Snapshot, peer: Peer, request: RunRequest, refusal: errors.StockadeError
) -> str | None:
    rule, source = refusal.rule or "", refusal.source or ""
    if rule == "callers":
        return f"# {source}\n{entry_for(peer)}"
    if ".limits." in rule:
        head, _, name = rule.rpartition(".limits.")
        wire = next((w for w, row in units.LIMITS.items() if row[0] == name), "")
        asked = request.limits.get(wire)
        shown = units.show_limit(wire, asked) if asked is not None else "…"
        return f"# {source}\n[{head}.limits]\n{name} = {_value(shown)}\n"
    if rule.startswith("autonomy.") or ".blocked_commands[" in rule:
        return _without(snapshot, rule, source)
    if rule.startswith(("callers.", "callers[")):
        return _for_caller(snapshot, peer, request, rule, source)
    if rule.startswith("tools."):
        return f"# {source}\n[tools]\n{rule.removeprefix('tools.')} = " + (
            "true\n" if rule.endswith("_enabled") else f"{json.dumps([*snapshot.tools.allow_list, request.tool])}\n"
        )
    if rule.startswith(("rates[", "budgets[", "concurrency.", "breaker.", "service.", "rules.", "contexts")):
        return f"# {source}\n# change {rule}: {refusal.allowed or 'see docs/policy.md'}\n"
    return None


def _without(snapshot: Snapshot, rule: str, source: str) -> str | None:
    """A list of [autonomy] without the entry that took part."""
    name, _, index = rule.removeprefix("autonomy.").partition("[")
    if not rule.startswith("autonomy."):
        return f"# {source}\n# take out {rule}\n"
    listed = getattr(snapshot.autonomy, name, None)
    if not isinstance(listed, tuple) or not index.rstrip("]").isdigit():
        return f'# {source}\n[autonomy]\nlevel = "full"\n' if name != "unparsed" else None
    left = [entry for n, entry in enumerate(listed) if n != int(index.rstrip("]"))]
    return f"# {source}\n[autonomy]\n{name} = {json.dumps(left)}\n"


def _for_caller(snapshot: Snapshot, peer: Peer, request: RunRequest, rule: str, source: str) -> str | None:
    try:
        caller = find_caller(snapshot, peer)[1]
    except errors.StockadeError:
        return None
    key = rule.rpartition(".")[2]
    asked = {"profiles": request.profile, "workspaces": request.workspace}.get(key)
    if asked is not None:
        return f"# {source}, in this entry of [[callers]]\n{key} = {json.dumps([*getattr(caller, key), asked])}\n"
    if key == "labels":
        stated = {name: list(patterns) for name, patterns in caller.labels}
        for name, value in request.labels.items():
            stated.setdefault(name, []).append(value)
        shown = ", ".join(f"{json.dumps(n)} = {json.dumps(sorted(set(p)))}" for n, p in sorted(stated.items()))
        return f"# {source}, in this entry of [[callers]]\nlabels = {{ {shown} }}\n"
    if key == "role":
        return f'# {source}, in this entry of [[callers]]\nrole = "operator"\n'
    return None


def _value(text: str) -> str:
    return text if text.isdigit() else json.dumps(text)
