"""The client as a Python API: requests, answers, problems, and everything that can break in between."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest

from supervisor import errors
from supervisor.cli import client as module
from supervisor.cli.client import Client

if TYPE_CHECKING:
    from collections.abc import Callable

RUN = {"id": "run-0123456789", "cause": "exited", "exit_code": 0, "stdout": "hi\n"}


def test_run_sends_one_request_and_returns_the_run(service: Any) -> None:
    service.routes["POST", "/v1/runs"] = RUN
    assert Client(service.path).run(["echo", "hi"], workspace="/w", profile="shell") == RUN
    body = {"tool": "shell", "argv": ["echo", "hi"], "workspace": "/w", "profile": "shell"}
    assert service.bodies("POST", "/v1/runs") == [body]


@pytest.mark.parametrize(("data", "member"), [(b"text", {"stdin": "text"}), (b"\xff\0", {"stdin_base64": "/wA="})])
def test_run_carries_stdin_as_text_or_base64(service: Any, data: bytes, member: dict[str, str]) -> None:
    service.routes["POST", "/v1/runs"] = RUN
    Client(service.path).run(script="cat", session="ses-0123456789", stdin=data)
    (body,) = service.bodies("POST", "/v1/runs")
    assert {k: v for k, v in body.items() if k.startswith("stdin")} == member


@pytest.mark.parametrize("code", sorted(errors.tree()))
def test_every_problem_document_becomes_the_error_of_its_code_and_back(code: str) -> None:
    original = errors.tree()[code]("no", hint="h", field="f", rule="r", source="s:1", layer="l", allowed="a", more=[1])
    rebuilt = module.from_problem(original.as_dict(), original.status)
    assert type(rebuilt).code == code
    assert rebuilt.as_dict() == original.as_dict()


@pytest.mark.parametrize("answer", [b"", b"<html>", b'"text"', b'{"title": "no detail"}'])
def test_an_error_that_is_no_problem_document_is_still_an_error(service: Any, answer: bytes) -> None:
    service.routes["GET", "/v1/status"] = lambda h: h.bytes(answer, status=502)
    with pytest.raises(errors.Unavailable, match="HTTP status 502"):
        Client(service.path).call("GET", "/v1/status")


def test_an_answer_that_is_not_json_is_an_error(service: Any) -> None:
    service.routes["GET", "/v1/status"] = lambda h: h.bytes(b"<html>")
    with pytest.raises(errors.Unavailable, match="not JSON"):
        Client(service.path).call("GET", "/v1/status")


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b'{"type": "start'])
def test_a_frame_that_is_no_object_is_an_error(service: Any, line: bytes) -> None:
    service.routes["GET", "/x"] = lambda h: (h.stream(), h.chunk(line), h.chunk(b""))
    with pytest.raises(errors.Unavailable):
        list(Client(service.path).frames("GET", "/x"))


def test_an_answer_of_another_kind_is_not_read_as_frames(service: Any) -> None:
    service.routes["GET", "/x"] = {"type": "stdout", "data": "x"}
    with pytest.raises(errors.Unavailable, match="application/json"):
        list(Client(service.path).frames("GET", "/x"))


def test_events_are_read_across_chunks_with_comments_and_split_data(service: Any) -> None:
    sent = b': hello\r\n\r\nid: 1\nevent: run.started\ndata: {"id":\ndata: 7}\n\ndata: 1\n\n'

    def answer(handler: Any) -> None:
        handler.stream("text/event-stream")
        for byte in sent:
            handler.chunk(bytes([byte]))
        handler.chunk(b"")

    service.routes["GET", "/v1/events"] = answer
    assert list(Client(service.path).events()) == [("run.started", {"id": 7}), ("message", 1)]


def test_a_refusal_in_the_middle_of_an_upload_is_read(service: Any) -> None:
    """The service answers and closes while most of the body is still to come; the reason must not get lost."""
    service.routes["POST", "/x"] = lambda h: h.json({"code": "too_large", "detail": "enough"}, 413)
    with pytest.raises(errors.TooLarge, match="enough"):
        Client(service.path).send("/x", (bytes(1 << 16) for _ in range(1 << 10)))


def test_a_service_that_closes_without_an_answer_is_unavailable(service: Any) -> None:
    service.routes["GET", "/x"] = lambda h: h.connection.shutdown(socket.SHUT_RDWR)
    with pytest.raises(errors.Unavailable, match="broke the connection off"):
        Client(service.path).call("GET", "/x")


def test_a_service_that_does_not_answer_in_time_is_unavailable(service: Any) -> None:
    over = threading.Event()
    service.routes["GET", "/x"] = lambda _: over.wait(60)
    try:
        with pytest.raises(errors.Unavailable, match="timed out"):
            Client(service.path, timeout=0.05).call("GET", "/x")
    finally:
        over.set()


def test_no_connection_is_left_open_after_success_refusal_and_a_stream_given_up(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[socket.socket] = []

    def connect(sock: socket.socket, path: str) -> None:
        made.append(sock)
        original(sock, path)

    original = module._connect
    monkeypatch.setattr(module, "_connect", connect)
    service.routes["GET", "/ok"] = {}
    service.routes["GET", "/many"] = lambda h: (h.stream(), [h.frame({"n": n}) for n in range(100)], h.chunk(b""))
    client = Client(service.path)
    client.call("GET", "/ok")
    with pytest.raises(errors.NotFound):
        client.call("GET", "/missing")
    frames = client.frames("GET", "/many")
    assert next(frames) == {"n": 0}
    frames.close()
    with pytest.raises(errors.Unavailable):
        Client(service.path + ".absent").call("GET", "/ok")
    assert [sock.fileno() for sock in made] == [-1] * 4


def test_a_socket_path_longer_than_sun_path_works(service: Any) -> None:
    service.routes["GET", "/ok"] = {"a": 1}
    directory = tempfile.mkdtemp()
    try:
        deep = os.path.join(directory, *["d" * 50] * 3)
        os.makedirs(deep)
        os.symlink(os.path.dirname(service.path), os.path.join(deep, "run"))
        assert Client(os.path.join(deep, "run", "api.sock")).call("GET", "/ok") == {"a": 1}
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.ENOENT, errors.Unavailable, "systemctl start stockade"),
        (errno.ECONNREFUSED, errors.Unavailable, "systemctl start stockade"),
        (errno.EACCES, errors.Denied, "usermod -aG stockade-clients"),
    ],
)
def test_a_socket_that_cannot_be_used_says_what_to_do(number: int, kind: type[Exception], said: str) -> None:
    error = module.unreachable("/run/x", OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert said in str(error.hint)


def test_a_socket_that_nobody_listens_on_is_unavailable(service: Any) -> None:
    orphan = service.path + ".orphan"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(orphan)
    with pytest.raises(errors.Unavailable, match="nobody listens"):
        Client(orphan).call("GET", "/x")


def test_the_socket_is_the_given_one_then_the_environment_then_the_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKADE_SOCKET", "/from/environment")
    found: Callable[..., str] = lambda *a: Client(*a).path  # noqa: E731
    assert (found("/given"), found()) == ("/given", "/from/environment")
    monkeypatch.delenv("STOCKADE_SOCKET")
    assert found() == "/run/stockade/api.sock"
