"""`stockade approvals`: what waits for a person's answer."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import question, show
from supervisor.cli.common import (
    client,
    code_option,
    complete_from,
    json_option,
    privileged,
    seconds_or_unit,
    socket_option,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STATES = ("pending", "approved", "denied", "expired", "cancelled", "all")

_argument = click.argument("approval", metavar="APPROVAL", shell_complete=complete_from("/v1/approvals", "approvals"))
_note_option = click.option("--note", metavar="TEXT", default="", help="Why; whoever asks is told, and the audit log.")
watch_option = click.option("-w", "--watch", is_flag=True, help="Then go on: show each question as it comes.")


@click.group(invoke_without_command=True)
@watch_option
@json_option
@socket_option
@click.pass_context
def approvals(ctx: click.Context, *, watch: bool, as_object: bool) -> None:
    """List and answer what agents want a yes for. Without a command: list what is pending.

    A yes is bound to exactly what `show` prints: command, input, directory, labels, variables, policy, and the contents
    of the scripts that the command names. Nobody answers their own questions. What nobody answers in time is refused.

    \b
    Examples:
      stockade approvals
      stockade approvals --watch                           on a terminal: answer with one key each
      stockade approvals show apr-7f3k2m9q
      stockade approvals approve apr-7f3k2m9q --for 30m
      stockade approvals deny apr-7f3k2m9q --note "use a branch"
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(listing, watch=watch, state="pending", limit=100, as_object=as_object)


