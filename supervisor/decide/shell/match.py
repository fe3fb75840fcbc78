"""Patterns of policy against the commands of an analysis. Pure.

A pattern is written like a command: a program and what must be among its words. The program is compared by name, so
its path does not matter; options in any order, joined or long (`-rf`, `-f -r`, `--recursive --force`); operands by what
they mean, so `/` is `//`, `/.` and `/*` too. `dd if=` ends in `=`: a word that begins so. A phrase of SQL such as
`DROP TABLE` is looked for in what clients of databases are handed, and nowhere else.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from supervisor.decide.shell import places
from supervisor.decide.shell.programs import LONG, SAME_SHORT, SINGLE_DASH, SQL_CLIENTS, SUBCOMMANDS, base, family

if TYPE_CHECKING:
    from supervisor.decide.shell.model import Analysis, Command

_SQL = re.compile(
    r"(?:DROP|DELETE|TRUNCATE|ALTER|GRANT|REVOKE|UPDATE|INSERT|CREATE|SELECT|MERGE|REPLACE|EXEC|SHUTDOWN|COPY|ATTACH|LOAD)"
    r"(?: [A-Z*]+)+"
)
_MODE_ALL = frozenset("rwx")


class Hit(NamedTuple):
    """The first pattern that names something, and what it names."""

    index: int  # type: ignore[assignment]  # of the pattern; nobody looks for a place in a Hit
    pattern: str
    command: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Pattern:
    text: str
    program: str
    path: bool  # the program is named by its path
    flags: frozenset[str]
    subcommands: tuple[str, ...]
    operands: tuple[str, ...]
    sql: re.Pattern[str] | None


class _Read(NamedTuple):
    """The words of a command, sorted."""

    flags: frozenset[str]
    operands: tuple[str, ...]
    words: tuple[str, ...]


def first(patterns: tuple[str, ...], analysis: Analysis) -> Hit | None:
    """The first of the patterns that names one of the commands, and the first such command."""
    if not patterns or not analysis.commands:
        return None
    by_program, sql = _compiled(patterns)
    best: Hit | None = None
    for command in analysis.commands:
        word = command.words[0]
        if word is None:
            continue
        name = base(word)
        read: _Read | None = None
        for index, pattern in _candidates(by_program, name):
            if (best is not None and index >= best.index) or not _may_match(pattern, command.words):
                continue
            read = read or _read(family(name), command)
            if _matches(pattern, name, word, read):
                best = _hit(index, pattern, command)
        if sql and family(name) in SQL_CLIENTS:
            for index, pattern in sql:
                if (best is None or index < best.index) and _says(pattern, command):
                    best = _hit(index, pattern, command)
    return best


def _hit(index: int, pattern: _Pattern, command: Command) -> Hit:
    shown = " ".join(["…" if w is None else _shown(w) for w in command.words])
    return Hit(index, pattern.text, shown[:400], command.start, command.end)


def _shown(word: str) -> str:
    return word if re.fullmatch(r"[\w./:=@%+,~*?-]+", word) else shlex.quote(word)


_ByProgram = dict[str, list[tuple[int, _Pattern]]]


@lru_cache(maxsize=64)
def _compiled(patterns: tuple[str, ...]) -> tuple[_ByProgram, list[tuple[int, _Pattern]]]:
    by_program: _ByProgram = {}
    sql = []
    for index, text in enumerate(patterns):
        pattern = _pattern(text)
        if pattern.sql is not None:
            sql.append((index, pattern))
        elif pattern.program:
            key = "*" if re.search(r"[*?\[]", pattern.program) else pattern.program
            by_program.setdefault(key, []).append((index, pattern))
    return by_program, sql


def _candidates(by_program: _ByProgram, name: str) -> list[tuple[int, _Pattern]]:
    found = by_program.get(name, [])
    stem = name.split(".", 1)[0]
    if stem != name:  # mkfs.ext4
        found = found + by_program.get(stem, [])
    kin = family(name)
    if kin not in (name, stem):
        found = found + by_program.get(kin, [])
    return found + by_program["*"] if "*" in by_program else found


def _pattern(text: str) -> _Pattern:
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    squeezed = " ".join(text.split())
    if _SQL.fullmatch(squeezed) or (_SQL.fullmatch(squeezed.upper()) and not squeezed.split()[1].startswith("-")):
        phrase = r"\s+".join(map(re.escape, squeezed.split()))
        return _Pattern(text, "", False, frozenset(), (), (), re.compile(rf"\b{phrase}\b", re.IGNORECASE))
    program = words[0] if words else ""
    name = base(program)
    read = _sorted(name, words[1:])
    subcommands: tuple[str, ...] = ()
    operands = read.operands
    if name in SUBCOMMANDS and operands:
        subcommands, operands = operands[:1], operands[1:]
    path = "/" in program
    return _Pattern(text, name, path, read.flags, subcommands, operands, None)


def _sorted(name: str, words: list[str]) -> _Read:
    """Options and operands: getopt_long(3), as far as a program's options are known."""
    long, same = LONG.get(name, {}), SAME_SHORT.get(name, {})
    values = SUBCOMMANDS.get(name, frozenset())
    flags: set[str] = set()
    operands: list[str] = []
    at, options, subcommand = 0, True, False
    while at < len(words):
        w = words[at]
        at += 1
        if not options or w[:1] != "-" or w == "-":
            operands.append(w)
            subcommand = True
        elif w == "--":
            options = False
        elif w[:2] == "--":
            full = _whole(w[2:].partition("=")[0], long)
            flags.add(long.get(full) or full)
            if not subcommand and w in values:
                at += 1
        elif name in SINGLE_DASH:
            flags.add(w[1:])
        else:
            if not subcommand and w in values:
                at += 1
            flags.update(same.get(letter, letter) for letter in w[1:])
    return _Read(frozenset(flags), tuple(operands), tuple(words))


