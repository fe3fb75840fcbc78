"""Attempts in a forked child: what is confined for good must not be the test process."""

from __future__ import annotations

import json
import os
import signal
import traceback
from typing import TYPE_CHECKING, Any

from supervisor.kernel.syscalls import call, call_holding_gil

if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_NO_NEW_PRIVS = 38
SECONDS = 30


class Died(AssertionError):
    """The child ended by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the child died by {signal.Signals(number).name}")
        self.signal = number


def in_child(attempt: Callable[[], Any]) -> Any:
    """The (JSON) result of `attempt` in a forked child; its failure is raised here, its death as Died."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(SECONDS)
            answer = json.dumps(["ok", attempt()])
        except BaseException:
            answer = json.dumps(["failed", traceback.format_exc()])
        try:
            data = answer.encode()
            while data:
                data = data[os.write(w, data) :]
        finally:
            os._exit(0)
    os.close(w)
    try:
        chunks = []
        while chunk := os.read(r, 65536):
            chunks.append(chunk)
    finally:
        os.close(r)
        _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise Died(os.WTERMSIG(status))
    kind, value = json.loads(b"".join(chunks))
    if kind == "failed":
        raise AssertionError(value)
    return value


def no_new_privs() -> None:
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def outcome(action: Callable[[], Any]) -> int:
    """0 when it worked, else the errno."""
    try:
        action()
    except OSError as e:
        return e.errno or -1
    return 0


def cloned(flags: int) -> int:
    """clone(2) by its own number, as no libc does any more; the child ends at once. 0, or the errno."""

    def clone() -> None:
        pid = call_holding_gil("clone", flags, None, None, None, None)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    return outcome(clone)
