"""Counting in a sliding window with two buckets, and the daily sums of budgets. Pure: the caller says what time it is.

Time is cut into aligned windows (UTC). For each key the counts of this window and of the one before are kept, and what
was used of a bound is estimated as

    this window's count + the last one's x (the part of it that a sliding window would still cover)

One more passes while that, rounded down, is below the bound. So in no aligned window pass more than `bound`, and in no
window at all more than twice that: one that begins at a fraction f of an aligned one holds at most bound x (1 + f) + 1.
Use that is even over the time is counted exactly.

Each bucket is a dict of small numbers: about 160 bytes a key with the key, nothing that the garbage collector has to
visit one by one, and what is over is dropped whole. Times are milliseconds since 1970.
"""

from __future__ import annotations

from typing import NamedTuple

from supervisor.decide.owned import Owned

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


class Windows:
    """The counts of one length of time, by key."""

    __slots__ = ("at", "before", "counts", "length")

    def __init__(self, length: int) -> None:
        self.length = length
        self.at = 0  # the number of the aligned window that `counts` are of
        self.counts: Owned[int] = Owned()
        self.before: Owned[int] = Owned()

    def roll(self, now: int) -> None:
        """Forget what is over. A clock that was set back by more than a window takes the counts with it: they hold
        from now on, and not until it is as late again.
        """
        at = now // self.length
        if at == self.at or at == self.at - 1:
            return
        if at > self.at:
            self.before = self.counts if at == self.at + 1 else Owned()
            self.counts = Owned()
        self.at = at

    def used(self, key: str, now: int) -> int:
        """How much counts against a bound now, rounded down; roll() first."""
        count, before = self.counts.get(key, 0), self.before.get(key, 0)
        if not before:
            return count
        gone = max(0, now - self.at * self.length)  # 0 while a clock that was set back a little catches up
        return count + before * (self.length - 1 - gone) // self.length

    def wait(self, key: str, bound: int, now: int) -> int:
        """Milliseconds until one more passes when nothing else does; 0 is now. `bound` is at least 1."""
        count, before = self.counts.get(key, 0), self.before.get(key, 0)
        gone, length = now - self.at * self.length, self.length
        if count < bound:  # from when on is before x (length - 1 - gone) < (bound - count) x length?
            since = length - 1 - ((bound - count) * length - 1) // before if before else 0
            return max(0, since - gone)
        since = length - 1 - (bound * length - 1) // count  # of the next window, of which this one is then the last
        return length - gone + max(0, since)

    def add(self, key: str) -> None:
        self.counts[key] = self.counts.get(key, 0) + 1

    def take_back(self, key: str, at: int) -> bool:
        """Undo one add() of window `at`; False when that is over."""
        bucket = self.counts if at == self.at else self.before if at == self.at - 1 else None
        if bucket is None:
            return False
        count = bucket.get(key, 0)
        if count > 1:
            bucket[key] = count - 1
        elif count:
            del bucket[key]
        return count > 0

    def __len__(self) -> int:
        return len(self.counts) + len(self.before)


class Spent(NamedTuple):
    """What runs used, as the kernel counted it."""

    cpu_us: int = 0
    wall_us: int = 0
    written: int = 0  # bytes
    processes: int = 0

    def plus(self, more: Spent) -> Spent:
        return Spent(
            self.cpu_us + more.cpu_us,
            self.wall_us + more.wall_us,
            self.written + more.written,
            self.processes + more.processes,
        )


NOTHING = Spent()


def unmeasured(passed: int, timeout_ms: int, cpu: int) -> Spent:
    """What a run is charged that nobody saw end, `passed` ms after its begin: at most its deadline (0 is none), on all
    the CPU that it had (percent of one).
    """
    wall = max(0, min(passed, timeout_ms) if timeout_ms else passed) * 1000
    return Spent(wall * cpu // 100, wall, 0, 1)


class Daily:
    """What was spent on one day of UTC, by key."""

    __slots__ = ("at", "spent")

    def __init__(self) -> None:
        self.at = 0  # days since 1970
        self.spent: Owned[Spent] = Owned()

    def roll(self, now: int) -> None:
        """Begin anew at midnight. A clock that was set back keeps what was spent."""
        at = now // DAY
        if at > self.at:
            self.spent = Owned()
        if at != self.at:
            self.at = at

    def until_midnight(self, now: int) -> int:
        return max(1, (self.at + 1) * DAY - now)
