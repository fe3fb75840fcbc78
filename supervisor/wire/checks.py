"""What a message may hold: a check for each kind of field, a function of a value that was read from JSON."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import field
from typing import Any

MAX_ARGS = 4096
MAX_TEXT = 96 * 1024  # bytes of argv and env together
MAX_INT = 2**53  # the largest integer that every JSON reader keeps exactly
MAX_HELD = 8  # files of the workspace that one run holds

Check = Callable[[Any], bool]

# The limits a request may narrow, as integers: bytes, percent of one CPU, counts, milliseconds.
LIMITS = ("memory", "cpu", "processes", "files", "output", "disk", "tmp", "timeout_ms", "idle_timeout_ms")

ID = re.compile(r"(?:ses|run)-[0-9a-z]{8,32}")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")


def integer(low: int, high: int = MAX_INT) -> Check:
    return lambda v: type(v) is int and low <= v <= high


def text(limit: int, *, empty: bool = True) -> Check:
    return lambda v: type(v) is str and (empty or v != "") and len(v) <= limit and "\0" not in v


def match(pattern: re.Pattern[str]) -> Check:
    return lambda v: type(v) is str and pattern.fullmatch(v) is not None


def one_of(*values: str) -> Check:
    return lambda v: type(v) is str and v in values


def boolean(v: Any) -> bool:
    return type(v) is bool


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) + 1


def argv(v: Any) -> bool:
    if type(v) is not list or not 1 <= len(v) <= MAX_ARGS:
        return False
    return all(text(MAX_TEXT)(a) for a in v) and v[0] != "" and sum(map(_size, v)) <= MAX_TEXT


def environment(v: Any) -> bool:
    if type(v) is not dict or len(v) > MAX_ARGS:
        return False
    for name, value in v.items():
        if not text(256, empty=False)(name) or "=" in name or not text(MAX_TEXT)(value):
            return False
    return sum(_size(n) + _size(x) for n, x in v.items()) <= MAX_TEXT


def limits(v: Any) -> bool:
    return type(v) is dict and all(k in LIMITS and integer(1)(x) for k, x in v.items())


def path(v: Any) -> bool:
    return text(4095)(v) and v.startswith("/")


def beneath(v: Any) -> bool:
    """A path relative to a workspace, written the way the kernel resolves it, and not the workspace itself."""
    return text(4095, empty=False)(v) and all(part not in ("", ".", "..") for part in v.split("/"))


def held(v: Any) -> bool:
    return type(v) is dict and len(v) <= MAX_HELD and all(beneath(k) and match(DIGEST)(x) for k, x in v.items())


def file(v: Any) -> bool:
    """What Inspected says of one file."""
    fields = {"path": beneath, "sha256": match(DIGEST), "size": integer(0), "head": text(4096)}
    return type(v) is dict and v.keys() == fields.keys() and all(check(v[name]) for name, check in fields.items())


def table(v: Any) -> bool:
    return type(v) is dict


def list_of(check: Check, fewest: int, most: int) -> Check:
    return lambda v: type(v) is list and fewest <= len(v) <= most and all(check(x) for x in v)


def maybe(check: Check) -> Check:
    return lambda v: v is None or check(v)


def checked(check: Check, default: Any = ...) -> Any:
    """A field of a message; a default may be left out by who makes one, not on the wire. `dict` makes an empty one."""
    if default is ...:
        return field(metadata={"check": check})
    if default is dict:
        return field(default_factory=dict, metadata={"check": check})
    return field(default=default, metadata={"check": check})
