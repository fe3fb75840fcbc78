"""What a handler is given and what it gives back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from aiohttp import web

    from supervisor.runs.model import Peer
    from supervisor.runs.service import Supervisor

NDJSON = "application/x-ndjson"


@dataclass(slots=True)
class Call:
    """One request that was let in: who asks, for what.

    `body` and `query` are of the route's models; `once` is set where a handler has to see to the idempotency key.
    """

    supervisor: Supervisor
    http: web.BaseRequest
    peer: Peer
    request_id: str
    id: str  # the {id} or {name} of the path, "" where there is none
    body: Any
    query: Any
    once: Callable[[Callable[[], Coroutine[Any, Any, Answer]]], Awaitable[Answer]] | None = None
    code: str | None = None  # of the header X-Stockade-Code: a one-time code, never logged

    @property
    def streams(self) -> bool:
        """Whether the client asked for NDJSON frames."""
        return NDJSON in self.http.headers.get("Accept", "")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response that is complete before its first byte is sent, so that it can be kept for an idempotency key."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """`value` as JSON. Header names are given with underscores."""
    data = json.dumps(value, separators=(",", ":")).encode("ascii")
    return Answer(data, status, headers={name.replace("_", "-"): text for name, text in headers.items()})
