"""At which line of a TOML text each key and each list item stands. tomllib tells only where syntax errors are.

The text has been parsed by tomllib before, so the scanner only has to tell the parts of valid TOML apart.
"""

from __future__ import annotations

import bisect
import re
import tomllib

Loc = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r'[ \t]*([A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\')[ \t]*(\.?)')
_TEXT = re.compile(r'"""(?:\\[\s\S]|[^\\])*?"{3,5}|\'\'\'[\s\S]*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'')
_OTHER = re.compile(r"(?:\d{4}-\d\d-\d\d \d\d:)?[^\s,\]}#]+")  # numbers, booleans, dates


class Lines:
    """The lines of every key path (tables by name, list items by index) of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._breaks = [m.start() for m in re.finditer("\n", text)]
        self._at: dict[Loc, int] = {(): 1}
        self._tables: dict[Loc, int] = {}  # how many [[headers]] each array of tables has had
        table: Loc = ()
        pos = self._blank(0)
        while pos < len(text):
            if text[pos] == "[":
                double = 2 if text.startswith("[[", pos) else 1
                table, pos = self._key(pos + double, (), header=double)
                pos += double
            else:
                pos = self._pair(pos, table)
            pos = self._blank(pos)

    def of(self, loc: Loc) -> int:
        """The line of a key path, or of its nearest parent that is written anywhere."""
        while loc not in self._at:
            loc = loc[:-1]
        return self._at[loc]

    def _line(self, pos: int) -> int:
        return bisect.bisect_left(self._breaks, pos) + 1

    def _blank(self, pos: int) -> int:
        return _match(_BLANK, self._text, pos).end()

    def _key(self, pos: int, table: Loc, *, header: int = 0) -> tuple[Loc, int]:
        """A dotted key: its whole path, and the position after it."""
        loc, dotted = table, True
        while dotted:
            found = _match(_KEY, self._text, pos)
            part = found[1]
            loc += (tomllib.loads(f"k={part}")["k"] if part[0] in "\"'" else part,)
            dotted = found[2] == "."
            if loc in self._tables and dotted:
                loc += (self._tables[loc] - 1,)  # [list.key] speaks about the last [[list]]
            elif header == 2 and not dotted:
                self._at.setdefault(loc, self._line(pos))
                self._tables[loc] = self._tables.get(loc, 0) + 1
                loc += (self._tables[loc] - 1,)
            self._at.setdefault(loc, self._line(found.start(1)))
            pos = found.end()
        if header:
            self._at[loc] = self._line(pos - 1)  # a table that a subtable implied before has its own header here
        return loc, pos

    def _pair(self, pos: int, table: Loc) -> int:
        loc, pos = self._key(pos, table)
        return self._value(self._blank(pos + 1), loc)

    def _value(self, pos: int, loc: Loc) -> int:
        opened = self._text[pos]
        if opened not in "[{":
            return _match(_TEXT if opened in "\"'" else _OTHER, self._text, pos).end()
        pos, index = self._blank(pos + 1), 0
        while self._text[pos] not in "]}":
            if opened == "{":
                pos = self._pair(pos, loc)
            else:
                self._at[(*loc, index)] = self._line(pos)
                pos, index = self._value(pos, (*loc, index)), index + 1
            pos = self._blank(pos)
            if self._text[pos] == ",":
                pos = self._blank(pos + 1)
        return pos + 1


def _match(pattern: re.Pattern[str], text: str, pos: int) -> re.Match[str]:
    found = pattern.match(text, pos)
    if found is None:
        raise ValueError(f"not TOML at character {pos}")
    return found


def lines(text: str) -> Lines:
    """Raises ValueError or RecursionError for a text that no policy would be."""
    try:
        return Lines(text)
    except (IndexError, KeyError) as e:
        raise ValueError("not TOML") from e
