"""`stockade queue`: requests that wait for a place."""

from __future__ import annotations

import time

import click

from supervisor.cli import show
from supervisor.cli.common import client, complete_from, json_option, socket_option


@click.group(invoke_without_command=True)
@json_option
@socket_option
@click.pass_context
def queue(ctx: click.Context, *, as_object: bool) -> None:
    """List and cancel requests that wait for a place. Without a command: list.

    How many runs one agent may have at once, and how many requests may wait, is said by [concurrency] of policy.
    Agents take turns, so a position counts everybody who comes first.

    \b
    Examples:
      stockade queue
      stockade queue cancel run-1f4k2m9qz8
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(listing, as_object=as_object)


@queue.command("list")
@json_option
@socket_option
def listing(*, as_object: bool) -> None:
    """List who waits, in the order of their turns.

    \b
    Example:
      stockade queue list
    """
    answer = client().call("GET", "/v1/queue")
    now = time.time()
    rows = [
        (
            e["id"],
            e.get("position"),
            show.age(e.get("since"), now),
            e.get("agent"),
            e.get("waits_for"),
            show.short(show.command(e), 60),
        )
        for e in answer["queue"]
    ]
    head = ("ID", "POSITION", "WAITS", "AGENT", "FOR", "COMMAND")
    show.emit(answer, show.table(head, rows), as_object=as_object)


@queue.command()
@click.argument("ident", metavar="ID", shell_complete=complete_from("/v1/queue", "queue"))
@json_option
@socket_option
def cancel(*, ident: str, as_object: bool) -> None:
    """Give up a request that waits; whoever sent it is told so.

    \b
    Example:
      stockade queue cancel run-1f4k2m9qz8
    """
    answer = client().call("DELETE", f"/v1/queue/{ident}")
    show.emit(answer, f"{show.safe(ident)}: cancelled", as_object=as_object)
