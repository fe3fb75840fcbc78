"""Who a peer is to policy, and what its role permits. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor import errors

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Caller, Snapshot
    from supervisor.runs.model import Peer

# What each role permits; everything else is refused. `see_all` and `end_all`: of other uids too.
ROLES: dict[str, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "operator": frozenset({"read", "run"}),
    "administrator": frozenset({"read", "run", "stop", "reload", "see_all", "end_all"}),
}


def permits(caller: Caller, action: str) -> bool:
    """Whether the caller's role permits an action of ROLES; an unknown role or action is refused."""
    return action in ROLES.get(caller.role, ())


def require(caller: Caller, action: str) -> None:
    """Raises Denied when the role does not permit `action`."""
    if permits(caller, action):
        return
    roles = [role for role, actions in ROLES.items() if action in actions]
    raise errors.Denied(
        f"the role {caller.role} may not {action.replace('_', ' ')}",
        field="role",
        rule="callers.role",
        source=caller.source,
        allowed=f"{action.replace('_', ' ')}: {', '.join(roles) or 'no role'}",
        hint="have the operator change this entry's role, then `stockade policy reload`",
    )


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
    who = f'unit = "{peer.unit}"' if peer.unit else f"uid = {peer.uid}"
    listed = ", ".join(map(str, sorted(groups)))
    where = snapshot.files[0][0] if snapshot.files else "policy.toml"
    entry = f'[[callers]]\n{who}\nrole = "operator"\nworkspaces = ["/srv/agents/*"]\nprofiles = ["shell"]\n'
    return errors.Denied(
        f"no [[callers]] entry names this caller: uid {peer.uid}, unit {peer.unit or 'none'}, groups {listed}",
        field="caller",
        rule="callers",
        source=where,
        hint=f"to admit it, add this to {where}, then run `stockade policy reload`:\n{entry}",
    )
