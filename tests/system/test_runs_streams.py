"""What goes into a run and what comes out of it, byte for byte: input, environment, answers, pages, frames."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.system.outside import Frames, streamed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Daemon

pytestmark = pytest.mark.root
EVERY_BYTE = bytes(range(256))


def test_without_input_stdin_is_empty_and_not_waited_for(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, script="cat; echo $?; readlink /proc/self/fd/0")
    assert run["stdout"] == "0\n/dev/null\n"


@pytest.mark.parametrize("text", ["", "one line\n", "žluťoučký 漢字 🐎", "x" * 300_000])
def test_text_on_stdin_arrives_whole(daemon: Daemon, workspace: Path, text: str) -> None:
    run = daemon.run(workspace, script="cat > got; wc -c < got", stdin=text)
    assert (workspace / "got").read_bytes() == text.encode()
    assert int(run["stdout"]) == len(text.encode())


def test_bytes_on_stdin_and_stdout_go_as_base64(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, "cat", stdin_base64=base64.b64encode(EVERY_BYTE).decode())
    assert base64.b64decode(run["stdout_base64"]) == EVERY_BYTE
    assert "stdout" not in run
    assert run["stderr"] == ""


def test_a_stream_on_stdin_is_fed_in_parts(daemon: Daemon, workspace: Path) -> None:
    asked = {"workspace": str(workspace), "argv": ["cat"], "stdin_stream": True, "background": True}
    run = daemon.request("POST", "/v1/runs", asked).json
    assert (run["state"], run["background"]) != ("finished", False)
    for part in (EVERY_BYTE, b"second"):
        sent = daemon.request("POST", f"/v1/runs/{run['id']}/stdin?eof=false", part)
        assert (sent.status, sent.json) == (200, {"bytes": len(part), "eof": False})
    assert daemon.request("POST", f"/v1/runs/{run['id']}/stdin", b"").json["eof"] is True
    ended = daemon.request("GET", f"/v1/runs/{run['id']}/wait").json
    assert (ended["cause"], ended["exit_code"]) == ("exited", 0)
    assert daemon.request("GET", f"/v1/runs/{run['id']}/output").body == EVERY_BYTE + b"second"
    late = daemon.request("POST", f"/v1/runs/{run['id']}/stdin", b"late")
    assert (late.status, late.json["code"], late.json["field"]) == (409, "conflict", "stdin")


def test_the_environment_is_built_from_nothing(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, "env", "-0", env={"GIVEN": "a b\nc", "LANG": "C"})
    seen = dict(pair.split("=", 1) for pair in run["stdout"].rstrip("\0").split("\0"))
    assert (seen.pop("GIVEN"), seen.pop("LANG")) == ("a b\nc", "C")
    assert set(seen) == {
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "STOCKADE_SESSION", "STOCKADE_RUN"
    }  # fmt: skip
    assert (seen["STOCKADE_RUN"], seen["STOCKADE_SESSION"]) == (run["id"], run["session"])


def test_the_working_directory_is_the_workspace_or_below_it(daemon: Daemon, workspace: Path) -> None:
    (workspace / "deep" / "er").mkdir(parents=True)
    assert daemon.run(workspace, "pwd")["stdout"] == f"{workspace}\n"
    assert daemon.run(workspace, "pwd", cwd="deep/er")["stdout"] == f"{workspace}/deep/er\n"
    assert daemon.run(workspace, "pwd", cwd="/tmp")["stdout"] == "/tmp\n"
    for wrong in ("missing", "/root", "/etc/shadow"):
        refused = daemon.request("POST", "/v1/runs", {"workspace": str(workspace), "argv": ["pwd"], "cwd": wrong})
        assert (refused.status, refused.json["code"], refused.json["field"]) == (422, "command_not_started", "cwd")
        assert refused.json["hint"]


def test_arguments_arrive_as_they_are(daemon: Daemon, workspace: Path) -> None:
    words = ["", " ", "a b", "$HOME", "`id`", "'\"\\", "\n", "*", "-n", "ü 漢"]
    run = daemon.run(workspace, "python3", "-c", "import sys, json; print(json.dumps(sys.argv[1:]))", *words)
    assert json.loads(run["stdout"]) == words


def test_a_long_answer_has_head_and_tail_and_the_whole_is_paged(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, script="seq 1 200000; seq 1 100000 >&2")
    whole = {
        "stdout": b"".join(b"%d\n" % n for n in range(1, 200001)),
        "stderr": b"".join(b"%d\n" % n for n in range(1, 100001)),
    }
    assert run["output"]["truncated"] is True
    for stream, expected in whole.items():
        assert run["output"][f"{stream}_bytes"] == run["output"][f"{stream}_kept"] == len(expected)
        shown = run[stream].encode()
        assert len(shown) < 140_000
        assert shown.startswith(expected[:1000])
        assert shown.endswith(expected[-1000:])
        read = b""
        while len(read) < len(expected):
            page = daemon.request("GET", f"/v1/runs/{run['id']}/output?stream={stream}&offset={len(read)}&length=99991")
            assert page.headers["X-Output-Offset"] == str(len(read))
            assert page.headers["X-Output-Total"] == str(len(expected))
            assert page.body
            read += page.body
            assert page.headers["X-Output-Next"] == str(len(read))
        assert read == expected
    beyond = daemon.request("GET", f"/v1/runs/{run['id']}/output?offset=99999999")
    assert (beyond.status, beyond.body) == (200, b"")


def joined(frames: list[dict[str, Any]], stream: str, start: int = 0) -> bytes:
    """The bytes of a stream's frames, whose offsets must follow each other."""
    data = b""
    for frame in frames:
        if frame["type"] == stream:
            assert frame["offset"] == start + len(data)
            data += frame["data"].encode() if "data" in frame else base64.b64decode(frame["data_base64"])
    return data


