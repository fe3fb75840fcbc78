"""From one parsed file to typed tables, with a finding for everything that is not as the model says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from supervisor.policy.fields import close, shown
from supervisor.policy.findings import MOST, Finding, dotted, finding
from supervisor.policy.model import Policy
from supervisor.policy.reference import keys

if TYPE_CHECKING:
    from supervisor.policy.locate import Lines, Loc

IDENTITIES = ("unit", "uid", "user", "group")
# One bad entry of these leaves the others to be checked too.
TABLES = ("profiles", "roles")  # tables of tables
LISTS = ("callers", "contexts", "rules", "rates", "budgets", "tests")  # lists of tables
_NESTED = (*TABLES, *LISTS)

Places = dict[str, list[int]]


def tables(file: str, raw: dict[str, Any], lines: Lines) -> tuple[Policy, Places, list[Finding]]:
    """What of `raw` is valid, for each list in it the index in the file of each entry, and the findings about the rest.

    Findings are in the order of the model, not of the file.
    """
    found: list[Finding] = []
    bad: set[Loc] = set()
    try:
        Policy.model_validate(raw)
    except ValidationError as e:
        problems = e.errors(include_url=False, include_input=False)
        found += [_finding(file, raw, lines, p["type"], p["loc"], p.get("ctx", {}), p["msg"]) for p in problems[:MOST]]
        bad |= {p["loc"][:2] if p["loc"][0] in _NESTED else p["loc"][:1] for p in problems}
    for n, caller in enumerate(_entries(raw, "callers")):
        given = [name for name in IDENTITIES if name in caller] if isinstance(caller, dict) else ["unit"]
        if len(given) != 1:
            said = f"{' and '.join(given)} are given" if given else "nothing says who the caller is"
            at: Loc = ("callers", n)
            expected = "exactly one of " + ", ".join(IDENTITIES)
            found.append(finding(file, lines.of(at), dotted(at), said, expected=expected))
            bad.add(at)
    rest = {k: v for k, v in raw.items() if (k,) not in bad}
    places: Places = {}
    for section in TABLES:
        table = rest.get(section)
        if isinstance(table, dict):
            rest[section] = {k: v for k, v in table.items() if (section, k) not in bad}
    for section in LISTS:
        entries = _entries(rest, section)
        places[section] = [n for n in range(len(entries)) if (section, n) not in bad]
        if section in rest:
            rest[section] = [entries[n] for n in places[section]]
    try:
        return Policy.model_validate(rest), places, found
    except ValidationError:
        # Nothing that the first pass said can be left; if it were, the file is refused with what was found.
        found = found or [finding(file, 1, "", "cannot be checked")]
        return Policy(), {section: [] for section in LISTS}, found


def _entries(raw: dict[str, Any], section: str) -> list[Any]:
    value = raw.get(section)
    return value if isinstance(value, list) else []


def pattern(loc: Loc) -> str:
    """The path of reference.keys() that a place in a file belongs to."""
    parts = ["*" if n == 1 and loc[0] in _NESTED else part for n, part in enumerate(loc)]
    return ".".join(p for p in parts if isinstance(p, str))


def siblings(loc: Loc) -> list[str]:
    """The names that are known where the last part of `loc` stands."""
    parent = pattern(loc[:-1])
    if parent == "ceiling.limits":
        parent = "profiles.*.limits"  # whose keys it has
    prefix = f"{parent}." if parent else ""
    names = (key.path.removeprefix(prefix).split(".")[0] for key in keys() if key.path.startswith(prefix))
    return list(dict.fromkeys(names))


def _finding(
    file: str, raw: dict[str, Any], lines: Lines, kind: str, loc: Loc, context: dict[str, Any], message: str
) -> Finding:
    loc = tuple(part for part in loc if part != "[key]")
    expected, nearest = context.get("expected"), context.get("nearest")
    unit = next((key.unit for key in keys() if key.path == pattern(loc)), None)
    if kind == "missing":
        message, expected = "this key must be given", unit
    elif kind == "extra_forbidden":
        known = siblings(loc)
        message, expected = "there is no such key", "one of " + ", ".join(known)
        nearest = close(str(loc[-1]), known)
    elif kind.endswith("_type"):
        message = f"{shown(_value(raw, loc))} is of the wrong type"
        expected = unit or "a table"
    return finding(file, lines.of(loc), dotted(loc), message, expected=expected, nearest=nearest)


def _value(raw: Any, loc: Loc) -> Any:
    for part in loc:
        raw = raw[part]
    return raw
