"""kill -9 of every process under load, a full disk, a frozen auditor, orderly ends and the emergency stop.

After each: nothing of a session lives, nothing is left on the host, and the audit log has one decision and one
outcome for each run that anybody was told of.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon, Reply
from tests.kernel.hostile import cgroups_of, processes_of, uid_range
from tests.system.faults import (
    PATIENCE,
    Load,
    Log,
    all_gone,
    assert_nothing_left,
    assert_nothing_lives,
    host_mounts,
    instance,
    kill,
    leader_of,
    policy,
    service_processes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Agent

pytestmark = pytest.mark.root
VICTIMS = ("main", "launcher", "auditor", "leader")


@pytest.fixture
def uids() -> tuple[int, int]:
    return uid_range()


@pytest.fixture
def service(ground: Path, agent: Agent, uids: tuple[int, int]) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, policy(uids)) as running:
        yield running


@pytest.fixture
def workspaces(ground: Path, agent: Agent) -> Iterator[list[Path]]:
    """One for each of four clients."""
    made = [ground / f"faults-{os.getpid()}-{n}" for n in range(4)]
    for path in made:
        path.mkdir(mode=0o755)
        os.chown(path, agent.uid, agent.gid)
    yield made
    for path in made:
        shutil.rmtree(path)


def ok(reply: Reply) -> Any:
    assert reply.status in (200, 201, 202), reply.body
    return reply.json


def rounds(service: Daemon, workspaces: list[Path], uids: tuple[int, int], count: int, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - a test that can be repeated
    answered: dict[str, str] = {}
    started: set[str] = set()
    mounts = host_mounts(service.root)
    victims = [VICTIMS[n % len(VICTIMS)] for n in range(count)]
    dice.shuffle(victims)
    for number, victim in enumerate(victims):
        before = time.monotonic()
        with Load(service, workspaces, seed * 1000 + number) as load:
            load.after(dice.randint(1, 14))
            if victim == "leader":
                leaders = [pid for pid, uid in _uids_of(processes_of(uids)).items() if (uid - uids[0]) % 2]
                for pid in dice.sample(leaders, min(2, len(leaders))):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                load.after(4)
                assert service.process is not None
                assert service.process.poll() is None, f"round {number}: the service must outlive a session"
            else:
                kill(service, victim)
        answered.update(load.answered)
        started |= load.started
        if victim != "leader":
            assert_nothing_lives(service, uids)
            assert host_mounts(service.root) == mounts
            service.start()
            Log(service).assert_whole(answered, started)
        assert time.monotonic() - before < 2 * PATIENCE
    assert len(answered) >= count
    assert service.stop() == 0
    assert_nothing_left(service, uids, mounts)
    log = Log(service)
    log.assert_whole(answered, started)
    assert "lost" in log.causes.values(), "some run must have been interrupted"


def _uids_of(pids: dict[int, str]) -> dict[int, int]:
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = os.stat(f"/proc/{pid}").st_uid or _real_uid(pid)
    return found


def _real_uid(pid: int) -> int:
    """/proc/PID belongs to root when the process is not dumpable (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])


@pytest.mark.timeout(300)
def test_kill_9_of_each_process_under_load_leaves_nothing_and_loses_no_record(
    service: Daemon, workspaces: list[Path], uids: tuple[int, int]
) -> None:
    rounds(service, workspaces, uids, 12, seed=2)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_50_rounds_of_kill_9(service: Daemon, workspaces: list[Path], uids: tuple[int, int]) -> None:
    rounds(service, workspaces, uids, 50, seed=50)


def test_the_end_of_a_session_leader_ends_that_session_alone(
    service: Daemon, workspaces: list[Path], uids: tuple[int, int]
) -> None:
    opened = [service.request("POST", "/v1/sessions", {"workspace": str(w)}).json for w in workspaces[:2]]
    body = {"argv": ["sleep", "1000"], "background": True}
    runs = [service.request("POST", f"/v1/sessions/{s['id']}/shell", body).json for s in opened]
    os.kill(leader_of(service, opened[0]["receipt"]["uid"]), signal.SIGKILL)
    ended = service.request("GET", f"/v1/runs/{runs[0]['id']}/wait").json
    assert (ended["state"], ended["cause"]) == ("finished", "lost")
    other = service.request("GET", f"/v1/runs/{runs[1]['id']}").json
    assert other["state"] == "running"
    again = service.request("POST", f"/v1/sessions/{opened[1]['id']}/shell", {"script": "echo here"})
    assert again.json["stdout"] == "here\n"
    refused = service.request("POST", f"/v1/sessions/{opened[0]['id']}/shell", {"argv": ["true"]})
    assert refused.status in (404, 409)
    service.request("DELETE", f"/v1/sessions/{opened[1]['id']}")
    assert service.stop() == 0  # the auditor has read everything then
    ends = {
        r["session_id"]: r["outcome"] for r in service.audit() if r["event_type"] == "session" and r["action"] == "end"
    }
    assert ends == {opened[0]["id"]: "lost", opened[1]["id"]: "closed"}


