"""The words of decisions: tools, permissions, roles, risks. No pydantic here: the launcher reads them too."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from supervisor.policy.snapshot import Role

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Caller, Snapshot

MAX_SCRIPT = 64 * 1024  # bytes that are parsed at most
TOOLS = ("shell", "file", "browser")
TOOL_POLICIES = ("enabled", "whitelist", "restrictive")
SCOPES = ("caller", "agent", "user", "channel", "tool")
ALERT_ACTIONS = ("tell", "ask", "stop")
COMPARED = ("runs", "failed", "sensitive")  # with what is usual for an agent
SPECIAL = ("caller", "role", "tool", "profile", "zone")  # what match knows beside labels; no label has these names
PERMISSIONS = (
    "agent:read", "agent:execute", "agent:read_all", "agent:execute_all", "agent:end_all", "logs:read", "config:read",
    "config:write", "service:stop", "breaker:reset", "approvals:read", "approvals:answer", "grants:revoke",
    "access:request", "credentials:rotate",
)  # fmt: skip
PRIVILEGED = ("config:write", "service:stop", "breaker:reset", "grants:revoke", "credentials:rotate")
# What a command may show signs of. decide/shell finds them.
RISKS = {
    "destructive": "deletes or overwrites much, devices, history or what is not the workspace's",
    "privilege": "becomes root, changes owners, sets dangerous modes or capabilities",
    "secrets": "names keys, tokens, password files or directories of secrets",
    "remote_code": "runs what came over the network",
    "persistence": "plants what runs later: cron, units, shell start-up files, git hooks",
    "evasion": "hides what it runs: decoded text, a word put together at run time in front of dangerous arguments",
    "exfiltration": "sends files or data elsewhere, opens a shell to the network",
    "scanning": "looks for hosts, ports or ways in",
    "mining": "computes for a currency",
    "dynamic": "a command whose name is only known at run time",
    "outside": "an argument that names a path outside of the workspace or a forbidden one",
}

# What no tool may name, whatever policy says, until it is granted by name (R74, R75).
FORBIDDEN = (
    "/etc", "/root", "/proc", "/sys", "/dev", "/boot", "/var/lib", "/var/run", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
    "/lib", "/lib64",
)  # fmt: skip
FORBIDDEN_HOME = ("~/.ssh", "~/.gnupg", "~/.aws", "~/.config/gcloud")

# Programs that run whatever text they are handed. As an entry of allowed_commands, or as a grant that holds for more
# than one command, each of them is a grant of everything (lesson 6). Names without version: python3.11 is python.
SHELLS = frozenset(
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "ksh93", "lksh", "pdksh", "yash", "posh", "rbash", "rzsh",
     "fish", "csh", "tcsh", "pwsh", "elvish", "nu", "xonsh", "osh", "oksh", "hush", "busybox", "toybox"]
)  # fmt: skip
INTERPRETERS = SHELLS | frozenset(
    ["python", "pypy", "perl", "ruby", "node", "nodejs", "deno", "bun", "php", "lua", "luajit", "tclsh", "wish",
     "expect", "awk", "gawk", "mawk", "nawk", "osascript", "julia", "Rscript", "R", "octave", "ipython", "jruby", "irb",
     "guile", "racket", "sbcl", "clisp", "emacs", "vim", "vi", "nvim", "ed", "ex", "gdb", "java", "dotnet", "groovy",
     "scala", "jshell", "erl", "escript", "elixir", "iex", "ghci", "runghc", "ocaml", "swipl", "qjs", "tsx", "ts-node",
     "make", "m4", "sqlite3", "psysh"]
)  # fmt: skip
_VERSION = re.compile(r"-?[0-9][0-9.]*[a-z]?$")

# What is built in (R60); a policy may declare each of them again.
BUILT_IN = {
    "viewer": Role("viewer", ("agent:read", "logs:read", "config:read", "access:request")),
    "operator": Role("operator", ("agent:read", "agent:execute", "logs:read", "config:read", "access:request")),
    "administrator": Role("administrator", ("*",)),
}


def runs_anything(program: str) -> bool:
    """Whether a program, by name or path, is a shell or interpreter of any version: python3.11, /bin/bash."""
    name = program.rpartition("/")[2]
    return name in INTERPRETERS or _VERSION.sub("", name) in INTERPRETERS


def permission_matches(pattern: str, asked: str) -> bool:
    """Whether a pattern of policy names a permission; `*` stands for one half or for all."""
    if pattern in ("*", asked):
        return True
    area, _, act = pattern.partition(":")
    one, _, two = asked.partition(":")
    return area in ("*", one) and act in ("*", two)


def role(snapshot: Snapshot, name: str) -> Role:
    """The role of a name; one that nobody declared permits nothing."""
    declared = next((r for r in snapshot.roles if r.name == name), None) if snapshot.roles else None
    return declared or BUILT_IN.get(name) or Role(name, ())


def role_permits(snapshot: Snapshot, name: str, permission: str) -> bool:
    return grants(role(snapshot, name).permissions, permission)


@lru_cache(maxsize=512)  # asked several times for each request
def grants(permissions: tuple[str, ...], permission: str) -> bool:
    """Whether one of these patterns of permissions names this one."""
    return any(permission_matches(pattern, permission) for pattern in permissions)


def may_ever(snapshot: Snapshot, caller: Caller, permission: str) -> bool:
    """Whether a caller has a permission, or can be given it for a time."""
    return any(role_permits(snapshot, name, permission) for name in (caller.role, *caller.may_request))
