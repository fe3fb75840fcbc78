"""`stockade` against a real service, as an ordinary user in stockade-clients: the command behaves like the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Agent, Daemon

pytestmark = pytest.mark.root

REPOSITORY = Path(__file__).resolve().parents[2]
EVERY_BYTE = bytes(range(256))


@pytest.fixture
def start(daemon: Daemon, agent: Agent, workspace: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start `stockade ARGS` in the workspace; ended with the test.

    The program keeps root's eyes for its own imports (the interpreter may lie where only root reads) and becomes the
    agent before its first line runs.
    """
    started: list[subprocess.Popen[bytes]] = []
    program = (
        "import os, sys\n"
        "import click, http.client, supervisor.cli.main\n"
        "from supervisor.cli.main import COMMANDS, cli, main\n"
        "[cli.get_command(None, name) for name in COMMANDS if name != 'serve']\n"
        f"os.setgroups({list(agent.groups)}); os.setgid({agent.gid}); os.setuid({agent.uid})\n"
        "main()"
    )

    def starter(*args: str, **options: Any) -> subprocess.Popen[bytes]:
        defaults = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-c", program, *args],
            cwd=workspace,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "STOCKADE_SOCKET": daemon.socket},
            **{**defaults, **options},
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def stockade(start: Callable[..., subprocess.Popen[bytes]]) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def run(*args: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        process = start(*args, stdin=subprocess.DEVNULL if data is None else subprocess.PIPE)
        out, err = process.communicate(data, timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, out, err)

    return run


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_status_is_the_commands(stockade: Any, code: int) -> None:
    ended = stockade("run", "-c", f"echo out; echo err >&2; exit {code}")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, b"out\n", b"err\n")


def test_input_goes_through_cat_byte_for_byte(stockade: Any) -> None:
    data = EVERY_BYTE * 4096
    ended = stockade("run", "--", "cat", data=data)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == data


def test_empty_input_and_no_input_end_at_once(stockade: Any) -> None:
    for data in (b"", None):
        ended = stockade("run", "--", "cat", data=data)
        assert (ended.returncode, ended.stdout) == (0, b"")


def test_a_command_that_does_not_read_its_input_ends_all_the_same(start: Any) -> None:
    process = start("run", "--", "true", stdin=subprocess.PIPE)
    assert process.wait(60) == 0


def test_the_command_works_in_this_directory_and_its_files_are_ours(stockade: Any, workspace: Path, agent: Any) -> None:
    assert stockade("run", "-c", "pwd; echo made > file").returncode == 0
    assert (workspace / "file").read_text() == "made\n"
    assert (workspace / "file").stat().st_uid == agent.uid


def test_a_timeout_is_124_with_its_limit(stockade: Any) -> None:
    ended = stockade("run", "--timeout", "200ms", "--", "sleep", "60")
    assert ended.returncode == 124
    assert ended.stderr.startswith(b"stockade: killed: timeout (200ms limit, ran ")


def test_silence_over_its_limit_is_124(stockade: Any) -> None:
    ended = stockade("run", "--limit", "idle_timeout=200ms", "--", "sleep", "60")
    assert ended.returncode == 124
    assert ended.stderr.startswith(b"stockade: killed: idle_timeout (200ms limit")


def test_memory_over_its_limit_is_137_with_the_counter(stockade: Any) -> None:
    ended = stockade("run", "--limit", "memory=64M", "-c", "x=a; while :; do x=$x$x; done")
    assert ended.returncode == 137
    assert ended.stderr.splitlines()[-1].startswith(b"stockade: killed: memory (64M limit, peak ")


def test_output_over_its_limit_is_137(stockade: Any) -> None:
    ended = stockade("run", "--limit", "output=4K", "--", "yes")
    assert ended.returncode == 137
    assert ended.stdout.startswith(b"y\ny\n")
    assert b"stockade: killed: output (4K limit)" in ended.stderr


def test_death_by_a_signal_is_128_and_its_number(stockade: Any) -> None:
    ended = stockade("run", "-c", "kill -TERM $$")
    assert (ended.returncode, ended.stderr) == (143, b"stockade: ended by SIGTERM\n")


def test_a_command_that_is_not_there_is_127_and_one_that_is_no_program_126(stockade: Any, workspace: Path) -> None:
    (workspace / "text").write_text("not a program")
    missing, text = stockade("run", "--", "no-such-program"), stockade("run", "--", "./text")
    assert (missing.returncode, text.returncode) == (127, 126)
    assert missing.stderr.startswith(b"stockade: ")
    assert b"no-such-program" in missing.stderr


def test_a_refusal_is_125_with_the_reason_and_what_to_do(stockade: Any) -> None:
    ended = stockade("run", "--workspace", "/etc", "--", "ls")
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"workspace" in ended.stderr.splitlines()[0]
    assert b"\nrule: callers" in ended.stderr, ended.stderr
    assert b"\nretry: " in ended.stderr
    document = json.loads(stockade("run", "--json", "--profile", "nonesuch", "--", "ls").stdout)
    assert document["detail"]
    assert document["code"] in ("denied", "invalid_request", "not_found")


def test_ctrl_c_reaches_the_command(start: Any) -> None:
    process = start("run", "-c", "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done")
    assert os.read(process.stdout.fileno(), 6) == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 7
    assert process.stdout.read() == b"caught\n"


