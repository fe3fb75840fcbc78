"""What a request's labels make of its caller: zone, autonomy, profiles, network, tools. Everything here only narrows.

A caller states labels (channel, agent, user …) as far as policy lets it; [[contexts]] say what follows. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from supervisor import errors
from supervisor.decide.callers import acting, called
from supervisor.policy.match import label_matches, zone_matches
from supervisor.policy.narrow import AUTONOMY, NETWORKS
from supervisor.policy.words import SPECIAL, role_permits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.decide.request import Peer
    from supervisor.decide.trace import Trace
    from supervisor.policy.snapshot import Caller, Snapshot

Match = tuple[tuple[str, tuple[str, ...]], ...]


class Patterns(NamedTuple):
    """Command patterns and the entry of policy that they come from."""

    patterns: tuple[str, ...]
    rule: str
    source: str


class Context(NamedTuple):
    """A caller with the labels of one request. `narrowed` names the entries that took part, for the answer."""

    index: int  # type: ignore[assignment]  # into the snapshot's callers; nobody looks for a place in a Context
    caller: Caller
    who: str  # decide.callers.called()
    labels: Mapping[str, str]
    roles: tuple[str, ...]  # given for a time, beside the caller's own
    zone: int
    autonomy: tuple[str, str, str]  # level, rule, source
    profiles: tuple[str, ...]
    network: tuple[str, str, str] | None  # the widest, rule, source
    tools: tuple[tuple[str, ...], str, str] | None
    blocked: tuple[Patterns, ...]
    asked: tuple[Patterns, ...]
    matched: tuple[int, ...] = ()  # which entries of contexts applied
    acting: tuple[str, ...] = ()  # decide.callers.acting()

    def facts(self, tool: str, profile: str = "") -> dict[str, str]:
        """What `match` of a context or rule can look at."""
        return {
            **self.labels,
            "caller": self.who,
            "role": " ".join(self.acting),
            "tool": tool,
            "profile": profile,
            "zone": str(self.zone),
        }


def matches(match: Match, facts: Mapping[str, str]) -> bool:
    """Whether every name has a value that one of its patterns matches. What was not stated counts as empty text.

    Of several roles (their names have no spaces) one is enough: what is said of any of them holds.
    """
    for name, patterns in match:
        value = facts.get(name, "")
        if name == "role":
            if not any(label_matches(role, patterns) for role in value.split(" ")):
                return False
        elif not (zone_matches if name == "zone" else label_matches)(value, patterns):
            return False
    return True


def _may_state(granted: Mapping[str, tuple[str, ...]], name: str, value: str) -> bool:
    patterns = granted.get(name) or granted.get("*", ())
    return name not in SPECIAL and label_matches(value, patterns)


def credible(caller: Caller, labels: Mapping[str, str]) -> dict[str, str]:
    """Those of the labels that this caller may state: what the others say of a refused request counts for nothing."""
    granted = dict(caller.labels)
    return {name: value for name, value in labels.items() if _may_state(granted, name, value)}


def check_stated(caller: Caller, labels: Mapping[str, str]) -> None:
    """Raises Denied for a label that the caller may not state, or does not and must."""
    if labels:
        granted = dict(caller.labels)
        for name, value in labels.items():
            if not _may_state(granted, name, value):
                patterns = granted.get(name) or granted.get("*", ())
                raise errors.Denied(
                    f"this caller may not state the label {name} = {value[:64]!r}",
                    field=f"labels.{name}",
                    rule="callers.labels",
                    source=caller.source,
                    allowed=f"{name}: {', '.join(patterns)}" if patterns and name not in SPECIAL else _listed(caller),
                    hint="leave it out, or have the operator add it to the labels of this entry",
                )
    for name in caller.must_state:
        if not labels.get(name):
            raise errors.Denied(
                f"a request of this caller has to state the label {name}",
                field=f"labels.{name}",
                rule="callers.must_state",
                source=caller.source,
                allowed="a request that states it",
                hint=f'send it: "labels": {{"{name}": "…"}}',
            )


def _listed(caller: Caller) -> str:
    return ", ".join(name for name, _ in caller.labels) or "no labels"


def context(
    snapshot: Snapshot,
    found: tuple[int, Caller],
    peer: Peer,
    labels: Mapping[str, str],
    tool: str,
    roles: tuple[str, ...] = (),
    trace: Trace | None = None,
) -> Context:
    """The caller with these labels. Raises Denied for labels that it may not state."""
    index, caller = found
    check_stated(caller, labels)
    who = called(peer, caller)
    level = snapshot.autonomy.level, "autonomy.level", snapshot.autonomy.source
    if AUTONOMY.index(caller.autonomy) < AUTONOMY.index(level[0]):
        level = caller.autonomy, f"callers[{index}].autonomy", caller.source
    by = acting(snapshot, caller, "agent:execute", roles)
    found_context = Context(
        index, caller, who, labels, roles, caller.zone, level, caller.profiles, None, None, (), (), acting=by
    )
    if not snapshot.contexts:
        return found_context
    return _narrowed(snapshot, found_context, tool, trace)


def _narrowed(snapshot: Snapshot, c: Context, tool: str, trace: Trace | None) -> Context:
    # Zones first, by the entries that do not ask for one: so no order of entries changes what matches.
    zone = c.zone
    facts = c.facts(tool)
    for entry in snapshot.contexts:
        if entry.zone is not None and matches(entry.match, facts) and all(name != "zone" for name, _ in entry.match):
            zone = min(zone, entry.zone)
    facts["zone"] = str(zone)
    level, profiles, network, tools = c.autonomy, c.profiles, c.network, c.tools
    blocked: list[Patterns] = []
    asked: list[Patterns] = []
    matched: list[int] = []
    for n, entry in enumerate(snapshot.contexts):
        if not matches(entry.match, facts):
            continue
        rule = f"contexts[{n}]"
        matched.append(n)
        if trace is not None:
            trace.step(rule, entry.source, "narrow", f"the labels match {_shown(entry.match)}")
        if entry.role is not None:
            _also(snapshot, entry.role, rule, entry.source)
        if entry.autonomy is not None and AUTONOMY.index(entry.autonomy) < AUTONOMY.index(level[0]):
            level = entry.autonomy, f"{rule}.autonomy", entry.source
        if entry.profiles is not None:
            profiles = tuple(name for name in entry.profiles if name in profiles)
        if entry.network is not None and (network is None or _narrower(entry.network, network[0])):
            network = entry.network, f"{rule}.network", entry.source
        if entry.tools is not None:
            left = entry.tools if tools is None else tuple(t for t in entry.tools if t in tools[0])
            tools = left, f"{rule}.tools", entry.source
        if entry.blocked_commands:
            blocked.append(Patterns(entry.blocked_commands, f"{rule}.blocked_commands", entry.source))
        if entry.approval_patterns:
            asked.append(Patterns(entry.approval_patterns, f"{rule}.approval_patterns", entry.source))
    if not matched:
        return c
    return c._replace(
        zone=zone,
        autonomy=level,
        profiles=profiles,
        network=network,
        tools=tools,
        blocked=tuple(blocked),
        asked=tuple(asked),
        matched=tuple(matched),
    )


def _also(snapshot: Snapshot, name: str, rule: str, source: str) -> None:
    """A context's role is needed beside the caller's own (R61). Only runs and sessions carry labels."""
    if not role_permits(snapshot, name, "agent:execute"):
        raise errors.Denied(
            f"the role {name}, which these labels have, does not have agent:execute",
            field="labels",
            rule=f"{rule}.role",
            source=source,
            allowed="what that role permits",
            hint="have the operator change the role of this context",
        )


def _narrower(one: str, other: str) -> bool:
    return NETWORKS.index(one) < NETWORKS.index(other)


def _shown(match: Iterable[tuple[str, tuple[str, ...]]]) -> str:
    return ", ".join(f"{name} = {'|'.join(patterns)}" for name, patterns in match) or "everything"


def merged(stated: Mapping[str, str], labels: Mapping[str, str]) -> Mapping[str, str]:
    """The labels of a run in a session: the session's, and its own beside them. Raises InvalidRequest."""
    for name, value in labels.items():
        if stated.get(name, value) != value:
            raise errors.InvalidRequest(
                f"the session was opened with {name} = {stated[name][:64]!r}",
                field=f"labels.{name}",
                allowed=stated[name],
                hint="leave the label out, or open a session with the other value",
            )
    return {**stated, **labels} if labels else stated
