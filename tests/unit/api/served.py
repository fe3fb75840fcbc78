"""The real service behind a real socket; the caller is the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import aiohttp

from supervisor.api import server
from supervisor.policy.snapshot import Approvals, Autonomy, Role
from tests.unit.decide.samples import caller, peer
from tests.unit.runs.conftest import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

OTHER = peer(424242)  # somebody else, who may do everything


class Served:
    """A real service behind a real socket; the caller is this process, with a role that a test declares."""

    def __init__(self, world: World, http: aiohttp.ClientSession) -> None:
        self.world = world
        self.http = http

    async def role(self, *permissions: str, autonomy: Autonomy | None = None, **changes: Any) -> None:
        """From now on the caller may do this and nothing else; `changes` are of its entry."""
        workspaces = (f"{self.world.root}/agents/*",)
        ours = caller(uid=os.getuid(), role="tested", workspaces=workspaces, any_owner=True, **changes)
        somebody = caller(uid=OTHER.uid, role="administrator")
        self.world.launcher.snapshot = replace(
            self.world.snapshot,
            callers=(ours, somebody),
            roles=(Role("tested", permissions), Role("wanted", ("agent:read",))),
            autonomy=autonomy or Autonomy(),
            approvals=Approvals(source="policy.toml:90"),
        )
        await self.world.supervisor.reload(None)

    async def ask(self, method: str, route: str, body: Any = None) -> tuple[int, Any]:
        """(status, JSON); of a stream only its first line matters, and that it began."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        async with self.http.request(method, f"http://stockade{route}", data=data, headers=headers) as answered:
            if answered.content_type == "text/event-stream":
                return answered.status, None
            got = await answered.read()
            return answered.status, json.loads(got) if got and "json" in answered.content_type else None


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Served]:
    world = World(directory / "w", asyncio.get_running_loop())
    path = str(directory / "api.sock")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    listening.bind(path)
    await world.supervisor.load()
    running = await server.serve(world.supervisor, listening, ["/stockade-test-that-nobody-is-in"])
    http = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))
    try:
        yield Served(world, http)
    finally:
        await http.close()
        await running.stop()
        await world.close()
