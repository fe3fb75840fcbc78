"""Standing in for the command: its streams byte for byte, and the signals that reach us instead of it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import threading
from typing import TYPE_CHECKING

import click

from supervisor import errors
from supervisor.cli.client import CHUNK
from supervisor.cli.common import die_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from supervisor.cli.client import Client


def write_all(fd: int, data: bytes) -> None:
    """Write every byte now. A reader that is gone ends us with SIGPIPE, as it would end the command."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # whoever shares this description made it non-blocking
            select.select((), (fd,), ())
        except BrokenPipeError:
            die_of(signal.SIGPIPE)


def has_stdin(fd: int = 0) -> bool:
    """Whether there is input to hand on: not a terminal, not /dev/null, not closed."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    if stat.S_ISCHR(status.st_mode):
        return status.st_rdev != os.stat(os.devnull).st_rdev and not os.isatty(fd)
    return True


def _chunks(fd: int) -> Iterator[bytes]:
    while data := os.read(fd, CHUNK):
        yield data


def send_stdin(client: Client, run: str, fd: int = 0) -> None:
    """Hand `fd` on to the run until it ends, on a connection and in a thread of its own.

    The thread is a daemon: input that nobody reads any more must not keep us alive after the command ended.
    """

    def forward() -> None:
        try:
            client.send(f"/v1/runs/{run}/stdin", _chunks(fd))
        except (errors.Unavailable, errors.Conflict):
            return  # the command closed its input or ended, which is no error of ours (a pipe would say EPIPE)
        except errors.StockadeError as e:
            click.echo(f"stockade: standard input was not handed on: {e.detail}", err=True)
        except OSError as e:
            click.echo(f"stockade: standard input cannot be read: {e.strerror}", err=True)

    threading.Thread(target=forward, name="stdin", daemon=True).start()


class Signals:
    """Ctrl-C goes to the command: once as SIGINT to its tree, twice cancels, three times leaves at once.

    SIGTERM cancels. Before the run has an id, and after the service stopped answering, an interrupt ends us
    instead; the service cancels the run of a client that is gone.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._interrupts = 0
        self._before: dict[int, signal._HANDLER] = {}
        self.run: str | None = None

    def __enter__(self) -> Signals:
        for number, handler in ((signal.SIGINT, self._interrupt), (signal.SIGTERM, self._terminate)):
            if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job ignores SIGINT: so do we
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self._interrupts += 1
        if self.run is None or self._interrupts > 2:
            raise KeyboardInterrupt
        if self._interrupts == 1:
            self._post("signal", {"signal": "INT", "tree": True})
        else:
            self._post("cancel")

    def _terminate(self, number: int, _frame: FrameType | None) -> None:
        if self.run is None:
            die_of(number)
        self._post("cancel")

    def _post(self, verb: str, body: dict[str, object] | None = None) -> None:
        # In a thread, since a cancel is answered only when the tree is dead, and until then its output is read on.
        def post() -> None:
            # NotFound and Conflict: it has ended meanwhile. Unavailable: the stream we read from says so as well.
            with contextlib.suppress(errors.StockadeError):
                self._client.call("POST", f"/v1/runs/{self.run}/{verb}", body)

        threading.Thread(target=post, name=verb, daemon=True).start()
