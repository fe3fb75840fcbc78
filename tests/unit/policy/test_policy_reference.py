"""Reference: every key has an enforcer and a probe, and the page in docs/ is the one that the model makes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.decide import selftest
from supervisor.parser.shfmt import Shfmt
from supervisor.policy import pages, units
from supervisor.policy.confining import CEILING_LIMITS, Limits, Profile
from supervisor.policy.importing.keys import TABLES
from supervisor.policy.presets import preset_names, preset_text
from supervisor.policy.reference import PAGE as EXAMPLE
from supervisor.policy.reference import keys, page
from supervisor.policy.snapshot import Limits as CompiledLimits
from supervisor.policy.snapshot import Test as CompiledTest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import PolicyFiles

DOCS = Path(__file__).resolve().parents[3] / "docs" / "policy.md"


@pytest.fixture(scope="module")
def parser() -> Iterator[Shfmt]:
    found = Shfmt()
    yield found
    found.close()


PROBES = {
    *("read_outside", "write_outside", "exec_outside", "network", "memory", "cpu", "processes", "files", "output"),
    *("disk", "tmp", "timeout", "idle_timeout", "required", "env", "shell", "workspace_owner", "ceiling", "admission"),
    *("service", "readonly", "allowed_commands", "decision", "meters", "approvals", "tests"),
}


def test_the_page_is_not_stale() -> None:
    assert DOCS.read_text() == page(), "run: python -m supervisor.policy.reference docs/policy.md"


def test_every_key_has_meaning_unit_enforcer_and_probe() -> None:
    for key in keys():
        assert all((key.meaning, key.unit, key.enforcer)), key.path
        assert key.probe in PROBES, key.path


def test_every_probe_proves_some_key() -> None:
    assert {key.probe for key in keys()} == PROBES


def test_the_keys_are_those_of_the_tables() -> None:
    paths = {key.path for key in keys()}
    assert {f"profiles.*.limits.{name}" for name in Limits.model_fields} < paths
    assert {f"profiles.*.{name}" for name in Profile.model_fields if name != "limits"} < paths
    assert {"service.uid_range", "ceiling.limits", "callers.*.any_owner"} < paths


def test_every_limit_is_in_every_table_of_limits() -> None:
    names = [name for name, *_ in units.LIMITS.values()]
    assert list(Limits.model_fields) == names == list(CEILING_LIMITS)
    assert list(units.LIMITS) == [f.name for f in fields(CompiledLimits)]


def test_the_worked_page_loads(policy: PolicyFiles) -> None:
    policy.write(EXAMPLE.split("```toml\n")[1].split("```")[0])
    assert policy.load().profile("shell") is not None


@pytest.mark.parametrize("name", pages.WORKED)
def test_what_a_worked_page_says_of_its_examples_is_what_is_decided(
    policy: PolicyFiles, parser: Shfmt, name: str
) -> None:
    policy.write(preset_text(name))
    examples = pages.EXAMPLES[name]
    tests = tuple(
        CompiledTest("shell", e.command, None, None, e.profile, None, e.labels, e.verdict, f"pages.py:{n}")
        for n, e in enumerate(examples)
    )
    rows = selftest.run(replace(policy.load(), tests=tests), parser.parse)
    assert [(r["command"], r["verdict"]) for r in rows] == [(e.command, e.verdict) for e in examples]


@pytest.mark.parametrize("name", preset_names())
def test_the_tests_of_every_preset_hold(policy: PolicyFiles, parser: Shfmt, name: str) -> None:
    policy.write(preset_text(name))
    rows = selftest.run(policy.load(), parser.parse)
    assert rows
    assert [(r["command"], r["verdict"], r["detail"]) for r in rows if not r["ok"]] == []


@pytest.mark.parametrize("name", pages.WORKED)
def test_a_worked_page_shows_the_preset_and_each_kind_of_decision(name: str) -> None:
    assert preset_text(name).strip() in page()
    kinds = {e.verdict for e in pages.EXAMPLES[name]}
    assert kinds == ({"allow", "deny"} if name == "permissive" else {"allow", "ask", "deny"})


def test_every_key_of_the_table_of_others_is_one_of_ours() -> None:
    paths = {key.path.replace("*", "NAME") for key in keys()}
    for table in TABLES.values():
        for key in table:
            name = key.ours.replace("profiles.shell", "profiles.NAME").replace("callers.", "callers.NAME.")
            name = name.replace("rates.", "rates.NAME.")
            assert " " in name or name in ("", "rates") or name in paths, key
