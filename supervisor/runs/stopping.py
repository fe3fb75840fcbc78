"""The emergency stop: every tree dies, nothing starts until it is taken back, also not after a restart."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from supervisor.audit import events
from supervisor.errors import Stopped, Unavailable
from supervisor.runs import sessions, stopfile

if TYPE_CHECKING:
    from supervisor.decide.request import Peer
    from supervisor.runs.service import Supervisor


async def stop(room: Supervisor, peer: Peer, reason: str) -> dict[str, Any]:
    """Whoever orders it may. Raises Unavailable when it cannot be written down; everything is dead all the same."""
    if room.stopped is None:
        room.stopped = {"reason": reason, "since": time.time(), "by": sessions.caller_of(peer)}
    room.line.close(Stopped("the emergency stop is on", hint="an administrator resumes with `stockade resume`"))
    ending = asyncio.ensure_future(room.runtime.stop())
    await asyncio.sleep(0)  # the order is on its way to the launcher before the disk is waited for
    problem = None
    try:
        stopfile.write(room.layout.state, room.stopped)
    except OSError as e:
        problem = e
    runs, closed = await ending
    counts = {"runs": runs, "sessions": closed}
    room.post(events.service(action="stop", outcome="stopped", reason=reason, result=counts | room.stopped))
    room.events.emit("service.stopped", None, reason=reason, **counts)
    if problem is not None:
        raise Unavailable(
            f"everything is stopped, but a restart would forget it: {problem}",
            hint=f"make {room.layout.state} writable, then stop again",
        )
    return {"stopped": True, **room.stopped, **counts}


async def resume(room: Supervisor, peer: Peer) -> dict[str, Any]:
    """Undo stop(). It is recorded first. Raises AuditUnavailable, LauncherUnavailable, Unavailable."""
    if room.stopped is None:
        return {"stopped": False}
    caller = sessions.caller_of(peer)
    await room.audit.record(events.service(action="resume", outcome="resumed", result={"by": caller}))
    await room.runtime.resume()
    try:
        stopfile.remove(room.layout.state)
    except OSError as e:
        await room.runtime.stop()
        raise Unavailable(f"the stop cannot be taken back: {e}", hint=f"make {room.layout.state} writable") from e
    room.stopped = None
    room.events.emit("service.resumed", None)
    return {"stopped": False}
