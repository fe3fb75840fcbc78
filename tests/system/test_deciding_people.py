"""People: who may order what with which second factor, roles for a time, and what outlives kill -9."""

from __future__ import annotations

import grp
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pyotp
import pytest

from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import answer, asked, audit_of, decisions, post_run
from tests.system.faults import kill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent, Reply

pytestmark = pytest.mark.root

ROLES = """
[roles.keeper]
permissions = ["agent:*", "config:*", "service:stop", "approvals:*", "access:request"]
mfa_required = true
requires_approval = true

[roles.careful]
permissions = ["agent:*", "access:request"]
second_person = true
"""


def with_callers(uids: tuple[int, int], agent: Agent, stranger: Agent) -> str:
    """The agent may become a keeper; the stranger is an administrator beside root."""
    mine = 'may_request = ["keeper"]\n'
    text = decisions(uids, ROLES).replace('group = "stockade-clients"\n', f'group = "stockade-clients"\n{mine}')
    other = f"""
[[callers]]
uid = {stranger.uid}
role = "administrator"
"""
    return text.replace("[[tests]]", f"{other}\n[[tests]]", 1)


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent, stranger: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, with_callers(uid_range(), agent, stranger)) as running:
        yield running


def order(daemon: Daemon, path: str, code: str | None = None) -> Reply:
    return daemon.request("POST", path, {}, headers={"X-Stockade-Code": code} if code else {})


def test_a_role_for_a_time_is_asked_for_given_used_with_a_second_factor_and_taken_back(daemon: Daemon) -> None:
    refused = order(daemon, "/v1/policy/reload")
    assert refused.status == 403
    assert "stockade access request --role keeper" in refused.json["hint"]
    body = {"role": "keeper", "duration": "1h", "reason": "a new rule"}
    wrong = daemon.request("POST", "/v1/access", {**body, "role": "administrator"})
    assert (wrong.status, wrong.json["rule"]) == (403, "callers.may_request")
    ident = daemon.request("POST", "/v1/access", body).json["id"]
    assert answer(daemon, ident).json["state"] == "approved"
    assert "config:write" in daemon.request("GET", "/v1/self").json["permissions"]

    waiting = order(daemon, "/v1/policy/reload")
    question = asked(waiting)
    assert answer(daemon, question).status == 200
    without = order(daemon, "/v1/policy/reload")
    assert (without.status, without.json["code"]) == (403, "step_up_required")
    key = daemon.request("POST", "/v1/mfa", {}).json["secret"]
    code = pyotp.TOTP(key).now()
    assert order(daemon, "/v1/policy/reload", code).status == 200
    again = order(daemon, "/v1/stop", code)
    assert (again.status, again.json["code"]) == (403, "step_up_required"), "a code is good once"

    grant = next(g for g in daemon.request("GET", "/v1/grants").json["grants"] if g["role"] == "keeper")
    assert daemon.request("DELETE", f"/v1/grants/{grant['id']}", root=True).status == 200
    assert "config:write" not in daemon.request("GET", "/v1/self").json["permissions"]
    assert audit_of(daemon, "approval", action="granted")
    assert audit_of(daemon, "policy", action="reload", outcome="asked")


def test_a_lost_key_is_forgotten_by_somebody_else(daemon: Daemon, agent: Agent) -> None:
    assert daemon.request("POST", "/v1/mfa/forget", {"uid": agent.uid}).status == 403
    assert daemon.request("POST", "/v1/mfa/forget", {"uid": agent.uid}, root=True).status in (200, 409)
    assert daemon.request("POST", "/v1/mfa", {}).status == 201
    assert daemon.request("POST", "/v1/mfa/forget", {"uid": agent.uid}, root=True).status == 200


def test_what_two_people_have_to_allow_is_not_allowed_by_one(daemon: Daemon, workspace: Path, stranger: Agent) -> None:
    text = (daemon.root / "etc" / "policy.toml").read_text()
    daemon.write_policy(text.replace('role = "operator"', 'role = "careful"', 1))
    assert daemon.request("POST", "/v1/policy/reload", root=True).status == 200
    try:
        ident = asked(post_run(daemon, workspace, "touch", "asked", "two"))
        assert answer(daemon, ident).json["state"] == "pending"
        assert post_run(daemon, workspace, "touch", "asked", "two").status == 202
        twice = answer(daemon, ident)
        assert twice.status == 409, "the same person twice is one person"
        clients = grp.getgrnam("stockade-clients").gr_gid
        second = replace(stranger, groups=(*stranger.groups, clients))
        reply = daemon.request("POST", f"/v1/approvals/{ident}/approve", {}, agent=second)
        assert (reply.status, reply.json["state"]) == (200, "approved")
        assert post_run(daemon, workspace, "touch", "asked", "two").status == 200
    finally:
        daemon.write_policy(text)
        assert daemon.request("POST", "/v1/policy/reload", root=True).status == 200


def test_questions_and_grants_outlive_kill_9(daemon: Daemon, workspace: Path) -> None:
    pending = asked(post_run(daemon, workspace, "touch", "asked", "pending"))
    approved = asked(post_run(daemon, workspace, "touch", "asked", "approved"))
    answer(daemon, approved, scope="times", times=2)
    assert post_run(daemon, workspace, "touch", "asked", "approved").status == 200
    for victim in ("main", "parser"):
        kill(daemon, victim)
        daemon.start()
        assert daemon.request("GET", f"/v1/approvals/{pending}").json["state"] == "pending"
    assert asked(post_run(daemon, workspace, "touch", "asked", "pending")) == pending
    assert post_run(daemon, workspace, "touch", "asked", "approved").status == 200
    assert post_run(daemon, workspace, "touch", "asked", "approved").status == 202, "no use is given twice"
    assert answer(daemon, pending).json["state"] == "approved"
    assert post_run(daemon, workspace, "touch", "asked", "pending").status == 200


def test_a_reload_takes_back_what_was_granted_under_the_old_policy(daemon: Daemon, workspace: Path) -> None:
    ident = asked(post_run(daemon, workspace, "touch", "asked", "stale"))
    answer(daemon, ident)
    text = (daemon.root / "etc" / "policy.toml").read_text()
    daemon.write_policy(text + "\n# another digest\n")
    assert daemon.request("POST", "/v1/policy/reload", root=True).status == 200
    assert asked(post_run(daemon, workspace, "touch", "asked", "stale")) != ident


def test_a_policy_whose_tests_do_not_hold_does_not_serve(daemon: Daemon, workspace: Path) -> None:
    text = (daemon.root / "etc" / "policy.toml").read_text()
    daemon.write_policy(text + '\n[[tests]]\ncommand = "ls"\nexpect = "deny"\n')
    reply = daemon.request("POST", "/v1/policy/reload", root=True)
    assert (reply.status, reply.json["code"]) == (422, "policy_invalid")
    finding = reply.json["findings"][0]
    assert (finding["key"], finding["expected"]) == ("tests", "deny")
    assert "'ls'" in finding["message"]
    assert post_run(daemon, workspace, "true").status == 200, "the last good policy serves"
    daemon.write_policy(text)
    assert daemon.request("POST", "/v1/policy/reload", root=True).status == 200


def test_a_rule_that_nobody_needed_is_found(daemon: Daemon, workspace: Path) -> None:
    post_run(daemon, workspace, "nmap", "x")
    rows = daemon.request("GET", "/v1/policy/unused?days=1", root=True).json["rules"]
    assert rows == [], "what was seen first today is not called unused for a day"
