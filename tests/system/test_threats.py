"""The five threats that the requirements name (R143 to R147), acted out against the moderate preset as it is shipped.

What is asked about or denied is so because of what it looks like; each scenario also says yes, or says it in a way that
nobody can see, and then looks whether the box holds without the decision.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.policy.presets import preset_text
from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import answer, asked, audit_of, post_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("within_one_hour")]


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    first, several = uid_range()
    text = preset_text("moderate").replace("[service]", f"[service]\nuid_range = [{first}, {several}]", 1)
    text = text.replace('["/home/*/**", "/srv/**"]', f'["{ground}/*"]').replace("sessions = 128", "sessions = 16")
    with Daemon(ground, agent, sys.executable, text) as running:
        yield running


def by(agent: str, **labels: str) -> dict[str, Any]:
    return {"labels": {"agent": agent, **labels}}


def test_delete_old_logs_is_asked_about_and_reaches_none_of_the_hosts(
    daemon: Daemon, ground: Path, workspace: Path
) -> None:
    """R143, an instruction that is misread: approval, scope, dry run."""
    logs = ground / "var-log"
    logs.mkdir(exist_ok=True)
    logs.chmod(0o777)
    (logs / "old.log").write_text("kept")
    (logs / "old.log").chmod(0o666)
    (workspace / "old.log").write_text("the agent's own")
    dry = post_run(daemon, workspace, "rm", "-rf", "/var/log", dry_run=True, **by("tidy")).json
    assert (dry["dry_run"], dry["decision"]["verdict"]) == (True, "ask")
    words = ("rm", "-rf", str(logs))
    ident = asked(post_run(daemon, workspace, *words, **by("tidy")))
    shown = daemon.request("GET", f"/v1/approvals/{ident}").json
    assert (shown["what"]["argv"], shown["what"]["cwd"]) == (list(words), str(workspace))
    assert answer(daemon, ident).status == 200
    ran = post_run(daemon, workspace, *words, **by("tidy"))
    assert ran.status == 200
    assert (logs / "old.log").read_text() == "kept", "a yes opens nothing that the profile does not"
    assert (workspace / "old.log").exists()


def test_what_keys_are_called_is_asked_about_and_what_they_are_is_not_there(
    daemon: Daemon, workspace: Path, ground: Path
) -> None:
    """R144, credentials in a command's output: none of the host's can get there. Scrubbing comes with the secrets."""
    secret = ground / "credentials"
    secret.write_text("AKIA-not-for-agents")
    secret.chmod(0o644)
    assert asked(post_run(daemon, workspace, "cat", "/home/agent/.aws/credentials", **by("curious")))
    tried = f"env; cat {secret} /proc/*/environ /home/*/.*rc 2>&1; ls -la ~ /root /home 2>&1"
    run = post_run(daemon, workspace, "python3", "-c", f"import os; os.system({tried!r})", **by("curious"))
    if run.status == 202:
        assert answer(daemon, run.json["approval"]).status == 200
        run = post_run(daemon, workspace, "python3", "-c", f"import os; os.system({tried!r})", **by("curious"))
    assert run.status == 200, run.body
    assert "AKIA" not in run.json["stdout"]
    given = {line.partition("=")[0] for line in run.json["stdout"].splitlines() if re.match(r"[A-Z_]+=", line)}
    assert given <= {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "STOCKADE_SESSION", "STOCKADE_RUN",
                     "PWD", "OLDPWD", "SHLVL", "_"}  # fmt: skip
    assert not any("AKIA" in str(record) for record in daemon.audit())


def test_sudo_is_asked_about_and_gains_nothing(daemon: Daemon, workspace: Path) -> None:
    """R145, sudo without a password: no process can gain a privilege, whatever is set on the file."""
    assert asked(post_run(daemon, workspace, "sudo", "-n", "id", **by("root")))
    names = ["NoNewPrivs", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Uid"]
    run = daemon.run(workspace, "cat", "/proc/self/status", **by("root"))
    found = dict(line.split(":\t", 1) for line in run["stdout"].splitlines() if ":\t" in line)
    assert [found[name] for name in names[:-1]] == ["1", *["0" * 16] * 5]
    assert set(found["Uid"].split()) == {str(run["receipt"]["uid"])}


@pytest.mark.parametrize("channel", ["discord", "discord-general", "webhook"])
def test_what_strangers_write_changes_nothing_and_reaches_nobody(daemon: Daemon, workspace: Path, channel: str) -> None:
    """R146 (and R67, R68), text of strangers that ends in a command: it can look, and has no network."""
    (workspace / "notes").write_text("notes")
    (workspace / "notes").chmod(0o666)
    injected = "x'; echo gone > notes; touch made; echo '"
    run = daemon.run(workspace, "sh", "-c", f"echo '{injected}'", **by("mail", channel=channel))
    assert run["decision"]["readonly"] is True
    assert (workspace / "notes").read_text() == "notes"
    assert not (workspace / "made").exists()
    reach = "import socket; socket.create_connection(('127.0.0.1', 80), 2)"
    assert daemon.run(workspace, "python3", "-c", reach, **by("mail", channel=channel))["exit_code"] != 0
    # As words it is no command at all.
    assert daemon.run(workspace, "echo", injected, **by("mail"))["stdout"] == f"{injected}\n"
    denied = post_run(daemon, workspace, script="true; nmap 10.0.0.0/8", **by("mail", channel=channel))
    assert (denied.status, denied.json["code"]) == (403, "denied")


def test_an_agent_in_a_loop_is_stopped(daemon: Daemon, workspace: Path) -> None:
    """R147, automation that runs away: it is counted, its failures are told of, and it is stopped with the reason."""
    refused = None
    for number in range(40):
        reply = post_run(daemon, workspace, "sh", "-c", f"false {number}", **by("loop"))
        if reply.status != 200:
            refused = reply
            break
    assert refused is not None
    assert (refused.status, refused.json["rule"]) == (429, "breaker"), refused.body
    assert number == 10
    assert float(refused.headers["Retry-After"]) > 0
    assert "stockade breakers reset" in refused.json["hint"]
    told = [record["result"] for record in audit_of(daemon, "security", action="alert")]
    assert [alert["rule"] for alert in told if alert["agent"] == "loop"] == ["alerts.failed_per_hour"]
    assert post_run(daemon, workspace, "true", **by("calm")).status == 200
    bomb = daemon.run(workspace, "sh", "-c", "sleep 60", **by("calm"), limits={"timeout": "200ms"})
    assert bomb["cause"] == "timeout"
