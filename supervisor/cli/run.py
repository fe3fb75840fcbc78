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
    complete_from,
    json_option,
    labels_option,
    limits_member,
    limits_option,
    pairs,
    profile_option,
    report,
    report_unexpected,
    socket_option,
    workspace_option,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


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
@click.option("--dry-run", is_flag=True, help="Only ask what the decision would be: 0 allowed, 125 refused.")
@json_option
@socket_option
@click.argument("argv", metavar="[--] CMD...", nargs=-1, type=click.UNPROCESSED)
def run(*, no_stdin: bool, as_object: bool, background: bool, dry_run: bool, script: str | None, **given: Any) -> None:
    """Run CMD confined, as if it had been run directly.

    Output is passed on byte for byte, unbuffered and to the right stream; input too, when it is neither a
    terminal nor /dev/null. Ctrl-C reaches the whole tree of the command, a second one kills it.

    \b
    Exit status:
      N     CMD ended with N
      124   timeout or idle_timeout
      125   Stockade refused or failed; the reason is on stderr
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
      while read -r file; do stockade run -n -- wc -c "$file"; done < list
    """
    if bool(given["argv"]) == (script is not None):
        raise click.UsageError("Give either CMD after --, or -c TEXT.")
    body = request(script=script, background=background, dry_run=dry_run, **given)
    if dry_run or background:
        answer = client().call("POST", "/v1/runs", body)
        show.emit(answer, answer["id"] if background else decision_text(answer), as_object=as_object)
        return
    ended = foreground(client(timeout=None), body, stdin=not no_stdin and forward.has_stdin(), quiet=as_object)
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
    body["timeout"] = f"{timeout}s" if timeout is not None and timeout.isdecimal() else timeout
    body["limits"] = limits_member(limits)
    return {k: v for k, v in {**body, **others}.items() if v not in (None, {}, False)}


def foreground(service: Client, body: dict[str, Any], *, stdin: bool, quiet: bool) -> dict[str, Any]:
    """Follow a run to its end and return it; with `quiet` its output is left for the returned object.

    Raises errors.StockadeError; KeyboardInterrupt when the user left before the run did.
    """
    run, ended = "", None
    if stdin:
        body = {**body, "stdin_stream": True}
    frames = service.frames("POST", "/v1/runs", body)
    with forward.Signals(service) as signals, contextlib.closing(frames):
        for frame in frames:
            match frame["type"]:
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
    ]
    return "\n".join(f"{key}: {show.safe(value)}" for key, value in rows if value)
