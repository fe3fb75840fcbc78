"""What a command looks like it does: whether that is blocked, asked about, or only noted. Pure.

It classifies and is no boundary: it may be wrong in either direction, and nothing escapes by that, because the kernel
confines whatever runs. So a script that cannot be parsed is not refused for it (lesson of every filter that was).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from supervisor import errors
from supervisor.decide import paths
from supervisor.decide.command import HOME
from supervisor.decide.context import Patterns
from supervisor.decide.shell.match import first
from supervisor.decide.shell.model import LIKELY
from supervisor.decide.shell.programs import is_interpreter
from supervisor.decide.trace import Reason

if TYPE_CHECKING:
    from supervisor.decide.context import Context
    from supervisor.decide.shell.match import Hit
    from supervisor.decide.shell.model import Analysis, Named, Risk
    from supervisor.decide.trace import Trace
    from supervisor.policy.snapshot import Autonomy, Snapshot

# A yes for a whole session would be a yes to anything, where nobody can say what runs (lesson 6).
_UNKNOWN = frozenset(("dynamic", "evasion", "remote_code"))
_MOST_NOTES = 32
_MOST_REASONS = 64  # beside one that says that there are more
_MORE = "more than is shown"


@dataclass(slots=True)
class Found:
    """What was found in a command: why to ask, what is only noted, and whether nobody can say what it does."""

    reasons: list[Reason] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unparsed: str = ""


def look(
    snapshot: Snapshot,
    context: Context,
    analysis: Analysis,
    where: tuple[str, str],
    *,
    supervised: bool,
    trace: Trace | None = None,
) -> Found:
    """Judge a command by policy's patterns and risks. `where` is (workspace, directory) inside the session.

    Raises Denied for what is blocked. Without `supervised` nothing is asked, and risks are noted alone.
    """
    autonomy = snapshot.autonomy
    found = Found()
    own = Patterns(autonomy.blocked_commands, "autonomy.blocked_commands", autonomy.source)
    for listed in (own, *context.blocked):
        hit = first(listed.patterns, analysis)
        if hit is not None and supervised:  # what it only most likely is, is asked about
            unsure, hit = hit, first(listed.patterns, _certain(analysis))
            if hit is None:
                found.reasons.append(_doubtful(listed, unsure))
        if hit is not None:
            if trace is not None:
                trace.step(f"{listed.rule}[{hit.index}]", listed.source, "deny", f"{hit.command!r} is {hit.pattern!r}")
            raise _blocked(listed, hit)
    if not analysis.parsed:
        found.unparsed = analysis.error or "the script cannot be parsed"
        if trace is not None:
            trace.step("autonomy.unparsed", autonomy.source, "note", found.unparsed)
    if supervised:
        asked = Patterns(autonomy.approval_patterns, "autonomy.approval_patterns", autonomy.source)
        for listed in (asked, *context.asked):
            # As a rule none matches, which is known after one look at all of them.
            several = listed.patterns if first(listed.patterns, analysis) is not None else ()
            for n, pattern in enumerate(several):
                hit = first((pattern,), analysis)
                if hit is not None:
                    found.reasons.append(_asked(listed, n, hit))
    _risks(snapshot, analysis, where, found, supervised=supervised)
    if trace is not None:
        for reason in found.reasons:
            trace.step(reason.rule, reason.source, "ask", reason.detail)
        for note in found.notes:
            trace.step("autonomy.approval_risks", autonomy.source, "note", note)
    return found


def _certain(analysis: Analysis) -> Analysis:
    """Without the commands that it only most likely runs."""
    return replace(analysis, commands=tuple(c for c in analysis.commands if c.via != LIKELY))


def sensitive(autonomy: Autonomy, analysis: Analysis, where: tuple[str, str]) -> bool:
    """Whether a command reaches for secrets, or names what is in a forbidden directory: what alerts count (R100)."""
    if any(risk.kind == "secrets" for risk in analysis.risks):
        return True
    verdicts = (
        paths.classify(named.path, workspace=where[0], cwd=where[1], home=HOME, autonomy=autonomy)
        for named in analysis.paths
    )
    return any(verdict is not None and verdict.reason == paths.FORBIDDEN_DIRECTORY for verdict in verdicts)


def _blocked(listed: Patterns, hit: Hit) -> errors.Denied:
    return errors.Denied(
        f"{hit.command!r} is blocked: policy blocks {hit.pattern!r}",
        field="command",
        rule=f"{listed.rule}[{hit.index}]",
        source=listed.source,
        layer="decision",
        allowed="commands that no pattern of that list names",
        hint="do it another way, or have the operator take the pattern out of the list",
        pattern=hit.pattern,
        command=hit.command,
        start=hit.start,
        end=hit.end,
    )


def _doubtful(listed: Patterns, hit: Hit) -> Reason:
    rule, detail = f"{listed.rule}[{hit.index}]", f"most likely this is {hit.command!r}, which policy blocks"
    return Reason(rule, listed.source, detail, f"pattern {hit.pattern}", hit.start, hit.end, blanket=False)


def _asked(listed: Patterns, index: int, hit: Hit) -> Reason:
    programs = hit.command.split(" ", 1)[0], hit.pattern.split(" ", 1)[0]
    return Reason(
        f"{listed.rule}[{index}]",
        listed.source,
        f"{hit.command!r} is {hit.pattern!r}",
        f"pattern {hit.pattern}",
        hit.start,
        hit.end,
        blanket=not any(is_interpreter(p) for p in programs) and not set("*?[") & set(programs[1]),
    )


def _risks(snapshot: Snapshot, analysis: Analysis, where: tuple[str, str], found: Found, *, supervised: bool) -> None:
    wanted = snapshot.autonomy.approval_risks if supervised else ()
    seen: set[str] = set()
    for risk in analysis.risks:
        _risk(snapshot, risk.kind, risk.detail, risk, found, seen, asked=risk.kind in wanted)
    for named in analysis.paths:
        verdict = paths.classify(named.path, workspace=where[0], cwd=where[1], home=HOME, autonomy=snapshot.autonomy)
        if verdict is not None:
            detail = f"{named.path[:128]!r}: {verdict.reason}"
            _risk(snapshot, "outside", detail, named, found, seen, asked="outside" in wanted)


def _risk(
    snapshot: Snapshot, kind: str, detail: str, at: Risk | Named, found: Found, seen: set[str], *, asked: bool
) -> None:
    said = f"{kind}: {detail}"
    if said in seen:
        return
    seen.add(said)
    if not asked:
        if len(found.notes) < _MOST_NOTES:
            found.notes.append(said)
        return
    autonomy = snapshot.autonomy
    rule = f"autonomy.approval_risks[{autonomy.approval_risks.index(kind)}]"
    if len(found.reasons) < _MOST_REASONS:
        unknown = kind in _UNKNOWN
        found.reasons.append(Reason(rule, autonomy.source, said, f"risk {said}", at.start, at.end, blanket=not unknown))
    elif found.reasons[-1].subject != _MORE:  # what is not shown is not granted along with what is
        found.reasons.append(Reason(rule, autonomy.source, _MORE, _MORE, blanket=False))
