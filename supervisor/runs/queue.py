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
_TELL_EACH = 20e-6  # seconds that telling positions costs for each who waits: so long it is put off, and done once


@dataclass(slots=True, eq=False)
class Entry:
    """One request that wants a place. `agent` is decide.bounds.agent_key(), `uid` whose it is."""

    id: str
    agent: str
    uid: int
    argv: tuple[str, ...]
    since: float = field(default_factory=time.time)
    notice: Callable[[int], None] | None = None  # called with the position, at first and whenever it changed
    position: int = 0  # that was told last
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
        self._telling: asyncio.TimerHandle | None = None

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
        self._moved()
        timer = loop.call_later(policy.queue_time_ms / 1000, self._late, entry, policy)
        self._hand_out()
        try:
            await entry.turn
        finally:
            timer.cancel()
            self._leave(entry)

    def freed(self, agent: str | None = None) -> None:
        """A run of `agent` ended. None: other bounds hold from now on, so all are looked at anew."""
        for one in (agent,) if agent is not None else sorted(self._full):
            if one in self._full:
                self._full.discard(one)
                self._ring[one] = None
        self._hand_out()

    def cancel(self, ident: str, uid: int | None = None) -> dict[str, Any]:
        """Take a request out; whoever waits for it gets Conflict. `uid` None may take out any. Raises NotFound."""
        entry = self._entries.get(ident)
        if entry is None or (uid is not None and entry.uid != uid) or not self._holds(entry):
            raise NotFound(
                f"nothing waits as {ident[:64]!r}",
                field="id",
                hint="it may have begun: `stockade queue list` shows what waits",
            )
        shown = self._shown(entry, None)
        self._refuse(entry, Conflict("the request was taken out of the queue", field="queue", queued=entry.id))
        return shown

    def entries(self, uid: int | None = None) -> list[dict[str, Any]]:
        """Those that wait (of `uid`), in the order of their turns if a place came free for each; position 1 is next.

        Agents that wait for one of their own runs to end come after the others.
        """
        return [
            self._shown(entry, position)
            for position, entry in enumerate(self._order(), 1)
            if uid is None or entry.uid == uid
        ]

    def close(self, error: Exception) -> None:
        """Everybody who waits gets `error`: the service ends, or everything was stopped."""
        for entry in tuple(self._entries.values()):
            if self._holds(entry):
                self._refuse(entry, error)
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    # --- parts ----------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        while self._ring and self._room(self._total):
            head = next(iter(self._ring))
            entries = self._waiting[head]
            entry = next(iter(entries.values()))
            if entry.turn is None or entry.turn.done():  # whoever waited is gone, and about to say so
                self._remove(entry)
                continue
            promised = self._promised.get(head, 0)
            del self._ring[head]
            self._moved()
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
            entry.turn.set_result(None)

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

    def _order(self) -> list[Entry]:
        agents = [*self._ring, *sorted(self._full & self._waiting.keys())]
        rounds = [
            (depth, index, entry)
            for index, agent in enumerate(agents)
            for depth, entry in enumerate(self._waiting[agent].values())
        ]
        return [entry for _, _, entry in sorted(rounds, key=lambda found: found[:2])]

    def _shown(self, entry: Entry, position: int | None) -> dict[str, Any]:
        return {
            "id": entry.id,
            "agent": entry.agent,
            "position": position,
            "since": entry.since,
            "argv": list(entry.argv),
            "waits_for": "its own runs" if entry.agent in self._full else "a place",
        }

    def _moved(self) -> None:
        """Positions changed: tell those who want to know, soon, and once for many changes."""
        if self._telling is None and self._entries:
            delay = _TELL_EACH * len(self._entries)
            self._telling = asyncio.get_running_loop().call_later(delay, self._announce)

    def _announce(self) -> None:
        self._telling = None
        for position, entry in enumerate(self._order(), 1):
            if entry.notice is not None and entry.position != position:
                entry.position = position
                entry.notice(position)

    def _remove(self, entry: Entry) -> None:
        self._moved()
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