@approvals.command("list")
@click.option("--state", type=click.Choice(STATES), default="pending", show_default=True, help="Which ones.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@watch_option
@json_option
@socket_option
def listing(*, state: str, limit: int, watch: bool, as_object: bool) -> None:
    """List questions: yours, or everybody's if you may read them.

    With --watch those that are pending are shown in full, then each new one as it is asked. On a terminal they can be
    answered on the spot; otherwise, and with --json, one object or block follows the other. Ctrl-C leaves.

    \b
    Examples:
      stockade approvals list --state all
      stockade approvals list --watch --json | jq -r .what.argv
    """
    if watch:
        if state != "pending":
            raise click.UsageError("--watch is about what is pending; leave --state out.")
        from supervisor.cli.watching import watch as follow

        follow(as_object=as_object)
        return
    answer = client().call("GET", "/v1/approvals", state=state, limit=limit)
    now = time.time()
    head = ("APPROVAL", "STATE", "AGE", "LEFT", "WHO", "WHAT", "WHY")
    rows = [
        (
            q["id"],
            q["state"],
            show.age(q.get("created"), now),
            show.remaining(q.get("expires"), now) if q["state"] == "pending" else None,
            question.who(q),
            show.short(question.what(q), 48),
            show.short(question.why(q) or "", 48),
        )
        for q in answer["approvals"]
    ]
    more = f"\nThese are the {limit} that came last; there may be others: --limit" if len(rows) == limit else ""
    show.emit(answer, show.table(head, rows) + more, as_object=as_object)


@approvals.command("show")
@_argument
@json_option
@socket_option
def show_one(*, approval: str, as_object: bool) -> None:
    """Show a question: exactly what would run, the risky parts marked, and what each answer would mean.

    On a terminal the parts that made policy ask are red, elsewhere (and with NO_COLOR) there are carets below them.
    Control characters, and characters that are not seen, are spelt out.

    \b
    Example:
      stockade approvals show apr-7f3k2m9q
    """
    found = client().call("GET", f"/v1/approvals/{approval}")
    text = question.page(found, time.time(), colour=show.coloured(), uid=os.getuid())
    show.emit(found, text, as_object=as_object)


def _scope(name: str, text: str) -> Callable[..., Any]:
    return click.option(f"--{name}", "scope", flag_value=name, help=text)


@approvals.command()
@_argument
@_scope("once", "One time (the default).")
@click.option("--times", type=click.IntRange(1, 10_000), metavar="N", help="N times.")
@click.option("--for", "duration", metavar="TIME", help="Any number of times for so long: 30m, 2h.")
@_scope("session", "Whatever is asked about for the same reasons in this session.")
@_scope("target", "Any number of times, for as long as policy lets a yes hold.")
@_note_option
@code_option
@json_option
@socket_option
def approve(
    *,
    approval: str,
    scope: str | None,
    times: int | None,
    duration: str | None,
    note: str,
    code: str | None,
    as_object: bool,
) -> None:
    """Say yes. It holds for exactly what `stockade approvals show` prints; only --session reaches further.

    --for goes with every other choice and then only bounds how long the yes can be used.

    \b
    Exit status: 0 it was taken; 1 refused: your own question, answered meanwhile, not allowed.

    \b
    Examples:
      stockade approvals approve apr-7f3k2m9q
      stockade approvals approve apr-7f3k2m9q --times 3 --for 1h --note "release day"
      stockade approvals approve apr-7f3k2m9q --session
    """
    body = yes(scope=scope, times=times, duration=duration, note=note)
    answer = privileged("POST", f"/v1/approvals/{approval}/approve", body, code=code)
    show.emit(answer, said(answer), as_object=as_object)


def yes(*, scope: str | None, times: int | None, duration: str | None, note: str) -> dict[str, Any]:
    """The body of a yes. Raises click.UsageError for two scopes at once."""
    if times is not None and scope is not None:
        raise click.UsageError(f"--times does not go with --{scope}: choose one.")
    chosen = "times" if times is not None else scope or ("until" if duration is not None else "once")
    body = {"scope": chosen, "times": times, "duration": seconds_or_unit(duration), "note": note}
    return {k: v for k, v in body.items() if v not in (None, "")}


@approvals.command()
@_argument
@_note_option
@code_option
@json_option
@socket_option
def deny(*, approval: str, note: str, code: str | None, as_object: bool) -> None:
    """Say no. Whoever asks is told that a person refused, and your note.

    \b
    Example:
      stockade approvals deny apr-7f3k2m9q --note "push to a branch instead"
    """
    answer = privileged("POST", f"/v1/approvals/{approval}/deny", {"note": note} if note else {}, code=code)
    show.emit(answer, said(answer), as_object=as_object)


@approvals.command()
@_argument
@json_option
@socket_option
def withdraw(*, approval: str, as_object: bool) -> None:
    """Take back a question that you asked.

    \b
    Example:
      stockade approvals withdraw apr-7f3k2m9q
    """
    answer = client().call("DELETE", f"/v1/approvals/{approval}")
    show.emit(answer, said(answer), as_object=as_object)


@approvals.command()
@_argument
@click.option("-t", "--timeout", metavar="TIME", help="Give up after this long: 30s, 10m; a number is seconds.")
@json_option
@socket_option
def wait(*, approval: str, timeout: str | None, as_object: bool) -> None:
    """Wait until a question is answered.

    \b
    Exit status: 0 approved; 1 denied, expired, withdrawn, or not answered within --timeout.

    \b
    Example:
      stockade approvals wait apr-7f3k2m9q && stockade run -- git push
    """
    service = client(timeout=None)
    answer = service.call("GET", f"/v1/approvals/{approval}/wait", timeout=seconds_or_unit(timeout))
    show.emit(answer, said(answer), as_object=as_object)
    raise click.exceptions.Exit(0 if answer["state"] == "approved" else 1)


def said(answer: Mapping[str, Any]) -> str:
    """One line about how a question stands."""
    answers = answer.get("answers") or ()
    if answer["state"] == "pending" and answers:
        missing = answer["needed"] - sum(bool(a.get("approve")) for a in answers)
        return f"{show.safe(answer['id'])}: your yes is noted; it takes {missing} more by somebody else"
    last = answers[-1] if answers else {}
    note = f": {show.safe(last['note'])}" if last.get("note") else ""
    return f"{show.safe(answer['id'])}: {show.safe(answer['state'])}{question.terms(last)}{note}"
