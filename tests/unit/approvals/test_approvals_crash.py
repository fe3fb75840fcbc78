"""`kill -9` in the middle of asking, answering and using: nothing acknowledged is forgotten, nothing is doubled."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from supervisor.approvals.book import Book
from supervisor.approvals.report import Report
from supervisor.approvals.totp import Codes
from supervisor.state.store import Store
from tests.unit.approvals.victim import APPROVALS
from tests.unit.approvals.world import ANNA, POLICY

REPOSITORY = Path(__file__).resolve().parents[3]
ROUNDS = 24
FIRST_STEP = 60_000_000


class Told:
    """What all victims together were told."""

    def __init__(self) -> None:
        self.asked: set[str] = set()
        self.answers: set[tuple[str, int]] = set()
        self.approved: set[str] = set()
        self.using: Counter[str] = Counter()
        self.used: Counter[str] = Counter()
        self.steps: Counter[int] = Counter()

    def hear(self, line: str) -> None:
        kind, *rest = line.split()
        if kind == "asked":
            self.asked.add(rest[0])
        elif kind == "answered":
            self.answers.add((rest[0], int(rest[1])))
            if rest[2] == "approved":
                self.approved.add(rest[0])
        elif kind in ("using", "used"):
            (self.using if kind == "using" else self.used)[rest[0]] += 1
        elif kind == "step":
            self.steps[int(rest[0])] += 1


def live_and_die(path: str, seed: int, step: int, secret: str, lines: int, told: Told) -> None:
    """One victim, killed once it has said so many lines; what it still said on the way down counts too."""
    command = [sys.executable, "-m", "tests.unit.approvals.victim", path, str(seed), str(step), secret]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        try:
            for _ in range(lines):
                line = victim.stdout.readline()
                assert line, "the victim died by itself"
                told.hear(line)
        finally:
            victim.kill()
        for line in victim.stdout:
            if line.endswith("\n"):
                told.hear(line)


async def check(path: str, told: Told) -> None:
    store = Store(path)
    await store.open()
    book = Book(store, Report(lambda *_a, **_k: None, lambda _e: None))
    try:
        await book.load()
        await book.serve(APPROVALS, POLICY)
        questions = {q.id: q for q in book.questions()}
        assert told.asked <= questions.keys()
        for ident, uid in told.answers:
            assert uid in [a.uid for a in questions[ident].answers]
        for question in questions.values():
            assert len(question.answers) == len({a.uid for a in question.answers}) <= question.needed
            assert (question.state == "approved") == (len(question.answers) == question.needed)
        grants = book.grants()
        by_question = Counter(g.question for g in grants)
        approved = {q.id for q in questions.values() if q.state == "approved"}
        assert by_question == Counter(approved)
        assert told.approved <= approved
        for grant in grants:
            assert told.used[grant.id] <= grant.used <= min(told.using[grant.id], 3)
            assert (grant.ended == "used_up") == (grant.used == 3)
    finally:
        await book.close()
        await store.close()
    assert not [step for step, times in told.steps.items() if times > 1]


@pytest.mark.slow
async def test_nothing_is_forgotten_and_nothing_doubled_however_often_it_is_killed(tmp_path: Path) -> None:
    path, told = str(tmp_path / "decisions.db"), Told()
    store = Store(path)
    await store.open()
    codes = Codes(store, lambda *_a: None, clock=lambda: FIRST_STEP * 30.0)
    await codes.load()
    secret = (await codes.enroll(ANNA))["secret"]
    await store.close()
    chance = random.Random(20261126)  # noqa: S311 - to be the same each time
    for number in range(ROUNDS):
        live_and_die(path, number, FIRST_STEP + number, secret, chance.randrange(2, 120), told)
        await check(path, told)
    assert len(told.asked) > ROUNDS
    assert sum(told.used.values()) > ROUNDS
    assert told.using.total() > told.used.total()  # some died in the middle of a use
    assert len(told.steps) > ROUNDS // 2
