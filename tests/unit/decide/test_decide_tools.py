"""Which tools there are: switches, lists and contexts, each with the key that says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor import errors
from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.context import context
from supervisor.decide.shell.model import Analysis
from supervisor.decide.tools import SERVED, check, require
from supervisor.policy import snapshot as s
from supervisor.policy.words import TOOLS
from tests.unit.decide.samples import peer, request, session, snapshot

SOURCE = "/etc/stockade/policy.toml:30"


def policy(*contexts: s.Context, **tools) -> s.Snapshot:
    return replace(snapshot(), tools=replace(s.Tools(source=SOURCE), **tools), contexts=contexts)


def seen(found: s.Snapshot, tool: str = "shell", **labels: str):
    return context(found, (0, found.callers[0]), peer(), labels, tool)


ONLY_FILES = s.Context((("channel", ("irc",)),), "/etc/stockade/policy.toml:50", tools=("file",))


@pytest.mark.parametrize(
    ("tools", "tool", "allowed", "rule"),
    [
        ({}, "shell", True, "tools.shell_enabled"),
        ({"shell_enabled": False}, "shell", False, "tools.shell_enabled"),
        ({}, "browser", False, "tools.browser_enabled"),
        ({"browser_enabled": True}, "browser", False, "tools"),
        ({}, "file", False, "tools"),
        ({"policy": "whitelist", "allow_list": ("shell",)}, "shell", True, "tools.shell_enabled"),
        ({"policy": "whitelist", "allow_list": ("file",)}, "shell", False, "tools.allow_list"),
        ({"policy": "restrictive"}, "shell", False, "tools.allow_list"),
        ({"policy": "restrictive", "allow_list": ("shell",)}, "shell", True, "tools.shell_enabled"),
        ({"policy": "restrictive", "shell_enabled": False}, "shell", False, "tools.shell_enabled"),
        ({"allow_list": ("file",)}, "shell", True, "tools.shell_enabled"),
        ({"policy": "whitelist", "allow_list": ("shell",)}, "file", False, "tools.allow_list"),
    ],
)  # fmt: skip
def test_the_effective_answer_names_the_key_behind_it(tools, tool: str, allowed: bool, rule: str) -> None:
    found = check(policy(**tools), tool)
    assert (found.tool, found.allowed, found.rule, found.source) == (tool, allowed, rule, SOURCE)
    assert found.reason
    assert bool(found.allowed_instead) is not allowed


def test_a_switched_off_tool_names_those_that_are_on() -> None:
    assert check(policy(), "browser").allowed_instead == "shell"
    assert check(policy(shell_enabled=False), "shell").allowed_instead == "no tool"
    assert check(policy(policy="restrictive"), "shell").allowed_instead == "no tool"


def test_every_tool_has_an_answer_and_no_answer_is_yes_to_what_is_not_served() -> None:
    everything = policy(browser_enabled=True)
    assert [t for t in TOOLS if check(everything, t).allowed] == list(SERVED)


def test_a_context_takes_tools_from_its_labels_alone() -> None:
    found = policy(ONLY_FILES)
    assert check(found, "shell", seen(found)).allowed
    answer = check(found, "shell", seen(found, channel="irc"))
    assert (answer.allowed, answer.rule, answer.source) == (False, "contexts[0].tools", ONLY_FILES.source)
    assert answer.allowed_instead == "file"


def test_a_context_without_tools_has_none() -> None:
    found = policy(replace(ONLY_FILES, tools=()))
    assert check(found, "shell", seen(found, channel="irc")).allowed_instead == "no tool"


def test_a_context_does_not_give_what_is_switched_off() -> None:
    found = policy(replace(ONLY_FILES, tools=TOOLS), shell_enabled=False)
    assert check(found, "shell", seen(found, channel="irc")).rule == "tools.shell_enabled"


@pytest.mark.parametrize("tool", ["telnet", "", "Shell", "shell " * 100])
def test_a_tool_that_there_is_not_is_an_invalid_request(tool: str) -> None:
    found = policy()
    with pytest.raises(errors.InvalidRequest) as refusal:
        require(found, tool, seen(found))
    assert (refusal.value.field, refusal.value.allowed) == ("tool", ", ".join(TOOLS))
    assert len(refusal.value.detail) < 120


def test_a_tool_that_is_not_allowed_is_denied_with_its_rule() -> None:
    found = policy(ONLY_FILES)
    with pytest.raises(errors.Denied) as refusal:
        require(found, "shell", seen(found, channel="irc"))
    assert (refusal.value.field, refusal.value.rule) == ("tool", "contexts[0].tools")
    assert refusal.value.allowed == "file"
    assert require(found, "shell", seen(found)).allowed


def test_nobody_is_sent_to_the_operator_for_a_tool_that_is_not_there_yet() -> None:
    hints = {}
    for tool in ("shell", "file"):
        with pytest.raises(errors.Denied) as refusal:
            require(policy(shell_enabled=False), tool, seen(policy()))
        hints[tool] = refusal.value.hint
    assert hints == {"shell": "use another tool, or have the operator allow this one", "file": "use another tool"}


@pytest.mark.parametrize("where", ["new", "session"])
def test_no_run_gets_by_the_switch(where: str) -> None:
    live = session() if where == "session" else None
    asked = request() if live is None else request(workspace=None, session=live.id)
    with pytest.raises(errors.Denied) as refusal:
        admit_run(policy(shell_enabled=False), {}, peer(), live, asked, Counters(), Analysis())
    assert refusal.value.rule == "tools.shell_enabled"


def test_without_file_writing_every_workspace_is_read_only() -> None:
    found = admit_run(policy(file_write_enabled=False), {}, peer(), None, request(), Counters(), Analysis())
    assert (found.readonly, found.verdict) == (True, "allow")
    assert not admit_run(policy(), {}, peer(), None, request(), Counters(), Analysis()).readonly
