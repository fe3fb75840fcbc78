"""Where a request wants to run: its profile, its workspace, its session, each by the name alone. Pure.

What is granted is said here; the launcher opens what was granted and looks at what it opened.
"""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.decide.command import MAX_PATH, text
from supervisor.policy.match import path_matches, secret_part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from supervisor.decide.context import Context
    from supervisor.decide.request import Peer
    from supervisor.policy.snapshot import Caller, Profile, Snapshot


def choose_profile(
    snapshot: Snapshot, refused: Mapping[str, Mapping[str, Any]], context: Context, asked: str | None
) -> Profile:
    """The profile to run under: the one asked for, else the first of those that are granted.

    Raises Denied for one that the caller with these labels does not have, ProfileRefused for one that is not proved.
    """
    names = context.profiles
    granted = ", ".join(names) or "none"
    name = asked
    if name is None:
        if not names:
            rule, source = _withheld(snapshot, context, None)
            raise errors.Denied(
                "no profile is granted to this caller with these labels",
                field="profile",
                rule=rule,
                source=source,
                allowed=granted,
                hint="have the operator grant one",
            )
        name = names[0]
    profile = snapshot.profile(name)
    # A profile that exists and is not granted reads as one that does not exist: policy is not to be probed.
    if profile is None or name not in names:
        rule, source = _withheld(snapshot, context, name)
        raise errors.Denied(
            f"profile {name[:64]!r} is not granted to this caller",
            field="profile",
            rule=rule,
            source=source,
            allowed=granted,
            hint="ask for a granted profile, or have the operator grant this one",
        )
    proof = refused.get(name)
    if proof is not None:
        raise errors.ProfileRefused(
            f"profile {name} failed its proof {proof['probe']}: {proof['detail']}",
            field="profile",
            rule=f"profiles.{name}",
            source=profile.source,
            hint="`stockade doctor` shows the proofs and their remedies",
            probe=proof["probe"],
        )
    return profile


def _withheld(snapshot: Snapshot, context: Context, name: str | None) -> tuple[str, str]:
    """The entry that does not grant a profile (None: any), with its source: a context that takes it, or the caller."""
    caller = context.caller
    granted = bool(caller.profiles) if name is None else name in caller.profiles
    for n in context.matched if granted else ():
        entry = snapshot.contexts[n]
        if entry.profiles is not None and (name is None or name not in entry.profiles):
            return f"contexts[{n}].profiles", entry.source
    return "callers.profiles", caller.source


def check_shell(profile: Profile) -> None:
    """A script takes the profile's shell, which allowed_commands may not name. Raises Denied."""
    if profile.allowed_commands and profile.shell not in profile.programs:
        raise errors.Denied(
            f"a script takes {profile.shell}, and this profile may not execute it",
            field="script",
            rule=f"profiles.{profile.name}.allowed_commands",
            source=profile.source,
            layer="landlock",
            allowed=", ".join(profile.allowed_commands),
            hint="send one of these programs as argv",
        )


def check_workspace(caller: Caller, path: str) -> None:
    """What can be said of a workspace by its name alone; the launcher opens it and checks what it opened."""
    if not path.startswith("/") or os.path.normpath(path) != path or path.startswith("//"):
        raise errors.WorkspaceRefused(
            "workspace is not a normalised absolute path",
            field="workspace",
            allowed="an absolute path without . or .. or doubled slashes",
            hint="give the path as `realpath` prints it",
        )
    text("workspace", path, MAX_PATH + 1)
    if path == "/":
        raise errors.WorkspaceRefused(
            "the whole file system is no workspace", field="workspace", hint="use a directory of its own"
        )
    if part := secret_part(path):
        raise errors.WorkspaceRefused(
            f"workspace is or lies in {part}, a directory of secrets",
            field="workspace",
            rule="secret directories",
            hint="use a directory of its own for the agent's work",
        )
    check_granted(caller, path)


def check_granted(caller: Caller, path: str) -> None:
    if path_matches(path, caller.workspaces) is None:
        raise errors.WorkspaceRefused(
            "workspace is outside what policy grants this caller",
            field="workspace",
            rule="callers.workspaces",
            source=caller.source,
            allowed=", ".join(caller.workspaces) or "none",
            hint="use a workspace that one of these patterns names, or have the operator add one",
        )


def check_apart(path: str, peer: Peer, workspaces: Collection[tuple[str, int]]) -> None:
    """Two live sessions share a workspace of the same owner, or their workspaces lie apart."""
    below, above = f"{path}/", set(_ancestors(path))  # both are normalised
    others = [other for other, _ in workspaces]  # as a rule none of hundreds, which one look at all of them tells
    if path not in others and above.isdisjoint(others) and f"\n{below}" not in "\n".join(("", *others)):
        return
    for other, uid in workspaces:
        if (other == path and uid != peer.uid) or other in above or other.startswith(below):
            # The path of somebody else's session is not this caller's to know.
            named = f" ({other})" if uid == peer.uid else ""
            raise errors.Conflict(
                f"the workspace overlaps with that of another live session{named}",
                field="workspace",
                hint="use that very directory, or wait until the other session is closed",
            )


def _ancestors(path: str) -> Iterator[str]:
    while path not in ("/", ""):
        path = path.rpartition("/")[0] or "/"
        yield path


def no_session(ident: str) -> errors.NotFound:
    return errors.NotFound(
        f"there is no session {ident[:64]}", field="session", hint="it may have ended: open a new session"
    )
