"""What can be asked about the service as a whole, as plain dictionaries. Nothing here changes anything."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from supervisor.decide.callers import called, find_caller
from supervisor.policy.narrow import narrowest
from supervisor.policy.words import PERMISSIONS
from supervisor.wire.messages import LIMITS

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Limits, Profile
    from supervisor.runs.model import Peer, Session
    from supervisor.runs.service import Supervisor


def limits_of(limits: Limits) -> dict[str, int]:
    return {name: getattr(limits, name) for name in LIMITS}


def status(room: Supervisor, peer: Peer) -> dict[str, Any]:
    loaded = room.serving
    index, caller = find_caller(loaded.snapshot, peer)
    counters = room.counters()
    bounds = loaded.snapshot.service
    return {
        "version": room.version,
        "stopped": room.stopped,
        "policy": {
            "digest": loaded.digest,
            "files": dict(loaded.snapshot.files),
            "since": room.since,
            "failure": room.failure,
            "refused": {name: _proof(proof) for name, proof in room.refused.items()},
        },
        "sessions": {"live": counters.sessions, "most": bounds.sessions},
        "runs": {"live": counters.runs, "most": bounds.runs},
        "waiting": {
            "approvals": len(room.book.questions("pending")),
            "queue": len(room.line.entries(None)),
            "breakers": sum(b["state"] != "closed" for b in room.meters.breakers()),
        },
        "alerts": {"agents": room.meters.alarmed() if room.meters.book.plan(loaded.snapshot).alerts else 0},
        "audit": {"ok": room.audit_ok},
        "host": loaded.host,
        "you": {"uid": peer.uid, "unit": peer.unit, "entry": index, "role": caller.role, "source": caller.source},
    }


def doctor(room: Supervisor) -> dict[str, Any]:
    loaded = room.serving
    required = {layer for profile in loaded.snapshot.profiles for layer in profile.required}
    host = {name: {"required": name in required, **layer} for name, layer in loaded.host.items()}
    missing = [name for name, layer in host.items() if layer["required"] and not layer.get("present")]
    return {
        "ok": not room.refused and not missing and room.audit_ok,
        "missing": missing,
        "refused": {name: _proof(proof) for name, proof in room.refused.items()},
        "host": host,
        "proofs": list(loaded.proofs),
        "audit": {"ok": room.audit_ok},
    }


def policy(room: Supervisor, peer: Peer) -> dict[str, Any]:
    """The policy in force: whole for an administrator, for others their own entry and its profiles."""
    loaded = room.serving
    snapshot = loaded.snapshot
    _, caller = find_caller(snapshot, peer)
    if room.desk.permits(peer, "agent:read_all"):
        return {"digest": loaded.digest, **asdict(snapshot), "files": dict(snapshot.files)}
    profiles = [asdict(p) for p in snapshot.profiles if p.name in caller.profiles]
    return {"digest": loaded.digest, "profiles": profiles, "callers": [asdict(caller)]}


def self_view(room: Supervisor, peer: Peer) -> dict[str, Any]:
    """What a caller may know about itself; all that a process inside a session may ask."""
    if peer.inside:
        return _inside(room, peer)
    snapshot = room.serving.snapshot
    index, caller = find_caller(snapshot, peer)
    granted = [snapshot.profile(name) for name in caller.profiles]
    return {
        "inside": False,
        "uid": peer.uid,
        "unit": peer.unit,
        "entry": index,
        "source": caller.source,
        "role": caller.role,
        "roles": list(room.desk.roles(peer)),
        "permissions": [p for p in PERMISSIONS if room.desk.permits(peer, p)],
        "autonomy": narrowest(snapshot.autonomy.level, caller.autonomy),
        "zone": caller.zone,
        "labels": {name: list(patterns) for name, patterns in caller.labels},
        "must_state": list(caller.must_state),
        "usage": room.meters.usage(snapshot, called(peer, caller), time.time()),
        "workspaces": list(caller.workspaces),
        "profiles": [_profile(p) | {"refused": p.name in room.refused} for p in granted if p is not None],
    }


def _inside(room: Supervisor, peer: Peer) -> dict[str, Any]:
    # Children of a session have a uid of their own; where policy shares the owner's uid it may name several.
    found = [s for s in room.registry.sessions(None) if s.receipt.get("uid") == peer.uid]
    if len(found) != 1:
        return {"inside": True, "uid": peer.uid}
    session = found[0]
    narrowed = {"readonly": session.readonly, "labels": session.labels}
    return {
        "inside": True,
        "uid": peer.uid,
        "session": session.id,
        "workspace": session.workspace,
        **narrowed,
        **_granted(session),
    }


def _granted(session: Session) -> dict[str, Any]:
    if session.granted is None:
        return {"profile": {"name": session.profile}}
    shown = _profile(session.granted)
    shown["limits"] |= session.limits
    shown["network"] = session.network or shown["network"]
    return {"profile": shown}


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "read": list(profile.read),
        "write": list(profile.write),
        "execute": list(profile.execute),
        "allowed_commands": list(profile.allowed_commands),
        "autonomy": profile.autonomy,
        "network": profile.network,
        "limits": limits_of(profile.limits),
    }


def _proof(proof: dict[str, Any]) -> dict[str, Any]:
    return {key: proof.get(key) for key in ("probe", "key", "detail")}
