"""How much is left: rates, budgets, alerts and the breaker, asked for before anything runs (R90, R96 to R103).

`check` answers with what is left once this request has begun, or refuses with the rule that is reached and the time
at which the same request passes again. It changes nothing but forgets what is over. What is counted stands in the
Book (book.py); runs/meters.py keeps that durable. Pure: `now` is Unix time in seconds.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from supervisor.decide import breaker, usual
from supervisor.decide.book import MAX_COUNTERS, Book
from supervisor.decide.bounds import (
    FAILED,
    RESOURCES,
    RUNS,
    SENSITIVE,
    SPAN_WORDS,
    AlertBound,
    BudgetBound,
    RateBound,
    UnusualBound,
    Who,
    agent_key,
    alert_key,
    keys,
    named,
)
from supervisor.decide.trace import Reason
from supervisor.decide.windows import HOUR, NOTHING, Spent
from supervisor.errors import LimitReached, SessionSpent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.policy.snapshot import Limits, Snapshot

__all__ = [
    "MAX_COUNTERS", "Book", "Room", "Spent", "Who", "agent_key", "asked", "check", "keys", "narrowed", "usage",
]  # fmt: skip

Left = tuple[tuple[str, int], ...]  # (rule, how much): actions; ms of cpu and wall; bytes; processes
Bound = RateBound | BudgetBound | AlertBound | UnusualBound

_NAMES = {"cpu": "ms of CPU time", "wall": "ms of run time", "written": "bytes written", "processes": "processes"}
SHOWN, SCANNED = 1000, 100_000
_COUNTED = {
    RUNS: "runs",
    FAILED: "runs that failed",
    SENSITIVE: "requests that reached for what is secret or off limits",
}
_WALL = [name for name, _ in RESOURCES].index("wall")
_RETRY_ROOM = 60.0  # seconds: the shortest windows are over then


class Room(NamedTuple):
    """What a request that begins now leaves of each bound, and of the narrowest budget of run time, in ms."""

    left: Left = ()
    wall: int | None = None


_ALL = Room()


def check(snapshot: Snapshot, who: Who, session: str, book: Book, now: float) -> Room:
    """What is left of each bound. `session` is the id of the session, "" for one that is opened for this request.

    Raises LimitReached with rule, source, allowed, retry_after (seconds, exact, when nothing else begins until then)
    and left (rule -> how much); SessionSpent, a LimitReached for which only another session helps.
    """
    plan = book.plan(snapshot)
    if plan.idle:
        return _ALL
    at = int(now * 1000)
    book.roll(at)
    if plan.breaker and (state := book.breakers.get(agent_key(who))) is not None:
        breaker.admit(state, snapshot.breaker, at)
    names = named(plan, who)
    left: list[tuple[str, int]] = []
    wall: int | None = None
    worst: tuple[float, Bound] | None = None
    for rate in plan.rates:
        key, window = names[rate.scope], book.windows[rate.span]
        more = rate.most - window.used(key, at)
        if more <= 0:
            wait: float = window.wait(key, rate.most, at)
            if worst is None or wait > worst[0]:
                worst = wait, rate
        left.append((rate.rule, max(0, more - 1)))
    for budget in plan.budgets:
        more = budget.most - _spent(budget, names, session, book)
        if more <= 0:
            wait = float("inf") if budget.session else book.day.until_midnight(at)
            if worst is None or wait > worst[0]:
                worst = wait, budget
        more = max(0, more) // budget.unit
        left.append((budget.rule, more))
        if budget.resource == _WALL and (wall is None or more < wall):
            wall = more
    for alert in plan.stops:
        key, window = alert_key(alert.scope, agent_key(who)), book.windows[HOUR]
        more = alert.most - window.used(key, at)
        if more <= 0 and (worst is None or window.wait(key, alert.most, at) > worst[0]):
            worst = window.wait(key, alert.most, at), alert
        left.append((alert.rule, max(0, more)))
    for strange in plan.unusual:
        if strange.action == "stop" and book.unusual(strange, agent_key(who), at):
            left.append((strange.rule, 0))
            wait = HOUR - at % HOUR
            if worst is None or wait > worst[0]:
                worst = wait, strange
    if worst is not None:
        _reached(worst[1], worst[0], left)
    if not book.room(plan, who, session, at):
        held = book.held(who.caller)
        raise LimitReached(
            f"{len(book)} counters are kept, {held} of this caller, and this request would need one more",
            field="agent",
            rule="counters",
            layer="decision",
            allowed=f"{book.bound} counters of all callers, agents, users, channels and tools together, "
            f"{book.share} of one caller",
            hint="state fewer different agents, users and channels; counters of a minute and an hour go by themselves",
            retry_after=_RETRY_ROOM,
        )
    return Room(tuple(left), wall)


def asked(snapshot: Snapshot, who: Who, book: Book, now: float) -> tuple[Reason, ...]:
    """Why everything of this agent is asked about: the bounds of `[alerts]` whose action is "ask"."""
    at, agent = int(now * 1000), agent_key(who)
    book.roll(at)
    window, plan = book.windows[HOUR], book.plan(snapshot)
    reached: list[AlertBound | UnusualBound] = [
        alert
        for alert in plan.alerts
        if alert.action == "ask" and window.used(alert_key(alert.scope, agent), at) >= alert.most
    ]
    reached += [strange for strange in plan.unusual if strange.action == "ask" and book.unusual(strange, agent, at)]
    return tuple(Reason(b.rule, b.source, f"this agent had {most_of(b)}", b.rule, blanket=False) for b in reached)


def most_of(alert: AlertBound | UnusualBound) -> str:
    """What an alert bounds, in words."""
    if isinstance(alert, UnusualBound):
        return f"more {_COUNTED[alert.scope]} in this hour than is usual for it"
    return f"{alert.most} {_COUNTED[alert.scope]} in one hour"


def narrowed(limits: Limits, wall: int | None) -> Limits:
    """The limits with the deadline at what a wall budget leaves (ms, None is no budget), at least 1 ms."""
    if wall is None or (limits.timeout_ms and limits.timeout_ms <= wall):
        return limits
    return replace(limits, timeout_ms=max(1, wall))


def usage(snapshot: Snapshot, caller: str, book: Book, now: float) -> dict[str, Any]:
    """What a caller, and each of its agents, users, channels and tools, used of every bound that concerns it.

    Budgets of sessions are not among it: their owner asks for the session. At most SHOWN counters of each bound are
    looked for among SCANNED.
    """
    at = int(now * 1000)
    book.roll(at)
    plan = book.plan(snapshot)
    rates: list[dict[str, Any]] = []
    for rate in plan.rates:
        window = book.windows[rate.span]
        for key, of in _names(rate.scope, caller, window.counts, window.before):
            rates.append(_row(rate, of, window.used(key, at), rate.most) | {"per": SPAN_WORDS[rate.span]})
    budgets: list[dict[str, Any]] = []
    for budget in plan.budgets:
        if budget.session:
            continue
        for key, of in _names(budget.scope, caller, book.day.spent):
            used = book.day.spent.get(key, NOTHING)[budget.resource] // budget.unit
            row = _row(budget, of, used, budget.most // budget.unit)
            row["unit"] = _NAMES[RESOURCES[budget.resource][0]]
            budgets.append(row)
    alerts: list[dict[str, Any]] = []
    for alert in plan.alerts:
        window = book.windows[HOUR]
        for key, of in _names(alert.scope, caller, window.counts, window.before):
            row = _row(alert, of, window.used(key, at), alert.most)
            alerts.append(row | {"scope": "agent", "counts": alert.scope, "per": "hour", "action": alert.action})
    for strange in plan.unusual:
        for key, of in _names(strange.scope, caller, book.usual):
            found = book.usual.get(key)
            limit = None if found is None else usual.most(found, strange)
            if found is not None and limit is not None:
                row = _row(strange, of, found.count if found.hour == at // HOUR else 0, limit)
                alerts.append(
                    row | {"scope": "agent", "counts": strange.scope, "per": "hour", "action": strange.action}
                )
    return {
        "rates": rates,
        "budgets": budgets,
        "alerts": alerts,
        "day_ends_in": book.day.until_midnight(at) / 1000,
        "running": {k.partition("/")[2]: n for k, n in book.places.items() if k.partition("/")[0] == caller},
        "runs_per_agent": snapshot.concurrency.runs_per_agent,
    }


def _names(scope: str, caller: str, *counters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, label) of every counter that a caller has in a scope; what has no label is among it, used or not."""
    own = keys(scope, Who(caller))
    if scope == "caller":
        return [(own, "")]
    found = {own: None}
    for bucket in counters:
        for key in islice(bucket, SCANNED):
            if len(found) < SHOWN and key.startswith(own):
                found[key] = None
    return [(key, key[len(own) :]) for key in found]


