"""Commands on runs that exist: ps, logs, wait, kill."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

import click

from supervisor import errors
from supervisor.cli import ending, forward, show
from supervisor.cli.client import frame_bytes, from_problem
from supervisor.cli.common import client, complete_from, json_option, report, socket_option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.cli.client import Client

PAGE = 1 << 20  # bytes of one page of output

_run_argument = click.argument("run", metavar="RUN", shell_complete=complete_from("/v1/runs", "runs"))


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Finished runs too.")
@json_option
@socket_option
def ps(*, everything: bool, as_object: bool) -> None:
    """List the runs that are alive, newest last; with --all also those that ended.

    \b
    Examples:
      stockade ps
      stockade ps --all --json | jq '.runs[] | select(.cause != "exited")'
    """
    service = client()
    if everything:
        runs = service.call("GET", "/v1/runs", limit=1000)["runs"]
    else:
        runs = [r for s in ("running", "pending") for r in service.call("GET", "/v1/runs", state=s, limit=1000)["runs"]]
    runs.sort(key=lambda r: (r["created"], r["id"]))
    now = time.time()
    head = ("RUN", "STATE", "END", "AGE", "TIME", "SESSION", "PROFILE", "COMMAND")
    rows = [
        (
            r["id"],
            r["state"],
            _end(r),
            show.age(r.get("created"), now),
            _wall(r),
            r["session"],
            r["profile"],
            show.short(show.command(r), 60),
        )
        for r in runs
    ]
    show.emit({"runs": runs}, show.table(head, rows), as_object=as_object)


def _end(run: Mapping[str, Any]) -> str | None:
    if run["state"] != "finished":
        return None
    if run.get("cause") == "exited":
        return f"exit {run.get('exit_code')}"
    if run.get("cause") == "signal":
        return show.signal_name(run["signal"])
    return run.get("cause")


def _wall(run: Mapping[str, Any]) -> str | None:
    wall = (run.get("usage") or {}).get("wall_ms")
    return None if wall is None else show.duration(wall)


@click.command()
@_run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--stdout", "only", flag_value="stdout", help="Standard output only.")
@click.option("--stderr", "only", flag_value="stderr", help="Standard error only.")
@click.option(
    "--offset", type=click.IntRange(min=0), default=0, metavar="BYTES", help="Skip this many bytes of each stream."
)
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines of each stream.")
@socket_option
def logs(*, run: str, follow: bool, only: str | None, offset: int, tail: int | None) -> None:
    """Print what a run wrote, byte for byte, each stream to its own.

    \b
    Examples:
      stockade logs run-1f4k2m9qz8 --tail 20
      stockade logs run-1f4k2m9qz8 --follow --stderr
    """
    streams = (only,) if only else ("stdout", "stderr")
    service = client(timeout=None if follow else 30.0)
    starts = dict.fromkeys(streams, offset)
    if tail is not None or not follow:
        for stream in streams:
            starts[stream] = _page(service, run, stream, offset, tail)
    if not follow:
        return
    offsets: dict[str, Any] = {f"{stream}_offset": start for stream, start in starts.items()}
    with contextlib.closing(service.frames("GET", f"/v1/runs/{run}/output", follow=1, **offsets)) as frames:
        for frame in frames:
            if frame["type"] in starts:
                forward.write_all(1 if frame["type"] == "stdout" else 2, frame_bytes(frame))
            elif frame["type"] == "error":
                raise from_problem(frame["problem"], 0)


def _page(service: Client, run: str, stream: str, offset: int, tail: int | None) -> int:
    """Print what is spooled of a stream from `offset`, or its last `tail` lines; the offset after it."""
    kept = b""
    while data := service.raw("GET", f"/v1/runs/{run}/output", stream=stream, offset=offset, length=PAGE):
        offset += len(data)
        if tail is None:
            forward.write_all(1 if stream == "stdout" else 2, data)
        else:
            kept = last_lines(kept + data, tail)
    forward.write_all(1 if stream == "stdout" else 2, kept)
    return offset


def last_lines(data: bytes, count: int) -> bytes:
    """The last `count` lines; an unfinished one counts, as for tail(1)."""
    *whole, rest = data.split(b"\n")
    lines = [line + b"\n" for line in whole] + ([rest] if rest else [])
    return b"".join(lines[-count:]) if count else b""


@click.command()
@_run_argument
@json_option
@socket_option
def wait(*, run: str, as_object: bool) -> None:
    """Wait until a run has ended, and exit as `stockade run` would have.

    \b
    Exit status: as of `stockade run`, but 1 when the run does not exist or the service cannot be reached.

    \b
    Example:
      run=$(stockade run --background -- make) && stockade wait "$run"
    """
    try:
        ended = client(timeout=None).call("GET", f"/v1/runs/{run}/wait")
    except errors.CommandNotStarted as e:
        report(e)
        raise click.exceptions.Exit(ending.refusal_status(e)) from e
    if as_object:
        click.echo(show.as_json(ended))
    elif ended.get("cause") != "exited":
        click.echo(f"stockade: {ending.sentence(ended)}", err=True)
    raise click.exceptions.Exit(ending.exit_status(ended))


@click.command()
@_run_argument
@click.option("-s", "--signal", "name", metavar="SIGNAL", help="Send this instead: INT, TERM, HUP, a number …")
@click.option("--tree", is_flag=True, help="With --signal: to every process of the run, not only its first.")
@json_option
@socket_option
def kill(*, run: str, name: str | None, tree: bool, as_object: bool) -> None:
    """End a run with its whole tree, or send a signal to it.

    \b
    Examples:
      stockade kill run-1f4k2m9qz8
      stockade kill run-1f4k2m9qz8 --signal HUP
    """
    if tree and name is None:
        raise click.UsageError("--tree goes with --signal; without it the whole tree is killed anyway.")
    if name is None:
        answer = client().call("POST", f"/v1/runs/{run}/cancel")
    else:
        answer = client().call("POST", f"/v1/runs/{run}/signal", {"signal": signal_member(name), "tree": tree})
    if as_object:
        click.echo(show.as_json(answer))


def signal_member(name: str) -> str:
    """The name of a signal without SIG, from HUP, SIGHUP, hup or 1. Raises click.UsageError."""
    text = name.upper().removeprefix("SIG")
    if text.isdecimal():
        text = show.signal_name(int(text)).removeprefix("SIG")
    if f"SIG{text}" not in signal.Signals.__members__:
        raise click.UsageError(f"{name!r} is not a signal; `kill -l` lists them.")
    return text
