"""As carry.py, for the keys of Clawdbot (OpenClaw) alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from supervisor.policy.importing.carry import allowed_commands, ask_always, limit, read_only, shell_off, texts
from supervisor.policy.narrow import narrowest
from supervisor.policy.words import TOOLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.policy.importing.draft import Draft

TOOL_NAMES = {
    **dict.fromkeys(("exec", "bash", "shell", "group:runtime"), "shell"),
    **dict.fromkeys(("read", "write", "edit", "apply_patch", "file", "fs", "group:fs"), "file"),
    **dict.fromkeys(("browser", "group:ui"), "browser"),
}
_WITH_EXEC = ("process",)  # looks after what exec began, and is nothing of its own here
_ALL = ("*", "group:openclaw", "group:clawdbot")
# What the profiles of its tools have of ours.
_PROFILES = {"minimal": (), "messaging": (), "coding": ("shell", "file"), "full": TOOLS}
_MEMORY = re.compile(r"([0-9]{1,15})([bkmg]?)b?", re.ASCII | re.IGNORECASE)  # as docker run --memory has it
_SHIFT = {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}


def mode(d: Draft, value: Any) -> str | None:
    if value not in ("strict", "moderate", "permissive"):
        return f"{value!r} is no mode; default.toml is the page"
    if value == "strict":  # runs no command there, until allowedCommands names some
        d.set("tools", "shell_enabled", value=False)
        d.set("tools", "policy", value="enabled")
        d.set("tools", "allow_list", value=[])
    return None


def sandbox_commands(d: Draft, value: Any) -> str | None:
    if value and "off" not in d.imported:
        d.set("tools", "shell_enabled", value=True)
    return allowed_commands(d, value)


def tool_policy(d: Draft, value: Any) -> str | None:
    if value not in ("restrictive", "whitelist"):
        return f"{value!r} is neither restrictive nor whitelist"
    d.set("tools", "policy", value=value)
    d.set("tools", "allow_list", value=[])
    return None


def tool_list(d: Draft, value: Any) -> str | None:
    given = texts(value)
    if given is None:
        return "not a list of tools"
    known = _known(given)
    if known:
        d.set("tools", "policy", value="whitelist")
    d.set("tools", "allow_list", value=[t for t in TOOLS if t in known])
    if "browser" in known:
        d.set("tools", "browser_enabled", value=True)
    return _unknown(given)


def tools_allow(d: Draft, value: Any) -> str | None:
    """An empty list bounds nothing there."""
    given = texts(value)
    if given is None:
        return "not a list of tools"
    if given and not set(_ALL) & set(given):
        _only(d, _known(given))
    return _unknown(given)


def tools_deny(d: Draft, value: Any) -> str | None:
    given = texts(value)
    if given is None:
        return "not a list of tools"
    denied = TOOLS if set(_ALL) & set(given) else _known(given)
    if denied:
        _only(d, [tool for tool in TOOLS if tool not in denied])
    return _unknown(given)


def tools_profile(d: Draft, value: Any) -> str | None:
    if not isinstance(value, str) or value not in _PROFILES:
        return f"{value!r} is none of {', '.join(_PROFILES)}"
    _only(d, _PROFILES[value])
    return None


def _only(d: Draft, tools: Iterable[str]) -> None:
    """No more tools than these, of those that there are."""
    listed = d.get("tools", "policy") in ("whitelist", "restrictive")
    there = d.get("tools", "allow_list") if listed else [t for t in TOOLS if t != "browser"]  # as the presets have it
    left = [tool for tool in there or [] if tool in tools]
    d.set("tools", "policy", value="whitelist" if left else "restrictive")
    d.set("tools", "allow_list", value=left)


def _known(given: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(TOOL_NAMES[name] for name in given if name in TOOL_NAMES))


def _unknown(given: Iterable[str]) -> str | None:
    unknown = [name for name in given if name not in (*TOOL_NAMES, *_WITH_EXEC, *_ALL)]
    return f"no such tool here: {', '.join(unknown)}" if unknown else None


def exec_approval(d: Draft, value: Any) -> str | None:
    word = {"ask": "supervised", "always": "supervised", "never": "full", "off": "full", "auto": "full"}.get(str(value))
    if word is None:
        return f"{value!r} is not understood"
    d.set("autonomy", "level", value=narrowest(word, d.imported.setdefault("level", word)))
    d.imported["level"] = d.get("autonomy", "level")
    if value == "always":
        ask_always(d)
    return None


def exec_ask(d: Draft, value: Any) -> str | None:
    if value not in ("off", "on-miss", "always"):
        return f"{value!r} is not understood"
    d.imported["ask"] = value
    return exec_approval(d, "ask" if value == "on-miss" else value)


def exec_security(d: Draft, value: Any) -> str | None:
    """What of the host exec may run; its list of commands is kept in another file."""
    if value == "full":
        return None
    if value == "deny":
        shell_off(d)
        return None
    if value != "allowlist":
        return f"{value!r} is not understood"
    until = "the list is in exec-approvals.json; until allowed_commands of the profile has its programs,"
    if d.imported.get("ask") == "off":
        shell_off(d)
        return f"{until} the shell is switched off"
    ask_always(d)
    return f"{until} every command is asked about"


def elevated(_d: Draft, value: Any) -> str | None:
    return None if value is False else "nothing runs outside of the confinement here"


def sandbox_when(_d: Draft, value: Any) -> str | None:
    return None if value == "all" else "every run is confined here"


def workspace_access(d: Draft, value: Any) -> str | None:
    if value == "rw":
        return None
    if value not in ("ro", "none"):
        return f"{value!r} is not understood"
    for name in d.profiles():
        read_only(d, name)
    return None if value == "ro" else "the workspace is there, and cannot be written"


def docker_memory(d: Draft, value: Any) -> str | None:
    found = _MEMORY.fullmatch(str(value)) if type(value) in (int, str) else None
    return limit(d, "memory", int(found[1]) << _SHIFT[found[2].lower()] if found else None, value)
