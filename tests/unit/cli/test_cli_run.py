"""`stockade run` behaves like the command: streams, input, status, signals."""

from __future__ import annotations

import base64
import json
import os
import pty
import signal
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

RUN_ID = "run-0123456789"
EVERY_BYTE = bytes(range(256))


def frame(stream: str, offset: int, data: bytes) -> dict[str, Any]:
    return {"type": stream, "offset": offset, "data_base64": base64.b64encode(data).decode()}


def problem(code: str, status: int, **members: Any) -> Callable[[Any], None]:
    return lambda handler: handler.json({"code": code, "status": status, "title": code, **members}, status)


@pytest.mark.parametrize("code", [0, 3, 255])
def test_the_exit_status_of_the_command_is_passed_through(service: Any, stockade: Any, code: int) -> None:
    service.streams(exit_code=code)
    ended = stockade("run", "--", "true")
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, b"", b"")


def test_both_streams_arrive_byte_for_byte_each_on_its_own(service: Any, stockade: Any) -> None:
    service.streams(
        frame("stdout", 0, EVERY_BYTE),
        {"type": "stderr", "offset": 0, "data": "é\r\n\u0000"},
        {"type": "heartbeat"},
        frame("stdout", 256, EVERY_BYTE[::-1]),
        frame("stderr", 5, b"\xff"),
    )
    ended = stockade("run", "--", "x")
    assert ended.stdout == EVERY_BYTE + EVERY_BYTE[::-1]
    assert ended.stderr == "é\r\n\u0000".encode() + b"\xff"


def test_output_is_passed_on_before_the_run_ends(service: Any, start: Any) -> None:
    seen = threading.Event()

    def answer(handler: Any) -> None:
        handler.stream()
        handler.frame({"type": "started", "run": {"id": RUN_ID}})
        handler.frame({"type": "stdout", "offset": 0, "data": "a"})
        assert seen.wait(60)
        handler.frame({"type": "finished", "run": {"id": RUN_ID, "cause": "exited", "exit_code": 0}})
        handler.chunk(b"")

    service.routes["POST", "/v1/runs"] = answer
    process = start("run", "--", "x")
    assert os.read(process.stdout.fileno(), 10) == b"a"
    seen.set()
    assert process.wait(60) == 0


def test_a_frame_cut_into_single_bytes_is_put_together(service: Any, stockade: Any) -> None:
    def answer(handler: Any) -> None:
        handler.stream()
        lines = [
            {"type": "started", "run": {"id": RUN_ID}},
            {"type": "stdout", "offset": 0, "data": "zusammen\n"},
            {"type": "finished", "run": {"id": RUN_ID, "cause": "exited", "exit_code": 0}},
        ]
        for byte in b"".join(json.dumps(line).encode() + b"\n" for line in lines):
            handler.chunk(bytes([byte]))
        handler.chunk(b"")

    service.routes["POST", "/v1/runs"] = answer
    assert stockade("run", "--", "x").stdout == b"zusammen\n"


@pytest.mark.parametrize(
    ("run", "status", "said"),
    [
        (
            {"cause": "memory", "limits": {"memory": 512 << 20}, "usage": {"memory_peak": 511 << 20}},
            137,
            "killed: memory (512M limit, peak 511M)",
        ),
        (
            {"cause": "timeout", "limits": {"timeout_ms": 2000}, "usage": {"wall_ms": 2004.0}},
            124,
            "killed: timeout (2s limit, ran 2s)",
        ),
        (
            {"cause": "idle_timeout", "limits": {"idle_timeout_ms": 500}, "usage": {"wall_ms": 900}},
            124,
            "killed: idle_timeout (500ms limit, ran 900ms)",
        ),
        ({"cause": "processes", "limits": {"processes": 8}, "usage": {"pids_peak": 8}}, 137, "(8 limit, peak 8)"),
        ({"cause": "output", "limits": {"output": 1024}}, 137, "killed: output (1K limit)"),
        ({"cause": "disk", "detail": "no space left"}, 137, "killed: disk: no space left"),
        ({"cause": "cancelled"}, 137, "killed: cancelled"),
        ({"cause": "stopped"}, 137, "killed: stopped"),
        ({"cause": "signal", "signal": 11}, 139, "ended by SIGSEGV"),
        ({"cause": "lost"}, 125, "lost: the service died during the run"),
    ],
)
def test_an_end_that_is_no_exit_has_its_status_and_one_sentence_with_its_counters(
    service: Any, stockade: Any, run: dict[str, Any], status: int, said: str
) -> None:
    service.streams(exit_code=None, **run)
    ended = stockade("run", "--", "x")
    assert ended.returncode == status
    assert ended.stderr.decode().startswith("stockade: ")
    assert said in ended.stderr.decode()
    assert ended.stderr.count(b"\n") == 1


