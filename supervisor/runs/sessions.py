"""Sessions from opening to end: asked of the runtime, recorded, closed when nobody uses them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.errors import Conflict, Unavailable
from supervisor.runs.model import Session
from supervisor.wire.messages import LIMITS, OpenSession

if TYPE_CHECKING:
    from supervisor.decide.admission import Admission
    from supervisor.policy.snapshot import Limits
    from supervisor.runs.model import Peer
    from supervisor.runs.service import Supervisor


def caller_of(peer: Peer) -> dict[str, Any]:
    """The peer as audit records and questions name it."""
    return {"uid": peer.uid, "pid": peer.pid, "unit": peer.unit}


def narrowed(granted: Limits, limits: Limits) -> dict[str, int]:
    """The limits that are less than granted, by their wire names."""
    if limits == granted:
        return {}
    return {n: getattr(limits, n) for n in LIMITS if getattr(limits, n) != getattr(granted, n)}


async def open_session(
    room: Supervisor,
    peer: Peer,
    admission: Admission,
    ident: str,
    workspace: str,
    *,
    one_shot: bool,
) -> Session:
    """Open what was admitted. Raises as the launcher refuses; nothing is left behind then."""
    profile = admission.profile
    session = Session(
        id=ident,
        peer=peer,
        caller=admission.caller,
        profile=profile.name,
        workspace=workspace,
        digest=room.serving.digest,
        one_shot=one_shot,
        labels=dict(admission.labels),
        limits=narrowed(profile.limits, admission.limits),
        granted=profile,
        readonly=admission.readonly,
        network=admission.network,
    )
    message = OpenSession(
        id=1,
        session=ident,
        digest=session.digest,
        profile=profile.name,
        caller=admission.caller,
        uid=peer.uid,
        gids=sorted({peer.gid, *peer.gids}),
        unit=peer.unit,
        workspace=workspace,
        limits=session.limits,
        readonly=session.readonly,
        network=session.network,
    )
    room.registry.add_session(session)  # before anything is awaited: the next decision counts it
    try:
        session.receipt = await room.runtime.open_session(message)
    except asyncio.CancelledError:
        room.registry.drop_session(ident)
        room.spawn(room.runtime.close_session(ident))
        raise
    except BaseException:
        room.registry.drop_session(ident)
        raise
    if session.ended_cause is not None:  # its end came together with the answer
        raise Unavailable(f"the session ended at once: {session.ended_cause}", hint="try again", retry_after=1)
    session.state = "live"
    return session


async def open_counted(room: Supervisor, peer: Peer, admission: Admission, ident: str, workspace: str) -> Session:
    """Open a session that is asked for by itself, an action like a run: counted before anything is awaited, so that no
    two requests have the same last one. Raises as open_session(), and Unavailable when the count cannot be written.
    """
    counted, saved = room.meters.opened(room.serving.snapshot, admission.who)
    try:
        session = await open_session(room, peer, admission, ident, workspace, one_shot=False)
    except BaseException:
        room.meters.unopened(counted)
        raise
    try:
        await asyncio.shield(saved)
    except BaseException:  # nobody is told its id, so nobody would close it
        room.spawn(close(room, session))
        raise
    return session


async def opened(room: Supervisor, session: Session, request_id: str) -> None:
    """Record a session that was asked for by itself, tell of it, and watch its idleness. Raises AuditUnavailable."""
    record = events.session(
        session_id=session.id,
        action="open",
        outcome="allow",
        caller=caller_of(session.peer),
        resource=session.workspace,
        request_id=request_id,
        policy_digest=session.digest,
        labels=session.labels,
        result={"profile": session.profile, "limits": session.limits},
    )
    try:
        await room.audit.record(record)
    except BaseException:
        room.spawn(close(room, session))
        raise
    room.events.emit("session.opened", session.peer.uid, session=session.id, profile=session.profile)
    _watch(room, session, room.idle_seconds)


def _watch(room: Supervisor, session: Session, delay: float) -> None:
    if room.idle_seconds > 0 and session.state == "live":
        room.timers[session.id] = asyncio.get_running_loop().call_later(delay, _idle, room, session)


def _idle(room: Supervisor, session: Session) -> None:
    room.timers.pop(session.id, None)
    left = room.idle_seconds - (time.monotonic() - session.used)
    if session.live_runs or left > 0:
        _watch(room, session, room.idle_seconds if session.live_runs else left)
    elif session.state == "live":
        session.ended_cause = "expired"
        room.spawn(close(room, session))


async def close(room: Supervisor, session: Session) -> None:
    """Close a session; returns when everything of it is gone and every run's end is recorded and known.

    Raises Conflict, LauncherUnavailable.
    """
    if session.state == "ended":
        return
    if session.state == "opening":
        raise Conflict("the session is being opened", field="session", hint="try again when it is live")
    session.state = "closing"
    await room.runtime.close_session(session.id)
    for ident in tuple(session.live_runs):
        await room.registry.run(ident, None).done.wait()


def ended(room: Supervisor, ident: str, cause: str) -> None:
    """A session is gone, asked for or not."""
    timer = room.timers.pop(ident, None)
    if timer is not None:
        timer.cancel()
    session = room.registry.end_session(ident, cause)
    room.book.session_ended(ident)
    room.meters.session_ended(ident)
    if session is None or session.one_shot:
        return
    why = session.ended_cause or cause
    room.events.emit("session.ended", session.peer.uid, session=ident, cause=why)
    room.post(
        events.session(
            session_id=ident,
            action="end",
            outcome=why,
            caller=caller_of(session.peer),
            resource=session.workspace,
            policy_digest=session.digest,
            labels=session.labels,
        )
    )
