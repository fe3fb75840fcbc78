"""The way of one run, from the request to its end, with real children."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from supervisor import errors
from supervisor.runs.model import SessionRequest
from supervisor.wire import messages as w
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT, STRANGER, VIEWER


async def finished(world, *argv, **changes):
    run = await world.run(*argv, **changes)
    await world.supervisor.wait(run)
    return run


async def test_a_one_shot_run_answers_what_its_command_did(world) -> None:
    run = await finished(world, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (run.state, run.cause, run.exit_code, run.signal) == ("finished", "exited", 3, None)
    assert run.output.head_tail("stdout") == (b"out\n", False)
    assert run.output.head_tail("stderr") == (b"err\n", False)
    assert run.receipt == {"landlock": 7}
    assert run.decision["source"] == "/etc/stockade/policy.toml:20"
    assert run.limits["timeout_ms"] == 60_000


async def test_a_one_shot_session_is_closed_after_its_run(world) -> None:
    run = await finished(world, "true")
    closing = asyncio.all_tasks() - {asyncio.current_task()}
    assert closing, "the answer does not wait for the end of the session"
    await asyncio.gather(*closing)
    assert world.launcher.of(w.CloseSession) == [w.CloseSession(run.session)]
    assert world.supervisor.sessions(AGENT) == []


async def test_the_record_names_exactly_what_the_launcher_was_sent(world) -> None:
    run = await finished(world, "echo", "x", env={"SECRET": "hidden"}, labels={"agent": "a7"})
    record = world.auditor.of("decision")[0]
    sent = world.launcher.of(w.StartRun)[0]
    assert record["fingerprint"] == w.fingerprint(sent)
    assert (record["run"], record["outcome"], record["args"]) == (run.id, "allow", ["echo", "x"])
    assert (record["caller"], record["agent"]) == ({"uid": 1000, "pid": 4711, "unit": ""}, "a7")
    assert "hidden" not in str(record)
    assert sent.limits == {}, "what is not narrowed is not sent"


async def test_nothing_runs_when_the_decision_cannot_be_recorded(world) -> None:
    world.auditor.works = False
    run = await world.run("touch", "ran")
    with pytest.raises(errors.AuditUnavailable, match=r"disk full|not recorded"):
        await world.supervisor.wait(run)
    assert run.cause == "denied"
    assert os.listdir(world.workspace) == []
    assert world.launcher._children == {}


async def test_a_command_that_is_not_there_is_the_requests_fault(world) -> None:
    run = await world.run("no-such-command")
    with pytest.raises(errors.CommandNotStarted) as refusal:
        await world.supervisor.wait(run)
    shown = refusal.value.as_dict()
    assert (shown["status"], shown["field"], shown["errno"], shown["run"]) == (422, "argv[0]", 2, run.id)
    assert "PATH" in shown["hint"]
    assert run.cause == "not_started"


async def test_a_script_runs_under_the_profiles_shell_in_the_workspace(world) -> None:
    os.mkdir(os.path.join(world.workspace, "sub"))
    run = await finished(world, script='pwd; echo "$A $STOCKADE_RUN $HOME"', env={"A": "b"}, cwd="sub")
    assert run.output.head_tail("stdout")[0].decode() == f"{world.workspace}/sub\nb {run.id} /home/agent\n"
    assert run.argv[:2] == ("/bin/sh", "-c")


@pytest.mark.parametrize("stdin", [b"", b"\0\xff text", b"x" * 300_000])
async def test_stdin_reaches_the_command_byte_for_byte(world, stdin: bytes) -> None:
    run = await finished(world, "cat", stdin=stdin)
    assert run.output.read("stdout", 0, len(stdin) + 1) == stdin


async def test_stdin_can_be_fed_while_the_command_runs(world) -> None:
    run = await world.run("cat", stdin_stream=True)
    await world.supervisor.feed(AGENT, run.id, b"one ", False)
    frames = aiter(run.output.frames())
    assert (await anext(frames)).data == b"one "
    await world.supervisor.feed(AGENT, run.id, b"two", True)
    await world.supervisor.wait(run)
    assert run.output.head_tail("stdout")[0] == b"one two"
    with pytest.raises(errors.Conflict):
        await world.supervisor.feed(AGENT, run.id, b"late", True)


async def test_without_stdin_the_command_reads_the_end_at_once(world) -> None:
    run = await finished(world, "cat")
    assert run.output.size("stdout") == (0, 0)
    with pytest.raises(errors.Conflict):
        await world.supervisor.feed(AGENT, run.id, b"x", True)


async def test_a_silent_run_ends_by_its_idle_timeout(world) -> None:
    run = await finished(world, "sleep", "60", limits={"idle_timeout_ms": 30})
    assert run.cause == "idle_timeout"
    assert world.launcher.of(w.EndRun) == [w.EndRun(run.id, "idle_timeout")]


async def test_output_keeps_a_run_from_being_idle(world) -> None:
    run = await world.run("cat", stdin_stream=True)
    running = world.supervisor.running[run.id]
    run.output.last -= 31  # its profile's idle timeout is 30 s
    await world.supervisor.feed(AGENT, run.id, b"x", False)
    await anext(aiter(run.output.frames()))
    running._on_idle()
    assert world.supervisor.running[run.id] is running
    run.output.last -= 31
    running._on_idle()
    await world.supervisor.wait(run)
    assert run.cause == "idle_timeout"
    assert len(world.launcher.of(w.EndRun)) == 1


async def test_a_flood_ends_with_cause_output_and_what_was_kept(world) -> None:
    run = await finished(world, "yes", limits={"output": 100_000})
    assert run.cause == "output"
    assert run.output.kept == 100_000
    assert [m.cause for m in world.launcher.of(w.EndRun)] == ["output"]
    assert "limit" in run.detail


async def test_a_run_ends_and_is_signalled_by_its_owner_only(world) -> None:
    run = await world.run("sleep", "60")
    for other in (STRANGER, VIEWER):
        with pytest.raises((errors.NotFound, errors.Denied)):
            await world.supervisor.end(other, run.id)
        with pytest.raises((errors.NotFound, errors.Denied)):
            world.supervisor.signal(other, run.id, 9, True)
    await world.supervisor.end(AGENT, run.id)
    await world.supervisor.wait(run)
    assert run.cause == "cancelled"
    await world.supervisor.end(AGENT, run.id)
    with pytest.raises(errors.Conflict):
        world.supervisor.signal(AGENT, run.id, 15, False)


async def test_a_signal_reaches_the_command(world) -> None:
    run = await world.run("sh", "-c", "echo ready; exec sleep 60")
    assert (await anext(aiter(run.output.frames()))).data == b"ready\n"
    with pytest.raises(errors.InvalidRequest):
        world.supervisor.signal(AGENT, run.id, 65, False)
    world.supervisor.signal(AGENT, run.id, 15, False)
    await world.supervisor.wait(run)
    assert (run.cause, run.signal) == ("signal", 15)


async def test_an_administrator_sees_and_ends_the_runs_of_others(world) -> None:
    run = await world.run("sleep", "60")
    assert world.supervisor.run(ADMINISTRATOR, run.id) is run
    assert world.supervisor.runs(ADMINISTRATOR, state="running") == [run]
    assert world.supervisor.runs(STRANGER) == []
    with pytest.raises(errors.NotFound):
        world.supervisor.run(STRANGER, run.id)
    await world.supervisor.end(ADMINISTRATOR, run.id)
    await world.supervisor.wait(run)


async def test_refusals_are_recorded_with_their_reason_and_start_nothing(world) -> None:
    for changes in ({"profile": "other"}, {"workspace": "/etc"}, {"limits": {"memory": 1 << 40}}):
        with pytest.raises(errors.StockadeError):
            await world.run("true", **changes)
    with pytest.raises(errors.Denied):
        await world.run("true", who=VIEWER)
    with pytest.raises(errors.TooLarge, match="one message"):
        await world.run("echo", "\x01" * 90_000)
    await world.audit.record(_mark())
    denied = world.auditor.of("decision")
    assert [r["outcome"] for r in denied] == ["deny"] * 5
    assert [r["reason"].partition(":")[0] for r in denied] == [
        "denied", "workspace_refused", "denied", "denied", "too_large"
    ]  # fmt: skip
    assert world.launcher.of(w.StartRun) == []
    assert world.supervisor.runs(AGENT) == []


async def test_over_the_number_of_runs_the_verdict_is_limit(world) -> None:
    session = await world.supervisor.open_session(AGENT, SessionRequest(world.workspace), "req-1")
    runs = [await world.run("sleep", "60", session=session.id) for _ in range(4)]
    with pytest.raises(errors.LimitReached):
        await world.run("true", session=session.id)
    await world.audit.record(_mark())
    assert [r["outcome"] for r in world.auditor.of("decision")] == ["allow"] * 4 + ["limit"]
    for run in runs:
        await world.supervisor.end(AGENT, run.id)
        await world.supervisor.wait(run)
    assert (await finished(world, "true", session=session.id)).exit_code == 0


async def test_runs_that_begin_at_once_do_not_pass_the_bound_together(world) -> None:
    got = await asyncio.gather(*(world.run("sleep", "60") for _ in range(9)), return_exceptions=True)
    started = [g for g in got if not isinstance(g, BaseException)]
    assert len(started) == 4
    assert {type(g) for g in got if isinstance(g, BaseException)} == {errors.LimitReached}


async def test_a_launcher_that_dies_ends_its_runs_as_lost(world) -> None:
    run = await world.run("sleep", "60")
    world.launcher.sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(errors.LauncherUnavailable):
        await world.supervisor.wait(run)
    assert (run.state, run.cause) == ("finished", "lost")
    with pytest.raises(errors.LauncherUnavailable):
        await world.run("true")


async def test_a_session_that_the_launcher_refuses_leaves_nothing_behind(world) -> None:
    world.launcher.refuse = w.Refused(1, "workspace_refused", "a component is a symbolic link", {"field": "workspace"})
    with pytest.raises(errors.WorkspaceRefused):
        await world.run("true")
    assert world.supervisor.sessions(AGENT) == []
    assert (await finished(world, "true")).exit_code == 0


async def test_a_client_that_goes_while_its_session_opens_leaves_no_session(world) -> None:
    task = asyncio.ensure_future(world.run("true"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.supervisor.sessions(AGENT) == []
    assert world.supervisor.counters().runs == 0
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert world.launcher.sessions == []


async def test_a_dry_run_says_the_decision_and_does_nothing(world) -> None:
    said = await world.supervisor.dry_run(AGENT, world.request("true", limits={"memory": 1 << 20}))
    assert said["decision"]["verdict"] == "allow"
    assert said["limits"]["memory"] == 1 << 20
    with pytest.raises(errors.WorkspaceRefused):
        await world.supervisor.dry_run(AGENT, world.request("true", workspace="/etc"))
    assert world.launcher.of(w.OpenSession) == []
    assert world.auditor.of("decision") == []


async def test_a_runs_life_is_told_to_its_owner_and_not_to_others(world) -> None:
    mine, other = world.supervisor.subscribe(AGENT), world.supervisor.subscribe(STRANGER)
    run = await finished(world, "true")
    mine.close()
    other.close()
    assert [(e.kind, e.data["run"]) async for e in mine] == [("run.started", run.id), ("run.finished", run.id)]
    assert [e async for e in other] == []


def _mark():
    """A record that is acknowledged, so that everything before it has arrived."""
    from supervisor.audit import events

    return events.service(action="mark", outcome="ok")
