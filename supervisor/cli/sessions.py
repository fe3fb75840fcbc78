"""`stockade sessions`: an agent's workspaces that stay open between runs."""

from __future__ import annotations

import os
import time
from typing import Any

import click

from supervisor.cli import show
from supervisor.cli.common import (
    client,
    complete_from,
    json_option,
    labels_option,
    limits_member,
    limits_option,
    profile_option,
    socket_option,
    workspace_option,
)


@click.group(invoke_without_command=True)
@json_option
@socket_option
@click.pass_context
def sessions(ctx: click.Context, *, as_object: bool) -> None:
    """List, open and close sessions. Without a command: list.

    \b
    Examples:
      stockade sessions
      session=$(stockade sessions open --profile shell)
      stockade run --session "$session" -- make
      stockade sessions close "$session"
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(listing, as_object=as_object)


@sessions.command("list")
@json_option
@socket_option
def listing(*, as_object: bool) -> None:
    """List the open sessions."""
    answer = client().call("GET", "/v1/sessions")
    head = ("SESSION", "STATE", "AGE", "RUNS", "PROFILE", "WORKSPACE")
    rows = [
        (
            s["id"],
            s["state"],
            show.age(s.get("created"), time.time()),
            _count(s.get("live_runs")),
            s["profile"],
            s["workspace"],
        )
        for s in answer["sessions"]
    ]
    show.emit(answer, show.table(head, rows), as_object=as_object)


def _count(runs: Any) -> Any:
    return len(runs) if isinstance(runs, list) else runs


@sessions.command("open")
@workspace_option
@profile_option
@limits_option
@labels_option
@json_option
@socket_option
def open_session(
    *, workspace: str | None, profile: str | None, limits: dict[str, str], labels: dict[str, str], as_object: bool
) -> None:
    """Open a session and print its id."""
    body: dict[str, Any] = {
        "workspace": os.path.realpath(workspace or "."),
        "profile": profile,
        "limits": limits_member(limits),
    }
    body["labels"] = labels
    answer = client().call("POST", "/v1/sessions", {k: v for k, v in body.items() if v})
    show.emit(answer, answer["id"], as_object=as_object)


@sessions.command("close")
@click.argument("session", metavar="SESSION", shell_complete=complete_from("/v1/sessions", "sessions"))
@json_option
@socket_option
def close_session(*, session: str, as_object: bool) -> None:
    """Close a session; what still runs in it ends as cancelled."""
    answer = client().call("DELETE", f"/v1/sessions/{session}")
    if as_object:
        click.echo(show.as_json(answer))
