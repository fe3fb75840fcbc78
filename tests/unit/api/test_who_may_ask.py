from __future__ import annotations

import asyncio
import os
import pwd
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.api.routes import ROUTES
from tests.unit.api.conftest import serving

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

# The process that connects ends; its child goes on with the connection once it has.
HANDED_ON = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
r, w = os.pipe()
if os.fork() == 0:
    os.close(w)
    os.read(r, 1)
    s.sendall(b"GET /v1/self HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    while data := s.recv(65536):
        os.write(1, data)
"""


async def test_a_process_inside_gets_its_self_view(api_from_inside: Api) -> None:
    status, seen, _ = await api_from_inside.ask("GET", "/v1/self")
    assert (status, seen["inside"], seen["pid"]) == (200, True, os.getpid())


@pytest.mark.parametrize("route", [r for r in ROUTES if r.path != "/v1/self"], ids=lambda r: f"{r.method} {r.path}")
async def test_a_process_inside_gets_nothing_else(api_from_inside: Api, route: object) -> None:
    path = re.sub(r"\{\w+\}", "run-aaaaaaaaaaaa", route.path)  # type: ignore[attr-defined]
    status, problem, _ = await api_from_inside.ask(route.method, path)  # type: ignore[attr-defined]
    assert (status, problem["code"], problem["retry"]) == (403, "self_view_only", "never")


async def test_nothing_that_a_process_inside_sends_is_parsed(api_from_inside: Api) -> None:
    """Not even whether the route, the method or the query exists."""
    tries = (("GET", "/nowhere"), ("PUT", "/v1/runs"), ("POST", "/v1/self"), ("GET", "/v1/self/"), ("GET", "//v1/self"))
    for method, path in tries:
        assert (await api_from_inside.ask(method, path))[0] == 403
    assert (await api_from_inside.post(b"{" * 1000))[0] == 403
    assert (await api_from_inside.post({"workspace": "/w", "script": "true"}))[0] == 403
    assert api_from_inside.double.starts == 0


async def test_a_connection_of_a_process_that_has_ended_is_refused(api: Api) -> None:
    child = subprocess.Popen([sys.executable, "-c", HANDED_ON, api.path], stdout=subprocess.PIPE)  # noqa: ASYNC220
    child.wait()  # before the loop gets a turn to accept the connection
    assert child.stdout is not None
    answered = await asyncio.get_running_loop().run_in_executor(None, child.stdout.read)
    child.stdout.close()
    assert answered.startswith(b"HTTP/1.1 403 ")
    assert b'"caller_unknown"' in answered


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_another_user_is_that_user_for_every_request_of_its_connection() -> None:
    nobody = pwd.getpwnam("nobody")
    asks = (
        "import http.client, json, socket, sys\n"
        "c = http.client.HTTPConnection('x'); c.sock = socket.socket(socket.AF_UNIX); c.sock.connect(sys.argv[1])\n"
        "for _ in range(2):\n"
        "    c.request('GET', '/v1/self'); print(json.load(c.getresponse())['uid'])\n"
    )
    with tempfile.TemporaryDirectory(prefix="stockade-") as directory:  # tmp_path is closed to other users
        os.chmod(directory, 0o711)  # noqa: S103
        async with serving(Path(directory), []) as api:
            os.chmod(api.path, 0o666)  # noqa: S103
            child = await asyncio.create_subprocess_exec(
                "/usr/bin/python3",
                "-c",
                asks,
                api.path,
                stdout=subprocess.PIPE,
                user=nobody.pw_uid,
                group=nobody.pw_gid,
            )
            out, _ = await child.communicate()
    assert out.split() == [str(nobody.pw_uid).encode()] * 2
