"""Every preset loads and is proved by real children on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.kernel import cgroup
from supervisor.layout import layout
from supervisor.policy.presets import preset_names, preset_text

REPOSITORY = Path(__file__).resolve().parents[2]
PROVE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.launcher.prove import main; "
    "sys.exit(main(sys.argv[2:]))"
)


@pytest.mark.root
@pytest.mark.parametrize("preset", preset_names())
def test_every_profile_of_a_preset_is_proved(preset: str, ground: Path, accounts: None, tmp_path: Path) -> None:
    """A preset is served whole: it loads without a finding and no child does what its profile forbids."""
    root = ground / f"preset-{preset}"
    where = layout(str(root))
    for directory in (where.etc, where.run, where.state, where.log):
        os.makedirs(directory, mode=0o755)
    Path(where.policy).write_text(preset_text(preset))
    answer = tmp_path / "answer"
    try:
        with open(answer, "wb") as f:
            fields = (where.etc, where.run, where.state, where.log, where.instance)
            command = [sys.executable, "-I", "-c", PROVE, str(REPOSITORY), str(f.fileno()), *fields]
            subprocess.run(command, check=True, pass_fds=(f.fileno(),), timeout=60)
        found = json.loads(answer.read_bytes())
        assert "error" not in found, found
        failed = [proof for proof in found["proofs"] if not proof["ok"]]
        assert not failed, failed
        assert {p["name"] for p in found["snapshot"]["profiles"]} == {proof["profile"] for proof in found["proofs"]}
        assert os.listdir(where.state) == []
        assert os.listdir(where.run) == []
    finally:
        cgroup.detect(where.instance).remove()
        shutil.rmtree(root)
