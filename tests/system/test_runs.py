"""Every end of a run has its named cause, and when the answer is there nothing of the run is."""

from __future__ import annotations

import signal
import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.system.outside import alive_with, memory_of, of_uid, outcomes, policy, reset_peak, streamed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent

pytestmark = pytest.mark.root
MIB = 1 << 20


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, policy()) as running:
        yield running


def body(workspace: Path, script: str, **more: Any) -> dict[str, Any]:
    return {"workspace": str(workspace), "script": script, **more}


# --- causes -------------------------------------------------------------------------------------------------------

ENDS = {
    "exited": ("exit 3", {}, (3, None)),
    "signal": ("kill -SEGV $$", {}, (None, signal.SIGSEGV)),
    "timeout": ("sleep 60", {"timeout": "300ms"}, (None, signal.SIGKILL)),
    "idle_timeout": ("echo once; sleep 60", {"idle_timeout": "300ms"}, (None, signal.SIGKILL)),
    "memory": ("python3 -c 'b = bytearray(1 << 28)'", {"limits": {"memory": "48M"}}, None),
    "processes": ("for i in $(seq 50); do sleep 60 & done; wait", {"limits": {"processes": 10}}, None),
    "disk": ("exec head -c 64M /dev/zero > big", {"limits": {"disk": "4M"}}, (None, signal.SIGXFSZ)),
    "output": ("yes", {"limits": {"output": "64K"}}, (None, signal.SIGKILL)),
}


@pytest.mark.parametrize("cause", ENDS)
def test_an_end_has_its_cause_in_the_answer_and_in_the_log(daemon: Daemon, workspace: Path, cause: str) -> None:
    script, asked, status = ENDS[cause]
    run = daemon.run(workspace, script=script, **asked)
    assert run["cause"] == cause, run
    if status is not None:
        assert (run["exit_code"], run["signal"]) == status
    assert [r["outcome"] for r in outcomes(daemon, run["id"])] == [cause]
    assert of_uid(run["receipt"]["uid"], daemon) == []


def test_the_cause_is_disk_when_a_shell_reports_what_its_child_died_of(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, script="head -c 64M /dev/zero > big; exit", limits={"disk": "4M"})
    assert (run["cause"], run["exit_code"]) == ("disk", 128 + signal.SIGXFSZ)
    assert (workspace / "big").stat().st_size == 4 * MIB


def test_the_cause_is_disk_when_many_small_files_add_up(daemon: Daemon, workspace: Path) -> None:
    script = "i=0; while :; do head -c 1M /dev/zero > f$i; i=$((i+1)); done"
    run = daemon.run(workspace, script=script, limits={"disk": "8M"})
    assert run["cause"] == "disk"
    written = sum(f.stat().st_size for f in workspace.iterdir())
    assert 8 * MIB <= written < 2048 * MIB


def test_the_kernels_counters_come_with_the_end(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, "python3", "-c", "b = bytearray(1 << 28)", limits={"memory": "48M"})
    usage = run["usage"]
    assert usage["memory_oom"] >= 1
    assert 40 * MIB < usage["memory_peak"] <= 48 * MIB
    busy = daemon.run(
        workspace, script="(sleep 0.1 & sleep 0.1 & wait); i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"
    )
    assert busy["usage"]["cpu_ms"] > 10
    assert busy["usage"]["wall_ms"] >= 100
    assert busy["usage"]["pids_peak"] >= 3


def test_a_client_that_vanishes_and_a_cancel_have_the_same_cause(daemon: Daemon, workspace: Path) -> None:
    with streamed(daemon, body(workspace, "echo up; sleep 60")) as frames:
        frames.until("up")
    gone = daemon.request("GET", f"/v1/runs/{frames.id}/wait?timeout=20s").json
    with streamed(daemon, body(workspace, "echo up; sleep 60")) as frames:
        frames.until("up")
        cancelled = daemon.request("POST", f"/v1/runs/{frames.id}/cancel")
        assert cancelled.status == 200
        last = frames.rest()[-1]
    assert (gone["cause"], cancelled.json["cause"]) == ("cancelled", "cancelled")
    assert (last["type"], last["run"]["cause"]) == ("finished", "cancelled")
    assert of_uid(gone["receipt"]["uid"], daemon) == []


def test_the_emergency_stop_ends_every_tree_and_lets_none_begin(daemon: Daemon, workspace: Path) -> None:
    marker = uuid.uuid4().hex
    with streamed(daemon, body(workspace, f"echo up; sh -c 'sleep 60; : {marker}'")) as frames:
        frames.until("up")
        denied = daemon.request("POST", "/v1/stop", {"reason": "not an administrator"})
        assert (denied.status, denied.json["code"]) == (403, "denied")
        stopped = daemon.request("POST", "/v1/stop", {"reason": "a drill"}, root=True)
        try:
            assert (stopped.status, stopped.json["stopped"], stopped.json["runs"]) == (200, True, 1)
            assert alive_with(marker) == []
            assert frames.rest()[-1]["run"]["cause"] == "stopped"
            refused = daemon.request("POST", "/v1/runs", body(workspace, "touch ran"))
            assert (refused.status, refused.json["code"]) == (503, "stopped")
            assert "resume" in refused.json["hint"]
            assert not (workspace / "ran").exists()
        finally:
            assert daemon.request("POST", "/v1/resume", root=True).json == {"stopped": False}
    assert daemon.run(workspace, "true")["exit_code"] == 0


# --- the tree -----------------------------------------------------------------------------------------------------

