"""What the book holds in memory: questions and grants, found by id, by target, by session and by owner. Pure.

Bounded: pending questions by the caller of add() and by `weight`; what has ended is forgotten oldest first. The
lists that forget() and friends return are what has to go from the disk too.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from supervisor.approvals.model import Grant, Question

KEPT_QUESTIONS = 1000  # that have ended
KEPT_BYTES = 16 << 20  # that those show, compressed
KEPT_GRANTS = 1000  # that have ended


class Index:
    def __init__(self) -> None:
        self.questions: dict[str, Question] = {}
        self.grants: dict[str, Grant] = {}
        self.pending: dict[str, str] = {}  # target -> id of the question about it
        self.refused: dict[str, str] = {}  # target -> id of the question that ended without a yes, kept as long as it
        self.weight = 0  # bytes that pending questions keep
        self._asked: Counter[tuple[int, str]] = Counter()  # pending questions of each uid and unit
        self._ended: dict[str, None] = {}  # questions, oldest first
        self._ended_bytes = 0
        self._ended_grants: dict[str, None] = {}
        self._places: dict[str, dict[str, None]] = {}  # where a grant is looked for -> ids of those that hold

    @property
    def live_grants(self) -> int:
        return len(self.grants) - len(self._ended_grants)

    # --- questions ------------------------------------------------------------------------------------------------

    def add(self, question: Question) -> None:
        """A question that is new here."""
        self.questions[question.id] = question
        if question.state == "pending":
            self.pending[question.target] = question.id
            self.weight += question.weight
            self._asked[question.who] += 1
        else:
            self._keep(question)

    def change(self, question: Question) -> None:
        """A pending question that has another answer or has ended."""
        self.questions[question.id] = question
        if question.state == "pending":
            return
        self.weight -= question.weight
        self._asked[question.who] -= 1
        if self._asked[question.who] <= 0:
            del self._asked[question.who]
        if self.pending.get(question.target) == question.id:
            del self.pending[question.target]
        self._keep(question)

    def _keep(self, question: Question) -> None:
        self._ended[question.id] = None
        self._ended_bytes += question.weight
        if question.state in ("denied", "expired"):
            self.refused[question.target] = question.id
        elif question.state == "approved":
            self.refused.pop(question.target, None)

    def forget_questions(self) -> list[str]:
        """Let the oldest go of those that have ended, until they are within bounds; their ids."""
        gone: list[str] = []
        while self._ended and (len(self._ended) > KEPT_QUESTIONS or self._ended_bytes > KEPT_BYTES):
            ident = next(iter(self._ended))
            del self._ended[ident]
            question = self.questions.pop(ident)
            self._ended_bytes -= question.weight
            if self.refused.get(question.target) == ident:
                del self.refused[question.target]
            gone.append(ident)
        return gone

    def pending_questions(self) -> Iterator[Question]:
        return (self.questions[ident] for ident in self.pending.values())

    def crowding(self, who: tuple[int, str]) -> list[Question]:
        """What somebody asks who asks more than `who` would with one question more: so much of it, the newest first."""
        most, fair = max(self._asked.values(), default=0), self._asked.get(who, 0) + 1
        if most <= fair:
            return []
        other = next(one for one, count in self._asked.items() if count == most)
        theirs = sorted((q for q in self.pending_questions() if q.who == other), key=lambda q: q.created)
        return theirs[fair:][::-1]

    # --- grants ---------------------------------------------------------------------------------------------------

    def put(self, grant: Grant) -> None:
        """A grant that is new, or that was used or has ended."""
        self.grants[grant.id] = grant
        place = _place(grant)
        if grant.ended is None:
            self._places.setdefault(place, {})[grant.id] = None
            return
        self._ended_grants[grant.id] = None
        here = self._places.get(place, {})
        here.pop(grant.id, None)
        if not here:
            self._places.pop(place, None)

    def _at(self, place: str) -> list[Grant]:
        return [self.grants[ident] for ident in self._places.get(place, ())]

    def forget_grants(self) -> list[str]:
        """Let the oldest go of those that have ended; their ids."""
        gone: list[str] = []
        while len(self._ended_grants) > KEPT_GRANTS:
            ident = next(iter(self._ended_grants))
            del self._ended_grants[ident]
            del self.grants[ident]
            gone.append(ident)
        return gone

    def live(self) -> list[Grant]:
        return [grant for grant in self.grants.values() if grant.ended is None]

    def of_session(self, session: str) -> list[Grant]:
        """Those that end with it."""
        return self._at(f"session {session}")

    def of_owner(self, uid: int, unit: str) -> list[Grant]:
        """The roles that somebody asked for and was given."""
        return self._at(f"role {uid} {unit}")

    def match(
        self,
        target: str,
        session: str | None,
        subjects: Collection[str],
        uid: int,
        unit: str,
        digest: str,
        now: float,
        *,
        blanket: bool,
    ) -> Grant | None:
        """The grant under which this may run; of several one that is not counted, then the one that ends first.

        A grant for a session covers a request whose every reason is a subject that was granted, and none of whose
        reasons is one that no blanket yes can cover.
        """
        found = self._at(f"target {target}")
        if blanket and session is not None and subjects:
            found += [g for g in self.of_session(session) if set(subjects) <= set(g.subjects)]
        fitting = [g for g in found if g.uid == uid and g.unit == unit and g.holds(digest, now)]
        return min(fitting, key=lambda g: (g.uses is not None, g.until), default=None)


def _place(grant: Grant) -> str:
    if grant.scope == "role":
        return f"role {grant.uid} {grant.unit}"
    return f"session {grant.session}" if grant.scope == "session" else f"target {grant.target}"
