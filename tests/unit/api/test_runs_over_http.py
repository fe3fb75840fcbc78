from __future__ import annotations

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.api import answers
from supervisor.errors import Denied

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

NDJSON = {"Accept": "application/x-ndjson"}


def shell(script: str, **more: Any) -> dict[str, Any]:
    return {"workspace": "/srv/ws", "script": script, **more}


async def frames_of(api: Api, body: dict[str, Any], route: str = "/v1/runs") -> list[dict[str, Any]]:
    async with api.http.post(f"http://stockade{route}", json=body, headers=NDJSON) as answered:
        assert answered.content_type == "application/x-ndjson"
        return [json.loads(line) async for line in answered.content]


async def test_a_run_answers_with_output_and_exit_status_apart(api: Api) -> None:
    status, run, headers = await api.post(shell("echo out; echo err >&2; exit 3"))
    assert status == 200
    assert (run["state"], run["cause"], run["exit_code"]) == ("finished", "exited", 3)
    assert (run["stdout"], run["stderr"]) == ("out\n", "err\n")
    assert run["output"] == {
        "stdout_bytes": 4, "stdout_kept": 4, "stderr_bytes": 4, "stderr_kept": 4, "forgotten": False,
        "truncated": False,
    }  # fmt: skip
    assert run["request_id"] == headers["X-Request-Id"]


async def test_the_answer_is_exactly_what_openapi_says(api: Api) -> None:
    """views.py builds it by hand; the model forbids what it does not name."""
    _, run, _ = await api.post(shell("true", labels={"agent": "a"}))
    answers.RunView.model_validate(run)
    _, session, _ = await api.post({"workspace": "/srv/ws"}, "/v1/sessions")
    answers.SessionView.model_validate(session)
    _, runs, _ = await api.ask("GET", "/v1/runs")
    answers.RunList.model_validate(runs)


async def test_argv_arrives_untouched(api: Api) -> None:
    words = ["/usr/bin/printf", "%s|", "two words", "$HOME", "new\nline", "ünïcode", ""]
    _, run, _ = await api.post({"workspace": "/srv/ws", "argv": words})
    assert run["stdout"] == "two words|$HOME|new\nline|ünïcode||"


async def test_output_that_is_not_utf8_comes_as_base64(api: Api) -> None:
    _, run, _ = await api.post(shell(r"printf '\377\000'"))
    assert "stdout" not in run
    assert base64.b64decode(run["stdout_base64"]) == b"\xff\0"
    assert run["stderr"] == ""


async def test_stdin_is_given_as_text_or_as_bytes(api: Api) -> None:
    _, run, _ = await api.post(shell("cat", stdin="håll"))
    assert run["stdout"] == "håll"
    _, run, _ = await api.post(shell("od -An -tx1", stdin_base64=base64.b64encode(b"\0\xff").decode()))
    assert run["stdout"].split() == ["00", "ff"]


async def test_long_output_is_cut_in_the_answer_and_whole_by_page(api: Api) -> None:
    _, run, _ = await api.post(shell("head -c 200000 /dev/zero | tr '\\0' x"))
    assert run["output"]["truncated"] is True
    assert len(run["stdout"]) < 100_000
    got = b""
    while True:
        async with api.http.get(f"http://stockade/v1/runs/{run['id']}/output?offset={len(got)}&length=65536") as page:
            data = await page.read()
            assert page.headers["X-Output-Total"] == "200000"
            assert int(page.headers["X-Output-Next"]) == len(got) + len(data)
        if not data:
            break
        got += data
    assert got == b"x" * 200_000


async def test_a_background_run_is_answered_at_once_and_waited_for_later(api: Api) -> None:
    status, run, headers = await api.post(shell("read line; echo $line", stdin_stream=True, background=True))
    assert (status, run["state"]) == (202, "running")
    assert headers["Location"] == f"/v1/runs/{run['id']}"
    status, waited, _ = await api.ask("GET", f"/v1/runs/{run['id']}/wait?timeout=1ms")
    assert (status, waited["state"]) == (202, "running")
    status, sent, _ = await api.ask("POST", f"/v1/runs/{run['id']}/stdin", data=b"hello\n")
    assert (status, sent) == (200, {"bytes": 6, "eof": True})
    status, waited, _ = await api.ask("GET", f"/v1/runs/{run['id']}/wait")
    assert (status, waited["stdout"]) == (200, "hello\n")


