"""Idempotency keys: the same request sent twice is carried out once (R30).

A key belongs to the uid that sent it. What is kept is the whole answer of what was carried out; a refusal is not
kept, because nothing was done and the same request may be allowed later. Bounded in number, in bytes and in time;
what is still in flight is never put out.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.errors import IdempotencyMismatch, InvalidRequest, LimitReached, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from supervisor.api.call import Answer

MAX_KEYS = 10_000
TTL_SECONDS = 3600.0
MAX_BYTES = 64 << 20  # of kept answers together

_KEY = re.compile(r"[!-~]{1,128}", re.ASCII)


def digest(method: str, target: str, form: str, body: bytes) -> bytes:
    """What "the same request" means: SHA-256 over method, path and query, the form of the answer, and the body."""
    found = hashlib.sha256()
    for part in (method.encode(), target.encode("utf-8", "surrogateescape"), form.encode(), body):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.digest()


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@dataclass(slots=True)
class _Entry:
    digest: bytes
    task: asyncio.Task[Answer]
    expires: float
    waiting: int = 0
    size: int = 0
    done: bool = False


class Keys:
    """Every key that is remembered, oldest first. `clock` counts seconds."""

    def __init__(
        self,
        *,
        keys: int = MAX_KEYS,
        size: int = MAX_BYTES,
        ttl: float = TTL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._size = size
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[tuple[int, str], _Entry] = OrderedDict()
        self._kept = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def once(self, uid: int, key: str, what: bytes, make: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """The answer of `make()`, or of the earlier request with this key.

        Every client that waits for one in flight gets the same answer; when the last of them is gone the work is
        cancelled. Raises InvalidRequest for an impossible key, IdempotencyMismatch when the key was used for
        something else, LimitReached when only requests in flight are remembered, and whatever `make` raises.
        """
        if _KEY.fullmatch(key) is None:
            raise InvalidRequest(
                "Idempotency-Key is not usable",
                field="Idempotency-Key",
                allowed="1 to 128 visible ASCII characters",
                hint="use a fresh UUID for each request",
            )
        self._expire()
        name = (uid, key)
        entry = self._entries.get(name)
        if entry is not None and entry.done and entry.expires <= self._clock():
            self._forget(name, entry)  # one still in flight before it has kept _expire() from reaching it
            entry = None
        if entry is None:
            self._make_room()
            task = asyncio.create_task(make())
            entry = self._entries[name] = _Entry(what, task, self._clock() + self._ttl)
            task.add_done_callback(lambda _: self._settle(name, entry))
        elif entry.digest != what:
            raise IdempotencyMismatch(
                "this Idempotency-Key was used for another request",
                field="Idempotency-Key",
                hint="send the first request again unchanged, or use a fresh key",
            )
        return await self._share(entry)

    async def _share(self, entry: _Entry) -> Answer:
        entry.waiting += 1
        try:
            return await asyncio.shield(entry.task)
        except asyncio.CancelledError:
            if entry.task.cancelled() and not _cancelling():
                raise Unavailable("the request with this key was given up before it started; send it again") from None
            if entry.waiting == 1 and not entry.task.done():
                entry.task.cancel()
            raise
        finally:
            entry.waiting -= 1

    def _settle(self, name: tuple[int, str], entry: _Entry) -> None:
        task = entry.task
        if task.cancelled() or task.exception() is not None:
            self._forget(name, entry)
            return
        entry.done = True
        entry.size = len(task.result().body)
        self._kept += entry.size
        while self._kept > self._size and self._put_out():
            pass

    def _expire(self) -> None:
        now = self._clock()
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            if entry.expires > now or not entry.done:
                return
            self._forget(name, entry)

    def _make_room(self) -> None:
        while len(self._entries) >= self._keys:
            if not self._put_out():
                raise LimitReached("too many requests with an Idempotency-Key are in flight", retry_after=1)

    def _put_out(self) -> bool:
        found = next(((n, e) for n, e in self._entries.items() if e.done), None)
        if found is not None:
            self._forget(*found)
        return found is not None

    def _forget(self, name: tuple[int, str], entry: _Entry) -> None:
        if self._entries.get(name) is entry:
            del self._entries[name]
            self._kept -= entry.size
