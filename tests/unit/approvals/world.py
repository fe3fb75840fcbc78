"""A book over a real store, with a clock that the test moves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.approvals.book import Book
from supervisor.approvals.model import Target
from supervisor.approvals.report import Report
from supervisor.policy.snapshot import Approvals
from supervisor.state.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.approvals.model import Grant, Question

AGENT: dict[str, Any] = {"uid": 1000, "pid": 7, "unit": "agent.service"}
ANNA, BERT, ROOT = 2001, 2002, 0  # people
POLICY = "ab" * 32
SESSION = "ses-aaaaaaaaaaaa"
APPROVALS = Approvals(source="policy.toml:9")
TARGET = Target(
    uid=1000,
    unit="agent.service",
    tool="shell",
    argv=("git", "push", "--force"),
    script=None,
    cwd="/srv/ws",
    env_names=("A", "B"),
    stdin="",
    workspace="/srv/ws",
    profile="shell",
    readonly=False,
    network="",
    files=(("/srv/ws/x.sh", "cd" * 32),),
    policy_digest=POLICY,
)
REASON: dict[str, Any] = {
    "rule": "autonomy.approval_patterns[0]",
    "source": "policy.toml:3",
    "detail": "'git push --force' is 'git push --force'",
    "subject": "pattern git push --force",
    "start": 0,
    "end": 16,
    "blanket": True,
}


class Clock:
    """Unix time that only the test moves, and the timers that wait for it."""

    def __init__(self) -> None:
        self.time = 1_790_000_000.0
        self._timers: list[Timer] = []

    def __call__(self) -> float:
        return self.time

    def later(self, delay: float, call: Callable[[], None]) -> Timer:
        timer = Timer(self.time + delay, call)
        self._timers.append(timer)
        return timer

    @property
    def waiting(self) -> int:
        return sum(not t.cancelled for t in self._timers)

    def advance(self, seconds: float) -> None:
        """Let time pass; timers ring at their time and in their order."""
        end = self.time + seconds
        while due := [t for t in self._timers if not t.cancelled and t.when <= end]:
            first = min(due, key=lambda t: t.when)
            self._timers.remove(first)
            self.time = max(self.time, first.when)
            first.call()
        self._timers = [t for t in self._timers if not t.cancelled]
        self.time = end


class Timer:
    def __init__(self, when: float, call: Callable[[], None]) -> None:
        self.when, self.call, self.cancelled = when, call, False

    def cancel(self) -> None:
        self.cancelled = True


class World:
    """`events` are those of the stream as (kind, uid, data), `records` those of the audit log."""

    def __init__(self, path: str, approvals: Approvals = APPROVALS) -> None:
        self.path, self.approvals = path, approvals
        self.clock = Clock()
        self.events: list[tuple[str, int | None, dict[str, Any]]] = []
        self.records: list[dict[str, Any]] = []
        self._requested: asyncio.Queue[str] = asyncio.Queue()

    async def start(self, digest: str = POLICY) -> None:
        self.store = Store(self.path)
        await self.store.open()
        report = Report(self._emit, self.kept)
        self.book = Book(self.store, report, clock=self.clock, later=self.clock.later)
        await self.book.load()
        await self.book.serve(self.approvals, digest)

    async def stop(self) -> None:
        await self.book.close()
        await self.store.close()

    async def restart(self, digest: str = POLICY) -> None:
        await self.stop()
        await self.start(digest)

    def kept(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def _emit(self, kind: str, uid: int | None, **data: Any) -> None:
        self.events.append((kind, uid, data))
        if kind == "approval.requested":
            self._requested.put_nowait(data["approval"])

    async def next_question(self) -> Question:
        """The next question that is asked, or was and was not fetched here yet."""
        return self.book.question(await self._requested.get())

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.events]

    def actions(self) -> list[str]:
        return [record["action"] for record in self.records]

    async def ask(
        self, *reasons: dict[str, Any], needed: int = 1, session: str | None = SESSION, **changes: Any
    ) -> Question:
        target = replace(TARGET, **changes)
        what = {"tool": target.tool, "argv": list(target.argv or ()), "workspace": target.workspace}
        what["stdin"] = target.stdin
        return await self.book.ask(
            "run", AGENT, target.digest(), what, list(reasons) or [REASON], session=session, needed=needed
        )

    async def grant(self, scope: Any = "once", *reasons: dict[str, Any], changes: Any = None, **terms: Any) -> Grant:
        """Ask, and have Anna say yes."""
        question = await self.ask(*reasons, **(changes or {}))
        await self.book.answer(question.id, ANNA, approve=True, scope=scope, **terms)
        return next(g for g in self.book.grants() if g.question == question.id)

    def match(self, *reasons: dict[str, Any], session: str | None = SESSION, **changes: Any) -> Grant | None:
        target = replace(TARGET, **changes)
        found = list(reasons) or [REASON]
        return self.book.match(
            target.digest(), session, {r["subject"] for r in found}, target.uid, target.unit, target.policy_digest,
            self.clock(), blanket=all(r["blanket"] for r in found),
        )  # fmt: skip
