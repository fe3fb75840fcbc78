"""`stockade breakers`: agents that are stopped because they fail or repeat themselves."""

from __future__ import annotations

import time

import click

from supervisor.cli import show
from supervisor.cli.common import client, code_option, complete_from, json_option, privileged, socket_option


@click.group(invoke_without_command=True)
@json_option
@socket_option
@click.pass_context
def breakers(ctx: click.Context, *, as_object: bool) -> None:
    """List and reset circuit breakers. Without a command: list.

    A breaker opens when an agent fails so often in a row, or repeats one command so often, as policy says. Then
    nothing of it runs for a while; after that one run may try, and if it ends well everything goes on.

    \b
    Examples:
      stockade breakers
      stockade breakers reset unit:zeroclaw.service/reviewer
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(listing, as_object=as_object)


@breakers.command("list")
@json_option
@socket_option
def listing(*, as_object: bool) -> None:
    """List the breakers that are open, half open, or have counted failures.

    \b
    Example:
      stockade breakers list
    """
    answer = client().call("GET", "/v1/breakers")
    now = time.time()
    rows = [
        (
            b["key"],
            str(b["state"]).replace("_", " "),
            b.get("failures"),
            show.age(b.get("since"), now),
            show.remaining(b.get("until"), now),
            b.get("why"),
        )
        for b in answer["breakers"]
    ]
    head = ("BREAKER", "STATE", "FAILURES", "SINCE", "TRIES IN", "WHY")
    show.emit(answer, show.table(head, rows), as_object=as_object)


@breakers.command()
@click.argument("key", metavar="BREAKER", shell_complete=complete_from("/v1/breakers", "breakers", "key"))
@code_option
@json_option
@socket_option
def reset(*, key: str, code: str | None, as_object: bool) -> None:
    """Close a breaker, so that the agent runs again at once. Find out first why it opened.

    \b
    Example:
      stockade breakers reset uid:1001/reviewer
    """
    answer = privileged("POST", "/v1/breakers/reset", {"key": key}, code=code)
    show.emit(answer, f"{show.safe(key)}: {show.safe(answer.get('state', 'closed'))}", as_object=as_object)
