"""Policy is swapped whole or not at all: the last good one serves until another one has been read and proved."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.system.outside import events, policy, streamed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Agent, Reply

pytestmark = pytest.mark.root
EX_CONFIG = 78

BROKEN = """
[profiles.broken]
read = ["/usr", "/bin", "/lib", "/lib64"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
shell = "/usr/bin/false"

[[callers]]
group = "stockade-clients"
"""


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, policy()) as running:
        yield running


@pytest.fixture(autouse=True)
def good(daemon: Daemon) -> Iterator[None]:
    """Each test begins and ends with the default policy served."""
    yield
    daemon.write_policy(policy())
    assert reload(daemon).status == 200


def reload(daemon: Daemon) -> Reply:
    return daemon.request("POST", "/v1/policy/reload", root=True)


def status(daemon: Daemon) -> dict[str, Any]:
    return daemon.request("GET", "/v1/status").json["policy"]


def memory_granted(daemon: Daemon, workspace: Path) -> int:
    """By which policy a run really runs: the limit that the kernel holds."""
    return daemon.run(workspace, "true")["receipt"]["limits"]["memory"]


def hang_up(daemon: Daemon) -> dict[str, Any]:
    """SIGHUP, and what came of it."""
    with events(daemon) as told:
        daemon.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        return next(e for e in told if e["kind"].startswith("policy."))


LESS = ('memory = "1G"', 'memory = "512M"')


def test_a_new_policy_serves_from_the_answer_on(daemon: Daemon, workspace: Path) -> None:
    before = status(daemon)
    assert memory_granted(daemon, workspace) == 1 << 30
    daemon.write_policy(policy(LESS))
    answer = reload(daemon)
    assert (answer.status, answer.json["profiles"], answer.json["refused"]) == (200, ["shell"], {})
    assert memory_granted(daemon, workspace) == 512 << 20
    after = status(daemon)
    assert after["digest"] == answer.json["digest"] != before["digest"]
    assert (after["failure"], after["refused"]) == (None, {})
    recorded = [r for r in daemon.audit() if r["event_type"] == "policy"][-1]
    assert (recorded["outcome"], recorded["policy_digest"]) == ("loaded", after["digest"])
    assert recorded["caller"]["uid"] == 0


def test_a_signal_reloads_as_the_request_does(daemon: Daemon, workspace: Path) -> None:
    daemon.write_policy(policy(LESS))
    told = hang_up(daemon)
    assert (told["kind"], told["digest"]) == ("policy.reloaded", status(daemon)["digest"])
    assert memory_granted(daemon, workspace) == 512 << 20
    daemon.write_policy("nonsense")
    assert hang_up(daemon)["kind"] == "policy.refused"
    assert memory_granted(daemon, workspace) == 512 << 20
    assert status(daemon)["failure"]["findings"][0]["message"]


def test_only_an_administrator_reloads(daemon: Daemon) -> None:
    denied = daemon.request("POST", "/v1/policy/reload")
    assert (denied.status, denied.json["code"], denied.json["field"]) == (403, "denied", "role")


# --- what does not load -------------------------------------------------------------------------------------------


def line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def replaced(new: str, *, old: str = 'memory = "1G"') -> tuple[str, int]:
    """The default policy with one place spoilt, and the line of that place."""
    text = policy((old, new))
    return text, line_of(text, new)


WRONG: dict[str, tuple[Callable[[], tuple[str, int]], str, str]] = {
    "a bad unit": (lambda: replaced('memory = "1X"'), "profiles.shell.limits.memory", "no unit 'X'"),
    "no unit": (lambda: replaced("timeout = 60", old='timeout = "60s"'), "profiles.shell.limits.timeout", "unit"),
    "an unknown key": (lambda: replaced('memroy = "1G"'), "profiles.shell.limits.memroy", "no such key"),
    "a wrong type": (lambda: replaced('shell = ["/bin/sh"]', old='shell = "/bin/sh"'), "profiles.shell.shell", ""),
    "over the ceiling": (lambda: replaced('memory = "9G"'), "profiles.shell.limits.memory", "wider than [ceiling]"),
    "no such user": (lambda: replaced('user = "nobody-here"', old='user = "root"'), "callers[1].user", "no user"),
    "no such profile": (
        lambda: replaced('profiles = ["shall"]', old='profiles = ["shell"]'), "callers[0].profiles[0]", "no profile"
    ),
    "not TOML": (lambda: replaced("memory = = 1"), "", ""),
    "twice": (lambda: replaced('memory = "1G"\nmemory = "2G"'), "", "overwrite"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_policy_with_a_fault_is_refused_with_its_place(daemon: Daemon, workspace: Path, case: str) -> None:
    make, key, says = WRONG[case]
    text, line = make()
    before = status(daemon)
    daemon.write_policy(text)
    answer = reload(daemon)
    assert (answer.status, answer.json["code"], answer.json["retry"]) == (422, "policy_invalid", "after_change")
    found = answer.json["findings"][0]
    assert (found["file"], found["key"]) == (str(daemon.root / "etc" / "policy.toml"), key)
    assert found["line"] in ((line, line + 1) if key == "" else (line,))
    assert says in found["message"]
    assert found["expected"]
    still_serves(daemon, workspace, before, answer.json["findings"])


def still_serves(daemon: Daemon, workspace: Path, before: dict[str, Any], findings: list[dict[str, Any]]) -> None:
    """The last good policy serves, and status says what is wrong with the new one."""
    after = status(daemon)
    assert (after["digest"], after["since"]) == (before["digest"], before["since"])
    assert (after["failure"]["code"], after["failure"]["findings"]) == ("policy_invalid", findings)
    assert memory_granted(daemon, workspace) == 1 << 30
    assert [r["outcome"] for r in daemon.audit() if r["event_type"] == "policy"][-1] == "refused"


def test_every_fault_is_found_at_once(daemon: Daemon) -> None:
    wrong = (('memory = "1G"', 'memroy = "1G"'), ('cpu = "200%"', "cpu = 200"), ("[service]", "[servise]"))
    daemon.write_policy(policy(*wrong))
    findings = reload(daemon).json["findings"]
    assert {f["key"] for f in findings} >= {"profiles.shell.limits.memroy", "profiles.shell.limits.cpu", "servise"}
    assert {f["nearest"] for f in findings} >= {"memory", "service"}
    assert [f["line"] for f in findings] == sorted(f["line"] for f in findings)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def huge(path: Path) -> None:
    path.write_bytes(b"# a comment\n" * (10 << 20 // 12))


def no_text(path: Path) -> None:
    path.write_bytes(b"# \xff\n" + policy().encode())


def group_writable(path: Path) -> None:
    path.chmod(0o664)


def anybodys(path: Path) -> None:
    path.chmod(0o646)


def missing(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere.toml"))
    path.symlink_to("elsewhere.toml")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [empty, huge, no_text, group_writable, anybodys, missing, linked, a_pipe])
def test_a_file_that_cannot_be_trusted_is_refused(
    daemon: Daemon, workspace: Path, spoil: Callable[[Path], None]
) -> None:
    path = daemon.root / "etc" / "policy.toml"
    before = status(daemon)
    spoil(path)
    try:
        answer = reload(daemon)
        assert (answer.status, answer.json["code"]) == (422, "policy_invalid")
        found = answer.json["findings"][0]
        assert (found["file"], found["line"]) == (str(path), 1)
        assert found["message"]
        assert found["expected"]
        still_serves(daemon, workspace, before, answer.json["findings"])
    finally:
        path.unlink(missing_ok=True)


def test_a_file_of_another_user_is_refused(daemon: Daemon, agent: Agent, workspace: Path) -> None:
    path = daemon.root / "etc" / "policy.toml"
    os.chown(path, agent.uid, agent.gid)
    answer = reload(daemon)
    os.chown(path, 0, 0)
    assert answer.status == 422
    assert f"belongs to uid {agent.uid}" in answer.json["findings"][0]["message"]


def test_a_drop_in_adds_and_never_widens(daemon: Daemon, workspace: Path) -> None:
    directory = daemon.root / "etc" / "policy.d"
    directory.mkdir(mode=0o755)
    drop_in = directory / "10-more.toml"
    try:
        small = '[profiles.small]\nread = ["/usr"]\nexecute = ["/usr"]\n[profiles.small.limits]\nmemory = "64M"\n'
        drop_in.write_text(small)
        answer = reload(daemon)
        assert (answer.status, answer.json["profiles"]) == (200, ["shell", "small"])
        before = status(daemon)
        drop_in.write_text(small.replace("64M", "9G"))
        found = reload(daemon).json["findings"][0]
        assert (found["file"], found["line"], found["key"]) == (str(drop_in), 5, "profiles.small.limits.memory")
        drop_in.write_text("[ceiling]\n")
        found = reload(daemon).json["findings"][0]
        assert (found["file"], found["line"], found["key"]) == (str(drop_in), 1, "ceiling")
        assert status(daemon)["digest"] == before["digest"]
    finally:
        drop_in.unlink()
        directory.rmdir()


# --- what goes on meanwhile ---------------------------------------------------------------------------------------


def test_a_run_keeps_the_policy_it_began_under(daemon: Daemon, workspace: Path) -> None:
    asked = {"workspace": str(workspace), "script": "echo up; read x; echo $x $GREETING", "stdin_stream": True}
    with streamed(daemon, asked) as frames:
        frames.until("up")
        began = status(daemon)["digest"]
        daemon.write_policy(policy(LESS, ("env = {", 'env = { GREETING = "new",')))
        assert reload(daemon).status == 200
        daemon.request("POST", f"/v1/runs/{frames.id}/stdin", b"still\n")
        ended = frames.rest()
    assert ended[0]["data"] == "still\n"
    run = ended[-1]["run"]
    assert (run["cause"], run["exit_code"], run["receipt"]["limits"]["memory"]) == ("exited", 0, 1 << 30)
    assert run["decision"]["policy_digest"] == began != status(daemon)["digest"]
    assert daemon.run(workspace, script="echo $GREETING")["stdout"] == "new\n"


def test_a_session_goes_on_only_while_its_profile_is_the_same(daemon: Daemon, workspace: Path) -> None:
    session = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)}).json["id"]
    try:
        daemon.write_policy(policy(("sessions = 256", "sessions = 255")))
        assert reload(daemon).status == 200
        goes_on = daemon.request("POST", f"/v1/sessions/{session}/shell", {"script": "echo on"})
        assert (goes_on.status, goes_on.json["stdout"]) == (200, "on\n")
        daemon.write_policy(policy(LESS))
        assert reload(daemon).status == 200
        refused = daemon.request("POST", f"/v1/sessions/{session}/shell", {"script": "touch ran"})
        assert (refused.status, refused.json["code"], refused.json["rule"]) == (409, "conflict", "profiles.shell")
        assert "open a new session" in refused.json["hint"]
        assert not (workspace / "ran").exists()
    finally:
        daemon.request("DELETE", f"/v1/sessions/{session}")


def test_a_profile_that_fails_its_proof_is_refused_by_name_and_others_serve(daemon: Daemon, workspace: Path) -> None:
    """Its shell says false to everything, which the proof of `shell` finds out by asking it."""
    granted = ('profiles = ["shell"]', 'profiles = ["shell", "broken"]')
    text = policy(granted, ('[[callers]]\ngroup = "stockade-clients"\n', BROKEN))
    daemon.write_policy(text)
    answer = reload(daemon)
    assert (answer.status, answer.json["profiles"]) == (200, ["shell", "broken"])
    assert answer.json["refused"]["broken"]["probe"] == "shell"
    assert status(daemon)["refused"].keys() == {"broken"}
    refused = daemon.request("POST", "/v1/runs", {"workspace": str(workspace), "profile": "broken", "argv": ["true"]})
    assert (refused.status, refused.json["code"], refused.json["probe"]) == (503, "profile_refused", "shell")
    assert (refused.json["field"], refused.json["rule"]) == ("profile", "profiles.broken")
    assert refused.json["source"].endswith(f":{line_of(text, '[profiles.broken]')}")
    assert "/usr/bin/false" in refused.json["detail"]
    assert daemon.run(workspace, script="echo serves", profile="shell")["stdout"] == "serves\n"
    doctor = daemon.request("GET", "/v1/doctor").json
    assert (doctor["ok"], list(doctor["refused"])) == (False, ["broken"])
    daemon.write_policy(text.replace("/usr/bin/false", "/usr/bin/sh"))
    assert reload(daemon).json["refused"] == {}
    assert daemon.run(workspace, script="echo mended", profile="broken")["stdout"] == "mended\n"


def test_a_service_does_not_start_with_a_policy_that_does_not_load(ground: Path, agent: Agent) -> None:
    bad = policy(('memory = "1G"', 'memory = "1X"'))
    refused = Daemon(ground, agent, sys.executable, bad)
    try:
        with pytest.raises(RuntimeError, match=r"profiles\.shell\.limits\.memory"):
            refused.start()
        assert refused.process is not None
        assert refused.process.wait(20) == EX_CONFIG
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            refused.request("GET", "/health")
    finally:
        refused.__exit__()
