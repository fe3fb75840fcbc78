"""Fixtures that more than one kind of test needs: the service's accounts, a throwaway agent, a running service."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import Agent, Daemon, ensure_accounts, make_agent, remove_account

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root are not silently lost: without root they are skipped with that reason."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def accounts() -> Iterator[None]:
    """The users and the group of the service; those that were made here are removed again."""
    made = ensure_accounts()
    try:
        yield
    finally:
        for kind, name in reversed(made):
            remove_account(kind, name)


@pytest.fixture(scope="session")
def agent(accounts: None) -> Iterator[Agent]:
    """An ordinary user in stockade-clients."""
    name = f"stk-agent-{os.getpid() % 10000}"
    found = make_agent(name, clients=True)
    try:
        yield found
    finally:
        remove_account("user", name)


@pytest.fixture(scope="session")
def stranger(accounts: None) -> Iterator[Agent]:
    """An ordinary user who is no client."""
    name = f"stk-other-{os.getpid() % 10000}"
    found = make_agent(name, clients=False)
    try:
        yield found
    finally:
        remove_account("user", name)


@pytest.fixture(scope="session")
def ground() -> Iterator[Path]:
    """A directory on a real file system that everybody may enter, for roots and workspaces."""
    made = subprocess.run(["mktemp", "-d", "/var/tmp/stk-XXXXXXXX"], check=True, capture_output=True, text=True)
    path = Path(made.stdout.strip())
    path.chmod(0o755)
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


@pytest.fixture
def workspace(ground: Path, agent: Agent) -> Iterator[Path]:
    """An empty workspace that belongs to the agent."""
    made = subprocess.run(["mktemp", "-d", f"{ground}/ws-XXXXXXXX"], check=True, capture_output=True, text=True)
    path = Path(made.stdout.strip())
    os.chown(path, agent.uid, agent.gid)
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", str(path)], check=True)


@pytest.fixture
def within_one_hour() -> None:
    """For what counts by hours of a clock that no test can set: a test that would be in two of them waits."""
    left = 3600 - time.time() % 3600
    if left < 45:
        time.sleep(left + 0.5)


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    """A whole service below a directory of its own, with the default policy."""
    with Daemon(ground, agent, sys.executable) as running:
        yield running
