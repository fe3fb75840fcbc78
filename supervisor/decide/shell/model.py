"""What an analysis of a command finds. Plain values that can cross a process line as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_JSON = 150_000  # characters of an analysis as ASCII JSON
TOO_LARGE = "what it would run is too much to be listed"


class ShellSyntaxError(ValueError):
    """A text that is no shell script, or more than may be parsed. The message has line:column where there is one."""


Parse = Callable[[str], dict[str, Any]]  # shell text -> the tree of `shfmt --to-json`; raises ShellSyntaxError
LIKELY = "likely"  # as `via`: the first word is only known at run time, and is most likely this one


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command. `words[0]` is the program as written; None is a word that is only known at run time.

    `via` is "" or how it is reached: "sh -c", "xargs", "find -exec". `start` and `end` are character offsets in the
    outermost script, or in the words of argv joined by spaces. `stdin` is the text fed to it, where that is known.
    """

    words: tuple[str | None, ...]
    via: str
    start: int
    end: int
    redirects: tuple[tuple[str, str | None], ...] = ()
    stdin: str | None = None


@dataclass(frozen=True, slots=True)
class Risk:
    """A sign of danger. `kind` is a key of policy.words.RISKS."""

    kind: str
    detail: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Named:
    """A path that an argument or a redirection names, as written; `~` stands for the home directory."""

    path: str
    writes: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that was found. `scripts` are files named as scripts. Without `parsed` it is a part, and `error` says why."""

    commands: tuple[Command, ...] = ()
    risks: tuple[Risk, ...] = ()
    paths: tuple[Named, ...] = ()
    scripts: tuple[str, ...] = ()
    parsed: bool = True
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """As values of JSON, at most MAX_JSON characters of ASCII. What is over that is left out, and said."""
        parts: dict[str, list[Any]] = {
            "risks": [[r.kind, r.detail, r.start, r.end] for r in self.risks],
            "commands": [
                [list(c.words), c.via, c.start, c.end, [list(r) for r in c.redirects], c.stdin] for c in self.commands
            ],
            "scripts": list(self.scripts),
            "paths": [[p.path, p.writes, p.start, p.end] for p in self.paths],
        }
        whole: dict[str, Any] = {**parts, "parsed": self.parsed, "error": self.error[:1000]}
        if len(json.dumps(whole)) <= MAX_JSON:
            return whole
        left, cut = MAX_JSON - 8000, {}
        for name, found in parts.items():
            cut[name], left = _fitting(found, left)
        return {**cut, "parsed": False, "error": TOO_LARGE}

    @staticmethod
    def from_json(raw: dict[str, Any]) -> Analysis:
        """The analysis of to_json(). Raises KeyError, TypeError or ValueError when it is not one."""
        return Analysis(
            commands=tuple(
                Command(tuple(words), via, start, end, tuple((op, to) for op, to in redirects), stdin)
                for words, via, start, end, redirects, stdin in raw["commands"]
            ),
            risks=tuple(Risk(*r) for r in raw["risks"]),
            paths=tuple(Named(*p) for p in raw["paths"]),
            scripts=tuple(raw["scripts"]),
            parsed=raw["parsed"],
            error=raw["error"],
        )


def _fitting(found: list[Any], left: int) -> tuple[list[Any], int]:
    """Of a list as much as fits, small entries behind a large one too; and what is left for others."""
    kept = []
    for one in found:
        size = len(json.dumps(one)) + 2
        if size <= left:
            kept.append(one)
            left -= size
    return kept, left
