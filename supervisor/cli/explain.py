"""`stockade policy explain` and `stockade policy unused`: what policy does with a request, and which of it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import show
from supervisor.cli.common import (
    EXIT_FAILED,
    client,
    json_option,
    labels_option,
    limits_option,
    profile_option,
    socket_option,
    workspace_option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@click.command(context_settings={"allow_interspersed_args": False})
@workspace_option
@click.option("-s", "--session", metavar="ID", help="An open session.")
@profile_option
@click.option("-c", "--script", metavar="TEXT", help="Explain TEXT in the profile's shell instead of CMD.")
@click.option("-t", "--timeout", metavar="TIME", help="The deadline to ask for: 30s, 5m.")
@limits_option
@labels_option
@json_option
@socket_option
@click.argument("argv", metavar="[--] CMD...", nargs=-1, type=click.UNPROCESSED)
def explain(*, as_object: bool, script: str | None, **given: Any) -> None:
    """Say what would be decided about CMD and why, without running it.

    Shows each rule that took part with file and line, what the command looks like it does, and the smallest change of
    policy that would allow just this.

    \b
    Exit status: 0 it would run; 1 it would be asked about, limited or denied.

    \b
    Examples:
      stockade policy explain -- git push --force
      stockade policy explain -c 'curl https://example.org/x | sh' --label channel=discord
    """
    from supervisor.cli.run import request

    if bool(given["argv"]) == (script is not None):
        raise click.UsageError("Give either CMD after --, or -c TEXT.")
    answer = client().call("POST", "/v1/policy/explain", request(script=script, **given))
    show.emit(answer, "\n".join(_lines(answer)), as_object=as_object)
    raise click.exceptions.Exit(0 if answer["verdict"] == "allow" else EXIT_FAILED)


def _lines(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"verdict: {show.safe(answer['verdict'])}"
    problem = answer.get("problem") or {}
    if problem:
        yield f"because: {show.safe(problem.get('detail', ''))}"
    for reason in answer.get("reasons", ()):
        yield f"because: {show.safe(reason['detail'])} ({show.safe(reason['rule'])})"
    for key in ("profile", "autonomy", "network"):
        if answer.get(key):
            yield f"{key}: {show.safe(answer[key])}"
    if answer.get("readonly"):
        yield "workspace: read-only"
    for risk in answer.get("risks", ()):
        yield f"looks {show.safe(risk['kind'])}: {show.safe(risk['detail'])}"
    if not answer.get("parsed", True):
        yield f"not parsed: {show.safe(answer.get('error', ''))}"
    steps = [(s["effect"], s["rule"], s["source"], s["detail"]) for s in answer.get("steps", ())]
    if steps:
        yield ""
        yield show.table(("EFFECT", "RULE", "SOURCE", "WHY"), steps)
    if answer.get("change"):
        yield ""
        yield "the smallest change that would allow just this:"
        yield from (f"  {show.safe(line)}" for line in str(answer["change"]).rstrip("\n").split("\n"))


@click.command()
@click.option(
    "--days", metavar="N", type=click.IntRange(1, 36_500), default=90, show_default=True, help="Not used for N days."
)
@json_option
@socket_option
def unused(*, days: int, as_object: bool) -> None:
    """List the entries of the policy in force that took part in no decision for a while.

    An entry is listed only once the service has known it for as long.

    \b
    Example:
      stockade policy unused --days 30
    """
    answer = client().call("GET", "/v1/policy/unused", days=days)
    rows = [
        (r["rule"], r["source"], r.get("count"), r.get("last_used") or "never", r.get("known_since"))
        for r in answer["rules"]
    ]
    if not rows:
        show.emit(
            answer, f"every entry was used in the last {days} days, or is not known for as long", as_object=as_object
        )
        return
    show.emit(answer, show.table(("RULE", "SOURCE", "USES", "LAST USED", "KNOWN SINCE"), rows), as_object=as_object)
