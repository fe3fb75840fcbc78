"""Uids and blank sessions, made ahead of need."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from supervisor.errors import LimitReached
from supervisor.launcher.plan import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from supervisor.launcher.session import Session
    from supervisor.policy.snapshot import Profile

PROVER_UIDS = 256  # at the top of the range, for the prover, which runs beside the launcher


class Identities:
    """Pairs of uids out of the reserved range: one for the children of a session, one for its leader."""

    def __init__(self, base: int, count: int, taken: Collection[int] = ()) -> None:
        """`taken` are uids of sessions that have them from an earlier range, and are not given out by this one."""
        self.range = (base, count)
        self._taken = frozenset(taken)
        self._base = base
        self._never = count // 2
        self._next = 0
        self._free: list[int] = []

    def take(self) -> Identity:
        """The lowest free pair. Raises LimitReached when the range is used up."""
        if self._free:
            return self._pair(heapq.heappop(self._free))
        while self._next < self._never:
            pair = self._pair(self._next)
            self._next += 1
            if self._taken.isdisjoint((pair.uid, pair.leader)):
                return pair
        raise LimitReached("every uid of the range is in use", hint="end sessions, or widen [service] uid_range")

    def _pair(self, slot: int) -> Identity:
        uid = self._base + 2 * slot
        return Identity(uid, uid, uid + 1)

    def give_back(self, identity: Identity) -> None:
        """Only after the last process with this identity is reaped."""
        heapq.heappush(self._free, (identity.leader - 1 - self._base) // 2)


class Blanks:
    """A blank session for each profile lately used, so that a first run waits for nothing that could be ready."""

    def __init__(self, make: Callable[[Profile], Session], ahead: int = 1) -> None:
        self._make = make
        self._ahead = ahead
        self._kept: dict[Profile, list[Session]] = {}

    def take(self, profile: Profile) -> Session:
        """A blank of this profile, begun now if none is there. Raises OSError."""
        kept = self._kept.get(profile)
        return kept.pop(0) if kept else self._make(profile)

    def wants(self, profile: Profile) -> bool:
        return len(self._kept.get(profile, ())) < self._ahead

    def keep(self, session: Session) -> None:
        self._kept.setdefault(session.profile, []).append(session)

    def drop(self, session: Session) -> None:
        """A blank that died."""
        kept = self._kept.get(session.profile, [])
        if session in kept:
            kept.remove(session)

    def clear(self) -> list[Session]:
        """Every kept blank, which is the caller's to end (a reload made their profiles old)."""
        gone = [s for kept in self._kept.values() for s in kept]
        self._kept.clear()
        return gone
