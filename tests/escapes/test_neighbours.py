"""Two live sessions of one agent know nothing of each other."""

from __future__ import annotations

import json
import socket
import subprocess
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.escapes.running import PYTHON, assert_all_denied, confined, copy_attacks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Daemon

pytestmark = pytest.mark.root

# Runs of one session are apart in these too: each has a Landlock domain of its own, /proc hides the leader, and there
# is no network.
APART = frozenset({
    "abstract_socket", "tcp_socket", "process_environ", "process_cmdline", "signal_it",
    "workspace_root", "message_queue",
})  # fmt: skip


@pytest.fixture
def other_workspace(daemon: Daemon, area: Path) -> Path:
    made = area / "other"
    made.mkdir()
    subprocess.run(["chown", f"{daemon.agent.uid}:{daemon.agent.gid}", str(made)], check=True)
    return made


@pytest.fixture
def other(daemon: Daemon, other_workspace: Path) -> Iterator[dict[str, Any]]:
    opened = daemon.request("POST", "/v1/sessions", {"workspace": str(other_workspace)})
    assert opened.status == 201, opened.body.decode()
    yield opened.json
    daemon.request("DELETE", f"/v1/sessions/{opened.json['id']}")


def _unused_port() -> int:
    with socket.socket(socket.AF_INET) as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def _host_pids(token: str) -> list[int]:
    """The processes of the host whose command line has the token."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if token.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_one_session_sees_nothing_of_another(
    daemon: Daemon, workspace: Path, session: dict[str, Any], other: dict[str, Any], other_workspace: Path
) -> None:
    """Files, workspace, processes, environment, abstract and file sockets, shared memory, queues, TCP."""
    token = uuid.uuid4().hex
    target = {"token": token, "abstract": f"n-{token}", "port": _unused_port(), "key": int(token[:7], 16)}
    copy_attacks(other_workspace, daemon.agent.uid, daemon.agent.gid)
    connection = daemon.connect()
    body = {"argv": [PYTHON, "-B", f"{other_workspace}/neighbour.py", json.dumps(target)],
            "env": {"TOKEN": token}, "stdin_stream": True}  # fmt: skip
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
    connection.request("POST", f"/v1/sessions/{other['id']}/shell", json.dumps(body), headers)
    response = connection.getresponse()
    try:
        while "ready" not in (line := response.readline().decode()):
            assert line, "the neighbour did not get ready"
        pids = _host_pids(token)
        assert pids
        attack = {k: v for k, v in target.items() if k != "token"}
        # The token stands in the attack's own command line too; what is looked for is it in other processes.
        given = {**attack, "token": token, "workspace": str(other_workspace), "pids": pids}
        found = confined(daemon, workspace, "neighbours.py", given, session["id"])
        control = confined(daemon, other_workspace, "neighbours.py", given, other["id"])
    finally:
        connection.close()
    missed = {n: v for n, v in control.attempts.items() if v[0] == "denied" and n not in APART}
    assert missed == {}
    assert (other_workspace / "secret").read_text().count("attacked") == 1
    assert_all_denied(found, control, absent=frozenset({"shared_memory", "message_queue"}))