def test_a_second_ctrl_c_kills_what_ignores_the_first(start: Any) -> None:
    process = start("run", "-c", "trap 'echo caught' INT; echo ready; while :; do sleep 1; done")
    assert os.read(process.stdout.fileno(), 6) == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert os.read(process.stdout.fileno(), 7) == b"caught\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 137


def test_sigterm_ends_the_whole_tree(start: Any) -> None:
    process = start("run", "-c", "trap '' TERM; setsid sleep 60 & echo ready; wait")
    assert os.read(process.stdout.fileno(), 6) == b"ready\n"
    process.terminate()
    assert process.wait(60) == 137
    assert process.stderr.read() == b"stockade: killed: cancelled\n"


def test_a_reader_that_goes_away_ends_the_run(start: Any, stockade: Any) -> None:
    process = start("run", "--", "yes")
    assert os.read(process.stdout.fileno(), 2) == b"y\n"
    process.stdout.close()
    assert process.wait(60) == -signal.SIGPIPE
    newest = json.loads(stockade("ps", "--all", "--json").stdout)["runs"][-1]
    assert stockade("wait", newest["id"]).returncode == 137


def test_json_is_the_run_with_its_output_inside(stockade: Any) -> None:
    ended = stockade("run", "--json", "-c", "printf out; printf err >&2; exit 4")
    run = json.loads(ended.stdout)
    assert (ended.returncode, ended.stderr) == (4, b"")
    assert (run["cause"], run["exit_code"], run["stdout"], run["stderr"]) == ("exited", 4, "out", "err")


def test_a_background_run_is_listed_followed_signalled_and_waited_for(stockade: Any, start: Any) -> None:
    script = "trap 'exit 9' HUP; echo ready; while :; do sleep 0.05; done"
    run = stockade("run", "--background", "-c", script).stdout.decode().strip()
    assert run in stockade("ps").stdout.decode()
    follower = start("logs", run, "--follow")
    assert os.read(follower.stdout.fileno(), 6) == b"ready\n"
    assert stockade("kill", run, "--signal", "HUP").returncode == 0
    assert stockade("wait", run).returncode == 9
    assert follower.wait(60) == 0
    assert run not in stockade("ps").stdout.decode()
    assert stockade("logs", run, "--tail", "1").stdout == b"ready\n"


def test_runs_of_a_session_share_its_private_tmp(stockade: Any) -> None:
    session = stockade("sessions", "open").stdout.decode().strip()
    try:
        assert stockade("run", "--session", session, "-c", "echo kept > /tmp/note").returncode == 0
        assert stockade("run", "--session", session, "--", "cat", "/tmp/note").stdout == b"kept\n"
        assert session in stockade("sessions", "list").stdout.decode()
    finally:
        assert stockade("sessions", "close", session).returncode == 0
    assert stockade("run", "--session", session, "--", "true").returncode == 125


def test_a_dry_run_decides_and_starts_nothing(stockade: Any, workspace: Path) -> None:
    ended = stockade("run", "--dry-run", "-c", "touch made")
    assert ended.returncode == 0
    assert b"decision: allow" in ended.stdout
    assert not (workspace / "made").exists()


def test_status_and_doctor_agree_that_the_service_is_well(stockade: Any) -> None:
    assert stockade("status").returncode == 0
    doctor = json.loads(stockade("doctor", "--json").stdout)
    assert (doctor["source"], doctor["proofs"] != []) == ("service", True)
    assert [proof for proof in doctor["proofs"] if not proof["ok"]] == []


def test_doctor_says_whether_bytes_written_are_counted(stockade: Any, daemon: Daemon, workspace: Path) -> None:
    """What `written` of [[budgets]] needs; a host that cannot count them is no failure, and is told of."""
    checks = json.loads(stockade("doctor", "--json").stdout)["checks"]
    found = next(check for check in checks if check["name"] == "cgroup.io")
    counted = "written_bytes" in daemon.run(workspace, "true")["usage"]
    assert (found["ok"], found["required"], "[[budgets]]" in found["remedy"]) == (counted, False, not counted)


def test_an_emergency_stop_kills_and_refuses_until_resumed(start: Any, stockade: Any, daemon: Daemon) -> None:
    process = start("run", "-c", "echo ready; sleep 60")
    assert os.read(process.stdout.fileno(), 6) == b"ready\n"
    assert daemon.request("POST", "/v1/stop", {"reason": "test"}, root=True).status == 200
    try:
        assert process.wait(60) == 137
        refused = stockade("run", "--", "true")
        assert (refused.returncode, b"retry: later" in refused.stderr) == (125, True)
        assert stockade("status").returncode == 1
    finally:
        assert daemon.request("POST", "/v1/resume", root=True).status == 200
    assert stockade("run", "--", "true").returncode == 0


def test_who_is_no_client_is_told_which_group_to_join(daemon: Daemon, stranger: Agent) -> None:
    program = (
        "import os, supervisor.cli.run, supervisor.cli.client\n"
        "from supervisor.cli.main import main\n"
        f"os.setgroups([]); os.setgid({stranger.gid}); os.setuid({stranger.uid})\n"
        f"main(['run', '--socket', {daemon.socket!r}, '--workspace', '/', '--', 'true'])"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd="/",
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 125
    assert b"stockade-clients" in done.stderr
    assert b"Traceback" not in done.stderr
