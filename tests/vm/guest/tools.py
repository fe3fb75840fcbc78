"""What the checks share: commands, the service as systemd and the kernel show it, and waiting for a state."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Returns what is worth reading in the report; raises anything when the promise in its docstring does not hold.
Check = Callable[[], object]

PROJECT = Path(__file__).resolve().parents[3]
WHEELS = PROJECT.parent / "wheels"
STOCKADE = "/usr/local/bin/stockade"
SOCKET = "/run/stockade/api.sock"
POLICY = Path("/etc/stockade/policy.toml")
AUDIT = Path("/var/log/stockade/audit.jsonl")
UNIT = "stockade.service"
CGROUP = Path("/sys/fs/cgroup/system.slice/stockade.service")
WORKSPACE = "/srv/agents/alice/ws"


class NotAsPromised(AssertionError):
    pass


def must(condition: object, message: object = "") -> None:
    if not condition:
        raise NotAsPromised(str(message))


def sh(*argv: str, user: str | None = None, status: int | None = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, as `user` with that user's groups. `status` is what it must end with, None for whatever."""
    command = ["runuser", "-u", user, "--", *argv] if user else list(argv)
    options = {"timeout": 300, "stdin": subprocess.DEVNULL, **options}
    if "input" in options:
        del options["stdin"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    must(
        status is None or done.returncode == status,
        f"{' '.join(argv)}: ended with {done.returncode}, not {status}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}",
    )
    return done


def stockade(
    *argv: str, user: str = "alice", status: int | None = 0, **options: Any
) -> subprocess.CompletedProcess[str]:
    return sh(STOCKADE, *argv, user=user, status=status, **options)


def run_json(*argv: str, user: str = "alice", status: int | None = None) -> dict[str, Any]:
    """`stockade run --json …` in alice's workspace: the run as the API tells it."""
    done = stockade("run", "--json", "--workspace", WORKSPACE, *argv, user=user, status=status)
    try:
        return json.loads(done.stdout)  # type: ignore[no-any-return]
    except ValueError:
        raise NotAsPromised(f"no JSON, status {done.returncode}: {done.stdout}{done.stderr}") from None


def background(script: str, argument: str, *options: str, processes: int = 1) -> str:
    """A run that goes on by itself: its id, once so many of its processes have `argument` as a word of theirs."""
    run = stockade("run", "--background", *options, "--workspace", WORKSPACE, "-c", script).stdout.strip()
    until(lambda: len(alive_with(argument)) == processes, f"{run} never began: {alive_with(argument)}", 60)
    return run


def until(ready: Callable[[], object], otherwise: str, seconds: float) -> None:
    """Wait for a state. A machine under emulation is slow, so `seconds` is when to give up and never a promise."""
    end = time.monotonic() + seconds
    while not ready():
        must(time.monotonic() < end, otherwise)
        time.sleep(0.05)


def shown(*properties: str, unit: str = UNIT) -> dict[str, str]:
    """Properties of a unit as systemctl shows them."""
    lines = sh("systemctl", "show", unit, *(f"--property={p}" for p in properties)).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)


def is_active(unit: str = UNIT) -> bool:
    return sh("systemctl", "is-active", unit, status=None).stdout.strip() == "active"


def main_pid() -> int:
    return int(shown("MainPID")["MainPID"])


def status_of(pid: int) -> dict[str, str]:
    """/proc/PID/status as a table."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def pids_below(cgroup: Path) -> list[int]:
    found = []
    for directory, _, files in os.walk(cgroup):
        if "cgroup.procs" in files:
            found += [int(p) for p in Path(directory, "cgroup.procs").read_text().split()]
    return sorted(found)


def processes() -> dict[str, int]:
    """The service's own processes by their part: main, launcher, auditor."""
    main, ids = main_pid(), {}
    audit_uid = sh("id", "-u", "stockade-audit").stdout.strip()
    for pid in pids_below(CGROUP):
        lines = status_of(pid)
        if pid == main:
            ids["main"] = pid
        elif int(lines["PPid"]) == main and lines["Uid"].split()[0] == audit_uid:
            ids["auditor"] = pid
        elif int(lines["PPid"]) == main and lines["Uid"].split()[0] == "0":
            ids["launcher"] = pid
    must(set(ids) == {"main", "launcher", "auditor"}, f"the service's processes are {ids}")
    return ids


def group_of(pid: int) -> tuple[Path, int]:
    """The cgroup of a process, and its inode number, which no later group of the same name has."""
    group = Path("/sys/fs/cgroup" + Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::"))
    return group, group.stat().st_ino


def still_there(group: Path, inode: int) -> bool:
    return group.exists() and group.stat().st_ino == inode


def alive_with(argument: str) -> list[int]:
    """Processes anywhere that have `argument` on their command line; a zombie has none."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                words = (directory / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if argument.encode() in words:
                found.append(int(directory.name))
    return found


def audit(run: str, event: str) -> list[dict[str, Any]]:
    """The records of one kind that the log has about a run."""
    records = [json.loads(line) for line in AUDIT.read_text().splitlines()]
    return [r for r in records if r.get("run") == run and r["event_type"] == event]


def journal(lines: int = 25) -> str:
    return sh("journalctl", "-u", UNIT, "-n", str(lines), "--no-pager", "-o", "cat", status=None).stdout