def test_frames_hold_every_byte_and_follow_from_any_offset(daemon: Daemon, workspace: Path) -> None:
    (workspace / "bytes").write_bytes(EVERY_BYTE * 500 + "€ß漢".encode() * 20_000)
    asked = {"workspace": str(workspace), "script": "cat bytes; cat bytes >&2; exit 4"}
    with streamed(daemon, asked) as frames:
        rest = frames.rest()
    expected = (workspace / "bytes").read_bytes()
    assert joined(rest, "stdout") == joined(rest, "stderr") == expected
    assert (rest[-1]["type"], rest[-1]["run"]["exit_code"]) == ("finished", 4)
    path = f"/v1/runs/{frames.id}/output?follow&stdout_offset=100001&stderr_offset={len(expected) - 1}"
    again = Frames(daemon, "GET", path, None)
    resumed = again.rest()
    again.close()
    assert joined(resumed, "stdout", 100_001) == expected[100_001:]
    assert joined(resumed, "stderr", len(expected) - 1) == expected[-1:]


def test_a_character_is_never_cut_in_two(daemon: Daemon, workspace: Path) -> None:
    """Its bytes come one at a time, each only after the one before was seen written."""
    script = r"printf '\342'; read x; printf '\202'; read x; printf '\254'; read x; printf '\342'"
    asked = {"workspace": str(workspace), "script": script, "stdin_stream": True}
    with streamed(daemon, asked) as frames:
        for _ in range(3):
            daemon.request("POST", f"/v1/runs/{frames.id}/stdin?eof=false", b"\n")
        rest = [f for f in frames.rest() if f["type"] == "stdout"]
    assert [(f["offset"], f.get("data", f.get("data_base64"))) for f in rest] == [(0, "€"), (3, "4g==")]


def test_a_run_in_the_background_outlives_its_client_and_is_followed_by_another(
    daemon: Daemon, workspace: Path
) -> None:
    asked = {
        "workspace": str(workspace),
        "script": "echo up; read x; echo $x",
        "background": True,
        "stdin_stream": True,
    }
    started = daemon.request("POST", "/v1/runs", asked)
    ident = started.json["id"]
    assert (started.status, started.headers["Location"]) == (202, f"/v1/runs/{ident}")
    first = Frames(daemon, "GET", f"/v1/runs/{ident}/output?follow", None)
    first.until("up")
    first.close()
    waiting = daemon.request("GET", f"/v1/runs/{ident}/wait?timeout=10ms")
    assert (waiting.status, waiting.json["state"]) == (202, "running")
    listed = daemon.request("GET", "/v1/runs?state=running").json["runs"]
    assert ident in [run["id"] for run in listed]
    second = Frames(daemon, "GET", f"/v1/runs/{ident}/output?follow&stdout_offset=3", None)
    daemon.request("POST", f"/v1/runs/{ident}/stdin", b"down\n")
    rest = second.rest()
    second.close()
    assert joined(rest, "stdout", 3) == b"down\n"
    assert rest[-1]["run"]["cause"] == "exited"
