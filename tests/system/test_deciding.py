"""Decisions over the real socket: what is denied, asked, approved, narrowed and limited, and what is recorded of it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import Later, answer, asked, audit_of, decisions, frames, post_run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent

pytestmark = pytest.mark.root

MORE = """
[[contexts]]
match = { channel = ["discord*"] }
autonomy = "readonly"

[[contexts]]
match = { channel = ["ops"] }
blocked_commands = ["git"]

[[rules]]
name = "no-night-shift"
match = { agent = ["night"] }

[[rules]]
name = "ask-me"
match = { agent = ["asks"] }
effect = "ask"
"""


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, decisions(uid_range(), MORE)) as running:
        yield running


# --- denied ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        "rm -rf /",
        "r\\m -r''f /",
        'bash -c "rm -rf /"',
        "find / -delete",
        "true && env X=1 nmap localhost",
        "echo / | xargs rm -rf",
        "chmod -R 777 .",
    ],
)
def test_a_blocked_command_is_denied_wherever_it_stands(daemon: Daemon, workspace: Path, script: str) -> None:
    reply = post_run(daemon, workspace, script=script)
    problem = reply.json
    assert (reply.status, problem["code"], problem["retry"]) == (403, "denied", "after_change"), problem
    assert problem["rule"].startswith("autonomy.blocked_commands[")
    assert problem["source"].rpartition(":")[2].isdigit()
    assert problem["hint"]
    assert problem["allowed"]
    assert list(workspace.iterdir()) == []


@pytest.mark.parametrize(
    "script", ["mkdir format", "echo nmap > README; grep nmap README", 'echo "rm -rf / is dangerous"']
)
def test_words_that_only_look_like_it_pass(daemon: Daemon, workspace: Path, script: str) -> None:
    run = daemon.run(workspace, script=script)
    assert (run["cause"], run["exit_code"]) == ("exited", 0)


def test_a_denial_is_recorded_with_its_rule(daemon: Daemon, workspace: Path) -> None:
    post_run(daemon, workspace, "nmap", "recorded-marker")
    daemon.run(workspace, "true")  # nobody waits for the record of a refusal; that of a run comes after it
    record = next(r for r in audit_of(daemon, "decision", outcome="deny") if "recorded-marker" in r["args"])
    assert "autonomy.blocked_commands" in record["authorization_policy"]
    assert "denied" in record["reason"]


def test_a_rule_denies_what_it_concerns(daemon: Daemon, workspace: Path) -> None:
    reply = post_run(daemon, workspace, "true", labels={"agent": "night"})
    assert (reply.status, reply.json["rule"]) == (403, "rules.no-night-shift")
    assert post_run(daemon, workspace, "true", labels={"agent": "day"}).status == 200


def test_a_context_blocks_for_its_channel_alone(daemon: Daemon, workspace: Path) -> None:
    reply = post_run(daemon, workspace, "git", "--version", labels={"channel": "ops"})
    assert (reply.status, reply.json["rule"]) == (403, "contexts[1].blocked_commands[0]")
    assert post_run(daemon, workspace, "git", "--version").status == 200


def test_a_channel_that_may_only_read_has_a_workspace_that_the_kernel_does_not_let_be_written(
    daemon: Daemon, workspace: Path
) -> None:
    (workspace / "there").write_text("x")
    run = daemon.run(workspace, script="cat there; echo y > new; echo z >> there", labels={"channel": "discord-7"})
    assert run["decision"]["readonly"] is True
    assert run["stdout"] == "x"
    assert run["exit_code"] != 0
    assert "Read-only" in run["stderr"] or "denied" in run["stderr"]
    assert [p.name for p in workspace.iterdir()] == ["there"]
    assert (workspace / "there").read_text() == "x"


def test_a_session_that_can_write_takes_no_run_of_a_channel_that_may_not(daemon: Daemon, workspace: Path) -> None:
    opened = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)}).json
    try:
        body = {"argv": ["true"], "labels": {"channel": "discord"}}
        reply = daemon.request("POST", f"/v1/sessions/{opened['id']}/shell", body)
        assert (reply.status, reply.json["field"]) == (403, "session")
    finally:
        daemon.request("DELETE", f"/v1/sessions/{opened['id']}")


def test_a_label_cannot_be_changed_inside_a_session(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "labels": {"channel": "discord"}}
    opened = daemon.request("POST", "/v1/sessions", body).json
    try:
        path = f"/v1/sessions/{opened['id']}/shell"
        reply = daemon.request("POST", path, {"argv": ["true"], "labels": {"channel": "ops"}})
        assert (reply.status, reply.json["field"]) == (422, "labels.channel")
        run = daemon.request("POST", path, {"script": "touch x"}).json
        assert run["exit_code"] != 0
        assert run["labels"] == {"channel": "discord"}
    finally:
        daemon.request("DELETE", f"/v1/sessions/{opened['id']}")


def test_a_tool_that_is_not_served_is_refused_and_recorded(daemon: Daemon, workspace: Path) -> None:
    for tool, rule in (("browser", "tools.browser_enabled"), ("file", "tools")):
        reply = post_run(daemon, workspace, "true", tool=tool)
        assert (reply.status, reply.json["rule"]) == (403, rule)
    tools = {t["tool"]: t for t in daemon.request("GET", "/v1/tools").json["tools"]}
    assert tools["shell"]["allowed"] is True
    assert tools["browser"]["allowed"] is False
    assert daemon.request("GET", "/v1/tools/browser").json["rule"] == "tools.browser_enabled"


# --- asked ----------------------------------------------------------------------------------------------------


def test_what_is_asked_about_does_not_run_until_somebody_else_says_yes_and_then_once(
    daemon: Daemon, workspace: Path
) -> None:
    ident = asked(post_run(daemon, workspace, "touch", "asked"))
    assert not (workspace / "asked").exists()
    assert asked(post_run(daemon, workspace, "touch", "asked")) == ident, "the same question is asked once"
    shown = daemon.request("GET", f"/v1/approvals/{ident}").json
    assert shown["what"]["argv"] == ["touch", "asked"]
    assert shown["what"]["cwd"] == str(workspace)
    assert shown["reasons"][0]["rule"] == "autonomy.approval_patterns[0]"
    assert shown["state"] == "pending"
    own = daemon.request("POST", f"/v1/approvals/{ident}/approve", {})
    assert own.status == 403, "nobody answers their own request"
    assert answer(daemon, ident).json["state"] == "approved"
    ran = post_run(daemon, workspace, "touch", "asked")
    assert ran.status == 200
    assert ran.json["decision"]["approval"] == ident
    assert ran.json["decision"]["verdict"] == "allow"
    assert (workspace / "asked").exists()
    assert asked(post_run(daemon, workspace, "touch", "asked")) != ident, "it was for once"
    allowed = audit_of(daemon, "decision", run=ran.json["id"])[0]
    assert allowed["result"]["approval"] == ident


@pytest.mark.parametrize(
    "changed",
    [
        {"argv": ["touch", "asked", "more"]},
        {"cwd": "/tmp"},
        {"env": {"X": "1"}},
        {"stdin": "x"},
        {"labels": {"channel": "discord"}},
    ],
)
def test_a_yes_is_for_exactly_what_was_asked(daemon: Daemon, workspace: Path, changed: dict[str, Any]) -> None:
    answer(daemon, asked(post_run(daemon, workspace, "touch", "asked")))
    body = {"argv": ["touch", "asked"], **changed}
    reply = post_run(daemon, workspace, **body)
    assert reply.status == 202, reply.body
    assert not (workspace / "asked").exists()


def test_a_variable_that_a_shell_obeys_is_asked_about_and_shown(daemon: Daemon, workspace: Path) -> None:
    (workspace / "first").write_text("touch ran")
    said = {"argv": ["bash", "-c", "true"], "env": {"BASH_ENV": "./first", "TOKEN": "secret"}}
    ident = asked(post_run(daemon, workspace, **said))
    shown = daemon.request("GET", f"/v1/approvals/{ident}").json["what"]
    assert (shown["env"], shown["env_names"]) == (["BASH_ENV=./first"], ["BASH_ENV", "TOKEN"])
    assert not (workspace / "ran").exists()
    answer(daemon, ident)
    assert post_run(daemon, workspace, **said).status == 200
    assert (workspace / "ran").exists()


def test_what_a_shell_reads_from_its_input_is_shown_whole(daemon: Daemon, workspace: Path) -> None:
    fed = "echo first\ntouch asked fed\n"
    ident = asked(post_run(daemon, workspace, "sh", stdin=fed))
    shown = daemon.request("GET", f"/v1/approvals/{ident}").json["what"]
    assert (shown["argv"], shown["input"]) == (["sh"], fed)
    assert shown["stdin"] == hashlib.sha256(fed.encode()).hexdigest()
    answer(daemon, ident)
    assert post_run(daemon, workspace, "sh", stdin=fed + "touch more\n").status == 202, (
        "another input is another target"
    )
    assert post_run(daemon, workspace, "sh", stdin=fed).status == 200
    assert (workspace / "fed").exists()
    assert not (workspace / "more").exists()


def test_no_variable_that_is_obeyed_is_cut_without_a_word(daemon: Daemon, workspace: Path) -> None:
    long = {"GIT_SSH_COMMAND": "ssh " + "-v " * 200 + "-oPort=1"}
    ident = asked(post_run(daemon, workspace, "touch", "asked", env=long))
    assert daemon.request("GET", f"/v1/approvals/{ident}").json["what"]["env"] == [
        f"GIT_SSH_COMMAND={long['GIT_SSH_COMMAND']}"
    ]
    longer = {"GIT_SSH_COMMAND": "ssh " + "-v " * 8000}
    ident = asked(post_run(daemon, workspace, "touch", "asked", env=longer))
    env = daemon.request("GET", f"/v1/approvals/{ident}").json["what"]["env"]
    assert (env["truncated"], env["head"][0][:20]) == (True, "GIT_SSH_COMMAND=ssh ")


def test_a_function_in_the_place_of_a_program_is_asked_about_and_shown(daemon: Daemon, workspace: Path) -> None:
    said = {"argv": ["bash", "-c", "git status"], "env": {"BASH_FUNC_git%%": "() { touch ran; }"}}
    ident = asked(post_run(daemon, workspace, **said))
    found = daemon.request("GET", f"/v1/approvals/{ident}").json
    assert found["what"]["env"] == ["BASH_FUNC_git%%=() { touch ran; }"]
    assert "in the place of git" in found["reasons"][0]["detail"]
    answer(daemon, ident)
    assert post_run(daemon, workspace, **said).status == 200
    assert (workspace / "ran").exists(), "so it is what bash makes of it"


def test_a_blocked_command_in_a_variable_is_denied(daemon: Daemon, workspace: Path) -> None:
    reply = post_run(daemon, workspace, "git", "fetch", env={"GIT_SSH_COMMAND": "sh -c 'rm -rf /; true'"})
    assert (reply.status, reply.json["code"]) == (403, "denied")
    assert reply.json["rule"].startswith("autonomy.blocked_commands[")
    assert post_run(daemon, workspace, "git", "--version", env={"GIT_SSH_COMMAND": "ssh -v"}).status == 200


def test_a_yes_for_several_times_is_used_up(daemon: Daemon, workspace: Path) -> None:
    answer(daemon, asked(post_run(daemon, workspace, "touch", "asked")), scope="times", times=2)
    statuses = [post_run(daemon, workspace, "touch", "asked").status for _ in range(3)]
    assert statuses == [200, 200, 202]


def test_a_yes_can_be_taken_back(daemon: Daemon, workspace: Path) -> None:
    ident = asked(post_run(daemon, workspace, "touch", "asked"))
    answer(daemon, ident, scope="until", duration="1h")
    assert post_run(daemon, workspace, "touch", "asked").status == 200
    grant = next(g for g in daemon.request("GET", "/v1/grants").json["grants"] if g["question"] == ident)
    assert daemon.request("DELETE", f"/v1/grants/{grant['id']}", root=True).status == 200
    assert post_run(daemon, workspace, "touch", "asked").status == 202


def test_a_yes_for_a_session_covers_the_same_reason_in_that_session_alone(daemon: Daemon, workspace: Path) -> None:
    opened = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)}).json
    path = f"/v1/sessions/{opened['id']}/shell"
    try:
        ident = asked(daemon.request("POST", path, {"argv": ["touch", "asked"]}))
        assert answer(daemon, ident, scope="session").status == 200
        assert daemon.request("POST", path, {"argv": ["touch", "asked", "b"]}).status == 200
        assert post_run(daemon, workspace, "touch", "asked").status == 202
    finally:
        daemon.request("DELETE", f"/v1/sessions/{opened['id']}")


def test_a_no_is_another_outcome_than_policys_and_is_not_asked_again(daemon: Daemon, workspace: Path) -> None:
    ident = asked(post_run(daemon, workspace, "touch", "asked", "no"))
    answer(daemon, ident, "deny", note="not today")
    reply = post_run(daemon, workspace, "touch", "asked", "no")
    assert (reply.status, reply.json["code"]) == (403, "approval_denied")
    assert "not today" in reply.json["detail"]


def test_a_client_that_waits_goes_on_when_it_is_approved(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "argv": ["touch", "asked", "waited"], "wait_approval": "30s"}
    waiting = Later(daemon, "/v1/runs", body)
    ident = wait_for_question(daemon, "waited")
    answer(daemon, ident)
    reply = waiting.result()
    assert reply.status == 200
    assert (workspace / "waited").exists()


def test_a_stream_tells_the_question_first(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "argv": ["touch", "asked", "streamed"], "wait_approval": "30s"}
    waiting = Later(daemon, "/v1/runs", body, Accept="application/x-ndjson")
    ident = wait_for_question(daemon, "streamed")
    answer(daemon, ident)
    seen = frames(waiting.result())
    assert [f["type"] for f in seen][:2] == ["approval", "started"]
    assert seen[0]["approval"]["id"] == ident
    assert seen[-1]["type"] == "finished"


def wait_for_question(daemon: Daemon, word: str) -> str:
    """Until a question about a command with this word is pending. The event stream would tell; a poll is simpler."""
    for _ in range(2000):
        pending = daemon.request("GET", "/v1/approvals?state=pending&limit=1000").json["approvals"]
        for question in pending:
            if word in str(question["what"]):
                return str(question["id"])
    raise AssertionError("no such question")


def test_a_rule_that_asks_is_asked_about(daemon: Daemon, workspace: Path) -> None:
    ident = asked(post_run(daemon, workspace, "true", labels={"agent": "asks"}))
    assert daemon.request("GET", f"/v1/approvals/{ident}").json["reasons"][0]["rule"] == "rules.ask-me"


def test_a_dynamic_command_in_front_of_danger_is_asked_about_and_not_for_a_session(
    daemon: Daemon, workspace: Path
) -> None:
    opened = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)}).json
    try:
        reply = daemon.request("POST", f"/v1/sessions/{opened['id']}/shell", {"script": "$(echo rm) -rf /"})
        ident = asked(reply)
        refusal = answer(daemon, ident, scope="session")
        assert refusal.status in (403, 422), refusal.body
    finally:
        daemon.request("DELETE", f"/v1/sessions/{opened['id']}")


def test_root_asks_and_nobody_else_can_answer_so_it_is_denied(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "argv": ["touch", "asked"]}
    reply = daemon.request("POST", "/v1/runs", body, root=True)
    assert reply.status == 403
    assert "nobody else" in reply.json["detail"]


# --- what is approved is what runs ------------------------------------------------------------------------------


def script(workspace: Path, agent: Agent, text: str) -> Path:
    path = workspace / "approved.sh"
    path.write_text(text)
    os.chown(path, agent.uid, agent.gid)
    return path


def test_a_script_file_is_shown_and_executed_as_it_was_approved(daemon: Daemon, workspace: Path, agent: Agent) -> None:
    path = script(workspace, agent, "echo approved\n")
    ident = asked(post_run(daemon, workspace, "sh", "approved.sh"))
    files = daemon.request("GET", f"/v1/approvals/{ident}").json["what"]["files"]
    assert [(f["path"], f["head"]) for f in files] == [("approved.sh", "echo approved\n")]
    answer(daemon, ident)
    reply = post_run(daemon, workspace, "sh", "approved.sh")
    assert (reply.status, reply.json["stdout"]) == (200, "approved\n")
    assert path.read_text() == "echo approved\n"


def test_a_script_that_was_changed_after_the_yes_does_not_run(daemon: Daemon, workspace: Path, agent: Agent) -> None:
    script(workspace, agent, "echo first\n")
    answer(daemon, asked(post_run(daemon, workspace, "sh", "approved.sh")))
    script(workspace, agent, "echo other; touch ran\n")
    reply = post_run(daemon, workspace, "sh", "approved.sh")
    assert reply.status == 202, "another content is another question"
    assert not (workspace / "ran").exists()


def test_a_script_that_was_changed_while_somebody_thought_does_not_run(
    daemon: Daemon, workspace: Path, agent: Agent
) -> None:
    script(workspace, agent, "echo shown\n")
    body = {"workspace": str(workspace), "argv": ["sh", "approved.sh", "thought"], "wait_approval": "30s"}
    waiting = Later(daemon, "/v1/runs", body)
    ident = wait_for_question(daemon, "thought")
    script(workspace, agent, "echo other; touch ran\n")
    answer(daemon, ident)
    reply = waiting.result()
    assert (reply.status, reply.json["code"], reply.json["field"]) == (403, "denied", "files"), reply.body
    assert "approved.sh" in reply.json["detail"]
    assert not (workspace / "ran").exists()
    assert audit_of(daemon, "outcome", run=reply.json["run"])[0]["outcome"] == "denied"


def test_a_script_in_the_sessions_own_tmp_cannot_be_approved(daemon: Daemon, workspace: Path) -> None:
    reply = post_run(daemon, workspace, "sh", "approved.sh", cwd="/tmp")
    assert (reply.status, reply.json["rule"]) == (403, "approvals")


# --- why ------------------------------------------------------------------------------------------------------


def test_explain_tells_every_rule_and_the_least_change(daemon: Daemon, workspace: Path) -> None:
    body = {"workspace": str(workspace), "script": "cd x && nmap 10.0.0.1", "labels": {"channel": "discord"}}
    said = daemon.request("POST", "/v1/policy/explain", body).json
    assert said["verdict"] == "deny"
    rules = [step["rule"] for step in said["steps"]]
    assert "contexts[0]" in rules
    assert any(rule.startswith("autonomy.blocked_commands[") for rule in rules)
    assert all(step["source"] for step in said["steps"])
    assert "blocked_commands = " in said["change"]
    assert '"nmap"' not in said["change"]
    assert ["nmap", "10.0.0.1"] in [c["words"] for c in said["commands"]]
    assert not audit_of(daemon, "decision", outcome="allow", resource=str(workspace))


def test_a_dry_run_says_what_would_be_asked_and_asks_nothing(daemon: Daemon, workspace: Path) -> None:
    before = len(daemon.request("GET", "/v1/approvals?state=pending&limit=1000").json["approvals"])
    reply = post_run(daemon, workspace, "touch", "asked", "dry", dry_run=True)
    assert reply.status == 200
    assert reply.json["decision"]["verdict"] == "ask"
    after = len(daemon.request("GET", "/v1/approvals?state=pending&limit=1000").json["approvals"])
    assert after == before


def test_the_agent_reads_its_own_limits_from_inside_and_from_outside(daemon: Daemon, workspace: Path) -> None:
    view = daemon.request("GET", "/v1/self").json
    inside = json.loads(daemon.run(workspace, "cat", "/etc/stockade-limits.json")["stdout"])
    shown = view["profiles"][0]
    assert inside == {"profile": shown["name"], **{key: shown[key] for key in inside if key != "profile"}}
    assert inside["limits"]["memory"] == 1 << 30
    only = json.loads(
        daemon.run(workspace, "cat", "/etc/stockade-limits.json", labels={"channel": "discord"})["stdout"]
    )
    assert "$WORKSPACE" in only["read"]
    assert "$WORKSPACE" not in only["write"]
    assert view["role"] == "operator"
    assert view["autonomy"] == "supervised"
