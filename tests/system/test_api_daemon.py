"""The API of a real service: everything between the socket and the kernel is real."""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.api import answers

if TYPE_CHECKING:
    import http.client
    from pathlib import Path

    from tests.harness import Agent, Daemon

pytestmark = pytest.mark.root
NDJSON = {"Accept": "application/x-ndjson"}


def frames_of(response: http.client.HTTPResponse) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response]


def test_a_run_answers_as_openapi_says(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, script="echo out; echo err >&2; exit 3", labels={"agent": "tester"})
    answers.RunView.model_validate(run)
    assert (run["cause"], run["exit_code"], run["stdout"], run["stderr"]) == ("exited", 3, "out\n", "err\n")
    assert run["usage"]["wall_ms"] > 0
    assert run["decision"]["verdict"] == "allow"


def test_a_session_is_opened_used_shown_and_closed(daemon: Daemon, workspace: Path) -> None:
    opened = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)})
    assert opened.status == 201
    answers.SessionView.model_validate(opened.json)
    ident = opened.json["id"]
    for word in ("one", "two"):
        ran = daemon.request(
            "POST", f"/v1/sessions/{ident}/shell", {"script": f"echo {word} >> /tmp/kept; cat /tmp/kept"}
        )
        assert ran.status == 200
    assert ran.json["stdout"] == "one\ntwo\n"
    closed = daemon.request("DELETE", f"/v1/sessions/{ident}")
    assert (closed.status, closed.json["state"]) == (200, "ended")
    again = daemon.request("POST", f"/v1/sessions/{ident}/shell", {"script": "true"})
    assert again.status in (404, 409)


def test_frames_come_while_the_run_goes_on(daemon: Daemon, workspace: Path) -> None:
    """The second line is written only after the first one was seen here."""
    connection = daemon.connect()
    body = {"workspace": str(workspace), "script": "echo first; read word; echo $word", "stdin_stream": True}
    connection.request("POST", "/v1/runs", json.dumps(body), {"Content-Type": "application/json", **NDJSON})
    response = connection.getresponse()
    run = json.loads(response.readline())["run"]
    first = json.loads(response.readline())
    assert (first["type"], first["offset"], first["data"]) == ("stdout", 0, "first\n")
    sent = daemon.request("POST", f"/v1/runs/{run['id']}/stdin", b"second\n")
    assert (sent.status, sent.json["bytes"]) == (200, 7)
    rest = frames_of(response)
    connection.close()
    assert "".join(f["data"] for f in rest if f["type"] == "stdout") == "second\n"
    assert (rest[-1]["type"], rest[-1]["run"]["cause"]) == ("finished", "exited")


def test_a_command_that_cannot_start_says_which_and_why(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "argv": ["no-such-program"]}
    refused = daemon.request("POST", "/v1/runs", body)
    assert (refused.status, refused.json["code"], refused.json["field"]) == (422, "command_not_started", "argv[0]")
    streamed = daemon.request("POST", "/v1/runs", body, headers=NDJSON)
    last = json.loads(streamed.body.splitlines()[-1])
    assert (last["type"], last["problem"]["code"]) == ("error", "command_not_started")


def test_a_client_that_vanishes_takes_its_run_with_it(daemon: Daemon, workspace: Path) -> None:
    connection = daemon.connect()
    body = {"workspace": str(workspace), "argv": ["sleep", "50"]}
    connection.request("POST", "/v1/runs", json.dumps(body), {"Content-Type": "application/json", **NDJSON})
    response = connection.getresponse()
    run = json.loads(response.readline())["run"]["id"]
    response.close()
    connection.close()
    ended = daemon.request("GET", f"/v1/runs/{run}/wait?timeout=20s")
    assert (ended.status, ended.json["cause"]) == (200, "cancelled")


def test_a_lost_answer_is_fetched_with_the_same_key(daemon: Daemon, workspace: Path) -> None:
    headers = {"Idempotency-Key": f"lost-{os.getpid()}"}
    body = {"workspace": str(workspace), "script": "echo x >> counted; wc -l < counted"}
    first = daemon.request("POST", "/v1/runs", body, headers=headers)
    second = daemon.request("POST", "/v1/runs", body, headers=headers)
    assert first.status == 200, first.body
    assert (second.json["id"], second.json["stdout"].strip()) == (first.json["id"], "1")


def test_a_hundred_mebibytes_are_refused_at_once(daemon: Daemon) -> None:
    connection = daemon.connect()
    connection.putrequest("POST", "/v1/runs")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(100 << 20))
    connection.endheaders()
    response = connection.getresponse()
    assert (response.status, json.load(response)["code"]) == (413, "too_large")
    connection.close()


def test_a_stranger_does_not_reach_the_socket(daemon: Daemon, stranger: Agent) -> None:
    with pytest.raises(PermissionError):
        daemon.request("GET", "/health", agent=stranger)


def test_an_emergency_stop_is_an_administrators_and_holds_until_resumed(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "script": "true"}
    refused = daemon.request("POST", "/v1/stop", {"reason": "test"})
    assert (refused.status, refused.json["allowed"]) == (403, "service:stop: administrator")
    try:
        assert daemon.request("POST", "/v1/stop", {"reason": "test"}, root=True).json["stopped"] is True
        stopped = daemon.request("POST", "/v1/runs", body)
        assert (stopped.status, stopped.json["code"], stopped.json["retry"]) == (503, "stopped", "later")
        assert int(stopped.headers["Retry-After"]) > 0
    finally:
        assert daemon.request("POST", "/v1/resume", root=True).json["stopped"] is False
    assert daemon.request("POST", "/v1/runs", body).status == 200


def test_a_dry_run_says_what_would_be_decided(daemon: Daemon, workspace: Path) -> None:
    plan = daemon.request("POST", "/v1/runs", {"workspace": str(workspace), "script": "touch x", "dry_run": True})
    answers.DryRun.model_validate(plan.json)
    assert not (workspace / "x").exists()


def test_a_run_is_found_by_its_id_alone(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, "true")
    assert daemon.request("GET", f"/v1/runs/{run['id']}").status == 200
    missing = daemon.request("GET", f"/v1/runs/{run['id'][:-1]}{'a' if run['id'][-1] != 'a' else 'b'}")
    assert (missing.status, missing.json["code"]) == (404, "not_found")


def test_the_bytes_of_a_request_may_come_one_by_one(daemon: Daemon) -> None:
    connection = daemon.connect()
    connection.connect()
    assert isinstance(connection.sock, socket.socket)
    for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n":
        connection.sock.sendall(bytes([byte]))
    assert connection.sock.recv(1 << 16).startswith(b"HTTP/1.1 200 OK\r\n")
    connection.close()


def test_sixteen_clients_at_once_get_their_own_answers(daemon: Daemon, workspace: Path) -> None:
    """Connected one after the other (who connects is a matter of the whole process), asked at the same time."""
    session = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)}).json["id"]
    connections = [daemon.connect() for _ in range(16)]
    for connection in connections:
        connection.connect()
    seen: dict[int, str] = {}

    def ask(number: int) -> None:
        for turn in range(3):
            body = json.dumps({"argv": ["echo", f"{number}-{turn}"]})
            headers = {"Content-Type": "application/json"}
            connections[number].request("POST", f"/v1/sessions/{session}/shell", body, headers)
            seen[number * 3 + turn] = json.load(connections[number].getresponse()).get("stdout")

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()
    daemon.request("DELETE", f"/v1/sessions/{session}")
    assert seen == {n * 3 + t: f"{n}-{t}\n" for n in range(16) for t in range(3)}
