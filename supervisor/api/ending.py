"""Orders that are carried out to their end, whether or not their client is still there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

_begun: set[asyncio.Task[Any]] = set()  # the loop itself only holds weak references to tasks


async def to_the_end(order: Coroutine[Any, Any, T]) -> T:
    """The result of an order that concerns everybody: once begun it is carried out though its client be gone.

    Half a reload would leave main and launcher with different policies, half a stop would not outlive a restart, half
    an answer would be durable and unknown to whoever waits for it.
    """
    task = asyncio.create_task(order)
    _begun.add(task)
    task.add_done_callback(_begun.discard)
    return await asyncio.shield(task)
