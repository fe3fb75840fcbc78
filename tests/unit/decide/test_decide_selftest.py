"""Tests that a policy carries: which caller they are about, and what comes out of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.decide import selftest
from supervisor.decide.callers import find_caller
from supervisor.parser.shfmt import Shfmt
from supervisor.policy import snapshot as s
from supervisor.policy.match import path_matches
from tests.unit.decide.samples import caller, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNIT = caller(unit="gateway.service", uid=None, workspaces=("/srv/gateway/*",))
USER = caller(uid=1001, name="agent", workspaces=("/srv/user/**/x?",))
GROUP = caller(uid=None, gid=990, name="clients", autonomy="readonly")
ROOT = caller(uid=0, role="administrator", profiles=(), workspaces=())


@pytest.fixture(scope="module")
def parse() -> Iterator[Callable[[str], dict[str, Any]]]:
    with Shfmt() as shfmt:
        yield shfmt.parse


def case(**changes) -> s.Test:
    whole = s.Test("shell", "ls", None, None, None, None, (), "allow", "/etc/stockade/policy.toml:90")
    return replace(whole, **changes)


def policy(*tests: s.Test, callers=(ROOT, UNIT, USER, GROUP), **autonomy) -> s.Snapshot:
    found = snapshot(*callers)
    own = replace(s.Autonomy(source="/etc/stockade/policy.toml:40"), **autonomy)
    return replace(found, tests=tests, autonomy=own)


@pytest.mark.parametrize(
    ("command", "verdict", "detail"),
    [
        ("ls", "allow", "role operator, profile shell granted"),
        ("cd x && nmap y", "deny", "autonomy.blocked_commands[0]"),
        ("git push -f", "ask", "autonomy.approval_patterns[0]"),
        ("git push; nmap x", "deny", "autonomy.blocked_commands[0]"),
    ],
)
def test_a_script_is_parsed_and_decided(parse, command: str, verdict: str, detail: str) -> None:
    found = policy(
        case(command=command, expect=verdict),
        case(command=command, expect="allow" if verdict != "allow" else "deny"),
        blocked_commands=("nmap",), approval_patterns=("git push",),
    )  # fmt: skip
    held, broken = selftest.run(found, parse)
    assert (held["ok"], held["verdict"], held["expected"]) == (True, verdict, verdict)
    assert detail in held["detail"]
    assert (broken["ok"], broken["verdict"]) == (False, verdict)
    assert broken["source"] == "/etc/stockade/policy.toml:90"
    assert broken["command"] == command


def test_a_command_of_words_is_decided_and_shown(parse) -> None:
    found = policy(case(command=None, argv=("bash", "-c", "nmap x"), expect="deny"), blocked_commands=("nmap",))
    assert [(r["ok"], r["command"]) for r in selftest.run(found, parse)] == [(True, "bash -c nmap x")]


def test_there_is_a_row_for_each_in_the_order_of_policy(parse) -> None:
    tests = [case(command=f"echo {n}") for n in range(4)]
    assert [r["command"] for r in selftest.run(policy(*tests), parse)] == [t.command for t in tests]
    assert selftest.run(policy(), parse) == []


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("gateway.service", UNIT),
        ("agent", USER),
        ("uid:1001", USER),
        ("clients", GROUP),
        ("gid:990", GROUP),
        (None, UNIT),
    ],
)
def test_a_caller_is_named_by_unit_user_or_group_and_without_a_name_the_first_that_may_run(name, entry) -> None:
    found = policy()
    assert selftest.named(found, name) is entry
    assert find_caller(found, selftest.peer_of(entry))[1] is entry, "the process of a test is that caller to policy"


@pytest.mark.parametrize(
    ("name", "verdict"), [("gateway.service", "ask"), ("agent", "ask"), ("clients", "ask"), ("uid:0", "deny")]
)
def test_each_kind_of_caller_is_decided_about_as_itself(parse, name: str, verdict: str) -> None:
    found = policy(case(command="git push", caller=name, expect=verdict), approval_patterns=("git push",))
    assert [r["verdict"] for r in selftest.run(found, parse)] == [verdict]


def test_a_caller_that_no_entry_is_may_do_nothing(parse) -> None:
    rows = selftest.run(policy(case(caller="nobody.service")), parse)
    assert [(r["verdict"], r["ok"]) for r in rows] == [("deny", False)]
    assert "nobody.service" in rows[0]["detail"]
    alone = policy(case(expect="deny"), callers=(ROOT, caller(role="viewer")))
    rows = selftest.run(alone, parse)
    assert rows[0]["ok"]
    assert "one that may run anything" in rows[0]["detail"]


def test_who_may_ask_for_a_role_that_runs_counts_as_one_who_may_run() -> None:
    asks = caller(role="viewer", may_request=("operator",))
    assert selftest.named(policy(callers=(ROOT, asks)), None) is asks


def test_labels_profile_and_workspace_of_a_test_are_those_of_its_request(parse) -> None:
    context = s.Context((("channel", ("irc",)),), "p:1", blocked_commands=("curl",))
    found = replace(
        policy(
            case(command="curl x", labels=(("channel", "irc"),), expect="deny"),
            case(command="curl x", expect="allow"),
            case(profile="other", expect="deny"),
            case(workspace="/srv/gateway/a", expect="allow"),
            case(workspace="/srv/elsewhere", expect="deny"),
            case(tool="browser", expect="deny"),
        ),
        contexts=(context,),
    )
    assert [r["ok"] for r in selftest.run(found, parse)] == [True] * 6


@pytest.mark.parametrize("patterns", [("/srv/agents/*",), ("/srv/**/x?",), ("/srv/a",), ("/**",)])
def test_without_a_workspace_one_is_taken_that_the_caller_may_use(patterns: tuple[str, ...]) -> None:
    assert path_matches(selftest.example(caller(workspaces=patterns)), patterns) is not None
    assert selftest.example(caller(workspaces=())) == "/nowhere"


def test_a_script_that_cannot_be_parsed_is_decided_like_any_other(parse) -> None:
    rows = selftest.run(policy(case(command="if then", expect="ask")), parse)
    assert rows[0]["ok"]
    assert "autonomy.unparsed" in rows[0]["detail"]


def test_tests_do_not_depend_on_when_they_are_made(parse) -> None:
    """They are made on a Monday at noon in UTC."""
    rule = s.Rule("hours", ("agent:execute",), (), "deny", "p:9", time=((480, 1080),), days=(0,))
    found = replace(policy(case()), rules=(rule,))
    assert selftest.run(found, parse)[0]["ok"]
    night = replace(found, rules=(replace(rule, days=(5,)),))
    assert "rules.hours" in selftest.run(night, parse)[0]["detail"]