def _row(bound: Bound, of: str, used: int, most: int) -> dict[str, Any]:
    return {
        "rule": bound.rule,
        "source": bound.source,
        "scope": bound.scope,
        "of": of,
        "allowed": most,
        "used": used,
        "left": max(0, most - used),
    }


def _spent(budget: BudgetBound, names: Mapping[str, str], session: str, book: Book) -> int:
    if budget.session:
        return book.sessions.get(session, NOTHING)[budget.resource]
    return book.day.spent.get(names[budget.scope], NOTHING)[budget.resource]


def _reached(bound: Bound, wait: float, left: list[tuple[str, int]]) -> NoReturn:
    if isinstance(bound, RateBound):
        per = SPAN_WORDS[bound.span]
        raise LimitReached(
            f"this {bound.scope} has begun as much as policy lets it in one {per}",
            field=bound.scope,
            rule=bound.rule,
            source=bound.source,
            layer="decision",
            allowed=f"{bound.most} runs and sessions in one {per}",
            hint=f"the next one passes in {wait / 1000:.3f} s; do not repeat it before",
            retry_after=wait / 1000,
            left=dict(left),
        )
    if isinstance(bound, AlertBound | UnusualBound):
        allowed, until = f"less than {most_of(bound)}", "it is below the bound again"
        if isinstance(bound, UnusualBound):
            allowed = f"{bound.threshold} standard deviations above the mean of its hours, {bound.least} in any case"
            until = "the hour is over"
        raise LimitReached(
            f"this agent had {most_of(bound)}, and is stopped for it",
            field="agent",
            rule=bound.rule,
            source=bound.source,
            layer="decision",
            allowed=allowed,
            hint=f"find out why; in {wait / 1000:.3f} s {until}",
            retry_after=wait / 1000,
            left=dict(left),
        )
    most = f"{bound.most // bound.unit} {_NAMES[RESOURCES[bound.resource][0]]}"
    if bound.session:
        raise SessionSpent(
            "this session has used up its budget",
            field="session",
            rule=bound.rule,
            source=bound.source,
            layer="decision",
            allowed=f"{most} in one session",
            hint="nothing begins in this session any more: close it, and open another one",
            left=dict(left),
        )
    raise LimitReached(
        f"this {bound.scope} has used up its budget of the day",
        field=bound.scope,
        rule=bound.rule,
        source=bound.source,
        layer="decision",
        allowed=f"{most} in one day (UTC)",
        hint="nothing begins before midnight UTC, or until the operator raises the budget",
        retry_after=wait / 1000,
        left=dict(left),
    )
