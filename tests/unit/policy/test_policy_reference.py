"""Reference: every key has an enforcer and a probe, and the page in docs/ is the one that the model makes."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor.policy import units
from supervisor.policy.confining import CEILING_LIMITS, Limits, Profile
from supervisor.policy.reference import PAGE as EXAMPLE
from supervisor.policy.reference import keys, page
from supervisor.policy.snapshot import Limits as CompiledLimits

if TYPE_CHECKING:
    from conftest import PolicyFiles

DOCS = Path(__file__).resolve().parents[3] / "docs" / "policy.md"

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
