"""How a run's end looks from outside: one exit status and one sentence. Pure."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from supervisor.cli.common import EXIT_REFUSED
from supervisor.cli.show import duration, safe, signal_name, size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from supervisor.errors import StockadeError

EXIT_TIMEOUT = 124  # as timeout(1)
EXIT_NOT_EXECUTABLE = 126  # as the shell and env(1)
EXIT_NOT_FOUND = 127
EXIT_KILLED = 128 + 9

_STATUS = {
    "timeout": EXIT_TIMEOUT,
    "idle_timeout": EXIT_TIMEOUT,
    "denied": EXIT_REFUSED,
    "lost": EXIT_REFUSED,  # nobody knows how it ended, so no status of a command may be claimed
}

# Cause -> (the limit it is about, the counter beside it, how both are written, the word for the counter).
_COUNTERS = {
    "timeout": ("timeout_ms", "wall_ms", "time", "ran"),
    "idle_timeout": ("idle_timeout_ms", "wall_ms", "time", "ran"),
    "memory": ("memory", "memory_peak", "size", "peak"),
    "processes": ("processes", "pids_peak", "count", "peak"),
    "disk": ("disk", "written_bytes", "size", "written"),
    "output": ("output", "", "size", ""),
}


def exit_status(run: Mapping[str, Any]) -> int:
    """The exit status that stands for a finished run (see `stockade run --help`)."""
    cause, code, number = run.get("cause"), run.get("exit_code"), run.get("signal")
    if cause == "exited" and isinstance(code, int):
        return code
    if cause == "signal" and isinstance(number, int):
        return 128 + number
    if cause == "not_started":
        return not_started_status(run.get("errno"))
    return _STATUS.get(str(cause), EXIT_KILLED)


def not_started_status(number: Any) -> int:
    """126 or 127 for the errno of execve(2), given as number or name; 126 when it is not known."""
    return EXIT_NOT_FOUND if number in (errno.ENOENT, "ENOENT") else EXIT_NOT_EXECUTABLE


def refusal_status(error: StockadeError) -> int:
    """125 for a refusal, but 126 or 127 when the command itself was the reason."""
    if error.code == "command_not_started":
        return not_started_status(error.extra.get("errno"))
    return error.exit_status


def sentence(run: Mapping[str, Any]) -> str:
    """Why a run did not simply exit, with its limit and counter: `killed: memory (512M limit, peak 511M)`."""
    cause = str(run.get("cause"))
    detail = f": {safe(run['detail'])}" if run.get("detail") else ""
    if cause == "signal":
        return f"ended by {signal_name(run['signal'])}{detail}"
    if cause in ("not_started", "lost", "denied"):
        words = {"not_started": "not started", "lost": "lost: the service died during the run", "denied": "denied"}
        return words[cause] + detail
    numbers = _numbers(cause, run)
    return f"killed: {cause}{f' ({numbers})' if numbers else ''}{detail}"


def _numbers(cause: str, run: Mapping[str, Any]) -> str:
    if cause not in _COUNTERS:
        return ""
    limit, counter, kind, word = _COUNTERS[cause]
    bound = (run.get("limits") or {}).get(limit)
    value = (run.get("usage") or {}).get(counter)
    parts = [] if bound is None else [f"{_written(kind, bound)} limit"]
    if value is not None:
        parts.append(f"{word} {_written(kind, value)}")
    return ", ".join(parts)


def _written(kind: str, value: float) -> str:
    writers: dict[str, Callable[[float], str]] = {"time": duration, "size": size, "count": str}
    return writers[kind](value)
