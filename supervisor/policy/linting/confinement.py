"""Profiles that cannot work as they are written, or that give away more than they seem to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.policy import units
from supervisor.policy.linting.said import warn
from supervisor.policy.match import inside
from supervisor.policy.narrow import WORKSPACE, covers
from supervisor.policy.words import runs_anything

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.policy.findings import Finding
    from supervisor.policy.snapshot import Profile, Snapshot

# A shell and one command in a pipeline need about this much.
_LEAST = {"memory": 16 << 20, "processes": 2, "files": 16, "cpu": 5, "timeout_ms": 100}
# What tools that people name profiles after need before they do anything: browsers and builds.
_TOOLS = {"browser": {"memory": 512 << 20, "processes": 64, "files": 256, "timeout_ms": 5_000}}
_PRIVATE = ("/tmp", "/home/agent", "/dev/shm")  # noqa: S108 - always there, always readable
_OTHERS = ("/home", "/root", "/etc", "/var", "/srv", "/mnt", "/media")
# What somebody else runs later. The last part of a path; below the workspace too.
_STARTED = {
    ".bashrc": "shells", ".bash_profile": "shells", ".bash_login": "shells", ".bash_logout": "shells",
    ".profile": "shells", ".zshrc": "shells", ".zshenv": "shells", ".zprofile": "shells", ".kshrc": "shells",
    ".bash_aliases": "shells", ".zlogin": "shells", ".cshrc": "shells", ".tcshrc": "shells", ".login": "shells",
    ".xprofile": "desktops", ".xsession": "desktops", ".xsessionrc": "desktops", "environment.d": "sessions",
    ".envrc": "direnv", "hooks": "git", ".gitconfig": "git", ".vscode": "editors", "autostart": "desktops",
    ".xinitrc": "desktops", ".vimrc": "editors", ".pythonrc": "interpreters", ".npmrc": "package managers",
}  # fmt: skip
_UNITS = (".config/systemd", ".local/share/systemd", "systemd/system", "systemd/user", "cron.d", "crontabs")
# What holds such files, and is somebody's by its name.
_ABOVE = {
    ".config": "units and start-up files of desktops and shells", ".config/fish": "start-up files of a shell",
    ".local": "units, and programs that others look for", ".local/share": "units",
    ".cargo": "programs that others look for", ".git": "the hooks of git",
}  # fmt: skip
_ON_PATH = ("bin", "sbin", ".local/bin", ".cargo/bin", "go/bin")


def profiles(snapshot: Snapshot) -> Iterator[Finding]:
    used = {name for caller in snapshot.callers for name in caller.profiles}
    for profile in snapshot.profiles:
        yield from _reach(profile)
        yield from _limits(profile)
        yield from _writes(profile)
        yield from _commands(profile)
        key = f"profiles.{profile.name}"
        if profile.name not in used:
            yield warn(
                profile.source, key, "no caller may use this profile", f'"{profile.name}" in profiles of a caller'
            )
        if not snapshot.tools.file_write_enabled and covers(profile.write, WORKSPACE):
            said = "the workspace is in write, but tools.file_write_enabled = false mounts every workspace read-only"
            yield warn(profile.source, f"{key}.write", said, "file_write_enabled = true, or the workspace in read")
        if profile.autonomy == "readonly" and covers(profile.write, WORKSPACE):
            said = 'the workspace is in write, but autonomy = "readonly" mounts it read-only'
            yield warn(profile.source, f"{key}.write", said, "another autonomy, or the workspace in read")


def _reach(p: Profile) -> Iterator[Finding]:
    key = f"profiles.{p.name}"
    readable = (*p.read, *p.write, *_PRIVATE)
    for path in p.execute:
        if not covers(readable, path):
            said = f"{path} may be executed but not read, so scripts and libraries there do not work"
            yield warn(p.source, f"{key}.execute", said, f"{path} in read")
    for path in p.read:
        if path in _OTHERS:
            yield warn(p.source, f"{key}.read", f"{path} shows what belongs to others", "what is needed of it")
    if not covers(p.execute, p.shell):
        said = f"{p.shell} is not below any path of execute, so no script can run"
        yield warn(p.source, f"{key}.shell", said, f"{p.shell} in execute, or another shell")
    if not covers(readable, WORKSPACE):
        yield warn(p.source, f"{key}.read", "the workspace is out of reach", "$WORKSPACE in read or write")


def _limits(p: Profile) -> Iterator[Finding]:
    key = f"profiles.{p.name}.limits"
    least, what = {**_LEAST, **_TOOLS.get(p.name, {})}, p.name if p.name in _TOOLS else "shell"
    for limit, number in least.items():
        value: int = getattr(p.limits, limit)
        if value < number:
            said = f"{units.show_limit(limit, value)} is surely too low for a {what}"
            yield warn(p.source, f"{key}.{units.LIMITS[limit][0]}", said, f"at least {units.show_limit(limit, number)}")
    if p.limits.idle_timeout_ms >= p.limits.timeout_ms:
        yield warn(p.source, f"{key}.idle_timeout", "never reached, timeout comes first", "less than timeout")


def _writes(p: Profile) -> Iterator[Finding]:
    """Grants that let a run plant what somebody else will run, outside of its confinement."""
    key = f"profiles.{p.name}.write"
    for path in p.write:
        if covers(_PRIVATE, path):  # which ends with the session
            continue
        last = path.rpartition("/")[2]
        if last in _STARTED and (last != "hooks" or ".git" in path.split("/")):
            said = f"{path} is run or read by {_STARTED[last]} later, outside of any confinement"
            yield warn(p.source, key, said, "a directory without it")
        elif any(f"/{u}/" in f"{path}/" for u in _UNITS):
            yield warn(p.source, key, f"{path} is where services are started from", "another directory")
        elif any(path.endswith(f"/{d}") for d in _ON_PATH) and not inside(path, WORKSPACE):
            yield warn(p.source, key, f"{path} is where others look for programs", "another directory")
        elif above := next((said for held, said in _ABOVE.items() if path.endswith(f"/{held}")), None):
            said = f"{path} holds {above}, which run later, outside of any confinement"
            yield warn(p.source, key, said, "what is needed of it")
        elif path in _OTHERS and path != "/home":
            yield warn(p.source, key, f"{path} holds what belongs to others", "what is needed of it")
        elif _is_home(path):
            said = f"{path} is somebody's home, with the start-up files of shells in it"
            yield warn(p.source, key, said, "a directory below it")


def _is_home(path: str) -> bool:
    parts = path.split("/")
    return path == "/home" or (len(parts) == 3 and parts[1] == "home" and path not in _PRIVATE)


def _commands(p: Profile) -> Iterator[Finding]:
    key = f"profiles.{p.name}.allowed_commands"
    for name in p.allowed_commands:
        if runs_anything(name):
            said = f"{name} does whatever it is told to, so the list bounds which programs start and little else"
            yield warn(p.source, key, said, "the programs that are needed, without an interpreter")
        if name.startswith("/") and not covers(p.execute, name):
            yield warn(p.source, key, f"{name} is not below any path of execute", f"{name} in execute")
    brought = [program for program in p.programs if runs_anything(program)]
    if brought and not any(runs_anything(name) for name in p.allowed_commands):
        said = f"a script of the list brings {brought[0]}, which does whatever it is told to"
        yield warn(p.source, key, said, "the list without that script")
    shell = p.shell.rpartition("/")[2]
    if p.allowed_commands and not {shell, p.shell} & set(p.allowed_commands):
        said = f"{shell} is not in the list, so requests with a script cannot run; argv can"
        yield warn(p.source, key, said, severity="info")
