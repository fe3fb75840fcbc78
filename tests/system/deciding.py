"""What the tests of decisions share: a policy that decides, and questions that somebody answers."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

from tests.harness import Reply
from tests.system.faults import policy

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness import Agent, Daemon

ASKED = "touch --asked"  # what the policy of these tests asks about, and touch(1) refuses by itself


def decisions(uids: tuple[int, int], more: str = "", **replaced: str) -> str:
    """The default policy, in which `touch asked` is asked about, with more tables at its end."""
    text = policy(uids).replace('approval_patterns = ["', 'approval_patterns = ["touch asked", "sh approved.sh", "')
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    return f"{text}\n{more}"


def post_run(daemon: Daemon, workspace: Path, *argv: str, agent: Agent | None = None, **more: Any) -> Reply:
    body = {"workspace": str(workspace), **({"argv": list(argv)} if argv else {}), **more}
    return daemon.request("POST", "/v1/runs", body, agent=agent)


def answer(daemon: Daemon, ident: str, verdict: str = "approve", **body: Any) -> Reply:
    """Root, who is the administrator of the policy, answers."""
    return daemon.request("POST", f"/v1/approvals/{ident}/{verdict}", body, root=True)


def asked(reply: Reply) -> str:
    """The id of the question that a request led to."""
    assert reply.status == 202, reply.body
    assert reply.headers["Content-Type"].startswith("application/problem+json")
    problem = reply.json
    assert (problem["code"], problem["retry"]) == ("approval_required", "after_approval")
    assert reply.headers["Location"] == f"/v1/approvals/{problem['approval']}"
    return str(problem["approval"])


def audit_of(daemon: Daemon, kind: str, **fields: Any) -> list[dict[str, Any]]:
    found = [r for r in daemon.audit() if r["event_type"] == kind]
    return [r for r in found if all(r.get(k) == v for k, v in fields.items())]


class Later(threading.Thread):
    """A request of the agent whose reply is waited for. It connects here: acting as another user is of the process."""

    def __init__(self, daemon: Daemon, path: str, body: dict[str, Any], **headers: str) -> None:
        super().__init__(daemon=True)
        self._connection = daemon.connect()
        self._connection.connect()
        self._asked = (path, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
        self.reply: Reply | None = None
        self.start()

    def run(self) -> None:
        path, body, headers = self._asked
        with contextlib.closing(self._connection) as connection:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            self.reply = Reply(response.status, dict(response.getheaders()), response.read())

    def result(self) -> Reply:
        self.join(60)
        assert self.reply is not None, "no reply"
        return self.reply


def frames(reply: Reply) -> list[dict[str, Any]]:
    return [json.loads(line) for line in reply.body.splitlines()]
