"""kill -9 of each process while a run is live: systemd brings the service back, and nothing of before is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.vm.guest.tools import (
    UNIT,
    alive_with,
    audit,
    background,
    group_of,
    is_active,
    main_pid,
    must,
    processes,
    run_json,
    sh,
    shown,
    status_of,
    still_there,
    until,
)

# Seconds from the kill until systemd has started the service again. What is told apart here is an end in order from one
# that TimeoutStopSec=20s had to force. How fast is not: an emulated machine takes 1 to 3 s for what a real one does in
# a few tenths.
_BACK = 10.0


def _kill(part: str, seconds: str) -> str:
    sh("systemctl", "reset-failed", UNIT)  # the start limit counts the crashes of a minute, and these are ours
    run = background(f"exec sleep {seconds}", seconds)
    group, old = group_of(alive_with(seconds)[0]), main_pid()
    began = time.clock_gettime(time.CLOCK_MONOTONIC)
    os.kill(processes()[part], signal.SIGKILL)
    until(lambda: main_pid() not in (0, old), f"the service is not back after kill -9 of {part}", 60)
    until(lambda: is_active(), "the service does not become ready", 120)
    # When the new main process was started, by systemd's own clock: the guest is slow, systemd's decision is not.
    back = int(shown("ExecMainStartTimestampMonotonic")["ExecMainStartTimestampMonotonic"]) / 1e6 - began
    must(back < _BACK, f"started again after {back:.1f} s")
    must(not alive_with(seconds), f"a child survived kill -9 of {part}")
    must(not still_there(*group), f"the cgroup of before is left: {group[0]}")
    (outcome,) = audit(run, "outcome")
    must(outcome["outcome"] == "lost", outcome)
    must(len(audit(run, "decision")) == 1)
    must(run_json("--", "true", status=0)["cause"] == "exited")
    return f"started again after {back:.2f} s"


def main_killed() -> str:
    """kill -9 of the main process."""
    return _kill("main", "4731")


def launcher_killed() -> str:
    """kill -9 of the launcher."""
    return _kill("launcher", "4732")


def auditor_killed() -> str:
    """kill -9 of the auditor."""
    return _kill("auditor", "4733")


def session_leader_killed() -> str:
    """kill -9 of a session's leader: its tree dies with it, the run has an outcome, the service goes on."""
    old = main_pid()
    run = background("exec sleep 4734", "4734")
    (pid,) = alive_with("4734")
    inside = os.readlink(f"/proc/{pid}/ns/pid")
    leaders = [
        int(p.name)
        for p in Path("/proc").iterdir()
        if p.name.isdigit()
        and os.path.exists(p / "ns/pid")
        and os.readlink(p / "ns/pid") == inside
        and status_of(int(p.name))["NSpid"].split()[-1] == "1"
    ]
    must(len(leaders) == 1, leaders)
    lines = status_of(leaders[0])
    report = " ".join(f"{k}={lines[k]}" for k in ("Uid", "CapEff", "NoNewPrivs", "Seccomp"))
    must(int(lines["CapEff"], 16) == 0, report)
    must("0" not in lines["Uid"].split(), report)
    os.kill(leaders[0], signal.SIGKILL)
    until(lambda: not alive_with("4734"), "a child survived its session leader", 30)
    until(lambda: len(audit(run, "outcome")) == 1, "the run has no outcome", 60)
    must(main_pid() == old, "the service was restarted")
    must(run_json("--", "true", status=0)["cause"] == "exited")
    return f"{report} outcome={audit(run, 'outcome')[0]['outcome']}"


CHECKS = (main_killed, launcher_killed, auditor_killed, session_leader_killed)
