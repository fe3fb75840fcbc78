"""Lint: what loads and is probably not meant."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.decide.shell import programs
from supervisor.policy import words
from supervisor.policy.findings import text
from supervisor.policy.lint import lint

if TYPE_CHECKING:
    from conftest import PolicyFiles

GOOD = '[profiles.shell]\nread = ["/usr", "/bin"]\nexecute = ["/usr", "/bin"]\nwrite = ["$WORKSPACE"]\n'
CALLER = '[[callers]]\nuser = "agent"\nrole = "operator"\nprofiles = ["shell"]\nworkspaces = ["/srv/a"]\n'
ADMIN = '[[callers]]\nuser = "root"\nrole = "administrator"\n'
TEST = '[[tests]]\ncommand = "ls"\nexpect = "allow"\n'
SENSIBLE = GOOD + CALLER + ADMIN + TEST


def found_in(policy: PolicyFiles, text: str, severity: str = "warning") -> list[dict[str, Any]]:
    policy.write(text)
    return [f for f in lint(policy.load()) if f["severity"] == severity]


def test_a_sensible_policy_has_nothing_to_say(policy: PolicyFiles) -> None:
    policy.write(SENSIBLE)
    assert lint(policy.load()) == []


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('execute = ["/usr"', 'execute = ["/opt", "/usr"', "profiles.shell.execute"),
        ('read = ["/usr"', 'read = ["/home", "/usr"', "profiles.shell.read"),
        ('write = ["$WORKSPACE"]', 'write = ["/tmp"]', "profiles.shell.read"),
        ("write", 'limits.memory = "8M"\nwrite', "profiles.shell.limits.memory"),
        ("write", "limits.processes = 1\nwrite", "profiles.shell.limits.processes"),
        ("write", 'limits.idle_timeout = "60s"\nwrite', "profiles.shell.limits.idle_timeout"),
        ("write", 'shell = "/opt/sh"\nwrite', "profiles.shell.shell"),
        ("write", 'autonomy = "readonly"\nwrite', "profiles.shell.write"),
        ("write = [", 'write = ["$WORKSPACE/.git/hooks", ', "profiles.shell.write"),
        ("write = [", 'write = ["$WORKSPACE/.envrc", ', "profiles.shell.write"),
        ("write = [", 'write = ["/srv/home/.bashrc", ', "profiles.shell.write"),
        ("write = [", 'write = ["/srv/x/.config/systemd/user", ', "profiles.shell.write"),
        ("write = [", 'write = ["/srv/x/.local/bin", ', "profiles.shell.write"),
        ('workspaces = ["/srv/a"]\n', "", "callers"),
        ('role = "operator"', 'role = "viewer"', "callers"),
        ('profiles = ["shell"]\nworkspaces = ["/srv/a"]', "", "callers"),
        ('profiles = ["shell"]', "", "profiles.shell"),
    ],
)
def test_each_likely_mistake_is_a_warning_with_what_to_do(policy: PolicyFiles, old: str, new: str, key: str) -> None:
    ceiling = '[ceiling]\nwrite = ["/srv", "$WORKSPACE", "/tmp"]\n'
    found = found_in(policy, ceiling + SENSIBLE.replace(old, new, 1))
    assert key in [f["key"] for f in found]
    assert all(f["expected"] for f in found)


def test_a_home_directory_that_may_be_written_is_a_warning(policy: PolicyFiles) -> None:
    ceiling = '[ceiling]\nwrite = ["/home", "$WORKSPACE"]\n'
    (found,) = found_in(policy, ceiling + SENSIBLE.replace("write = [", 'write = ["/home/carol", ', 1))
    assert "start-up files" in found["message"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/srv/x/.config", "units"),
        ("/srv/x/.config/fish", "shell"),
        ("/srv/x/.local", "programs"),
        ("/srv/x/.local/share", "units"),
        ("/srv/x/.cargo", "programs"),
        ("$WORKSPACE/.git", "hooks"),
        ("/srv/x/.bash_aliases", "shells"),
        ("/srv/x/.config/environment.d", "sessions"),
        ("/srv", "others"),
    ],
)
def test_a_grant_that_covers_what_others_run_is_a_warning(policy: PolicyFiles, path: str, said: str) -> None:
    ceiling = '[ceiling]\nwrite = ["/srv", "$WORKSPACE"]\n'
    (found,) = found_in(policy, ceiling + SENSIBLE.replace("write = [", f'write = ["{path}", ', 1))
    assert (found["key"], said in found["message"]) == ("profiles.shell.write", True)


@pytest.mark.parametrize("path", ["/home/agent/.bashrc", "/home/agent/.config", "/tmp/bin", "/tmp/.git"])
def test_what_ends_with_the_session_is_nobody_elses(policy: PolicyFiles, path: str) -> None:
    assert found_in(policy, SENSIBLE.replace("write = [", f'write = ["{path}", ', 1)) == []


def test_an_interpreter_that_a_script_of_the_list_brings_is_a_warning(policy: PolicyFiles) -> None:
    policy.write(SENSIBLE)
    snapshot = policy.load()
    named = replace(snapshot.profiles[0], allowed_commands=("pip", "ls"))
    for programs_, brought in (
        (("/usr/bin/pip", "/usr/bin/python3.11"), True),
        (("/usr/bin/pip", "/usr/bin/ls"), False),
    ):
        shell = replace(named, programs=programs_)
        said = [f["message"] for f in lint(replace(snapshot, profiles=(shell,))) if f["severity"] == "warning"]
        assert any("/usr/bin/python3.11" in message for message in said) is brought


@pytest.mark.parametrize("name", ["bash", "python3", "/usr/bin/python3.11", "perl", "node", "busybox"])
def test_an_interpreter_among_the_allowed_commands_is_a_warning(policy: PolicyFiles, name: str) -> None:
    policy.write(SENSIBLE)
    snapshot = policy.load()
    # Named afterwards: a program that this host does not have would not load.
    shell = replace(snapshot.profiles[0], allowed_commands=("git", "sh", name))
    found = [f for f in lint(replace(snapshot, profiles=(shell,))) if name in f["message"]]
    assert [(f["key"], f["severity"]) for f in found] == [("profiles.shell.allowed_commands", "warning")]


def test_the_linter_knows_every_interpreter_that_the_decision_knows() -> None:
    assert programs.INTERPRETERS <= words.INTERPRETERS
    assert all(words.runs_anything(name) for name in programs.INTERPRETERS)


SHADOWED = '[autonomy]\nblocked_commands = ["git push"]\napproval_patterns = ["git push --force"]\n'
OTHER = '[profiles.other]\nread = ["$WORKSPACE", "/bin"]\nexecute = ["/bin"]\n'
ELSEWHERE = OTHER + '[[contexts]]\nmatch = { tool = ["shell"] }\nprofiles = ["other"]\n'
HOURS = '[[rules]]\nname = "hours"\nrequire = { time = ["08:00-18:00"] }\n'
# What is added after the sensible policy, and where the finding is.
ADDED = [
    ('[tools]\npolicy = "whitelist"\n', "tools.allow_list"),
    ('[tools]\npolicy = "restrictive"\nallow_list = ["shell"]\n', "tools.policy"),
    ('[tools]\nallow_list = ["shell"]\n', "tools.allow_list"),
    ('[tools]\npolicy = "whitelist"\nallow_list = ["shell", "browser"]\n', "tools.browser_enabled"),
    ("[tools]\nfile_write_enabled = false\n", "profiles.shell.write"),
    (SHADOWED, "autonomy.approval_patterns"),
    ('[autonomy]\nforbidden_paths = ["/usr/share/secret"]\n', "autonomy.forbidden_paths"),
    ('[autonomy]\nforbidden_paths = ["/srv/a/keys"]\n', "autonomy.forbidden_paths"),
    ('[autonomy]\nforbidden_paths = ["/opt/x/y"]\ngranted_paths = ["/opt/x"]\n', "autonomy.forbidden_paths"),
    ('[autonomy]\ngranted_paths = ["/opt/x"]\n', "autonomy.granted_paths"),
    ('[roles.auditor]\npermissions = ["logs:read"]\n', "roles.auditor"),
    ('[roles.operator]\npermissions = ["agent:execute"]\nmfa_required = true\n', "roles.operator"),
    ('[[contexts]]\nmatch = { channel = ["x"] }\nautonomy = "readonly"\n', "contexts.match.channel"),
    ('[[contexts]]\nmatch = { caller = ["unit:a.service"] }\nautonomy = "readonly"\n', "contexts.match.caller"),
    ('[[contexts]]\nmatch = { role = ["viewer"] }\nautonomy = "readonly"\n', "contexts.match.role"),
    ('[[contexts]]\nmatch = { zone = ["0"] }\nautonomy = "readonly"\n', "contexts.match.zone"),
    ('[[contexts]]\nmatch = { tool = ["shell"] }\n', "contexts"),
    ('[[contexts]]\nmatch = { tool = ["shell"] }\nautonomy = "full"\n', "contexts.autonomy"),
    ('[[contexts]]\nmatch = { tool = ["shell"] }\nblocked_commands = ["nmap"]\n', "contexts.blocked_commands"),
    (ELSEWHERE, "contexts.profiles"),
    ('[[rules]]\nname = "all"\n', "rules"),
    ('[[rules]]\nname = "ip"\nrequire = { source_ip = ["10.0.0.0/8"] }\n', "rules.require"),
    ('[[rules]]\nname = "l"\npermissions = ["config:write"]\nmatch = { channel = ["x"] }\n', "rules.match"),
    ('[[rules]]\nname = "r"\npermissions = ["agent:read"]\n', "rules.permissions"),
    ('[[rules]]\nname = "r"\npermissions = ["approvals:answer"]\neffect = "ask"\n', "rules.permissions"),
    ("[[rates]]\nper_minute = 10\nper_hour = 600\n", "rates.per_hour"),
    ('[[rates]]\nper_minute = 10\n[[rates]]\nscope = "caller"\nper_minute = 10\n', "rates.per_minute"),
    ('[[budgets]]\ncpu = "2h"\n[[budgets]]\nscope = "caller"\ncpu = "1h"\n', "budgets.cpu"),
    ("[[rates]]\nper_minute = 10\n[breaker]\nrepeats = 20\n", "breaker.repeats"),
    ("[[rates]]\nper_hour = 9\n[alerts]\nfailed_per_hour = 10\n", "alerts.failed_per_hour"),
    ('[[rates]]\nscope = "caller"\nper_minute = 1\n[alerts]\nfailed_per_hour = 61\n', "alerts.failed_per_hour"),
    ("[concurrency]\nruns_per_agent = 65\n", "concurrency.runs_per_agent"),
    ("[concurrency]\nqueue = 4\n", "concurrency.queue_per_agent"),
]  # fmt: skip


@pytest.mark.parametrize(("added", "key"), ADDED, ids=[f"{n}-{key}" for n, (_, key) in enumerate(ADDED)])
def test_what_cannot_work_is_a_warning_at_its_entry(policy: PolicyFiles, added: str, key: str) -> None:
    found = [f for f in found_in(policy, SENSIBLE + added) if f["key"] == key]
    assert found, "no such finding"
    first_added = SENSIBLE.count("\n") + 1
    assert all(f["expected"] for f in found)
    assert all(f["line"] >= first_added or f["key"].startswith("profiles.") for f in found), list(map(text, found))


# The same tables as they are meant: nothing is said about them.
FINE = [
    '[tools]\npolicy = "whitelist"\nallow_list = ["shell"]\n',
    '[autonomy]\nblocked_commands = ["rm -rf /"]\napproval_patterns = ["rm -rf", "git push --force"]\n',
    '[autonomy]\nforbidden_paths = ["/opt/x", "~/.kube"]\ngranted_paths = ["/etc/hosts", "~/.ssh/known_hosts"]\n',
    '[[contexts]]\nmatch = { tool = ["shell"], caller = ["uid:1500"] }\nautonomy = "readonly"\n',
    '[[contexts]]\nmatch = { zone = ["3"] }\nprofiles = ["shell"]\n',
    HOURS + '[[rules]]\nname = "audit"\npermissions = ["config:write"]\nrequire = { audit = true }\n',
    '[[rules]]\nname = "answers"\npermissions = ["approvals:answer"]\nrequire = { days = ["mon-fri"] }\n',
    "[[rates]]\nper_minute = 10\nper_hour = 100\nper_day = 1000\n",
    '[[rates]]\nper_minute = 10\n[[rates]]\nscope = "caller"\nper_minute = 50\n',
    '[[budgets]]\nperiod = "session"\ncpu = "2h"\n[[budgets]]\nscope = "caller"\ncpu = "10h"\n',
    '[[rates]]\nper_minute = 20\n[breaker]\nrepeats = 30\nrepeat_window = "2m"\n',
    "[[rates]]\nper_hour = 10\n[alerts]\nfailed_per_hour = 10\nsensitive_per_hour = 20\n",
    '[[rates]]\nscope = "user"\nper_hour = 5\n[alerts]\nfailed_per_hour = 10\n',
]


@pytest.mark.parametrize("added", FINE)
def test_what_works_is_not_warned_of(policy: PolicyFiles, added: str) -> None:
    assert found_in(policy, SENSIBLE + added) == []


def test_supervised_without_anybody_to_answer_is_a_warning(policy: PolicyFiles) -> None:
    (found,) = found_in(policy, GOOD + CALLER + TEST)
    assert (found["line"], found["key"]) == (5, "callers")
    assert "nobody else may answer" in found["message"]
    assert found_in(policy, GOOD + CALLER + TEST + '[autonomy]\nlevel = "full"\n') == []


def test_two_people_are_needed_and_there_is_one(policy: PolicyFiles) -> None:
    role = '[roles.operator]\npermissions = ["agent:execute"]\nsecond_person = true\n'
    (found,) = found_in(policy, SENSIBLE + role)
    assert found["key"] == "callers.role"
    assert found_in(policy, SENSIBLE + role + '[[callers]]\nuid = 7\nrole = "administrator"\n') == []


def test_an_order_carries_no_labels_so_a_rule_that_requires_one_of_it_is_a_warning(policy: PolicyFiles) -> None:
    stating = GOOD + CALLER + 'labels = { "*" = ["*"] }\n' + ADMIN + TEST
    required = 'require = {{ source_ip = ["10.0.0.0/8"], labels = {{ mfa = "yes" }} }}\n'
    rule = '[[rules]]\nname = "device"\npermissions = {}\n' + required
    found = found_in(policy, stating + rule.format('["config:write"]'))
    assert [f["key"] for f in found] == ["rules.require"] * 2
    assert "mfa never holds for config:write" in found[0]["message"]
    assert found_in(policy, stating + rule.format('["agent:execute", "config:write"]')) == []


def test_a_context_or_rule_that_another_makes_needless_is_named_with_it(policy: PolicyFiles) -> None:
    wide = '[[contexts]]\nmatch = { tool = ["*"] }\nautonomy = "readonly"\nnetwork = "none"\n'
    narrow = '[[contexts]]\nmatch = { tool = ["shell"], caller = ["uid:1500"] }\nautonomy = "readonly"\n'
    (found,) = found_in(policy, SENSIBLE + wide + narrow)
    assert found["line"] == SENSIBLE.count("\n") + 5
    assert f"{policy.main}:{SENSIBLE.count(chr(10)) + 1}" in found["message"]
    rules = '[[rules]]\nname = "a"\nmatch = { tool = ["shell"] }\neffect = "ask"\n'
    rules += '[[rules]]\nname = "b"\nmatch = { tool = ["s*"] }\n'
    (found,) = found_in(policy, SENSIBLE + rules)
    assert "the rule b" in found["message"]


def test_of_two_rules_that_say_the_same_the_later_one_is_needless(policy: PolicyFiles) -> None:
    rules = "".join(f'[[rules]]\nname = "{n}"\nmatch = {{ tool = ["shell"] }}\n' for n in "ab")
    (found,) = found_in(policy, SENSIBLE + rules)
    assert found["line"] == SENSIBLE.count("\n") + 4


def test_a_label_that_may_be_left_out_is_a_note_and_one_that_must_be_stated_is_not(policy: PolicyFiles) -> None:
    context = '[[contexts]]\nmatch = { channel = ["discord"] }\nautonomy = "readonly"\n'
    labels = SENSIBLE.replace('user = "agent"', 'user = "agent"\nlabels = { channel = ["*"] }')
    (found,) = found_in(policy, labels + context, "info")
    assert found["key"] == "contexts.match.channel"
    assert found_in(policy, labels.replace("labels", 'must_state = ["channel"]\nlabels') + context, "info") == []


def test_a_policy_without_tests_is_a_note(policy: PolicyFiles) -> None:
    (found,) = found_in(policy, GOOD + CALLER + ADMIN, "info")
    assert found["key"] == "tests"


def test_a_browser_profile_with_the_limits_of_a_shell_is_a_warning(policy: PolicyFiles) -> None:
    browser = GOOD.replace("shell", "browser") + 'limits = { memory = "256M" }\n'
    found = found_in(policy, browser + SENSIBLE.replace('profiles = ["shell"]', 'profiles = ["shell", "browser"]'))
    assert [f["key"] for f in found] == ["profiles.browser.limits.memory"]


def test_a_drop_in_that_changes_nothing_is_a_warning(policy: PolicyFiles) -> None:
    drop = policy.write("# nothing\n", "10-x.toml")
    (found,) = found_in(policy, SENSIBLE)
    assert found["file"] == str(drop)


def test_a_drop_in_of_rules_alone_is_in_force(policy: PolicyFiles) -> None:
    policy.write("[[rates]]\nper_minute = 5\n", "10-x.toml")
    assert found_in(policy, SENSIBLE) == []
