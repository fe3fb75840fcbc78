"""10,000 questions at once: bounded memory, a clear refusal of one more, and nothing that grows with their number."""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from supervisor.approvals.model import pack
from supervisor.errors import LimitReached
from tests.unit.approvals.world import AGENT, ANNA, APPROVALS, POLICY, REASON, TARGET, World

MANY = 10_000


class Quiet(World):
    """Keeps no events and no records: the log is not what is measured."""

    def kept(self, record: dict[str, Any]) -> None:
        pass

    def _emit(self, kind: str, uid: int | None, **data: Any) -> None:
        pass


def resident() -> int:
    """Bytes of memory that this process holds: proc_pid_statm(5)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
async def test_ten_thousand_questions_wait_in_bounded_memory_and_one_more_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = Quiet(str(tmp_path / "decisions.db"), replace(APPROVALS, pending=MANY))
    await world.start()
    what: dict[str, Any] = {"tool": "shell", "script": "".join(f"echo line {n} of a script\n" for n in range(100))}

    async def ask(n: int) -> None:
        target = replace(TARGET, cwd=f"/srv/ws/{n}").digest()
        await world.book.ask("run", dict(AGENT), target, {**what, "cwd": f"/srv/ws/{n}"}, [REASON])

    gc.collect()
    before = resident()
    began = time.perf_counter()
    for start in range(0, MANY, 1000):
        await asyncio.gather(*(ask(n) for n in range(start, start + 1000)))
    asked = time.perf_counter() - began
    gc.collect()
    size = resident() - before
    assert len(world.book.questions("pending")) == MANY
    assert size < 64 << 20
    assert world.clock.waiting == 1
    with pytest.raises(LimitReached, match="10000 questions wait"):
        await ask(MANY)
    began = time.perf_counter()
    await world.restart()
    loaded = time.perf_counter() - began
    assert len(world.book.questions("pending")) == MANY
    last = world.book.questions("pending")[0]
    began = time.perf_counter()
    for _ in range(1000):
        world.book.match(last.target, None, {"x"}, 1000, "agent.service", POLICY, world.clock())
    matched = (time.perf_counter() - began) / 1000
    await world.book.answer(last.id, ANNA, approve=True)
    began = time.perf_counter()
    world.clock.advance(600)
    await world.book.settled()
    expired = time.perf_counter() - began
    assert world.book.questions("pending") == []
    assert len(world.book.questions()) == 1000
    await world.stop()
    with capsys.disabled():
        print(
            f"\n{MANY} questions: {size / 2**20:.1f} MiB, asked in {asked:.2f} s, loaded in {loaded:.2f} s, "
            f"expired in {expired:.2f} s; a match takes {matched * 1e6:.1f} us"
        )


async def test_the_largest_question_is_kept_small() -> None:
    """Words of two letters take 60 bytes each as objects; what is kept is one compressed text."""
    shown = pack({"argv": ["ab"] * 12_000, "script": "x" * 200_000}, [REASON])
    assert len(shown) < 8 << 10
