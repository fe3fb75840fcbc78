"""A policy on its way in: another process reads, compiles and proves it, so the launcher stays small and never waits.

The prover (launcher/prove.py) is a fresh interpreter that answers into a memfd. What it found becomes the serving
snapshot only when it ended well; the sealed memfd then goes on to main.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.errors import Internal, StockadeError, tree
from supervisor.kernel import process as p
from supervisor.policy.snapshot import Snapshot, from_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.launcher.loop import Loop
    from supervisor.layout import Layout

_MOST_BYTES = 8 << 20
_PATIENCE = 120.0  # seconds
_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# -I keeps the environment and the working directory out of a root interpreter's module search.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.launcher.prove import main; "
    "sys.exit(main(sys.argv[2:]))"
)


class Result(NamedTuple):
    snapshot: Snapshot
    digest: str
    refused: dict[str, str]
    filters: tuple[bytes, ...]
    layers: dict[str, Any]
    fd: int


class Reloading:
    """One reload under way; `done` gets a Result (whose descriptor is then the callee's) or a StockadeError."""

    def __init__(self, loop: Loop, layout: Layout, done: Callable[[Result | StockadeError], None]) -> None:
        self._loop, self._done = loop, done
        self._fd = os.memfd_create("policy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        argv = [sys.executable, "-I", "-c", _BOOT, _PACKAGE_PARENT, str(self._fd), *layout_arguments(layout)]
        pid, self._pidfd = p.clone(0)
        if pid == 0:
            try:
                p.prctl(p.PR_SET_PDEATHSIG, signal.SIGKILL)
                os.set_inheritable(self._fd, True)
                p.close_from(3, (self._fd,))
                os.execve(sys.executable, argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"})  # noqa: S606
            finally:
                os._exit(127)
        loop.watch(self._pidfd, self._ended)
        self._timer = loop.at(time.monotonic() + _PATIENCE, self._overdue)

    def _overdue(self) -> None:
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _ended(self, _: int) -> None:
        self._timer.cancel()
        self._loop.forget(self._pidfd)
        status = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd = -1
        try:
            result = self._read()
        except (ValueError, KeyError, TypeError, OSError) as e:
            code = status.si_status if status is not None else "?"
            result = Internal(f"the prover ended with status {code} and no answer: {e}", hint="see the service's log")
        if isinstance(result, StockadeError):
            os.close(self._fd)
        self._done(result)

    def _read(self) -> Result | StockadeError:
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
        fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
        raw = json.loads(os.pread(self._fd, _MOST_BYTES, 0))
        if "error" in raw:
            return rebuild(raw["error"])
        snapshot = from_json(raw["snapshot"])
        refused = {proof["profile"]: proof["probe"] for proof in reversed(raw["proofs"]) if not proof["ok"]}
        filters = tuple(base64.b64decode(part) for part in raw["filters"])
        return Result(snapshot, snapshot.digest(), refused, filters, raw["layers"], self._fd)


def rebuild(body: dict[str, Any]) -> StockadeError:
    """The error that as_dict() wrote."""
    cls = tree().get(body.get("code", ""), Internal)
    skipped = ("type", "title", "status", "code", "detail", "retry")
    return cls(body.get("detail", "?"), **{k: v for k, v in body.items() if k not in skipped})


def layout_arguments(layout: Layout) -> list[str]:
    return [layout.etc, layout.run, layout.state, layout.log, layout.instance]
