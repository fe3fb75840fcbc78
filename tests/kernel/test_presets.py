"""Every preset loads and is proved by real children on this machine, also when it stalls for a moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel import cgroup
from supervisor.layout import layout
from supervisor.policy.presets import preset_names, preset_text

REPOSITORY = Path(__file__).resolve().parents[2]
PROVE = """
import sys
sys.path.insert(0, sys.argv[1])
from supervisor.launcher import proofs
{change}
from supervisor.launcher.prove import main
sys.exit(main(sys.argv[2:]))
"""
# The first judgement is what a virtual machine shows that stood still while a child was spinning.
STALLED = """
judge, judged = proofs.judge_cpu, []
def once(answer, *seconds):
    judged.append(answer)
    return judge(answer, *seconds) if len(judged) > 1 else ("cpu", False, "it stood still")
proofs.judge_cpu = once
"""
# A bound that is no bound: more than the profile itself has.
UNBOUND = "proofs._QUICK['cpu'] = 100_000"
# No host can be made to be without it, so it says that it is.
WITHOUT_SCOPE = """
from supervisor.launcher import host
layers = host.layers
def lacking(tree):
    found = layers(tree)
    found["landlock.scope"] |= {"present": False, "remedy": "boot another kernel"}
    return found
host.layers = lacking
"""

pytestmark = pytest.mark.root


def proved(preset: str, ground: Path, answer: Path, change: str = "") -> dict[str, Any]:
    """What the prover answers for a preset; nothing of it is left."""
    root = ground / f"preset-{preset}"
    where = layout(str(root))
    for directory in (where.etc, where.run, where.state, where.log):
        os.makedirs(directory, mode=0o755)
    Path(where.policy).write_text(preset_text(preset))
    try:
        with open(answer, "wb") as f:
            fields = (where.etc, where.run, where.state, where.log, where.instance)
            command = [
                sys.executable,
                "-I",
                "-c",
                PROVE.format(change=change),
                str(REPOSITORY),
                str(f.fileno()),
                *fields,
            ]
            subprocess.run(command, check=True, pass_fds=(f.fileno(),), timeout=60)
        found: dict[str, Any] = json.loads(answer.read_bytes())
        assert "error" not in found, found
        assert os.listdir(where.state) == []
        assert os.listdir(where.run) == []
        return found
    finally:
        cgroup.detect(where.instance).remove()
        shutil.rmtree(root)


@pytest.mark.parametrize("preset", preset_names())
def test_every_profile_of_a_preset_is_proved(preset: str, ground: Path, accounts: None, tmp_path: Path) -> None:
    """A preset is served whole: it loads without a finding and no child does what its profile forbids."""
    found = proved(preset, ground, tmp_path / "answer")
    failed = [proof for proof in found["proofs"] if not proof["ok"]]
    assert not failed, failed
    assert {p["name"] for p in found["snapshot"]["profiles"]} == {proof["profile"] for proof in found["proofs"]}


def test_a_machine_that_stood_still_for_a_moment_is_asked_again(ground: Path, accounts: None, tmp_path: Path) -> None:
    found = proved("default", ground, tmp_path / "answer", STALLED)
    (row,) = [row for row in found["proofs"] if row["probe"] == "cpu"]
    assert row["ok"], row
    assert "in 1.0 s" in row["detail"]


def test_a_cpu_bound_that_does_not_hold_fails_however_often_it_is_asked(
    ground: Path, accounts: None, tmp_path: Path
) -> None:
    found = proved("permissive", ground, tmp_path / "answer", UNBOUND)
    rows = [row for row in found["proofs"] if row["probe"] == "cpu"]
    assert rows
    assert not any(row["ok"] for row in rows), rows
    assert all("in 1.0 s" in row["detail"] for row in rows)


def test_a_profile_is_refused_for_the_layer_that_it_requires_and_the_host_lacks(
    ground: Path, accounts: None, tmp_path: Path
) -> None:
    for preset, holds in (("default", True), ("strict", False)):
        rows = proved(preset, ground, tmp_path / "answer", WITHOUT_SCOPE)["proofs"]
        required = [row for row in rows if row["probe"] == "required"]
        assert [row["ok"] for row in required] == [holds] * len(required)
        assert holds or all(row["detail"] == "landlock.scope: boot another kernel" for row in required)
        assert holds == any(row["probe"] == "read_outside" for row in rows), "nothing of it is tried, nor served"
