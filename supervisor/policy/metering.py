"""The keys of policy that say how much: rates, budgets, the breaker, alerts, and how many runs at once.

Declared like the rest in model.py.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import PlainValidator, model_validator

from supervisor.policy import fields as f
from supervisor.policy import values as v
from supervisor.policy import words as w

_COUNT, _TIME = "count", "time"
_DECIDE = "the decision about every request"


def _bound(what: str, probe: str = "meters") -> int:
    found: int = f.key(0, f"{what}; 0: no bound.", unit=_COUNT, enforcer=_DECIDE, probe=probe)
    return found


class Rate(f.Table):
    """How many runs and sessions may be begun; every entry counts for itself, and refused requests do not count."""

    scope: Annotated[str, f.one_of(*w.SCOPES)] = f.key(
        "agent",
        "Whose they are: the caller's, or of each agent, user, channel or tool of that caller. Requests without the "
        "label count as one.",
        unit="one of " + ", ".join(w.SCOPES),
        enforcer=_DECIDE,
        probe="meters",
    )
    per_minute: Annotated[int, f.count(0, 1_000_000)] = _bound("In a minute")
    per_hour: Annotated[int, f.count(0, 1_000_000)] = _bound("In an hour")
    per_day: Annotated[int, f.count(0, 1_000_000_000)] = _bound("In a day")

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not (self.per_minute or self.per_hour or self.per_day):
            raise f.refuse("this entry bounds nothing", "at least one of per_minute, per_hour, per_day above 0")
        return self


class Budget(f.Table):
    """How much may be used in sum, as the kernel counted it when runs ended. At the budget nothing begins any more."""

    period: Annotated[str, f.one_of("session", "day")] = f.key(
        "day", "Of each session, or of each day (UTC).", unit='"session" or "day"', enforcer=_DECIDE, probe="meters"
    )
    scope: Annotated[str, f.one_of(*w.SCOPES)] = f.key(
        "agent", "Whose, of a day; as in rates.", unit="one of " + ", ".join(w.SCOPES), enforcer=_DECIDE, probe="meters"
    )
    cpu: Annotated[int, PlainValidator(v.time_or_none)] = f.key(
        "none", "CPU time.", unit='time or "none"', enforcer=_DECIDE, probe="meters"
    )
    wall: Annotated[int, PlainValidator(v.time_or_none)] = f.key(
        "none",
        "Wall time of runs; the deadline of a run is narrowed to what is left.",
        unit='time or "none"',
        enforcer=_DECIDE,
        probe="meters",
    )
    written: Annotated[int, PlainValidator(v.bytes_or_none)] = f.key(
        "none",
        "Bytes written to disk, where the host counts them: on cgroup v2 with the io controller. Elsewhere nothing is "
        "charged.",
        unit='bytes or "none"',
        enforcer=_DECIDE,
        probe="meters",
    )
    processes: Annotated[int, f.count(0, 1 << 40)] = _bound("Processes: the sum of the most that each run had at once")

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if not (self.cpu or self.wall or self.written or self.processes):
            raise f.refuse("this entry bounds nothing", "at least one of cpu, wall, written, processes")
        return self


class Breaker(f.Table):
    """Stops an agent that fails or repeats itself for a while; then one run may try. Only policy.toml may have it."""

    failures: Annotated[int, f.count(0, 100_000)] = f.key(
        0,
        "Runs in a row that failed or were refused until it opens; 0: never.",
        unit=_COUNT,
        enforcer=_DECIDE,
        probe="meters",
    )
    repeats: Annotated[int, f.count(0, 100_000)] = f.key(
        0,
        "Runs of the very same command within repeat_window until it opens; 0: never.",
        unit=_COUNT,
        enforcer=_DECIDE,
        probe="meters",
    )
    repeat_window: Annotated[int, PlainValidator(v.a_time)] = f.key(
        "60s", "See repeats.", unit=_TIME, enforcer=_DECIDE, probe="meters"
    )
    open: Annotated[int, PlainValidator(v.a_time)] = f.key(
        "5m", "How long it stays open.", unit=_TIME, enforcer=_DECIDE, probe="meters"
    )


class Alerts(f.Table):
    """Tells of an agent that does what it should not: an event and an audit record. Only policy.toml may have it."""

    failed_per_hour: Annotated[int, f.count(0, 1_000_000)] = f.key(
        0,
        "Runs of one agent in an hour that failed; 0: never. At the bound an alert is raised, once in each hour of the "
        "clock (UTC).",
        unit=_COUNT,
        enforcer=_DECIDE,
        probe="meters",
    )
    sensitive_per_hour: Annotated[int, f.count(0, 1_000_000)] = f.key(
        0,
        "Requests of one agent in an hour, also denied ones, whose command shows the risk secrets or names what is in "
        "a forbidden directory; 0: never. What a limit refuses does not count.",
        unit=_COUNT,
        enforcer=_DECIDE,
        probe="meters",
    )
    blocked_command: bool = f.key(
        False,
        "Whether each command that blocked_commands denies raises an alert.",
        unit="true or false",
        enforcer=_DECIDE,
        probe="meters",
    )
    unusual: Annotated[tuple[Annotated[str, f.one_of(*w.COMPARED)], ...], f.LIST] = f.key(
        [],
        "What of one agent in an hour of the clock is compared with what is usual for that agent: its runs, those that "
        "failed, the requests that reach for what is secret or off limits. What is usual is known after 24 hours in "
        "which something was counted.",
        unit="list of " + ", ".join(w.COMPARED),
        enforcer=_DECIDE,
        probe="meters",
    )
    unusual_period: Annotated[int, PlainValidator(v.days_of_time)] = f.key(
        "168h",
        "Over which time is learned what is usual, one day to 90; an agent that did nothing for so long begins anew.",
        unit=_TIME,
        enforcer=_DECIDE,
        probe="meters",
    )
    unusual_threshold: Annotated[int, f.count(1, 100)] = f.key(
        3,
        "How many standard deviations above the mean of its hours are not usual. The deviation counts as at least the "
        "root of the mean.",
        unit=_COUNT,
        enforcer=_DECIDE,
        probe="meters",
    )
    unusual_least: Annotated[int, f.count(1, 1_000_000)] = f.key(
        20, "Fewer in an hour are never unusual.", unit=_COUNT, enforcer=_DECIDE, probe="meters"
    )
    action: Annotated[str, f.one_of(*w.ALERT_ACTIONS)] = f.key(
        "tell",
        "What is done at a bound beside the alert, until the hour's count is below it again. ask: whatever that agent "
        "asks for is asked about, under any autonomy. stop: it is refused.",
        unit=" or ".join(f'"{action}"' for action in w.ALERT_ACTIONS),
        enforcer=_DECIDE,
        probe="meters",
    )
    actions: Annotated[tuple[tuple[str, str], ...], PlainValidator(v.actions)] = f.key(
        {},
        'What is done in place of `action` where it is about this: { sensitive = "stop", runs = "ask" }.',
        unit="table of " + ", ".join(w.COMPARED) + " to an action",
        enforcer=_DECIDE,
        probe="meters",
    )


class Concurrency(f.Table):
    """How many runs at once, and who waits. Only policy.toml may have it."""

    runs_per_agent: Annotated[int, f.count(0, 65_536)] = f.key(
        0, "Runs of one agent at once; 0: no bound of its own.", unit=_COUNT, enforcer=_DECIDE, probe="meters"
    )
    queue: Annotated[int, f.count(0, 65_536)] = f.key(
        0,
        "Requests that may wait until a run ends, all together; agents take turns. 0: refused at once.",
        unit=_COUNT,
        enforcer=_DECIDE,
        probe="meters",
    )
    queue_per_agent: Annotated[int, f.count(1, 65_536)] = f.key(
        16, "Of these, of one agent.", unit=_COUNT, enforcer=_DECIDE, probe="meters"
    )
    queue_time: Annotated[int, PlainValidator(v.a_time)] = f.key(
        "60s", "How long one waits at most.", unit=_TIME, enforcer="the main process's timer", probe="meters"
    )
