"""Rates, budgets, breaker, alerts and queue: bounds that another bound keeps from ever being reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.policy import units
from supervisor.policy.linting.said import warn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.policy.findings import Finding
    from supervisor.policy.snapshot import Budget, Rate, Snapshot

_PERIODS = {"per_minute": 1, "per_hour": 60, "per_day": 1440}  # in minutes
_AMOUNTS = {"cpu_ms": "cpu", "wall_ms": "wall", "written": "written", "processes": "processes"}


def rates(snapshot: Snapshot) -> Iterator[Finding]:
    for rate in snapshot.rates:
        for name, minutes in _PERIODS.items():
            most = getattr(rate, name)
            if not most:
                continue
            by = _tighter(snapshot, rate, name, most, minutes)
            if by is not None:
                yield warn(rate.source, f"rates.{name}", f"{most} is never reached: {by}", "a smaller number, or none")


def _tighter(snapshot: Snapshot, rate: Rate, name: str, most: int, minutes: int) -> str | None:
    for other in snapshot.rates:
        if other.scope not in (rate.scope, "caller"):  # what all of a caller's requests share bounds each part of them
            continue
        for shorter, length in _PERIODS.items():
            bound = getattr(other, shorter)
            if not bound or length > minutes or (other is rate and shorter == name):
                continue
            at_most = bound * (minutes // length)
            earlier = snapshot.rates.index(other) < snapshot.rates.index(rate)
            strictly = at_most < most or (at_most == most and (other is rate or earlier or other.scope != rate.scope))
            if strictly:
                where = "" if other is rate else f" of {other.scope} at {other.source}"
                return f"{shorter} = {bound}{where} comes first"
    return None


def budgets(snapshot: Snapshot) -> Iterator[Finding]:
    for n, budget in enumerate(snapshot.budgets):
        for field, name in _AMOUNTS.items():
            most = getattr(budget, field)
            for m, other in enumerate(snapshot.budgets):
                bound = getattr(other, field)
                if m == n or not most or not bound or not _bounds(other, budget):
                    continue
                if bound < most or (bound == most and (m < n or other.scope != budget.scope)):
                    said = (
                        f"{_show(name, most)} is never reached: the budget at {other.source} has {_show(name, bound)}"
                    )
                    yield warn(budget.source, f"budgets.{name}", said, "a smaller amount, or none")
                    break


def _bounds(outer: Budget, inner: Budget) -> bool:
    """Whether what counts against `inner` counts against `outer` too, and that is not renewed any earlier."""
    if inner.period == "session":
        return outer.period == "session"
    return outer.period == "day" and outer.scope in (inner.scope, "caller")


def _show(name: str, value: int) -> str:
    unit: units.Unit = "bytes" if name == "written" else "count" if name == "processes" else "time"
    return units.show(unit, value)


def breaker(snapshot: Snapshot) -> Iterator[Finding]:
    b = snapshot.breaker
    if not b.repeats:
        return
    minutes = max(1, -(-b.repeat_window_ms // 60_000))
    for rate in snapshot.rates:
        if rate.scope in ("agent", "caller") and rate.per_minute and rate.per_minute * minutes < b.repeats:
            window = units.show("time", b.repeat_window_ms)
            said = f"{b.repeats} runs in {window} are never reached: per_minute = {rate.per_minute} at {rate.source}"
            yield warn(b.source, "breaker.repeats", said, f"less than {rate.per_minute * minutes}, or a longer window")
            return


def alerts(snapshot: Snapshot) -> Iterator[Finding]:
    """Runs that fail were begun, and that is what rates bound. Requests that are denied they do not bound."""
    a = snapshot.alerts
    for rate in snapshot.rates:
        if rate.scope not in ("agent", "caller"):
            continue
        for name, minutes in _PERIODS.items():
            at_most = getattr(rate, name) * max(1, 60 // minutes)
            if 0 < at_most < a.failed_per_hour:
                said = f"{a.failed_per_hour} is never reached: {name} = {getattr(rate, name)} at {rate.source}"
                yield warn(a.source, "alerts.failed_per_hour", said, f"at most {at_most}")
                return


def concurrency(snapshot: Snapshot) -> Iterator[Finding]:
    c, runs = snapshot.concurrency, snapshot.service.runs
    if c.runs_per_agent > runs:
        said = f"{c.runs_per_agent} is never reached: service.runs is {runs}"
        yield warn(c.source, "concurrency.runs_per_agent", said, f"less than {runs}")
    if c.queue and c.queue_per_agent > c.queue:
        said = f"{c.queue_per_agent} is never reached: concurrency.queue is {c.queue}"
        yield warn(c.source, "concurrency.queue_per_agent", said, f"at most {c.queue}")
