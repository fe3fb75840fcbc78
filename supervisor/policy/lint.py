"""What loads and is probably not what was meant. Warnings only; whatever must not be is refused by the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.policy import units
from supervisor.policy.findings import Finding, finding
from supervisor.policy.narrow import covers

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Caller, Profile, Snapshot

# A shell and one command in a pipeline need about this much.
_LEAST = {"memory": 16 << 20, "processes": 2, "files": 16, "cpu": 5, "timeout_ms": 100}
_PRIVATE = ("/tmp", "/home/agent", "/dev/shm")  # noqa: S108 - always there, always readable
_OTHERS = ("/home", "/root", "/etc", "/var", "/srv", "/mnt", "/media")


def lint(snapshot: Snapshot) -> list[Finding]:
    """Findings with severity "warning", in the order of the snapshot."""
    found: list[Finding] = []
    for profile in snapshot.profiles:
        found += _profile(profile)
    for caller in snapshot.callers:
        found += _caller(caller)
    used = {name for caller in snapshot.callers for name in caller.profiles}
    for profile in snapshot.profiles:
        if profile.name not in used:
            found.append(_warn(profile.source, f"profiles.{profile.name}", "no caller may use this profile"))
    if not snapshot.callers:
        found.append(_warn(snapshot.files[0][0] + ":1", "callers", "nobody may use the service"))
    sources = [p.source for p in snapshot.profiles] + [c.source for c in snapshot.callers]
    in_force = {source.rpartition(":")[0] for source in sources}
    for path, _ in snapshot.files[1:]:
        if path not in in_force:
            found.append(_warn(path + ":1", "", "nothing in force comes from this drop-in"))
    return found


def _warn(source: str, key: str, message: str, expected: str | None = None) -> Finding:
    file, _, line = source.rpartition(":")
    return finding(file, int(line), key, message, expected=expected, severity="warning")


def _profile(p: Profile) -> list[Finding]:
    found: list[Finding] = []
    key = f"profiles.{p.name}"
    readable = (*p.read, *p.write, *_PRIVATE)
    for path in p.execute:
        if not covers(readable, path):
            said = f"{path} may be executed but not read, so scripts and libraries there do not work"
            found.append(_warn(p.source, f"{key}.execute", said, f"{path} in read"))
    others = [path for path in p.read if path in _OTHERS]
    found += [
        _warn(p.source, f"{key}.read", f"{o} shows what belongs to others", "what is needed of it") for o in others
    ]
    if not covers(p.execute, p.shell):
        said = f"{p.shell} is not below any path of execute, so no script can run"
        found.append(_warn(p.source, f"{key}.shell", said))
    if not covers(readable, "$WORKSPACE"):
        found.append(_warn(p.source, f"{key}.read", "the workspace is out of reach", "$WORKSPACE in read or write"))
    for limit, least in _LEAST.items():
        value: int = getattr(p.limits, limit)
        if value < least:
            said = f"{units.show_limit(limit, value)} is surely too low for a shell"
            expected = f"at least {units.show_limit(limit, least)}"
            found.append(_warn(p.source, f"{key}.limits.{units.LIMITS[limit][0]}", said, expected))
    if p.limits.idle_timeout_ms >= p.limits.timeout_ms:
        found.append(_warn(p.source, f"{key}.limits.idle_timeout", "never reached, timeout comes first"))
    return found


def _caller(c: Caller) -> list[Finding]:
    who = c.unit or (f"uid {c.uid}" if c.uid is not None else f"gid {c.gid}")
    if c.role == "viewer":
        unused = bool(c.workspaces or c.profiles)
        return [_warn(c.source, "callers", f"{who} is a viewer, so workspaces and profiles are unused")] * unused
    if bool(c.workspaces) != bool(c.profiles) or (c.role == "operator" and not c.profiles):
        said = f"{who} may run nothing: that takes at least one workspace pattern and one profile"
        return [_warn(c.source, "callers", said)]
    return []
