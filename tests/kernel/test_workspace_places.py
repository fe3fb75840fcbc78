"""A workspace below a place that a session has to itself, as /var/tmp: its name stays that of what policy granted."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.kernel.hostile import Launcher
from tests.kernel.sessions import opened, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent

pytestmark = pytest.mark.root

PYTHON = "/usr/bin/python3"
GOOD = "echo good\n"
# Every directory above the workspace, from the top: away, under another name, or another in its place.
ATTACK = """
import ctypes, json, os, sys
workspace, place = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
done = []
tops = []
while workspace != place:
    tops.insert(0, workspace)
    workspace = os.path.dirname(workspace)
os.mkdir("/var/tmp/other")
for top in tops:
    for name, attempt in {
        "rename": lambda: os.rename(top, "/var/tmp/away"),
        "rename beside": lambda: os.rename(top, top + "-away"),
        "replace": lambda: os.rename("/var/tmp/other", top),
        "exchange": lambda: libc.renameat2(-100, b"/var/tmp/other", -100, top.encode(), 2) and 1 / 0,
        "remove": lambda: os.rmdir(top),
        "make beside": lambda: os.mkdir(top + "-new") if top != tops[0] else 1 / 0,
    }.items():
        try:
            attempt()
            done.append(name + " " + top)
        except (OSError, ZeroDivisionError):
            pass
if done:
    os.makedirs(tops[-1], exist_ok=True)
    with open(tops[-1] + "/x.sh", "w") as f:
        f.write("echo evil")
print(json.dumps(done))
"""


@pytest.fixture(scope="module")
def launcher(ground: Path, agent: Agent) -> Iterator[Launcher]:
    with Launcher(ground, agent) as made:
        policy = made.root / "etc" / "policy.toml"
        policy.write_text(policy.read_text().replace(f'["{ground}/*"]', f'["{ground}/**"]'))
        made.reload()
        yield made


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_no_run_puts_another_directory_in_the_place_of_the_workspace(
    launcher: Launcher, workspace: Path, below: str
) -> None:
    """Or else what policy granted, and a person approved, would be another's from the next run on."""
    place = workspace / below
    place.mkdir(parents=True, exist_ok=True)
    (place / "x.sh").write_text(GOOD)
    for path in (place, place / "x.sh"):
        os.chown(path, launcher.agent.uid, launcher.agent.gid)
    held = {"x.sh": hashlib.sha256(GOOD.encode()).hexdigest()}
    with opened(launcher, place, launcher.snapshot.digest()) as session:
        tried = run(launcher, session.session, place, PYTHON, "-c", ATTACK, str(place), "/var/tmp")
        assert tried.ended.exit_code == 0, tried
        assert json.loads(tried.out) == []
        for more in ({}, {"held": held}):
            said = run(launcher, session.session, place, "/bin/sh", f"{place}/x.sh", **more)
            assert (said.out, said.err) == ("good\n", ""), said


def test_what_lies_beside_is_the_sessions_own_as_ever(launcher: Launcher, workspace: Path) -> None:
    with opened(launcher, workspace, launcher.snapshot.digest()) as session:
        script = 'cd /var/tmp && mkdir -p a/b && mv a c && touch c/b/x && ls c/b && touch "$0/made"'
        said = run(launcher, session.session, workspace, "/bin/sh", "-c", script, str(workspace))
    assert (said.ended.exit_code, said.out) == (0, "x\n"), said
    assert (workspace / "made").exists()