async def test_stdin_without_eof_goes_on_in_the_next_request(api: Api) -> None:
    _, run, _ = await api.post(shell("cat", stdin_stream=True, background=True))
    await api.ask("POST", f"/v1/runs/{run['id']}/stdin?eof=false", data=b"one ")
    await api.ask("POST", f"/v1/runs/{run['id']}/stdin", data=b"two")
    _, run, _ = await api.ask("GET", f"/v1/runs/{run['id']}/wait")
    assert run["stdout"] == "one two"


async def test_an_upload_ends_when_the_run_does_not_read_it(api: Api) -> None:
    """A chunked body without end must not hold a connection that nobody reads from."""
    _, run, _ = await api.post(shell("head -c 1 >/dev/null", stdin_stream=True, background=True))

    async def endless() -> Any:
        while True:
            yield b"x" * 65536

    status = (await api.http.post(f"http://stockade/v1/runs/{run['id']}/stdin", data=endless())).status
    assert status in (200, 409)


async def test_a_streamed_stdin_that_nobody_could_send_is_refused(api: Api) -> None:
    status, problem, _ = await api.post(shell("cat", stdin_stream=True))
    assert (status, problem["field"]) == (422, "stdin_stream")
    assert api.double.starts == 0


async def test_frames_carry_offsets_and_end_with_the_finished_run(api: Api) -> None:
    found = await frames_of(api, shell("echo one; echo two >&2"))
    assert (found[0]["type"], found[-1]["type"]) == ("started", "finished")
    assert found[-1]["run"]["exit_code"] == 0
    middle = {f["type"]: f for f in found[1:-1]}
    assert middle["stdout"] == {"type": "stdout", "offset": 0, "data": "one\n"}
    assert middle["stderr"] == {"type": "stderr", "offset": 0, "data": "two\n"}


async def test_a_character_is_never_cut_in_two(api: Api) -> None:
    """The two halves of it are written a read apart."""
    body = shell("printf 'a\\303'; read x; printf '\\251b'", stdin_stream=True)
    async with api.http.post("http://stockade/v1/runs", json=body, headers=NDJSON) as answered:
        run = json.loads(await answered.content.readline())["run"]
        first = json.loads(await answered.content.readline())
        await api.ask("POST", f"/v1/runs/{run['id']}/stdin", data=b"\n")
        second = json.loads(await answered.content.readline())
    assert first == {"type": "stdout", "offset": 0, "data": "a"}
    assert second == {"type": "stdout", "offset": 1, "data": "éb"}


async def test_an_incomplete_character_at_the_end_is_not_lost(api: Api) -> None:
    found = await frames_of(api, shell("printf 'a\\303'"))
    assert [f for f in found if f["type"] == "stdout"] == [
        {"type": "stdout", "offset": 0, "data": "a"},
        {"type": "stdout", "offset": 1, "data_base64": base64.b64encode(b"\xc3").decode()},
    ]


async def test_following_goes_on_from_an_offset(api: Api) -> None:
    _, run, _ = await api.post(shell("printf 0123456789"))
    async with api.http.get(f"http://stockade/v1/runs/{run['id']}/output?follow&stdout_offset=4") as answered:
        found = [json.loads(line) async for line in answered.content]
    assert found[1] == {"type": "stdout", "offset": 4, "data": "456789"}


async def test_a_client_that_vanishes_ends_its_run(api: Api) -> None:
    body = json.dumps(shell("sleep 1000")).encode()
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
    for accept in (b"", b"Accept: application/x-ndjson\r\n"):
        _, writer = await asyncio.open_unix_connection(api.path)
        writer.write(head % (len(body), accept) + body)
        run = await api.double.started.get()
        writer.close()
        assert await api.double.ended.get() == (run.id, "cancelled")
        await writer.wait_closed()


async def test_a_client_that_vanishes_leaves_a_background_run_alone(api: Api) -> None:
    async with api.http.post(
        "http://stockade/v1/runs", json=shell("read x", stdin_stream=True, background=True), headers=NDJSON
    ) as answered:
        run = json.loads(await answered.content.readline())["run"]
        answered.close()
    await api.ask("GET", "/health")
    _, seen, _ = await api.ask("GET", f"/v1/runs/{run['id']}")
    assert (seen["state"], api.double.ended.empty()) == ("running", True)


async def test_cancel_answers_with_the_run_that_has_ended(api: Api) -> None:
    for method, tail in (("POST", "/cancel"), ("DELETE", "")):
        _, run, _ = await api.post(shell("sleep 1000", background=True))
        status, ended, _ = await api.ask(method, f"/v1/runs/{run['id']}{tail}")
        assert (status, ended["state"], ended["cause"]) == (200, "finished", "cancelled")


