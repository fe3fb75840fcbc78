"""The corpora of commands, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Entry(NamedTuple):
    """One script of a corpus. `expected` is a class and perhaps a risk; empty for what must pass."""

    expected: str
    risk: str
    script: str
    line: int


def entries(name: str) -> list[Entry]:
    """All of a corpus. Several lines stand between `<<<` at the end of a line and `>>>` alone on one."""
    found: list[Entry] = []
    lines = (HERE / name).read_text().split("\n")
    at = 0
    hostile = name == "hostile.txt"
    while at < len(lines):
        line, number = lines[at], at + 1
        at += 1
        if not line or line.startswith("##"):
            continue
        head, script = line.split(" | ", 1) if hostile and " | " in line else ("", line)
        if line.endswith("<<<") and (not hostile or not head):
            end = lines.index(">>>", at)
            head, script, at = line.removesuffix("<<<").strip(), "\n".join(lines[at:end]) + "\n", end + 1
        expected, _, risk = head.partition(" ")
        found.append(Entry(expected, risk, script, number))
    return found