def test_a_refusal_exits_125_and_says_rule_source_hint_and_retry(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/runs"] = problem(
        "denied",
        403,
        detail="profile net is not granted",
        rule="callers[1].profiles",
        source="/etc/stockade/policy.toml:14",
        hint="ask for shell",
        allowed="shell",
    )
    ended = stockade("run", "--profile", "net", "--", "x")
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert ended.stderr.decode().splitlines() == [
        "stockade: profile net is not granted",
        "rule: callers[1].profiles (/etc/stockade/policy.toml:14)",
        "allowed: shell",
        "hint: ask for shell",
        "retry: after_change (the same request is refused until the request, the policy or the host changes)",
    ]


def test_with_json_a_refusal_is_the_problem_document(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/runs"] = problem("denied", 403, detail="no", rule="r", instance="urn:x")
    ended = stockade("run", "--json", "--", "x")
    assert (ended.returncode, ended.stderr) == (125, b"")
    document = json.loads(ended.stdout)
    assert (document["code"], document["rule"], document["instance"]) == ("denied", "r", "urn:x")


@pytest.mark.parametrize(("errno", "status"), [(2, 127), ("ENOENT", 127), (13, 126), (8, 126), (None, 126)])
def test_a_command_that_cannot_start_exits_126_or_127(service: Any, stockade: Any, errno: Any, status: int) -> None:
    document = {"code": "command_not_started", "title": "t", "status": 422, "detail": "nix: not there", "errno": errno}

    def in_stream(handler: Any) -> None:
        handler.stream()
        handler.frame({"type": "started", "run": {"id": RUN_ID}})
        handler.frame({"type": "error", "problem": document})
        handler.chunk(b"")

    service.routes["POST", "/v1/runs"] = in_stream
    late = stockade("run", "--", "nix")
    service.routes["POST", "/v1/runs"] = lambda handler: handler.json(document, 422)
    early = stockade("run", "--", "nix")
    assert (late.returncode, early.returncode) == (status, status)
    assert late.stderr.startswith(b"stockade: nix: not there\n")


def test_json_prints_only_the_final_object(service: Any, stockade: Any) -> None:
    service.streams({"type": "stdout", "offset": 0, "data": "noise"}, exit_code=4)
    whole = {"id": RUN_ID, "cause": "exited", "exit_code": 4, "stdout": "noise", "stderr": ""}
    service.routes["GET", f"/v1/runs/{RUN_ID}"] = whole
    ended = stockade("run", "--json", "--", "x")
    assert (ended.returncode, json.loads(ended.stdout), ended.stderr) == (4, whole, b"")


# --- the request ---------------------------------------------------------------------------------------------------


def test_every_option_reaches_the_request(service: Any, stockade: Any, tmp_path: Any) -> None:
    service.streams()
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    args = ["run", "-w", str(tmp_path / "link"), "-p", "shell", "-t", "30", "-l", "memory=256M", "-l", "processes=9"]
    args += ["-e", "A=b=c", "-e", "E=", "--cwd", "sub", "--label", "agent=a", "git", "log", "--json", "-p"]
    assert stockade(*args).returncode == 0
    assert service.bodies("POST", "/v1/runs") == [
        {
            "tool": "shell",
            "argv": ["git", "log", "--json", "-p"],
            "workspace": str(real),
            "profile": "shell",
            "timeout": "30s",
            "limits": {"memory": "256M", "processes": 9},
            "env": {"A": "b=c", "E": ""},
            "cwd": "sub",
            "labels": {"agent": "a"},
        }
    ]


def test_a_script_in_a_session_has_no_workspace(service: Any, stockade: Any) -> None:
    service.streams()
    assert stockade("run", "-s", "ses-0123456789", "-c", "echo $X").returncode == 0
    assert service.bodies("POST", "/v1/runs") == [
        {"tool": "shell", "script": "echo $X", "session": "ses-0123456789"},
    ]


@pytest.mark.parametrize(
    "args",
    [(), ("-c", "x", "--", "y"), ("--env", "A", "--", "x"), ("--nonsense",), ("-s", "a", "-w", "b", "--", "x")],
)
def test_wrong_usage_exits_125_and_asks_nothing_of_the_service(service: Any, stockade: Any, args: Any) -> None:
    ended = stockade("run", *args)
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert b"Error: " in ended.stderr
    assert service.requests == []


def test_background_prints_the_id(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/runs"] = lambda h: h.json({"id": RUN_ID, "state": "running"}, 202)
    ended = stockade("run", "--background", "--", "x", input=b"not taken")
    assert (ended.returncode, ended.stdout) == (0, f"{RUN_ID}\n".encode())
    (body,) = service.bodies("POST", "/v1/runs")
    assert body["background"] is True
    assert "stdin_stream" not in body


def test_a_dry_run_says_the_decision(service: Any, stockade: Any) -> None:
    decision = {"verdict": "allow", "rule": "callers[0]", "source": "/etc/stockade/policy.toml:3"}
    service.routes["POST", "/v1/runs"] = {"decision": decision, "profile": "shell", "limits": {}}
    ended = stockade("run", "--dry-run", "--", "ls", "a b")
    assert ended.returncode == 0
    assert "decision: allow\nrule: callers[0]\n" in ended.stdout.decode()
    assert "profile: shell" in ended.stdout.decode()


# --- input ---------------------------------------------------------------------------------------------------------


def echoing(service: Any) -> list[bytes]:
    """The service runs a `cat`: what arrives on /stdin leaves as stdout, and the run ends with it."""
    arrived: list[bytes] = []
    done = threading.Event()

    def stdin(handler: Any) -> None:
        arrived.extend(handler.body())
        handler.json({"bytes": sum(map(len, arrived))})
        done.set()

    def run(handler: Any) -> None:
        handler.stream()
        handler.frame({"type": "started", "run": {"id": RUN_ID}})
        assert done.wait(60)
        handler.frame(frame("stdout", 0, b"".join(arrived)))
        handler.frame({"type": "finished", "run": {"id": RUN_ID, "cause": "exited", "exit_code": 0}})
        handler.chunk(b"")

    service.routes["POST", "/v1/runs"] = run
    service.routes["POST", f"/v1/runs/{RUN_ID}/stdin"] = stdin
    return arrived


@pytest.mark.parametrize("data", [EVERY_BYTE * 4096, b""], ids=["a MiB of every byte", "nothing"])
def test_input_from_a_pipe_arrives_byte_for_byte_with_its_end(service: Any, stockade: Any, data: bytes) -> None:
    arrived = echoing(service)
    ended = stockade("run", "--", "cat", input=data)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == data == b"".join(arrived)
    assert service.bodies("POST", "/v1/runs")[0]["stdin_stream"] is True


def test_input_from_a_file_is_handed_on(service: Any, stockade: Any, tmp_path: Any) -> None:
    echoing(service)
    (tmp_path / "in").write_bytes(EVERY_BYTE)
    with (tmp_path / "in").open("rb") as f:
        assert stockade("run", "--", "cat", stdin=f).stdout == EVERY_BYTE


def test_a_command_that_ends_without_reading_its_input_ends_us_too(service: Any, start: Any) -> None:
    service.streams(exit_code=5)
    service.routes["POST", f"/v1/runs/{RUN_ID}/stdin"] = problem("conflict", 409, detail="it has ended")
    process = start("run", "--", "true", stdin=subprocess.PIPE)
    assert process.wait(60) == 5  # while our end of its input is still open
    assert process.stderr.read() == b""


def test_a_terminal_dev_null_a_closed_descriptor_and_no_stdin_are_no_input(
    service: Any, stockade: Any, start: Any
) -> None:
    service.streams()
    ours, theirs = pty.openpty()
    try:
        assert stockade("run", "--", "x", stdin=theirs).returncode == 0
    finally:
        os.close(ours)
        os.close(theirs)
    assert stockade("run", "--", "x").returncode == 0
    assert stockade("run", "-n", "--", "x", input=b"abc").returncode == 0
    assert start("run", "--", "x", closed="0").wait(60) == 0
    bodies = service.bodies("POST", "/v1/runs")
    assert len(bodies) == 4
    assert not any("stdin_stream" in body for body in bodies)


def test_with_stdout_closed_nothing_is_written_into_the_connection(service: Any, start: Any) -> None:
    service.streams(frame("stdout", 0, b"lost"), frame("stderr", 0, b"kept"), exit_code=6)
    process = start("run", "--", "x", closed="1")
    assert process.wait(60) == 6
    assert process.stderr.read() == b"kept"


# --- signals -------------------------------------------------------------------------------------------------------


class Held:
    """The service runs something that ends only by a signal or a cancel."""

    def __init__(self, service: Any, *, cancels: int) -> None:
        self.posts: list[tuple[str, Any]] = []
        self._enough = threading.Event()
        self._cancels = cancels
        self.gone = threading.Event()
        service.routes["POST", "/v1/runs"] = self.run
        service.routes["POST", f"/v1/runs/{RUN_ID}/signal"] = self.post
        service.routes["POST", f"/v1/runs/{RUN_ID}/cancel"] = self.post
        self.service = service
        self.end: dict[str, Any] = {}

    def run(self, handler: Any) -> None:
        handler.stream()
        handler.frame({"type": "started", "run": {"id": RUN_ID}})
        handler.frame({"type": "stdout", "offset": 0, "data": "ready"})
        assert self._enough.wait(60)
        handler.frame({"type": "finished", "run": {"id": RUN_ID, **self.end}})
        handler.chunk(b"")

    def post(self, handler: Any) -> None:
        handler.json({})
        self.posts.append((handler.path.rpartition("/")[2], self.service.requests[-1][2]))
        cancelled = handler.path.endswith("cancel")
        if cancelled or not self._cancels:
            self.end = {"cause": "cancelled"} if cancelled else {"cause": "signal", "signal": 2}
            self._enough.set()
        self.gone.set()


def test_ctrl_c_sends_int_to_the_tree_and_the_end_is_passed_through(service: Any, start: Any) -> None:
    held = Held(service, cancels=0)
    process = start("run", "--", "x")
    assert os.read(process.stdout.fileno(), 10) == b"ready"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert held.posts == [("signal", {"signal": "INT", "tree": True})]


def test_the_second_ctrl_c_cancels(service: Any, start: Any) -> None:
    held = Held(service, cancels=1)
    process = start("run", "--", "x")
    assert os.read(process.stdout.fileno(), 10) == b"ready"
    process.send_signal(signal.SIGINT)
    assert held.gone.wait(60)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 137
    assert [verb for verb, _ in held.posts] == ["signal", "cancel"]


def test_sigterm_cancels(service: Any, start: Any) -> None:
    held = Held(service, cancels=1)
    process = start("run", "--", "x")
    assert os.read(process.stdout.fileno(), 10) == b"ready"
    process.terminate()
    assert process.wait(60) == 137
    assert [verb for verb, _ in held.posts] == ["cancel"]


def test_an_interrupt_before_the_run_has_an_id_leaves_and_drops_the_connection(service: Any, start: Any) -> None:
    asked, gone = threading.Event(), threading.Event()

    def answer(handler: Any) -> None:
        asked.set()
        if handler.connection.recv(1) == b"":
            gone.set()

    service.routes["POST", "/v1/runs"] = answer
    process = start("run", "--", "x")
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert gone.wait(60)
    assert b"Traceback" not in process.stderr.read()


def test_a_reader_that_is_gone_ends_us_by_sigpipe(service: Any, start: Any) -> None:
    gone = threading.Event()

    def answer(handler: Any) -> None:
        handler.stream()
        handler.frame({"type": "started", "run": {"id": RUN_ID}})
        handler.frame({"type": "stdout", "offset": 0, "data": "first"})
        assert gone.wait(60)
        handler.frame({"type": "stdout", "offset": 5, "data": "second"})
        handler.connection.recv(1)

    service.routes["POST", "/v1/runs"] = answer
    process = start("run", "--", "yes")
    assert os.read(process.stdout.fileno(), 5) == b"first"
    process.stdout.close()
    gone.set()
    assert process.wait(60) == -signal.SIGPIPE
    assert process.stderr.read() == b""


# --- the service fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clean", [True, False], ids=["between frames", "inside a chunk"])
def test_a_stream_that_breaks_off_is_125_and_names_the_run(service: Any, stockade: Any, clean: bool) -> None:
    def answer(handler: Any) -> None:
        handler.stream()
        handler.frame({"type": "started", "run": {"id": RUN_ID}})
        if clean:
            handler.chunk(b"")
        else:
            handler.wfile.write(b"ff\r\nhalf")

    service.routes["POST", "/v1/runs"] = answer
    ended = stockade("run", "--", "x")
    assert ended.returncode == 125
    assert b"broke the " in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_without_a_service_it_is_125_and_says_how_to_start_one(stockade: Any) -> None:
    ended = stockade("run", "--socket", "/nonexistent/api.sock", "--", "x")
    assert ended.returncode == 125
    assert b"/nonexistent/api.sock: the socket does not exist" in ended.stderr
    assert b"systemctl start stockade" in ended.stderr


def test_a_bug_is_one_line_and_its_traceback_only_when_asked_for(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/runs"] = lambda h: (h.stream(), h.frame({"type": "started"}), h.chunk(b""))
    ended = stockade("run", "--", "x")
    assert (ended.returncode, ended.stderr.count(b"\n")) == (125, 1)
    assert b"unexpected KeyError" in ended.stderr
    assert b"Traceback" in stockade("run", "--", "x", env={"STOCKADE_DEBUG": "1"}).stderr


# --- what has to be waited for -------------------------------------------------------------------------------------

APPROVAL = "apr-7f3k2m9q"


def waits(service: Any, *frames: dict[str, Any], last: dict[str, Any] | None = None) -> None:
    """POST /v1/runs streams these before the run starts; or `last` in place of a start."""

    def answer(handler: Any) -> None:
        handler.stream()
        for each in frames:
            handler.frame(each)
        for each in [last] if last else [STARTED, FINISHED]:
            handler.frame(each)
        handler.chunk(b"")

    service.routes["POST", "/v1/runs"] = answer


STARTED = {"type": "started", "run": {"id": RUN_ID}}
FINISHED = {"type": "finished", "run": {"id": RUN_ID, "cause": "exited", "exit_code": 0}}
ASKS = {"type": "approval", "approval": {"id": APPROVAL, "state": "pending", "expires": "2100-01-02T03:04:05Z"}}
REQUIRED = {
    "code": "approval_required", "status": 202, "title": "x", "detail": "somebody has to approve this",
    "retry": "after_approval", "approval": APPROVAL, "expires": "2100-01-02T03:04:05Z",
    "reasons": [{"rule": "autonomy.approval_patterns[0]", "source": "p.toml:3", "detail": "'git push' is 'git push'"}],
}  # fmt: skip


def test_without_a_terminal_it_does_not_wait_and_says_what_to_do(service: Any, stockade: Any) -> None:
    def answer(handler: Any) -> None:
        handler.bytes(json.dumps(REQUIRED).encode(), "application/problem+json", 202)

    service.routes["POST", "/v1/runs"] = answer
    ended = stockade("run", "--", "git", "push")
    said = ended.stderr.decode().splitlines()
    assert (ended.returncode, ended.stdout) == (125, b"")
    assert "wait_approval" not in service.bodies("POST", "/v1/runs")[0]
    assert said[0] == "stockade: somebody has to approve this"
    assert "because: 'git push' is 'git push' (autonomy.approval_patterns[0] p.toml:3)" in said
    assert f"somebody else says: stockade approvals approve {APPROVAL}" in said
    assert json.loads(stockade("run", "--json", "--", "git", "push").stdout)["approval"] == APPROVAL


@pytest.mark.parametrize(("given", "sent"), [("30m", "30m"), ("90", "90s")])
def test_it_waits_as_long_as_it_is_told_and_says_for_what(service: Any, stockade: Any, given: str, sent: str) -> None:
    waits(service, ASKS, {"type": "heartbeat"})
    ended = stockade("run", "--wait-approval", given, "--", "git", "push")
    assert ended.returncode == 0
    line = f"stockade: waiting for approval {APPROVAL}: stockade approvals approve {APPROVAL}\n"
    assert ended.stderr == line.encode()
    assert service.bodies("POST", "/v1/runs")[0]["wait_approval"] == sent


def test_a_no_is_a_refusal(service: Any, stockade: Any) -> None:
    no = {"code": "approval_denied", "status": 403, "title": "x", "detail": "uid 0 said no: use a branch"}
    waits(service, ASKS, last={"type": "error", "problem": no})
    ended = stockade("run", "--wait-approval", "1h", "--", "git", "push")
    assert ended.returncode == 125
    assert b"stockade: uid 0 said no: use a branch\n" in ended.stderr


def test_on_a_terminal_it_waits_by_itself_and_tells_its_place(service: Any, start: Any) -> None:
    waits(service, {"type": "queued", "position": 2}, {"type": "queued", "position": 1}, ASKS)
    ours, theirs = pty.openpty()
    try:
        process = start("run", "--", "x", stderr=theirs)
        assert process.wait(60) == 0
        said = os.read(ours, 4096).decode()
    finally:
        os.close(ours)
        os.close(theirs)
    assert "waiting for a place, position 2\r\nstockade: waiting for a place, position 1" in said
    assert service.bodies("POST", "/v1/runs")[0]["wait_approval"] == "10m"


def test_ctrl_c_while_it_waits_gives_the_request_up(service: Any, start: Any) -> None:
    asked, gone = threading.Event(), threading.Event()

    def answer(handler: Any) -> None:
        handler.stream()
        handler.frame(ASKS)
        asked.set()
        handler.rfile.read(1)  # until the client is gone
        gone.set()

    service.routes["POST", "/v1/runs"] = answer
    process = start("run", "--wait-approval", "1h", "--", "x")
    assert process.stderr.readline().startswith(b"stockade: waiting for approval")
    assert asked.wait(60)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert gone.wait(60)


def test_a_run_sends_its_code(service: Any, stockade: Any) -> None:
    codes = []

    def answer(handler: Any) -> None:
        codes.append(handler.headers.get("X-Stockade-Code"))
        handler.stream()
        handler.frame(STARTED)
        handler.frame(FINISHED)
        handler.chunk(b"")

    service.routes["POST", "/v1/runs"] = answer
    stockade("run", "--code", "123456", "--", "x")
    stockade("run", "--", "x", env={"STOCKADE_CODE": "654321"})
    assert codes == ["123456", "654321"]


def test_a_dry_run_that_would_ask_says_why_and_is_125(service: Any, stockade: Any) -> None:
    decision = {"verdict": "ask", "reasons": REQUIRED["reasons"], "notes": ["outside: /etc"], "autonomy": "supervised"}
    service.routes["POST", "/v1/runs"] = {"dry_run": True, "decision": decision, "profile": "shell", "limits": {}}
    ended = stockade("run", "--dry-run", "--", "git", "push")
    assert ended.returncode == 125
    assert ended.stdout.decode().splitlines() == [
        "decision: ask",
        "profile: shell",
        "autonomy: supervised",
        "asks because: 'git push' is 'git push' (autonomy.approval_patterns[0] p.toml:3)",
        "note: outside: /etc",
    ]
