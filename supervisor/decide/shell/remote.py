"""Programs that run a command somewhere else: on other hosts, in containers, on machines of a cloud. Pure.

What they start is looked at as if it were here: `rm -rf /` on every host of a fleet is no smaller loss than on one.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from supervisor.decide.shell.flow import UNKNOWN, Flow
from supervisor.decide.shell.options import operand, operands, option

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.calls import Call


# Programs that run all that follows their options as one text for a shell; letters of the options with a value.
_FLEETS = {
    "pdsh": "wxgXlRutfF",
    "clush": "wxgXlturfOF",
    "dsh": "mgfo",
    "pssh": "hHlpoetOx",
    "parallel-ssh": "hHlpoetOx",
}


def fleet(call: Call) -> Flow | None:
    at = operand(call.words, 1, _FLEETS[call.name])
    return call.shell(" ".join(call.words[at:]), call.name) if at < len(call.words) else None


_SHELL_MODULES = ("shell", "command", "raw", "script", "win_shell", "win_command", "expect")


def ansible(call: Call) -> Flow | None:
    """ansible(1): -a is the argument of a module, which is `command` unless -m names another."""
    text = option(call.words[1:], "-a", "--args")
    module = (option(call.words[1:], "-m", "--module-name") or "command").rsplit(".", 1)[-1]
    if not text:
        return None
    if module in _SHELL_MODULES:
        return call.shell(re.sub(r"\b(?:chdir|creates|removes|executable|cmd|_raw_params)=(?=\S)", "", text), "ansible")
    named = dict(re.findall(r"(\w+)=('[^']*'|\"[^\"]*\"|\S+)", text))
    path = next((named[k].strip("'\"") for k in ("path", "dest", "name") if k in named), "")
    if module == "file" and path and named.get("state") == "absent":
        return call.run(["rm", "-rf", path], "ansible file")
    if module == "file" and path and "mode" in named:
        return call.run(["chmod", named["mode"].strip("'\""), path], "ansible file")
    return None


def salt(call: Call) -> Flow | None:
    """salt TARGET cmd.run 'TEXT'; salt-call cmd.run 'TEXT'."""
    words = call.words
    at = next((i for i, w in enumerate(words) if re.fullmatch(r"cmd\.(?:run|shell|run_all|run_stdout)", w)), 0)
    if at and at + 1 < len(words):
        return call.shell(words[at + 1], f"{call.name} {words[at]}")
    return None


def cloud(call: Call) -> Flow | None:
    """What gcloud, aws and az run on a machine of theirs."""
    words = call.words
    if call.name == "gcloud" and "ssh" in words:
        text = option(words[1:], "--command")
        if text is None and "--" in words:
            text = " ".join(words[words.index("--") + 1 :])
        return call.shell(text, "gcloud ssh") if text else None
    if call.name == "az" and "run-command" in words and "--scripts" in words:
        for text in words[words.index("--scripts") + 1 :]:
            if text.startswith("--"):
                break
            call.shell(text, "az run-command")
        return UNKNOWN
    if call.name == "aws" and ("send-command" in words or "execute-command" in words):
        for text in _parameters(option(words[1:], "--parameters") or "", option(words[1:], "--command")):
            call.shell(text, "aws")
        return UNKNOWN
    return None


def _parameters(given: str, command: str | None) -> list[str]:
    """commands=["a","b"], commands=a, or {"commands": ["a", "b"]}."""
    found = [command] if command else []
    text = given[given.index("=") + 1 :] if re.match(r"\s*commands?=", given) else given
    try:
        value = json.loads(text)
    except ValueError:
        return [*found, text.strip("[]")] if text else found
    if isinstance(value, dict):
        value = value.get("commands", value.get("command", []))
    items = value if isinstance(value, list) else [value]
    return [*found, *(one for one in items if isinstance(one, str))]


def inside(call: Call) -> Flow | None:
    """lxc exec NAME -- CMD and its kin: behind `--`, or behind what names the container."""
    words = call.words
    if "--" in words:
        rest = words[words.index("--") + 1 :]
        return call.run(rest, call.name) if rest else None
    skip = _INSIDE[call.name]
    found = operands(words)
    if skip is None or (skip and found[:1] and found[0] not in ("exec", "run", "shell", "enter", "rsh", "ssh")):
        return None
    rest = words[_behind(words, skip + 1) :]
    return call.run(rest, call.name) if rest else None


# How many operands stand before the command: the subcommand and the name; None where only `--` tells.
_INSIDE: dict[str, int | None] = {
    "lxc": 2, "incus": 2, "multipass": 2, "crictl": 2, "machinectl": 2, "limactl": 2, "podman-remote": 2,
    "lxc-attach": None, "distrobox": None, "distrobox-enter": None, "nomad": None, "schroot": None, "toolbox": None,
    "flatpak-spawn": 0, "systemd-nspawn": 0, "wsl": 0,
}  # fmt: skip
_VALUES = frozenset(
    ["-D", "--directory", "-M", "--machine", "-u", "--user", "--cwd", "--env", "-n", "--name", "-c", "--image",
     "--bind", "--bind-ro", "-d", "--distribution", "--workdir", "-w"]
)  # fmt: skip


def _behind(words: list[str], count: int) -> int:
    """Where the operand of this number stands, the first being 1."""
    at, seen = 1, 0
    while at < len(words):
        if words[at] in _VALUES:
            at += 2
            continue
        if words[at][:1] != "-":
            seen += 1
            if seen == count:
                return at
        at += 1
    return len(words)


def texts(call: Call) -> Flow | None:
    """vagrant ssh -c TEXT, flyctl ssh console -C TEXT, mussh -c TEXT, cmd /c TEXT."""
    words = call.words
    if call.name in ("cmd", "cmd.exe"):
        at = next((i for i, w in enumerate(words) if w.lower() in ("/c", "/k", "/r")), 0)
        return call.shell(" ".join(words[at + 1 :]), "cmd /c") if at and at + 1 < len(words) else None
    text = option(words[1:], "-c", "-C", "--command") if "ssh" in words or call.name == "mussh" else None
    return call.shell(text, f"{call.name} ssh") if text else None


STARTS: dict[str, Callable[[Call], Flow | None]] = {
    **dict.fromkeys(_FLEETS, fleet),
    **dict.fromkeys(("salt", "salt-call", "salt-ssh"), salt),
    **dict.fromkeys(("gcloud", "aws", "az"), cloud),
    **dict.fromkeys(_INSIDE, inside),
    **dict.fromkeys(("vagrant", "fly", "flyctl", "mussh", "cmd", "cmd.exe"), texts),
    "ansible": ansible,
}
