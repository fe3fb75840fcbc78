"""What /proc tells of processes: who descends from whom, what they used (proc(5)). No measuring program is needed."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_UTIME, _END = 11, 15  # utime, stime, cutime, cstime: fields 14 to 17 of stat, counted after the name


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                todo += map(int, (thread / "children").read_text().split())
    return found


def cpu_ms(pids: list[int]) -> float:
    """CPU time of these processes and of the children that they have reaped, user and system, in ms.

    The kernel counts in ns and shows ticks of 10 ms, so a sum over hundreds of runs is exact enough.
    """
    total = 0
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[_UTIME:_END]))
    return total * _TICK_MS


def private_kib(pid: int) -> int:
    """Memory that would be free if this process alone ended, Private_Clean and Private_Dirty; KiB, 0 when gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.MULTILINE)))
    return 0


def place_in_tree(pid: int) -> tuple[str, str]:
    """(session's name, "leader" or "run-N") out of the process's cgroup, or two empty strings."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found = re.search(r"/(s\d+)/(leader|run-\d+)$", Path(f"/proc/{pid}/cgroup").read_text(), re.MULTILINE)
        if found:
            return found[1], found[2]
    return "", ""


def is_root(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return re.search(r"^Uid:\t0\t", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None
    return False


def running() -> int:
    """Processes that run or wait for a CPU now, this one not counted."""
    found = re.search(r"^procs_running (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)
    return int(found[1]) - 1 if found else 0


def load() -> str:
    """The load averages, and the share of the last 10 s in which something waited for a CPU."""
    said = "load average " + " ".join(Path("/proc/loadavg").read_text().split()[:3])
    with contextlib.suppress(OSError):
        if found := re.search(r"some avg10=([\d.]+)", Path("/proc/pressure/cpu").read_text()):
            said += f", CPU pressure {found[1]} %"
    return said
