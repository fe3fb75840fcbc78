"""Rates, budgets and alerts of a policy, ready to be asked about, and the names under which is counted. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from supervisor.decide.windows import DAY, HOUR, MINUTE

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Snapshot

SPANS = {"per_minute": MINUTE, "per_hour": HOUR, "per_day": DAY}
SPAN_WORDS = {MINUTE: "minute", HOUR: "hour", DAY: "day"}
# What a budget bounds: its key in policy, and how many of the counter's units are one of the policy's.
RESOURCES = (("cpu", 1000), ("wall", 1000), ("written", 1), ("processes", 1))
RUNS, FAILED, SENSITIVE = "runs", "failed", "sensitive"  # what alerts count of an agent
_LETTERS = {
    "caller": "c", "agent": "a", "user": "u", "channel": "h", "tool": "t", RUNS: "n", FAILED: "f", SENSITIVE: "s",
}  # fmt: skip
_LONG = 64  # characters of a label; a longer one is counted under its beginning and its SHA-256


class Who(NamedTuple):
    """Whose request it is: the caller as the kernel named it ("uid:1000", "unit:x.service"), the rest as labels."""

    caller: str
    agent: str = ""
    user: str = ""
    channel: str = ""
    tool: str = ""


def agent_key(who: Who) -> str:
    """The agent of a caller: what the breaker, the queue and the places of concurrency know it as."""
    return f"{who.caller}/{_short(who.agent)}"


def named(plan: Plan, who: Who) -> dict[str, str]:
    """Scope -> name of the counter, for all scopes of a plan."""
    return {scope: keys(scope, who) for scope in plan.scopes}


def keys(scope: str, who: Who) -> str:
    """The name of the counter that a request counts in under a scope of policy. Missing labels count as one."""
    if scope == "caller":
        return f"c:{who.caller}"
    if scope in (RUNS, FAILED, SENSITIVE):
        return alert_key(scope, agent_key(who))
    return f"{_LETTERS[scope]}:{who.caller}/{_short(getattr(who, scope))}"


def alert_key(counts: str, agent: str) -> str:
    """The name of an alert's counter of the hour; `agent` as of agent_key()."""
    return f"{_LETTERS[counts]}:{agent}"


def _short(label: str) -> str:
    if len(label) <= _LONG:
        return label
    return f"{label[:24]}#{hashlib.sha256(label.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class RateBound:
    rule: str  # rates[0].per_minute
    source: str
    scope: str
    span: int  # milliseconds
    most: int


@dataclass(frozen=True, slots=True)
class BudgetBound:
    rule: str  # budgets[0].cpu
    source: str
    scope: str
    session: bool  # of one session, else of a day
    resource: int  # index into RESOURCES and Spent
    most: int  # in the counter's units

    @property
    def unit(self) -> int:
        return RESOURCES[self.resource][1]


@dataclass(frozen=True, slots=True)
class AlertBound:
    """Of one agent in an hour."""

    rule: str  # alerts.failed_per_hour
    source: str
    scope: str  # FAILED or SENSITIVE
    most: int
    action: str  # "tell", "ask" or "stop"


@dataclass(frozen=True, slots=True)
class UnusualBound:
    """Of one agent in an hour of the clock, by what is usual for it (usual.py)."""

    rule: str  # alerts.unusual[0]
    source: str
    scope: str  # RUNS, FAILED or SENSITIVE
    threshold: int  # standard deviations
    least: int  # fewer are never unusual
    period: int  # hours
    action: str  # "tell", "ask" or "stop"


@dataclass(frozen=True, slots=True)
class Plan:
    rates: tuple[RateBound, ...]
    budgets: tuple[BudgetBound, ...]
    alerts: tuple[AlertBound, ...]
    stops: tuple[AlertBound, ...]  # those of the alerts that stop an agent
    unusual: tuple[UnusualBound, ...]
    watched: frozenset[str]  # what alerts count of an agent
    scopes: tuple[str, ...]  # of all rates and budgets
    counted: tuple[tuple[str, int], ...]  # (scope, span) that each action counts in, once
    charged: tuple[str, ...]  # scopes of which each run is charged to the day
    in_session: bool  # whether there are budgets of sessions
    breaker: bool
    needs: int  # counters that one run may add at most
    idle: bool  # nothing to ask at all


def plan_of(snapshot: Snapshot) -> Plan:
    rates = tuple(
        RateBound(f"rates[{i}].{name}", rate.source, rate.scope, span, most)
        for i, rate in enumerate(snapshot.rates)
        for name, span in SPANS.items()
        if (most := getattr(rate, name))
    )
    budgets = tuple(
        BudgetBound(f"budgets[{i}].{name}", b.source, b.scope, b.period == "session", resource, most * unit)
        for i, b in enumerate(snapshot.budgets)
        for resource, ((name, unit), most) in enumerate(
            zip(RESOURCES, (b.cpu_ms, b.wall_ms, b.written, b.processes), strict=True)
        )
        if most
    )
    counted = tuple(dict.fromkeys((r.scope, r.span) for r in rates))
    charged = tuple(dict.fromkeys(b.scope for b in budgets if not b.session))
    in_session = any(b.session for b in budgets)
    breaker = bool(snapshot.breaker.failures or snapshot.breaker.repeats)
    a = snapshot.alerts
    actions = dict(a.actions)
    alerts = tuple(
        AlertBound(f"alerts.{scope}_per_hour", a.source, scope, most, actions.get(scope, a.action))
        for scope, most in ((FAILED, a.failed_per_hour), (SENSITIVE, a.sensitive_per_hour))
        if most
    )
    stops = tuple(bound for bound in alerts if bound.action == "stop")
    unusual = tuple(
        UnusualBound(
            f"alerts.unusual[{i}]", a.source, scope, a.unusual_threshold, a.unusual_least,
            a.unusual_period // HOUR, actions.get(scope, a.action),
        )
        for i, scope in enumerate(a.unusual)
        if scope not in a.unusual[:i]
    )  # fmt: skip
    needs = len(counted) + len(charged) + in_session + 2 * breaker + 2 * len(alerts) + len(unusual)
    return Plan(
        rates=rates,
        budgets=budgets,
        alerts=alerts,
        stops=stops,
        unusual=unusual,
        watched=frozenset((*(bound.scope for bound in alerts), *a.unusual)),
        scopes=tuple(dict.fromkeys((*(r.scope for r in rates), *charged))),
        counted=counted,
        charged=charged,
        in_session=in_session,
        breaker=breaker,
        needs=needs,
        idle=not (rates or budgets or breaker or alerts or unusual),
    )