def test_the_end_of_the_forge_ends_the_service_with_everything(
    service: Daemon, workspaces: list[Path], uids: tuple[int, int]
) -> None:
    mounts = host_mounts(service.root)
    started = service.request("POST", "/v1/runs", {"workspace": str(workspaces[0]), "argv": ["sleep", "1000"],
                                                   "background": True}).json  # fmt: skip
    launcher = service.children()["launcher"]
    children = map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())
    forge = next(pid for pid in children if _real_uid(pid) == 0)
    os.kill(forge, signal.SIGKILL)
    assert service.process is not None
    assert service.process.wait(PATIENCE) != 0
    service.process = None
    assert_nothing_lives(service, uids)
    assert cgroups_of(instance(service)) == []
    service.start()
    log = Log(service)
    assert log.causes[started["id"]] == "lost"
    alarms = [r["reason"] for r in log.records if r["event_type"] == "security" and r["action"] == "launcher"]
    assert alarms == ["the forge is gone"], service.log.read_text()[-3000:]
    assert service.stop() == 0
    assert_nothing_left(service, uids, mounts)


def test_sigterm_ends_what_runs_and_leaves_nothing(
    service: Daemon, workspaces: list[Path], uids: tuple[int, int]
) -> None:
    mounts = host_mounts(service.root)
    script = "trap '' TERM INT HUP; (setsid sleep 1000 &); sleep 1000"
    ids = set()
    for workspace in workspaces:
        body = {"workspace": str(workspace), "script": script, "background": True}
        ids.add(service.request("POST", "/v1/runs", body).json["id"])
    assert processes_of(uids)
    assert service.stop() == 0
    assert_nothing_left(service, uids, mounts)
    service.start()
    log = Log(service)
    log.assert_whole({}, ids)
    assert {log.causes[i] for i in ids} <= {"lost", "stopped", "cancelled"}


# --- the audit log ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_log(ground: Path, agent: Agent, uids: tuple[int, int]) -> Iterator[Daemon]:
    """A service whose log directory is a file system of 256 KiB."""
    rule = '[[rules]]\nname = "recorded"\nmatch = { agent = ["careful"] }\nrequire = { audit = true }\n'
    daemon = Daemon(ground, agent, sys.executable, f"{policy(uids)}\n{rule}")
    log = daemon.root / "log"
    log.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "stockade-test", str(log)], check=True)
    try:
        daemon.start()
        yield daemon
    finally:
        try:
            daemon.stop()
        finally:
            subprocess.run(["umount", str(log)], check=True)
            shutil.rmtree(daemon.root)


def test_with_a_full_audit_disk_nothing_runs_until_there_is_space(small_log: Daemon, workspaces: list[Path]) -> None:
    place = workspaces[0]
    assert small_log.run(place, "true")["cause"] == "exited"
    filler = small_log.root / "log" / "filler"
    with open(filler, "wb", buffering=0) as f, contextlib.suppress(OSError):
        while True:
            f.write(bytes(4096))
    body = {"workspace": str(place), "script": f"touch {place}/canary"}
    careful = {**body, "labels": {"agent": "careful"}}
    full = None
    for _ in range(64):  # what is left of the last page of the log still takes some records
        (place / "canary").unlink(missing_ok=True)
        full = small_log.request("POST", "/v1/runs", body)
        if full.status != 200 and not (place / "canary").exists():
            break
        # The decision may just have fitted and the outcome not: then it ran, and the answer says so.
        assert full.status == 200 or full.json["code"] == "outcome_unrecorded", full.body
    assert full is not None
    assert (full.status, full.json["code"]) == (503, "audit_unavailable")
    assert not (place / "canary").exists()
    assert full.json["detail"]
    assert small_log.request("POST", "/v1/runs", body).json["code"] == "audit_unavailable"
    # R63: who asks before changing something, and what policy lets be done only while the log works, learn of it.
    assert small_log.request("GET", "/v1/status").json["audit"] == {"ok": False}
    denied = small_log.request("POST", "/v1/runs", careful)
    assert (denied.status, denied.json["rule"]) == (403, "rules.recorded")
    assert not (place / "canary").exists()
    filler.unlink()
    assert small_log.run(place, script=f"touch {place}/canary")["cause"] == "exited"
    assert (place / "canary").exists()
    assert small_log.request("GET", "/v1/status").json["audit"] == {"ok": True}
    assert small_log.request("POST", "/v1/runs", careful).status == 200
    assert small_log.stop() == 0
    small_log.start()
    Log(small_log).assert_whole({}, set())


