"""Presets: each loads, warns of nothing, and is what its first lines say."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import NotFound
from supervisor.policy import narrow
from supervisor.policy.lint import lint
from supervisor.policy.presets import preset_names, preset_text

if TYPE_CHECKING:
    from conftest import PolicyFiles

    from supervisor.policy.snapshot import Profile

POLICIES = Path(__file__).resolve().parents[3] / "policies"


def shell(policy: PolicyFiles, name: str) -> Profile:
    policy.write(preset_text(name))
    profile = policy.load().profile("shell")
    assert profile is not None
    return profile


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_warns_of_nothing(policy: PolicyFiles, name: str) -> None:
    policy.write(preset_text(name))
    assert [f for f in lint(policy.load()) if f["severity"] != "info"] == []


def test_every_preset_is_listed_and_in_the_index() -> None:
    assert sorted(p.stem for p in POLICIES.glob("*.toml")) == sorted(preset_names())
    index = (POLICIES / "README.md").read_text()
    assert all(f"({name}.toml)" in index for name in preset_names())


def test_an_unknown_preset_is_told_with_those_there_are() -> None:
    with pytest.raises(NotFound) as missing:
        preset_text("../default")
    assert missing.value.allowed == "default, strict, moderate, permissive"


def test_the_limits_of_the_presets_are_in_their_order(policy: PolicyFiles) -> None:
    profiles = [shell(policy, n) for n in ("strict", "moderate", "default", "permissive")]
    for tighter, wider in itertools.pairwise(profiles):
        assert not [v for v in narrow.within(tighter, wider) if v.field.startswith("limits")]


def test_strict_requires_every_layer_and_executes_nothing_of_the_workspace(policy: PolicyFiles) -> None:
    policy.write(preset_text("strict"))
    for profile in policy.load().profiles:
        assert set(profile.required) == set(narrow.LAYERS)
        assert not narrow.covers(profile.execute, "$WORKSPACE")
        assert not narrow.covers(profile.execute, "/tmp/x")


def test_strict_shell_cannot_write_the_workspace(policy: PolicyFiles) -> None:
    assert not narrow.covers(shell(policy, "strict").write, "$WORKSPACE")


def test_permissive_warns_in_plain_words() -> None:
    assert "# WARNING:" in preset_text("permissive")


def test_every_shell_but_permissives_has_no_network(policy: PolicyFiles) -> None:
    assert {n: shell(policy, n).network for n in preset_names()} == {
        "default": "none",
        "strict": "none",
        "moderate": "none",
        "permissive": "loopback",
    }


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_tests_what_it_denies_and_what_it_lets_pass(policy: PolicyFiles, name: str) -> None:
    policy.write(preset_text(name))
    assert {"allow", "deny"} <= {test.expect for test in policy.load().tests}


def test_the_default_asks_about_less_than_moderate_and_moderate_less_than_strict(policy: PolicyFiles) -> None:
    asked = {}
    for name in preset_names():
        policy.write(preset_text(name))
        asked[name] = set(policy.load().autonomy.approval_risks)
    assert asked["permissive"] < asked["default"] < asked["moderate"] < asked["strict"]


def test_only_moderate_and_strict_count(policy: PolicyFiles) -> None:
    counting = {}
    for name in preset_names():
        policy.write(preset_text(name))
        loaded = policy.load()
        counting[name] = (
            bool(loaded.rates),
            bool(loaded.budgets),
            bool(loaded.breaker.repeats),
            loaded.concurrency.queue,
        )
    assert counting == {
        "default": (False, False, False, 0),
        "strict": (True, True, True, 0),
        "moderate": (True, True, True, 64),
        "permissive": (False, False, False, 0),
    }


def test_moderate_tells_of_an_agent_and_strict_asks_about_it(policy: PolicyFiles) -> None:
    alerts = {}
    for name in preset_names():
        policy.write(preset_text(name))
        a = policy.load().alerts
        alerts[name] = (a.failed_per_hour, a.sensitive_per_hour, a.blocked_command, a.action)
    assert alerts == {
        "default": (0, 0, False, "tell"),
        "strict": (10, 5, True, "ask"),
        "moderate": (10, 5, True, "tell"),
        "permissive": (0, 0, False, "tell"),
    }
