"""Attacks run twice: inside a real service, where every attempt has to be denied, and unconfined against canaries of
their own, where they have to succeed. So an attack that is broken cannot pass for one that was stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.harness import Daemon

ATTACKS = Path(__file__).parent / "attacks"
PYTHON = "/usr/bin/python3"
SECONDS = 100


@dataclass
class Results:
    """What the attempts of one attack came to: name -> (outcome, detail)."""

    attempts: dict[str, tuple[str, str]] = field(default_factory=dict)
    text: str = ""
    run: dict[str, Any] = field(default_factory=dict)

    def having(self, outcome: str) -> dict[str, str]:
        return {name: detail for name, (found, detail) in self.attempts.items() if found == outcome}


def results(text: str, run: dict[str, Any] | None = None) -> Results:
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return Results({line["attempt"]: (line["outcome"], line["detail"]) for line in lines}, text, run or {})


def assert_all_denied(found: Results, control: Results, *, absent: frozenset[str] = frozenset()) -> None:
    """Every attempt that the control made was denied inside; `absent` is what a host may not offer for an attack."""
    assert found.having("succeeded") == {}
    assert found.having("broken") == {}
    assert found.attempts.keys() == control.attempts.keys()
    assert found.having("absent").keys() <= absent
    assert found.attempts


def assert_noticed(control: Results, *, host: frozenset[str] = frozenset()) -> None:
    """The same program, unconfined, succeeded: all but what depends on the host or would harm it."""
    missed = {name: v for name, v in control.attempts.items() if v[0] != "succeeded" and name not in host}
    assert missed == {}


def copy_attacks(workspace: Path, uid: int, gid: int) -> None:
    for source in ATTACKS.glob("*.py"):
        made = workspace / source.name
        shutil.copy(source, made)
        os.chown(made, uid, gid)


def confined(daemon: Daemon, workspace: Path, program: str, target: dict[str, Any], session: str = "") -> Results:
    """Run an attack through the socket, as an agent would."""
    copy_attacks(workspace, daemon.agent.uid, daemon.agent.gid)
    body = {"argv": [PYTHON, "-B", f"{workspace}/{program}", json.dumps({**target, "control": False})]}
    path = f"/v1/sessions/{session}/shell" if session else "/v1/runs"
    reply = daemon.request("POST", path, body if session else {**body, "workspace": str(workspace)})
    assert reply.status == 200, reply.body.decode()
    run = reply.json
    assert (run["cause"], run["exit_code"], run["stderr"]) == ("exited", 0, ""), run
    return results(run["stdout"], run)


def unconfined(
    workspace: Path, program: str, target: dict[str, Any], uid: int, *, namespaces: tuple[str, ...] = ()
) -> Results:
    """Run an attack as a host's process; `namespaces` keep what a successful one changes from lasting."""
    copy_attacks(workspace, uid, uid)
    os.chown(workspace, uid, uid)
    inner = [PYTHON, "-B", f"{workspace}/{program}", json.dumps({**target, "control": True})]
    command = ["unshare", *namespaces, "--", *inner] if namespaces else inner
    done = subprocess.run(
        command, cwd=workspace, user=uid, group=uid, extra_groups=[], capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=SECONDS, start_new_session=True, check=False,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "NOTIFY_SOCKET": "", "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return results(done.stdout)


def shell(daemon: Daemon, session: dict[str, Any], script: str, **more: Any) -> dict[str, Any]:
    reply = daemon.request("POST", f"/v1/sessions/{session['id']}/shell", {"script": script, **more})
    assert reply.status in (200, 202), reply.body.decode()
    found: dict[str, Any] = reply.json
    return found
