"""What sessions cost that nobody uses: memory, CPU, and the time of others."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bench import proc
from tests.bench.client import message, succeeded
from tests.bench.latency import run_message
from tests.bench.place import as_agent

if TYPE_CHECKING:
    from tests.bench.client import Client
    from tests.bench.place import Place

_RETIRED_WITHIN = 60  # seconds; the launcher keeps a waiting child for 20 s without a run


@dataclass
class Level:
    """With so many sessions open. KiB are of one session, all of its processes."""

    sessions: int
    opened: int = 0  # of them, timed
    seconds: float = 0
    fresh_kib: float = 0  # leader and waiting child
    retired_kib: float | None = None  # leader alone; None when it was not waited for
    service_kib: int = 0  # main, launcher, forge and auditor together
    cpu_ms_per_s: float | None = None  # of the whole service, in idleness; measured where retired and at the last
    live_ms: list[float] = field(default_factory=list)


def measure(place: Place, sizes: list[int], *, retire: set[int], idle_seconds: float, calls: int) -> list[Level]:
    """Open sessions up to each size in turn, and measure there. Waits for retirement at the sizes in `retire`."""
    levels: list[Level] = []
    opened = 0
    opening = message("POST", "/v1/sessions", {"workspace": place.workspace})
    for size in sizes:
        level = Level(size, size - opened)
        with as_agent(place.agent), contextlib.closing(place.client()) as client:
            begun = time.perf_counter()
            for _ in range(level.opened):
                client.call(opening)
            level.seconds = time.perf_counter() - begun
        opened = size
        place.settle()
        level.fresh_kib = _session_kib(place, size)
        if size in retire:
            _until_retired(place)
            place.settle()
            level.retired_kib = _session_kib(place, size)
        if size in retire or size == sizes[-1]:
            service = place.service()
            before = proc.cpu_ms(service)
            time.sleep(idle_seconds)
            level.cpu_ms_per_s = (proc.cpu_ms(service) - before) / idle_seconds
        level.service_kib = sum(map(proc.private_kib, place.own().values()))
        with as_agent(place.agent), contextlib.closing(place.client()) as client:
            level.live_ms = _live(place, client, calls)
        levels.append(level)
    return levels


def _sessions(place: Place) -> dict[str, list[tuple[int, str]]]:
    """The processes of each session with a workspace: (pid, "leader" or "run-N"). Blanks, led by root, are none."""
    found: dict[str, list[tuple[int, str]]] = {}
    for pid in place.service():
        session, what = proc.place_in_tree(pid)
        if session:
            found.setdefault(session, []).append((pid, what))
    return {
        name: pids
        for name, pids in found.items()
        if any(what == "leader" and not proc.is_root(pid) for pid, what in pids)
    }


def _session_kib(place: Place, size: int) -> float:
    sessions = _sessions(place)
    if len(sessions) != size:
        raise RuntimeError(f"{len(sessions)} sessions live where {size} were opened")
    return sum(proc.private_kib(pid) for pids in sessions.values() for pid, _ in pids) / size


def _until_retired(place: Place) -> None:
    until = time.monotonic() + _RETIRED_WITHIN
    while any(what != "leader" for pids in _sessions(place).values() for _, what in pids):
        if time.monotonic() > until:
            raise RuntimeError(f"sessions still keep waiting children after {_RETIRED_WITHIN} s without a run")
        time.sleep(0.5)


def _live(place: Place, client: Client, calls: int) -> list[float]:
    """Runs in a session that is open for as long as they take."""
    session = client.ask("POST", "/v1/sessions", {"workspace": place.workspace})["id"]
    place.settle()
    request, times = run_message(session=session), []
    for _ in range(calls + 1):
        begun = time.perf_counter()
        body = client.call(request)
        times.append((time.perf_counter() - begun) * 1000)
        succeeded(body)
    client.ask("DELETE", f"/v1/sessions/{session}")
    return times[1:]
