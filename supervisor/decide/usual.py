"""What is usual for one agent, learned from its own hours, and from where on an hour is not (R101). Pure.

Counted is by hours of the clock (UTC). Of the hours in which something was counted, within a period that policy sets,
a mean and a variance are kept, and nothing else: an agent costs one small row. Hours without anything teach nothing,
so an agent that sleeps at night is not a wild one in the morning.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from supervisor.decide.bounds import UnusualBound

KNOWN = 24  # hours with something in them, until it is known what is usual


class Usual(NamedTuple):
    hour: int  # that `count` is of: hours since 1970
    count: int  # type: ignore[assignment]  # nobody counts in a Usual
    hours: int = 0  # that were learned from
    mean: float = 0.0
    variance: float = 0.0
    told: bool = False  # whether somebody was told of this hour


def counted(before: Usual | None, bound: UnusualBound, hour: int) -> Usual:
    """One more in this hour. A clock that was set back goes on with the hour that it came from."""
    if before is None or hour - before.hour > bound.period:
        return Usual(hour, 1)
    if hour <= before.hour:
        return before._replace(count=before.count + 1)
    return learned(before, bound)._replace(hour=hour, count=1, told=False)


def learned(u: Usual, bound: UnusualBound) -> Usual:
    """Its hour is over. What was not usual teaches no more than what just is: nobody makes a flood usual by one flood.

    The mean over all hours, and over as many as a period has once there are more: then old ones fade.
    """
    limit = most(u, bound)
    count = u.count if limit is None else min(u.count, limit)
    hours = min(u.hours + 1, bound.period)
    off = count - u.mean
    return u._replace(
        hours=hours,
        mean=u.mean + off / hours,
        variance=(1 - 1 / hours) * (u.variance + off * off / hours),
    )


def most(u: Usual, bound: UnusualBound) -> int | None:
    """The count from which on an hour is not usual; None while too little is known.

    A deviation is at least that of chance alone, the root of the mean: an agent that did exactly five things in each
    hour may do six.
    """
    if u.hours < KNOWN:
        return None
    deviation = max(math.sqrt(u.variance), math.sqrt(u.mean), 1.0)
    return max(bound.least, math.floor(u.mean + bound.threshold * deviation) + 1)


def unusual(u: Usual | None, bound: UnusualBound, hour: int) -> int:
    """From which count on this hour is not usual, when it is there; else 0."""
    if u is None or u.hour < hour:
        return 0
    limit = most(u, bound)
    return limit if limit is not None and u.count >= limit else 0
