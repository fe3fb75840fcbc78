"""One policy file as typed tables, with a finding for everything in it that is not as the model says."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor.policy import check
from supervisor.policy.findings import Finding, finding
from supervisor.policy.locate import Lines, Loc, lines

if TYPE_CHECKING:
    from supervisor.policy.model import Policy
    from supervisor.policy.read import Source

_SYNTAX = re.compile(r"(.*?)\s*\(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class File:
    source: Source
    raw: dict[str, Any]
    lines: Lines
    policy: Policy
    places: check.Places  # for each list of tables: the index in the file of every entry that is valid
    broken: frozenset[str]  # sections with a finding of their own

    def at(self, loc: Loc) -> str:
        """FILE:LINE of a key path."""
        return f"{self.source.path}:{self.lines.of(loc)}"

    def where(self, section: str) -> str:
        """FILE:LINE of a table, also where the file leaves it out."""
        return self.at((section,)) if section in self.raw else f"{self.source.path}:1"

    def names(self, section: str) -> list[str]:
        """The names in a table of tables as they are written, so also of entries that are not valid."""
        table = self.raw.get(section)
        return list(table) if isinstance(table, dict) else []

    def written(self, loc: Loc) -> bool:
        """Whether a place is there in the file, and not a default."""
        value: Any = self.raw
        for part in loc:
            if isinstance(value, dict) and part not in value:
                return False
            value = value[part]
        return True


def parse(source: Source, found: list[Finding]) -> File | None:
    """One file as tables, or None when it is no TOML at all. What is wrong is added to `found`."""
    try:
        text = source.data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = source.data.count(b"\n", 0, e.start) + 1
        found.append(finding(source.path, line, "", f"byte {e.start} is not UTF-8", expected="text in UTF-8"))
        return None
    if text.startswith("\ufeff"):  # invisible in most editors, and TOML 1.0 has no place for it
        expected = "the file without its first three bytes"
        found.append(finding(source.path, 1, "", "it begins with a byte order mark", expected=expected))
        return None
    try:
        raw = tomllib.loads(text)
        located = lines(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as e:
        found.append(_syntax(source.path, text, str(e)))
        return None
    except (RecursionError, ValueError) as e:
        said = "tables or lists are nested too deeply" if isinstance(e, RecursionError) else "a value is out of bounds"
        found.append(finding(source.path, 1, "", said, expected="a policy as docs/policy.md describes it"))
        return None
    policy, places, wrong = check.tables(source.path, raw, located)
    found += wrong
    broken = frozenset(re.split(r"[.\[]", f["key"], maxsplit=1)[0] for f in wrong)
    return File(source, raw, located, policy, places, broken)


def _syntax(path: str, text: str, said: str) -> Finding:
    """tomllib's sentence; its place is only in the text before Python 3.14."""
    found = _SYNTAX.fullmatch(said)
    message, line, column = found.groups() if found else (said, None, None)
    last = text.rstrip().count("\n") + 1
    return finding(
        path,
        int(line) if line else last,
        "",
        message[:200],
        expected="TOML 1.0",
        column=int(column) if column else None,
    )
