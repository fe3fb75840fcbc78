"""`stockade run`: behaves like running the command itself."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from supervisor import errors
from supervisor.cli import ending, forward, show
from supervisor.cli.client import Client, frame_bytes, from_problem
from supervisor.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    client,
    code_option,
    complete_from,
    json_option,
    labels_option,
    limits_member,
    limits_option,
    pairs,
    profile_option,
    report,
    report_unexpected,
    seconds_or_unit,
    socket_option,
    with_code,
    workspace_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


WAIT_ON_TERMINAL = "10m"


class _Refusing(click.Command):
    """Every failure that is Stockade's and not the command's exits with 125, 126 or 127, wrong usage too."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as e:
            e.show()
            raise click.exceptions.Exit(EXIT_REFUSED) from e

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as e:
            e.show()
            status = EXIT_REFUSED
        except (click.exceptions.Exit, click.ClickException, BrokenPipeError):
            raise
        except errors.StockadeError as e:
            if ctx.params.get("as_object"):
                click.echo(show.as_json(e.as_dict()))
            else:
                report(e)
            status = ending.refusal_status(e)
        except KeyboardInterrupt:
            status = EXIT_INTERRUPTED
        except Exception as e:  # noqa: BLE001  125 and one line, never a traceback with the status of the command
            report_unexpected(e)
            status = EXIT_REFUSED
        raise click.exceptions.Exit(status)


@click.command(cls=_Refusing, context_settings={"allow_interspersed_args": False})
@workspace_option
@click.option(
    "-s", "--session", metavar="ID", shell_complete=complete_from("/v1/sessions", "sessions"), help="An open session."
)
@profile_option
@click.option("-c", "--script", metavar="TEXT", help="Run TEXT in the profile's shell instead of CMD.")
@click.option("-t", "--timeout", metavar="TIME", help="Kill the tree after this long: 30s, 5m; a number is seconds.")
@limits_option
@click.option(
    "-e",
    "--env",
    metavar="K=V",
    multiple=True,
    callback=pairs("K=V"),
    help="A variable for the command, which inherits none of yours.",
)
@click.option("--cwd", metavar="DIR", help="Start in DIR, absolute or relative to the workspace.")
@labels_option
@click.option("-n", "--no-stdin", is_flag=True, help="Do not hand standard input on.")
@click.option("-b", "--background", is_flag=True, help="Print the run's id and leave it running.")
@click.option(
    "--wait-approval",
    metavar="TIME",
    help="How long to wait where a person has to say yes: 30s, 10m. Default: 10m on a terminal, else not at all.",
)
@click.option("--dry-run", is_flag=True, help="Only ask what the decision would be: 0 it would run, 125 it would not.")
@code_option
@json_option
@socket_option
@click.argument("argv", metavar="[--] CMD...", nargs=-1, type=click.UNPROCESSED)
def run(
    *,
    no_stdin: bool,
    as_object: bool,
    background: bool,
    dry_run: bool,
    script: str | None,
    wait_approval: str | None,
    code: str | None,
    **given: Any,
) -> None:
    """Run CMD confined, as if it had been run directly.

    Output is passed on byte for byte, unbuffered and to the right stream; input too, when it is neither a
    terminal nor /dev/null. Ctrl-C reaches the whole tree of the command, a second one kills it.

    Where policy wants a person's yes first, or there is no free place, stderr says so and what to do. While it waits,
    Ctrl-C gives the request up. Without --wait-approval and a terminal it does not wait: send the same again once it
    is approved.

    \b
    Exit status:
      N     CMD ended with N
      124   timeout or idle_timeout
      125   Stockade refused, failed, or waits for an approval; the reason is on stderr
      126   CMD is not executable
      127   CMD was not found
      128+N CMD was ended by signal N
      137   killed: memory, processes, disk, output, cancelled, stopped

    \b
    Examples:
      stockade run -- make test
      stockade run --timeout 5m --limit memory=1G -- python build.py
      stockade run -c 'sort words | uniq -c' < /dev/null
      tar c src | stockade run --workspace /srv/agent/ws -- tar x
      stockade run --background --json -- ./long-job
      stockade run --wait-approval 30m -- git push
      while read -r file; do stockade run -n -- wc -c "$file"; done < list
    """
    if bool(given["argv"]) == (script is not None):
        raise click.UsageError("Give either CMD after --, or -c TEXT.")
    if wait_approval is None and os.isatty(2) and not (dry_run or background):
        wait_approval = WAIT_ON_TERMINAL
    body = request(script=script, background=background, dry_run=dry_run, wait_approval=wait_approval, **given)
    service = client(timeout=None)
    if dry_run or background:
        answer = with_code(lambda given: service.call("POST", "/v1/runs", body, code=given), code)
        show.emit(answer, decision_text(answer) if dry_run else answer["id"], as_object=as_object)
        if dry_run and (answer.get("decision") or {}).get("verdict", "allow") != "allow":
            raise click.exceptions.Exit(EXIT_REFUSED)
        return
    stdin = not no_stdin and forward.has_stdin()
    ended = with_code(lambda given: foreground(service, body, stdin=stdin, quiet=as_object, code=given), code)
    if as_object:
        click.echo(show.as_json(ended))
    elif ended.get("cause") != "exited":
        click.echo(f"stockade: {ending.sentence(ended)}", err=True)
    raise click.exceptions.Exit(ending.exit_status(ended))


