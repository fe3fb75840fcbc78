"""The `stockade` command: its groups by name, its options, and the one place that turns errors into exit statuses."""

from __future__ import annotations

import importlib
import os
import signal
from typing import TYPE_CHECKING, NoReturn

import click

from supervisor import __version__, errors
from supervisor.cli.common import EXIT_FAILED, EXIT_INTERRUPTED, die_of, report, report_unexpected, socket_option

if TYPE_CHECKING:
    from collections.abc import Sequence

# Command -> module of this package that defines it. Listed in the order of the help.
COMMANDS = {
    "run": "run",
    "ps": "runs",
    "logs": "runs",
    "wait": "runs",
    "kill": "runs",
    "sessions": "sessions",
    "approvals": "approvals",
    "grants": "grants",
    "access": "access",
    "tools": "tools",
    "usage": "usage",
    "queue": "queue",
    "breakers": "breakers",
    "mfa": "mfa",
    "status": "service",
    "doctor": "doctor",
    "policy": "policy",
    "config": "config",
    "events": "service",
    "stop": "service",
    "resume": "service",
    "serve": "service",
    "completion": "shell",
    "version": "shell",
}


class LazyGroup(click.Group):
    """Imports the module of a command when the command is asked for, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        found: click.Command = getattr(importlib.import_module(f"supervisor.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return found

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of our output went away: `stockade ps | head -1`
            die_of(signal.SIGPIPE)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as e:
            raise click.exceptions.NoSuchCommand(e.command_name, possibilities=COMMANDS, ctx=ctx) from None


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 success; 1 refused, not found, not reachable or a failed check; 2 wrong usage. "
    "`stockade run` and `stockade wait` pass the status of the command through, see their help.",
)
@socket_option
@click.version_option(__version__, message="stockade %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run commands of AI agents confined, and watch, stop and account for them.

    Every command talks to the running service (`stockade serve`) over its Unix socket.

    \b
    Examples:
      stockade run -- git status           run a command confined to this directory
      stockade doctor                      is everything in place on this machine?
      stockade ps                          what is running now
      stockade approvals --watch           answer what agents want a yes for
      stockade policy check                is the policy on disk valid?
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Carry out one command line and exit with its status."""
    raise SystemExit(status_of(args))


def status_of(args: Sequence[str] | None) -> int:
    """The exit status of one command line. Only what the user should read reaches stderr."""
    _own_standard_descriptors()
    try:
        status = cli.main(args, prog_name="stockade", standalone_mode=False)
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except errors.StockadeError as e:
        report(e)
        return EXIT_FAILED
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except Exception as e:  # noqa: BLE001  the last line of defence: no user sees a traceback unasked
        report_unexpected(e)
        return EXIT_FAILED
    return status if isinstance(status, int) else 0


def _own_standard_descriptors() -> None:
    # Started with one of 0, 1, 2 closed, the socket to the service would become that descriptor, and output of
    # a run would be written into the request.
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
