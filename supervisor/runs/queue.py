"""Who waits for a place to run in, and whose turn it is: agents take turns, each agent's requests in their order.

    ring   agents that wait for any place, in the order of their turns; each has its requests in order
    full   agents of whom as many runs go on as policy allows: they rejoin the ring when one of their own ends

Nothing polls: a run that ends calls freed(), which hands out places while there are any. A place that was handed out
is counted as promised until whoever waited takes it, which happens within one turn of the event loop; whether it is
taken or not, the queue looks again afterwards, so that no place is lost. Each step costs the same however many wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from supervisor.errors import Conflict, LimitReached, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.policy.snapshot import Concurrency

SHOWN_ARGS = 32  # words of a command that are kept to be shown
SHOWN_WORD = 256  # characters of each
_RETRY = 1.0  # seconds: runs end all the time


@dataclass(slots=True, eq=False)
class Entry:
    """One request that wants a place. `agent` is decide.bounds.agent_key(), `uid` whose it is."""

    id: str
    agent: str
    uid: int
    argv: tuple[str, ...]
    since: float = field(default_factory=time.time)
    turn: asyncio.Future[None] | None = None
    free: Callable[[int], bool] = lambda _: True

    def __post_init__(self) -> None:
        words = tuple(word[:SHOWN_WORD] for word in self.argv[:SHOWN_ARGS])
        self.argv = words if len(self.argv) <= SHOWN_ARGS else (*words, "…")


class Queue:
    """`room(n)` says whether one more run may start anywhere when n places are promised already."""

    def __init__(self, room: Callable[[int], bool]) -> None:
        self._room = room
        self._waiting: dict[str, OrderedDict[str, Entry]] = {}  # by agent
        self._entries: dict[str, Entry] = {}
        self._ring: OrderedDict[str, None] = OrderedDict()
        self._full: set[str] = set()
        self._promised: dict[str, int] = {}  # places handed out and not taken yet, by agent
        self._total = 0  # of _promised

    def __len__(self) -> int:
        return len(self._entries)

    async def turn(self, entry: Entry, free: Callable[[int], bool], policy: Concurrency) -> None:
        """Until it is this request's turn; at once when there is a place that nobody waits for.

        `free(n)` says whether one more run of this agent may start when n are promised to it already. When this returns
        the place has to be taken (or given up) before anything else is awaited. Raises LimitReached when too many wait,
        or when it took policy.queue_time_ms; Conflict when cancel() was called. A waiter that is cancelled leaves no
        trace.
        """
        agent = entry.agent
        first = agent not in self._waiting and not self._ring
        if first and self._room(self._total) and free(self._promised.get(agent, 0)):
            return
        self._check(agent, policy)
        loop = asyncio.get_running_loop()
        entry.free, entry.turn = free, loop.create_future()
        self._entries[entry.id] = entry
        self._waiting.setdefault(agent, OrderedDict())[entry.id] = entry
        if agent not in self._full:
            self._ring.setdefault(agent, None)
        timer = loop.call_later(policy.queue_time_ms / 1000, self._late, entry, policy)
        self.freed()
        try:
            await entry.turn
        finally:
            timer.cancel()
            self._leave(entry)

    def freed(self, agent: str | None = None) -> None:
        """A run ended, of `agent` if that is known, or something else may have made room: hand out what there is."""
        if agent in self._full:
            self._full.discard(agent)
            self._ring[agent] = None
        while self._ring and self._room(self._total):
            head = next(iter(self._ring))
            entries = self._waiting[head]
            entry = next(iter(entries.values()))
            promised = self._promised.get(head, 0)
            del self._ring[head]
            if not entry.free(promised):
                self._full.add(head)
                continue
            del entries[entry.id]
            if entries:
                self._ring[head] = None  # behind all others
            else:
                del self._waiting[head]
            self._promised[head] = promised + 1
            self._total += 1
            if entry.turn is not None and not entry.turn.done():
                entry.turn.set_result(None)

    def cancel(self, ident: str, uid: int | None = None) -> Entry:
        """Take a request out; whoever waits for it gets Conflict. `uid` None may take out any. Raises NotFound."""
        entry = self._entries.get(ident)
        if entry is None or (uid is not None and entry.uid != uid) or not self._holds(entry):
            raise NotFound(
                f"nothing waits as {ident[:64]!r}",
                field="id",
                hint="it may have begun: `stockade queue list` shows all",
            )
        self._refuse(entry, Conflict("the request was taken out of the queue", field="queue", queued=entry.id))
        return entry

    def entries(self, uid: int | None = None) -> list[dict[str, Any]]:
        """Those that wait (of `uid`), in the order of their turns if a place came free for each; position 1 is next.

        Agents that wait for one of their own runs to end come after the others.
        """
        order = [*self._ring, *sorted(self._full & self._waiting.keys())]
        rounds = sorted(
            (
                (depth, index, entry)
                for index, agent in enumerate(order)
                for depth, entry in enumerate(self._waiting[agent].values())
            ),
            key=lambda found: found[:2],
        )
        return [
            {
                "id": entry.id,
                "agent": entry.agent,
                "position": position,
                "since": entry.since,
                "argv": list(entry.argv),
                "waits_for": "its own runs" if entry.agent in self._full else "a place",
            }
            for position, (_, _, entry) in enumerate(rounds, 1)
            if uid is None or entry.uid == uid
        ]

    def close(self, error: Exception) -> None:
        """Everybody who waits gets `error`: the service ends, or everything was stopped."""
        for entry in tuple(self._entries.values()):
            if self._holds(entry):
                self._refuse(entry, error)

    # --- parts ----------------------------------------------------------------------------------------------------

    def _check(self, agent: str, policy: Concurrency) -> None:
        own = len(self._waiting.get(agent, ()))
        waiting = sum(map(len, self._waiting.values())) if len(self._entries) >= policy.queue else 0
        if waiting >= policy.queue:
            detail = f"{waiting} requests wait for a place" if policy.queue else "there is no free place"
            rule, allowed = "concurrency.queue", f"{policy.queue} waiting requests"
        elif own >= policy.queue_per_agent:
            detail = f"{own} requests of this agent wait for a place"
            rule, allowed = "concurrency.queue_per_agent", f"{policy.queue_per_agent} waiting requests of one agent"
        else:
            return
        raise LimitReached(
            detail,
            field="run",
            rule=rule,
            source=policy.source or None,
            layer="decision",
            allowed=allowed,
            hint="wait for runs to end, then try again",
            retry_after=_RETRY,
        )

    def _late(self, entry: Entry, policy: Concurrency) -> None:
        if not self._holds(entry):
            return
        waited = policy.queue_time_ms / 1000
        self._refuse(
            entry,
            LimitReached(
                f"no place came free within {waited:g} s",
                field="run",
                rule="concurrency.queue_time",
                source=policy.source or None,
                layer="decision",
                allowed=f"{waited:g} s in the queue",
                hint="wait for runs to end, then try again",
                retry_after=_RETRY,
            ),
        )

    def _refuse(self, entry: Entry, error: Exception) -> None:
        self._remove(entry)
        if entry.turn is not None and not entry.turn.done():
            entry.turn.set_exception(error)

    def _holds(self, entry: Entry) -> bool:
        """Whether it still waits: it has neither a place nor an error."""
        return entry.id in self._waiting.get(entry.agent, ())

    def _remove(self, entry: Entry) -> None:
        entries = self._waiting[entry.agent]
        del entries[entry.id]
        if not entries:
            del self._waiting[entry.agent]
            self._ring.pop(entry.agent, None)
            self._full.discard(entry.agent)

    def _leave(self, entry: Entry) -> None:
        """However the wait ended: nothing of it stays, and a place that it was promised is looked at again."""
        del self._entries[entry.id]
        if self._holds(entry):
            self._remove(entry)
        elif entry.turn is not None and entry.turn.done() and not entry.turn.cancelled() and not entry.turn.exception():
            self._total -= 1
            if self._promised[entry.agent] > 1:
                self._promised[entry.agent] -= 1
            else:
                del self._promised[entry.agent]
            asyncio.get_running_loop().call_soon(self.freed, entry.agent)
