"""`stockade tools`: which tools there are for you, and the rule behind each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import show
from supervisor.cli.common import client, complete_from, json_option, socket_option

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.group(invoke_without_command=True)
@json_option
@socket_option
@click.pass_context
def tools(ctx: click.Context, *, as_object: bool) -> None:
    """List the tools, and check one. Without a command: list.

    \b
    Examples:
      stockade tools
      stockade tools check browser
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(listing, as_object=as_object)


@tools.command("list")
@json_option
@socket_option
def listing(*, as_object: bool) -> None:
    """List every tool with the effective answer for you and the rule that gives it.

    \b
    Example:
      stockade tools list --json | jq -r '.tools[] | select(.allowed) | .tool'
    """
    answer = client().call("GET", "/v1/tools")
    rows = [(t["tool"], word(t), t.get("rule"), t.get("source"), t.get("reason")) for t in answer["tools"]]
    show.emit(answer, show.table(("TOOL", "ALLOWED", "RULE", "SOURCE", "WHY"), rows), as_object=as_object)


def word(tool: Mapping[str, Any]) -> str:
    return "yes" if tool["allowed"] else "no"


@tools.command()
@click.argument("tool", metavar="TOOL", shell_complete=complete_from("/v1/tools", "tools", "tool"))
@json_option
@socket_option
def check(*, tool: str, as_object: bool) -> None:
    """Say whether you have one tool, and by which rule.

    \b
    Exit status: 0 you have it; 1 you do not, or there is no such tool.

    \b
    Example:
      stockade tools check browser || echo "no browser here"
    """
    from urllib.parse import quote

    answer = client().call("GET", f"/v1/tools/{quote(tool, safe='')}")
    lines = [f"{show.safe(answer['tool'])}: {'allowed' if answer['allowed'] else 'not allowed'}"]
    lines += [f"{key}: {show.safe(answer[key])}" for key in ("reason", "rule", "source") if answer.get(key)]
    show.emit(answer, "\n".join(lines), as_object=as_object)
    raise click.exceptions.Exit(0 if answer["allowed"] else 1)
