from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.api import connection, routes, server
from supervisor.errors import LimitReached, tree

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api


def problem_of(raw: bytes) -> tuple[int, dict[str, Any]]:
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


async def test_every_answer_carries_the_clients_request_id(api: Api) -> None:
    for route in ("/health", "/nowhere", "/v1/runs"):
        _, _, headers = await api.ask("GET", route, headers={"X-Request-Id": "req-xyz.1"})
        assert headers["X-Request-Id"] == "req-xyz.1"


@pytest.mark.parametrize("bad", ["a b", "x" * 65, "é", "a;b", ""])
async def test_an_unusable_request_id_is_replaced(api: Api, bad: str) -> None:
    _, _, headers = await api.ask("GET", "/health", headers={"X-Request-Id": bad})
    assert headers["X-Request-Id"].startswith("req-")
    assert headers["X-Request-Id"] != bad


async def test_a_body_of_100_mib_is_refused_before_it_is_read(api: Api) -> None:
    raw = await api.raw(
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 104857600\r\n\r\n{"
    )
    status, problem = problem_of(raw)
    assert (status, problem["code"]) == (413, "too_large")
    assert b"Connection: close" in raw


async def test_a_chunked_body_over_the_bound_is_cut_off(api: Api) -> None:
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    reader, writer = await asyncio.open_unix_connection(api.path)
    writer.write(head + chunk * 17)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split()[0])
    status, problem = problem_of(head + await reader.readexactly(length))
    assert (status, problem["code"]) == (413, "too_large")
    writer.close()
    with contextlib.suppress(ConnectionError):  # the server has closed with something unread
        await writer.wait_closed()


