"""What one entry says of another, what a drop-in may not be, and every table's way into the snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.policy.snapshot import from_json

if TYPE_CHECKING:
    from conftest import PolicyFiles

SHELL = '[profiles.shell]\nread = ["/usr"]\nexecute = ["/usr"]\n'  # what a test adds starts at line 4
CALLER = '[[callers]]\nuser = "agent"\nrole = "operator"\nprofiles = ["shell"]\n'  # line 4 to 7

EVERYTHING = (
    SHELL
    + 'autonomy = "supervised"\nallowed_commands = ["ls"]\n'
    + CALLER
    + 'zone = 2\nautonomy = "readonly"\nlabels = { channel = ["irc-*"], agent = ["*"] }\n'
    + 'must_state = ["channel"]\nmay_request = ["auditor"]\n'
    + """
[tools]
policy = "whitelist"
allow_list = ["shell"]
[autonomy]
level = "full"
blocked_commands = ["mkfs"]
approval_patterns = []
approval_risks = ["mining"]
unparsed = "readonly"
forbidden_paths = ["~/.kube"]
[roles.auditor]
permissions = ["logs:*"]
mfa_required = true
[[contexts]]
match = { channel = "irc-*", tool = ["shell"] }
zone = 0
role = "auditor"
profiles = ["shell"]
network = "none"
tools = ["shell"]
[[rules]]
name = "hours"
permissions = ["agent:*"]
match = { agent = ["a?"] }
effect = "ask"
require = { time = ["22:00-06:00"], days = ["fri-mon"], source_ip = ["10.0.0.0/8"], audit = true, labels.mfa = "y" }
[[rates]]
scope = "user"
per_minute = 3
[[budgets]]
cpu = "1h"
written = "1G"
[breaker]
failures = 3
open = "1m"
[alerts]
failed_per_hour = 10
blocked_command = true
action = "ask"
[concurrency]
queue = 5
queue_time = "5s"
[approvals]
timeout = "1m"
[[tests]]
argv = ["git", "status"]
caller = "agent"
labels = { channel = "irc-1" }
expect = "allow"
"""
)


def test_every_table_arrives_in_the_snapshot_in_its_units(policy: PolicyFiles) -> None:
    policy.write(EVERYTHING)
    s = policy.load()
    assert (s.profiles[0].autonomy, s.profiles[0].allowed_commands) == ("supervised", ("ls",))
    (caller,) = s.callers
    assert (caller.zone, caller.autonomy, caller.must_state, caller.may_request, caller.name) == (
        2, "readonly", ("channel",), ("auditor",), "agent",
    )  # fmt: skip
    assert caller.labels == (("agent", ("*",)), ("channel", ("irc-*",)))
    assert (s.tools.policy, s.tools.allow_list) == ("whitelist", ("shell",))
    assert (s.autonomy.level, s.autonomy.blocked_commands, s.autonomy.unparsed) == ("full", ("mkfs",), "readonly")
    assert (s.roles[0].name, s.roles[0].permissions, s.roles[0].mfa_required) == ("auditor", ("logs:*",), True)
    (context,) = s.contexts
    assert context.match == (("channel", ("irc-*",)), ("tool", ("shell",)))
    assert (context.zone, context.role, context.autonomy, context.network) == (0, "auditor", None, "none")
    (rule,) = s.rules
    assert (rule.time, rule.days) == (((22 * 60, 6 * 60),), (0, 4, 5, 6))
    assert (rule.source_ip, rule.audit, rule.labels) == (("10.0.0.0/8",), True, (("mfa", ("y",)),))
    assert (s.rates[0].scope, s.rates[0].per_minute, s.rates[0].per_hour) == ("user", 3, 0)
    assert (s.budgets[0].cpu_ms, s.budgets[0].written, s.budgets[0].wall_ms) == (3_600_000, 1 << 30, 0)
    assert (s.breaker.failures, s.breaker.open_ms, s.breaker.repeat_window_ms) == (3, 60_000, 60_000)
    assert (s.alerts.failed_per_hour, s.alerts.sensitive_per_hour) == (10, 0)
    assert (s.alerts.blocked_command, s.alerts.action) == (True, "ask")
    assert (s.concurrency.queue, s.concurrency.queue_time_ms, s.approvals.timeout_ms) == (5, 5_000, 60_000)
    assert (s.tests[0].argv, s.tests[0].labels, s.tests[0].command) == (
        ("git", "status"),
        (("channel", "irc-1"),),
        None,
    )


def test_every_entry_carries_its_file_and_line(policy: PolicyFiles) -> None:
    main = policy.write(EVERYTHING)
    lines = EVERYTHING.splitlines()
    s = policy.load()
    for header, source in {
        "[tools]": s.tools.source, "[autonomy]": s.autonomy.source, "[roles.auditor]": s.roles[0].source,
        "[[contexts]]": s.contexts[0].source, "[[rules]]": s.rules[0].source, "[[rates]]": s.rates[0].source,
        "[[budgets]]": s.budgets[0].source, "[breaker]": s.breaker.source, "[concurrency]": s.concurrency.source,
        "[alerts]": s.alerts.source, "[approvals]": s.approvals.source, "[[tests]]": s.tests[0].source,
    }.items():  # fmt: skip
        assert source == f"{main}:{lines.index(header) + 1}", header


def test_a_snapshot_with_every_table_survives_json_unchanged(policy: PolicyFiles) -> None:
    policy.write(EVERYTHING)
    snapshot = policy.load()
    assert from_json(snapshot.to_json()) == snapshot


def test_a_policy_that_says_nothing_of_decisions_is_supervised(policy: PolicyFiles) -> None:
    main = policy.write(SHELL + CALLER)
    s = policy.load()
    assert (s.autonomy.level, s.tools.browser_enabled, s.callers[0].autonomy) == ("supervised", False, "full")
    assert "mkfs" in s.autonomy.blocked_commands
    assert s.autonomy.source == f"{main}:1"
    assert (s.rates, s.breaker.failures, s.concurrency.queue) == ((), 0, 0)
    assert (s.alerts.failed_per_hour, s.alerts.sensitive_per_hour, s.alerts.blocked_command) == (0, 0, False)


def test_a_role_of_the_ceiling_that_there_is_not_is_told_with_the_nearest(policy: PolicyFiles) -> None:
    policy.write(SHELL + '[ceiling]\nroles = ["viewer", "operater"]\n')
    found = policy.finding()
    assert (found["line"], found["key"], found["nearest"]) == (5, "ceiling.roles[1]", "operator")


def test_a_budget_of_bytes_is_no_more_than_64_bits_can_count(policy: PolicyFiles) -> None:
    policy.write(SHELL + "[[budgets]]\nwritten = 99999999999999999999\n")
    found = policy.finding()
    assert (found["line"], found["key"]) == (5, "budgets[0].written")
    assert found["expected"] == '1 to 1048576T, or "none"'


@pytest.mark.parametrize(
    ("added", "key", "nearest"),
    [
        ('role = "operater"', "callers[0].role", "operator"),
        ('may_request = ["administratr"]', "callers[0].may_request[0]", "administrator"),
        ('labels = { channel = ["x"] }\nmust_state = ["channel", "chanel"]', "callers[0].must_state[1]", "channel"),
        ('must_state = ["agent"]', "callers[0].must_state[0]", None),
        ('labels = { zone = ["x"] }', "callers[0].labels", None),
        ('[[contexts]]\nmatch = {}\nrole = "viewr"', "contexts[0].role", "viewer"),
        ('[[contexts]]\nmatch = {}\nprofiles = ["shel"]', "contexts[0].profiles[0]", "shell"),
        ('[[contexts]]\nmatch = { tool = ["shel"] }', "contexts[0].match.tool[0]", "shell"),
        ('[[contexts]]\nmatch = { zone = ["7"] }', "contexts[0].match.zone[0]", None),
        ('[[contexts]]\nmatch = { role = ["operater"] }', "contexts[0].match.role[0]", "operator"),
        ('[[contexts]]\nmatch = { profile = ["shell"] }', "contexts[0].match.profile", None),
        ('[[rules]]\nname = "r"\nmatch = { profile = ["shel"] }', "rules[0].match.profile[0]", "shell"),
        ('[[rules]]\nname = "r"\n[[rules]]\nname = "r"', "rules[1].name", None),
        ('[[rules]]\nname = "r"\npermissions = ["agent:run"]', "rules[0].permissions[0]", "agent:read"),
        ('[[budgets]]\nperiod = "session"\nscope = "user"\ncpu = "1h"', "budgets[0].scope", None),
        ("[[budgets]]", "budgets[0]", None),
        ("[[rates]]\nper_minute = 0", "rates[0]", None),
        ('[approvals]\ngrant = "2h"\nlongest = "1h"', "approvals.grant", None),
        ('[[tests]]\ncommand = "ls"\nprofile = "shel"\nexpect = "allow"', "tests[0].profile", "shell"),
        ('[[tests]]\ncommand = "ls"\ncaller = "agnet"\nexpect = "allow"', "tests[0].caller", "agent"),
        ('[[tests]]\ncommand = "ls"\nexpect = "denied"', "tests[0].expect", "deny"),
        ('[[tests]]\nexpect = "allow"', "tests[0]", None),
    ],
)
def test_what_an_entry_names_must_exist(policy: PolicyFiles, added: str, key: str, nearest: str | None) -> None:
    text = SHELL + CALLER
    if added.startswith("role"):
        text = text.replace('role = "operator"\n', "")
    main = policy.write(text + added + "\n")
    found = policy.finding()
    assert (found["file"], found["key"], found["nearest"]) == (str(main), key, nearest)
    assert found["line"] > 4
    assert found["expected"]


def test_a_test_may_name_a_caller_by_its_uid(policy: PolicyFiles) -> None:
    policy.write(
        SHELL + '[[callers]]\nuid = 7\nrole = "viewer"\n[[tests]]\nargv = ["ls"]\ncaller = "uid:7"\nexpect = "deny"\n'
    )
    assert policy.load().tests[0].caller == "uid:7"


def test_a_role_that_is_declared_may_be_had_and_asked_for(policy: PolicyFiles) -> None:
    text = SHELL + CALLER.replace("operator", "builder") + '[roles.builder]\npermissions = ["agent:execute"]\n'
    policy.write(text)
    assert policy.load().callers[0].role == "builder"


def test_one_bad_entry_leaves_the_others_to_be_checked(policy: PolicyFiles) -> None:
    policy.write(
        SHELL + CALLER + '[[contexts]]\nmatch = { tool = ["shell"] }\nzone = 9\n'
        '[[contexts]]\nmatch = {}\nprofiles = ["nothing"]\n'
        '[roles.a]\npermissions = ["x:y"]\n[roles.b]\n'
        "[[rates]]\nper_minute = -1\n[[rates]]\n"
        '[[rules]]\nname = "one"\neffect = "allow"\n[[rules]]\nname = "two"\nmatch = { tool = "none" }\n'
        '[[tests]]\nexpect = "allow"\n[[tests]]\ncommand = "ls"\nexpect = "allow"\nprofile = "nothing"\n'
    )
    assert [(f["line"], f["key"]) for f in policy.findings()] == [
        (10, "contexts[0].zone"),
        (13, "contexts[1].profiles[0]"),
        (15, "roles.a.permissions[0]"),
        (16, "roles.b.permissions"),
        (18, "rates[0].per_minute"),
        (19, "rates[1]"),
        (22, "rules[0].effect"),
        (25, "rules[1].match.tool[0]"),
        (26, "tests[0]"),
        (31, "tests[1].profile"),
    ]


@pytest.mark.parametrize(
    "table", ["service", "ceiling", "tools", "autonomy", "roles", "breaker", "alerts", "concurrency", "approvals"]
)
def test_a_drop_in_has_no_table_of_the_whole_service(policy: PolicyFiles, table: str) -> None:
    policy.write(SHELL)
    drop = policy.write(f"\n[{table}]\n", "10-x.toml")
    found = policy.finding()
    assert (found["file"], found["line"], found["key"]) == (str(drop), 2, table)


def test_a_drop_in_adds_what_only_narrows(policy: PolicyFiles) -> None:
    policy.write(SHELL + CALLER)
    policy.write(
        '[[contexts]]\nmatch = { tool = ["shell"] }\nautonomy = "readonly"\n[[rules]]\nname = "r"\n'
        '[[rates]]\nper_day = 5\n[[budgets]]\nwall = "1h"\n[[tests]]\ncommand = "ls"\nexpect = "deny"\n',
        "10-x.toml",
    )
    s = policy.load()
    assert (len(s.contexts), len(s.rules), len(s.rates), len(s.budgets), len(s.tests)) == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("caller", "key"),
    [
        ('role = "administrator"', "callers[0].role"),
        ('role = "keeper"', "callers[0].role"),
        ('role = "viewer"\nmay_request = ["operator", "administrator"]', "callers[0].may_request[1]"),
    ],
)
def test_a_drop_in_gives_nobody_more_than_the_ceilings_roles(policy: PolicyFiles, caller: str, key: str) -> None:
    roles = '[roles.keeper]\npermissions = ["config:write"]\n'
    policy.write(SHELL + roles)
    drop = policy.write(f"[[callers]]\nuid = 5\n{caller}\n", "10-x.toml")
    found = policy.finding()
    assert (found["file"], found["key"]) == (str(drop), key)
    assert found["expected"] == "one of viewer, operator"
    policy.write(SHELL + roles + '[ceiling]\nroles = ["viewer", "operator", "administrator", "keeper"]\n')
    assert policy.load().callers[0].uid == 5


def test_policy_toml_itself_may_have_every_role(policy: PolicyFiles) -> None:
    policy.write(SHELL + '[ceiling]\nroles = []\n[[callers]]\nuid = 5\nrole = "administrator"\n')
    assert policy.load().callers[0].role == "administrator"


@pytest.mark.parametrize(
    ("first", "again", "key"),
    [
        ('autonomy = "readonly"', 'autonomy = "supervised"', "autonomy"),
        ('autonomy = "supervised"', "", "autonomy"),
        ('allowed_commands = ["ls", "head"]', 'allowed_commands = ["ls", "cat"]', "allowed_commands[1]"),
        ('allowed_commands = ["ls"]', "", "allowed_commands"),
        ('allowed_commands = ["ls"]', 'allowed_commands = ["/usr/bin/ls"]', "allowed_commands[0]"),
    ],
)
def test_a_profile_that_is_declared_again_is_no_wider(policy: PolicyFiles, first: str, again: str, key: str) -> None:
    policy.write(SHELL + first + "\n")
    policy.write(SHELL + again + "\n", "10-x.toml")
    assert policy.finding()["key"] == f"profiles.shell.{key}"


def test_a_profile_that_is_declared_again_may_be_narrower(policy: PolicyFiles) -> None:
    policy.write(SHELL + 'autonomy = "supervised"\n')
    policy.write(SHELL + 'autonomy = "readonly"\nallowed_commands = ["ls"]\n', "10-x.toml")
    assert policy.load().profiles[0].autonomy == "readonly"
