"""`stockade usage`: what you have used of your rates and budgets, and what alerts have counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import show
from supervisor.cli.common import client, json_option, socket_option

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


@click.command()
@json_option
@socket_option
def usage(*, as_object: bool) -> None:
    """Show what is used and what is left of every rate, budget and alert of yours and of your agents, and what runs.

    Days are of UTC. What a session has left of its own budget is said by the refusal, and by a dry run in it.

    \b
    Examples:
      stockade usage
      stockade usage --json | jq '.rates[] | select(.left == 0)'
    """
    answer = client().call("GET", "/v1/usage")
    show.emit(answer, "\n".join(_lines(answer)), as_object=as_object)


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    rows = [_rate(r) for r in answer.get("rates") or ()]
    ends = show.duration((answer.get("day_ends_in") or 0) * 1000)
    rows += [_budget(b, f"day, {ends} left") for b in answer.get("budgets") or ()]
    rows += [_alert(a) for a in answer.get("alerts") or ()]
    if rows:
        yield show.table(("WHAT", "PER", "OF", "USED", "ALLOWED", "LEFT", "RULE", "SOURCE"), rows)
    else:
        yield "rates and budgets: none that concern you"
    most = answer.get("runs_per_agent") or 0
    for agent, count in sorted((answer.get("running") or {}).items()):
        yield f"running: {count}{f' of at most {most}' if most else ''}{f' of {show.safe(agent)}' if agent else ''}"


def _rate(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return ("actions", row.get("per"), _of(row), row["used"], row["allowed"], row["left"], row["rule"], row["source"])


def _alert(row: Mapping[str, Any]) -> tuple[Any, ...]:
    what = f"{row['counts']}, then {row['action']}"
    return (what, row.get("per"), _of(row), row["used"], row["allowed"], row["left"], row["rule"], row["source"])


def _budget(row: Mapping[str, Any], per: str) -> tuple[Any, ...]:
    name = str(row.get("unit"))
    write: Callable[[Any], Any] = str
    if name.startswith("ms of "):
        name, write = name.removeprefix("ms of "), show.duration
    elif name.startswith("bytes "):
        write = show.size
    return (name, per, _of(row), *(write(row[key]) for key in ("used", "allowed", "left")), row["rule"], row["source"])


def _of(row: Mapping[str, Any]) -> str:
    """Whose counter it is: the caller's, or that of one of its agents, users, channels or tools."""
    scope, name = row.get("scope"), str(row.get("of") or "").lstrip("/")
    return f"{scope} {name}" if name else str(scope)