async def test_a_signal_goes_by_name_or_number(api: Api) -> None:
    for given in ("TERM", "SIGTERM", 15, 15.0):
        _, run, _ = await api.post(shell("exec sleep 1000", background=True))
        status, sent, _ = await api.post({"signal": given}, f"/v1/runs/{run['id']}/signal")
        assert (status, sent["signal"]) == (202, 15)
        _, ended, _ = await api.ask("GET", f"/v1/runs/{run['id']}/wait")
        assert (ended["cause"], ended["signal"]) == ("signal", 15)


async def test_runs_are_listed_newest_first_and_filtered(api: Api) -> None:
    first = (await api.post(shell("true")))[1]["id"]
    second = (await api.post(shell("sleep 1000", background=True)))[1]["id"]
    _, every, _ = await api.ask("GET", "/v1/runs")
    assert [r["id"] for r in every["runs"]] == [second, first]
    _, running, _ = await api.ask("GET", "/v1/runs?state=running&limit=1")
    assert [r["id"] for r in running["runs"]] == [second]


async def test_a_session_is_opened_used_and_closed(api: Api) -> None:
    status, session, headers = await api.post({"workspace": "/srv/ws", "labels": {"agent": "a"}}, "/v1/sessions")
    assert (status, headers["Location"]) == (201, f"/v1/sessions/{session['id']}")
    status, run, _ = await api.post({"argv": ["/bin/echo", "hi"]}, f"/v1/sessions/{session['id']}/shell")
    assert (status, run["stdout"], run["session"]) == (200, "hi\n", session["id"])
    status, closed, _ = await api.ask("DELETE", f"/v1/sessions/{session['id']}")
    assert (status, closed["state"]) == (200, "ended")


async def test_a_dry_run_starts_nothing(api: Api) -> None:
    status, plan, _ = await api.post(shell("touch /x", dry_run=True, timeout="2m"))
    assert (status, plan["limits"], api.double.starts) == (200, {"timeout_ms": 120_000}, 0)


async def test_a_refusal_is_a_problem_with_rule_and_remedy(api: Api) -> None:
    api.double.refuse = Denied("no", rule="profiles.shell", source="policy.toml:7", allowed="less", hint="ask for less")
    status, problem, headers = await api.post(shell("true"))
    assert (status, headers["Content-Type"]) == (403, "application/problem+json")
    assert problem["type"] == "urn:stockade:error:denied"
    assert (problem["rule"], problem["source"], problem["retry"]) == ("profiles.shell", "policy.toml:7", "after_change")
    assert problem["instance"].endswith(headers["X-Request-Id"])


async def test_events_are_sent_as_they_happen(api: Api) -> None:
    async with api.http.get("http://stockade/v1/events") as answered:
        assert answered.content_type == "text/event-stream"
        assert await answered.content.readuntil(b"\n\n") == b": stockade\n\n"
        _, run, _ = await api.post(shell("true"))
        first = (await answered.content.readuntil(b"\n\n")).decode().splitlines()
        second = (await answered.content.readuntil(b"\n\n")).decode().splitlines()
    assert (first[0], first[1], second[1]) == ("id: 1", "event: run.started", "event: run.finished")
    assert json.loads(second[2].removeprefix("data: "))["run"] == run["id"]


async def test_who_comes_back_gets_the_events_that_it_missed(api: Api) -> None:
    await api.post(shell("true"))
    for last, expected in (("1", [b"id: 2"]), ("99", [b"id: 0", b"id: 1", b"id: 2"])):
        async with api.http.get("http://stockade/v1/events", headers={"Last-Event-ID": last}) as answered:
            await answered.content.readuntil(b"\n\n")
            for line in expected:
                assert (await answered.content.readuntil(b"\n\n")).split(b"\n")[0] == line


@pytest.mark.parametrize("key", [b"", b"Idempotency-Key: k\r\n"])
async def test_a_stop_is_carried_out_though_its_client_be_gone(api: Api, key: bytes) -> None:
    api.double.go_on.clear()
    _, writer = await asyncio.open_unix_connection(api.path)
    writer.write(b"POST /v1/stop HTTP/1.1\r\nHost: x\r\n%sContent-Length: 0\r\n\r\n" % key)
    await api.double.stopping.wait()
    writer.close()
    await writer.wait_closed()
    assert (await api.ask("GET", "/health"))[0] == 200  # by now the server has seen the end of the other connection
    api.double.go_on.set()
    await api.double.stopped.wait()
