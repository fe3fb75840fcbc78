"""Tools, commands, paths and questions: what is never asked, never denied, or denied by nobody being there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.policy.globs import meets
from supervisor.policy.linting.said import note, warn
from supervisor.policy.match import inside
from supervisor.policy.narrow import AUTONOMY, covers
from supervisor.policy.words import FORBIDDEN, FORBIDDEN_HOME, PRIVILEGED, may_ever, role, role_permits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.policy.findings import Finding
    from supervisor.policy.snapshot import Caller, Snapshot

_SWITCHES = {"shell": "shell_enabled", "browser": "browser_enabled"}


def tools(snapshot: Snapshot) -> Iterator[Finding]:
    t = snapshot.tools
    if t.policy == "enabled" and t.allow_list:
        said = 'tools.policy = "enabled" does not look at the list'
        yield warn(t.source, "tools.allow_list", said, 'policy = "whitelist"')
    if t.policy == "whitelist" and not t.allow_list:
        yield warn(
            t.source, "tools.allow_list", "the whitelist is empty, so there is no tool", 'policy = "restrictive"'
        )
    if t.policy == "restrictive" and t.allow_list:
        yield warn(t.source, "tools.policy", "restrictive with a list is a whitelist", 'policy = "whitelist"')
    for tool in t.allow_list:
        if tool in _SWITCHES and not getattr(t, _SWITCHES[tool]):
            said = f"{tool} is in allow_list and switched off"
            yield warn(t.source, f"tools.{_SWITCHES[tool]}", said, f"{_SWITCHES[tool]} = true, or a list without it")


def commands(snapshot: Snapshot) -> Iterator[Finding]:
    a = snapshot.autonomy
    yield from _shadowed(a.source, "autonomy", a.blocked_commands, "autonomy", a.approval_patterns)
    for context in snapshot.contexts:
        key = "contexts"
        yield from _shadowed(a.source, "autonomy", a.blocked_commands, key, context.approval_patterns, context.source)
        yield from _shadowed(context.source, key, context.blocked_commands, key, context.approval_patterns)
        for name in ("blocked_commands", "approval_patterns"):
            for pattern in getattr(context, name):
                if pattern in getattr(a, name):
                    said = f"{pattern!r} stands in autonomy.{name} already"
                    yield warn(context.source, f"{key}.{name}", said, "the list without it")


def _shadowed(
    by: str, owner: str, blocked: tuple[str, ...], key: str, asked: tuple[str, ...], source: str = ""
) -> Iterator[Finding]:
    for pattern in asked:
        words = pattern.split()
        wider = next((b for b in blocked if words[: len(b.split())] == b.split()), None)
        if wider is not None:
            said = f"{pattern!r} is never asked about: {owner}.blocked_commands at {by} has {wider!r}, which denies it"
            yield warn(source or by, f"{key}.approval_patterns", said, "one of the two")


def paths(snapshot: Snapshot) -> Iterator[Finding]:
    a = snapshot.autonomy
    for path in a.forbidden_paths:
        key = "autonomy.forbidden_paths"
        if any(inside(path, d) for d in (*FORBIDDEN, *FORBIDDEN_HOME)):
            yield note(a.source, key, f"{path} is off limits anyway")
            continue
        opened = next((g for g in a.granted_paths if inside(path, g)), None)
        if opened is not None:
            yield warn(a.source, key, f"granted_paths has {opened}, which opens it", "one of the two")
        yield from _not_subtracted(snapshot, path)
    for path in a.granted_paths:
        closed = (*FORBIDDEN, *FORBIDDEN_HOME, *a.forbidden_paths)
        if not any(inside(path, d) or inside(d, path) for d in closed):
            yield warn(a.source, "autonomy.granted_paths", f"nothing forbids {path}", "the list without it")


def _not_subtracted(snapshot: Snapshot, path: str) -> Iterator[Finding]:
    """Landlock grants trees and cannot take a part of one away again; so a name that is denied stays readable."""
    source, key = snapshot.autonomy.source, "autonomy.forbidden_paths"
    end = "; tools may not name it, but a command can still reach it, since the kernel takes nothing out of a grant"
    for profile in snapshot.profiles:
        for kind in ("write", "read", "execute"):
            if covers(getattr(profile, kind), path):
                said = f"{path} is within {kind} of profile {profile.name} at {profile.source}{end}"
                yield warn(source, key, said, f"{kind} that names the directories beside it")
                break
    for caller in snapshot.callers:
        if any(meets(pattern, path) or meets(f"{pattern}/**", path) for pattern in caller.workspaces):
            said = f"{path} lies in workspaces of the caller at {caller.source}{end}"
            yield warn(source, key, said, "workspaces that do not hold it")
            break


def answers(snapshot: Snapshot) -> Iterator[Finding]:
    """R47: where nobody can answer, what would be asked about is denied."""
    asks = bool(snapshot.autonomy.approval_patterns or snapshot.autonomy.approval_risks)
    asks = asks or any(r.effect == "ask" for r in snapshot.rules) or any(c.approval_patterns for c in snapshot.contexts)
    answering = [c for c in snapshot.callers if role_permits(snapshot, c.role, "approvals:answer")]
    for caller in snapshot.callers:
        # Of a group another member may answer.
        others = [c for c in answering if c is not caller or c.gid is not None]
        if asks and not others and _supervised(snapshot, caller):
            said = "what this caller is to be asked about is denied: nobody else may answer"
            remedy = 'a second caller with role administrator, or autonomy.level = "full"'
            # Whoever answers for all others and runs something itself, as root may, knows.
            say = note if role_permits(snapshot, caller.role, "approvals:answer") else warn
            yield say(caller.source, "callers", said, remedy)
        if caller.may_request and not others:
            said = "nobody else may answer, so it is never given a role that it asks for"
            yield warn(caller.source, "callers.may_request", said, "a caller with approvals:answer")
        two = role(snapshot, caller.role).second_person
        if two and len(others) == 1 and others[0].gid is None:
            said = f"the role {caller.role} takes the yes of two people, and only one may answer"
            yield warn(caller.source, "callers.role", said, "one more caller with approvals:answer")


def _supervised(snapshot: Snapshot, caller: Caller) -> bool:
    """Whether anything that it runs may be asked about."""
    if not (caller.profiles and caller.workspaces and may_ever(snapshot, caller, "agent:execute")):
        return False
    granted = [p.autonomy for p in snapshot.profiles if p.name in caller.profiles]
    levels = (min(snapshot.autonomy.level, caller.autonomy, level, key=AUTONOMY.index) for level in granted)
    return any(level != "full" for level in levels)


def roles(snapshot: Snapshot) -> Iterator[Finding]:
    had = {name for caller in snapshot.callers for name in (caller.role, *caller.may_request)}
    had |= {context.role for context in snapshot.contexts if context.role is not None}
    for entry in snapshot.roles:
        key = f"roles.{entry.name}"
        if entry.name not in had:
            yield warn(
                entry.source, key, "no caller has this role or may ask for it", f'role = "{entry.name}" of a caller'
            )
        if (entry.requires_approval or entry.mfa_required) and not any(
            role_permits(snapshot, entry.name, permission) for permission in PRIVILEGED
        ):
            said = "it has no privileged permission, so requires_approval and mfa_required have nothing to be about"
            yield warn(entry.source, key, said, "one of " + ", ".join(PRIVILEGED))
