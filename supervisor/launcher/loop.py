"""One epoll, timers, and work that waits until nothing else is to do. Single-threaded; nothing polls."""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Timer:
    """Something due at a time; cancelled, it lets go of what it would have called."""

    __slots__ = ("what", "when")

    def __init__(self, when: float, what: Callable[[], None]) -> None:
        self.when = when
        self.what: Callable[[], None] | None = what

    def cancel(self) -> None:
        self.what = None


class Loop:
    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._new: set[int] = set()  # descriptors that are watched since the last look at what is ready
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._later: deque[Callable[[], None]] = deque()
        self.running = True

    def watch(self, fd: int, handler: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call `handler(events)` whenever `fd` has one of `events`."""
        self._handlers[fd] = handler
        self._new.add(fd)
        self.epoll.register(fd, events)

    def forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def at(self, when: float, what: Callable[[], None]) -> Timer:
        """Call `what` at a time of the monotonic clock, in seconds."""
        timer = Timer(when, what)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def later(self, what: Callable[[], None]) -> None:
        """Call `what` when no request and no ending waits."""
        self._later.append(what)

    def run(self) -> None:
        while self.running:
            ready = self.epoll.poll(self._patience())
            self._new.clear()
            for fd, events in ready:
                handler = self._handlers.get(fd)
                # One that was closed since may have given its number to a new one, which is told of with the next look.
                if handler is not None and fd not in self._new:
                    handler(events)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                timer = heapq.heappop(self._timers)[2]
                what, timer.what = timer.what, None
                if what is not None:
                    what()
            if self._later and not self.epoll.poll(0, 1):
                self._later.popleft()()

    def _patience(self) -> float:
        if self._later:
            return 0
        while self._timers and self._timers[0][2].what is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
