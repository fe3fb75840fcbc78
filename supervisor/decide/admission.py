"""May this peer open this session, or run this in it? The rules in the order in which they are asked. Pure.

Whatever is not granted is refused, and each refusal names the entry of policy that refuses, what would be allowed
and what to do (design, promise 7). The launcher asks again what it can, against its own snapshot.
"""

from __future__ import annotations

import os.path
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.decide.callers import find_caller, permits, require
from supervisor.decide.command import MAX_PATH, check_command, check_labels, text
from supervisor.policy.match import inside, path_matches, secret_part
from supervisor.policy.narrow import narrow_limits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from supervisor.policy.snapshot import Caller, Limits, Profile, Snapshot
    from supervisor.runs.model import Peer, RunRequest, Session, SessionRequest

__all__ = ["Admission", "Counters", "admit_run", "admit_session", "find_caller", "permits", "require"]

TOOLS = ("shell",)
_RETRY_RUN, _RETRY_SESSION = 1, 5  # seconds: a run ends sooner than a session


@dataclass(frozen=True, slots=True)
class Counters:
    """What lives now, as far as decisions ask for it."""

    stopped: bool = False
    sessions: int = 0
    runs: int = 0
    workspaces: Collection[tuple[str, int]] = ()  # (path, uid of the owner) of every live session


@dataclass(frozen=True, slots=True)
class Admission:
    """An allowed request: by which entry, under which profile, with which limits."""

    caller: int  # index into the snapshot's callers
    profile: Profile
    limits: Limits
    rule: str
    source: str  # FILE:LINE
    reason: str
    verdict: str = "allow"


def admit_session(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    request: SessionRequest,
    state: Counters,
) -> Admission:
    """Whether a session may be opened. `refused` maps a profile to the proof that failed.

    Raises Denied, WorkspaceRefused, InvalidRequest, ProfileRefused, LimitReached, Stopped or Conflict.
    """
    return _place(snapshot, refused, peer, request, request.workspace, state)


def admit_run(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    session: Session | None,
    request: RunRequest,
    state: Counters,
) -> Admission:
    """Whether a run may start: in `session`, or with None in one that is opened for it alone.

    Raises what admit_session raises, and NotFound for a session that this peer may not know of.
    """
    if session is None:
        if request.session is not None:
            raise _no_session(request.session)
        _tool(request)
        if request.workspace is None:
            raise errors.InvalidRequest(
                "neither session nor workspace given", field="workspace", allowed="exactly one of session and workspace"
            )
        admission = _place(snapshot, refused, peer, request, request.workspace, state)
        check_command(request)
        _room(snapshot, state)
        return admission
    index, caller = find_caller(snapshot, peer)
    if session.peer.uid != peer.uid and not permits(caller, "see_all"):
        raise _no_session(session.id)
    require(caller, "run")
    _not_stopped(state)
    _tool(request)
    if request.workspace is not None:
        raise errors.InvalidRequest(
            "both session and workspace given", field="workspace", allowed="exactly one of session and workspace"
        )
    if session.state != "live":
        raise errors.Conflict(f"the session is {session.state}", field="session", hint="open a new session")
    if request.profile is not None and request.profile != session.profile:
        raise errors.Conflict(
            f"the session runs under profile {session.profile}, not {request.profile}",
            field="profile",
            allowed=session.profile,
            hint="leave profile out, or open a session with the other profile",
        )
    profile = _profile(snapshot, refused, caller, session.profile)
    if session.granted is not None and session.granted is not profile and _differs(session.granted, profile):
        raise errors.Conflict(
            f"profile {profile.name} was changed by a reload since the session was opened",
            field="session",
            rule=f"profiles.{profile.name}",
            source=profile.source,
            hint="open a new session: it will run under the new policy",
        )
    _granted(caller, session.workspace)
    base = replace(profile.limits, **session.limits) if session.limits else profile.limits
    limits = narrow_limits(base, request.limits, rule=f"profiles.{profile.name}", source=profile.source)
    check_command(request)
    _room(snapshot, state)
    return _allow(index, caller, profile, limits)


