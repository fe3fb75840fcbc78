"""How a check says what it found: a finding at the place of the entry, with what to do as `expected`."""

from __future__ import annotations

from supervisor.policy.findings import Finding, finding


def warn(source: str, key: str, message: str, expected: str | None = None, *, severity: str = "warning") -> Finding:
    """`source` is FILE:LINE as entries of a snapshot carry it."""
    file, _, line = source.rpartition(":")
    return finding(file, int(line) if line.isdecimal() else 1, key, message, expected=expected, severity=severity)


def note(source: str, key: str, message: str, expected: str | None = None) -> Finding:
    """What may well be meant, and is worth knowing."""
    return warn(source, key, message, expected, severity="info")
