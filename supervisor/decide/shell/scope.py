"""What is known at one place of a script: variables, functions, aliases, positionals, the directory. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from supervisor.decide.shell.marks import ANY

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
    sure: bool = True
    span: tuple[int, int] | None = None  # of the outermost script, for text inside of another; None: positions count
    via: str = ""
    depth: int = 0
    calling: tuple[str, ...] = ()

    def copy(self) -> Scope:
        return Scope(
            dict(self.vars), dict(self.functions), dict(self.aliases), self.positionals, self.zero, self.cwd, self.sure,
            self.span, self.via, self.depth, self.calling,
        )  # fmt: skip

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
