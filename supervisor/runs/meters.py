"""The book of rates, budgets, alerts and breakers, kept durable: counted in memory at once, written behind.

begin() counts before anything is launched, and gives a future that is done when that is on the disk: the launch does
not wait for it, the answer does. end() likewise. When the disk refuses, the counts hold in memory, and the next change
writes them as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from supervisor.decide import breaker, meters
from supervisor.decide.book import MAX_COUNTERS, Book
from supervisor.decide.bounds import agent_key
from supervisor.decide.windows import Spent
from supervisor.errors import NotFound, Unavailable
from supervisor.runs import tally
from supervisor.runs.rulebook import Rulebook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from supervisor.decide.book import Counted
    from supervisor.decide.bounds import AlertBound, UnusualBound, Who
    from supervisor.decide.breaker import State
    from supervisor.policy.snapshot import Breaker, Snapshot
    from supervisor.state.store import Store

SHOWN = 1000  # breakers of one list
UNWRITTEN = 10_000  # rows that the disk refused, from which on nothing begins: each waits in memory until it is written
_SAYS_NOTHING = ("cancelled", "stopped", "lost", "denied")  # ends that the agent did not cause


def failure(cause: str | None, exit_code: int | None) -> bool | None:
    """Whether a run failed, for the breaker; None when its end says nothing about the agent."""
    if cause is None or cause in _SAYS_NOTHING:
        return None
    return cause != "exited" or bool(exit_code)


def spent(usage: Mapping[str, Any]) -> Spent:
    """What the launcher's counters of a run come to; what a host cannot count is 0."""

    def number(name: str) -> int:
        value = usage.get(name)
        return value if type(value) is int and value > 0 else 0

    return Spent(number("cpu_us"), number("wall_us"), number("written_bytes"), number("pids_peak"))


