"""Wall time of single calls, all ways interleaved, so that what else this host does meets all of them alike."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench import proc, tools
from tests.bench.client import message, succeeded
from tests.bench.place import as_agent, as_root
from tests.harness import REPOSITORY

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.bench.place import Place

_SETTLE = 0.03  # seconds between the bursts of two ways: what one leaves behind is not the other's
_QUICK = (tools.BARE, tools.BUBBLEWRAP)
_SELDOM = 5  # the slow ones take part in each fifth round only


@dataclass
class Way:
    """One way to get /bin/true run."""

    name: str
    call: Callable[[], bytes | None]
    root: bool = False
    seldom: bool = False
    ms: dict[int, list[float]] = field(default_factory=dict)  # idle time before the call, ms -> wall times

    def once(self) -> float:
        """Wall ms of one successful call."""
        begun = time.perf_counter_ns()
        body = self.call()
        taken = (time.perf_counter_ns() - begun) / 1e6
        if body is not None:
            succeeded(body)
        return taken


def run_message(**where: str) -> bytes:
    return message("POST", "/v1/runs", {"tool": "shell", "argv": [tools.TRUE], **where})


def ways(place: Place, found: list[tools.Tool], session: str) -> list[Way]:
    kept, fresh, cold = place.client(), place.client(), place.client()
    live, one_shot = run_message(session=session), run_message(workspace=place.workspace)
    closing = message("POST", "/v1/runs", {"tool": "shell", "argv": [tools.TRUE], "session": session}, close=True)
    command = [sys.executable, "-m", "supervisor", "run", "--workspace", place.workspace, "--", "true"]
    environment = {
        "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONPATH": str(REPOSITORY),
        "STOCKADE_SOCKET": place.daemon.socket,
    }  # fmt: skip
    return [
        *(Way(tool.name, tool.call, tool.root, seldom=tool.name not in _QUICK) for tool in found),
        Way("Stockade, live session", lambda: kept.call(live)),
        Way("Stockade, live session, a connection each", lambda: fresh.once(closing)),
        Way("Stockade, a new session each", lambda: cold.call(one_shot)),
        Way("`stockade run -- true`", lambda: tools.spawn(command, environment), seldom=True),
    ]


def measure(
    place: Place, all_ways: list[Way], idle_ms: int, rounds: int, burst: int, rng: random.Random
) -> list[float]:
    """`rounds` times every way in random order; the lengths of the run queue between them come back.

    Without idle time a way has a burst of calls, of which the first, that comes after a pause, does not count.
    """
    queue: list[float] = []
    with as_agent(place.agent):
        for way in all_ways:
            with _rights(place, way):
                way.once()
            way.ms[idle_ms] = []
        for number in range(rounds):
            due = [way for way in all_ways if not way.seldom or number % _SELDOM == 0]
            for way in rng.sample(due, len(due)):
                with _rights(place, way):
                    time.sleep(idle_ms / 1000 if idle_ms else _SETTLE)
                    queue.append(proc.running())
                    times = [way.once() for _ in range(1 if idle_ms else burst + 1)]
                    way.ms[idle_ms] += times if idle_ms else times[1:]
    return queue


def _rights(place: Place, way: Way) -> contextlib.AbstractContextManager[None]:
    return as_root(place.agent) if way.root else contextlib.nullcontext()