def request(
    *,
    argv: Sequence[str],
    script: str | None,
    workspace: str | None,
    session: str | None,
    timeout: str | None,
    limits: dict[str, str],
    wait_approval: str | None = None,
    **others: Any,
) -> dict[str, Any]:
    """The body of POST /v1/runs, without what was not given. Raises click.UsageError."""
    if workspace is not None and session is not None:
        raise click.UsageError("A session has its workspace: give --workspace or --session, not both.")
    if session is None:
        workspace = os.path.realpath(workspace or ".")
    body: dict[str, Any] = {
        "tool": "shell",
        "argv": list(argv) or None,
        "script": script,
        "workspace": workspace,
        "session": session,
    }
    body["timeout"] = seconds_or_unit(timeout)
    body["wait_approval"] = seconds_or_unit(wait_approval)
    body["limits"] = limits_member(limits)
    return {k: v for k, v in {**body, **others}.items() if v not in (None, {}, False)}


def foreground(
    service: Client, body: dict[str, Any], *, stdin: bool, quiet: bool, code: str | None = None
) -> dict[str, Any]:
    """Follow a run to its end and return it; with `quiet` its output is left for the returned object.

    Raises errors.StockadeError; KeyboardInterrupt when the user left before the run did.
    """
    run, ended = "", None
    if stdin:
        body = {**body, "stdin_stream": True}
    frames = service.frames("POST", "/v1/runs", body, code=code)
    with forward.Signals(service) as signals, contextlib.closing(frames):
        for frame in frames:
            match frame["type"]:
                case "approval":
                    ident = show.safe(frame["approval"]["id"])
                    click.echo(f"stockade: waiting for approval {ident}: stockade approvals approve {ident}", err=True)
                case "queued" if os.isatty(2):
                    click.echo(f"stockade: waiting for a place, position {frame['position']}", err=True)
                case "started":
                    run = signals.run = frame["run"]["id"]
                    if stdin:
                        forward.send_stdin(service, run)
                case "stdout" | "stderr" as stream if not quiet:
                    forward.write_all(1 if stream == "stdout" else 2, frame_bytes(frame))
                case "finished":
                    ended = frame["run"]
                case "error":
                    raise from_problem(frame["problem"], 0)
    if ended is None:
        raise errors.Unavailable(
            "the service broke the stream off before the run ended",
            hint=f"`stockade logs {run}` shows its output once the service is back" if run else None,
        )
    return service.call("GET", f"/v1/runs/{run}") if quiet else ended  # type: ignore[no-any-return]


def decision_text(answer: dict[str, Any]) -> str:
    """What a dry run found out, for a person."""
    decision = answer.get("decision") or {}
    rows = [
        ("decision", decision.get("verdict", "?")),
        ("rule", decision.get("rule")),
        ("source", decision.get("source")),
        ("reason", decision.get("reason")),
        ("profile", answer.get("profile")),
        ("autonomy", decision.get("autonomy")),
    ]
    lines = [f"{key}: {show.safe(value)}" for key, value in rows if value]
    lines += [f"asks because: {show.reason_line(reason)}" for reason in decision.get("reasons") or ()]
    lines += [f"note: {show.safe(note)}" for note in decision.get("notes") or ()]
    lines += [f"left: {_left(row)} of {show.safe(row['rule'])}" for row in decision.get("left") or ()]
    return "\n".join(lines)


def _left(row: dict[str, Any]) -> str:
    """How much of a bound is left, in its unit: budgets of time are in milliseconds, of what is written in bytes."""
    name = str(row["rule"]).rpartition(".")[2]
    writers: dict[str, Any] = {"cpu": show.duration, "wall": show.duration, "written": show.size}
    return str(writers.get(name, show.safe)(row["left"]))
