"""Making any value fit for one JSON line: bounded, readable by every JSON reader, and never silently shortened. Pure.

What is cut leaves a marker with the size and the SHA-256 of the whole, so that the whole can still be proved.
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from supervisor.wire.messages import MAX_INT, dumps

MAX_DEPTH = 16
_WIDEST = 12  # bytes that one character takes in ASCII JSON at most: two escapes, \uXXXX\uXXXX


def unicode_text(text: str) -> str:
    # A lone surrogate (a file name that is not UTF-8, or "\ud800" in a request) is a JSON error to strict readers.
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def fits(text: str, limit: int) -> int:
    """How many leading characters take at most `limit` bytes inside a JSON string."""
    text = text[: max(limit, 0)]
    return bisect.bisect_right(range(1, len(text) + 1), limit, key=lambda n: len(dumps(text[:n])) - 2)


def cut(value: Any, limit: int) -> str | None:
    if value is None:
        return None
    text = unicode_text(str(value))
    if _WIDEST * len(text) <= limit or len(dumps(text)) - 2 <= limit:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    mark = f" [cut: {len(text.encode())} bytes, sha256 {digest}]"
    return text[: fits(text, limit - len(mark))] + mark


def marker(value: Any, head: Any) -> dict[str, Any]:
    """Stands for a value over its bound; size and SHA-256 are of the whole value as compact ASCII JSON."""
    whole = dumps(value).encode()
    return {"truncated": True, "bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest(), "head": head}


def within(value: Any, limit: int) -> Any:
    return value if len(dumps(value)) <= limit else marker(value, None)


def list_within(value: Iterable[Any], limit: int) -> list[Any]:
    whole = [safe(v) for v in value]
    return whole if len(dumps(whole)) <= limit else [marker(whole, None)]


def args_within(value: Sequence[str] | str, limit: int) -> Any:
    whole: str | list[str] = unicode_text(value) if isinstance(value, str) else [unicode_text(str(v)) for v in value]
    if len(dumps(whole)) <= limit:
        return whole
    if isinstance(whole, str):
        return marker(whole, whole[: fits(whole, limit)])
    head: list[str] = []
    left = limit
    for arg in whole:
        head.append(arg[: fits(arg, left)])
        left -= len(dumps(head[-1])) + 1
        if left <= 0 or head[-1] != arg:
            break
    return marker(whole, head)


def safe(value: Any, depth: int = MAX_DEPTH - 4) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if -MAX_INT <= value <= MAX_INT else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return unicode_text(value)
    if depth == 0:
        return "<nested too deep>"
    if isinstance(value, Mapping):
        return {unicode_text(str(k)): safe(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [safe(v, depth - 1) for v in value]
    return f"<{type(value).__name__}>"  # never its repr: that is where secrets leak


def plain(value: Any, depth: int) -> bool:
    """Whether every JSON reader reads this as it was written."""
    if value is None or value is True or value is False:
        return True
    kind = type(value)
    if kind is str:
        return bool(value.isascii()) or not any("\ud800" <= c <= "\udfff" for c in value)
    if kind is int:
        return bool(-MAX_INT <= value <= MAX_INT)
    if kind is float:
        return math.isfinite(value)
    if depth == 0:
        return False
    if kind is dict:
        return all(plain(k, 0) and plain(v, depth - 1) for k, v in value.items())
    if kind is list:
        return all(plain(v, depth - 1) for v in value)
    return False
