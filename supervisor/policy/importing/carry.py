"""What each key of another product does to the policy in the making. One function for each name in keys.py;
those that say how much stand in amounts.py.

A function returns None when the value is carried over as it is, or a sentence about what of it could not be.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from supervisor.policy import paths, units
from supervisor.policy.globs import meets
from supervisor.policy.match import inside
from supervisor.policy.narrow import AUTONOMY, NETWORKS, covers, workspaces_within
from supervisor.policy.words import FORBIDDEN, FORBIDDEN_HOME

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.policy.importing.draft import Draft

WORDS = {"read_only": "readonly", "readonly": "readonly", "supervised": "supervised", "full": "full"}
# What ZeroClaw takes to be of high and of medium risk.
_HIGH = (
    "rm", "mkfs", "dd", "shutdown", "reboot", "halt", "poweroff", "sudo", "su", "chown", "chmod", "useradd", "userdel",
    "usermod", "passwd", "mount", "umount", "iptables", "ufw", "firewall-cmd", "curl", "wget", "nc", "ncat", "netcat",
    "scp", "ssh", "ftp", "telnet",
)  # fmt: skip
_MEDIUM = {
    "git": ("commit", "push", "reset", "clean", "rebase", "merge", "cherry-pick", "revert", "branch", "checkout",
            "switch", "tag"),
    "npm": ("install", "add", "remove", "uninstall", "update", "publish"),
    "pnpm": ("install", "add", "remove", "uninstall", "update", "publish"),
    "yarn": ("install", "add", "remove", "uninstall", "update", "publish"),
    "cargo": ("add", "remove", "install", "clean", "publish"),
}  # fmt: skip
_MEDIUM_ALONE = ("touch", "mkdir", "mv", "cp", "ln")
ASKED = "every-command"
_SECONDS = re.compile(r"([0-9]+)(ms|s|m|h)?", re.ASCII)
_LEAST_PROCESSES = 16


def level(d: Draft, value: Any) -> str | None:
    word = WORDS.get(str(value).lower().replace("-", "_"))
    if word is None:
        return f"{value!r} is none of {', '.join(AUTONOMY)}"
    d.set("autonomy", "level", value=word)
    return None


def workspace_only(d: Draft, value: Any) -> str | None:
    return _switch(d, value, "autonomy", "workspace_only")


def allowed_commands(d: Draft, value: Any) -> str | None:
    names = texts(value)
    if names is None:
        return "not a list of names"
    if "*" in names:
        return None  # any command
    profiles = d.profiles()
    path = (d.get("profiles", profiles[0], "env") or {}).get("PATH", os.defpath)
    before = d.get("profiles", profiles[0], "allowed_commands")  # another key's: both lists hold
    there = [n for n in names if all(_program(n, path, d.get("profiles", p, "execute")) for p in profiles)]
    absent = [name for name in names if name not in there]
    if before is not None:
        there = [name for name in there if name in before]
    if not there:  # which runs nothing there either, and no list at all would be any command here
        shell_off(d)
        said = "so no command may run, and the shell is switched off"
        return f"this host has none of {', '.join(absent)} where the profile may execute, {said}" if absent else None
    for profile in profiles:
        # The commands of the list are often started by a shell, as scripts; one that is not listed cannot.
        d.set("profiles", profile, "allowed_commands", value=there)
    return f"{', '.join(absent)}: no such program on this host, left out of the list" if absent else None


def shell_off(d: Draft) -> None:
    d.imported["off"] = True
    d.set("tools", "shell_enabled", value=False)


def _program(name: str, path: str, execute: list[str]) -> bool:
    if not re.fullmatch(r"/?[\w@%+=:,./-]{1,255}", name, re.ASCII):
        return False
    found = [name] if name.startswith("/") else [] if "/" in name else [os.path.join(p, name) for p in path.split(":")]
    real = next((os.path.realpath(f) for f in found if os.path.isfile(f) and os.access(f, os.X_OK)), None)
    return real is not None and covers([os.path.realpath(e) for e in execute if e.startswith("/")], real)


def forbidden_paths(d: Draft, value: Any) -> str | None:
    given = texts(value)
    if given is None:
        return "not a list of paths"
    kept, wrong = list(d.get("autonomy", "forbidden_paths") or []), []
    workspaces = [p for caller in d.each_caller() for p in caller.get("workspaces", ())]
    shown = [p for name in d.profiles() for kind in ("read", "write", "execute") for p in d.get("profiles", name, kind)]
    for path in given:
        text = _named(path)
        if text is None:
            wrong.append(f"{path} is neither absolute nor below ~")
        elif any(inside(text, f) for f in (*FORBIDDEN, *FORBIDDEN_HOME)) or text in kept:
            continue  # off limits anyway
        elif covers(shown, text) or any(meets(w, text) or meets(f"{w}/**", text) for w in workspaces):
            wrong.append(f"{text} lies in what a session shows, and the kernel takes nothing out of that")
        else:
            kept.append(text)
    if kept:
        d.set("autonomy", "forbidden_paths", value=kept)
    return "; ".join(wrong) or None


def _named(path: str) -> str | None:
    path = path.replace("$HOME", "~", 1)
    if path.startswith("~/"):
        return "~" + paths.normal(path[1:])
    return paths.normal(path) if path.startswith("/") and ".." not in path.split("/") else None


def blocked_commands(d: Draft, value: Any) -> str | None:
    return _patterns(d, value, "blocked_commands")


def approval_patterns(d: Draft, value: Any) -> str | None:
    return _patterns(d, value, "approval_patterns")


def _patterns(d: Draft, value: Any, key: str) -> str | None:
    given = texts(value)
    if given is None:
        return "not a list of commands"
    fit = [p for p in dict.fromkeys(given) if p.strip() and len(p) <= 256 and p.isprintable()]
    d.add_to("autonomy", key, values=fit)
    wrong = [p for p in given if p not in fit]
    return f"not usable as patterns: {', '.join(map(repr, wrong))}" if wrong else None


def medium_risk(d: Draft, value: Any) -> str | None:
    """True: such commands are asked about. False: they are not."""
    risks = ("persistence", "dynamic")
    if type(value) is not bool:
        return "neither true nor false"
    if value:
        verbs = [f"{program} {verb}" for program, verbs in _MEDIUM.items() for verb in verbs]
        d.add_to("autonomy", "approval_patterns", values=[*verbs, *_MEDIUM_ALONE], keep=True)
    before = list(d.get("autonomy", "approval_risks") or [])
    after = [r for r in before if value or r not in risks] + [r for r in risks if value and r not in before]
    d.set("autonomy", "approval_risks", value=after)
    return None


def high_risk(d: Draft, value: Any) -> str | None:
    """True: such commands are denied. False: they are asked about, there too."""
    if type(value) is not bool:
        return "neither true nor false"
    d.add_to("autonomy", "blocked_commands" if value else "approval_patterns", values=_HIGH, keep=True)
    risks = ("destructive", "privilege", "secrets", "remote_code", "evasion")
    d.add_to("autonomy", "approval_risks", values=risks, keep=True)
    return None


def always_ask(d: Draft, value: Any) -> str | None:
    """A list of tools of which each use is asked about."""
    names = texts(value)
    if names is None:
        return "not a list of tools"
    if {"shell", "exec", "bash", "*"} & set(names):
        ask_always(d)
    others = [name for name in names if name not in ("shell", "exec", "bash")]
    return f"no such tool here: {', '.join(others)}" if others else None


def ask_always(d: Draft) -> None:
    """A rule by which every command is asked about, under any autonomy."""
    if all(entry.get("name") != ASKED for entry in d.get("rules") or []):
        match = {"tool": ["shell"]}
        d.add("rules", {"name": ASKED, "permissions": ["agent:execute"], "match": match, "effect": "ask"}, "imported")


def blocked_command(d: Draft, value: Any) -> str | None:
    return _switch(d, value, "alerts", "blocked_command")


def _switch(d: Draft, value: Any, *path: str) -> str | None:
    if type(value) is not bool:
        return "neither true nor false"
    d.set(*path, value=value)
    return None


def shell_enabled(d: Draft, value: Any) -> str | None:
    return _switch(d, value, "tools", "shell_enabled")


def file_write_enabled(d: Draft, value: Any) -> str | None:
    said = _switch(d, value, "tools", "file_write_enabled")
    if said is None and value is False:
        for name in d.profiles():
            read_only(d, name)
    return said


def read_only(d: Draft, name: str) -> None:
    write, read = d.get("profiles", name, "write") or [], d.get("profiles", name, "read")
    if "$WORKSPACE" in write:
        d.set("profiles", name, "write", value=[p for p in write if p != "$WORKSPACE"])
        d.set("profiles", name, "read", value=[*read, "$WORKSPACE"])


def browser_enabled(d: Draft, value: Any) -> str | None:
    return _switch(d, value, "tools", "browser_enabled")


def landlock(_d: Draft, value: Any) -> str | None:
    return None if value is True else "Landlock is always required here"


def always_true(_d: Draft, value: Any) -> str | None:
    return None if value is True else "cannot be switched off here"


def audit_on(_d: Draft, value: Any) -> str | None:
    return None if value is True else "the audit log cannot be switched off here"


def nothing(_d: Draft, _value: Any) -> str | None:
    return None


def otp(_d: Draft, value: Any) -> str | None:
    return None if value is False else "set mfa_required = true for the roles that it is meant for, and enrol"


def runtime_kind(_d: Draft, value: Any) -> str | None:
    return None if value == "native" else "comes with the container runtime; runs are confined natively"


def docker_network(_d: Draft, value: Any) -> str | None:
    return None if value == NETWORKS[0] else f"{value!r} comes with the egress part; there is no network until then"


def read_paths(d: Draft, value: Any) -> str | None:
    return _paths(d, value, "read", paths.read_refused)


def write_paths(d: Draft, value: Any) -> str | None:
    return _paths(d, value, "write", paths.write_refused)


def _paths(d: Draft, value: Any, kind: str, refused: Callable[..., str | None]) -> str | None:
    given = texts(value)
    if given is None:
        return "not a list of paths"
    bound = [p for p in (d.get("ceiling", kind) or []) if isinstance(p, str)]
    kept = list(d.get("profiles", "shell", kind) or []) if kind == "read" else []
    others = [*(d.get("profiles", "shell", "write") or []), *kept]
    wrong = []
    for path in given:
        text = paths.normal(path)
        why = paths.form(text) or refused(text, ceiling=False)
        if why is None and kind == "write" and not covers(bound or ["$WORKSPACE", "/tmp", "/home/agent"], text):  # noqa: S108
            why = "beyond [ceiling]; allow it there first"
        if why is not None:
            wrong.append(f"{text}: {why}")
        elif not covers(kept if kind == "write" else others, text):
            kept.append(text)
    d.set("profiles", "shell", kind, value=kept)
    if kind == "write" and not covers(kept, "$WORKSPACE"):
        d.set("profiles", "shell", "read", value=[*d.get("profiles", "shell", "read"), "$WORKSPACE"])
    return "; ".join(wrong) or None


def limit(d: Draft, wire: str, value: int | None, unit_text: str | int) -> str | None:
    """Set a limit of every profile, as far as the ceiling lets it, and no higher than another key has."""
    name, unit, least, most = units.LIMITS[wire]
    if value is None or not max(least, 1) <= value <= most:
        return f"{unit_text!r} is not a possible {name}"
    ceiling = d.get("ceiling", "limits", name)
    bound = units.parse(unit, ceiling) if ceiling is not None else most
    value = min(value, d.imported.setdefault(wire, value))  # several keys may say it, and each of them holds
    d.imported[wire] = value
    for profile in d.profiles():
        d.set(
            "profiles",
            profile,
            "limits",
            name,
            value=units.show_limit(wire, min(value, bound)) if unit != "count" else min(value, bound),
        )
        idle = d.get("profiles", profile, "limits", "idle_timeout")
        if wire == "timeout_ms" and idle not in (None, "none") and units.parse("time", idle) >= min(value, bound):
            d.set("profiles", profile, "limits", "idle_timeout", value="none")
    return f"narrowed to {ceiling}, which [ceiling] of the preset has" if value > bound else None


def memory_mb(d: Draft, value: Any) -> str | None:
    return limit(d, "memory", value << 20 if type(value) is int and value > 0 else None, value)


def cpu_percent(d: Draft, value: Any) -> str | None:
    return limit(d, "cpu", value if type(value) is int else None, value)


def cpus(d: Draft, value: Any) -> str | None:
    number = round(float(value) * 100) if isinstance(value, int | float) and type(value) is not bool else None
    return limit(d, "cpu", number, value)


def processes(d: Draft, value: Any) -> str | None:
    number = value if type(value) is int else None
    if number is not None and 0 < number < _LEAST_PROCESSES:
        limit(d, "processes", _LEAST_PROCESSES, _LEAST_PROCESSES)
        return f"{number} is raised to {_LEAST_PROCESSES}: threads count here too, and fewer break npm, cargo and git"
    return limit(d, "processes", number, value)


def files(d: Draft, value: Any) -> str | None:
    return limit(d, "files", value if type(value) is int else None, value)


def timeout_s(d: Draft, value: Any) -> str | None:
    found = _SECONDS.fullmatch(str(value)) if type(value) in (int, str) else None
    factor = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
    return limit(d, "timeout_ms", int(found[1]) * factor[found[2] or "s"] if found else None, value)


def workspace(d: Draft, value: Any) -> str | None:
    text = paths.normal(value) if isinstance(value, str) and value.startswith("/") else None
    wrong = "not an absolute path" if text is None else paths.workspace_refused(text)
    if text is None or wrong is not None:
        return f"{value!r}: {wrong}; name a directory below /srv or /home, and move it there"
    bound = d.get("ceiling", "workspaces")
    if workspaces_within([text], bound or ["/home/*/**", "/srv/**"]):
        return f"{text} is beyond [ceiling] workspaces; allow it there first"
    d.each_caller()[0]["workspaces"] = [text]
    return None


def texts(value: Any) -> list[str] | None:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return None
