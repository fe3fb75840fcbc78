"""What the time goes into: perf on the service's four processes, and one run step by step, by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import load, report
from tests.bench.latency import run_message
from tests.bench.place import as_agent

if TYPE_CHECKING:
    from tests.bench.place import Place

_TOP = 12  # symbols of each process
_RUNS = 11  # traced, with a pause before each; the one of median length is shown
_PAUSE = 0.05
_NOT_TRACED = "!close,fstat,lseek,mmap,munmap,mprotect,brk,rt_sigaction,rt_sigprocmask,getpid,futex,clock_gettime"


def text(place: Place, seconds: float) -> str:
    """Markdown: the symbols, and the timeline of a run in a live session."""
    with as_agent(place.agent):
        client = place.client()
        session = client.ask("POST", "/v1/sessions", {"workspace": place.workspace})["id"]
    found = []
    with tempfile.TemporaryDirectory(dir=place.ground) as scratch:
        for program, what in (("perf", _perf), ("strace", _strace)):
            if shutil.which(program) is None:
                found.append(f"No {program} here: it is not installed.")
            else:
                found.append(what(place, session, Path(scratch), seconds))
    with as_agent(place.agent):
        client.ask("DELETE", f"/v1/sessions/{session}")
    return "\n\n".join(found)


def _perf(place: Place, session: str, scratch: Path, seconds: float) -> str:
    own, data = place.own(), str(scratch / "perf.data")
    pids = ",".join(map(str, own.values()))
    recording = subprocess.Popen(
        ["perf", "record", "--quiet", "--no-inherit", "--event", "cpu-clock", "--freq", "2000", "--output", data,
         "--pid", pids, "--", "sleep", str(seconds)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        measured = load.load(place, seconds, [load.stockade(place, {"session": session})])
        _, said = recording.communicate(timeout=60)
    finally:
        if recording.poll() is None:
            recording.kill()
            recording.wait()
    if recording.returncode != 0:
        return f"perf record does not work here: {said.strip()}"
    listed = subprocess.run(
        ["perf", "report", "--stdio", "--input", data, "--sort", "pid,dso,symbol", "--field-separator", "\t"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    names = {pid: name for name, pid in own.items()}
    seen: dict[str, int] = defaultdict(int)
    share: dict[str, float] = defaultdict(float)
    rows: list[tuple[str, ...]] = []
    for line in listed.stdout.splitlines():
        fields = [field.strip() for field in line.split("\t")]
        if line.startswith("#") or len(fields) < 4:
            continue
        name = names.get(int(fields[1].partition(":")[0]), fields[1])
        seen[name] += 1
        share[name] += float(fields[0].rstrip("%"))
        if seen[name] <= _TOP:
            rows.append((name, fields[0], fields[2], fields[3]))
    rows.sort(key=lambda row: list(own).index(row[0]) if row[0] in own else len(own))
    head = ("process", "of all samples", "in", "symbol")
    whole = ", ".join(f"{name} {share[name]:.0f} %" for name in own)
    title = f"Where CPU goes, 1 client in a live session, {measured.rate:.0f} runs/s, {seconds:g} s of perf: {whole}."
    return f"{title}\n\n{report.markdown(rows, head)}"


@dataclass(frozen=True)
class _Event:
    at: float  # seconds
    process: str
    call: str
    inside: float  # seconds between call and return


def _strace(place: Place, session: str, scratch: Path, _seconds: float) -> str:
    own, prefix = place.own(), str(scratch / "trace")
    plain = _runs(place, session)
    tracing = subprocess.Popen(
        ["strace", "--quiet=all", "-ttt", "-T", "-s", "48", "-e", f"trace={_NOT_TRACED}", "--output-separately",
         "-o", prefix, *(word for pid in own.values() for word in ("-p", str(pid)))],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        if not _traced(own, tracing):
            return "strace does not work here."
        slowed = _runs(place, session)
    finally:
        tracing.terminate()
        tracing.communicate(timeout=30)
    events = [event for name, pid in own.items() for event in _events(name, Path(f"{prefix}.{pid}"))]
    events.sort(key=lambda event: event.at)
    shown = _one_run(events)
    if not shown:
        return "strace saw no whole run."
    begun, last = shown[0].at, shown[0].at
    rows: list[tuple[str, ...]] = []
    for event in shown:
        rows.append(
            (f"{(event.at - begun) * 1000:.2f}", f"{(event.at - last) * 1000:.2f}", event.process,
             f"{event.inside * 1000:.2f}", f"`{event.call[:100].replace('`', ' ')}`")
        )  # fmt: skip
        last = event.at
    head = ("ms", "since the line before", "process", "ms inside", "call")
    title = (
        f"One run, from request to answer, as strace saw it: {report.number(report.quantile(slowed, 0.5))} ms at the "
        f"client instead of {report.number(report.quantile(plain, 0.5))} without strace."
    )
    return f"{title}\n\n{report.markdown(rows, head)}"


def _runs(place: Place, session: str) -> list[float]:
    request, times = run_message(session=session), []
    with as_agent(place.agent):
        client = place.client()
        for _ in range(_RUNS):
            time.sleep(_PAUSE)
            begun = time.perf_counter()
            client.call(request)
            times.append((time.perf_counter() - begun) * 1000)
        client.close()
    return times


def _traced(own: dict[str, int], tracing: subprocess.Popen[str]) -> bool:
    """Wait until strace holds all of them."""
    until = time.monotonic() + 10
    while time.monotonic() < until and tracing.poll() is None:
        if all("TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text() for pid in own.values()):
            return True
        time.sleep(0.05)
    return False


def _events(name: str, trace: Path) -> list[_Event]:
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        matched = re.match(r"(\d+\.\d+) (.*?)(?: <(\d+\.\d+)>)?$", line)
        if matched:
            found.append(_Event(float(matched[1]), name, matched[2], float(matched[3] or 0)))
    return found


def _one_run(events: list[_Event]) -> list[_Event]:
    """From the moment that main reads a request to the one at which it has answered, of the run of median length."""
    spans, begun = [], None
    for number, event in enumerate(events):
        if event.process != "main":
            continue
        if "POST /v1/runs" in event.call:
            begun = number
        elif begun is not None and "HTTP/1.1 200" in event.call:
            spans.append((event.at - events[begun].at, begun, number))
            begun = None
    if not spans:
        return []
    _, first, last = sorted(spans)[len(spans) // 2]
    return events[first : last + 1]
