"""A Desk without a decision: it keeps what it is asked and answers with real questions and grants."""

# ruff: noqa: ARG002 - the arguments are those of the real Desk
from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.approvals.model import Answer, Grant, Question, new_id, pack
from supervisor.errors import Denied, NotFound, StepUpRequired

if TYPE_CHECKING:
    from supervisor.runs.model import Peer, RunRequest

REASON = {
    "rule": "autonomy.approval_patterns[0]", "source": "policy.toml:3", "detail": "'git push' is 'git push'",
    "subject": "pattern git push", "start": 0, "end": 8, "blanket": True,
}  # fmt: skip


def question(**changes: Any) -> Question:
    what = {"tool": "shell", "argv": ["git", "push"], "cwd": "/srv/ws", "files": []}
    asked = Question(
        id=new_id("apr"), kind="run", state="pending", asker={"uid": 1000, "pid": 7, "unit": ""}, labels={"agent": "a"},
        session="ses-aaaaaaaaaaaa", target="0" * 64, policy_digest="1" * 64, created=1.5, expires=601.5, needed=1,
        shown=pack(what, [REASON]),
    )  # fmt: skip
    return replace(asked, **changes)


def grant(of: Question, **changes: Any) -> Grant:
    given = Grant(
        id=new_id("gra"), question=of.id, kind=of.kind, scope="target", uid=1000, unit="", target=of.target,
        session=of.session, subjects=(), role=None, policy_digest=of.policy_digest, by=(0,), created=2.0, until=602.0,
        uses=1,
    )  # fmt: skip
    return replace(given, **changes)


class DeskDouble:
    """`code` is what privileged orders take, None for nothing; `asked` is every call by name with its arguments."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.code: str | None = None
        self.own: set[str] = set()
        self._questions: dict[str, Question] = {}
        self._grants: dict[str, Grant] = {}
        self._answered: dict[str, asyncio.Event] = {}

    def ask(self, **changes: Any) -> Question:
        made = question(**changes)
        self._questions[made.id] = made
        self._answered[made.id] = asyncio.Event()
        return made

    def give(self, **changes: Any) -> Grant:
        made = grant(self.ask(), **changes)
        self._grants[made.id] = made
        return made

    def _step_up(self, code: str | None) -> None:
        if self.code is not None and code != self.code:
            raise StepUpRequired("a one-time code is needed", hint="send the header X-Stockade-Code")

    def _end(self, ident: str, **changes: Any) -> Question:
        self._questions[ident] = replace(self._questions[ident], ended=3.0, **changes)
        self._answered[ident].set()
        return self._questions[ident]

    def questions(self, peer: Peer, *, state: str | None, limit: int) -> list[Question]:
        self.asked.append(("questions", (state, limit)))
        return [q for q in self._questions.values() if state in (None, q.state)][:limit]

    def question(self, peer: Peer, ident: str) -> Question:
        if ident not in self._questions:
            raise NotFound(f"there is no question {ident}", field="id")
        return self._questions[ident]

    async def wait(self, peer: Peer, ident: str) -> Question:
        if self.question(peer, ident).state == "pending":
            await self._answered[ident].wait()
        return self._questions[ident]

    async def answer(
        self,
        peer: Peer,
        ident: str,
        *,
        approve: bool,
        scope: str,
        times: int | None,
        duration_ms: int | None,
        note: str,
        code: str | None,
    ) -> Question:
        self.asked.append(("answer", (approve, scope, times, duration_ms, note)))
        self._step_up(code)
        if ident in self.own:
            raise Denied("nobody answers a question of their own", field="id", hint="somebody else has to")
        said = Answer(0, approve, scope, times, duration_ms, note, 2.0)  # type: ignore[arg-type]
        return self._end(self.question(peer, ident).id, state="approved" if approve else "denied", answers=(said,))

    async def withdraw(self, peer: Peer, ident: str) -> Question:
        return self._end(self.question(peer, ident).id, state="cancelled")

    def grants(self, peer: Peer) -> list[Grant]:
        return list(self._grants.values())

    async def revoke(self, peer: Peer, ident: str, code: str | None) -> Grant:
        self._step_up(code)
        if ident not in self._grants:
            raise NotFound(f"there is no grant {ident}", field="id")
        return replace(self._grants.pop(ident), ended="revoked", ended_at=4.0)

    async def request_access(self, peer: Peer, role: str, duration_ms: int, reason: str) -> Question:
        self.asked.append(("request_access", (role, duration_ms, reason)))
        return self.ask(kind="access", session=None)

    async def explain(self, peer: Peer, request: RunRequest) -> dict[str, Any]:
        self.asked.append(("explain", request))
        return {"verdict": "ask", "reasons": [REASON], "steps": [], "change": None}

    def tools(self, peer: Peer) -> list[dict[str, Any]]:
        return [self.tool(peer, "shell")]

    def tool(self, peer: Peer, name: str) -> dict[str, Any]:
        if name != "shell":
            raise NotFound(f"there is no tool {name!r}", field="name")
        return {"tool": "shell", "allowed": True, "rule": "tools.shell_enabled", "source": "p.toml:1", "reason": "on"}

    def breakers(self, peer: Peer) -> list[dict[str, Any]]:
        return [{"key": "uid:1000/a", "state": "open", "since": 1.5, "until": None}]

    async def reset_breaker(self, peer: Peer, key: str, code: str | None) -> dict[str, Any]:
        self._step_up(code)
        self.asked.append(("reset_breaker", key))
        return {"key": key, "state": "closed"}

    def queue(self, peer: Peer) -> list[dict[str, Any]]:
        return [{"id": "run-aaaaaaaaaaaa", "agent": "uid:0", "position": 1, "since": 1.5, "argv": ["true"]}]

    async def leave_queue(self, peer: Peer, ident: str) -> dict[str, Any]:
        self.asked.append(("leave_queue", ident))
        return {"id": ident, "state": "cancelled"}

    def usage(self, peer: Peer) -> dict[str, Any]:
        return {"rates": [], "budgets": []}

    async def unused(self, peer: Peer, days: int) -> list[dict[str, Any]]:
        self.asked.append(("unused", days))
        return [{"rule": "rules[0]", "source": "p.toml:9", "last_used": None, "count": 0}]

    async def enroll(self, peer: Peer, code: str | None) -> dict[str, Any]:
        self._step_up(code)
        return {"uri": "otpauth://totp/Stockade:uid-0?secret=ABC", "secret": "ABC"}
