"""What is known at one place of a script: variables, functions, aliases, positionals, the directory. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from supervisor.decide.shell.flow import HOLDS
from supervisor.decide.shell.marks import ANY, unknown
from supervisor.decide.shell.options import operand

Value = str | list[str]  # a list is an array

# Set by the shell or by whoever starts it; what they are exactly is not known, or does not matter.
_SOMETHING = ["PATH", "OLDPWD", "RANDOM", "LINENO", "SECONDS", "UID", "EUID", "PPID", "HOSTNAME", "HOSTTYPE", "OSTYPE",
              "MACHTYPE", "BASHPID", "BASH_VERSION", "EPOCHSECONDS", "EPOCHREALTIME", "SRANDOM", "SHLVL", "BASH_SOURCE",
              "FUNCNAME", "BASH_LINENO", "PIPESTATUS", "REPLY", "OPTARG", "OPTIND", "COLUMNS", "LINES", "TERM", "LANG",
              "LC_ALL", "GROUPS", "BASH_REMATCH", "COMP_WORDS", "DIRSTACK", "BASH_COMMAND", "SHELLOPTS"]  # fmt: skip
KNOWN = dict.fromkeys(_SOMETHING, ANY) | {
    "HOME": "~",
    "SHELL": "/bin/sh",
    "BASH": "/bin/bash",
    "TMPDIR": "/tmp",  # noqa: S108 - the session's own
    "USER": "agent",
    "LOGNAME": "agent",
}


@dataclass(slots=True)
class Scope:
    """A subshell works on a copy. `sure` is False where it is not certain that the place is reached."""

    vars: dict[str, Value] = field(default_factory=dict)
    functions: dict[str, tuple[dict[str, Any], bool]] = field(default_factory=dict)  # body, surely defined
    aliases: dict[str, str] = field(default_factory=dict)
    positionals: list[str] | None = None
    zero: str = "sh"
    cwd: str = ""  # absolute or below ~ when it is known
    below: str = ""  # else the directory entered since the start, "" there, "…" when it is not known
    held: dict[str, frozenset[str]] = field(
        default_factory=dict
    )  # where what a variable holds came from; @: the arguments
    sure: bool = True
    span: tuple[int, int] | None = None  # of the outermost script, for text inside of another; None: positions count
    via: str = ""
    depth: int = 0
    calling: tuple[str, ...] = ()

    def copy(self) -> Scope:
        return Scope(
            dict(self.vars), dict(self.functions), dict(self.aliases), self.positionals, self.zero, self.cwd,
            self.below, dict(self.held), self.sure, self.span, self.via, self.depth, self.calling,
        )  # fmt: skip

    def hold(self, name: str, traits: frozenset[str]) -> None:
        """A variable was set to something of these traits; perhaps, where it is not certain that this is reached."""
        kept = traits & HOLDS
        if kept:
            self.held[name] = kept | self.held.get(name, kept)
        elif self.sure:
            self.held.pop(name, None)

    def forget(self) -> None:
        """Anything may have been assigned: a text that is not known was run in this very shell."""
        self.vars = dict.fromkeys(self.vars, ANY)

    def merge(self, others: list[dict[str, Value]]) -> None:
        """After ways of which one was gone: what is not the same at the end of all is not known."""
        names = {name for one in others for name in one}
        first = others[0]
        merged: dict[str, Value] = {}
        for name in names:
            value = first.get(name)
            same = value is not None and all(one.get(name) == value for one in others)
            merged[name] = value if same and value is not None else ANY
        self.vars = merged


def filled(words: list[str], line: str, ifs: Value) -> dict[str, Value]:
    """The variables that a read(1) of these words makes of a line: the last gets all that is left."""
    names = [w for w in words[operand(words, 1, "dinNptu") :] if w.isidentifier()]
    if unknown(line) or "\\" in line or not names or not isinstance(ifs, str) or unknown(ifs):
        return dict.fromkeys(names, ANY)
    if len(names) == 1 and not any(re.fullmatch(r"-\w*a", w) for w in words[1:]):
        return {names[0]: line.strip()}
    parts = line.split() if not ifs.strip() else [w.strip() for w in re.split(f"[{re.escape(ifs)}]", line)]
    if len(names) == 1:
        return {names[0]: list(parts)}
    return {n: " ".join(parts[i:]) if n == names[-1] else "".join(parts[i : i + 1]) for i, n in enumerate(names)}
