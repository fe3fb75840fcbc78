"""Runs in a session of the launcher that tests/kernel/hostile.py starts: what they said and how they ended."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.wire import messages as w

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kernel.hostile import Launcher


class Said(NamedTuple):
    ended: w.RunEnded
    out: str
    err: str


@contextlib.contextmanager
def opened(launcher: Launcher, workspace: Path | str, digest: str, **changes: Any) -> Iterator[w.SessionOpened]:
    """A session; closed, and gone, at the end."""
    answer = launcher.answer(launcher.opening(workspace, digest, **changes))
    assert isinstance(answer, w.SessionOpened), answer
    yield answer
    launcher.send(w.CloseSession(answer.session))
    launcher.wait(lambda m: isinstance(m, w.SessionEnded) and m.session == answer.session)


def run(launcher: Launcher, session: str, workspace: Path | str, *argv: str, **changes: Any) -> Said:
    """Run a command to its end, as an honest main would."""
    message = launcher.starting(session, workspace, *argv, **changes)
    return finish(launcher, message)


def finish(launcher: Launcher, message: w.StartRun) -> Said:
    (out, to_out), (err, to_err) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    taken: dict[int, bytearray] = {out: bytearray(), err: bytearray()}

    def take() -> None:
        left = set(taken)
        while left:
            for fd in select.select(list(left), [], [])[0]:
                data = os.read(fd, 65536)
                taken[fd] += data
                if not data:
                    left.discard(fd)

    reader = threading.Thread(target=take)
    try:
        launcher.start(message, (to_out, to_err))
        os.close(to_out)
        os.close(to_err)
        reader.start()
        launcher.go(message)
        ended = launcher.ends(message)
        reader.join(30)
        assert not reader.is_alive(), "something of the run holds its pipes"
    finally:
        os.close(out)
        os.close(err)
    return Said(ended, taken[out].decode(errors="replace"), taken[err].decode(errors="replace"))
