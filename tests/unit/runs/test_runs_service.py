"""The service around runs: sessions, reload, the emergency stop, what can be asked."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

import pytest

from supervisor import errors
from supervisor.runs import registry as registries
from supervisor.runs import sessions, stopfile
from supervisor.runs.model import SessionRequest
from supervisor.runs.registry import new_id
from supervisor.wire import messages as w
from tests.unit.decide.samples import peer
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT, STRANGER, VIEWER


async def opened(world, **changes):
    request = replace(SessionRequest(world.workspace), **changes)
    return await world.supervisor.open_session(AGENT, request, "req-1")


async def finished(world, *argv, **changes):
    run = await world.run(*argv, **changes)
    await world.supervisor.wait(run)
    return run


# --- sessions ---------------------------------------------------------------------------------------------------------


async def test_a_session_holds_several_runs_and_is_closed_once(world) -> None:
    session = await opened(world, labels={"agent": "a7"})
    assert session.state == "live"
    assert session.receipt == {"uid": 900_001}
    for _ in range(2):
        assert (await finished(world, "true", session=session.id)).session == session.id
    assert len(world.launcher.of(w.OpenSession)) == 1
    await world.supervisor.close_session(AGENT, session.id)
    assert (session.state, session.ended_cause) == ("ended", "closed")
    await world.supervisor.close_session(AGENT, session.id)
    assert world.supervisor.sessions(AGENT) == []
    assert world.supervisor.session(AGENT, session.id) is session, "an ended one is still shown for a while"
    with pytest.raises(errors.Conflict, match="ended"):
        await world.run("true", session=session.id)


async def test_a_session_is_recorded_from_its_opening_to_its_end(world) -> None:
    session = await opened(world)
    await world.supervisor.close_session(AGENT, session.id)
    with pytest.raises(errors.WorkspaceRefused):
        await opened(world, workspace="/etc")
    await world.supervisor.resume(ADMINISTRATOR)
    await _settled(world)
    told = [(r["action"], r["outcome"], r["session_id"] == session.id) for r in world.auditor.of("session")]
    assert told == [("open", "allow", True), ("end", "closed", True), ("open", "deny", False)]


async def test_a_session_that_cannot_be_recorded_is_closed_again(world) -> None:
    world.auditor.works = False
    with pytest.raises(errors.AuditUnavailable):
        await opened(world)
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert world.launcher.sessions == []
    assert world.supervisor.sessions(AGENT) == []


async def test_the_session_of_another_uid_is_not_there(world) -> None:
    session = await opened(world)
    for ask in (
        lambda: world.supervisor.session(STRANGER, session.id),
        lambda: world.supervisor.session(STRANGER, new_id("ses")),
    ):
        with pytest.raises(errors.NotFound):
            ask()
    with pytest.raises(errors.NotFound):
        await world.supervisor.close_session(STRANGER, session.id)
    with pytest.raises(errors.NotFound):
        await world.run("true", who=STRANGER, session=session.id)
    assert world.supervisor.sessions(ADMINISTRATOR) == [session]


async def test_an_idle_session_is_closed_and_one_with_a_run_is_not(world) -> None:
    events = world.supervisor.subscribe(AGENT)
    busy, idle, used = await opened(world), await opened(world), await opened(world)
    run = await world.run("sleep", "60", session=busy.id)
    for session in (busy, idle):
        session.used -= 61  # policy closes after 60 s
    for session in (busy, idle, used):
        world.supervisor.timers.pop(session.id).cancel()
        sessions._idle(world.supervisor, session)
    assert [e.data async for e in _until(events, "session.ended")][-1] == {"session": idle.id, "cause": "expired"}
    assert (busy.state, used.state) == ("live", "live")
    assert world.supervisor.timers.keys() == {busy.id, used.id}, "they are looked at again"
    await world.supervisor.end(AGENT, run.id)
    await world.supervisor.wait(run)
    busy.used -= 61
    world.supervisor.timers.pop(busy.id).cancel()
    sessions._idle(world.supervisor, busy)
    assert [e.data async for e in _until(events, "session.ended")][-1] == {"session": busy.id, "cause": "expired"}


async def test_a_session_expires_by_itself(worlds) -> None:
    world = worlds()
    bounds = replace(world.snapshot.service, session_idle_ms=1)
    world.launcher.snapshot = replace(world.snapshot, service=bounds)
    await world.supervisor.load()
    events = world.supervisor.subscribe(AGENT)
    session = await opened(world)
    assert [e.data async for e in _until(events, "session.ended")][-1] == {"session": session.id, "cause": "expired"}


async def test_a_session_whose_leader_died_is_ended_as_lost(world) -> None:
    session = await opened(world)
    events = world.supervisor.subscribe(AGENT)
    world.launcher.end_session(session.id, "lost")
    assert [e.data["cause"] async for e in _until(events, "session.ended")] == ["lost"]
    assert world.supervisor.counters().sessions == 0


# --- policy -----------------------------------------------------------------------------------------------------------


async def test_before_the_first_policy_nothing_is_decided(worlds) -> None:
    world = worlds()
    with pytest.raises(errors.Unavailable, match="no policy"):
        await world.run("true")


async def test_a_bad_policy_keeps_the_last_good_one_and_shows_in_the_status(world) -> None:
    finding = {"file": "policy.toml", "line": 3, "key": "profiles.shell.raed", "message": "unknown"}
    world.launcher.refuse = w.Refused(1, "policy_invalid", "1 finding", {"findings": [finding]})
    events = world.supervisor.subscribe(AGENT)
    digest = world.supervisor.digest
    with pytest.raises(errors.PolicyInvalid) as refusal:
        await world.supervisor.reload(ADMINISTRATOR)
    assert refusal.value.extra["findings"] == [finding]
    failure = world.supervisor.status(VIEWER)["policy"]["failure"]
    assert (failure["code"], failure["findings"]) == ("policy_invalid", [finding])
    assert (await finished(world, "true")).decision["policy_digest"] == digest
    assert (await world.supervisor.reload(None))["digest"] == digest
    assert world.supervisor.status(VIEWER)["policy"]["failure"] is None
    kinds = [e.kind async for e in _until(events, "policy.reloaded")]
    assert kinds[0] == "policy.refused"


async def test_a_profile_that_fails_its_proof_is_not_served_and_doctor_says_which(world) -> None:
    proof = {"profile": "shell", "probe": "read_shadow", "key": "read", "ok": False, "detail": "it could be read"}
    world.launcher.proofs = [proof]
    said = await world.supervisor.reload(ADMINISTRATOR)
    assert said["refused"]["shell"]["probe"] == "read_shadow"
    with pytest.raises(errors.ProfileRefused, match="read_shadow"):
        await world.run("true")
    doctor = world.supervisor.doctor()
    assert (doctor["ok"], doctor["proofs"][0]) == (False, proof)
    assert all(row["ok"] for row in doctor["proofs"][1:])  # what main proves by itself
    assert doctor["host"]["landlock"] == {"required": True, "present": True, "detail": "ABI 7", "remedy": ""}
    world.launcher.proofs = []
    await world.supervisor.reload(ADMINISTRATOR)
    assert world.supervisor.doctor()["ok"]


@pytest.mark.parametrize("who", [AGENT, VIEWER, STRANGER, peer(1234)])
async def test_only_an_administrator_reloads_stops_and_resumes(world, who) -> None:
    for order in (
        world.supervisor.reload(who),
        world.supervisor.stop(who, "because"),
        world.supervisor.resume(who),
    ):
        with pytest.raises(errors.Denied):
            await order
    await _settled(world)
    assert [r["outcome"] for r in world.auditor.of("security")] == ["deny"] * 3
    assert not world.launcher.stopped


# --- the emergency stop -----------------------------------------------------------------------------------------------


async def test_the_emergency_stop_kills_every_run_and_lasts_until_resume(world) -> None:
    session = await opened(world)
    runs = [await world.run("sleep", "60", session=session.id) for _ in range(2)]
    said = await world.supervisor.stop(ADMINISTRATOR, "agent 7 deletes files")
    assert (said["runs"], said["sessions"], said["reason"]) == (2, 1, "agent 7 deletes files")
    for run in runs:
        await world.supervisor.wait(run)
        assert run.cause == "stopped"
    assert session.ended_cause == "stopped"
    with pytest.raises(errors.Stopped):
        await world.run("true")
    with pytest.raises(errors.Stopped):
        await opened(world)
    assert world.supervisor.status(VIEWER)["stopped"]["reason"] == "agent 7 deletes files"
    assert await world.supervisor.resume(ADMINISTRATOR) == {"stopped": False}
    assert (await finished(world, "true")).exit_code == 0
    actions = [r["action"] for r in world.auditor.of("service")]
    assert actions == ["stop", "resume"]


async def test_the_stop_outlives_the_service(worlds) -> None:
    first = worlds()
    await first.supervisor.load()
    await first.supervisor.stop(ADMINISTRATOR, "why")
    second = worlds()
    os.rename(f"{first.layout.state}/{stopfile.NAME}", f"{second.layout.state}/{stopfile.NAME}")
    again = type(second.supervisor)(second.client, second.audit, second.parser, second.layout, "0.0")
    await again.load()
    assert second.launcher.stopped
    with pytest.raises(errors.Stopped):
        await again.start(AGENT, second.request("true"), "req-1")
    await again.resume(ADMINISTRATOR)
    assert stopfile.read(second.layout.state) is None
    assert not second.launcher.stopped
    await again.close()


async def test_a_stop_that_cannot_be_written_down_still_kills_and_says_so(world) -> None:
    run = await world.run("sleep", "60")
    os.mkdir(f"{world.layout.state}/{stopfile.NAME}.new")
    with pytest.raises(errors.Unavailable, match="a restart would forget it"):
        await world.supervisor.stop(ADMINISTRATOR, "why")
    await world.supervisor.wait(run)
    assert run.cause == "stopped"
    with pytest.raises(errors.Stopped):
        await world.run("true")


async def test_resume_is_recorded_first(world) -> None:
    await world.supervisor.stop(ADMINISTRATOR, "why")
    world.auditor.works = False
    with pytest.raises(errors.AuditUnavailable):
        await world.supervisor.resume(ADMINISTRATOR)
    assert world.launcher.stopped
    assert stopfile.read(world.layout.state) is not None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_stop_file_means_stopped(tmp_path, content: bytes) -> None:
    (tmp_path / stopfile.NAME).write_bytes(content)
    found = stopfile.read(str(tmp_path))
    assert found is not None
    assert "reason" in found
    stopfile.remove(str(tmp_path))
    assert stopfile.read(str(tmp_path)) is None


# --- what can be asked ------------------------------------------------------------------------------------------------


async def test_the_status_counts_what_lives_and_says_who_asks(world) -> None:
    run = await world.run("sleep", "60")
    said = world.supervisor.status(AGENT)
    assert (said["runs"], said["sessions"]) == ({"live": 1, "most": 4}, {"live": 1, "most": 4})
    assert said["you"]["role"] == "operator"
    assert said["audit"] == {"ok": True}
    json.dumps(said)
    json.dumps(world.supervisor.doctor())
    with pytest.raises(errors.Denied):
        world.supervisor.status(peer(1234))
    await world.supervisor.end(AGENT, run.id)


async def test_policy_is_shown_whole_to_administrators_and_their_own_part_to_others(world) -> None:
    whole, own = world.supervisor.policy(ADMINISTRATOR), world.supervisor.policy(AGENT)
    assert (len(whole["callers"]), len(whole["profiles"])) == (4, 2)
    assert [c["uid"] for c in own["callers"]] == [1000]
    assert [p["name"] for p in own["profiles"]] == ["shell"]


async def test_a_process_inside_a_session_sees_its_own_limits_and_nothing_else(world) -> None:
    session = await opened(world, limits={"memory": 1 << 26})
    inside = peer(900_001, inside=True)
    said = world.supervisor.self_view(inside)
    assert (said["session"], said["profile"]["limits"]["memory"]) == (session.id, 1 << 26)
    assert world.supervisor.self_view(peer(900_777, inside=True)) == {"inside": True, "uid": 900_777}
    for ask in (world.supervisor.status, world.supervisor.runs, world.supervisor.sessions, world.supervisor.policy):
        with pytest.raises(errors.SelfViewOnly):
            ask(inside)
    with pytest.raises(errors.SelfViewOnly):
        await world.run("true", who=inside)
    outside = world.supervisor.self_view(AGENT)
    assert (outside["role"], outside["profiles"][0]["refused"]) == ("operator", False)


async def test_the_status_says_that_the_audit_is_gone(world) -> None:
    world.auditor.sock.shutdown(2)
    run = await world.run("true")
    with pytest.raises(errors.AuditUnavailable):
        await world.supervisor.wait(run)
    assert world.supervisor.status(AGENT)["audit"] == {"ok": False}
    assert not world.supervisor.doctor()["ok"]


# --- retention --------------------------------------------------------------------------------------------------------


async def test_finished_runs_are_kept_up_to_a_number_oldest_gone_first(world, monkeypatch) -> None:
    monkeypatch.setattr(registries, "KEEP_RUNS", 3)
    session = await opened(world)
    runs = [await finished(world, "echo", str(i), session=session.id) for i in range(5)]
    assert world.supervisor.runs(AGENT) == runs[:1:-1]
    with pytest.raises(errors.NotFound):
        world.supervisor.run(AGENT, runs[0].id)
    assert world.supervisor.runs(AGENT, limit=1) == [runs[4]]
    assert world.supervisor.runs(AGENT, session="ses-other") == []


async def test_finished_runs_are_kept_up_to_an_age_and_a_size_of_output(world, monkeypatch) -> None:
    session = await opened(world)
    runs = [await finished(world, "head", "-c", "50000", "/dev/zero", session=session.id) for _ in range(3)]
    live = await world.run("sleep", "60", session=session.id)
    kept = world.supervisor.registry
    now = asyncio.get_running_loop().time()
    assert len(os.listdir(kept.spool)) == 6
    monkeypatch.setattr(registries, "KEEP_BYTES", 100_000)
    kept.expire(now)
    assert world.supervisor.runs(AGENT) == [live, *runs[::-1]], "an answer may still be on its way"
    kept.expire(now + 2)
    assert world.supervisor.runs(AGENT) == [live, runs[2], runs[1]]
    kept.expire(now + 3600)
    assert world.supervisor.runs(AGENT) == [live], "a run that goes on is never forgotten"
    assert os.listdir(kept.spool) == []
    await world.supervisor.end(AGENT, live.id)


def test_ids_are_the_vocabularys_and_do_not_repeat() -> None:
    ids = {new_id("run") for _ in range(1000)}
    assert len(ids) == 1000
    for ident in ids:
        w.decode(w.encode(w.EndRun(ident, "cancelled")), w.TO_LAUNCHER)
        assert len(ident) == 24


async def _settled(world) -> None:
    """Everything posted before has arrived."""
    from supervisor.audit import events

    await world.audit.record(events.service(action="mark", outcome="ok"))


async def _until(subscription, kind):
    async for event in subscription:
        yield event
        if event.kind == kind:
            return
