"""A policy in the making: a preset with its comments, in which single keys are set. Pure but for the preset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import tomlkit

from supervisor.policy.presets import preset_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tomlkit.items import AoT, Table


_MOST_IN_LINE = 8  # entries of a list


class Draft:
    """Holds the document. What is set replaces a value in its place, so that the comments around it stay."""

    def __init__(self, preset: str) -> None:
        self._doc = tomlkit.parse(_without_tests(preset_text(preset)))
        self.preset = preset
        self.imported: dict[str, Any] = {}  # what keys that have to do with one another have said so far

    def get(self, *path: str) -> Any:
        """The plain value at a path, or None."""
        at: Any = self._doc.unwrap()
        for part in path:
            at = at.get(part) if isinstance(at, dict) else None
        return at

    def set(self, *path: str, value: Any) -> None:
        """Set a key of a table; tables on the way are made."""
        table: Any = self._doc
        for part in path[:-1]:
            if part not in table:
                table[part] = tomlkit.table()
            table = table[part]
        table[path[-1]] = _lines(value) if isinstance(value, list) and len(value) > _MOST_IN_LINE else value

    def profiles(self) -> list[str]:
        return list(self.get("profiles") or {})

    def each_caller(self) -> list[Table]:
        return list(cast("AoT", self._doc["callers"]))

    def add(self, section: str, entry: dict[str, Any], comment: str) -> None:
        """One more entry of a list of tables."""
        if section not in self._doc:
            self._doc.append(section, tomlkit.aot())
        table = tomlkit.table()
        table.comment(comment)
        for name, value in entry.items():
            table.add(name, value)
        cast("AoT", self._doc[section]).append(table)

    def add_to(self, *path: str, values: Iterable[str], keep: bool = False) -> None:
        """Put values into a list. The first key that has some replaces the preset's, unless they are `keep`t."""
        name = ".".join(path)
        kept = list(self.get(*path) or []) if keep or name in self.imported else []
        if not keep:
            self.imported[name] = True
        self.set(*path, value=list(dict.fromkeys([*kept, *values])))

    def set_entry(self, section: str, scope: str, name: str, value: Any) -> None:
        """Set a key of the first entry of a list of tables that has this scope."""
        for entry in cast("AoT", self._doc[section]):
            if entry.get("scope", "agent") == scope:
                entry[name] = value
                return

    def text(self, head: list[str]) -> str:
        """The file, with `head` as its first comment in place of the preset's own."""
        body = tomlkit.dumps(self._doc)
        lines = body.split("\n")
        first = next((n for n, line in enumerate(lines) if not line.startswith("#")), 0)
        kept = "\n".join(lines[first:]).lstrip("\n").rstrip()
        return "\n".join([*(f"# {line}".rstrip() for line in head), "", kept, ""])


def _without_tests(text: str) -> str:
    """A preset without its [[tests]], which stand last and are about its own lists."""
    lines = text.partition("[[tests]]")[0].rstrip().split("\n")
    while lines and lines[-1].startswith("#"):
        lines.pop()
    return "\n".join(lines).rstrip() + "\n"


def _lines(value: list[Any]) -> Any:
    array = tomlkit.array()
    array.extend(value)
    return array.multiline(True)
