"""Where attacks happen: a place for canaries beside the workspaces, and a live session."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Daemon


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
