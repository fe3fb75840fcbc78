"""Any sequence of orders, time and restarts leaves the book where a simple model of it is."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from supervisor.errors import ApprovalDenied, Conflict, Denied, LimitReached, StockadeError
from supervisor.policy.snapshot import Approvals
from tests.unit.approvals.world import ANNA, BERT, POLICY, SESSION, World

if TYPE_CHECKING:
    from collections.abc import Coroutine

APPROVALS = Approvals(timeout_ms=100_000, pending=4, grant_ms=50_000, longest_ms=300_000)
OTHER_POLICY = "ef" * 32
TERMS = [
    ("once", None, None),
    ("times", 2, None),
    ("until", None, 80_000),
    ("session", None, None),
    ("target", None, None),
]
PLACES = ("/a", "/b", "/c", "/d", "/e", "/f")


@dataclass
class Asked:
    place: str
    policy: str
    needed: int
    expires: float
    state: str = "pending"
    ended: float = 0.0
    yes: dict[int, tuple[Any, ...]] = field(default_factory=dict)


@dataclass
class Given:
    place: str
    policy: str
    session: bool
    left: int | None
    until: float
    over: bool = False


class Books(RuleBasedStateMachine):
    questions = Bundle("questions")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.asked: dict[str, Asked] = {}
        self.given: dict[str, Given] = {}
        self.policy = POLICY
        self.world = self.run(self._make())

    async def _make(self) -> World:
        world = World(str(Path(self.folder.name) / "decisions.db"), APPROVALS)
        await world.start()
        return world

    def teardown(self) -> None:
        self.run(self.world.stop())
        self.loop.close()
        self.folder.cleanup()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def outcome(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What came of it: a value, or the class of the refusal."""
        try:
            return self.run(work)
        except StockadeError as e:
            return type(e)

    @property
    def now(self) -> float:
        return float(self.world.clock())

    def holding(self, place: str, session: str | None, policy: str) -> list[str]:
        return [
            ident
            for ident, g in self.given.items()
            if not g.over and g.policy == policy and (session == SESSION if g.session else g.place == place)
        ]

    # --- orders -----------------------------------------------------------------------------------------------------

    @rule(target=questions, place=st.sampled_from(PLACES), needed=st.sampled_from([1, 1, 2]))
    def ask(self, place: str, needed: int) -> Any:
        same = [i for i, q in self.asked.items() if (q.place, q.policy) == (place, self.policy)]
        pending = [i for i in same if self.asked[i].state == "pending"]
        last = max(
            (self.asked[i] for i in same if self.asked[i].state != "cancelled"), key=lambda q: q.ended, default=None
        )
        told = self.outcome(self.world.ask(cwd=place, needed=needed, policy_digest=self.policy))
        if pending:
            assert told.id == pending[0]
            return multiple()
        if last is not None and last.state in ("denied", "expired") and self.now < last.ended + 100:
            assert told is ApprovalDenied
            return multiple()
        if sum(q.state == "pending" for q in self.asked.values()) >= APPROVALS.pending:
            assert told is LimitReached
            return multiple()
        self.asked[told.id] = Asked(place, self.policy, needed, self.now + 100)
        return told.id

    @rule(
        ident=questions,
        uid=st.sampled_from([ANNA, ANNA, BERT, 1000]),
        approve=st.sampled_from([True, True, True, False]),
        terms=st.sampled_from(
            [
                ("once", None, None),
                ("times", 2, None),
                ("until", None, 80_000),
                ("session", None, None),
                ("target", None, None),
            ]
        ),
    )
    def answer(self, ident: str, uid: int, approve: bool, terms: tuple[Any, ...]) -> None:
        question = self.asked[ident]
        scope, times, duration = terms
        told = self.outcome(
            self.world.book.answer(ident, uid, approve=approve, scope=scope, times=times, duration_ms=duration)
        )
        if question.state != "pending":
            assert told is Conflict
        elif uid == 1000:
            assert told is Denied
        elif uid in question.yes or (approve and any(t != terms for t in question.yes.values())):
            assert told is Conflict
        elif not approve:
            question.state, question.ended = "denied", self.now
        else:
            question.yes[uid] = terms
            if len(question.yes) == question.needed:
                question.state, question.ended = "approved", self.now
                (ident_of_grant,) = [g.id for g in self.world.book.grants() if g.question == ident]
                self.given[ident_of_grant] = Given(
                    question.place, question.policy, scope == "session", {"once": 1, "times": 2}.get(scope),
                    self.now + {"until": 80, "session": 300}.get(scope, 50),
                )  # fmt: skip

    @rule(ident=consumes(questions))
    def withdraw(self, ident: str) -> None:
        told = self.outcome(self.world.book.withdraw(ident))
        question = self.asked[ident]
        if question.state != "pending":
            assert told is Conflict
        else:
            question.state, question.ended = "cancelled", self.now

    @rule(place=st.sampled_from(PLACES), session=st.sampled_from([SESSION, "ses-bbbbbbbbbbbb", None]))
    def use(self, place: str, session: str | None) -> None:
        found = self.world.match(cwd=place, session=session, policy_digest=self.policy)
        fitting = self.holding(place, session, self.policy)
        assert (found is None) == (not fitting)
        if found is None:
            return
        assert found.id in fitting
        assert found.left is None or not [i for i in fitting if self.given[i].left is None]
        used = self.run(self.world.book.use(found))
        given = self.given[found.id]
        if given.left is not None:
            given.left -= 1
            given.over = given.left == 0
        assert used.left == given.left

    @rule(data=st.data())
    def revoke(self, data: st.DataObject) -> None:
        if not self.given:
            return
        ident = data.draw(st.sampled_from(list(self.given)))
        told = self.outcome(self.world.book.revoke(ident, ANNA))
        assert (told is Conflict) == self.given[ident].over
        self.given[ident].over = True

    @rule(seconds=st.sampled_from([1, 25, 49, 60, 110]))
    def wait(self, seconds: int) -> None:
        end = self.now + seconds
        for question in self.asked.values():
            if question.state == "pending" and question.expires <= end:
                question.state, question.ended = "expired", question.expires
        for given in self.given.values():
            given.over = given.over or given.until <= end
        self.world.clock.advance(seconds)

    @rule()
    def session_ends(self) -> None:
        self.world.book.session_ended(SESSION)
        for given in self.given.values():
            given.over = given.over or given.session

    @rule()
    def reload(self) -> None:
        self.policy = OTHER_POLICY if self.policy == POLICY else POLICY
        self.run(self.world.book.serve(APPROVALS, self.policy))
        for question in self.asked.values():
            if question.state == "pending" and question.policy != self.policy:
                question.state, question.ended = "cancelled", self.now
        for given in self.given.values():
            given.over = given.over or given.policy != self.policy

    @rule()
    def restart(self) -> None:
        self.run(self.world.restart(self.policy))
        for given in self.given.values():
            given.over = given.over or given.session

    # --- what always holds ------------------------------------------------------------------------------------------

    @invariant()
    def the_book_and_the_model_say_the_same(self) -> None:
        book = self.world.book
        assert {q.id: (q.state, q.yes) for q in book.questions()} == {
            i: (q.state, len(q.yes)) for i, q in self.asked.items()
        }
        assert {g.id: (g.left, g.ended is not None) for g in book.grants()} == {
            i: (g.left, g.over) for i, g in self.given.items()
        }
        assert {q.id for q in book.questions("pending")} == {i for i, q in self.asked.items() if q.state == "pending"}


Books.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestBooks = Books.TestCase
