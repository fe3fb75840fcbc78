"""`stockade grants`: what was approved and can still be used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import show
from supervisor.cli.common import client, code_option, complete_from, json_option, privileged, socket_option

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.group(invoke_without_command=True)
@json_option
@socket_option
@click.pass_context
def grants(ctx: click.Context, *, as_object: bool) -> None:
    """List and revoke what was approved. Without a command: list.

    A grant is for one caller. It ends by itself: used up, at its time, with its session, or with the policy under
    which it was given.

    \b
    Examples:
      stockade grants
      stockade grants revoke gra-2x4k9m7q
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(listing, as_object=as_object)


@grants.command("list")
@json_option
@socket_option
def listing(*, as_object: bool) -> None:
    """List the grants that hold: yours, or everybody's if you may read them.

    \b
    Example:
      stockade grants list --json | jq '.grants[] | select(.left == null)'
    """
    answer = client().call("GET", "/v1/grants")
    now = time.time()
    head = ("GRANT", "OF", "FOR", "USED", "LEFT", "TIME LEFT", "BY", "QUESTION")
    rows = [
        (
            g["id"],
            g.get("unit") or f"uid {g['uid']}",
            reach(g),
            g["used"],
            "any" if g.get("left") is None else g["left"],
            g.get("ended") or show.remaining(g.get("until"), now),
            ", ".join(f"uid {uid}" for uid in g.get("by") or ()),
            g["question"],
        )
        for g in answer["grants"]
    ]
    show.emit(answer, show.table(head, rows), as_object=as_object)


def reach(grant: Mapping[str, Any]) -> str:
    """What a grant is for."""
    if grant.get("role"):
        return f"role {grant['role']}"
    if grant["scope"] == "session":
        return f"{grant['session']}: {'; '.join(grant.get('subjects') or ())}"
    return f"exactly {grant['target'][:12]}"


@grants.command()
@click.argument("grant", metavar="GRANT", shell_complete=complete_from("/v1/grants", "grants"))
@code_option
@json_option
@socket_option
def revoke(*, grant: str, code: str | None, as_object: bool) -> None:
    """Take a grant back; what runs already goes on.

    \b
    Example:
      stockade grants revoke gra-2x4k9m7q
    """
    answer = privileged("DELETE", f"/v1/grants/{grant}", code=code)
    show.emit(answer, f"{show.safe(answer['id'])}: {show.safe(answer.get('ended'))}", as_object=as_object)
