"""Why a request is decided so: every rule that took part, and the least change of policy that would allow just this."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from typing import Any

import pytest

from supervisor import errors
from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.change import toml
from supervisor.decide.explain import explain
from supervisor.decide.meters import Book, Who
from supervisor.decide.request import Peer, RunRequest
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.decide.shell.model import Analysis, Command, Named, Risk
from supervisor.policy import snapshot as s
from supervisor.policy import units
from tests.unit.decide.samples import LIMITS, caller, peer, profile, request, session, snapshot

SOURCE = "/etc/stockade/policy.toml:40"
SOMEBODY = caller(uid=0, role="administrator")
IRC = s.Context((("channel", ("irc",)),), "/etc/stockade/policy.d/10.toml:5")
DENIES = s.Rule("night", ("agent:execute",), (), "deny", "/etc/stockade/policy.toml:70", time=((480, 1080),))
NOON = 1_767_614_400.0
MIDNIGHT = NOON + 12 * 3600


def policy(*contexts: s.Context, rules: tuple[s.Rule, ...] = (), who: s.Caller | None = None, **autonomy) -> s.Snapshot:
    found = snapshot(who or caller(), SOMEBODY)
    own = replace(s.Autonomy(source=SOURCE), **autonomy)
    return replace(
        found, autonomy=own, contexts=contexts, rules=rules, tools=s.Tools(source="/etc/stockade/policy.toml:30")
    )


def why(
    found: s.Snapshot,
    *words: str,
    analysis: Analysis | None = None,
    state: Counters | None = None,
    who: Peer | None = None,
    **changes: Any,
) -> dict[str, Any]:
    asked = request(argv=words or ("true",), **changes)
    seen = analysis or analyse_argv(asked.argv or ())
    return explain(found, {}, who or peer(), None, asked, state or Counters(now=NOON), seen)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_what_is_allowed_says_by_which_entry_and_what_it_would_have() -> None:
    said = why(policy(), "ls")
    assert (said["verdict"], said["change"]) == ("allow", None)
    assert (said["profile"], said["autonomy"], said["zone"]) == ("shell", "supervised", 3)
    assert (said["readonly"], said["network"], said["waits"]) == (False, "none", False)
    assert said["parsed"]
    assert "error" not in said
    assert "problem" not in said
    assert said["commands"] == [{"words": ["ls"], "via": "", "start": 0, "end": 2}]


def test_steps_name_every_rule_that_took_part_with_its_line() -> None:
    holds = replace(DENIES, name="day")
    asks = replace(DENIES, name="mind", effect="ask", time=())
    elsewhere = replace(DENIES, name="elsewhere", match=(("channel", ("slack",)),))
    found = policy(
        replace(IRC, network="none", autonomy="readonly", blocked_commands=("nmap",)),
        replace(IRC, match=(("channel", ("slack",)),)),
        rules=(holds, asks, elsewhere),
        approval_patterns=("ls",),
    )
    found = replace(found, profiles=(profile(network="loopback"),))
    said = why(found, "ls", labels={"channel": "irc"})
    steps = {step["rule"]: step["effect"] for step in said["steps"]}
    assert steps == {
        "callers[0]": "note",
        "contexts[0]": "narrow",
        "contexts[0].autonomy": "narrow",
        "contexts[0].network": "narrow",
        "rules[0] day": "note",
        "rules[1] mind": "ask",
        "callers[0].profiles": "allow",
        "autonomy.approval_patterns[0]": "ask",
    }
    assert all(re.fullmatch(r"/\S+:\d+", step["source"]) for step in said["steps"])
    assert all(step["detail"] for step in said["steps"])
    assert (said["verdict"], said["readonly"], said["network"]) == ("ask", True, "none")
    assert [r["rule"] for r in said["reasons"]] == ["rules.mind", "autonomy.approval_patterns[0]"]


def test_a_denial_is_the_last_step_and_the_problem_that_the_request_would_get() -> None:
    found = policy(blocked_commands=("curl", "nmap"))
    said = why(found, "nmap", "x")
    last = said["steps"][-1]
    assert (said["verdict"], last["effect"]) == ("deny", "deny")
    assert (last["rule"], last["source"]) == ("autonomy.blocked_commands[1]", SOURCE)
    assert [step["effect"] for step in said["steps"]].count("deny") == 1
    with pytest.raises(errors.Denied) as refusal:
        admit_run(found, {}, peer(), None, request(argv=("nmap", "x")), Counters(now=NOON), analyse_argv(("nmap", "x")))
    assert said["problem"] == refusal.value.as_dict()
    assert "profile" not in said


def test_a_bound_that_is_reached_is_a_limit() -> None:
    found = replace(policy(), rates=(s.Rate("caller", 1, 0, 0, "/etc/stockade/policy.toml:80"),))
    book = Book()
    book.begin(found, "run-x", Who("uid:1000"), "", int(NOON * 1000), what="", timeout_ms=1, cpu=1)
    said = why(found, state=Counters(now=NOON, book=book))
    assert (said["verdict"], said["steps"][-1]["effect"]) == ("limit", "limit")
    assert said["steps"][-1]["rule"] == "rates[0].per_minute"
    assert tomllib.loads(said["change"]) == {}
    assert "rates[0].per_minute" in said["change"]
    assert "/etc/stockade/policy.toml:80" in said["change"]


def test_what_is_left_of_rates_is_said() -> None:
    found = replace(policy(), rates=(s.Rate("caller", 5, 0, 0, "p:1"),))
    assert why(found)["left"] == [{"rule": "rates[0].per_minute", "left": 4}]


def test_the_parts_of_a_command_are_shown_up_to_a_bound() -> None:
    many = Analysis(
        commands=tuple(Command((None, "x"), "sh -c", n, n + 1) for n in range(300)),
        risks=tuple(Risk("mining", str(n), n, n + 1) for n in range(300)),
        paths=tuple(Named(f"/x/{n}", True, n, n + 1) for n in range(300)),
        parsed=False,
        error="1:1: reached EOF",
    )
    said = why(policy(level="full"), analysis=many)
    assert [len(said[k]) for k in ("commands", "risks", "paths")] == [256] * 3
    assert said["commands"][0] == {"words": ["<only known at run time>", "x"], "via": "sh -c", "start": 0, "end": 1}
    assert said["risks"][1] == {"kind": "mining", "detail": "1", "start": 1, "end": 2}
    assert said["paths"][1] == {"path": "/x/1", "writes": True, "start": 1, "end": 2}
    assert (said["parsed"], said["error"]) == (False, "1:1: reached EOF")


def test_who_policy_does_not_know_is_told_the_entry_that_would_admit_it() -> None:
    said = why(policy(), who=peer(1234))
    assert said["verdict"] == "deny"
    assert tomllib.loads(said["change"])["callers"][0]["uid"] == 1234


# --- the change -------------------------------------------------------------------------------------------------------


def applied(found: s.Snapshot, text: str) -> s.Snapshot:
    """The policy with a change made as an operator would make it: each key where its comment says."""
    tables = tomllib.loads(text)
    autonomy, tools = tables.pop("autonomy", {}), tables.pop("tools", {})
    profiles = {}
    listed = isinstance(tables.get("profiles"), list)  # those of the caller
    for name, changes in ({} if listed else tables.pop("profiles", {})).items():
        wire = {row[0]: (key, row[1]) for key, row in units.LIMITS.items()}
        given = {k: 0 if v == "none" else units.parse(wire[k][1], v) for k, v in changes["limits"].items()}
        profiles[name] = {wire[k][0]: v for k, v in given.items()}
    of_caller: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in tables.items()}
    if "labels" in of_caller:
        of_caller["labels"] = tuple((k, tuple(v)) for k, v in of_caller["labels"].items())
    assert set(of_caller) <= {"profiles", "workspaces", "labels", "role"}
    return replace(
        found,
        autonomy=replace(found.autonomy, **{k: tuple(v) for k, v in autonomy.items()}),
        tools=replace(found.tools, **{k: tuple(v) if isinstance(v, list) else v for k, v in tools.items()}),
        callers=(replace(found.callers[0], **of_caller), *found.callers[1:]),
        profiles=tuple(replace(p, limits=replace(p.limits, **profiles.get(p.name, {}))) for p in found.profiles),
    )


LISTS = {
    "blocked_commands": ("curl", "nmap", "nmap -sS", "git push -f", "rm"),
    "approval_patterns": ("git push", "ls", "git"),
    "approval_risks": ("mining", "outside"),
}
VIEWER = caller(role="viewer")
STATES = caller(labels=(("channel", ("slack-*",)),))


@pytest.mark.parametrize(
    ("found", "words", "changes", "lines"),
    [
        (policy(**LISTS), ("curl",), {}, ['blocked_commands = ["nmap", "nmap -sS", "git push -f", "rm"]']),
        (policy(**LISTS), ("nmap", "-sS"), {}, ['blocked_commands = ["curl", "git push -f", "rm"]']),
        (policy(**LISTS), ("ls",), {}, ['approval_patterns = ["git push", "git"]']),
        (
            policy(**LISTS), ("git", "push", "-f"), {},
            ['blocked_commands = ["curl", "nmap", "nmap -sS", "rm"]', 'approval_patterns = ["ls"]'],
        ),
        (policy(**LISTS), ("cat", "/etc/passwd"), {}, ['approval_risks = ["mining"]']),
        (policy(who=VIEWER), ("true",), {}, ['role = "operator"']),
        (policy(), ("true",), {"profile": "other"}, ['profiles = ["shell", "other"]']),
        (policy(), ("true",), {"workspace": "/srv/b"}, ['workspaces = ["/srv/agents/*", "/srv/b"]']),
        (policy(), ("true",), {"limits": {"memory": 1 << 30}}, ["[profiles.shell.limits]", 'memory = "1G"']),
        (policy(), ("true",), {"limits": {"processes": 65}}, ["processes = 65"]),
        (
            policy(), ("true",), {"limits": {"timeout_ms": 90_000, "idle_timeout_ms": 0, "cpu": 200}},
            ['timeout = "90s"', 'idle_timeout = "none"', 'cpu = "200%"'],
        ),
        (policy(who=STATES), ("true",), {"labels": {"channel": "irc"}}, ['"channel" = ["irc", "slack-*"]']),
        (policy(who=STATES), ("true",), {"labels": {"agent": "a"}}, ['"agent" = ["a"], "channel" = ["slack-*"]']),
        (replace(policy(), tools=s.Tools(shell_enabled=False)), ("true",), {}, ["[tools]", "shell_enabled = true"]),
        (replace(policy(), tools=s.Tools("whitelist", ("file",))), ("true",), {}, ['allow_list = ["file", "shell"]']),
        (
            replace(policy(**LISTS), tools=s.Tools("whitelist")), ("ls",), {"limits": {"files": 2048}},
            ['allow_list = ["shell"]', "files = 2048", 'approval_patterns = ["git push", "git"]'],
        ),
    ],
)  # fmt: skip
def test_the_change_is_toml_that_makes_the_decision_allow_this(found, words, changes, lines: list[str]) -> None:
    said = why(found, *words, **changes)
    assert said["verdict"] != "allow"
    for line in lines:
        assert line in said["change"]
    assert why(applied(found, said["change"]), *words, **changes)["verdict"] == "allow"
    shortest = [line for line in said["change"].splitlines() if line and line[0] not in "#["]
    assert len(shortest) == len([line for line in lines if line[0] != "["]), "and nothing else"


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": {"channel": "a[b]c"}},
        {"labels": {"channel": '"quoted" \\ and 😀 ü'}},
        {"workspace": '/srv/"x" \\ 😀 \t'},
        {"workspace": "/srv/x\x7f"},
    ],
)
def test_whatever_a_request_holds_the_change_is_toml_and_allows_just_that(changes) -> None:
    found = policy(who=caller(labels=()))
    said = why(found, **changes)
    wider = applied(found, said["change"])
    assert why(wider, **changes)["verdict"] == "allow"
    assert why(wider, labels={"channel": "anything"})["verdict"] == "deny"
    assert why(wider, workspace="/srv/anything")["verdict"] == "deny"


@pytest.mark.parametrize(
    "changes",
    [
        {"workspace": "/srv/*"},  # as a pattern it would be more than this
        {"workspace": "/srv/a?"},
        {"workspace": "/srv/.ssh"},
        {"workspace": "relative"},
        {"labels": {"role": "x"}},  # nobody states what policy finds out by itself
        {"labels": {"channel": "*"}},
        {"labels": {"channel": "a?"}},
        {"profile": "no\nname"},
        {"profile": "x" * 100},
        {"tool": "browser"},
    ],
)
def test_what_no_change_of_policy_would_allow_has_none(changes) -> None:
    found = replace(policy(who=STATES), tools=s.Tools(browser_enabled=True, source="p:1"))
    said = why(found, **changes)
    assert (said["verdict"], said["change"]) == ("deny", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"tool": "telnet"},
        {"limits": {"memory": -1}},
        {"limits": {"wings": 1}},
        {"argv": ("",)},
        {"labels": {"No": "label"}},
        {"workspace": None},
    ],
)
def test_what_is_no_request_is_not_explained_but_refused(changes) -> None:
    with pytest.raises(errors.InvalidRequest):
        why(policy(), *changes.pop("argv", ("true",)), **changes)


def test_a_profile_that_there_is_and_one_that_there_is_not_have_the_same_change() -> None:
    """Policy is not to be probed: what would stand in the way behind it is not told."""
    found = policy(blocked_commands=("true",))
    one, two = (why(found, profile=name, limits={"memory": 1 << 40})["change"] for name in ("other", "ohter"))
    assert one.replace("other", "X") == two.replace("ohter", "X")


@pytest.mark.parametrize(
    ("found", "state", "rule"),
    [
        (policy(rules=(DENIES,)), Counters(now=MIDNIGHT), "rules.night"),
        (policy(rules=(replace(DENIES, effect="ask"),)), Counters(now=MIDNIGHT), "rules.night"),
        (policy(replace(IRC, blocked_commands=("true",))), None, "contexts[0].blocked_commands[0]"),
        (policy(replace(IRC, approval_patterns=("true",))), None, "contexts[0].approval_patterns[0]"),
        (policy(replace(IRC, profiles=())), None, "contexts[0].profiles"),
        (policy(replace(IRC, role="viewer")), None, "contexts[0].role"),
        (policy(replace(IRC, tools=())), None, "contexts[0].tools"),
        (snapshot(sessions=1), Counters(sessions=1), "service.sessions"),
        (snapshot(runs=1), Counters(runs=1), "service.runs"),
    ],
)
def test_what_a_person_has_to_weigh_is_named_in_a_comment(found, state, rule: str) -> None:
    said = why(found, labels={"channel": "irc"}, state=state)
    assert tomllib.loads(said["change"]) == {}
    assert rule in said["change"]
    assert all(line.startswith("#") for line in said["change"].splitlines())


def test_what_can_be_written_comes_before_what_has_to_be_weighed() -> None:
    found = policy(replace(IRC, approval_patterns=("ls",)), approval_patterns=("ls",), blocked_commands=("ls",))
    said = why(found, "ls", labels={"channel": "irc"})
    assert tomllib.loads(said["change"]) == {"autonomy": {"blocked_commands": [], "approval_patterns": []}}
    assert said["change"].splitlines()[-1] == "# take out or change contexts[0].approval_patterns[0]"


def test_a_broken_script_is_for_a_person_to_weigh() -> None:
    broken = Analysis(parsed=False, error="1:1: x")
    assert "autonomy.unparsed" in why(policy(), analysis=broken)["change"]


def test_a_profile_whose_shell_may_not_run_takes_no_script_and_says_which_list_says_so() -> None:
    only = profile(allowed_commands=("git",), programs=("/usr/bin/git",))
    found = replace(policy(), profiles=(only,))
    asked = RunRequest(workspace="/srv/agents/a", script="ls")
    said = explain(found, {}, peer(), None, asked, Counters(now=NOON), Analysis())
    assert said["problem"]["rule"] == "profiles.shell.allowed_commands"
    assert said["change"] == f"# {only.source}\n# change profiles.shell.allowed_commands: git\n"


def test_a_limit_that_the_session_narrowed_itself_needs_a_session_and_no_change() -> None:
    where = session(limits={"memory": 64 << 20}, granted=profile())
    found = snapshot(caller(), SOMEBODY)
    where.granted = found.profiles[0]
    asked = RunRequest(session=where.id, argv=("true",), limits={"memory": 128 << 20})
    said = explain(found, {}, peer(), where, asked, Counters(now=NOON), Analysis())
    assert said["verdict"] == "deny"
    assert said["change"] is None
    assert LIMITS.memory > 128 << 20


@pytest.mark.parametrize("text", ["", "a", '"', "\\", "\x7f", "\t\n\r\x00\x1f", "ü😀 ", "'''", "#"])
def test_every_text_is_written_as_toml_reads_it(text: str) -> None:
    assert tomllib.loads(f"a = {toml(text)}")["a"] == text
    assert tomllib.loads(f"a = {toml([text, 'x'])}")["a"] == [text, "x"]
