"""The other commands: what they ask, what they print, how they exit."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli import reference
from supervisor.cli.main import COMMANDS

RUN_ID = "run-0123456789"
ESCAPE = "\x1b]0;owned\x07\u202e"

ALIVE = {
    "id": RUN_ID,
    "state": "running",
    "cause": None,
    "session": "ses-0123456789",
    "profile": "shell",
    "argv": ["sleep", ESCAPE],
    "created": "2026-01-02T03:04:05.678Z",
    "usage": {},
}
OVER = {
    **ALIVE,
    "id": "run-9876543210",
    "state": "finished",
    "cause": "exited",
    "exit_code": 3,
    "usage": {"wall_ms": 1500.0},
}


def lists_runs(handler: Any) -> None:
    wanted = {"state=running&limit=1000": [ALIVE], "limit=1000": [OVER, ALIVE]}
    handler.json({"runs": wanted.get(handler.query, [])})


# --- runs ----------------------------------------------------------------------------------------------------------


def test_ps_lists_the_living_in_aligned_columns_without_any_control_character(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/runs"] = lists_runs
    ended = stockade("ps")
    head, row = ended.stdout.decode().splitlines()
    assert head.split() == ["RUN", "STATE", "END", "AGE", "TIME", "SESSION", "PROFILE", "COMMAND"]
    assert row.startswith(f"{RUN_ID}  running  -    ")
    assert head.index("COMMAND") == row.index("sleep")
    assert r"sleep '\x1b]0;owned\x07\u202e'" in row


def test_ps_all_adds_how_the_others_ended(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/runs"] = lists_runs
    assert "finished  exit 3" in stockade("ps", "--all").stdout.decode()
    assert json.loads(stockade("ps", "--all", "--json").stdout) == {"runs": [ALIVE, OVER]}


def test_kill_cancels_and_with_a_signal_sends_it(service: Any, stockade: Any) -> None:
    service.routes["POST", f"/v1/runs/{RUN_ID}/cancel"] = {}
    service.routes["POST", f"/v1/runs/{RUN_ID}/signal"] = {}
    assert stockade("kill", RUN_ID).returncode == 0
    assert stockade("kill", RUN_ID, "--signal", "sighup", "--tree").returncode == 0
    assert stockade("kill", RUN_ID, "-s", "9").returncode == 0
    asked = [(path.rpartition("/")[2], body) for _, path, body in service.requests]
    assert asked == [
        ("cancel", None),
        ("signal", {"signal": "HUP", "tree": True}),
        ("signal", {"signal": "KILL", "tree": False}),
    ]


@pytest.mark.parametrize("args", [("-s", "NOPE"), ("-s", "0"), ("--tree",)])
def test_kill_refuses_what_is_no_signal(service: Any, stockade: Any, args: Any) -> None:
    assert stockade("kill", RUN_ID, *args).returncode == 2
    assert service.requests == []


def test_a_run_that_does_not_exist_is_status_1_and_the_services_sentence(service: Any, stockade: Any) -> None:
    service.routes["POST", f"/v1/runs/{RUN_ID}/cancel"] = lambda h: h.json({"code": "not_found", "detail": "gone"}, 404)
    ended = stockade("kill", RUN_ID)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (1, b"stockade: gone")


def test_wait_exits_as_the_run_did(service: Any, stockade: Any) -> None:
    service.routes["GET", f"/v1/runs/{RUN_ID}/wait"] = {"id": RUN_ID, "cause": "timeout", "exit_code": None}
    ended = stockade("wait", RUN_ID)
    assert (ended.returncode, ended.stderr) == (124, b"stockade: killed: timeout\n")


STREAMS = {"stdout": b"one\ntwo\n\xff\xfe", "stderr": b"e1\ne2\n"}


def serves_output(service: Any) -> None:
    def answer(handler: Any) -> None:
        query = dict(pair.split("=") for pair in handler.query.split("&"))
        if "follow" in query:
            handler.stream()
            handler.frame({"type": "started", "run": {"id": RUN_ID}})
            for stream in ("stdout", "stderr"):
                handler.frame({"type": stream, "offset": int(query[f"{stream}_offset"]), "data": f"more {stream}"})
            handler.frame({"type": "finished", "run": {"id": RUN_ID}})
            handler.chunk(b"")
        else:
            # Three bytes at a time, so that paging is seen to go on.
            start = int(query["offset"])
            handler.bytes(STREAMS[query["stream"]][start : start + 3])

    service.routes["GET", f"/v1/runs/{RUN_ID}/output"] = answer


@pytest.mark.parametrize(
    ("args", "out", "err"),
    [
        ((), STREAMS["stdout"], STREAMS["stderr"]),
        (("--stdout",), STREAMS["stdout"], b""),
        (("--stderr", "--offset", "4"), b"", b"2\n"),
        (("--tail", "1"), b"\xff\xfe", b"e2\n"),
        (("--tail", "2", "--stdout"), b"two\n\xff\xfe", b""),
        (("--tail", "0"), b"", b""),
        (("--tail", "99"), STREAMS["stdout"], STREAMS["stderr"]),
    ],
)
def test_logs_print_each_stream_byte_for_byte(service: Any, stockade: Any, args: Any, out: bytes, err: bytes) -> None:
    serves_output(service)
    ended = stockade("logs", RUN_ID, *args)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, out, err)


def test_logs_follow_goes_on_from_what_the_tail_has_shown(service: Any, stockade: Any) -> None:
    serves_output(service)
    ended = stockade("logs", RUN_ID, "--follow", "--tail", "1")
    assert (ended.stdout, ended.stderr) == (b"\xff\xfemore stdout", b"e2\nmore stderr")
    (follow,) = [path for _, path, _ in service.requests if "follow" in path]
    assert follow.endswith("?follow=1&stdout_offset=10&stderr_offset=6")


# --- sessions ------------------------------------------------------------------------------------------------------


def test_sessions_open_list_and_close(service: Any, stockade: Any, tmp_path: Any) -> None:
    session = {"id": "ses-0123456789", "state": "live", "profile": "shell", "workspace": str(tmp_path)}
    session |= {"created": "2026-01-02T03:04:05.678Z", "live_runs": [RUN_ID]}
    service.routes["POST", "/v1/sessions"] = lambda h: h.json(session, 201)
    service.routes["GET", "/v1/sessions"] = {"sessions": [session]}
    service.routes["DELETE", "/v1/sessions/ses-0123456789"] = session
    assert stockade("sessions", "open", "-l", "memory=1G", cwd=tmp_path).stdout == b"ses-0123456789\n"
    assert service.requests == [("POST", "/v1/sessions", {"workspace": str(tmp_path), "limits": {"memory": "1G"}})]
    for args in (("sessions",), ("sessions", "list")):
        _, row = stockade(*args).stdout.decode().splitlines()
        assert row.split()[0:2] == ["ses-0123456789", "live"]
    for args in (("sessions", "--json"), ("sessions", "list", "--json")):
        assert json.loads(stockade(*args).stdout) == {"sessions": [session]}
    closed = stockade("sessions", "close", "ses-0123456789")
    assert (closed.returncode, closed.stdout) == (0, b"")


# --- the service ---------------------------------------------------------------------------------------------------


STATUS: dict[str, Any] = {
    "version": "1",
    "stopped": None,
    "policy": {
        "digest": "ab" * 32,
        "files": {"/etc/stockade/policy.toml": "cd"},
        "since": 1.0,
        "failure": {"detail": "1 problem: x"},
        "refused": {"strict": {"probe": "scope", "key": "required", "detail": "ABI 4"}},
    },
    "sessions": {"live": 1, "most": 9},
    "runs": {"live": 0, "most": 8},
    "audit": {"ok": True},
    "host": {},
    "you": {"uid": 1000, "unit": "", "entry": 0, "role": "operator", "source": "policy.toml:9"},
}


def test_status_says_what_serves_what_is_refused_and_who_we_are(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/status"] = STATUS
    ended = stockade("status")
    lines = ended.stdout.decode().splitlines()
    assert lines[:2] == ["state: serving", "version: 1"]
    assert lines[2].startswith("policy: abababababab, loaded ")
    assert lines[3:] == [
        "  /etc/stockade/policy.toml",
        "policy on disk is not in force: 1 problem: x",
        "refused profile strict: scope: ABI 4",
        "sessions: 1 of at most 9",
        "runs: 0 of at most 8",
        "audit: ok",
        "you: uid 1000, operator by policy.toml:9",
    ]
    assert ended.returncode == 0
    service.routes["GET", "/v1/status"] = {**STATUS, "alerts": {"agents": 2}}
    assert "alerts: of 2 agents in this hour" in stockade("status").stdout.decode()


def test_status_of_a_stopped_service_is_1_with_the_reason(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/status"] = {**STATUS, "stopped": {"reason": "agent 7", "since": 1.0, "by": {}}}
    ended = stockade("status")
    assert ended.returncode == 1
    assert ended.stdout.startswith(b"state: stopped ")
    assert b"ago: agent 7" in ended.stdout
    assert json.loads(stockade("status", "--json").stdout)["stopped"]["reason"] == "agent 7"


def test_wait_for_a_run_that_was_never_executed_is_127(service: Any, stockade: Any) -> None:
    document = {"code": "command_not_started", "detail": "nix: not there", "errno": 2}
    service.routes["GET", f"/v1/runs/{RUN_ID}/wait"] = lambda h: h.json(document, 422)
    ended = stockade("wait", RUN_ID)
    assert (ended.returncode, ended.stderr.splitlines()[0]) == (127, b"stockade: nix: not there")


def test_stop_gives_its_reason_and_resume_takes_it_back(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/stop"] = {"stopped": True, "runs": 2, "sessions": 1}
    service.routes["POST", "/v1/resume"] = {"stopped": False}
    assert b"2 runs and 1 sessions were killed" in stockade("stop", "--reason", "why").stdout
    assert stockade("resume").stdout == b"resumed\n"
    assert service.bodies("POST", "/v1/stop") == [{"reason": "why"}]


def test_events_are_followed_line_by_line(service: Any, stockade: Any) -> None:
    def answer(handler: Any) -> None:
        handler.stream("text/event-stream")
        data = {"kind": "run.started", "time": "2026-01-02T03:04:05.678Z", "run": RUN_ID, "labels": {"a": ESCAPE}}
        handler.chunk(b": stockade\n\n: heartbeat\n\nid: 1\nevent: run.started\n")
        handler.chunk(b"data: " + json.dumps(data).encode() + b"\n\n")
        handler.chunk(b"")

    service.routes["GET", "/v1/events"] = answer
    (line,) = stockade("events").stdout.decode().splitlines()
    assert line.startswith(f"2026-01-02T03:04:05.678Z run.started run={RUN_ID} labels=")
    assert "\x1b" not in line
    event = json.loads(stockade("events", "--json").stdout)
    assert (event["event"], event["data"]["labels"]) == ("run.started", {"a": ESCAPE})


def doctor_answer(**landlock: Any) -> dict[str, Any]:
    layer = {"present": True, "detail": "ABI 7", "remedy": "", **landlock}
    proof = {"profile": "shell", "probe": "read_outside", "key": "read", "ok": True, "detail": "EACCES"}
    return {"host": {"landlock": layer}, "proofs": [proof]}


def test_doctor_prints_layers_and_proofs_and_is_content(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/doctor"] = doctor_answer()
    ended = stockade("doctor")
    lines = ended.stdout.decode().splitlines()
    assert lines[:2] == [" ok   landlock: ABI 7", " ok   shell: read_outside: EACCES"]
    assert ended.returncode == 0


def test_doctor_exits_1_for_a_missing_layer_with_its_remedy(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/doctor"] = doctor_answer(present=False, detail="absent", remedy="boot with lsm=landlock")
    ended = stockade("doctor")
    assert ended.returncode == 1
    assert "FAIL  landlock: absent\n      remedy: boot with lsm=landlock\n" in ended.stdout.decode()


def test_doctor_exits_1_when_the_audit_cannot_be_written(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/doctor"] = {**doctor_answer(), "audit": {"ok": False}}
    ended = stockade("doctor")
    assert (ended.returncode, b"FAIL  audit: cannot be written" in ended.stdout) == (1, True)


def test_doctor_without_a_service_says_so_and_looks_at_the_host(stockade: Any) -> None:
    ended = stockade("doctor", "--json", "--socket", "/nonexistent/api.sock")
    answer = json.loads(ended.stdout)
    assert (ended.returncode, answer["source"], answer["ok"]) == (1, "host", False)
    checks = {check["name"]: check for check in answer["checks"]}
    assert {"kernel", "landlock", "seccomp", "cgroups", "policy", "service"} <= set(checks)
    assert (checks["service"]["ok"], checks["kernel"]["ok"]) == (False, True)
    assert b"no profile was proved" in stockade("doctor", "--socket", "/nonexistent/api.sock").stdout


# --- policy --------------------------------------------------------------------------------------------------------

VALID = '[profiles.shell]\nexecute = ["/usr/bin"]\nread = ["/usr"]\n'


@pytest.fixture
def private() -> Any:
    """A directory whose every parent only its owner can write, as policy wants it."""
    directory = Path(tempfile.mkdtemp(prefix="stockade-cli-", dir="/var/tmp"))
    yield directory
    shutil.rmtree(directory)


def test_policy_check_reads_a_directory_or_one_file(stockade: Any, private: Any) -> None:
    (private / "policy.toml").write_text(VALID)
    (private / "other.toml").write_text(VALID)
    for path in (private, private / "policy.toml", private / "other.toml"):
        ended = stockade("policy", "check", str(path))
        assert (ended.returncode, ended.stderr) == (0, b""), ended.stdout
        assert b"profiles: shell\n" in ended.stdout
    (private / "policy.d").mkdir()
    (private / "policy.d" / "10-more.toml").write_text(VALID.replace("shell", "edit"))
    assert b"profiles: shell, edit\n" in stockade("policy", "check", str(private)).stdout
    assert b"profiles: shell\n" in stockade("policy", "check", str(private / "other.toml")).stdout


def test_policy_check_prints_every_finding_with_file_line_key_and_the_nearest_name(stockade: Any, private: Any) -> None:
    file = private / "policy.toml"
    wrong = VALID.replace("shell]", 'shell]\nraed = ["/usr"]') + '[profiles.shell.limits]\nmemory = "lots"\n'
    file.write_text(wrong)
    ended = stockade("policy", "check", str(private))
    lines = ended.stdout.decode().splitlines()
    assert ended.returncode == 1
    assert lines[0].startswith(f"{file}:2: profiles.shell.raed: ")
    assert "did you mean" in lines[0]
    assert "read" in lines[0]
    assert lines[1].startswith(f"{file}:6: profiles.shell.limits.memory: ")
    assert lines[2] == "2 problems"
    findings = json.loads(stockade("policy", "check", "--json", str(private)).stdout)["findings"]
    assert [(f["line"], f["key"]) for f in findings] == [
        (2, "profiles.shell.raed"),
        (6, "profiles.shell.limits.memory"),
    ]


def test_policy_check_warns_of_what_loads_and_is_probably_not_meant(stockade: Any, private: Any) -> None:
    file = private / "policy.toml"
    file.write_text(VALID + "[profiles.shell.limits]\nprocesses = 1\n")
    ended = stockade("policy", "check", str(private))
    assert ended.returncode == 0
    warned = [line for line in ended.stdout.decode().splitlines() if line.startswith("warning: ")]
    assert any("profiles.shell.limits.processes: 1 is surely too low for a shell" in line for line in warned)
    findings = json.loads(stockade("policy", "check", "--json", str(private)).stdout)["findings"]
    assert {f["severity"] for f in findings if f["key"].endswith(".processes")} == {"warning"}


def test_policy_reload_that_is_refused_prints_the_findings(service: Any, stockade: Any) -> None:
    finding = {"file": "/e/p.toml", "line": 3, "key": "raed", "message": "unknown", "expected": None, "nearest": "read"}
    document = {"code": "policy_invalid", "detail": "1 problem", "findings": [finding]}
    service.routes["POST", "/v1/policy/reload"] = lambda h: h.json(document, 422)
    ended = stockade("policy", "reload")
    assert ended.returncode == 1
    assert "/e/p.toml:3: raed: unknown; did you mean read?" in ended.stderr.decode().splitlines()


def test_policy_show_and_reload_print_what_is_in_force(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/policy"] = {"digest": "ab", "profiles": [{"name": "shell", "read": ["/usr", "/bin"]}]}
    service.routes["POST", "/v1/policy/reload"] = {"digest": "cd"}
    assert "profiles[0].read: /usr, /bin" in stockade("policy", "show").stdout.decode().splitlines()
    assert stockade("policy", "reload").stdout == b"loaded: cd\n"


def test_policy_presets_are_files_that_exist(stockade: Any) -> None:
    presets = json.loads(stockade("policy", "presets", "--json").stdout)["presets"]
    assert {"default", "strict", "moderate", "permissive"} <= {p["name"] for p in presets}
    assert all(p["about"] and Path(p["file"]).is_file() for p in presets)
    assert stockade("policy", "presets", "strict").stdout == Path(presets[1]["file"]).read_bytes()
    assert stockade("policy", "presets", "lax").returncode == 1


# --- the program itself --------------------------------------------------------------------------------------------


def test_an_unknown_command_and_option_are_guessed(stockade: Any) -> None:
    ended = stockade("stauts")
    assert (ended.returncode, b"Did you mean 'status'?" in ended.stderr) == (2, True)
    assert b"Did you mean '--json'?" in stockade("status", "--jsno").stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_back_into_the_program(stockade: Any, shell: str) -> None:
    ended = stockade("completion", shell)
    assert ended.returncode == 0
    assert b"_STOCKADE_COMPLETE" in ended.stdout


def test_completion_offers_commands_and_the_services_runs(service: Any, stockade: Any) -> None:
    service.routes["GET", "/v1/runs"] = {"runs": [ALIVE, OVER]}

    def offered(words: str, index: int) -> list[str]:
        env = {"_STOCKADE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
        return [line.partition(",")[2] for line in stockade(env=env).stdout.decode().split()]

    assert offered("stockade st", 1) == ["status", "stop"]
    assert offered("stockade kill run-9", 2) == ["run-9876543210"]
    service.routes.clear()
    assert offered("stockade kill run-9", 2) == []


def test_colours_only_on_a_terminal_and_not_with_no_color(stockade: Any) -> None:
    def on_terminal(**env: str) -> bytes:
        ours, theirs = pty.openpty()
        try:
            ended = stockade("status", "--socket", "/nonexistent", stderr=theirs, env=env)
            assert ended.returncode == 1
            return os.read(ours, 4096)
        finally:
            os.close(ours)
            os.close(theirs)

    assert b"\x1b[" in on_terminal()
    assert b"\x1b[" not in on_terminal(NO_COLOR="1")
    assert b"\x1b[" not in stockade("status", "--socket", "/nonexistent").stderr


def test_output_into_a_closed_pipe_is_no_error_of_ours(service: Any, start: Any) -> None:
    service.routes["GET", "/v1/runs"] = lambda h: h.json({"runs": []})
    reader, writer = os.pipe()
    os.close(reader)
    process = start("ps", stdout=writer)
    os.close(writer)
    assert process.wait(60) == -13
    assert process.stderr.read() == b""


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_explains_itself_with_an_example(stockade: Any, name: str) -> None:
    ended = stockade(name, "--help")
    assert ended.returncode == 0
    assert f"stockade {name}".encode() in ended.stdout.partition(b"Example")[2]


def test_the_reference_page_is_what_the_commands_say() -> None:
    page = Path(__file__).parents[3] / "docs" / "cli.md"
    assert page.read_text() == reference.page(), "stale: python -m supervisor.cli.reference > docs/cli.md"


def test_the_version_is_the_packages(stockade: Any) -> None:
    from supervisor import __version__

    assert stockade("--version").stdout.decode() == f"stockade {__version__}\n"
    assert json.loads(stockade("version", "--json").stdout) == {"version": __version__}


def test_a_run_starts_without_the_large_libraries(service: Any, environment: dict[str, str]) -> None:
    """Start-up stays short because nothing large is imported; a clock could not tell a slow machine from a mistake."""
    service.streams()
    program = (
        "import sys; from supervisor.cli.main import status_of; status = status_of(['run', '--', 'x'])\n"
        "large = {'aiohttp', 'pydantic', 'asyncio', 'cryptography', 'psutil', 'rich', 'supervisor.policy.load'}\n"
        "print(status, sorted(large & set(sys.modules)))"
    )
    env = {**environment, "STOCKADE_SOCKET": service.path}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True, timeout=60)
    assert done.stdout == b"0 []\n"
