"""[[rules]]: what must hold when a permission is used. They only take away, so their order changes nothing. Pure."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from supervisor import errors
from supervisor.decide.context import matches
from supervisor.decide.trace import Reason
from supervisor.policy.words import grants

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.decide.trace import Trace
    from supervisor.policy.snapshot import Rule, Snapshot

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def apply(
    snapshot: Snapshot,
    permission: str,
    facts: Mapping[str, str],
    now: float,
    *,
    audit_ok: bool,
    trace: Trace | None = None,
) -> list[Reason]:
    """Why somebody has to be asked before `permission` is used. Raises Denied by the first rule that denies.

    `facts` are those of Context.facts(), `now` is Unix time in seconds.
    """
    asked: list[Reason] = []
    for n, rule in enumerate(snapshot.rules):
        if not grants(rule.permissions, permission) or not matches(rule.match, facts):
            continue
        lacking = unmet(rule, facts, now, audit_ok=audit_ok)
        key = f"rules[{n}] {rule.name}"
        if lacking is None:
            if trace is not None:
                trace.step(key, rule.source, "note", "what it requires holds")
            continue
        field, said, allowed = lacking
        if trace is not None:
            trace.step(key, rule.source, "deny" if rule.effect == "deny" else "ask", said)
        if rule.effect == "deny":
            raise errors.Denied(
                f"rule {rule.name}: {said}",
                field=field,
                rule=f"rules.{rule.name}",
                source=rule.source,
                allowed=allowed,
                hint="ask again when that holds, or have the operator change the rule",
                permission=permission,
            )
        asked.append(Reason(f"rules.{rule.name}", rule.source, said, f"rule {rule.name}"))
    return asked


def unmet(rule: Rule, facts: Mapping[str, str], now: float, *, audit_ok: bool) -> tuple[str, str, str] | None:
    """The first requirement that does not hold, as (field, sentence, what would be allowed); None when all do."""
    required = rule.time or rule.days or rule.source_ip or rule.labels or rule.audit
    if not required:
        return "request", "it concerns every such request", "nothing of the kind"
    if rule.audit and not audit_ok:
        return "audit", "the audit log is not working", "while the audit log works"
    if rule.time or rule.days:
        moment = datetime.fromtimestamp(now, UTC).astimezone(_zone(rule.timezone))
        if rule.days and moment.weekday() not in rule.days:
            days = ", ".join(_DAYS[d] for d in rule.days)
            return "time", f"it is {_DAYS[moment.weekday()]} in {rule.timezone}", days
        if rule.time and not _within(moment.hour * 60 + moment.minute, rule.time):
            spans = ", ".join(map(_span, rule.time))
            return "time", f"it is {moment:%H:%M} in {rule.timezone}", f"{spans} ({rule.timezone})"
    if rule.source_ip and not _in_networks(facts.get("source_ip", ""), rule.source_ip):
        given = facts.get("source_ip")
        said = f"source_ip {given[:64]!r} is in none of the networks" if given else "the label source_ip is missing"
        return "labels.source_ip", said, ", ".join(rule.source_ip)
    for name, patterns in rule.labels:
        if not facts.get(name) or not matches(((name, patterns),), facts):
            said = f"the label {name} is {facts[name][:64]!r}" if facts.get(name) else f"the label {name} is missing"
            return f"labels.{name}", said, f"{name}: {', '.join(patterns)}"
    return None


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _within(minute: int, spans: tuple[tuple[int, int], ...]) -> bool:
    return any(b <= minute < e if b < e else minute >= b or minute < e for b, e in spans)


def _span(span: tuple[int, int]) -> str:
    return "-".join(f"{m // 60:02d}:{m % 60:02d}" for m in span)


@lru_cache(maxsize=256)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def _in_networks(text: str, networks: tuple[str, ...]) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:10.0.0.1 is 10.0.0.1
    address = mapped if mapped is not None else address
    return any(address.version == _network(n).version and address in _network(n) for n in networks)
