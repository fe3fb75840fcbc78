"""A book, its store and its clock, gone after the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.unit.approvals.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(str(tmp_path / "decisions.db"))
    await made.start()
    yield made
    await made.stop()
