"""A supervisor between real peers: everything of main but the HTTP."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from supervisor.audit.client import AuditClient
from supervisor.layout import layout
from supervisor.runs.model import RunRequest
from supervisor.runs.service import Supervisor
from supervisor.runtimes.native import LauncherClient
from supervisor.wire import framing
from tests.unit.decide.samples import caller, peer, profile, snapshot
from tests.unit.runs.peers import AuditorPeer, LauncherPeer, LocalParser

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from supervisor.runs.bus import Subscription
    from supervisor.runs.model import Peer, Run

AGENT, STRANGER, VIEWER, ADMINISTRATOR = peer(1000), peer(2000), peer(3000), peer(0)


class World:
    """The service, its peers, and a workspace."""

    def __init__(self, root: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.root = root
        self.workspace = str(root / "agents" / "a")
        os.makedirs(self.workspace)
        for name in ("state", "other"):
            (root / name).mkdir()
        granted = {"workspaces": (f"{root}/agents/*",), "profiles": ("shell",)}
        self.snapshot = snapshot(
            caller(**granted),
            caller(uid=2000, **granted),
            caller(uid=3000, role="viewer", **granted),
            caller(uid=0, role="administrator", **granted),
            profiles=(profile(), profile("other")),
        )
        ours, theirs = framing.pair()
        self.launcher = LauncherPeer(theirs, self.snapshot)
        audit_ours, audit_theirs = framing.pair()
        self.auditor = AuditorPeer(audit_theirs, self.launcher)
        self.client = LauncherClient(ours)
        self.audit = AuditClient(audit_ours, loop)
        self.layout = layout(str(root))
        self.parser = LocalParser()
        self.supervisor = Supervisor(self.client, self.audit, self.parser, self.layout, "0.0")
        self.launcher.start()
        self.auditor.start()

    async def run(self, *argv: str, who: Peer = AGENT, **changes: Any) -> Run:
        return await self.supervisor.start(who, self.request(*argv, **changes), "req-1")

    def request(self, *argv: str, **changes: Any) -> RunRequest:
        if "session" not in changes:
            changes.setdefault("workspace", self.workspace)
        return RunRequest(argv=argv or None, **changes)

    async def close(self) -> None:
        await self.supervisor.close()
        self.parser.close()
        self.client.close()
        self.audit.close()
        self.auditor.join(10)
        self.launcher.join(10)
        self.launcher.sock.close()
        self.auditor.sock.close()
        assert not self.auditor.is_alive()
        assert not self.launcher.is_alive()


@pytest_asyncio.fixture
async def worlds(tmp_path: Path) -> AsyncIterator[Callable[[], World]]:
    """Makes worlds in one directory, as one service after another; each is closed."""
    import asyncio

    made: list[World] = []
    before = len(os.listdir("/proc/self/fd"))

    def make(root: Path = tmp_path) -> World:
        made.append(World(root / str(len(made)), asyncio.get_running_loop()))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for each in made:
        assert os.listdir(each.layout.spool) == []


@pytest_asyncio.fixture
async def world(worlds: Callable[[], World]) -> World:
    made = worlds()
    await made.supervisor.load()
    return made


@pytest.fixture
def events() -> Iterator[Callable[[World], Subscription]]:
    """What an administrator sees of a world, from now on."""
    made: list[Subscription] = []

    def of(world: World) -> Subscription:
        made.append(world.supervisor.subscribe(ADMINISTRATOR))
        return made[-1]

    yield of
    for each in made:
        each.close()