def _whole(name: str, long: dict[str, str]) -> str:
    """A long option may be cut short as long as it is the only one that begins so."""
    if name in long:
        return name
    found = [full for full in long if full.startswith(name)] if name else []
    return found[0] if len(found) == 1 else name


def _read(name: str, command: Command) -> _Read:
    words = [w for w in command.words[1:] if w is not None]
    found = _sorted(name, words)
    if name == "git" and found.operands[:1] == ("send-pack",):
        found = found._replace(operands=("push", *found.operands[1:]))
    if name == "git" and "push" in found.operands[:1]:
        forced = any(w.startswith(("--force-w", "--mirror")) for w in words) or any(
            w.startswith("+") or re.match(r"remote\..*\.push=\+", w) for w in words
        )
        if forced:
            found = found._replace(flags=found.flags | {"f"})
    return found


def _may_match(pattern: _Pattern, words: tuple[str | None, ...]) -> bool:
    """Whether a subcommand is among the words at all, before they are sorted; send-pack is read as push."""
    return not pattern.subcommands or pattern.subcommands[0] in words or "send-pack" in words


def _matches(pattern: _Pattern, name: str, word: str, read: _Read) -> bool:
    if pattern.path and not _same_program(pattern.text.split()[0], word):
        return False
    if not pattern.path and pattern.program[:1] in "*?[" and not fnmatchcase(name, pattern.program):
        return False
    if not pattern.flags <= read.flags:
        return False
    if pattern.subcommands and read.operands[: len(pattern.subcommands)] != pattern.subcommands:
        return False
    rest = read.operands[len(pattern.subcommands) :]
    return all(_operand(pattern.program, wanted, rest, read.words) for wanted in pattern.operands)


def _same_program(path: str, word: str) -> bool:
    return fnmatchcase(word, path) or "/" not in word


def _operand(program: str, wanted: str, operands: tuple[str, ...], words: tuple[str, ...]) -> bool:
    if wanted.endswith("="):
        return any(w.startswith(wanted) for w in words)
    if wanted == "/":
        return any(places.root(w) for w in operands)
    if program == "chmod" and wanted.isdigit():
        return any(mode(w, wanted) for w in operands[:1]) or mode(_reference(words), wanted)
    if program in ("chown", "chgrp"):
        return any(_owner(w, wanted) for w in operands[:1])
    if any(c in wanted for c in "*?["):
        return any(fnmatchcase(w, wanted) for w in operands)
    target = places.normal(wanted)
    return any(w == wanted or places.normal(w) == target for w in operands)


