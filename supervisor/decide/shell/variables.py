"""Variables that the loader, the shell, a language or another program obeys. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.decide.shell.marks import shown, unknown
from supervisor.decide.shell.programs import is_interpreter

if TYPE_CHECKING:
    from supervisor.decide.shell.scope import Scope
    from supervisor.decide.shell.walk import Walk

_MEDDLES = re.compile(r"^(?:LD_PRELOAD|LD_AUDIT|LD_LIBRARY_PATH|DYLD_INSERT_LIBRARIES)$")
_RUN_BY_OTHERS = re.compile(
    r"^(?:GIT_(?:SSH_COMMAND|SSH|EDITOR|SEQUENCE_EDITOR|PAGER|EXTERNAL_DIFF|ASKPASS|PROXY_COMMAND)|EDITOR|VISUAL|PAGER"
    r"|MANPAGER|LESSOPEN|LESSCLOSE|PROMPT_COMMAND|PS[0124]|BROWSER|SSH_ASKPASS|SUDO_ASKPASS|RSYNC_RSH|CVS_RSH|SVN_SSH"
    r"|FCEDIT|MAKEFLAGS|TAR_OPTIONS|GIT_CONFIG_VALUE_\d+|CARGO_BUILD_RUSTC_WRAPPER"
    r"|RUSTC_WRAPPER|GOFLAGS)$"
)


# Options that a language's runtime takes from its environment, and those of them that load a file.
_RUNTIME_OPTIONS = frozenset(
    ("NODE_OPTIONS", "RUBYOPT", "PERL5OPT", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS")
)
_LOADS = re.compile(
    r"(?:--require|--import|--(?:experimental-)?loader|-r|-M|-I|-javaagent:|-agentpath:)[ =]?['\"]?"
    r"((?:\.{0,2}/|~)[^\s'\"=]+)"
)
_FUNCTION = re.compile(r"^BASH_FUNC_(.+)(?:%%|\(\))$", re.DOTALL)  # what bash takes a function from: bash, variables.c
_LEFT_BY_ANYBODY = re.compile(r"/(?:tmp|var/tmp|dev/shm)/")
_OBEYED = _RUNTIME_OPTIONS | frozenset(
    ("PATH", "PYTHONPATH", "PYTHONSTARTUP", "BASH_ENV", "ENV", "BASH_ALIASES", "BASH_CMDS", "HISTFILE", "HISTSIZE",
     "HISTFILESIZE")
)  # fmt: skip


def obeyed(name: str) -> bool:
    """Whether variable() has something to say of a variable of this name, whatever it is set to."""
    return name in _OBEYED or bool(_MEDDLES.match(name) or _RUN_BY_OTHERS.match(name) or _FUNCTION.match(name))


def variable(walk: Walk, name: str, value: str, scope: Scope, span: tuple[int, int], *, alone: bool) -> None:
    """A variable that the loader, the shell or another program obeys."""
    if _MEDDLES.match(name) and name != "LD_LIBRARY_PATH":
        if value and not re.match(r"^(?:/usr|/lib|/opt)/", value):
            walk.risk("evasion", f"{name} puts code into every program", span)
    elif name in ("HISTFILE", "HISTSIZE", "HISTFILESIZE") and value in ("/dev/null", "0", ""):
        walk.risk("evasion", "turns the history of commands off", span)
    elif name in ("BASH_ENV", "ENV") and value:
        walk.risk("evasion", f"{name} makes shells read something first", span)
        if "/" in value or unknown(value):
            walk.scripts[shown(value)] = None
    elif name in _RUNTIME_OPTIONS:
        for file in _LOADS.findall(value):
            walk.scripts[file] = None
            if file.removeprefix("./") in walk.downloaded:
                walk.risk("remote_code", f"{name} loads {file}, which came over the network", span)
            elif _LEFT_BY_ANYBODY.match(file):
                walk.risk("evasion", f"{name} puts {file} into what is started", span)
    elif name in ("PYTHONPATH", "PYTHONSTARTUP") and _LEFT_BY_ANYBODY.match(value):
        walk.risk("evasion", f"{name} puts {value} into every python", span)
    elif (function := _FUNCTION.match(name)) is not None:
        walk.risk("evasion", f"puts a function of bash in the place of {function[1][:64]}", span)
        walk.script(f"f {value}\nf", scope.copy(), span, name)
    elif name in ("BASH_ALIASES", "BASH_CMDS"):
        walk.risk("evasion", "changes what names of commands mean", span)
    elif _RUN_BY_OTHERS.match(name) and value and not unknown(value):
        text = value.lstrip("|!")
        if " " in text or "/" in text or is_interpreter(text):
            inner = scope.copy()
            walk.script(text.replace("%s", "file"), inner, span, name)
    if name == "PATH" and not alone and value.startswith((".", "/tmp")):  # noqa: S108
        walk.risk("evasion", "programs are looked for in a directory that anybody may fill", span)