async def test_who_sends_its_body_after_the_refusal_reads_the_refusal(api: Api) -> None:
    """And then the end of the connection, although it went on to send (RFC 9112 section 9.6)."""
    reader, writer = await asyncio.open_unix_connection(api.path)
    writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n")
    status, problem = problem_of(await reader.read())  # our direction is still open: nothing has been sent on it
    assert (status, problem["code"]) == (404, "not_found")
    for _ in range(4):
        writer.write(b"x" * 100_000)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_nobody_wants_is_not_taken_for_ever(monkeypatch: pytest.MonkeyPatch, api: Api) -> None:
    monkeypatch.setattr(server, "LINGER_SECONDS", 0.02)
    reader, writer = await asyncio.open_unix_connection(api.path)
    writer.write(b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert problem_of(await reader.read())[0] == 404
    with contextlib.suppress(ConnectionError):
        while True:  # until the server has closed
            writer.write(b"1\r\nx\r\n")
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_a_client_that_asks_first_is_told_to_go_on(api: Api) -> None:
    reader, writer = await asyncio.open_unix_connection(api.path)
    body = b'{"workspace": "/w", "script": "true"}'
    writer.write(
        b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(body)
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_header_fields_are_bounded_one_by_one_and_together(api: Api) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n"
    status, problem = problem_of(await api.raw(one))
    assert (status, problem["code"]) == (431, "headers_too_large")
    status, _, _ = await api.ask("GET", "/health", headers={f"A{i}": "x" * 4000 for i in range(5)})
    assert status == 431


@pytest.mark.parametrize(
    "raw", [b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"POST /v1/runs HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
async def test_what_is_not_http_gets_a_problem_and_no_connection(api: Api, raw: bytes) -> None:
    status, problem = problem_of(await api.raw(raw + b"\r\n\r\n"))
    assert (status, problem["code"]) == (400, "malformed")


async def test_a_broken_transfer_coding_is_a_400(api: Api) -> None:
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    for chunks in (b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}X\r\n0\r\n\r\n"):
        status, problem = problem_of(await api.raw(head + chunks))
        assert (status, problem["code"]) == (400, "malformed")


async def test_an_unknown_route_names_the_nearest(api: Api) -> None:
    status, problem, _ = await api.ask("GET", "/v1/run")
    assert (status, problem["code"]) == (404, "not_found")
    assert "/v1/runs" in problem["hint"]


async def test_what_is_no_id_is_not_found(api: Api) -> None:
    for route in ("runs/x", "runs/ses-aaaaaaaaaaaa", "runs/run-AAAAAAAAAAAA", "sessions/run-aaaaaaaaaa"):
        status, problem, _ = await api.ask("GET", f"/v1/{route}")
        assert (status, problem["field"]) == (404, "id")


async def test_a_wrong_method_is_told_the_right_ones(api: Api) -> None:
    status, problem, headers = await api.ask("PUT", "/v1/runs")
    assert (status, problem["code"], headers["Allow"]) == (405, "method_not_allowed", "GET, POST")


async def test_a_limit_says_when_to_come_back(api: Api) -> None:
    api.double.refuse = LimitReached("too many runs", retry_after=7)
    status, _, headers = await api.post({"workspace": "/w", "script": "true"})
    assert (status, headers["Retry-After"]) == (429, "7")


async def test_a_bug_of_ours_shows_nothing_of_itself(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "stockade.api"):
        status, problem, headers = await api.ask("POST", "/v1/policy/reload")
    assert (status, problem["code"]) == (500, "internal")
    assert "secret-detail" not in json.dumps(problem)
    assert "Traceback" not in json.dumps(problem)
    assert headers["X-Request-Id"] in caplog.text
    assert "secret-detail" in caplog.text


async def test_one_uid_has_no_more_than_its_share_of_connections(api: Api) -> None:
    """And gets a place back for each one that it closes."""
    open_ones = [await asyncio.open_unix_connection(api.path) for _ in range(connection.MAX_CONNECTIONS_OF_UID)]
    try:
        for _, writer in open_ones:  # each is accepted before the next question
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        for reader, _ in open_ones:
            assert b"200 OK" in await reader.readuntil(b"\r\n")
        status, problem = problem_of(await api.raw(b""))
        assert (status, problem["code"]) == (429, "limit_reached")
        open_ones[0][1].close()
        await open_ones[0][1].wait_closed()
        while True:  # until the server has seen the end of it
            reader, writer = await asyncio.open_unix_connection(api.path)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answered = await reader.read()
            writer.close()
            if b"200 OK" in answered:
                break
    finally:
        for _, writer in open_ones:
            writer.close()


def test_the_bound_of_all_connections_holds_over_every_uid() -> None:
    bounds = connection.Bounds(total=3, per_uid=2)
    for uid in (1, 1, 2):
        bounds.enter(uid)
    with pytest.raises(LimitReached):
        bounds.enter(3)
    bounds.leave(2)
    with pytest.raises(LimitReached, match="uid 1"):
        bounds.enter(1)
    bounds.enter(3)


@pytest.mark.parametrize(
    ("bound", "sent"),
    [
        ("HEAD_SECONDS", b"GET /health HT"),
        ("IDLE_SECONDS", b""),
        ("BODY_SECONDS", b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"),
    ],
)
async def test_a_slow_client_does_not_keep_its_place(
    monkeypatch: pytest.MonkeyPatch, api: Api, bound: str, sent: bytes
) -> None:
    """raw() returns only when the server closes the connection by itself."""
    monkeypatch.setattr(server if bound == "BODY_SECONDS" else connection, bound, 0.02)
    answered = await api.raw(sent)
    if bound == "BODY_SECONDS":
        assert problem_of(answered)[1]["code"] == "request_timeout"
    else:
        assert answered == b""


@pytest.mark.parametrize("length", [230_000, 4_000_000])
async def test_a_client_that_reads_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch, api: Api, length: int) -> None:
    """Also when what the kernel does not take of the answer (net.core.wmem_default, 212992 bytes) is little."""
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.02)
    _, run, _ = await api.post({"workspace": "/w", "script": "head -c 4000000 /dev/zero"})
    with socket.socket(socket.AF_UNIX) as mute:
        mute.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(mute, api.path)
        ask = f"GET /v1/runs/{run['id']}/output?length={length} HTTP/1.1\r\nHost: x\r\n\r\n"
        await loop.sock_sendall(mute, ask.encode())
        hung_up = select.poll()
        hung_up.register(mute, 0)  # reports nothing but POLLHUP and POLLERR, poll(2)
        assert await loop.run_in_executor(None, hung_up.poll, 20_000)


async def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    raw = await api.raw(
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert raw.index(b"200 OK") < raw.index(b"404 Not Found")


async def test_the_server_stops_while_clients_listen(api: Api) -> None:
    """Who only listens is not waited for."""
    async with api.http.get("http://stockade/v1/events") as answered:
        await answered.content.readuntil(b"\n\n")
        loop = asyncio.get_running_loop()
        before = loop.time()
        await api.running.stop()
        assert loop.time() - before < server.STOP_SECONDS


def test_every_route_can_be_reached_and_only_the_self_view_from_inside() -> None:
    for route in routes.ROUTES:
        path = route.path
        if route.place is not None:
            name = route.place.pattern[1:5] + "a" * 20 if route.place.name == "id" else "shell"
            path = path.replace(f"{{{route.place.name}}}", name)
        assert routes.match(route.method, path)[0] is route
    assert [(r.method, r.path) for r in routes.ROUTES if r.inside] == [("GET", "/v1/self")]


def test_every_error_that_openapi_promises_exists() -> None:
    from supervisor.api import openapi

    promised = {int(s) for s in openapi._PROBLEMS}
    # 405 is no answer of a route, and 202 is one that only some give.
    assert {cls.status for cls in tree().values()} - {202, 405} == promised
