"""Lint: what loads and is probably not meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.policy.lint import lint

if TYPE_CHECKING:
    from conftest import PolicyFiles

GOOD = '[profiles.shell]\nread = ["/usr", "/bin"]\nexecute = ["/usr", "/bin"]\nwrite = ["$WORKSPACE"]\n'
CALLER = '[[callers]]\nuser = "agent"\nrole = "operator"\nprofiles = ["shell"]\nworkspaces = ["/srv/a"]\n'


def test_a_sensible_policy_has_no_warnings(policy: PolicyFiles) -> None:
    policy.write(GOOD + CALLER)
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
        ('workspaces = ["/srv/a"]\n', "", "callers"),
        ('role = "operator"', 'role = "viewer"', "callers"),
        ('profiles = ["shell"]\nworkspaces = ["/srv/a"]', "", "callers"),
    ],
)
def test_each_likely_mistake_is_one_warning(policy: PolicyFiles, old: str, new: str, key: str) -> None:
    policy.write((GOOD + CALLER).replace(old, new, 1))
    found = lint(policy.load())
    assert key in [f["key"] for f in found]
    assert {f["severity"] for f in found} == {"warning"}


def test_a_drop_in_that_changes_nothing_is_a_warning(policy: PolicyFiles) -> None:
    policy.write(GOOD + CALLER)
    drop = policy.write("# nothing\n", "10-x.toml")
    (found,) = lint(policy.load())
    assert found["file"] == str(drop)
