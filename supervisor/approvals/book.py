"""The book of questions and grants: what is asked, who said what, what holds. Durable, bounded, without polling.

Memory is what everything is decided by, the store is what survives: a change is acknowledged once it is durable.
Only what ends by itself (time, session, policy) is written after the fact, for it ends the same way at the next
start. An order that was begun is finished although whoever gave it has gone, so that both always agree.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.approvals import rows, terms
from supervisor.approvals.deadlines import Steady
from supervisor.approvals.grants import Grants
from supervisor.approvals.model import Answer, Grant, Question, new_id, pack
from supervisor.errors import Conflict, Denied, InvalidRequest, LimitReached, NotFound
from supervisor.policy.snapshot import Approvals

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from supervisor.approvals.deadlines import Handle
    from supervisor.approvals.model import Kind, Scope, State
    from supervisor.approvals.report import Report
    from supervisor.state.store import Store


class Book(Grants):
    """Make it inside the running loop, then `await load()`, then `await serve()` with each policy."""

    def __init__(
        self,
        store: Store,
        report: Report,
        *,
        clock: Callable[[], float] | None = None,
        later: Callable[[float, Callable[[], None]], Handle] | None = None,
    ) -> None:
        super().__init__(store, report, clock or Steady(), later)
        self._lock = asyncio.Lock()  # one order of a person at a time
        self._asking: dict[str, asyncio.Task[Question]] = {}  # target -> the question that is being written down
        self._asking_bytes = 0
        self._deciding = ""  # the question whose answer is being written down: it does not expire meanwhile
        self._waiters: dict[str, asyncio.Future[Question]] = {}
        self.approvals = Approvals()

    async def load(self) -> None:
        """What the last process left. Sessions ended with it, and with them what was granted for them."""
        await self._store.migrate("approvals", rows.STEPS)
        questions, grants = await self._store.restore(rows.everything)
        for question in questions:
            self._index.add(question)
            if question.state == "pending":
                self._deadlines.set(question.id, question.expires)
        for grant in grants:
            self._index.put(grant)
            if grant.ended is None:
                self._deadlines.set(grant.id, grant.until)
        await self._paced([g for g in grants if g.ended is None and g.scope == "session"], self._session_over)
        # What was made later than now was made by a clock that was wrong: nobody knows how old it is.
        now = self._clock()
        overdue = [q.id for q in self._index.pending_questions() if q.expires <= now or q.created > now]
        overdue += [g.id for g in self._index.live() if g.created > now]
        await self._paced(overdue, self._due)
        self._trim()

    async def serve(self, approvals: Approvals, digest: str) -> None:
        """Another policy is in force: what was asked or granted under one with another digest is over."""
        self.approvals, self.digest = approvals, digest
        async with self._lock:
            await self._paced([g for g in self._index.live() if g.policy_digest != digest], self._stale)
            old = [q for q in self._index.pending_questions() if q.policy_digest != digest]
            await self._paced(old, self._outdated)

    async def close(self) -> None:
        self._deadlines.close()
        await self.settled()

    # --- asking ---------------------------------------------------------------------------------------------------

    async def ask(
        self,
        kind: Kind,
        asker: dict[str, Any],
        target: str,
        what: dict[str, Any],
        reasons: list[dict[str, Any]],
        *,
        session: str | None = None,
        labels: dict[str, str] | None = None,
        needed: int = 1,
    ) -> Question:
        """A question, durable; one about the same target that is pending is given again.

        `asker` has uid, pid and unit; the target is bound to uid and unit already. Raises ApprovalDenied when exactly
        this was refused lately, LimitReached at the bound, TooLarge, Unavailable.
        """
        if (ident := self._index.pending.get(target)) is not None:
            pending = self._in_time(ident)
            if pending.state == "pending":
                return pending
        writing = self._asking.get(target)
        if writing is None:
            self._check_refused(target)
            now = self._clock()
            question = Question(
                new_id("apr"), kind, "pending", asker, labels or {}, session, target, self.digest, now,
                now + self.approvals.timeout_ms / 1000, needed, pack(what, reasons),
            )  # fmt: skip
            self._check_room(question)
            self._asking_bytes += question.weight
            writing = self._asking[target] = self._begin(self._ask(question))
        return await asyncio.shield(writing)

    def _check_room(self, question: Question) -> None:
        """Where there is no room, the newest questions of who asks most make some: one flood shuts nobody else out."""
        crowd: list[Question] | None = None
        while True:
            try:
                terms.check_room(
                    self.approvals,
                    len(self._index.pending) + len(self._asking),
                    self._index.weight + self._asking_bytes + question.weight,
                )
            except LimitReached:
                crowd = self._index.crowding(question.who) if crowd is None else crowd
                crowd = [q for q in crowd if q.id != self._deciding]
                if not crowd:
                    raise
                self._end([crowd.pop(0)], "cancelled", "others had no room left to ask; ask again later")
                self._trim()
            else:
                return

    async def _ask(self, question: Question) -> Question:
        try:
            await self._store.write(lambda conn: rows.add_question(conn, question))
        finally:
            del self._asking[question.target]
            self._asking_bytes -= question.weight
        self._index.add(question)
        self._deadlines.set(question.id, question.expires)
        self._report.asked(question)
        if question.policy_digest != self.digest:
            self._outdated([question])
        return self._index.questions[question.id]

    def _check_refused(self, target: str) -> None:
        """Agents send again what was refused (lesson 21): nobody is asked twice within the time of a question."""
        if (ident := self._index.refused.get(target)) is None:
            return
        question = self._index.questions[ident]
        left = (question.ended or 0.0) + self.approvals.timeout_ms / 1000 - self._clock()
        if left > 0:
            raise terms.refusal(question, int(left) + 1)

    async def wait(self, ident: str, timeout: float | None) -> Question:  # noqa: ASYNC109
        """The question once it is answered or over, or as it is after `timeout` seconds. Raises NotFound."""
        question = self.question(ident)
        if question.state != "pending":
            return question
        waiter = self._waiters.setdefault(ident, asyncio.get_running_loop().create_future())
        await asyncio.wait({waiter}, timeout=timeout)
        return waiter.result() if waiter.done() else self.question(ident)

    # --- answering ------------------------------------------------------------------------------------------------

    async def answer(
        self,
        ident: str,
        uid: int,
        *,
        approve: bool,
        scope: Scope = "once",
        times: int | None = None,
        duration_ms: int | None = None,
        note: str = "",
        unit: str = "",
        check: Callable[[Question], None] | None = None,
    ) -> Question:
        """What one person says; `check` may refuse once more what policy would not let be asked now.

        Raises NotFound, Denied (one's own request, a session scope that would cover too much), Conflict (over, said
        already, other terms than the first person's), InvalidRequest, LimitReached, Unavailable.
        """
        said = Answer(uid, approve, scope, times, duration_ms, note, self._clock())
        return await asyncio.shield(self._begin(self._answer(ident, unit, said, check)))

    async def _answer(self, ident: str, unit: str, said: Answer, check: Callable[[Question], None] | None) -> Question:
        async with self._lock:
            question = self._in_time(ident)
            try:
                self._check_open(question)
                terms.check_person(question, said.uid, unit)
                terms.check_terms(question, said, self.approvals)
                if check is not None and said.approve:
                    check(question)
                after, grant = self._outcome(question, said)
            except (Denied, Conflict, InvalidRequest, LimitReached) as e:
                self._report.refused(question, said.uid, e)
                raise

            def write(conn: sqlite3.Connection) -> None:
                rows.add_answer(conn, ident, said)
                if after.state != "pending":
                    rows.end_questions(conn, [after])
                if grant is not None:
                    rows.add_grant(conn, grant)

            await self._decide(question, write)
            self._index.change(after)
            self._deadlines.set(ident, after.expires) if after.state == "pending" else self._deadlines.drop(ident)
            if grant is not None:
                self._index.put(grant)
                self._deadlines.set(grant.id, grant.until)
            self._report.answered(after, said, grant)
            self._wake(after)
            self._trim()
            return after

    def _check_open(self, question: Question) -> None:
        if question.state != "pending":
            raise Conflict(f"{question.id} is over: {question.state}", field="approval", hint="the agent may ask again")
        if question.policy_digest != self.digest:
            raise Conflict("the policy was reloaded since this was asked", field="approval", hint="it is asked again")

    def _outcome(self, question: Question, said: Answer) -> tuple[Question, Grant | None]:
        after = replace(question, answers=(*question.answers, said))
        if not said.approve:
            return replace(after, state="denied", ended=said.time), None
        if after.yes < after.needed:
            return after, None
        terms.check_grants(self._index.live_grants)
        after = replace(after, state="approved", ended=said.time)
        return after, terms.granted(after, self.approvals, self._clock())

    async def withdraw(self, ident: str) -> Question:
        """It is not asked any more. Raises NotFound; Conflict when it is over."""
        return await asyncio.shield(self._begin(self._withdraw(ident)))

    async def _withdraw(self, ident: str) -> Question:
        async with self._lock:
            question = self._in_time(ident)
            if question.state != "pending":
                self._check_open(question)
            after = replace(question, state="cancelled", ended=self._clock())
            await self._decide(question, lambda conn: rows.end_questions(conn, [after]))
            self._over(after, "withdrawn")
            self._trim()
            return after

    async def _decide(self, question: Question, write: Callable[[sqlite3.Connection], None]) -> None:
        """Write down what becomes of a question; while that is under way it does not expire."""
        self._deciding = question.id
        try:
            await self._store.write(write)
        except BaseException:
            self._deadlines.set(question.id, question.expires)
            raise
        finally:
            self._deciding = ""

    # --- looking --------------------------------------------------------------------------------------------------

    def question(self, ident: str) -> Question:
        """Raises NotFound: also of one that has ended long ago."""
        if (found := self._index.questions.get(ident)) is None:
            raise NotFound(f"no approval {ident[:64]!r}", field="id", hint="see `stockade approvals list`")
        return found

    def questions(self, state: State | None = None) -> list[Question]:
        """Newest first."""
        found = self._index.pending_questions() if state == "pending" else self._index.questions.values()
        return sorted((q for q in found if state in (None, q.state)), key=lambda q: q.created)[::-1]

    # --- what ends by itself --------------------------------------------------------------------------------------

    def _in_time(self, ident: str) -> Question:
        """A question as it is now, also when its timer is late. Raises NotFound."""
        question = self.question(ident)
        if question.state == "pending" and question.expires <= self._clock():
            self._due([ident])
        return self.question(ident)

    def _outdated(self, questions: list[Question]) -> None:
        self._end(questions, "cancelled", "the policy was reloaded; ask again")
        self._trim()

    def _due(self, idents: list[str]) -> None:
        found = [self._index.questions[i] for i in idents if i in self._index.questions and i != self._deciding]
        self._end(found, "expired", "nobody answered in time")
        super()._due(idents)

    def _end(self, questions: list[Question], state: State, why: str) -> None:
        now = self._clock()
        current = [self._index.questions[q.id] for q in questions if q.id in self._index.questions]
        over = [replace(q, state=state, ended=now) for q in current if q.state == "pending"]
        for question in over:
            self._over(question, why)
        if over:
            self._post(lambda conn: rows.end_questions(conn, over))

    def _over(self, question: Question, why: str) -> None:
        self._index.change(question)
        self._deadlines.drop(question.id)
        self._report.ended(question, why)
        self._wake(question)

    def _wake(self, question: Question) -> None:
        if question.state != "pending" and (waiter := self._waiters.pop(question.id, None)) is not None:
            waiter.set_result(question)
