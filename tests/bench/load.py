"""Many clients at once: runs per second and what each costs in CPU. Clients are processes: threads share a GIL."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.bench import proc, tools
from tests.bench.client import succeeded
from tests.bench.latency import run_message
from tests.bench.place import become

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.place import Place

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # prctl(2)
_prctl = ctypes.CDLL(None, use_errno=True).prctl


@dataclass(frozen=True)
class Load:
    runs: int
    seconds: float
    ms: list[float]
    service_cpu_ms: float
    client_cpu_ms: float

    @property
    def rate(self) -> float:
        return self.runs / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Of one run, everything together."""
        return (self.service_cpu_ms + self.client_cpu_ms) / max(1, self.runs)


def stockade(place: Place, where: dict[str, str]) -> Callable[[], None]:
    client, request = place.client(), run_message(**where)
    return lambda: succeeded(client.call(request))


def load(place: Place, seconds: float, calls: list[Callable[[], None]]) -> Load:
    """Each call in a loop in a process of its own, as the agent. Raises RuntimeError when one failed."""
    place.settle()
    before = proc.cpu_ms(place.service())
    gate, opened = os.pipe()
    children: list[tuple[int, int]] = []
    try:
        # One by one, so that those which started are ended when the next one fails.
        children.extend(_start(place, seconds, call, gate, opened) for call in calls)
        first = [os.read(reading, 1) for _, reading in children]  # each is there, or says what went wrong
        begun = time.monotonic()
        os.close(opened)
        opened = -1
        told = [
            _rest(b"" if byte == b"!" else byte, reading) for byte, (_, reading) in zip(first, children, strict=True)
        ]
        taken = time.monotonic() - begun
    finally:
        for pid, reading in children:
            with contextlib.suppress(ProcessLookupError):  # not reaped yet, so the number is still its own
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(reading)
        for fd in (gate, opened):
            if fd >= 0:
                os.close(fd)
    for answer in told:
        if "error" in answer:
            raise RuntimeError(f"a client failed: {answer['error']}")
    place.settle()  # what the service does after its answers is part of their cost
    after = proc.cpu_ms(place.service())
    times = [ms for answer in told for ms in answer["ms"]]
    return Load(len(times), taken, times, after - before, sum(answer["cpu_ms"] for answer in told))


def _start(place: Place, seconds: float, call: Callable[[], None], gate: int, opened: int) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(opened)
        os.close(reading)
        become(place.agent)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of ids, which resets it
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # bubblewrap leaves its inner process to whoever takes it
        answer = _client(seconds, call, gate, writing)
    except BaseException:
        answer = {"error": traceback.format_exc(limit=3)}
    with os.fdopen(writing, "w") as f:
        json.dump(answer, f)
    os._exit(0)


def _client(seconds: float, call: Callable[[], None], gate: int, writing: int) -> dict[str, Any]:
    call()
    os.write(writing, b"!")
    os.read(gate, 1)  # the end of file, for all at once
    begun, times = _cpu_ms(), []
    until = time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        call()
        times.append((time.monotonic() - now) * 1000)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return {"ms": times, "cpu_ms": _cpu_ms() - begun}


def _cpu_ms() -> float:
    """Of this process and of what it has reaped."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return 1000 * sum(u.ru_utime + u.ru_stime for u in used)


def _rest(data: bytes, reading: int) -> dict[str, Any]:
    while chunk := os.read(reading, 1 << 16):
        data += chunk
    answer: dict[str, Any] = json.loads(data or b'{"error": "it died"}')
    return answer


def bubblewrap(found: list[tools.Tool]) -> Callable[[], None] | None:
    return next((tool.call for tool in found if tool.name == tools.BUBBLEWRAP), None)
