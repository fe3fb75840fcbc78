"""What one entry of policy says of another must hold: names that exist, labels that can be stated. Pure.

Each function yields what is wrong with one entry as (place within it, sentence, expected, nearest).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.policy.fields import close, shown
from supervisor.policy.match import ZONES, label_matches
from supervisor.policy.words import BUILT_IN, TOOLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from supervisor.policy import confining, deciding, metering, model
    from supervisor.policy.locate import Loc

Wrong = tuple["Loc", str, str | None, str | None]
Patterns = tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Known:
    """The names that all files together declare, also those of entries that are not valid."""

    profiles: list[str]
    roles: list[str]
    identities: list[str]  # what tests call the callers by: unit, user, group, uid:N


def label_glob(pattern: str) -> str:
    """A pattern of labels as one of globs.py, where only `**` crosses "/"."""
    return re.sub(r"\*+", "**", pattern)


def caller(t: model.Caller, known: Known) -> Iterator[Wrong]:
    yield from _one_of(known.profiles, t.profiles, ("profiles",), "profile")
    yield from _one_of(known.roles, [t.role], ("role",), "role", single=True)
    yield from _one_of(known.roles, t.may_request, ("may_request",), "role")
    stated = [name for name, _ in t.labels]
    for n, label in enumerate(t.must_state):
        if label not in stated and "*" not in stated:
            said = f"it must state {label}, and may not: labels has no {label}"
            yield ("must_state", n), said, f'labels = {{ {label} = ["*"] }} or narrower', close(label, stated)


def ceiling(t: confining.Ceiling, known: Known) -> Iterator[Wrong]:
    yield from _one_of(known.roles, t.roles, ("roles",), "role")


def drop_in_caller(t: model.Caller, roles: Iterable[str], source: str) -> Iterator[Wrong]:
    """A drop-in cannot make anybody more than [ceiling] roles lets it."""
    bound = tuple(roles)
    asked: list[tuple[Loc, str]] = [
        (("role",), t.role),
        *((("may_request", n), r) for n, r in enumerate(t.may_request)),
    ]
    for at, role in asked:
        if role not in bound:
            said = f"the role {role} is more than [ceiling] in {source} lets the callers of drop-ins have"
            yield at, said, "one of " + (", ".join(bound) or "none"), None


def context(t: deciding.Context, known: Known) -> Iterator[Wrong]:
    yield from _matching(t.match, known)
    if any(name == "profile" for name, _ in t.match):
        said = "a context says which profiles there are to choose from, so it cannot depend on the one chosen"
        yield ("match", "profile"), said, "another name, or a rule in [[rules]]", None
    if t.role is not None:
        yield from _one_of(known.roles, [t.role], ("role",), "role", single=True)
    yield from _one_of(known.profiles, t.profiles or (), ("profiles",), "profile")


def rule(t: deciding.Rule, known: Known) -> Iterator[Wrong]:
    yield from _matching(t.match, known)


def budget(t: metering.Budget) -> Iterator[Wrong]:
    if t.period == "session" and "scope" in t.model_fields_set:
        yield ("scope",), "the budget of a session is that session's alone", 'period = "day", or no scope', None


def approvals(t: deciding.Approvals) -> Iterator[Wrong]:
    if t.grant > t.longest:
        yield ("grant",), "a yes would hold longer than approvals.longest lets it", "at most the time of longest", None


def test(t: deciding.Test, known: Known) -> Iterator[Wrong]:
    if t.profile is not None:
        yield from _one_of(known.profiles, [t.profile], ("profile",), "profile", single=True)
    if t.caller is not None:
        yield from _one_of(known.identities, [t.caller], ("caller",), "caller", single=True)


def _one_of(known: list[str], names: Iterable[str], at: Loc, what: str, *, single: bool = False) -> Iterator[Wrong]:
    for n, name in enumerate(names):
        if name not in known:
            expected = "one of " + ", ".join(dict.fromkeys(known)) if known else f"a {what} that is declared"
            yield (at if single else (*at, n)), f"there is no {what} {shown(name)}", expected, close(name, known)


def _matching(match: Patterns, known: Known) -> Iterator[Wrong]:
    """Patterns over what Stockade itself says of a request: one that meets nothing there is would never match."""
    there = {"tool": TOOLS, "zone": ZONES, "profile": known.profiles, "role": known.roles}
    for name, patterns in match:
        if name not in there:
            continue
        for n, pattern in enumerate(patterns):
            if not any(label_matches(value, (pattern,)) for value in there[name]):
                names = list(dict.fromkeys(there[name]))
                said = f"no {name} is {shown(pattern)}, so this never matches"
                yield ("match", name, n), said, "one of " + ", ".join(names), close(pattern, names)


def roles(declared: Iterable[str]) -> list[str]:
    """The roles that there are: those built in, and what files declare."""
    return list(dict.fromkeys((*BUILT_IN, *declared)))