def _place(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    request: SessionRequest | RunRequest,
    workspace: str,
    state: Counters,
) -> Admission:
    """A new session, asked for by itself or for one run."""
    index, caller = find_caller(snapshot, peer)
    require(caller, "run")
    _not_stopped(state)
    check_labels(request.labels)
    profile = _profile(snapshot, refused, caller, request.profile)
    _workspace(caller, workspace)
    limits = narrow_limits(profile.limits, request.limits, rule=f"profiles.{profile.name}", source=profile.source)
    _apart(workspace, peer, state)
    if state.sessions >= snapshot.service.sessions:
        raise errors.LimitReached(
            f"{state.sessions} sessions are open",
            field="session",
            rule="service.sessions",
            allowed=f"{snapshot.service.sessions} sessions",
            hint="close sessions that are done, or try again later",
            retry_after=_RETRY_SESSION,
        )
    return _allow(index, caller, profile, limits)


def _allow(index: int, caller: Caller, profile: Profile, limits: Limits) -> Admission:
    return Admission(
        caller=index,
        profile=profile,
        limits=limits,
        rule=f"callers[{index}].profiles",
        source=caller.source,
        reason=f"role {caller.role}, profile {profile.name} granted",
    )


def _not_stopped(state: Counters) -> None:
    if state.stopped:
        raise errors.Stopped("the emergency stop is on", hint="an administrator resumes with `stockade resume`")


def _tool(request: RunRequest) -> None:
    if request.tool not in TOOLS:
        raise errors.InvalidRequest(f"there is no tool {request.tool[:64]!r}", field="tool", allowed=", ".join(TOOLS))


def _room(snapshot: Snapshot, state: Counters) -> None:
    if state.runs >= snapshot.service.runs:
        raise errors.LimitReached(
            f"{state.runs} runs are going on",
            field="run",
            rule="service.runs",
            allowed=f"{snapshot.service.runs} runs at once",
            hint="wait for runs to end, then try again",
            retry_after=_RETRY_RUN,
        )


def _profile(
    snapshot: Snapshot, refused: Mapping[str, Mapping[str, Any]], caller: Caller, asked: str | None
) -> Profile:
    """The profile to run under: the one asked for, else the caller's only one, else the one named as the tool."""
    granted = ", ".join(caller.profiles) or "none"
    name = asked
    if name is None:
        name = caller.profiles[0] if len(caller.profiles) == 1 else "shell"
        if name not in caller.profiles:
            raise errors.InvalidRequest(
                "profile is missing, and policy grants this caller no single one",
                field="profile",
                source=caller.source,
                allowed=granted,
                hint="name one of them",
            )
    profile = snapshot.profile(name)
    # A profile that exists and is not granted reads as one that does not exist: policy is not to be probed.
    if profile is None or name not in caller.profiles:
        raise errors.Denied(
            f"profile {name[:64]!r} is not granted to this caller",
            field="profile",
            rule="callers.profiles",
            source=caller.source,
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


def _differs(old: Profile, new: Profile) -> bool:
    return replace(old, source="") != replace(new, source="")


def _workspace(caller: Caller, path: str) -> None:
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
    _granted(caller, path)


def _granted(caller: Caller, path: str) -> None:
    if path_matches(path, caller.workspaces) is None:
        raise errors.WorkspaceRefused(
            "workspace is outside what policy grants this caller",
            field="workspace",
            rule="callers.workspaces",
            source=caller.source,
            allowed=", ".join(caller.workspaces) or "none",
            hint="use a workspace that one of these patterns names, or have the operator add one",
        )


def _apart(path: str, peer: Peer, state: Counters) -> None:
    """Two live sessions share a workspace of the same owner, or their workspaces lie apart."""
    for other, uid in state.workspaces:
        if other == path and uid == peer.uid:
            continue
        if inside(path, other) or inside(other, path):
            # The path of somebody else's session is not this caller's to know.
            named = f" ({other})" if uid == peer.uid else ""
            raise errors.Conflict(
                f"the workspace overlaps with that of another live session{named}",
                field="workspace",
                hint="use that very directory, or wait until the other session is closed",
            )


def _no_session(ident: str) -> errors.NotFound:
    return errors.NotFound(
        f"there is no session {ident[:64]}", field="session", hint="it may have ended: open a new session"
    )
