"""Where attacks happen: a place for canaries beside the workspaces, and a live session."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import REPOSITORY, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Agent


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    """A service that refuses and asks nothing by what a command looks like: the kernel alone has to hold."""
    text = (REPOSITORY / "policies" / "default.toml").read_text()
    text = re.sub(r"blocked_commands = \[[^\]]*\]", "blocked_commands = []", text, count=1)
    text = re.sub(r"(?s)\[\[tests\]\].*", "", text).replace('level = "supervised"', 'level = "full"')
    with Daemon(ground, agent, sys.executable, text) as running:
        yield running


@pytest.fixture
def area(ground: Path) -> Iterator[Path]:
    """A directory of the host beside the workspaces, for canaries; open to everybody who gets there."""
    made = subprocess.run(["mktemp", "-d", f"{ground}/area-XXXXXXXX"], check=True, capture_output=True, text=True)
    path = Path(made.stdout.strip())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def control_workspace(area: Path) -> Path:
    made = area / "control"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def session(daemon: Daemon, workspace: Path) -> Iterator[dict[str, Any]]:
    """A live session in `workspace`."""
    opened = daemon.request("POST", "/v1/sessions", {"workspace": str(workspace)})
    assert opened.status == 201, opened.body.decode()
    yield opened.json
    daemon.request("DELETE", f"/v1/sessions/{opened.json['id']}")
