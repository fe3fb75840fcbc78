"""From a word of the parser to the words that the shell makes of it: bash(1), EXPANSION. Pure.

Quotes, backslashes, `$'...'`, braces, tildes, variables that the script itself sets, splitting at IFS. What only the
run will know becomes a mark (marks.py). Names of files are not looked up: a pattern stays one.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any, Protocol

from supervisor.decide.shell import params
from supervisor.decide.shell.flow import EMPTY, UNKNOWN, Flow
from supervisor.decide.shell.marks import ANY, NOTHING, SPLIT, SUBST, globs, quote, unquote

if TYPE_CHECKING:
    from supervisor.decide.shell.scope import Scope

_SPECIAL = re.compile(r"[\\{~*?\[$]")
_MOST = 512  # words that one word may become
_ANSI = re.compile(
    r"\\(?:x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|c(.)|([0-7]{1,3})|(.))", re.DOTALL
)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "v": "\v"}


class Walks(Protocol):
    """What an expansion needs of the walk: somebody who goes through the commands of a substitution."""

    def substituted(self, statements: list[dict[str, Any]], scope: Scope, stdin: Flow = EMPTY) -> Flow: ...
    def scan(self, node: Any, scope: Scope) -> None: ...
    def script(
        self, text: str, scope: Scope, span: tuple[int, int], via: str, stdin: Flow = EMPTY, *, guess: bool = False
    ) -> Flow: ...


class Expander:
    """Expands the words of one command. What came up on the way is left in its fields."""

    __slots__ = ("first_unsure", "flows", "scope", "unsure", "walk")

    def __init__(self, walk: Walks, scope: Scope) -> None:
        self.walk = walk
        self.scope = scope
        self.flows: list[Flow] = []  # of the substitutions
        self.unsure = False  # the last word is what it says only if nobody outside decided otherwise
        self.first_unsure = False

    def fields(self, words: list[dict[str, Any]]) -> list[str]:
        """The words that these words become."""
        out: list[str] = []
        for word in words:
            found = self.word(word)
            if not out and found:
                self.first_unsure = self.unsure
            out += found
        return out

    def word(self, word: dict[str, Any]) -> list[str]:
        self.unsure = False
        parts = word["Parts"]
        if len(parts) == 1 and parts[0]["Type"] == "Lit":
            value: str = parts[0].get("Value", "")
            if not _SPECIAL.search(value):
                return [value]
        raw = self._join(parts, quoted=False)
        out: list[str] = []
        for one in braces(raw) if "{" in raw else (raw,):
            pieces = [p for p in one.split(SPLIT) if p] if SPLIT in one else [one] if one else []
            if pieces and not out and globs(pieces[0]) and pieces[0] not in ("[", "[["):
                self.unsure = True
            out += [unquote(p) for p in pieces]
        return out[:_MOST]

    def text(self, word: dict[str, Any] | None) -> str:
        """The word as one text, as in an assignment: nothing is split, braces stay."""
        if word is None:
            return ""
        self.unsure = False
        return unquote(self._join(word["Parts"], quoted=False).replace(SPLIT, " "))

    def document(self, redirect: dict[str, Any]) -> str:
        """The text of a here-document."""
        raw = any(p["Type"] != "Lit" or "\\" in p.get("Value", "") for p in redirect["Word"]["Parts"])
        parts = redirect.get("Hdoc", {}).get("Parts", [])
        text = (
            "".join(p.get("Value", "") for p in parts)
            if raw
            else unquote(self._join(parts, quoted=True).replace(SPLIT, " "))
        )
        return re.sub(r"^\t+", "", text, flags=re.MULTILINE) if redirect["Op"] == "<<-" else text

    def _join(self, parts: list[dict[str, Any]], *, quoted: bool) -> str:
        return "".join([self._part(p, quoted=quoted) for p in parts])

    def _part(self, part: dict[str, Any], *, quoted: bool) -> str:
        kind = part["Type"]
        if kind == "Lit":
            value = part.get("Value", "")
            return _in_double(value) if quoted else _bare(value)
        if kind == "SglQuoted":
            value = part.get("Value", "")
            return quote(ansi(value) if part.get("Dollar") else value)
        if kind == "DblQuoted":
            return self._join(part.get("Parts") or [], quoted=True) or NOTHING
        if kind == "ParamExp":
            return params.expand(self, part, quoted=quoted)
        if kind == "CmdSubst":
            return self._substitution(part, quoted=quoted)
        if kind == "ProcSubst":
            # What is written into >(...) is not followed; what reads it there reads something unknown.
            given = UNKNOWN if part.get("Op") == ">(" else EMPTY
            self.flows.append(self.walk.substituted(part.get("Stmts") or [], self.scope, given))
            return SUBST
        if kind == "ExtGlob":
            return "*"
        self.walk.scan(part, self.scope)  # ArithmExp and whatever a later parser knows
        number = params.arithmetic(part.get("X")) if kind == "ArithmExp" else None
        return ANY if number is None else str(number)

    def _substitution(self, part: dict[str, Any], *, quoted: bool) -> str:
        flow = self.walk.substituted(part.get("Stmts") or [], self.scope)
        self.flows.append(flow)
        self.unsure = True
        if flow.text is None:
            return SUBST
        text = flow.text.rstrip("\n")
        return quote(text) if quoted else self.split(text)

    def split(self, text: str) -> str:
        """Unquoted text out of an expansion, split at IFS."""
        ifs = self.scope.vars.get("IFS", " \t\n")
        if not isinstance(ifs, str) or ANY in ifs or SUBST in ifs:
            return ANY
        if not ifs:
            return text
        return re.sub(f"[{re.escape(ifs)}]+", SPLIT, text)


def _bare(text: str) -> str:
    """Unquoted text of the script itself: a backslash quotes the next character."""
    if "\\" not in text:
        return text
    return re.sub(r"\\(.)", lambda m: "" if m[1] == "\n" else quote(m[1]), text, flags=re.DOTALL)


def _in_double(text: str) -> str:
    if "\\" in text:
        text = re.sub(r'\\([$`"\\\n])', lambda m: "" if m[1] == "\n" else m[1], text)
    return quote(text) if text else ""


def ansi(text: str) -> str:
    r"""The text that `$'...'` stands for, or `printf` and `echo -e` write: \n, \x41, \101, \u00e9."""

    def one(m: re.Match[str]) -> str:
        hexa, four, eight, control, octal, letter = m.groups()
        code = hexa or four or eight
        if code is not None:
            number = int(code, 16)
            return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else ANY
        if octal is not None:
            return chr(int(octal, 8) & 0xFF) if int(octal, 8) & 0xFF else ""
        if control is not None:
            return chr(ord(control) & 0x1F)
        return _LETTERS.get(letter, letter if letter in "\\'\"?" else "\\" + letter)

    return _ANSI.sub(one, text)


def braces(text: str) -> list[str]:
    """Brace expansion: a{b,c} and {1..3}. What would become too much stays one unknown word."""
    out, work = [], [text]
    while work:
        one = work.pop()
        found = _group(one)
        if found is None:
            out.append(one)
        else:
            start, end, choices = found
            work += [one[:start] + choice + one[end:] for choice in reversed(choices)]
        if len(out) + len(work) > _MOST:
            return [ANY]
    return out


def _group(text: str) -> tuple[int, int, list[str]] | None:
    """The first brace group of a text: where it starts and ends, and what it is a choice of."""
    start = text.find("{")
    while start != -1:
        depth, at, cuts = 0, start, [start]
        for at in range(start, len(text)):
            c = text[at]
            if c == "{":
                depth += 1
            elif c == "," and depth == 1:
                cuts.append(at)
            elif c == "}":
                depth -= 1
                if depth == 0:
                    break
        if depth == 0:
            inner = text[start + 1 : at]
            if len(cuts) > 1:
                cuts.append(at)
                return start, at + 1, [text[a + 1 : b] or NOTHING for a, b in itertools.pairwise(cuts)]
            sequence = _sequence(inner)
            if sequence is not None:
                return start, at + 1, sequence
        start = text.find("{", start + 1)
    return None


def _sequence(inner: str) -> list[str] | None:
    found = re.fullmatch(r"(-?\d{1,6}|[A-Za-z])\.\.(-?\d{1,6}|[A-Za-z])(?:\.\.(-?\d{1,6}))?", inner)
    if found is None:
        return None
    a, b, step = found.groups()
    if a.lstrip("-").isdigit() != b.lstrip("-").isdigit():
        return None
    letters = a.isalpha()
    x, y = (ord(a), ord(b)) if letters else (int(a), int(b))
    by = abs(int(step or 1)) or 1
    numbers = range(x, y + 1, by) if x <= y else range(x, y - 1, -by)
    if len(numbers) > _MOST:
        return [ANY]
    return [chr(n) if letters else str(n) for n in numbers]
