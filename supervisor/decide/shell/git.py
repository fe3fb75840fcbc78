"""git(1): the commands that it starts, out of options, settings and aliases. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.decide.shell.options import split
from supervisor.decide.shell.programs import SUBCOMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.calls import Call
    from supervisor.decide.shell.flow import Flow

# Settings of git that are commands.
_GIT_RUNS = re.compile(
    r"^(?:core\.(?:sshcommand|editor|pager|askpass|fsmonitor|gitproxy|alternaterefscommand)|sequence\.editor|diff\.external"
    r"|gpg(?:\.\w+)?\.program|pager\..*|(?:diff|merge|filter|difftool|mergetool|man|browser|guitool)\..*\.(?:command|driver|clean"
    r"|smudge|process|cmd|textconv|path)|credential(?:\..*)?\.helper|uploadpack\.packobjectshook|trailer\..*\.(?:cmd|command)"
    r"|interactive\.difffilter|remote\..*\.(?:uploadpack|receivepack|vcs|proxy)|sendemail\..*|instaweb\..*|receive\..*hook)$",
    re.IGNORECASE,
)


def git(call: Call) -> Flow | None:
    words, at = call.words, 1
    aliases: dict[str, str] = {}
    values = SUBCOMMANDS["git"]
    while at < len(words) and words[at][:1] == "-":
        w = words[at]
        if w == "-c" and at + 1 < len(words):
            _git_setting(call, words[at + 1].partition("=")[0], words[at + 1].partition("=")[2], aliases)
        elif w.startswith("-c") and "=" in w and w[:2] != "--":
            _git_setting(call, w[2:].partition("=")[0], w.partition("=")[2], aliases)
        at += 2 if w in values else 1
    if at >= len(words):
        return None
    act, rest = words[at], words[at + 1 :]
    text = aliases.get(act)
    if text is not None:
        if text.startswith("!"):
            return call.shell(text[1:], "git alias", positionals=rest)
        return call.run(["git", *split(text), *rest], "git alias")
    handler = _GIT.get(act)
    if handler is not None:
        handler(call, rest)
    for w in rest:
        if w.startswith("ext::"):
            call.shell(w[5:], "git ext::")
        elif w.startswith(("--upload-pack=", "--receive-pack=", "--exec=", "--open-files-in-pager=", "--extcmd=")):
            call.shell(w.split("=", 1)[1], f"git {w.split('=')[0]}")
    return None


def _git_setting(call: Call, name: str, value: str, aliases: dict[str, str]) -> None:
    low = name.lower()
    if low.startswith("alias."):
        aliases[name[6:]] = value
    elif _GIT_RUNS.match(name) and value and value not in ("true", "false", "cat", "less"):
        call.shell(value.lstrip("!"), f"git {name}")


def _git_config(call: Call, rest: list[str]) -> None:
    operands = [w for w in rest if w[:1] != "-" and w not in ("set", "add")]
    if len(operands) < 2:
        return
    aliases: dict[str, str] = {}
    _git_setting(call, operands[0], operands[1], aliases)
    for text in aliases.values():
        if text.startswith("!"):
            call.shell(text[1:], "git alias")
            call.risk("persistence", "an alias of git that runs a command")
        else:
            call.run(["git", *split(text)], "git alias")
    if _GIT_RUNS.match(operands[0]) and operands[0].lower() not in ("core.editor", "core.pager", "sequence.editor"):
        said = operands[1].split()[:1] or [""]
        if (
            operands[1].startswith("!")
            or re.search(r"[;&|`$]", operands[1])
            or not re.fullmatch(
                r"cache|store|osxkeychain|manager(?:-core)?|libsecret|wincred|true|false|ssh|gpg2?|delta|less|git-lfs|nbstripout|code|vim|vi|nano",
                said[0],
            )
        ):
            call.risk("persistence", f"git runs {operands[1]} from now on")


def _git_text(*options: str, first: int = -1) -> Callable[[Call, list[str]], None]:
    def handler(call: Call, rest: list[str]) -> None:
        for i, w in enumerate(rest):
            if w in options and i + 1 < len(rest):
                call.shell(rest[i + 1], f"git {w}")
            elif any(o[:2] == "--" and w.startswith(o + "=") for o in options):
                call.shell(w.split("=", 1)[1], f"git {w.split('=')[0]}")
        if first >= 0:
            operands = [w for w in rest if w[:1] != "-"]
            if len(operands) > first and operands[0] in ("run", "foreach"):
                command, via = rest[rest.index(operands[first]) :], f"git {operands[0]}"
                if len(command) > 1:
                    call.run(command, via)
                else:
                    call.shell(command[0], via)

    return handler


_GIT: dict[str, Callable[[Call, list[str]], None]] = {
    "config": _git_config,
    "rebase": _git_text("-x", "--exec"),
    "bisect": _git_text(first=1),
    "submodule": _git_text(first=1),
    "filter-branch": _git_text(
        "--tree-filter",
        "--index-filter",
        "--msg-filter",
        "--env-filter",
        "--commit-filter",
        "--tag-name-filter",
        "--parent-filter",
        "--setup",
    ),
    "difftool": _git_text("-x", "--extcmd"),
    "clone": _git_text("-u", "--upload-pack"),
    "fetch": _git_text("--upload-pack"),
    "ls-remote": _git_text("--upload-pack", "--exec"),
    "grep": _git_text("--open-files-in-pager"),
}
