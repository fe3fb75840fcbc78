"""Contexts and rules that never match, that another makes needless, or that a label is a way past."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from supervisor.policy.globs import contains, meets
from supervisor.policy.linting.said import note, warn
from supervisor.policy.match import label_matches, zone_matches
from supervisor.policy.mentions import label_glob
from supervisor.policy.narrow import AUTONOMY, NETWORKS
from supervisor.policy.words import PERMISSIONS, PRIVILEGED, SPECIAL, may_ever, permission_matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from supervisor.policy.findings import Finding
    from supervisor.policy.snapshot import Caller, Context, Rule, Snapshot

    Match = tuple[tuple[str, tuple[str, ...]], ...]

# Whose use a rule can ask about or deny. What is one's own can be seen whatever rules say.
_LOOKED_AT = {
    "ask": ("agent:execute", "agent:execute_all", *PRIVILEGED),
    "deny": tuple(p for p in PERMISSIONS if p not in ("agent:read", "logs:read")),
}
_NARROWING = ("zone", "role", "autonomy", "profiles", "network", "tools")


def contexts(snapshot: Snapshot) -> Iterator[Finding]:
    for n, context in enumerate(snapshot.contexts):
        key = "contexts"
        yield from _matches(snapshot, key, context.match, context.source)
        if all(getattr(context, f) is None for f in _NARROWING) and not (
            context.blocked_commands or context.approval_patterns
        ):
            yield warn(context.source, key, "it narrows nothing", "one of " + ", ".join(_NARROWING))
        if context.autonomy is not None and _no_less(context.autonomy, snapshot.autonomy.level):
            said = f"autonomy {context.autonomy} is no less than autonomy.level at {snapshot.autonomy.source}"
            yield warn(context.source, f"{key}.autonomy", f"{said}; a context only narrows", "a narrower one, or none")
        if context.profiles and not any(
            set(context.profiles) & set(c.profiles) for c in snapshot.callers if _can_match(c, context.match)
        ):
            said = "no caller that it can match may use any of these profiles, so all of its requests are denied"
            yield warn(context.source, f"{key}.profiles", said, "profiles of the callers that it is about")
        earlier = next((o for o in snapshot.contexts[:n] if _covers(o, context)), None)
        if earlier is not None:
            said = f"it adds nothing to the context at {earlier.source}, which matches whenever it does"
            yield warn(context.source, key, said, "one of the two")


def rules(snapshot: Snapshot) -> Iterator[Finding]:
    for n, rule in enumerate(snapshot.rules):
        key = "rules"
        yield from _matches(snapshot, key, rule.match, rule.source)
        executes = any(permission_matches(pattern, "agent:execute") for pattern in rule.permissions)
        labels = [name for name, patterns in rule.match if name not in SPECIAL and not _even_unstated(patterns)]
        if labels and not executes:
            said = (
                f"only runs and sessions carry labels, so {labels[0]} never matches for {', '.join(rule.permissions)}"
            )
            yield warn(rule.source, f"{key}.match", said, 'permissions = ["agent:execute"], or no labels')
        yield from _requirable(snapshot, rule, key, executes=executes)
        if not any(permission_matches(p, known) for p in rule.permissions for known in _LOOKED_AT[rule.effect]):
            said = f"nothing is {'denied' if rule.effect == 'deny' else 'asked about'} by {', '.join(rule.permissions)}"
            yield warn(rule.source, f"{key}.permissions", said, "one of " + ", ".join(_LOOKED_AT[rule.effect]))
        if executes and rule.effect == "deny" and not rule.match and not _requires(rule):
            said = "it denies every run: it has neither match nor require"
            yield warn(rule.source, key, said, "a match or a require")
        others = (*snapshot.rules[:n], *snapshot.rules[n + 1 :])
        wider = next((o for o in others if _makes_needless(o, rule) and (o in snapshot.rules[:n] or o != rule)), None)
        if wider is not None and not (_makes_needless(rule, wider) and wider not in snapshot.rules[:n]):
            said = f"the rule {wider.name} at {wider.source} does so whenever it would"
            yield warn(rule.source, key, said, "one of the two")


def _requirable(snapshot: Snapshot, rule: Rule, key: str, *, executes: bool) -> Iterator[Finding]:
    """What is required and cannot be stated never holds."""
    required = [*rule.labels, *((("source_ip", ("*",)),) if rule.source_ip else ())]
    for name, patterns in required:
        if not executes:
            said = f"only runs and sessions carry labels, so {name} never holds for {', '.join(rule.permissions)}"
            yield warn(rule.source, f"{key}.require", said, "time, days or audit")
        elif not any(_may_state(caller, name, patterns) for caller in snapshot.callers):
            said = f"no caller may state {name} so, and so it {'denies' if rule.effect == 'deny' else 'asks'} always"
            yield warn(rule.source, f"{key}.require", said, f"{name} in labels of a caller")


def _matches(snapshot: Snapshot, key: str, match: Match, source: str) -> Iterator[Finding]:
    for name, patterns in match:
        place = f"{key}.match.{name}"
        if name == "zone":
            yield from _zones(snapshot, place, patterns, source)
        elif name == "role":
            if not any(label_matches(r, patterns) for c in snapshot.callers for r in (c.role, *c.may_request)):
                yield warn(source, place, "it never matches: no caller has such a role", "the role of a caller")
        elif name == "caller":
            shapes = [
                f"unit:{c.unit}" if c.unit else "uid:*" if c.uid is None else f"uid:{c.uid}" for c in snapshot.callers
            ]
            if not any(_meets(p, s) for p in patterns for s in shapes):
                said = "it never matches: callers are called unit:NAME or uid:N, and none is called so"
                yield warn(source, place, said, ", ".join(shapes[:4]) or "a caller")
        elif name not in SPECIAL and not _even_unstated(patterns):
            yield from _label(snapshot, place, name, patterns, source)


def _label(snapshot: Snapshot, place: str, name: str, patterns: tuple[str, ...], source: str) -> Iterator[Finding]:
    stating = [c for c in snapshot.callers if _may_state(c, name, patterns)]
    if not stating:
        said = f"it never matches: no caller may state {name} so"
        yield warn(source, place, said, f"{name} in labels of a caller")
    elif not any(name in c.must_state for c in stating):
        said = f"leaving {name} out is a way past it for whoever chooses the labels"
        yield note(source, place, said, f'must_state = ["{name}"] for a caller that hands agents\' requests on')


def _zones(snapshot: Snapshot, place: str, patterns: tuple[str, ...], source: str) -> Iterator[Finding]:
    lowered = {c.zone for c in snapshot.contexts if c.zone is not None}
    reachable = {caller.zone for caller in snapshot.callers}
    reachable |= {min(zone, low) for zone in reachable for low in lowered}
    if not any(zone_matches(str(zone), patterns) for zone in reachable):
        shown = ", ".join(str(z) for z in sorted(reachable)) or "none"
        yield warn(source, place, "it never matches: no request is in such a zone", f"one of the zones {shown}")


def _may_state(caller: Caller, name: str, patterns: Iterable[str]) -> bool:
    granted = dict(caller.labels)
    allowed = granted.get(name, granted.get("*", ()))
    return any(_meets(a, p) for a in allowed for p in patterns)


def _can_match(caller: Caller, match: Match) -> bool:
    return all(
        name in SPECIAL or _even_unstated(patterns) or _may_state(caller, name, patterns) for name, patterns in match
    )


def _even_unstated(patterns: tuple[str, ...]) -> bool:
    """What was not stated counts as empty text."""
    return label_matches("", patterns)


@lru_cache(maxsize=4096)
def _stem(pattern: str) -> str:
    """What stands before the first wildcard. Most pairs of patterns differ there, so the automata are asked last."""
    return re.split(r"[*?]", pattern, maxsplit=1)[0]


def _meets(one: str, other: str) -> bool:
    """Whether some text is named by both."""
    a, b = _stem(one), _stem(other)
    if a == one:
        return label_matches(one, (other,))
    if b == other:
        return label_matches(other, (one,))
    if not (a.startswith(b) or b.startswith(a)):
        return False
    return meets(label_glob(one), label_glob(other))


def _contains(outer: str, inner: str) -> bool:
    """Whether every text that `inner` names is named by `outer`. False when that is not provable."""
    a, b = _stem(outer), _stem(inner)
    if b == inner:
        return label_matches(inner, (outer,))
    if a == outer or not b.startswith(a):
        return False
    return outer in ("*", inner) or contains(label_glob(outer), label_glob(inner))


def _no_less(level: str, bound: str) -> bool:
    return AUTONOMY.index(level) >= AUTONOMY.index(bound)


def _wider(outer: Match, inner: Match) -> bool:
    """Whether `outer` matches whenever `inner` does."""
    bounds = dict(inner)
    return all(
        name in bounds and all(any(_contains(o, i) for o in patterns) for i in bounds[name]) for name, patterns in outer
    )


def _covers(one: Context, other: Context) -> bool:
    """Whether `one` matches whenever `other` does, and narrows as much in every respect."""
    if not _wider(one.match, other.match):
        return False
    if other.zone is not None and (one.zone is None or one.zone > other.zone):
        return False
    if other.role not in (None, one.role):
        return False
    for name, order in (("autonomy", AUTONOMY), ("network", NETWORKS)):
        mine, its = getattr(one, name), getattr(other, name)
        if its is not None and (mine is None or order.index(mine) > order.index(its)):
            return False
    for name in ("profiles", "tools"):
        few, many = getattr(one, name), getattr(other, name)
        if many is not None and (few is None or not set(few) <= set(many)):
            return False
    return set(other.blocked_commands) <= set(one.blocked_commands) and set(other.approval_patterns) <= set(
        one.approval_patterns
    )


def _requires(rule: Rule) -> bool:
    return bool(rule.time or rule.days or rule.source_ip or rule.labels or rule.audit)


def _makes_needless(one: Rule, other: Rule) -> bool:
    """Whether whatever `other` denies or asks about, `one` does too and no more mildly."""
    if one is other or (one.effect == "ask" and other.effect == "deny"):
        return False
    same = (one.time, one.days, one.timezone, one.source_ip, one.labels, one.audit)
    if _requires(one) and same != (
        other.time, other.days, other.timezone, other.source_ip, other.labels, other.audit
    ):  # fmt: skip
        return False
    return _wider(one.match, other.match) and all(
        any(permission_matches(mine, its) for mine in one.permissions) for its in other.permissions
    )


def unused_callers(snapshot: Snapshot) -> Iterator[Finding]:
    for c in snapshot.callers:
        key = "callers"
        who = c.unit or c.name or (f"uid {c.uid}" if c.uid is not None else f"gid {c.gid}")
        if not may_ever(snapshot, c, "agent:execute"):
            if c.workspaces or c.profiles:
                said = f"{who} has the role {c.role}, which runs nothing, so workspaces and profiles are unused"
                yield warn(c.source, key, said, "no workspaces and profiles, or another role")
        elif bool(c.workspaces) != bool(c.profiles) or (c.role == "operator" and not c.profiles):
            said = f"{who} may run nothing: that takes at least one workspace pattern and one profile"
            yield warn(c.source, key, said, "both workspaces and profiles")