class Meters:
    """`await load()` before anything else. Times are taken from `clock`: Unix time in seconds."""

    def __init__(self, store: Store, *, clock: Callable[[], float] = time.time, bound: int = MAX_COUNTERS) -> None:
        self.book = Book(bound)
        self.rules = Rulebook(self._write_rules, clock)
        self._store = store
        self._clock = clock
        self._told: Callable[[dict[str, Any]], None] | None = None
        self._behind = 0  # rows that the disk refused
        self._seen: dict[int, int] = {}  # the windows that the rows are of, by span; 0 is the day

    async def load(self) -> int:
        """Read what the last process left. How many runs it left open; they are charged by this. Raises Unavailable."""
        await self._store.migrate(tally.PART, tally.SCHEMA)
        now = self._now()
        self.book, rules, open_runs = await self._store.restore(partial(tally.load, now=now, bound=self.book.bound))
        self.rules.restore(rules)
        for span, at in self._windows().items():
            self._seen[span] = at
            self._purge(span, at - bool(span))
        return open_runs

    def known(self, snapshot: Snapshot) -> None:
        """This policy serves from now on: its entries are ones that may go unused."""
        self.rules.known(snapshot)

    def on_breaker(self, told: Callable[[dict[str, Any]], None]) -> None:
        """Have `told` called with what breakers() says of one, whenever it opens, opens anew or closes."""
        self._told = told

    # --- what runs do ---------------------------------------------------------------------------------------------

    def begin(
        self,
        snapshot: Snapshot,
        run: str,
        who: Who,
        session: str,
        *,
        what: Sequence[str] = (),
        timeout_ms: int = 0,
        cpu: int = 100,
    ) -> asyncio.Future[None]:
        """A run that was admitted: it takes its place and is counted. Nothing may be awaited since the decision.

        `what` is its argv, `timeout_ms` and `cpu` its effective limits. The future is done when it is durable, and
        raises Unavailable otherwise: then nothing may be answered but that. Raises Unavailable at once, with nothing
        counted, when it is already known that it cannot be written.
        """
        self._writable()
        agent = agent_key(who)
        state = self.book.breakers.get(agent)
        command = _digest(what) if what and snapshot.breaker.repeats else ""
        self.book.begin(snapshot, run, who, session, self._now(), what=command, timeout_ms=timeout_ms, cpu=cpu)
        saved = self._save()
        if saved.done() and (error := saved.exception()) is not None:
            self.book.forget(run)
            raise error
        self._tell(agent, state)
        return saved

    def opened(self, snapshot: Snapshot, who: Who) -> tuple[Counted, asyncio.Future[None]]:
        """A session that was admitted: an action like a run. What was counted, and a future as begin() gives it.

        Raises Unavailable as begin().
        """
        self._writable()
        return self.book.opened(snapshot, who, self._now()), self._save()

    def unopened(self, counted: Counted) -> None:
        """A session that was counted was not opened after all."""
        self.book.take_back(counted)
        self._save()

    def forget(self, run: str) -> None:
        """A run that took its place was not launched after all: as if it had never been asked for."""
        self.book.forget(run)
        self._save()

    def end(
        self, policy: Breaker, run: str, usage: Mapping[str, Any] | None, *, failed: bool | None
    ) -> asyncio.Future[None]:
        """A run is over: its place is free, what it used is charged. `failed` as of failure().

        `usage` are the launcher's counters; None when the launcher is gone, then it is charged what it can have used at
        most. The future is done when that is durable; it raises Unavailable otherwise.
        """
        live = self.book.live.get(run)
        state = self.book.breakers.get(live.agent) if live is not None else None
        self.book.end(policy, run, None if usage is None else spent(usage), failed, self._now())
        if live is not None:
            self._tell(live.agent, state)
        return self._save()

    def session_ended(self, session: str) -> None:
        """Its budget vanishes with it."""
        self.book.sessions.pop(session, None)

    def denied(self, snapshot: Snapshot, who: Who) -> None:
        """Policy refused a request. Not to be called for what a limit refused."""
        if not snapshot.breaker.failures:
            return
        agent = agent_key(who)
        state = self.book.breakers.get(agent)
        self.book.denied(snapshot, who, self._now())
        self._tell(agent, state)
        self._save()

    def alarm(self, bound: AlertBound, who: Who) -> int:
        """One more of what an alert counts; the count when that is to be told now, else 0. save() makes it durable."""
        return self.book.alarm(bound, agent_key(who), self._now())

    def strange(self, bound: UnusualBound, who: Who) -> tuple[int, int]:
        """One more of what is compared with what is usual; (count, bound) when that is to be told now, else (0, 0)."""
        return self.book.strange(bound, agent_key(who), self._now())

    def save(self) -> asyncio.Future[None]:
        """Done when everything that was counted is durable; it never has to be awaited. It raises Unavailable."""
        return self._save()

    # --- what people ask ------------------------------------------------------------------------------------------

    def usage(self, snapshot: Snapshot, caller: str, now: float) -> dict[str, Any]:
        """What is used and left of every bound that concerns a caller ("uid:N", "unit:…") and its agents and users."""
        found = meters.usage(snapshot, caller, self.book, now)
        return found | {"counters": len(self.book), "counters_allowed": self.book.bound}

    def alarmed(self) -> int:
        """How many agents alerts were raised of in this hour of the clock, by what is counted."""
        self.book.roll(self._now())
        return self.book.alarmed(meters.SCANNED)

    def rule_used(self, rule: str) -> None:
        """A rule had a part in a decision; `rule` as the decision names it. Cheap, and written now and then."""
        self.rules.used(rule)

    def unused(self, snapshot: Snapshot, days: int, now: float) -> list[dict[str, Any]]:
        """Entries of the policy that had a part in no decision for so many days (R154)."""
        return self.rules.unused(snapshot, days, now)

    def breakers(self) -> list[dict[str, Any]]:
        """Those that are not simply closed, open ones first; at most SHOWN. Times are Unix time in seconds."""
        chosen = sorted(self.book.breakers.items(), key=lambda item: (not item[1].until, item[0]))
        return [self._shown(agent, state) for agent, state in chosen[:SHOWN]]

    async def reset(self, key: str) -> dict[str, Any]:
        """Close the breaker of `key`, as breakers() names it; durable when it returns. Raises NotFound, Unavailable."""
        state = self.book.breakers.get(key)
        if not self.book.reset(key):
            raise NotFound(
                f"no breaker {key[:128]!r}", field="key", hint="`stockade breakers list` names those that there are"
            )
        self._tell(key, state)
        await asyncio.shield(self._save())
        return self._shown(key, breaker.CLOSED)

    async def flush(self) -> None:
        """Until everything that was counted is durable. Raises Unavailable."""
        self.rules.flush()
        await asyncio.shield(self._save())

    # --- parts ----------------------------------------------------------------------------------------------------

    def _writable(self) -> None:
        """Raises Unavailable while too much waits for a disk that refuses, and tries that once more."""
        if self._behind >= UNWRITTEN:
            self._save()
            raise Unavailable(
                f"the disk refused {self._behind} counts, and they are not written yet",
                allowed=f"{UNWRITTEN} counts",
                hint="see the service's log and its disk; try again once it has room",
            )

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _windows(self) -> dict[int, int]:
        return {0: self.book.day.at, **{span: window.at for span, window in self.book.windows.items()}}

    def _save(self) -> asyncio.Future[None]:
        """Write what changed; the future never has to be awaited. What fails is written with the next change."""
        self._follow_time()
        book = self.book
        if not book.dirty:
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        rows, book.dirty = book.dirty, set()
        try:
            saved = self._store.post(partial(tally.carry_out, statements=tally.rendered(book, rows)))
        except Unavailable as e:
            saved = asyncio.get_running_loop().create_future()
            saved.set_exception(e)

        def settled(future: asyncio.Future[None]) -> None:
            if future.cancelled() or future.exception() is not None:
                book.dirty |= rows
                self._behind = len(book.dirty)
            else:
                self._behind = min(self._behind, len(book.dirty))

        saved.add_done_callback(settled)
        return saved

    def _follow_time(self) -> None:
        """Rows of windows that are over go; when the clock was set back, rows go with their counts."""
        for span, at in self._windows().items():
            seen = self._seen.get(span, at)
            if at == seen:
                continue
            self._seen[span] = at
            if at > seen:
                self._purge(span, at - bool(span))
            elif span:
                self._post(partial(tally.moved, span=span, old=seen, new=at))
            else:
                self._post(partial(tally.moved_day, old=seen, new=at))

    def _purge(self, span: int, at: int) -> None:
        def purged(future: asyncio.Future[Any]) -> None:
            if not future.cancelled() and future.exception() is None and future.result():
                self._purge(span, at)

        self._post(partial(tally.purge, span=span, at=at), purged)

    def _post(self, job: Callable[..., Any], then: Callable[[asyncio.Future[Any]], None] | None = None) -> None:
        """What nobody waits for, and what the next start would do as well."""
        try:
            future = self._store.post(job)
        except Unavailable:
            return
        future.add_done_callback(then or (lambda f: f.cancelled() or f.exception()))

    def _write_rules(self, statements: Iterable[tally.Statement]) -> None:
        self._post(partial(tally.carry_out, statements=tuple(statements)))

    def _tell(self, agent: str, before: State | None) -> None:
        after = self.book.breakers.get(agent, breaker.CLOSED)
        old = before or breaker.CLOSED
        if self._told is not None and old.until != after.until:
            self._told(self._shown(agent, after))

    def _shown(self, agent: str, state: State) -> dict[str, Any]:
        caller, _, label = agent.partition("/")
        now = self._now()
        return {
            "key": agent,
            "caller": caller,
            "agent": label,
            "state": breaker.name(state, now),
            "failures": state.failures,
            "why": state.why,
            "since": state.since / 1000 if state.since else None,
            "until": state.until / 1000 if state.until else None,
            "trial": state.trial or None,
        }


def _digest(what: Sequence[str]) -> str:
    """Tells commands from each other; 64 bits are enough for what only stops a loop."""
    whole = "\0".join(what).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=8).hexdigest()
