"""`stockade usage`: what you have used of your rates and budgets."""

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
    """Show what is used and what is left of every rate and budget that concerns you, and how your breaker stands.

    \b
    Examples:
      stockade usage
      stockade usage --json | jq '.rates[] | select(.left == 0)'
    """
    answer = client().call("GET", "/v1/usage")
    show.emit(answer, "\n".join(_lines(answer)), as_object=as_object)


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    rows = [_rate(r) for r in answer.get("rates") or ()] + [_budget(b) for b in answer.get("budgets") or ()]
    if rows:
        yield show.table(("OF", "PER", "USED", "ALLOWED", "LEFT", "COUNTED FOR", "RULE", "SOURCE"), rows)
    else:
        yield "rates and budgets: none that concern you"
    breaker = answer.get("breaker")
    if breaker:
        why = f": {show.safe(breaker['why'])}" if breaker.get("why") else ""
        yield f"breaker: {show.safe(breaker['state']).replace('_', ' ')}, {breaker.get('failures', 0)} failures{why}"
    if "running" in answer:
        most = answer.get("runs_per_agent") or 0
        yield f"running: {answer['running']}{f' of at most {most}' if most else ''}"


def _rate(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return ("actions", row.get("per"), row["used"], row["allowed"], row["left"], *_rule(row))


def _budget(row: Mapping[str, Any]) -> tuple[Any, ...]:
    name, per = str(row.get("of")), str(row.get("period"))
    write: Callable[[Any], Any] = lambda value: value  # noqa: E731
    if name.startswith("ms of "):
        name, write = name.removeprefix("ms of "), show.duration
    elif name.startswith("bytes "):
        write = show.size
    if row.get("resets_in") is not None:
        per += f", anew in {show.duration(row['resets_in'] * 1000)}"
    return (name, per, *(write(row[key]) for key in ("used", "allowed", "left")), *_rule(row))


def _rule(row: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return row.get("scope"), row.get("rule"), row.get("source")
