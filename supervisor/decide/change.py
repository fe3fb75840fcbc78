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
from supervisor.policy.narrow import exceeds
from supervisor.policy.words import SPECIAL
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


@dataclass(slots=True)
class _Step:
    """One obstacle less: the policy without it, and which key of which table that takes. None: nothing that it takes.

    `last` stops there: what lies behind something that a caller was not granted is not for it to know.
    """

    policy: Snapshot | None = None
    place: tuple[str, str] = ("", "")  # FILE:LINE, table
    keys: dict[str, str] = field(default_factory=dict)
    remark: str = ""
    last: bool = False


def change(snapshot: Snapshot, peer: Peer, request: RunRequest, decide: Callable[[Snapshot], Admission]) -> str | None:
    """TOML with each table's place in a comment; None where no change of policy would allow it, or none is needed.

    Where the text has remarks alone, a person has to weigh what to change. `decide` makes the decision under a policy.
    """
    policy: Snapshot | None = snapshot
    tables: dict[tuple[str, str], dict[str, str]] = {}
    remarks: list[str] = []
    for _ in range(_MOST):
        if policy is None:
            break
        step = _next(policy, peer, request, decide)
        if step is None:
            break
        if step.keys:
            tables.setdefault(step.place, {}).update(step.keys)
        if step.remark:
            remarks.append(step.remark)
        policy = None if step.last else step.policy
    if not tables and not remarks:
        return None
    placed = sorted(tables.items(), key=lambda found: found[0][1].startswith("["))  # keys without a table come first
    return "".join([_table(place, keys) for place, keys in placed] + remarks)


def _next(policy: Snapshot, peer: Peer, request: RunRequest, decide: Callable[[Snapshot], Admission]) -> _Step | None:
    """What stands in the way first, under this policy."""
    try:
        found = decide(policy)
    except errors.StockadeError as refusal:
        return _refused(policy, peer, request, refusal)
    if not found.reasons:
        return None
    step = _unlisted(policy, [reason.rule for reason in found.reasons])
    if step is not None:
        return step
    return _Step(remark="".join(_remark(r.source, f"take out or change {r.rule}") for r in found.reasons))


def _refused(policy: Snapshot, peer: Peer, request: RunRequest, refusal: errors.StockadeError) -> _Step | None:
    rule, source = refusal.rule or "", refusal.source or ""
    if rule == "callers":
        return _Step(remark=f"{_remark(source, '')}{entry_for(peer)}")
    if rule.startswith("profiles.") and ".limits." in rule:
        return _limit(policy, request, rule, source)
    if rule.startswith("callers."):
        return _granted(policy, peer, request, rule.removeprefix("callers."), source)
    if rule.startswith("tools."):
        return _tool(policy, request, rule.removeprefix("tools."), source)
    step = _unlisted(policy, [rule])
    if step is not None:
        return step
    if rule.startswith(_WEIGHED) or rule.endswith(".allowed_commands"):
        return _Step(remark=_remark(source, f"change {rule}: {refusal.allowed or 'see docs/policy.md'}"))
    return None


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
    return _Step(replace(policy, autonomy=autonomy), (policy.autonomy.source, "[autonomy]"), keys)


def _limit(policy: Snapshot, request: RunRequest, rule: str, source: str) -> _Step | None:
    head, _, name = rule.rpartition(".limits.")
    profile = policy.profile(head.removeprefix("profiles."))
    wire = next((w for w, row in units.LIMITS.items() if row[0] == name), "")
    asked = request.limits.get(wire)
    if profile is None or asked is None or not exceeds(wire, asked, getattr(profile.limits, wire)):
        return None  # it is the session that has less
    shown = units.show_limit(wire, asked)
    more: Any = {wire: asked}
    wider = replace(profile, limits=replace(profile.limits, **more))
    return _Step(_with(policy, profile, wider), (source, f"[{head}.limits]"), {name: _number(shown)})


def _tool(policy: Snapshot, request: RunRequest, key: str, source: str) -> _Step | None:
    value: Any = True if key.endswith("_enabled") else (*policy.tools.allow_list, request.tool)
    more: Any = {key: value}
    shown = "true" if value is True else toml(value)
    return _Step(replace(policy, tools=replace(policy.tools, **more)), (source, "[tools]"), {key: shown})


def _granted(policy: Snapshot, peer: Peer, request: RunRequest, key: str, source: str) -> _Step | None:
    """What an entry of [[callers]] lacks."""
    caller = find_caller(policy, peer)[1]
    found: dict[str, str] = {}
    if key == "profiles" and request.profile is not None and NAME.fullmatch(request.profile):
        found["profiles"] = toml((*caller.profiles, request.profile))
    elif key == "workspaces" and request.workspace is not None and not _WILD & set(request.workspace):
        found["workspaces"] = toml((*caller.workspaces, request.workspace))
    elif key == "labels" and not any(n in SPECIAL or _WILD & set(v) for n, v in request.labels.items()):
        found["labels"] = _labels(caller, request)
    elif key == "role":
        found["role"] = toml("operator")
    if not found:
        return None
    return _Step(place=(source, "# in this entry of [[callers]]"), keys=found, last=True)


def _labels(caller: Caller, request: RunRequest) -> str:
    """The patterns of the labels that it may state, and these very values."""
    stated = {name: list(patterns) for name, patterns in caller.labels}
    for name, value in request.labels.items():
        stated.setdefault(name, list(stated.get("*", ()))).append(value)
    shown = ", ".join(f"{toml(n)} = {toml(sorted(set(p)))}" for n, p in sorted(stated.items()))
    return f"{{ {shown} }}"


def _with(policy: Snapshot, old: Profile, new: Profile) -> Snapshot:
    return replace(policy, profiles=tuple(new if p is old else p for p in policy.profiles))


def _table(place: tuple[str, str], keys: dict[str, str]) -> str:
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
