"""kill -9 in the middle of it, at seeded moments, again and again on the same file: nothing forgotten, nothing doubled.

Also what a million counters take. Both take a few seconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from supervisor.decide.breaker import CLOSED
from supervisor.decide.windows import DAY, NOTHING
from supervisor.runs.meters import Meters
from supervisor.state.store import Store

ROOT = Path(__file__).resolve().parents[3]
ROUNDS = 24
SEED = 20_260_930
NOW = 1_790_000_000_000 // DAY * DAY / 1000 + 3600.0
DEADLINE_MS = 1000
AGENT = "uid:1000/planner"
KEY = f"a:{AGENT}"

pytestmark = pytest.mark.slow

# Says what it is about to do ("b", "e", "w") and what is durable ("B", "E", "W"), each in one write(2).
WORKER = """
import asyncio, os, sys
from dataclasses import replace
from supervisor.decide.bounds import Who
from supervisor.policy.snapshot import Breaker, Budget, Rate
from supervisor.runs.meters import Meters
from supervisor.state.store import Store
from tests.unit.decide.samples import snapshot

path, mark, now, deadline = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
most = 10**9
policy = replace(
    snapshot(),
    rates=(Rate("agent", most, most, most, "p:1"),),
    budgets=(Budget("day", "agent", most, 0, 0, 0, "p:2"),),
    breaker=Breaker(failures=most, source="p:3"),
)
who = Who("uid:1000", "planner")

def say(letter, name):
    os.write(1, f"{letter} {name}\\n".encode())

async def agent(store, meters, n):
    for i in range(100_000):
        run = f"{mark}-{n}-{i}"
        say("b", run)
        await meters.begin(policy, run, who, "ses-1", timeout_ms=deadline, cpu=100)
        say("B", run)
        say("w", run)
        await store.write(lambda c: c.execute("INSERT INTO written VALUES (?)", (run,)))
        say("W", run)
        say("e", run)
        await meters.end(policy.breaker, run, {"cpu_us": 1}, failed=True)
        say("E", run)

async def life():
    store = Store(path)
    await store.open()
    meters = Meters(store, clock=lambda: now)
    await meters.load()
    await store.migrate("test", ("CREATE TABLE written (run TEXT)",))
    await asyncio.gather(*(agent(store, meters, n) for n in range(4)))

asyncio.run(life())
"""


def live_and_die(path: Path, mark: str, rng: random.Random) -> list[tuple[str, str]]:
    """What the worker said until it was killed."""
    command = [sys.executable, "-c", WORKER, str(path), mark, repr(NOW), str(DEADLINE_MS)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        said = [next(worker.stdout) for _ in range(rng.randrange(1, 400))]
        worker.send_signal(signal.SIGKILL)
        said += worker.stdout
        worker.wait()
    assert worker.returncode == -signal.SIGKILL
    whole = [line.split() for line in said if line.endswith("\n")]
    return [(letter, run) for letter, run in whole]


async def reopened(path: Path) -> tuple[Meters, list[str], int]:
    """The meters ten seconds later, what was written beside them, and how many runs were open."""
    store = Store(str(path))
    await store.open()
    meters = Meters(store, clock=lambda: NOW + 10)
    open_runs = await meters.load()
    written = await store.read(lambda c: [row[0] for row in c.execute("SELECT run FROM written")])
    await store.close()
    return meters, written, open_runs


def test_nothing_is_forgotten_and_nothing_doubled(tmp_path: Path) -> None:
    rng, path = random.Random(SEED), tmp_path / "decisions.db"  # noqa: S311
    said: Counter[str] = Counter()
    acknowledged: set[str] = set()
    attempted: set[str] = set()
    begun = ended = lost = 0
    for n in range(ROUNDS):
        story = live_and_die(path, f"r{n}", rng)
        said.update(letter for letter, _ in story)
        acknowledged |= {run for letter, run in story if letter == "W"}
        attempted |= {run for letter, run in story if letter == "w"}
        meters, written, open_runs = asyncio.run(reopened(path))
        # What was written beside: each at most once, everything that was acknowledged, nothing that was never sent.
        assert len(written) == len(set(written))
        assert acknowledged <= set(written) <= attempted
        # Each run that was begun ended and used one microsecond, or was lost and is charged its deadline.
        book = meters.book
        counts = {window.counts.get(KEY, 0) for window in book.windows.values()}
        assert len(counts) == 1, "one transaction counts in every window"
        now_lost, now_ended = divmod(book.day.spent.get(KEY, NOTHING).cpu_us, DEADLINE_MS * 1000)
        assert now_lost == lost + open_runs
        assert counts == {now_lost + now_ended}
        assert said["B"] <= now_lost + now_ended <= said["b"]
        assert said["E"] <= now_ended <= said["e"]
        assert book.breakers.get(AGENT, CLOSED).failures == now_ended
        again, _, still_open = asyncio.run(reopened(path))
        assert (again.book.day.spent, still_open) == (book.day.spent, 0), "charged once"
        begun, ended, lost = now_lost + now_ended, now_ended, now_lost
    assert begun > ended > 0
    assert lost > 0, "no round killed a run in the middle: the test proves nothing"


MILLION = """
import json, os
from dataclasses import replace
from supervisor.decide.bounds import Who
from supervisor.decide.book import Book
from supervisor.decide.meters import check
from supervisor.errors import LimitReached
from supervisor.policy.snapshot import Rate
from tests.unit.decide.samples import snapshot

policy = replace(snapshot(), rates=(Rate("agent", 0, 0, 10, "p:1"),))
now = 1_790_000_000.0
def held():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
book, before = Book(), held()
for i in range(1_000_000):
    book.opened(policy, Who("uid:1000", f"agent-{i:08d}"), int(now * 1000))
    if not i % 1000:
        book.dirty.clear()
each = (held() - before) / len(book)
try:
    told = check(policy, Who("uid:1000", "one more"), "", book, now)
except LimitReached as e:
    told = e.as_dict()
known = check(policy, Who("uid:1000", "agent-00000007"), "", book, now).left
print(json.dumps({"counters": len(book), "each": each, "told": told, "known": known}))
"""


def test_a_million_counters_are_small_and_one_more_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MILLION], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    found = json.loads(done.stdout)
    print(f"{found['each']:.0f} bytes for each of {found['counters']} counters")
    assert found["counters"] == 1_000_000
    assert found["each"] < 300
    assert (found["told"]["rule"], found["told"]["code"]) == ("counters", "limit_reached")
    assert found["told"]["hint"]
    assert found["known"] == [["rates[0].per_day", 8]]
