"""The parser's life: a script in, what it looks like it does out. It may start shfmt and nothing else.

Parsing what an agent wrote takes a program (shfmt), and main may start none. So a process of its own does it, with no
privilege, no file to write and no network: whoever takes it over can lie about commands, and a command that is lied
about is confined like any other.
"""

from __future__ import annotations

import resource
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.decide.shell.limits import TooMuch
from supervisor.decide.shell.model import Analysis
from supervisor.parser.shfmt import LIMITS, Shfmt
from supervisor.wire import framing
from supervisor.wire.messages import TO_PARSER, Parse, Parsed, WireError

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

EX_SOFTWARE = 70  # sysexits.h
SECONDS = 2.0  # for one question; everybody else waits so long


def run(main: socket.socket, confine: Callable[[], None]) -> int:
    """Answer until main is gone; the exit status. `confine` is called once everything is imported."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when main has ended
    signal.signal(signal.SIGALRM, _over)
    for limit, most in LIMITS.items():  # shfmt inherits them: nothing here may bound another process
        resource.setrlimit(limit, (most, most))
    confine()
    shfmt = Shfmt()
    try:
        while True:
            received = framing.receive(main, TO_PARSER)
            if received is None:
                return 0
            framing.send(main, Parsed(received[0].id, _analysed(received[0], shfmt).to_json()))
    except (WireError, OSError) as e:
        sys.stderr.write(f"parser: fatal: {e}\n")
        return EX_SOFTWARE
    finally:
        shfmt.close()


def _over(_number: int, _frame: object) -> NoReturn:
    """The time of a question is over: what was found until then stands (TooMuch), as at every other bound."""
    raise TooMuch


def _analysed(asked: Parse, shfmt: Shfmt, seconds: float = SECONDS) -> Analysis:
    until = time.monotonic() + seconds

    def parse(text: str) -> dict[str, Any]:
        """Under its own deadline: the alarm may not come between the start of a process and its end."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGALRM,))
        try:
            return shfmt.parse(text, until - time.monotonic())
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))

    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            if asked.script is not None:
                return analyse_script(asked.script, parse, asked.stdin)
            return analyse_argv(asked.argv or [], parse, asked.stdin)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except TooMuch:
        return Analysis(parsed=False, error=f"it takes longer than {seconds:g} s to follow")
    except Exception as e:  # noqa: BLE001 - a bug here must not end the service; what is not understood is asked about
        return Analysis(parsed=False, error=f"the analysis failed: {type(e).__name__}")
