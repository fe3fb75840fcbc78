"""scripts/bench measures everything that it promises and takes itself away again. No word on speed in here."""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.layout import layout

pytestmark = [pytest.mark.root, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = (
    "posix_spawn, bare",
    "bubblewrap",
    "Stockade, live session",
    "Stockade, live session, a connection each",
    "Stockade, a new session each",
    "`stockade run -- true`",
    "1 client in a live session",
    "2 clients in one session",
    "2 clients, each its session",
    "2 clients, a new session each run",
    "2 clients, bubblewrap",
    "decide: run in a live session",
    "decide: run in a new session, beside 200",
    "policy: narrow three limits",
    *(
        f"{many}: {what}"
        for many in ("1 idle session", "2 idle sessions")
        for what in (
            "opened",
            "memory of each",
            "memory of the service",
            "CPU of the service",
            "live run beside them",
        )
    ),
)


def processes_below(root: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(word.startswith(root.encode()) for word in words):
            found.append(str(path))
    return found


@pytest.mark.timeout(300)
def test_the_table_has_every_row_and_nothing_is_left_behind(tmp_path: Path) -> None:
    """Users, directories, processes and cgroups: all that a measurement makes is gone when it ends."""
    raw = tmp_path / "raw.json"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", "--smallest", "--seed", "7", "--json", str(raw)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    printed = [line.split(" | ")[0].removeprefix("| ") for line in done.stdout.splitlines() if line.startswith("| ")]
    facts = json.loads(raw.read_text())
    assert not set(ROWS) - set(printed)
    assert printed[2:] == [row["what"] for row in facts["rows"]]
    assert facts["seed"] == 7

    assert not Path(facts["root"]).parent.exists()
    assert facts["agent"] not in {entry.pw_name for entry in pwd.getpwall()}
    assert processes_below(str(Path(facts["root"]).parent)) == []
    instance = layout(facts["root"]).instance
    assert [str(path) for path in Path("/sys/fs/cgroup").rglob(instance)] == []
