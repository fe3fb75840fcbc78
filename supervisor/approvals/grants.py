"""What holds: matching, using up, taking back and ending of grants. Memory decides, the store is what survives.

A use is spent in memory at once and acknowledged once it is durable, so neither two requests at the same time nor a
crash at any moment can spend the same one twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from supervisor.approvals import rows
from supervisor.approvals.deadlines import Deadlines
from supervisor.approvals.index import Index
from supervisor.approvals.work import Work
from supervisor.errors import Conflict, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from supervisor.approvals.deadlines import Handle
    from supervisor.approvals.model import Grant
    from supervisor.approvals.report import Report
    from supervisor.state.store import Store


class Grants(Work):
    """The half of the book that is asked with every run."""

    def __init__(
        self,
        store: Store,
        report: Report,
        clock: Callable[[], float],
        later: Callable[[float, Callable[[], None]], Handle] | None,
    ) -> None:
        super().__init__(store)
        self._report, self._clock = report, clock
        self._index = Index()
        self._deadlines = Deadlines(clock, later or asyncio.get_running_loop().call_later, self._due)
        self._unsaved: set[str] = set()  # revoked, which the disk refused to take: the order can be given again
        self.digest = ""  # of the policy in force

    def now(self) -> float:
        """Unix seconds, by the clock that everything here is measured with."""
        return self._clock()

    def match(
        self,
        target: str,
        session: str | None,
        subjects: Collection[str],
        uid: int,
        unit: str,
        policy_digest: str,
        now: float,
        *,
        blanket: bool = True,
    ) -> Grant | None:
        """The grant under which this may run, of memory alone. `blanket`: whether every reason may be so granted."""
        return self._index.match(target, session, subjects, uid, unit, policy_digest, now, blanket=blanket)

    async def use(self, grant: Grant) -> Grant:
        """Spend one use; when this returns it is spent, whatever happens next. Raises Conflict when none is left.

        What could not be written down stays spent in memory: rather one use too few than one too many.
        """
        now = self._clock()
        current = self._index.grants.get(grant.id)
        if current is None or not current.holds(self.digest, now):
            ended = current.ended if current is not None else None
            raise Conflict(f"{grant.id} does not hold any more: {ended or 'its time is over'}", field="grant")
        spent = replace(current, used=current.used + 1, last_used=now)
        if spent.left == 0:
            spent = replace(spent, ended="used_up", ended_at=now)
            self._deadlines.drop(spent.id)
        self._index.put(spent)
        await asyncio.shield(self._begin(self._spend(spent)))
        return spent

    def carry_out(self, spent: Grant) -> None:
        """Asked right before what a use was spent for begins. Whoever spent it may have waited since: for a place in
        the queue, for a session. A policy, a time and a revocation hold for what has not begun. Raises Conflict.
        """
        current = self._index.grants.get(spent.id)
        ended = current.ended if current is not None else spent.ended or "over"
        if spent.policy_digest != self.digest:
            ended = "the policy was reloaded"
        elif spent.until <= self._clock():
            ended = "expired"
        if ended not in (None, "used_up"):
            raise Conflict(
                f"{spent.id} does not hold any more: {ended}",
                field="approval",
                hint="send the request again: it is decided, and if need be asked about, anew",
                approval=spent.question,
            )

    async def _spend(self, spent: Grant) -> None:
        if not await self._store.write(lambda conn: rows.spend(conn, spent)):
            raise Conflict(f"{spent.id} does not hold any more", field="grant")
        self._report.used(spent)
        self._trim()

    async def revoke(self, ident: str, by: int) -> Grant:
        """It holds for nobody from the call on. Raises NotFound; Conflict when it had ended; Unavailable: try again."""
        grant = self.grant(ident)
        if grant.ended is None and grant.until <= self._clock():
            self._due([ident])
            grant = self.grant(ident)
        if ident in self._unsaved:
            gone = grant
        elif grant.ended is not None:
            raise Conflict(f"{ident} holds no more: {grant.ended}", field="id", hint="there is nothing to take back")
        else:
            (gone,) = self._close_grants([grant], "revoked")
        await asyncio.shield(self._begin(self._revoke(gone, by)))
        return gone

    async def _revoke(self, gone: Grant, by: int) -> None:
        self._unsaved.discard(gone.id)
        try:
            await self._store.write(lambda conn: rows.end_grants(conn, [gone]))
        except BaseException:
            self._unsaved.add(gone.id)
            raise
        self._report.grant_ended(gone, by)
        self._trim()

    def session_ended(self, session: str) -> None:
        """What was granted for it ends with it."""
        self._session_over(self._index.of_session(session))

    def _session_over(self, grants: list[Grant]) -> None:
        self._end_grants(grants, "session_ended")
        self._trim()

    def _stale(self, grants: list[Grant]) -> None:
        self._end_grants(grants, "stale")
        self._trim()

    def roles(self, uid: int, unit: str, now: float) -> list[str]:
        """The roles that somebody has for a time."""
        return [g.role for g in self._index.of_owner(uid, unit) if g.role is not None and g.holds(self.digest, now)]

    def grant(self, ident: str) -> Grant:
        if (found := self._index.grants.get(ident)) is None:
            raise NotFound(f"no grant {ident[:64]!r}", field="id", hint="see `stockade grants list`")
        return found

    def grants(self) -> list[Grant]:
        """Newest first; also those that ended lately."""
        return sorted(self._index.grants.values(), key=lambda g: g.created)[::-1]

    # --- what ends by itself --------------------------------------------------------------------------------------

    def _due(self, idents: list[str]) -> None:
        self._end_grants([self._index.grants[i] for i in idents if i in self._index.grants], "expired")
        self._trim()

    def _end_grants(self, grants: list[Grant], cause: str) -> None:
        current = [self._index.grants[g.id] for g in grants if g.id in self._index.grants]
        over = self._close_grants([g for g in current if g.ended is None], cause)
        for grant in over:
            self._report.grant_ended(grant)
        if over:
            self._post(lambda conn: rows.end_grants(conn, over))

    def _close_grants(self, grants: list[Grant], cause: str) -> list[Grant]:
        over = [replace(g, ended=cause, ended_at=self._clock()) for g in grants]
        for grant in over:
            self._index.put(grant)
            self._deadlines.drop(grant.id)
        return over

    def _trim(self) -> None:
        questions, grants = self._index.forget_questions(), self._index.forget_grants()
        if questions or grants:
            self._post(lambda conn: rows.forget(conn, questions, grants))
