"""Which sessions and runs there are, who may see them, and how long the finished ones are kept."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from supervisor.decide.admission import Counters
from supervisor.errors import NotFound
from supervisor.runs import output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.runs.model import Run, Session

KEEP_RUNS = 1000
KEEP_SECONDS = 3600.0
KEEP_BYTES = 256 << 20  # of output, all finished runs together
KEEP_SESSIONS = 256  # that ended
_GRACE = 1.0  # seconds that a finished run is kept whatever its size, so that its answer can be written


_BASE32 = b"abcdefghijklmnopqrstuvwxyz234567" * 8  # a character for each value of a byte


def new_id(kind: str) -> str:
    """`run-` or `ses-` and 100 random bits in lower-case base32 (RFC 4648, section 6)."""
    return f"{kind}-{os.urandom(20).translate(_BASE32).decode()}"


class Registry:
    def __init__(self, spool: str) -> None:
        os.makedirs(spool, 0o700, exist_ok=True)
        output.sweep(spool)
        self.spool = spool
        self._sessions: dict[str, Session] = {}
        self._ended: dict[str, Session] = {}
        self._runs: dict[str, Run] = {}
        self._finished: dict[str, tuple[float, int]] = {}  # in the order of finishing: (when, bytes kept)
        self._workspaces: dict[str, tuple[str, int]] = {}
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def counters(self, *, stopped: bool) -> Counters:
        """What lives; runs are counted by the meters, from the decision on."""
        return Counters(stopped, len(self._sessions), 0, self._workspaces.values())

    # --- sessions -------------------------------------------------------------------------------------------------

    def add_session(self, session: Session) -> None:
        self._sessions[session.id] = session
        self._workspaces[session.id] = (session.workspace, session.peer.uid)

    def end_session(self, ident: str, cause: str) -> Session | None:
        """The session, when it was live until now; it stays visible for a while unless it was for one run alone."""
        session = self._sessions.pop(ident, None)
        if session is None:
            return None
        self._workspaces.pop(ident, None)
        session.state = "ended"
        session.ended_cause = session.ended_cause or cause
        if not session.one_shot:
            self._ended[ident] = session
            if len(self._ended) > KEEP_SESSIONS:
                del self._ended[next(iter(self._ended))]
        return session

    def drop_session(self, ident: str) -> None:
        """Forget a session that was never opened."""
        self._sessions.pop(ident, None)
        self._workspaces.pop(ident, None)

    def find_session(self, ident: str) -> Session | None:
        """A session that lives or has ended, whoever asks."""
        return self._sessions.get(ident) or self._ended.get(ident)

    def session(self, ident: str, uid: int | None) -> Session:
        """A session that lives or has ended; `uid` None sees all. Raises NotFound."""
        found = self.find_session(ident)
        if found is None or (uid is not None and found.peer.uid != uid):
            raise NotFound(f"there is no session {ident[:64]}", field="session", hint="it may have ended long ago")
        return found

    def sessions(self, uid: int | None) -> list[Session]:
        """Live sessions, oldest first."""
        return [s for s in self._sessions.values() if uid is None or s.peer.uid == uid]

    # --- runs -----------------------------------------------------------------------------------------------------

    def add_run(self, run: Run) -> None:
        self._runs[run.id] = run

    def finish_run(self, run: Run) -> None:
        session = self._sessions.get(run.session)
        if session is not None and session.one_shot:  # nothing can run there any more, so another one may have it
            self._workspaces.pop(session.id, None)
        kept = run.output.kept
        self._finished[run.id] = (time.monotonic(), kept)
        self._bytes += kept
        if len(self._finished) > KEEP_RUNS:
            self._forget(next(iter(self._finished)))
        if self._timer is None:
            self._arm(_GRACE)

    def run(self, ident: str, uid: int | None) -> Run:
        """A run that goes on or is still kept; `uid` None sees all. Raises NotFound."""
        found = self._runs.get(ident)
        if found is None or (uid is not None and found.peer.uid != uid):
            raise NotFound(f"there is no run {ident[:64]}", field="run", hint="finished runs are kept for an hour")
        return found

    def runs(self, uid: int | None) -> Iterator[Run]:
        """Newest first."""
        return (r for r in reversed(tuple(self._runs.values())) if uid is None or r.peer.uid == uid)

    # --- retention ------------------------------------------------------------------------------------------------

    def _forget(self, ident: str) -> None:
        _, kept = self._finished.pop(ident)
        self._bytes -= kept
        self._runs.pop(ident).output.forget()

    def _arm(self, delay: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.expire(time.monotonic())

    def expire(self, now: float) -> None:
        """Forget what is older than KEEP_SECONDS, then the oldest until no more than KEEP_BYTES are kept."""
        for ident, (when, _) in tuple(self._finished.items()):
            old = now - when
            if old < KEEP_SECONDS and (self._bytes <= KEEP_BYTES or old < _GRACE):
                break
            self._forget(ident)
        if self._finished and self._timer is None:
            oldest = now - next(iter(self._finished.values()))[0]
            self._arm(_GRACE if self._bytes > KEEP_BYTES else max(_GRACE, KEEP_SECONDS - oldest))

    def close(self) -> None:
        """Give back every descriptor, file and timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for run in self._runs.values():
            run.output.forget()
        self._runs.clear()
        self._finished.clear()
