"""The queue before runs, as the rest of runs/ uses it: who waits for a place, and the word that one came free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.decide.bounds import agent_key
from supervisor.runs.queue import Entry, Queue
from supervisor.runs.registry import new_id

if TYPE_CHECKING:
    from supervisor.decide.admission import Admission
    from supervisor.decide.request import Peer, RunRequest
    from supervisor.runs.deciding import Notice
    from supervisor.runs.service import Supervisor


class Line:
    def __init__(self, room: Supervisor) -> None:
        self._room = room
        self._queue = Queue(self._has_room)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._queue)

    def _has_room(self, promised: int) -> bool:
        return self._room.counters().runs + promised < self._room.serving.snapshot.service.runs

    async def turn(self, peer: Peer, admission: Admission, request: RunRequest, notice: Notice) -> None:
        """Until a place is this request's, which it has to take before it awaits anything else.

        Raises LimitReached when the queue is full or it took too long, Conflict when it was taken out.
        """
        room, who = self._room, admission.who
        policy = room.serving.snapshot.concurrency

        def told(position: int) -> None:
            room.events.emit("run.queued", peer.uid, queued=entry.id, position=position)
            if notice is not None:
                notice({"type": "queued", "queued": entry.id, "position": position})

        def free(promised: int) -> bool:
            most = room.serving.snapshot.concurrency.runs_per_agent
            return not most or room.meters.book.running(who) + promised < most

        argv = request.argv if request.argv is not None else ("-c", request.script or "")
        entry = Entry(new_id("run"), agent_key(who), peer.uid, argv, notice=told)
        await self._queue.turn(entry, free, policy)

    def freed(self, agent: str | None = None) -> None:
        """A run of this agent ended; None: other bounds hold from now on."""
        if len(self._queue):
            self._queue.freed(agent)

    def entries(self, uid: int | None) -> list[dict[str, Any]]:
        return self._queue.entries(uid)

    def cancel(self, ident: str, uid: int | None) -> dict[str, Any]:
        return self._queue.cancel(ident, uid)

    def close(self, error: Exception) -> None:
        """Everybody who waits gets this error."""
        self._queue.close(error)
