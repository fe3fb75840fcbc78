"""When each rule of policy was used last, and how often: so that what nobody needs can be found and taken out.

A use is noted in memory at once and written at most once a minute for each rule; a crash loses that minute's count.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from supervisor.runs import tally

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

MAX_RULES = 20_000  # also those of policies that are long gone; beyond it the one that was longest unused goes
_WRITE_EVERY = 60_000  # ms
_DAY = 86_400_000  # ms


class Rulebook:
    __slots__ = ("_clock", "_rules", "_unwritten", "_write", "_written")

    def __init__(
        self, write: Callable[[Iterable[tally.Statement]], None], clock: Callable[[], float] = time.time
    ) -> None:
        self._write = write
        self._clock = clock
        self._rules: dict[str, tally.Rule] = {}
        self._written: dict[str, int] = {}
        self._unwritten: set[str] = set()

    def restore(self, rules: Mapping[str, tally.Rule]) -> None:
        self._rules = dict(rules)

    def known(self, rules: Collection[str]) -> None:
        """These are in force now: from here on it counts how long one was not used."""
        now = self._now()
        new = [rule for rule in rules if rule not in self._rules]
        for rule in new:
            self._rules[rule] = (0, now, 0)
        self._write([(tally.RULE, (rule, *self._rules[rule])) for rule in new] + self._bounded(rules))

    def used(self, rule: str) -> None:
        """A rule had a part in a decision."""
        now = self._now()
        count, first, _ = self._rules.get(rule, (0, now, 0))
        self._rules[rule] = (count + 1, first, now)
        self._unwritten.add(rule)
        written = self._written.get(rule)
        if written is None or now - written >= _WRITE_EVERY or now < written:
            self._put(now, (rule,))

    def unused(self, rules: Iterable[str], days: int) -> list[dict[str, Any]]:
        """Of `rules` those not used for `days`, and known for as long. Times are Unix time in seconds."""
        now, found = self._now(), []
        for rule in rules:
            count, first, last = self._rules.get(rule, (0, now, 0))
            if now - max(first, last) >= days * _DAY:
                found.append(
                    {
                        "rule": rule,
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
