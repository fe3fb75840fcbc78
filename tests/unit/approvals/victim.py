"""A process that asks, answers and uses until it is killed, and says what was acknowledged to it.

`python -m tests.unit.approvals.victim DATABASE SEED STEP SECRET`; one line of stdout for each thing: what is begun
(`using`), and what is done (`asked`, `answered`, `used`, `step`).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from dataclasses import replace
from typing import Any

import pyotp

from supervisor.approvals.book import Book
from supervisor.approvals.report import Report
from supervisor.approvals.totp import Codes
from supervisor.errors import StockadeError
from supervisor.policy.snapshot import Approvals
from supervisor.state.store import Store
from tests.unit.approvals.world import AGENT, ANNA, BERT, POLICY, REASON, TARGET

APPROVALS = Approvals(timeout_ms=3_600_000, grant_ms=3_600_000, pending=10_000)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # at once: what is in a buffer would die with it


class Victim:
    def __init__(self, store: Store, seed: int, step: int, secret: str) -> None:
        self.random, self.step, self.secret = random.Random(seed), step, secret  # noqa: S311
        self.book = Book(store, Report(lambda *_a, **_k: None, lambda _e: None))
        self.codes = Codes(store, lambda *_a: None, clock=lambda: step * 30.0)

    async def live(self) -> None:
        await self.book.load()
        await self.book.serve(APPROVALS, POLICY)
        await self.codes.load()
        say("ready")
        await asyncio.gather(*(self.act() for _ in range(6)), *(self.code() for _ in range(2)))

    async def act(self) -> None:
        while True:
            held = [g for g in self.book.grants() if g.ended is None]
            pending = self.book.questions("pending")
            choice = self.random.random()
            try:
                if held and choice < 0.5:
                    await self.use(self.random.choice(held).id)
                elif pending and choice < 0.8:
                    await self.answer(self.random.choice(pending).id)
                else:
                    await self.ask()
            except StockadeError:
                await asyncio.sleep(0)

    async def ask(self) -> None:
        target = replace(TARGET, cwd=f"/{self.random.randrange(10**9)}")
        what: dict[str, Any] = {"tool": "shell", "argv": list(target.argv or ())}
        needed = self.random.choice([1, 1, 2])
        say("asked", (await self.book.ask("run", AGENT, target.digest(), what, [REASON], needed=needed)).id)

    async def answer(self, ident: str) -> None:
        uid = self.random.choice([ANNA, BERT])
        after = await self.book.answer(ident, uid, approve=True, scope="times", times=3)
        say("answered", ident, uid, after.state)

    async def use(self, ident: str) -> None:
        say("using", ident)
        await self.book.use(self.book.grant(ident))
        say("used", ident)

    async def code(self) -> None:
        for step in (self.step - 1, self.step, self.step):
            try:
                await self.codes.verify(ANNA, pyotp.TOTP(self.secret).at(step * 30))
            except StockadeError:
                continue
            say("step", step)


async def main(path: str, seed: str, step: str, secret: str) -> None:
    store = Store(path)
    await store.open()
    await Victim(store, int(seed), int(step), secret).live()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
