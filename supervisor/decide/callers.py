"""Who a peer is to policy, and what its roles permit. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor import errors
from supervisor.policy.words import BUILT_IN, role, role_permits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.decide.request import Peer
    from supervisor.policy.snapshot import Caller, Snapshot


def permits(snapshot: Snapshot, caller: Caller, permission: str, also: Iterable[str] = ()) -> bool:
    """Whether the caller's role, or one of those that it was given for a time (`also`), permits it.

    An unknown role or permission is refused.
    """
    if role_permits(snapshot, caller.role, permission):
        return True
    return any(role_permits(snapshot, name, permission) for name in also)


def require(snapshot: Snapshot, caller: Caller, permission: str, also: Iterable[str] = ()) -> None:
    """Raises Denied when no role of the caller permits it."""
    if permits(snapshot, caller, permission, also):
        return
    names = {*BUILT_IN, *(r.name for r in snapshot.roles)}
    roles = [name for name in sorted(names) if role_permits(snapshot, name, permission)]
    hint = "have the operator change this entry's role, then `stockade policy reload`"
    if any(role_permits(snapshot, name, permission) for name in caller.may_request):
        name = next(name for name in caller.may_request if role_permits(snapshot, name, permission))
        hint = f"ask for it: stockade access request --role {name} --duration 1h --reason …"
    raise errors.Denied(
        f"the role {caller.role} does not have {permission}",
        field="role",
        rule="callers.role",
        source=caller.source,
        allowed=f"{permission}: {', '.join(roles) or 'no role'}",
        hint=hint,
        permission=permission,
    )


def acting(snapshot: Snapshot, caller: Caller, permission: str, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The roles that a caller acts by: its own, and where that does not permit it, each of `also` that does."""
    if not also or role_permits(snapshot, caller.role, permission):
        return (caller.role,)
    return (caller.role, *(name for name in dict.fromkeys(also) if role_permits(snapshot, name, permission)))


def called(peer: Peer, caller: Caller) -> str:
    """The caller as rates, contexts and logs name it: "unit:NAME" when policy named its unit, else "uid:N"."""
    return f"unit:{caller.unit}" if caller.unit is not None else f"uid:{peer.uid}"


def answerable(snapshot: Snapshot, peer: Peer, caller: Caller) -> bool:
    """Whether policy names anybody but this peer who may answer its questions (R47: without, supervised denies)."""
    for entry in snapshot.callers:
        if not role_permits(snapshot, entry.role, "approvals:answer"):
            continue
        if entry.uid is not None and entry.uid == peer.uid:
            continue
        if entry.unit is not None and entry is caller:
            continue
        return True
    return False


def second_person(snapshot: Snapshot, caller: Caller, also: Iterable[str] = ()) -> bool:
    """Whether a question about a request of this caller takes two people."""
    return any(role(snapshot, name).second_person for name in (caller.role, *also))


def find_caller(snapshot: Snapshot, peer: Peer) -> tuple[int, Caller]:
    """The entry of policy that names this peer: the first by unit, else the first by uid, else the first by group.

    Raises SelfViewOnly for a process of one of our own sessions, Denied when no entry names the peer.
    """
    if peer.inside:
        raise errors.SelfViewOnly(
            "this process runs inside a Stockade session",
            allowed="GET /v1/self",
            hint="ask GET /v1/self for the limits",
        )
    groups = {peer.gid, *peer.gids}
    by_uid = by_gid = None
    for found in enumerate(snapshot.callers):
        entry = found[1]
        if entry.unit is not None:
            if entry.unit == peer.unit:
                return found
        elif entry.uid is not None:
            if by_uid is None and entry.uid == peer.uid:
                by_uid = found
        elif by_gid is None and entry.gid in groups:
            by_gid = found
    named = by_uid or by_gid
    if named is None:
        raise _unnamed(snapshot, peer, groups)
    return named


def _unnamed(snapshot: Snapshot, peer: Peer, groups: set[int]) -> errors.Denied:
    listed = ", ".join(map(str, sorted(groups)))
    where = snapshot.files[0][0] if snapshot.files else "policy.toml"
    return errors.Denied(
        f"no [[callers]] entry names this caller: uid {peer.uid}, unit {peer.unit or 'none'}, groups {listed}",
        field="caller",
        rule="callers",
        source=where,
        hint=f"to admit it, add this to {where}, then run `stockade policy reload`:\n{entry_for(peer)}",
    )


def entry_for(peer: Peer, workspace: str = '"/srv/agents/*"', profile: str = '"shell"') -> str:
    """A [[callers]] entry that would admit this peer to a workspace and a profile, both as TOML writes them.

    By its unit where that is a service. A login session's scope has another number the next time, and all that a
    user's own service manager starts is that user.
    """
    service = peer.unit.endswith(".service") and not peer.unit.startswith("user@")
    who = f'unit = "{peer.unit}"' if service else f"uid = {peer.uid}"
    owner = "" if peer.uid else "any_owner = true\n"  # what belongs to root is no workspace
    return f'[[callers]]\n{who}\nrole = "operator"\nworkspaces = [{workspace}]\nprofiles = [{profile}]\n{owner}'
