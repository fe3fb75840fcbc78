"""Questions without end: what they cost the service, and everybody else."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import asked, decisions, post_run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Agent

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, decisions(uid_range())) as running:
        yield running


def most(pid: int) -> int:
    """Bytes of memory that a process has held at once: VmHWM of proc_pid_status(5)."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1]) << 10  # type: ignore[index]


def test_who_asks_for_long_lists_and_does_not_read_them_costs_no_memory(daemon: Daemon, workspace: Path) -> None:
    for n in range(100):
        asked(post_run(daemon, workspace, script=f"touch asked {n}\n#{'a' * 60_000}"))
    before = most(daemon.pid)
    with contextlib.ExitStack() as opened:
        for _ in range(32):
            connection = opened.enter_context(contextlib.closing(daemon.connect()))
            connection.request("GET", "/v1/approvals?limit=1000")
            assert connection.getresponse().status == 200
        whole = daemon.request("GET", "/v1/approvals?limit=1000")
        assert len(whole.body) > 100 * 60_000
        assert len(whole.json["approvals"]) == 100
        assert most(daemon.pid) - before < 16 << 20
    assert daemon.request("GET", "/v1/approvals?state=denied").json == {"approvals": []}
