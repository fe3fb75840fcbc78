"""How fast, how small: one Markdown table of everything that the design promises about speed.

    python -m tests.bench [--quick | --smallest] [--seed N] [--json FILE] [--profile]

As root. Starts a service of its own below /var/tmp and removes it afterwards, also when it is interrupted. Daemon and
clients run at the nice value of this process. Needs bubblewrap; measures what else is installed and works.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.bench import deciding, idle, latency, load, proc, profile, report, tools
from tests.bench.place import Place, as_agent, place
from tests.bench.report import Row, at_least, at_most, quantile


@dataclass(frozen=True)
class Size:
    rounds: int  # of the latency measurements without idle time
    burst: int  # calls in a row in each of them
    pauses: int  # rounds with 50 ms before each call
    seconds: float  # under load
    clients: int
    sizes: tuple[int, ...]  # idle sessions
    retire: tuple[int, ...]  # of these, where it is waited until waiting children are given up
    idle_seconds: float
    calls: int  # live runs beside idle sessions
    batches: int  # of decisions
    profile_seconds: float


FULL = Size(60, 5, 150, 6, 16, (1, 50, 200), (1, 50, 200), 10, 150, 100, 5)
QUICK = Size(10, 3, 15, 0.8, 16, (1, 10, 30), (), 2, 30, 20, 2)
SMALLEST = Size(1, 1, 1, 0.1, 2, (1, 2), (), 0.1, 1, 1, 0.5)

_IDLE_MS = (0, 50)
_MOST_RATIO = {
    "Stockade, live session": 0.5,
    "Stockade, live session, a connection each": 0.5,
    "Stockade, a new session each": 1.0,
}
_SPREAD = 2.0  # p95 of a way to its own p50
_RUNS_PER_SECOND = 400
_SESSION_MIB = 2.0
_IDLE_CPU_MS = 1.0  # in a second: what the kernel's clock of 10 ms can tell from nothing


def latency_rows(place: Place, found: list[tools.Tool], size: Size, rng: random.Random) -> tuple[list[Row], str]:
    with as_agent(place.agent):
        client = place.client()
        session = client.ask("POST", "/v1/sessions", {"workspace": place.workspace})["id"]
    ways = latency.ways(place, found, session)
    rows: list[Row] = []
    queue: list[float] = []
    for idle_ms in _IDLE_MS:
        rounds = size.pauses if idle_ms else size.rounds
        queue += latency.measure(place, ways, idle_ms, rounds, size.burst, rng)
        times = {way.name: way.ms[idle_ms] for way in ways}
        base = quantile(times.get(tools.BUBBLEWRAP, []), 0.5)
        rows += [_latency_row(name, idle_ms, ms, base) for name, ms in times.items()]
    with as_agent(place.agent):
        client.ask("DELETE", f"/v1/sessions/{session}")
    return rows, f"run queue between calls: median {quantile(queue, 0.5):.0f}, p95 {quantile(queue, 0.95):.0f}"


def _latency_row(name: str, idle_ms: int, ms: list[float], base: float | None) -> Row:
    p50, p95 = quantile(ms, 0.5), quantile(ms, 0.95)
    assert p50 is not None
    assert p95 is not None
    ratio = p50 / base if base else None
    under = f"1 client, {idle_ms} ms idle, {len(ms)} calls"
    most = _MOST_RATIO.get(name)
    if most is None:
        return Row(name, under, p50, p95, "ms", ratio)
    target, misses = f"≤ {most} of bubblewrap's", at_most(ratio, most)
    if most < 1:
        target += f", p95 ≤ {_SPREAD:.0f} times p50"
        misses += tuple(f"p95 {miss} times p50" for miss in at_most(p95 / p50, _SPREAD))
    return Row(name, under, p50, p95, "ms", ratio, target, misses)


def load_rows(place: Place, found: list[tools.Tool], size: Size) -> list[Row]:
    with as_agent(place.agent):
        client = place.client()
        sessions = [
            client.ask("POST", "/v1/sessions", {"workspace": place.workspace})["id"] for _ in range(size.clients)
        ]
    one, new = {"session": sessions[0]}, {"workspace": place.workspace}
    cases: dict[str, list[Any]] = {
        "1 client in a live session": [load.stockade(place, one)],
        f"{size.clients} clients in one session": [load.stockade(place, one) for _ in sessions],
        f"{size.clients} clients, each its session": [load.stockade(place, {"session": s}) for s in sessions],
        f"{size.clients} clients, a new session each run": [load.stockade(place, new) for _ in sessions],
    }
    if (bubblewrap := load.bubblewrap(found)) is not None:
        cases[f"{size.clients} clients, bubblewrap"] = [bubblewrap for _ in sessions]
    rows: list[Row] = []
    measured = {name: load.load(place, size.seconds, calls) for name, calls in cases.items()}
    base = measured.get(f"{size.clients} clients, bubblewrap")
    for name, m in measured.items():
        many = len(cases[name]) == size.clients
        wall, beside = quantile(m.ms, 0.5), quantile(base.ms, 0.5) if base and many else None
        wanted = "in one session" in name or "each its session" in name
        rows += [
            Row(
                name, f"{m.runs} runs in {m.seconds:.1f} s", m.rate, None, "runs/s",
                m.rate / base.rate if base and many else None,
                f"≥ {_RUNS_PER_SECOND}" if wanted else "",
                at_least(m.rate, _RUNS_PER_SECOND) if wanted else None,
            ),
            Row(
                name, "a run's wall time", wall, quantile(m.ms, 0.95), "ms", wall / beside if wall and beside else None
            ),
            Row(
                name, f"CPU of a run: service {m.service_cpu_ms / max(1, m.runs):.2f} + client "
                f"{m.client_cpu_ms / max(1, m.runs):.2f}", m.cpu_ms, None, "ms",
                m.cpu_ms / base.cpu_ms if base and base.cpu_ms else None,
            ),
        ]  # fmt: skip
    with as_agent(place.agent):
        for session in sessions:
            client.ask("DELETE", f"/v1/sessions/{session}")
    place.settle()
    return rows


def idle_rows(place: Place, size: Size) -> list[Row]:
    rows: list[Row] = []
    levels = idle.measure(
        place, list(size.sizes), retire=set(size.retire), idle_seconds=size.idle_seconds, calls=size.calls
    )
    for level in levels:
        many = f"{level.sessions} idle sessions" if level.sessions > 1 else "1 idle session"
        fresh, retired = level.fresh_kib / 1024, level.retired_kib and level.retired_kib / 1024
        target, most = f"≤ {_SESSION_MIB:.0f} MiB", _SESSION_MIB
        rows += [
            Row(f"{many}: opened", f"{level.opened} in a row", level.opened / level.seconds, None, "sessions/s"),
            Row(f"{many}: memory of each", "just opened", fresh, None, "MiB", None, target, at_most(fresh, most)),
            Row(
                f"{many}: memory of each", "no run for 20 s", retired, None, "MiB", None, target,
                at_most(retired, most),
            ),
            Row(f"{many}: memory of the service", "its four processes", level.service_kib / 1024, None, "MiB"),
            Row(
                f"{many}: CPU of the service", f"{size.idle_seconds:g} s of idleness", level.cpu_ms_per_s, None, "ms/s",
                None, "none", at_most(level.cpu_ms_per_s, _IDLE_CPU_MS),
            ),
            Row(
                f"{many}: live run beside them", f"1 client, 0 ms idle, {len(level.live_ms)} calls",
                quantile(level.live_ms, 0.5), quantile(level.live_ms, 0.95), "ms",
            ),
        ]  # fmt: skip
    return rows


def decision_rows(place: Place, size: Size) -> list[Row]:
    return [
        Row(name, f"{len(us)} batches of 100", quantile(us, 0.5), quantile(us, 0.95), "µs")
        for name, us in deciding.measure(place, size.batches).items()
    ]


def measure(size: Size, seed: int, *, with_profile: bool) -> tuple[str, dict[str, Any]]:
    """The text to print and the raw numbers."""
    begun, load_before = time.monotonic(), proc.load()
    with place() as there, contextlib.ExitStack() as stack:
        found, absent = tools.find(there, stack)
        if tools.BUBBLEWRAP in absent:
            print(f"bubblewrap {absent[tools.BUBBLEWRAP]}: no ratios", file=sys.stderr)
        there.settle()
        rows, queue = latency_rows(there, found, size, random.Random(seed))  # noqa: S311  an order, not a secret
        rows += load_rows(there, found, size)
        rows += decision_rows(there, size)
        rows += idle_rows(there, size)
        profiled = profile.text(there, size.profile_seconds) if with_profile else ""
        facts = {
            "kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count(),
            "nice": os.nice(0), "seed": seed, "before": load_before, "after": proc.load(), "queue": queue,
            "seconds": round(time.monotonic() - begun), "absent": absent,
            "root": str(there.daemon.root), "agent": there.agent.name,
        }  # fmt: skip
    host = f"Kernel {facts['kernel']}, Python {facts['python']}, {facts['cpus']} CPUs, nice {facts['nice']}"
    missing = "; ".join(f"{name} ({why})" for name, why in absent.items()) or "nothing"
    said = [
        f"{host}, seed {seed}, {facts['seconds']} s.",
        f"Before: {load_before}. After: {facts['after']}. {queue[0].upper()}{queue[1:]}.",
        f"Absent: {missing}.",
    ]
    text = "\n\n".join([report.table(rows), "\n".join(said), *([profiled] if profiled else [])])
    return text, {**facts, "size": asdict(size), "rows": [row.raw() for row in rows]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=(__doc__ or "").partition("\n")[0])
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="about half a minute; without it about four")
    how.add_argument("--smallest", action="store_true", help="everything once, to see that it works: no measurement")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="of the order")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw numbers there")
    parser.add_argument("--profile", action="store_true", help="what the time goes into, with perf and strace")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("must run as root: sudo scripts/bench")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken back
    size = QUICK if given.quick else SMALLEST if given.smallest else FULL
    text, raw = measure(size, given.seed, with_profile=given.profile)
    print(text)
    if given.json is not None:
        given.json.write_text(json.dumps(raw, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
