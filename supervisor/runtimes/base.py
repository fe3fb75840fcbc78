"""What every runtime offers to runs/: the native one asks the launcher, later ones ask something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from supervisor.policy.snapshot import Snapshot
    from supervisor.wire.messages import OpenSession, RunEnded, StartRun


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a (re)load brought: the snapshot that serves, its proofs and the host's layers.

    `proofs`: one dict per profile and probe {profile, probe, key, ok, detail}.
    `host`: layer name -> {present, detail, remedy}.
    """

    snapshot: Snapshot
    digest: str
    proofs: tuple[dict[str, Any], ...]
    host: dict[str, dict[str, Any]]

    def refusal(self, profile: str) -> dict[str, Any] | None:
        """The first failed proof of a profile, or None when it may be served."""
        return next((p for p in self.proofs if p["profile"] == profile and not p["ok"]), None)


class Runtime(Protocol):
    async def reload(self) -> Loaded:
        """Raises PolicyInvalid (nothing changed) or LauncherUnavailable."""

    async def open_session(self, request: OpenSession) -> dict[str, Any]:
        """The receipt of a new session. Raises StockadeError subclasses as the launcher refused."""

    async def inspect(self, session: str, paths: list[str]) -> list[dict[str, Any]]:
        """What files of a session's workspace hold, in the order of `paths` (relative to it, at most MAX_HELD):
        {path, sha256, size, head}. Raises InvalidRequest for what is no regular file or too large, NotFound without
        the session."""

    def start_run(self, request: StartRun, fds: tuple[int, ...]) -> asyncio.Future[RunEnded]:
        """Ask for a run; the descriptors are duplicated in flight and stay the caller's to close."""

    def end_run(self, run: str, cause: str) -> None: ...

    def signal_run(self, run: str, signal: int, *, tree: bool) -> None: ...

    async def close_session(self, session: str) -> None: ...

    async def stop(self) -> tuple[int, int]:
        """Emergency stop: (runs, sessions) that were killed."""

    async def resume(self) -> None: ...

    def on_session_ended(self, callback: Callable[[str, str], None]) -> None:
        """`callback(session, cause)` whenever a session is gone, asked for or not."""
