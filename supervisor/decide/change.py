"""The least change of policy that would allow just this request, as TOML. Pure.

It is found by making it: an obstacle is taken out of a copy of the policy, the decision made again, until nothing
stands in the way or what does is for a person to weigh. It is for a person to judge, not to be applied by a program:
what is refused is refused for a reason.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.decide.callers import entry_for, find_caller
from supervisor.policy import units
from supervisor.policy.narrow import exceeds, workspaces_within
from supervisor.policy.paths import workspace_refused
from supervisor.policy.words import SPECIAL, role_permits
from supervisor.wire.checks import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.decide.admission import Admission
    from supervisor.decide.request import Peer, RunRequest
    from supervisor.policy.snapshot import Caller, Profile, Snapshot

_MOST = 64  # obstacles, one after the other
_WILD = set("*?")  # as a pattern of policy, what holds one of these would be more than just this
_WEIGHED = (
    "rates[", "budgets[", "concurrency.", "breaker", "alerts.", "service.", "rules.", "contexts[", "autonomy.",
)  # fmt: skip

_Place = tuple[str, str]  # FILE:LINE, table


@dataclass(slots=True)
class _Step:
    """One obstacle less: the policy without it, and which keys of which tables that takes.

    Without a policy it goes no further: a person has to weigh it, or (`last`) what lies behind something that a caller
    was not granted is not for it to know. An empty step is an obstacle that no change of policy takes away.
    """

    policy: Snapshot | None = None
    tables: dict[_Place, dict[str, str]] = field(default_factory=dict)
    remark: str = ""


def change(snapshot: Snapshot, peer: Peer, request: RunRequest, decide: Callable[[Snapshot], Admission]) -> str | None:
    """TOML with each table's place in a comment; None where no change of policy would allow it, or none is needed.

    Where the text has remarks alone, a person has to weigh what to change. `decide` makes the decision under a policy.
    """
    policy: Snapshot | None = snapshot
    tables: dict[_Place, dict[str, str]] = {}
    remarks: list[str] = []
    for _ in range(_MOST):
        step = _next(policy, peer, request, decide) if policy is not None else None
        if step is None:
            break
        if not step.tables and not step.remark:
            return None  # whatever was found before would not be enough
        for place, keys in step.tables.items():
            tables.setdefault(place, {}).update(keys)
        if step.remark:
            remarks.append(step.remark)
        policy = step.policy
    if not tables and not remarks:
        return None
    placed = sorted(tables.items(), key=lambda found: found[0][1].startswith("["))  # keys without a table come first
    return "".join([_table(place, keys) for place, keys in placed] + remarks)


def _next(policy: Snapshot, peer: Peer, request: RunRequest, decide: Callable[[Snapshot], Admission]) -> _Step | None:
    """What stands in the way first, under this policy; None: nothing does."""
    try:
        found = decide(policy)
    except errors.StockadeError as refusal:
        return _refused(policy, peer, request, refusal) or _Step()
    if not found.reasons:
        return None
    step = _unlisted(policy, [reason.rule for reason in found.reasons])
    if step is not None:
        return step
    return _Step(remark="".join(_remark(r.source, f"take out or change {r.rule}") for r in found.reasons))


def _refused(policy: Snapshot, peer: Peer, request: RunRequest, refusal: errors.StockadeError) -> _Step | None:
    rule, source = refusal.rule or "", refusal.source or ""
    weigh = _Step(remark=_remark(source, f"change {rule}: {refusal.allowed or 'see docs/policy.md'}"))
    if rule == "callers":
        return _entry(policy, peer, request, source)
    if rule.startswith("profiles.") and ".limits." in rule:
        return _limit(policy, request, rule, source)
    if rule == "callers.role" and not role_permits(policy, "operator", str(refusal.extra.get("permission"))):
        return weigh
    if rule == "callers.profiles" and request.profile is None:
        return _Step(remark=_remark(source, "grant a profile: name one in profiles of this entry of [[callers]]"))
    if rule.startswith("callers."):
        return _granted(policy, peer, request, rule.removeprefix("callers."), source)
    if rule.startswith("tools."):
        return _tool(policy, request, rule.removeprefix("tools."), source)
    step = _unlisted(policy, [rule])
    if step is not None:
        return step
    return weigh if rule.startswith(_WEIGHED) or rule.endswith(".allowed_commands") else None


def _unlisted(policy: Snapshot, rules: Iterable[str]) -> _Step | None:
    """Lists of [autonomy] without the entries that took part; None when none of the rules is one of those."""
    out: dict[str, set[int]] = {}
    for rule in rules:
        name, _, index = rule.removeprefix("autonomy.").partition("[")
        if rule.startswith("autonomy.") and index[:-1].isdigit():
            out.setdefault(name, set()).add(int(index[:-1]))
    if not out:
        return None
    left: dict[str, Any] = {
        name: tuple(entry for n, entry in enumerate(getattr(policy.autonomy, name)) if n not in indexes)
        for name, indexes in out.items()
    }
    keys = {name: toml(entries) for name, entries in left.items()}
    autonomy = replace(policy.autonomy, **left)
    return _Step(replace(policy, autonomy=autonomy), {(policy.autonomy.source, "[autonomy]"): keys})


def _limit(policy: Snapshot, request: RunRequest, rule: str, source: str) -> _Step | None:
    head, _, name = rule.rpartition(".limits.")
    profile = policy.profile(head.removeprefix("profiles."))
    wire = next((w for w, row in units.LIMITS.items() if row[0] == name), "")
    asked = request.limits.get(wire)
    if profile is None or asked is None or not exceeds(wire, asked, getattr(profile.limits, wire)):
        return None  # it is the session that has less
    if asked > units.LIMITS[wire][3]:
        return None
    more: Any = {wire: asked}
    keys = {name: _number(units.show_limit(wire, asked))}
    tables = {(source, f"[{head}.limits]"): keys}
    ceiling = policy.ceiling
    if ceiling is not None and exceeds(wire, asked, getattr(ceiling.limits, wire)):
        tables[ceiling.source, "[ceiling.limits]"] = keys
    wider = replace(profile, limits=replace(profile.limits, **more))
    main = policy.files[0][0] if policy.files else ""
    drop_in = not source.startswith(f"{main}:")  # which is no wider than what it replaces, and that is not kept
    also = _remark("", f"if a file before it has {head} too, that one needs as much") if drop_in else ""
    return _Step(_with(policy, profile, wider), tables, also)


def _tool(policy: Snapshot, request: RunRequest, key: str, source: str) -> _Step | None:
    more: dict[str, Any] = {key: True}
    keys = {key: "true"}
    if key == "allow_list":
        more = {key: (*policy.tools.allow_list, request.tool)}
        keys = {key: toml(more[key])}
        if policy.tools.policy == "restrictive":  # which is the word for an empty list
            keys["policy"] = toml("whitelist")
    return _Step(replace(policy, tools=replace(policy.tools, **more)), {(source, "[tools]"): keys})


def _entry(policy: Snapshot, peer: Peer, request: RunRequest, source: str) -> _Step | None:
    """An entry of its own for who has none."""
    workspace = request.workspace or ""
    if not _grantable(workspace) or not (request.profile is None or NAME.fullmatch(request.profile)):
        return None
    entry = entry_for(peer, toml(workspace), toml(request.profile or "shell"))
    beyond = policy.ceiling is not None and workspaces_within([workspace], policy.ceiling.workspaces)
    also = _remark("", "[ceiling] workspaces has to hold this workspace too") if beyond else ""
    return _Step(remark=f"{_remark(source, '')}{entry}{also}")


def _granted(policy: Snapshot, peer: Peer, request: RunRequest, key: str, source: str) -> _Step | None:
    """What an entry of [[callers]] lacks."""
    caller = find_caller(policy, peer)[1]
    found: dict[str, str] = {}
    also: dict[_Place, dict[str, str]] = {}
    remark = ""
    if key == "profiles" and request.profile is not None and NAME.fullmatch(request.profile):
        found["profiles"] = toml((*caller.profiles, request.profile))
        remark = _remark("", "a profile that there is not has to be declared first")  # which of both it is is not said
    elif key == "workspaces" and request.workspace is not None and _grantable(request.workspace):
        found["workspaces"] = toml((*caller.workspaces, request.workspace))
        ceiling = policy.ceiling
        if ceiling is not None and workspaces_within([request.workspace], ceiling.workspaces):
            also[ceiling.source, "[ceiling]"] = {"workspaces": toml((*ceiling.workspaces, request.workspace))}
    elif key == "labels" and not any(n in SPECIAL or _WILD & set(v) for n, v in request.labels.items()):
        found["labels"] = _labels(caller, request)
    elif key == "role":
        found["role"] = toml("operator")
    if not found:
        return None
    return _Step(tables={(source, "# in this entry of [[callers]]"): found, **also}, remark=remark)


def _grantable(workspace: str) -> bool:
    """Whether policy could name just this directory as a workspace."""
    return not _WILD & set(workspace) and workspace_refused(workspace) is None


def _labels(caller: Caller, request: RunRequest) -> str:
    """The patterns of the labels that it may state, and these very values."""
    stated = {name: list(patterns) for name, patterns in caller.labels}
    for name, value in request.labels.items():
        stated.setdefault(name, list(stated.get("*", ()))).append(value)
    shown = ", ".join(f"{toml(n)} = {toml(sorted(set(p)))}" for n, p in sorted(stated.items()))
    return f"{{ {shown} }}"


def _with(policy: Snapshot, old: Profile, new: Profile) -> Snapshot:
    return replace(policy, profiles=tuple(new if p is old else p for p in policy.profiles))


def _table(place: _Place, keys: dict[str, str]) -> str:
    source, table = place
    return f"{_remark(source, '')}{table}\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())


def _remark(source: str, text: str) -> str:
    """Comments: TOML has no control characters in them."""
    lines = [f"# {line}\n" for line in (source, text) if line]
    return "".join("".join(c if c.isprintable() or c == "\n" else " " for c in line) for line in lines)


def toml(value: str | Iterable[str]) -> str:
    """A text or a list of texts as TOML 1.0 writes it. JSON's escapes are TOML's, but for pairs of surrogates."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"[{', '.join(map(toml, value))}]"


def _number(text: str) -> str:
    return text if text.isdigit() else toml(text)