def test_while_the_auditor_is_frozen_no_run_starts_and_after_it_they_do(
    service: Daemon, workspaces: list[Path], uids: tuple[int, int]
) -> None:
    place = workspaces[0]
    auditor = service.children()["auditor"]
    opened = service.request("POST", "/v1/sessions", {"workspace": str(place)}).json
    answers: list[Any] = []
    os.kill(auditor, signal.SIGSTOP)
    try:
        body = {"script": f"touch {place}/canary"}
        asking = threading.Thread(
            target=lambda: answers.append(
                service.request("POST", f"/v1/sessions/{opened['id']}/shell", body, root=True)
            )
        )
        asking.start()
        deadline = time.monotonic() + PATIENCE
        while not service.request("GET", "/v1/runs", root=True).json["runs"]:
            assert time.monotonic() < deadline
        for _ in range(20):  # each goes through the whole of main, and one of them through the launcher and back
            assert service.request("GET", "/v1/status", root=True).status == 200
        reload = service.request("POST", "/v1/policy/reload", {}, root=True)
        assert (reload.status, reload.json["code"]) == (503, "audit_unavailable"), "what is not recorded is not changed"
        assert not (place / "canary").exists()
        assert answers == []
    finally:
        os.kill(auditor, signal.SIGCONT)
    asking.join(PATIENCE)
    assert [a.status for a in answers] == [200]
    assert answers[0].json["cause"] == "exited"
    assert (place / "canary").exists()


def test_a_frozen_auditor_does_not_keep_the_service_from_ending(service: Daemon) -> None:
    auditor = service.children()["auditor"]
    os.kill(auditor, signal.SIGSTOP)
    try:
        assert service.stop() == 1, "an end that is not recorded is not a clean one"
    finally:
        os.kill(auditor, signal.SIGCONT)
    assert "the end could not be recorded: the auditor does not answer" in service.log.read_text()
    assert "Traceback" not in service.log.read_text()


# --- the emergency stop -----------------------------------------------------------------------------------------


def test_the_emergency_stop_kills_everything_and_holds_over_a_restart(
    service: Daemon, workspaces: list[Path], workspace: Path, uids: tuple[int, int]
) -> None:
    mounts = host_mounts(service.root)
    ids = []
    for place in workspaces * 2:
        session = ok(service.request("POST", "/v1/sessions", {"workspace": str(place)}))["id"]
        for _ in range(2):
            body = {"script": "trap '' TERM; (setsid sleep 1000 &); sleep 1000", "background": True}
            ids.append(ok(service.request("POST", f"/v1/sessions/{session}/shell", body))["id"])
    waiting: list[Any] = []
    body = {"workspace": str(workspace), "argv": ["sleep", "1000"]}
    client = threading.Thread(target=lambda: waiting.append(service.request("POST", "/v1/runs", body, root=True)))
    client.start()
    deadline = time.monotonic() + PATIENCE
    while len(found := service.request("GET", "/v1/runs", root=True).json["runs"]) < len(ids) + 1:
        assert time.monotonic() < deadline, (len(found), len(ids), waiting)
    assert service.request("POST", "/v1/stop", {"reason": "test"}).status == 403, "not for everyone"
    stopped = service.request("POST", "/v1/stop", {"reason": "test"}, root=True)
    assert (stopped.status, stopped.json["runs"], stopped.json["sessions"]) == (200, 17, 9)
    assert all_gone(processes_of(uids), time.monotonic() + PATIENCE)
    client.join(PATIENCE)
    assert ok(waiting[0])["cause"] == "stopped"
    for ident in ids:
        assert service.request("GET", f"/v1/runs/{ident}").json["cause"] == "stopped"
    refused = service.request("POST", "/v1/runs", body)
    assert (refused.status, refused.json["code"]) == (503, "stopped")
    assert service.stop() == 0
    service.start()
    assert service.request("POST", "/v1/runs", body).json["code"] == "stopped"
    assert processes_of(uids) == {}
    assert service.request("POST", "/v1/resume", {}, root=True).status == 200
    assert service.run(workspaces[0], "true")["cause"] == "exited"
    log = Log(service)
    log.assert_whole(dict.fromkeys(ids, "stopped"), set(ids))
    assert service.stop() == 0
    assert_nothing_left(service, uids, mounts)
    assert service_processes(service.root) == {}
