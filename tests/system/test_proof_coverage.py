"""Every policy key has an enforcer and a probe, and every probe is one that a serving profile really passed.

The table of keys is walked against what a running service says of itself (GET /v1/doctor), so a key whose probe was
renamed, removed or is skipped for some profile fails here.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.launcher import proofs as of_launcher
from supervisor.layout import layout
from supervisor.policy.load import load
from supervisor.policy.reference import keys
from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.faults import policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from supervisor.policy.reference import KeyInfo
    from tests.harness import Agent

SECOND = """
[profiles.narrow]               # as unlike the first as can be: nothing of the workspace is writable
read = ["/usr", "/bin", "/lib", "/lib64", "$WORKSPACE"]
write = ["/tmp"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
network = "loopback"
workspace_owner = "shared"
required = []
shell = "/bin/sh"
limits = { memory = "64M", cpu = "50%", processes = 16, files = 64, output = "1M", disk = "8M", timeout = "5s" }
"""


def _named(key: KeyInfo) -> str:
    return key.path


@pytest.mark.parametrize("key", keys(), ids=_named)
def test_every_key_names_its_enforcer_and_its_probe(key: KeyInfo) -> None:
    assert len(key.enforcer.strip()) > 3
    assert key.probe.isidentifier()
    assert key.meaning.strip()


@pytest.fixture(scope="module")
def rows(ground: Path, agent: Agent) -> Iterator[list[dict[str, Any]]]:
    """Every proof that a running service says it has, of two profiles."""
    with Daemon(ground, agent, sys.executable, policy(uid_range()) + SECOND) as running:
        yield running.request("GET", "/v1/doctor", root=True).json["proofs"]


@pytest.mark.root
@pytest.mark.parametrize("key", keys(), ids=_named)
def test_the_probe_of_every_key_ran_for_every_profile(key: KeyInfo, rows: list[dict[str, Any]]) -> None:
    proved = {row["profile"] for row in rows if row["probe"] == key.probe}
    assert proved == {"shell", "narrow"}, f"{key.path}: no proof called {key.probe}"


@pytest.mark.root
def test_every_proof_holds_and_says_what_was_seen(rows: list[dict[str, Any]]) -> None:
    assert [row for row in rows if not row["ok"]] == []
    assert all(row["detail"] and row["source"] for row in rows)
    pairs = [(row["profile"], row["probe"]) for row in rows]
    assert len(pairs) == len(set(pairs)), "one row for each profile and probe"


@pytest.mark.root
def test_no_proof_is_of_nothing(rows: list[dict[str, Any]]) -> None:
    """A probe that no key names is a leftover, but for the two that prove the whole."""
    named = {key.probe for key in keys()}
    assert {row["probe"] for row in rows} - named <= {"seccomp", "identity"}


@pytest.mark.root
def test_the_plan_asks_something_for_every_limit_of_a_run(ground: Path, agent: Agent) -> None:
    daemon = Daemon(ground, agent, sys.executable, policy(uid_range()))
    try:
        shell = load(layout(str(daemon.root))).profiles[0]
    finally:
        daemon.__exit__()
    asked = of_launcher.plan(of_launcher.narrowed(shell), shell.limits)
    limits = {key.path.rpartition(".")[2] for key in keys() if key.path.startswith("profiles.*.limits.")}
    assert limits - set(asked) == {"output", "idle_timeout"}, "those two are main's to enforce and to prove"
    without = of_launcher.plan(replace(shell, write=("/tmp",)), shell.limits)
    assert set(asked) - set(without) == {"mark", "disk"}
