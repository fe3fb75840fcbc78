from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest_asyncio

from supervisor.api import server
from tests.unit.api.double import Double

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@dataclass
class Api:
    """A running server, a client of it, and what stands behind it."""

    path: str
    double: Double
    http: aiohttp.ClientSession
    running: server.Running

    async def ask(self, method: str, route: str, **options: Any) -> tuple[int, Any, Any]:
        """(status, JSON, header fields) of one request."""
        async with self.http.request(method, f"http://stockade{route}", **options) as answered:
            body = await answered.read()
            return answered.status, json.loads(body) if body else None, answered.headers

    async def post(self, body: Any, route: str = "/v1/runs", **headers: str) -> tuple[int, Any, Any]:
        """POST `body` (bytes as they are, anything else as JSON)."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.ask("POST", route, data=data, headers={"Content-Type": "application/json"} | headers)

    async def raw(self, data: bytes) -> bytes:
        """Everything that the server sends on a connection of its own for these bytes, until it closes it."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        try:
            writer.write(data)
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(directory: Path, bases: list[str]) -> AsyncIterator[Api]:
    path = str(directory / "api.sock")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    listening.bind(path)
    double = Double(directory)
    running = await server.serve(double, listening, bases)  # type: ignore[arg-type]
    session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(path))
    try:
        yield Api(path, double, session, running)
    finally:
        await session.close()
        await running.stop()
        await double.close()


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with serving(tmp_path, ["/stockade-test-that-nobody-is-in"]) as found:
        yield found


@pytest_asyncio.fixture
async def api_from_inside(tmp_path: Path) -> AsyncIterator[Api]:
    """A server for which every process lies below the sessions' base."""
    async with serving(tmp_path, ["/"]) as found:
        yield found
