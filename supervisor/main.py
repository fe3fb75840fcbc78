"""The main process after it gave up root: puts the rooms together and lives until it is told to end, or must.

The second half of the composition root (daemon.py is the first): it imports what is large, so it is imported last.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from typing import TYPE_CHECKING

from supervisor import systemd
from supervisor.api import server
from supervisor.audit import events
from supervisor.audit.client import AuditClient
from supervisor.errors import AuditUnavailable, PolicyInvalid, StockadeError
from supervisor.parser.client import ParserClient
from supervisor.runs.service import Supervisor
from supervisor.runtimes.native import LauncherClient

if TYPE_CHECKING:
    import socket

    from supervisor.layout import Layout

EX_CONFIG = 78  # sysexits.h
_STOP_PATIENCE = 10.0  # seconds for every tree to die
_RECORD_PATIENCE = 5.0  # seconds for the last record: an auditor that hangs does not keep the service from ending

log = logging.getLogger("stockade")


class Main:
    def __init__(
        self,
        where: Layout,
        listener: socket.socket,
        peers: tuple[socket.socket, socket.socket, socket.socket],
        bases: list[str],
        version: str,
    ) -> None:
        self._where, self._listener, self._bases, self._version = where, listener, bases, version
        self._launcher, self._auditor, self._parser = peers
        self._end: asyncio.Future[int]

    async def run(self) -> int:
        """Serve; the exit status. 0 when asked to end, 1 when another process is gone, 78 for a bad policy."""
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
        loop = asyncio.get_running_loop()
        self._end = loop.create_future()
        audit = AuditClient(self._auditor, loop)
        runtime = LauncherClient(self._launcher)
        parser = ParserClient(self._parser, loop)
        audit.on_lost(lambda: self._lost("auditor"))
        runtime.on_lost(lambda: self._lost("launcher"))
        parser.on_lost(lambda: self._lost("parser"))
        supervisor = Supervisor(runtime, audit, parser, self._where, self._version)
        try:
            await supervisor.load()
        except StockadeError as e:
            self._tell(e)
            return EX_CONFIG if isinstance(e, PolicyInvalid) else 1
        serving = await server.serve(supervisor, self._listener, self._bases)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._finish, 0)
        reloads: set[asyncio.Task[None]] = set()

        def hang_up() -> None:
            task = loop.create_task(self._reload(supervisor))
            reloads.add(task)
            task.add_done_callback(reloads.discard)

        loop.add_signal_handler(signal.SIGHUP, hang_up)
        await audit.record(events.service(action="start", outcome="ok", result={"version": self._version}))
        systemd.notify("READY=1\nSTATUS=serving")
        log.info("serving %s", self._where.socket)
        self._sign_of_life(loop)
        status = await self._end
        systemd.notify("STOPPING=1")
        if status == 0:  # every run ends as `stopped` in the log; without this the next start would call them lost
            with contextlib.suppress(StockadeError, TimeoutError):
                await asyncio.wait_for(runtime.stop(), _STOP_PATIENCE)
        await serving.stop()
        if status == 0:  # what was acknowledged is on the disk in any case; an end that is none of ours is a quick one
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(supervisor.close(), _STOP_PATIENCE)
            try:
                await asyncio.wait_for(audit.record(events.service(action="stop", outcome="ok")), _RECORD_PATIENCE)
            except (AuditUnavailable, TimeoutError) as e:
                log.error("the end could not be recorded: %s", str(e) or "the auditor does not answer")  # noqa: TRY400
                return 1
        return status

    def _finish(self, status: int) -> None:
        if not self._end.done():
            self._end.set_result(status)

    def _lost(self, who: str) -> None:
        """Without any of the others nothing can run: end, and the service manager starts a whole service again."""
        if not self._end.done():
            log.critical("the %s is gone; ending", who)
            self._end.set_result(1)

    async def _reload(self, supervisor: Supervisor) -> None:
        systemd.notify("RELOADING=1")
        try:
            await supervisor.reload(None)
        except StockadeError as e:
            self._tell(e)
        systemd.notify("READY=1")

    def _tell(self, error: StockadeError) -> None:
        log.error("%s: %s", error.code, error.detail)
        if error.hint is not None and "findings" not in error.extra:
            log.error("to do: %s", error.hint)
        for finding in error.extra.get("findings", ()):
            log.error("policy: %s", json.dumps(finding))

    def _sign_of_life(self, loop: asyncio.AbstractEventLoop) -> None:
        interval = systemd.watchdog_interval()
        if interval is not None:
            systemd.notify("WATCHDOG=1")
            loop.call_later(interval, self._sign_of_life, loop)
