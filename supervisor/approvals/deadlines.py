"""When what ends by itself does so: any number of deadlines, one timer, no polling.

Deadlines are Unix times, because they outlive the process, but of a clock that is never set back (Steady): an hour is
over after an hour. The timer counts on the loop's clock, so a deadline may ring late or find that it is too early and
wait again; whoever asks whether something still holds compares the times themselves.
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 3600.0  # seconds that the timer sleeps at most: the wall clock may have been set meanwhile
SLICE = 128  # that are handed over at once: between two slices the loop serves others, and the auditor keeps up
_SLACK = 1024  # dropped deadlines that may stand in the heap before it is made anew


class Steady:
    """Unix time that follows the wall clock when it is set forward and goes on by itself when it is set back.

    So nothing holds longer than was said, whatever happens to the clock. CLOCK_BOOTTIME counts sleep too, time(7).
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        passed: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._wall, self._passed = wall, passed
        self._ahead = wall() - passed()

    def __call__(self) -> float:
        passed = self._passed()
        self._ahead = max(self._ahead, self._wall() - passed)
        return self._ahead + passed


class Handle(Protocol):
    def cancel(self) -> None: ...


class Deadlines:
    """`due` is called with the ids whose time has come, earliest first, SLICE at a time."""

    def __init__(
        self,
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], Handle],
        due: Callable[[list[str]], None],
    ) -> None:
        self._clock, self._later, self._due = clock, later, due
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._timer: Handle | None = None
        self._rings = 0.0  # what the timer is set for

    def __len__(self) -> int:
        return len(self._when)

    def set(self, ident: str, when: float) -> None:
        """A later call for the same id replaces the earlier one."""
        self._when[ident] = when
        heapq.heappush(self._heap, (when, ident))
        if len(self._heap) > 2 * len(self._when) + _SLACK:
            self._heap = [(at, name) for name, at in self._when.items()]
            heapq.heapify(self._heap)
        if self._timer is None or when < self._rings:
            self._arm()

    def drop(self, ident: str) -> None:
        """The timer stays as it is: ringing for nothing once is cheaper than setting it with every answer."""
        self._when.pop(ident, None)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self.close()
        while self._heap and self._when.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._heap:
            self._rings = self._heap[0][0]
            self._timer = self._later(min(max(self._rings - self._clock(), 0.0), _LONGEST), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now, due = self._clock(), list[str]()
        while self._heap and self._heap[0][0] <= now and len(due) < SLICE:
            when, ident = heapq.heappop(self._heap)
            if self._when.get(ident) == when:
                del self._when[ident]
                due.append(ident)
        try:
            if due:
                self._due(due)
        finally:
            if self._timer is None:
                self._arm()
