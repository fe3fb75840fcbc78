"""Everything that is counted, in memory: who began how much, used how much, failed how often, and runs now.

Plain data with a bound. It does no I/O and has no clock: `now` is milliseconds since 1970. What changed is noted in
`dirty`, so that whoever keeps it durable knows which rows to write; a row is written as it is then, with absolute
values, so that writing it twice changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from supervisor.decide import breaker, usual
from supervisor.decide.bounds import agent_key, alert_key, named, plan_of
from supervisor.decide.owned import Owned, owner
from supervisor.decide.windows import DAY, HOUR, MINUTE, NOTHING, Daily, Spent, Windows, unmeasured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.decide.bounds import AlertBound, Plan, UnusualBound, Who
    from supervisor.policy.snapshot import Breaker, Snapshot

MAX_COUNTERS = 1_000_000
COMMANDS = 128  # of one agent that are watched for repetition; the one that was longest not begun goes first
_SWEEP_EVERY = 10_000  # ms between two looks for what is idle, once the book is full

# ("rate", span, number of the window, key), ("day", key), ("breaker", agent), ("repeat", agent, command), ("run", id),
# ("usual", key)
Row = tuple[Any, ...]
Counted = tuple[tuple[int, int, str], ...]  # (span, number of the window, key)
Repeat = tuple[int, int, int]  # start of the window that began with a first run, the count before it, the count in it


@dataclass(frozen=True, slots=True)
class Live:
    """A run between begin and end."""

    agent: str
    session: str
    counted: Counted
    charged: tuple[str, ...]  # keys of the daily budgets
    began: int
    timeout_ms: int  # 0 is none
    cpu: int  # percent of one CPU


class Book:
    __slots__ = (
        "_known", "_minute", "_plan", "_repeated", "_repeats_of", "_swept", "bound", "breakers", "day", "dirty", "live",
        "places", "repeats", "sessions", "usual", "windows",
    )  # fmt: skip

    def __init__(self, bound: int = MAX_COUNTERS) -> None:
        self.bound = bound
        self.windows = {span: Windows(span) for span in (MINUTE, HOUR, DAY)}
        self.day = Daily()
        self.sessions: dict[str, Spent] = {}
        self.breakers: Owned[breaker.State] = Owned()
        self.repeats: dict[str, dict[str, Repeat]] = {}
        self.usual: Owned[usual.Usual] = Owned()
        self.live: dict[str, Live] = {}
        self.places: dict[str, int] = {}  # runs that go on, by agent
        self.dirty: set[Row] = set()
        self._repeated = 0
        self._repeats_of: dict[str, int] = {}  # the same by caller
        self._swept = 0
        self._minute = -1
        self._known: Snapshot | None = None
        self._plan: Plan

    def __len__(self) -> int:
        """How many counters there are."""
        found = self._repeated + len(self.day.spent) + len(self.sessions) + len(self.breakers) + len(self.usual)
        for window in self.windows.values():
            found += len(window.counts) + len(window.before)
        return found

    @property
    def share(self) -> int:
        """How many of them one caller may have: what it makes up of agents and users leaves room for others."""
        return self.bound - self.bound // 4

    def held(self, caller: str) -> int:
        """How many counters a caller has, but for those of its sessions, which the service bounds."""
        found = self._repeats_of.get(caller, 0)
        for kept in (self.day.spent, self.breakers, self.usual):
            found += kept.owners.get(caller, 0)
        for window in self.windows.values():
            found += window.counts.owners.get(caller, 0) + window.before.owners.get(caller, 0)
        return found

    def full(self, caller: str) -> bool:
        """Whether there is no room for a new counter of this caller."""
        total = len(self)
        return total >= self.bound or (total >= self.share and self.held(caller) >= self.share)

    def plan(self, snapshot: Snapshot) -> Plan:
        if self._known is not snapshot:
            self._known, self._plan = snapshot, plan_of(snapshot)
        return self._plan

    def roll(self, now: int) -> None:
        """Forget what is over; changes nothing that any decision depends on."""
        minute = now // MINUTE
        if minute == self._minute:  # every longer window begins with a minute
            return
        if minute < self._minute:
            self.set_back(now)
        self._minute = minute
        hour = self.windows[HOUR].at
        for window in self.windows.values():
            window.roll(now)
        self.day.roll(now)
        if self.windows[HOUR].at != hour:
            self.sweep(now)

    def set_back(self, now: int) -> None:
        """What is of a later time was noted before the clock was set back: it is as of now, as what windows count."""
        for agent, state in tuple(self.breakers.items()):
            if state.since > now:
                until = state.until and now + state.until - state.since
                self._breaker(agent, replace(state, since=now, until=until))
        for agent, commands in self.repeats.items():
            for command, (start, before, count) in commands.items():
                if start > now:
                    commands[command] = now, before, count
                    self.dirty.add(("repeat", agent, command))
        for key, found in tuple(self.usual.items()):
            if found.hour > now // HOUR:
                self.usual[key] = found._replace(hour=now // HOUR)
                self.dirty.add(("usual", key))

    def sweep(self, now: int) -> None:
        """Forget breakers and repetitions of agents that were idle for a day, and what is usual after its period."""
        self._swept = now
        for key, state in tuple(self.breakers.items()):
            if now - max(state.since, state.until) > DAY and not state.trial:
                self._breaker(key, breaker.CLOSED)
        for key, commands in tuple(self.repeats.items()):
            if now - max(start for start, _, _ in commands.values()) > DAY:
                for command in tuple(commands):
                    self._unwatch(key, command)
        if self._known is None:  # no policy says yet how long what is usual is kept
            return
        oldest = now // HOUR - max([bound.period for bound in self._plan.unusual], default=DAY // HOUR)
        for key in [key for key, found in self.usual.items() if found.hour < oldest]:
            del self.usual[key]
            self.dirty.add(("usual", key))

    def room(self, plan: Plan, who: Who, session: str, now: int) -> bool:
        """Whether what a run would count in fits below the bound, and below its caller's share."""
        if len(self) + plan.needs <= self.share:
            return True
        if len(self) + plan.needs <= self.bound and self.held(who.caller) + plan.needs <= self.share:
            return True
        if now - self._swept >= _SWEEP_EVERY or now < self._swept:
            self.sweep(now)
        names = named(plan, who)
        new = sum(names[scope] not in self.windows[span].counts for scope, span in plan.counted)
        new += sum(names[scope] not in self.day.spent for scope in plan.charged)
        new += plan.in_session and session not in self.sessions
        new += plan.breaker and agent_key(who) not in self.repeats
        hour = self.windows[HOUR].counts
        new += sum(2 * (alert_key(bound.scope, agent_key(who)) not in hour) for bound in plan.alerts)
        new += sum(alert_key(bound.scope, agent_key(who)) not in self.usual for bound in plan.unusual)
        return not new or (len(self) + new <= self.bound and self.held(who.caller) + new <= self.share)

    # --- what runs do ---------------------------------------------------------------------------------------------

    def begin(
        self, snapshot: Snapshot, run: str, who: Who, session: str, now: int, *, what: str, timeout_ms: int, cpu: int
    ) -> None:
        """A run that was admitted takes its place and is counted. `what` tells commands from each other."""
        plan, agent = self.plan(snapshot), agent_key(who)
        self.roll(now)
        names = named(plan, who)
        counted = self._count(plan, names)
        charged = tuple(names[scope] for scope in plan.charged)
        self.live[run] = Live(agent, session, counted, charged, now, timeout_ms, cpu)
        self.places[agent] = self.places.get(agent, 0) + 1
        if charged:
            self.dirty.add(("run", run))
        if plan.in_session and session:
            self.sessions.setdefault(session, NOTHING)
        if not plan.breaker:
            return
        if (state := self.breakers.get(agent)) is not None:
            self._breaker(agent, breaker.begun(state, run, now))
        if snapshot.breaker.repeats and what:
            times = self._again(agent, what, snapshot.breaker.repeat_window_ms, now)
            if opened := breaker.repeated(snapshot.breaker, times, now):
                self._breaker(agent, opened)

    def opened(self, snapshot: Snapshot, who: Who, now: int) -> Counted:
        """A session is opened: an action like a run. What was counted, for take_back()."""
        self.roll(now)
        plan = self.plan(snapshot)
        return self._count(plan, named(plan, who))

    def take_back(self, counted: Counted) -> None:
        """What was counted did not begin after all."""
        for span, at, key in counted:
            if self.windows[span].take_back(key, at):
                self.dirty.add(("rate", span, at, key))

    def end(self, policy: Breaker, run: str, used: Spent | None, failed: bool | None, now: int) -> None:
        """A run is over, however; one that is not known changes nothing. `used` None: nobody measured it."""
        live = self._leave(run)
        if live is None:
            return
        self.roll(now)
        if used is None:
            used = unmeasured(now - live.began, live.timeout_ms, live.cpu)
        for key in live.charged:
            self.day.spent[key] = self.day.spent.get(key, NOTHING).plus(used)
            self.dirty.add(("day", key))
        if live.session in self.sessions:  # it may be closed already, and its budget with it
            self.sessions[live.session] = self.sessions[live.session].plus(used)
        state = self.breakers.get(live.agent, breaker.CLOSED)
        if policy.failures or state is not breaker.CLOSED:
            self._breaker(live.agent, breaker.ended(state, policy, run, failed, now))

    def forget(self, run: str) -> None:
        """A run that took its place was not started after all: as if it had never been asked for."""
        live = self._leave(run)
        if live is None:
            return
        self.take_back(live.counted)
        state = self.breakers.get(live.agent)
        if state is not None:
            self._breaker(live.agent, breaker.untried(state, run))

    def denied(self, snapshot: Snapshot, who: Who, now: int) -> None:
        """Policy refused a request."""
        agent = agent_key(who)
        state = self.breakers.get(agent, breaker.CLOSED)
        if snapshot.breaker.failures and (state is not breaker.CLOSED or not self.full(who.caller)):
            self._breaker(agent, breaker.denied(state, snapshot.breaker, now))

    def alarm(self, bound: AlertBound, agent: str, now: int) -> int:
        """One more of what an alert counts. How many there are, when somebody is to be told of it now; else 0.

        That is once in each aligned hour. The mark of it is a counter of the hour as well, and as durable.
        """
        self.roll(now)
        window, key = self.windows[HOUR], alert_key(bound.scope, agent)
        if key not in window.counts and self.full(owner(agent)):  # only of requests that are denied: see room()
            return 0
        told = f"!{key}"
        window.add(key)
        self.dirty.add(("rate", HOUR, window.at, key))
        used = window.used(key, now)
        if used < bound.most or told in window.counts:
            return 0
        if not self.full(owner(agent)):
            window.add(told)
            self.dirty.add(("rate", HOUR, window.at, told))
        return used

    def strange(self, bound: UnusualBound, agent: str, now: int) -> tuple[int, int]:
        """One more of what is compared with what is usual: (how many in this hour, from where on that is not usual).

        (0, 0) when nobody is to be told of it now; that is once in each hour.
        """
        key, hour = alert_key(bound.scope, agent), now // HOUR
        before = self.usual.get(key)
        if before is None and self.full(owner(agent)):  # only of requests that are denied: see room()
            return 0, 0
        found = usual.counted(before, bound, hour)
        limit = 0 if found.told else usual.unusual(found, bound, hour)
        self.usual[key] = found._replace(told=True) if limit else found
        self.dirty.add(("usual", key))
        return (found.count, limit) if limit else (0, 0)

    def unusual(self, bound: UnusualBound, agent: str, now: int) -> int:
        """From which count on this hour of an agent is not usual, once it is there; else 0."""
        return usual.unusual(self.usual.get(alert_key(bound.scope, agent)), bound, now // HOUR)

    def alarmed(self, most: int) -> int:
        """How many agents somebody was told of in this hour, looked for among `most` counters."""
        hour = self.windows[HOUR]
        told = {key.partition(":")[2] for key in islice(hour.counts, most) if key.startswith("!")}
        told |= {key for key, found in islice(self.usual.items(), most) if found.told and found.hour == hour.at}
        return len({key.partition(":")[2] for key in told})

    def reset(self, agent: str) -> bool:
        """Close a breaker and forget what was repeated; False when there is none."""
        known = agent in self.breakers or agent in self.repeats
        self._breaker(agent, breaker.CLOSED)
        for command in tuple(self.repeats.get(agent, ())):
            self._unwatch(agent, command)
        return known

    def running(self, who: Who) -> int:
        """How many runs of this agent go on."""
        return self.places.get(agent_key(who), 0)

    def watch(self, agent: str, command: str, repeat: Repeat) -> None:
        """A command and how often it was begun; the oldest of too many goes."""
        commands = self.repeats.setdefault(agent, {})
        if command not in commands:
            self._repeated += 1
            self._repeats_of[owner(agent)] = self._repeats_of.get(owner(agent), 0) + 1
        commands.pop(command, None)
        commands[command] = repeat
        if len(commands) > COMMANDS:
            self._unwatch(agent, next(iter(commands)))

    # --- parts ----------------------------------------------------------------------------------------------------

    def _count(self, plan: Plan, names: Mapping[str, str]) -> Counted:
        counted = []
        for scope, span in plan.counted:
            window, key = self.windows[span], names[scope]
            window.add(key)
            self.dirty.add(("rate", span, window.at, key))
            counted.append((span, window.at, key))
        return tuple(counted)

    def _leave(self, run: str) -> Live | None:
        live = self.live.pop(run, None)
        if live is None:
            return None
        if self.places[live.agent] > 1:
            self.places[live.agent] -= 1
        else:
            del self.places[live.agent]
        if live.charged:
            self.dirty.add(("run", run))
        return live

    def _breaker(self, agent: str, state: breaker.State) -> None:
        if state == breaker.CLOSED:
            if self.breakers.pop(agent, None) is None:
                return
        elif self.breakers.get(agent) == state:
            return
        else:
            self.breakers[agent] = state
        self.dirty.add(("breaker", agent))

    def _again(self, agent: str, what: str, length: int, now: int) -> int:
        """How often a command was begun within the window, this time included.

        The window begins with a first run, so a burst is counted exactly; later on as in windows.py.
        """
        commands = self.repeats.get(agent, {})
        if commands and what not in commands and self.full(owner(agent)):
            self._unwatch(agent, next(iter(commands)))
        start, before, count = commands.get(what, (now, 0, 0))
        if not start <= now < start + 2 * length:
            start, before, count = now, 0, 0
        elif now >= start + length:
            start, before, count = start + length, count, 0
        self.watch(agent, what, (start, before, count + 1))
        self.dirty.add(("repeat", agent, what))
        return count + 1 + before * (length - 1 - (now - start)) // length

    def _unwatch(self, agent: str, command: str) -> None:
        del self.repeats[agent][command]
        self._repeated -= 1
        if self._repeats_of[owner(agent)] > 1:
            self._repeats_of[owner(agent)] -= 1
        else:
            del self._repeats_of[owner(agent)]
        if not self.repeats[agent]:
            del self.repeats[agent]
        self.dirty.add(("repeat", agent, command))
