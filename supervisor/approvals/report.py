"""What the book tells: an event to whoever listens, a record to the audit log, for each thing that happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from supervisor.audit import events

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.approvals.model import Answer, Grant, Question
    from supervisor.errors import StockadeError


class Emit(Protocol):
    def __call__(self, kind: str, uid: int | str | None, **data: Any) -> None: ...


class Report:
    """`emit` is runs.bus.Bus.emit; `record` takes an audit event and does not wait for it."""

    def __init__(self, emit: Emit, record: Callable[[dict[str, Any]], None]) -> None:
        self._emit, self._record = emit, record

    def asked(self, q: Question) -> None:
        self._emit(
            "approval.requested", q.asker["uid"], approval=q.id, about=q.kind, unit=q.asker["unit"],
            session=q.session, expires=q.expires, needed=q.needed,
        )  # fmt: skip
        self._of_question("asked", q, "pending", reason=_why(q), args=True)

    def answered(self, q: Question, answer: Answer, grant: Grant | None) -> None:
        said = {"by": answer.uid, "approve": answer.approve, "yes": q.yes, "needed": q.needed}
        self._emit("approval.answered", q.asker["uid"], approval=q.id, state=q.state, **said)
        terms = {"scope": answer.scope, "times": answer.times, "duration_ms": answer.duration_ms}
        self._of_question(
            "answered", q, q.state, reason=answer.note or None, result=said | (terms if answer.approve else {})
        )
        if grant is not None:
            self._of_grant("granted", grant, "live")

    def ended(self, q: Question, why: str) -> None:
        """A question that nobody answered, or that is not asked any more."""
        action = "expired" if q.state == "expired" else "withdrawn"
        self._emit(f"approval.{action}", q.asker["uid"], approval=q.id, state=q.state, reason=why)
        self._of_question(action, q, q.state, reason=why)

    def refused(self, q: Question, uid: int, refusal: StockadeError) -> None:
        """An answer that was not taken."""
        self._of_question("refused", q, "deny", reason=f"{refusal.code}: {refusal.detail}", result={"by": uid})

    def used(self, grant: Grant) -> None:
        self._emit("grant.used", grant.uid, grant=grant.id, left=grant.left)
        self._of_grant("used", grant, "live" if grant.ended is None else grant.ended)

    def grant_ended(self, grant: Grant, by: int | None = None) -> None:
        """By itself, with its session or its policy, or because somebody took it back."""
        action = "revoked" if grant.ended == "revoked" else "ended"
        self._emit(f"grant.{action}", grant.uid, grant=grant.id, role=grant.role, cause=grant.ended, by=by)
        self._of_grant(action, grant, grant.ended or "", by=by)

    def _of_question(
        self,
        action: str,
        q: Question,
        outcome: str,
        *,
        reason: str | None = None,
        args: bool = False,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        what, said = q.what, dict(result or {})
        command = what.get("argv") or what.get("script") if args else None
        if isinstance(command, dict):  # too long to be shown whole: what proves it, without its head
            said["command"] = {name: command.get(name) for name in ("bytes", "sha256")}
            command = None
        self._record(
            events.approval(
                action=action,
                outcome=outcome,
                caller=q.asker,
                session_id=q.session,
                tool=what.get("tool"),
                resource=what.get("workspace"),
                args=command,
                reason=reason,
                policy_digest=q.policy_digest,
                labels=q.labels,
                result={"approval": q.id, "kind": q.kind, "target": q.target, **said},
            )
        )

    def _of_grant(self, action: str, grant: Grant, outcome: str, by: int | None = None) -> None:
        self._record(
            events.approval(
                action=action,
                outcome=outcome,
                caller={"uid": grant.uid, "unit": grant.unit},
                session_id=grant.session,
                policy_digest=grant.policy_digest,
                result={
                    "approval": grant.question,
                    "grant": grant.id,
                    "kind": grant.kind,
                    "scope": grant.scope,
                    "target": grant.target,
                    "role": grant.role,
                    "until": grant.until,
                    "used": grant.used,
                    "left": grant.left,
                    "granted_by": list(grant.by),
                    "by": by,
                },
            )
        )


def _why(q: Question) -> str | None:
    return "; ".join(f"{r.get('rule')}: {r.get('detail')}" for r in q.reasons) or None
