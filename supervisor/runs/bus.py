"""What happens, told to whoever listens. A listener that does not keep up is dropped, so that none costs memory."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.errors import LimitReached

if TYPE_CHECKING:
    from collections.abc import Callable

QUEUE = 256  # events that wait for one subscriber
SUBSCRIBERS = 256
RIGHTS = ("policy.reloaded", "grant.ended", "grant.revoked")  # after which one may see less than before
KEPT = 128  # past events that a subscriber who comes back can still have; less than QUEUE, so that they fit


@dataclass(frozen=True, slots=True)
class Event:
    """`kind`: run.started run.queued run.finished session.opened session.ended policy.reloaded policy.refused
    service.stopped service.resumed breaker.changed alert.raised approval.requested approval.answered approval.expired
    approval.withdrawn grant.used grant.ended grant.revoked, or as the last one of a subscription
    subscription.dropped, or as the first one subscription.gap.
    """

    id: int  # +1 with each event of this process
    kind: str
    time: float  # Unix time, seconds
    uid: int | str | None  # whose it is, by uid or as decide.callers.called(); None concerns everybody
    data: dict[str, Any]


class Subscription:
    """Events as they come: `async for event in subscription`. Ends by close(), or after subscription.dropped:
    it did not keep up, or a reload or the end of a role for a time has changed what it may see.

    Of others' events it gets those whose kind begins with one of `also`. `still` says whether it may see as much now.
    """

    def __init__(self, bus: Bus, uid: int | None, also: tuple[str, ...], who: str, still: Callable[[], bool]) -> None:
        self._bus = bus
        self.uid, self._who = uid, who
        self._also, self._still = also, still
        self._queue: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event:
        while not self._queue:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self._queue.popleft()

    def close(self) -> None:
        """No further event; what is queued can still be read."""
        self._ended = True
        self._bus.forget(self)
        self._wake()

    def push(self, event: Event) -> None:
        if event.uid not in (None, self.uid, self._who):
            if self.uid is not None and not event.kind.startswith(self._also):
                return
            if not self._still():
                self.drop(event.id)
                return
        if len(self._queue) >= QUEUE:
            self.drop(event.id, f"more than {QUEUE} events waited")
            return
        self._queue.append(event)
        self._wake()

    def drop(self, ident: int, reason: str = "what may be seen has changed: listen anew") -> None:
        """It ends, and says why."""
        self._queue.append(Event(ident, "subscription.dropped", time.time(), None, {"reason": reason}))
        self.close()

    def recheck(self, ident: int) -> bool:
        """Whether it goes on; else it was dropped."""
        still = self._still()
        if not still:
            self.drop(ident)
        return still

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Bus:
    def __init__(self) -> None:
        self._subscribers: list[Subscription] = []
        self._recent: deque[Event] = deque(maxlen=KEPT)
        self._last = 0

    def subscribe(
        self,
        uid: int | None,
        after: int | None = None,
        also: tuple[str, ...] = (),
        who: str = "",
        still: Callable[[], bool] = lambda: True,
    ) -> Subscription:
        """Events that concern everybody or this caller, and kinds that begin with one of `also`; with None everything.

        `still`: whether that is still what the subscriber may see. Raises LimitReached.

        With `after`, the id of the last one that the subscriber has seen, those that it missed come first; where
        they are not kept any more, or the id is of an earlier process, subscription.gap comes before them.
        """
        if len(self._subscribers) >= SUBSCRIBERS:
            raise LimitReached(
                f"{SUBSCRIBERS} subscribers are listening", hint="close those that are not read", retry_after=5
            )
        subscription = Subscription(self, uid, also, who, still)
        self._subscribers.append(subscription)
        if after is not None:
            self._catch_up(subscription, after)
        return subscription

    def _catch_up(self, subscription: Subscription, after: int) -> None:
        oldest = self._recent[0].id if self._recent else self._last + 1
        if after > self._last or after + 1 < oldest:
            reason = "events were missed that are not kept any more"
            subscription.push(Event(oldest - 1, "subscription.gap", time.time(), None, {"reason": reason}))
        for event in self._recent:
            if event.id > after or after > self._last:
                subscription.push(event)

    def forget(self, subscription: Subscription) -> None:
        if subscription in self._subscribers:
            self._subscribers.remove(subscription)

    def emit(self, kind: str, uid: int | str | None, **data: Any) -> None:
        self._last += 1
        event = Event(self._last, kind, time.time(), uid, data)
        self._recent.append(event)
        for subscription in tuple(self._subscribers):
            if kind not in RIGHTS or subscription.recheck(event.id):
                subscription.push(event)

    def close(self) -> None:
        for subscription in tuple(self._subscribers):
            subscription.close()
