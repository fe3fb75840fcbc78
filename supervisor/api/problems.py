"""Errors on the wire: application/problem+json, RFC 9457."""

from __future__ import annotations

import json
import secrets
from math import ceil
from typing import TYPE_CHECKING, Any

from aiohttp import web

from supervisor.api import views
from supervisor.errors import ApprovalRequired, LimitReached, Stopped, Unavailable

if TYPE_CHECKING:
    from supervisor.errors import StockadeError

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1  # where the error does not know better


def new_request_id() -> str:
    return f"req-{secrets.token_hex(8)}"


def headers(error: StockadeError, request_id: str) -> dict[str, str]:
    """The header fields that go with an error.

    `extra["retry_after"]` is in seconds, `extra["allow"]` a list, `extra["approval"]` the id of the question asked.
    """
    found = {"X-Request-Id": request_id}
    if isinstance(error, (LimitReached, Stopped, Unavailable)) and error.retry == "later":
        found["Retry-After"] = str(max(1, ceil(error.extra.get("retry_after", RETRY_AFTER_SECONDS))))
    if "allow" in error.extra:
        found["Allow"] = ", ".join(error.extra["allow"])
    if isinstance(error, ApprovalRequired) and "approval" in error.extra:
        found["Location"] = f"/v1/approvals/{error.extra['approval']}"
    return found


def members(error: StockadeError, request_id: str) -> dict[str, Any]:
    """The problem document of an error; `instance` ties it to the logs."""
    return views.timed({**error.as_dict(), "instance": f"urn:stockade:request:{request_id}"})


def response(error: StockadeError, request_id: str) -> web.Response:
    return web.Response(
        body=json.dumps(members(error, request_id), default=str).encode("ascii"),
        status=error.status,
        content_type=CONTENT_TYPE,
        headers=headers(error, request_id),
    )


def raw(error: StockadeError, request_id: str) -> bytes:
    """A whole HTTP/1.1 response, for a connection that is not let in."""
    body = json.dumps(members(error, request_id)).encode("ascii")
    fields = {
        "Content-Type": CONTENT_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers(error, request_id),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {error.status} {error.code}\r\n{head}\r\n".encode("ascii") + body