# Two forks, a session of its own, no signal heard but SIGKILL, descriptors closed, and children that do the same.
HIDING = """
import os, signal, sys, time
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
ready, told = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork(): os._exit(0)
        os.setsid()
        os.write(told, b".")
        os.closerange(0, 100)
        while True: time.sleep(60)
while len(os.read(ready, 1)) < 1: pass
for _ in range(2): os.read(ready, 1)
print("hidden", flush=True)
"""


@pytest.mark.parametrize("how", ["exited", "timeout", "cancelled", "closed"])
def test_no_process_outlives_its_run(daemon: Daemon, workspace: Path, how: str) -> None:
    marker = uuid.uuid4().hex
    (workspace / "hiding.py").write_text(HIDING + ("" if how == "exited" else "time.sleep(60)\n"))
    asked: dict[str, Any] = {"timeout": "1500ms"} if how == "timeout" else {}
    session = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)}).json["id"]
    try:
        place = {"session": session, "argv": ["/usr/bin/python3", "hiding.py", marker], **asked}
        with streamed(daemon, place) as frames:
            frames.until("hidden")
            if how in ("cancelled", "closed"):
                assert len(alive_with(marker)) == 4
            if how == "cancelled":
                ended = daemon.request("POST", f"/v1/runs/{frames.id}/cancel").json
            elif how == "closed":
                assert daemon.request("DELETE", f"/v1/sessions/{session}").json["state"] == "ended"
                assert alive_with(marker) == []
                ended = frames.rest()[-1]["run"]
            else:
                ended = frames.rest()[-1]["run"]
        assert alive_with(marker) == []
        assert of_uid(ended["receipt"]["uid"], daemon) == []
        assert ended["cause"] == {"closed": "cancelled"}.get(how, how)
        assert how == "closed" or ended["usage"]["killed"] >= 3
    finally:
        daemon.request("DELETE", f"/v1/sessions/{session}")


def test_a_signal_reaches_the_first_process_or_the_tree(daemon: Daemon, workspace: Path) -> None:
    script = "trap 'echo first; kill -KILL $!; exit 9' USR1; sleep 60 & echo up; wait"
    with streamed(daemon, body(workspace, script)) as frames:
        frames.until("up")
        assert daemon.request("POST", f"/v1/runs/{frames.id}/signal", {"signal": "USR1"}).status == 202
        rest = frames.rest()
        assert "first" in rest[0]["data"]
        assert rest[-1]["run"]["exit_code"] == 9
    with streamed(daemon, body(workspace, "sleep 60 & echo up; wait; echo unreachable")) as frames:
        frames.until("up")
        asked = {"signal": 15, "tree": True}
        assert daemon.request("POST", f"/v1/runs/{frames.id}/signal", asked).status == 202
        assert frames.rest()[-1]["run"]["signal"] == signal.SIGTERM
    late = daemon.request("POST", f"/v1/runs/{frames.id}/signal", asked)
    assert (late.status, late.json["code"]) == (409, "conflict")


# --- limits -------------------------------------------------------------------------------------------------------

WIDER = {
    "memory": "2G",
    "cpu": "300%",
    "processes": 257,
    "files": 1025,
    "output": "17M",
    "disk": "2G",
    "tmp": "257M",
    "timeout": "61s",
}


@pytest.mark.parametrize("limit", WIDER)
def test_a_wider_limit_is_refused_with_what_is_granted(daemon: Daemon, workspace: Path, limit: str) -> None:
    refused = daemon.request("POST", "/v1/runs", body(workspace, "touch ran", limits={limit: WIDER[limit]}))
    problem = refused.json
    assert (refused.status, problem["code"], problem["field"]) == (403, "denied", f"limits.{limit}")
    assert problem["allowed"].startswith(f"{limit} up to ")
    assert problem["rule"] == f"profiles.shell.limits.{limit}"
    assert problem["hint"]
    assert not (workspace / "ran").exists()


def test_narrower_limits_hold_in_the_kernel(daemon: Daemon, workspace: Path) -> None:
    asked = {"memory": "256M", "files": 64, "processes": 20, "disk": "8M", "cpu": "50%", "output": "1M"}
    script = "ulimit -n; ulimit -f; echo x > f && echo written"
    run = daemon.run(workspace, script=script, limits=asked, timeout="20s")
    assert run["stdout"].split() == ["64", str(8 * MIB // 512), "written"]
    assert (run["limits"]["memory"], run["limits"]["timeout_ms"]) == (256 * MIB, 20_000)
    assert run["receipt"]["limits"]["memory"] == 256 * MIB
    assert run["receipt"]["limits"]["pids"] == 20


@pytest.fixture(scope="module")
def roomy(ground: Path, agent: Agent) -> Iterator[Daemon]:
    """A service whose runs may write a quarter of a gibibyte."""
    with Daemon(ground, agent, sys.executable, policy(('output = "16M"', 'output = "256M"'))) as running:
        yield running


@pytest.mark.slow
def test_a_flood_ends_at_the_limit_and_costs_the_service_no_memory(roomy: Daemon, workspace: Path) -> None:
    roomy.run(workspace, script="head -c 4M /dev/zero")
    reset_peak(roomy.pid)
    before = memory_of(roomy.pid, "VmHWM")
    run = roomy.run(workspace, script="head -c 1G /dev/zero; echo unreachable")
    grown = memory_of(roomy.pid, "VmHWM") - before
    assert (run["cause"], run["output"]["stdout_kept"]) == ("output", 256 * MIB)
    assert run["output"]["truncated"] is True
    assert grown < 16 * MIB
    tail = roomy.request("GET", f"/v1/runs/{run['id']}/output?offset={256 * MIB - 10}&length=100")
    assert (tail.body, tail.headers["X-Output-Next"]) == (b"\0" * 10, str(256 * MIB))