def _reference(words: tuple[str, ...]) -> str:
    """chmod takes a mode that begins with a minus sign too; `-x` is one. Such never adds rights."""
    return next((w for w in words if w.startswith("+")), "")


def mode(word: str, wanted: str) -> bool:
    """Whether a mode is the wanted one: 777 is 0777, 2777, a+rwx, ugo=rwx, u+rwx,g+rwx,o+rwx."""
    if word.isdigit():
        return (
            word.lstrip("0")[-len(wanted) :] == wanted if len(wanted) == 3 else word.lstrip("0") == wanted.lstrip("0")
        )
    if wanted not in ("777", "0777"):
        return False
    given: dict[str, set[str]] = {"u": set(), "g": set(), "o": set()}
    for clause in word.split(","):
        found = re.fullmatch(r"([ugoa]*)([+=])([rwxXst]*)", clause)
        if found is None:
            return False
        who = {*"ugo"} if not found[1] or "a" in found[1] else {*found[1]}
        rights = {*found[3].replace("X", "x")}
        for one in who:
            given[one] |= rights
    return all(rights >= _MODE_ALL for rights in given.values())


def _owner(word: str, wanted: str) -> bool:
    user = re.split(r"[:.]", word)[0].lstrip("+")
    if wanted == "root":
        return user == "root" or (user != "" and not user.strip("0"))
    return word == wanted or user == wanted


def _says(pattern: _Pattern, command: Command) -> bool:
    """Whether a client of a database is handed the phrase, in whatever case, spacing and comments."""
    if pattern.sql is None:
        return False
    texts = [
        w
        for w in command.words[1:]
        if (w is not None and " " in w) or (w is not None and "/*" in w) or (w and "\n" in w)
    ]
    texts += [" ".join([w for w in command.words[1:] if w is not None])]
    if command.stdin:
        texts.append(command.stdin)
    for text in map(spoken, map(uncommented, texts)):
        if pattern.sql.search(text):
            return True
        if "||" in text and pattern.sql.search(_PUT_TOGETHER.sub("", text)):
            return True
        bare = _without(r"/\*!\d*(.*?)\*/", r" \1 ", text)  # what MySQL runs of a comment
        bare = _without(r"/\*.*?\*/", " ", bare)
        bare = re.sub(r"--[^\n]*|#[^\n]*", " ", bare)
        if pattern.sql.search(bare):
            return True
    return False


_PUT_TOGETHER = re.compile(r"'\s*\|\|\s*'")
_LINE_COMMENT = re.compile(r"[ \t]*--(?:[ \t].*)?")
_BEGINS_LITERAL = re.compile(r"['\"`$\\]|/\*")


def uncommented(text: str) -> str:
    """A text of SQL without the lines that are comments as a whole, up to where the first literal could begin."""
    if "--" not in text:
        return text
    kept: list[str] = []
    lines = text.split("\n")
    for n, line in enumerate(lines):
        if _LINE_COMMENT.fullmatch(line):
            continue
        if _BEGINS_LITERAL.search(line):
            return "\n".join([*kept, *lines[n:]])
        kept.append(line)
    return "\n".join(kept)


# What would make it doubtful where a literal ends, or run one as a statement.
_NO_LITERALS = re.compile(
    r"[\"`\\$#]|--|/\*|\b(?:exec\w*|prepare|do|call|function|procedure|format|dblink\w*|open\w+|query_to\w*|sp_\w+)\b",
    re.IGNORECASE,
)
_COMPARED = re.compile(r"((?:\b(?:I?LIKE|IS|IN\s*\(|VALUES\s*\()|[=<>,])\s*)'[^']*'", re.IGNORECASE)


def spoken(text: str) -> str:
    """A text of SQL without the literals that it compares with or keeps, where it is plain that they are some."""
    if "'" not in text or _NO_LITERALS.search(text):
        return text
    return _COMPARED.sub(r"\1''", text)


def _without(comment: str, by: str, text: str) -> str:
    """A text with its comments replaced. Behind the last end of one there is none: looking there takes forever."""
    end = text.rfind("*/") + 2
    return text if end < 2 else re.sub(comment, by, text[:end], flags=re.DOTALL) + text[end:]
