"""The units of policy and of requests: text to integers and back. One table for every limit."""

from __future__ import annotations

import re
from typing import Literal

Unit = Literal["bytes", "percent", "count", "time"]

# Wire name of each limit -> (name in TOML, unit, smallest, largest value that means anything).
LIMITS: dict[str, tuple[str, Unit, int, int]] = {
    "memory": ("memory", "bytes", 1 << 20, 1 << 50),
    "cpu": ("cpu", "percent", 1, 100_000),
    "processes": ("processes", "count", 1, 1 << 22),  # PID_MAX_LIMIT, proc(5)
    "files": ("files", "count", 8, 1 << 20),  # the default of fs.nr_open
    "output": ("output", "bytes", 1, 1 << 50),
    "disk": ("disk", "bytes", 1 << 12, 1 << 50),
    "tmp": ("tmp", "bytes", 1 << 16, 1 << 50),
    "timeout_ms": ("timeout", "time", 1, 30 * 86_400_000),
    "idle_timeout_ms": ("idle_timeout", "time", 0, 30 * 86_400_000),  # 0 is "none"
}

EXPECTED: dict[Unit, str] = {
    "bytes": 'bytes as an integer, or with K, M, G or T (powers of 1024): "512M"',
    "percent": 'percent of one CPU: "80%"; two whole CPUs are "200%"',
    "count": "an integer",
    "time": 'a time in ms, s, m or h: "500ms", "60s", "5m", "1h"',
}

_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_TIMES = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_WRITTEN = re.compile(r"([0-9]{1,16})(\D{0,3})", re.ASCII)


def parse(unit: Unit, value: object) -> int:
    """The integer that `value` stands for: bytes, percent, count or milliseconds. Raises ValueError."""
    if type(value) is int:
        if unit not in ("bytes", "count"):
            raise ValueError("a number without its unit")
        return value
    if type(value) is not str:
        raise ValueError("neither text nor an integer")
    found = _WRITTEN.fullmatch(value)
    if found is None or unit == "count":
        raise ValueError("not of this form")
    number, suffix = int(found[1]), found[2]
    factors = {"bytes": _BYTES, "percent": {"%": 1}, "time": _TIMES}[unit]
    if suffix not in factors:
        raise ValueError(f"no unit {suffix!r}" if suffix else "a number without its unit")
    return number * factors[suffix]


def show(unit: Unit, value: int) -> str:
    """The shortest text that parses back to `value`."""
    if unit == "percent":
        return f"{value}%"
    if unit == "count":
        return str(value)
    factors = _BYTES if unit == "bytes" else _TIMES
    suffix, factor = max(((s, f) for s, f in factors.items() if value % f == 0), key=lambda p: p[1] if value else -p[1])
    return f"{value // factor}{suffix}"


def show_limit(limit: str, value: int) -> str:
    """A limit's value as policy would write it; `limit` is its wire name. No idle timeout is "none"."""
    if limit == "idle_timeout_ms" and value == 0:
        return "none"
    return show(LIMITS[limit][1], value)
