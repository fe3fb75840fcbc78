"""When each rule of policy was used last, and how often: so that what nobody needs can be found and taken out.

Answers name a rule by its place ("contexts[2]"), which moves when a policy is edited. Here it is known by what it
says, so that its history stays with it. A use is noted in memory at once and written at most once a minute for each
rule; a crash loses that minute's count.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any

from supervisor.runs import tally

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from supervisor.policy.snapshot import Snapshot

MAX_RULES = 20_000  # also those of policies that are long gone; beyond it the one that was longest unused goes
_WRITE_EVERY = 60_000  # ms
_DAY = 86_400_000  # ms


def entries(snapshot: Snapshot) -> dict[str, tuple[str, str]]:
    """Every entry of a policy whose use is noted: its key -> (what it is known by, FILE:LINE)."""
    found: dict[str, tuple[str, str]] = {}

    def add(key: str, kind: str, says: object, source: str) -> None:
        digest = hashlib.blake2b(repr(says).encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        found[key] = (f"{kind} {digest}", source)

    for name in ("blocked_commands", "approval_patterns"):
        for i, pattern in enumerate(getattr(snapshot.autonomy, name)):
            add(f"autonomy.{name}[{i}]", name, pattern, snapshot.autonomy.source)
        for n, context in enumerate(snapshot.contexts):
            for i, pattern in enumerate(getattr(context, name)):
                add(f"contexts[{n}].{name}[{i}]", name, (context.match, pattern), context.source)
    for n, context in enumerate(snapshot.contexts):
        add(f"contexts[{n}]", "context", context.match, context.source)
    for n, caller in enumerate(snapshot.callers):
        add(f"callers[{n}]", "caller", (caller.unit, caller.uid, caller.gid), caller.source)
    for n, rate in enumerate(snapshot.rates):
        add(f"rates[{n}]", "rate", (rate.scope, rate.per_minute, rate.per_hour, rate.per_day), rate.source)
    for n, b in enumerate(snapshot.budgets):
        says = (b.period, b.scope, b.cpu_ms, b.wall_ms, b.written, b.processes)
        add(f"budgets[{n}]", "budget", says, b.source)
    for rule in snapshot.rules:
        add(f"rules.{rule.name}", "rule", rule.name, rule.source)
    for profile in snapshot.profiles:
        add(f"profiles.{profile.name}", "profile", profile.name, profile.source)
    return found


class Rulebook:
    __slots__ = ("_clock", "_entries", "_rules", "_unwritten", "_write", "_written")

    def __init__(
        self, write: Callable[[Iterable[tally.Statement]], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._write = write
        self._clock = clock
        self._rules: dict[str, tally.Rule] = {}
        self._entries: dict[str, tuple[str, str]] = {}
        self._written: dict[str, int] = {}
        self._unwritten: set[str] = set()

    def restore(self, rules: Mapping[str, tally.Rule]) -> None:
        self._rules = dict(rules)

    def known(self, snapshot: Snapshot) -> None:
        """This policy is in force now: from here on it counts how long an entry was not used."""
        self._entries = entries(snapshot)
        now = self._now()
        names = {name for name, _ in self._entries.values()}
        new = [name for name in names if name not in self._rules]
        for name in new:
            self._rules[name] = (0, now, 0)
        statements = [(tally.RULE, (name, *self._rules[name])) for name in new] + self._bounded(names)
        if statements:
            self._write(statements)

    def used(self, rule: str) -> None:
        """A rule of the policy in force had a part in a decision; `rule` as answers name it, or a key in it."""
        found = self._entries.get(rule)
        while found is None and rule:  # names may have dots, so the longest that there is counts
            rule = rule[: max(rule.rfind("."), rule.rfind("["), 0)]
            found = self._entries.get(rule)
        if found is None:
            return
        name, now = found[0], self._now()
        count, first, _ = self._rules.get(name, (0, now, 0))
        self._rules[name] = (count + 1, first, now)
        self._unwritten.add(name)
        written = self._written.get(name)
        if written is None or now - written >= _WRITE_EVERY or now < written:
            self._put(now, (name,))

    def unused(self, snapshot: Snapshot, days: int, now: float) -> list[dict[str, Any]]:
        """Entries that were not used for `days`, and are known for as long. Times are Unix time in seconds."""
        at, found = int(now * 1000), []
        for key, (name, source) in entries(snapshot).items():
            count, first, last = self._rules.get(name, (0, at, 0))
            if at - max(first, last) >= days * _DAY:
                found.append(
                    {
                        "rule": key,
                        "source": source,
                        "count": count,
                        "known_since": first / 1000,
                        "last_used": last / 1000 if last else None,
                    }
                )
        return found

    def flush(self) -> None:
        """Write what was not written yet."""
        self._put(self._now(), tuple(self._unwritten))

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _put(self, now: int, rules: Collection[str]) -> None:
        if rules:
            self._write([(tally.RULE, (rule, *self._rules[rule])) for rule in rules])
        self._unwritten.difference_update(rules)
        self._written.update(dict.fromkeys(rules, now))

    def _bounded(self, keep: Collection[str]) -> list[tally.Statement]:
        """Drop what is too much, never what is in force."""
        over = len(self._rules) - MAX_RULES
        if over <= 0:
            return []
        kept = set(keep)
        oldest = sorted((max(first, last), rule) for rule, (_, first, last) in self._rules.items() if rule not in kept)
        gone = [rule for _, rule in oldest[:over]]
        for rule in gone:
            del self._rules[rule]
            self._written.pop(rule, None)
            self._unwritten.discard(rule)
        return [(tally.NO_RULE, (rule,)) for rule in gone]
