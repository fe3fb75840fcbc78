"""Roles for a time (R64): asked for with a reason, given by somebody else, ended by themselves.

What is given is a grant with scope "role"; `Book.roles()` says which somebody has now, `Book.revoke()` ends one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.approvals.model import digest_of
from supervisor.errors import Conflict, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.approvals.book import Book
    from supervisor.approvals.model import Question

MAX_REASON = 2048  # characters


class Access:
    """`allowed(uid, unit, role)` raises Denied unless the policy in force lets that caller ask for the role."""

    def __init__(self, book: Book, allowed: Callable[[int, str, str], None]) -> None:
        self._book, self._allowed = book, allowed

    async def request(
        self,
        asker: dict[str, Any],
        role: str,
        duration_ms: int,
        reason: str,
        *,
        labels: dict[str, str] | None = None,
        needed: int = 1,
    ) -> Question:
        """Ask for a role; the question is durable and pending. A role that is asked for already is asked for once.

        Raises Denied, InvalidRequest, Conflict (it is held, or asked for with another time), and as Book.ask().
        """
        self._allowed(asker["uid"], asker["unit"], role)
        approvals = self._book.approvals
        if not 1 <= duration_ms <= approvals.access_ms:
            raise InvalidRequest(
                f"a role for {duration_ms} ms",
                field="duration",
                rule="approvals.access",
                source=approvals.source or None,
                allowed=f"1 to {approvals.access_ms} ms",
            )
        if not reason.strip() or len(reason) > MAX_REASON:
            raise InvalidRequest(
                "a role is asked for with a reason", field="reason", allowed=f"1 to {MAX_REASON} characters"
            )
        if role in self._book.roles(asker["uid"], asker["unit"], self._book.now()):
            raise Conflict(f"the role {role} is held already", field="role", hint="ask again when it has ended")
        # Neither reason nor time are part of it: who was told no does not get another question by other words.
        whole = {"uid": asker["uid"], "unit": asker["unit"], "role": role, "policy": self._book.digest}
        question = await self._book.ask(
            "access",
            asker,
            digest_of("access", whole),
            {"role": role, "duration_ms": duration_ms, "reason": reason},
            [_reason(role, duration_ms, reason)],
            labels=labels,
            needed=needed,
        )
        if question.what["duration_ms"] != duration_ms:
            raise Conflict(
                f"{role} is asked for already, for {question.what['duration_ms']} ms",
                field="role",
                hint="wait for the answer, or withdraw the request",
                approval=question.id,
            )
        return question

    def check(self, question: Question) -> None:
        """At the answer: whether it may still be asked for. Raises Denied. Other questions pass."""
        if question.kind == "access":
            self._allowed(question.asker["uid"], question.asker["unit"], question.what["role"])


def _reason(role: str, duration_ms: int, reason: str) -> dict[str, Any]:
    return {
        "rule": "callers.may_request",
        "source": None,
        "detail": f"{role} for {duration_ms // 1000} s: {reason}",
        "subject": f"role {role}",
        "blanket": False,
    }
