"""What the commands share: options, the client of the chosen socket, and how errors reach the user."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from supervisor.cli.client import Client
    from supervisor.errors import StockadeError

T = TypeVar("T")

EXIT_FAILED = 1  # refused, not found, not reachable, a check that failed
EXIT_USAGE = 2
EXIT_REFUSED = 125  # of `stockade run`: Stockade's own refusal, as timeout(1) and env(1) do it
EXIT_INTERRUPTED = 128 + signal.SIGINT


def _remember_socket(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().meta["stockade.socket"] = value


# Accepted before and after the command's name.
socket_option = click.option(
    "--socket",
    metavar="PATH",
    expose_value=False,
    is_eager=True,
    callback=_remember_socket,
    help="The service's socket. Default: $STOCKADE_SOCKET, else /run/stockade/api.sock.",
)

code_option = click.option(
    "--code",
    metavar="DIGITS",
    envvar="STOCKADE_CODE",
    help="A one-time code, where your role takes one. Default: $STOCKADE_CODE, else asked for on a terminal.",
)

json_option = click.option("--json", "as_object", is_flag=True, help="Print the service's own JSON object.")


def client(*, timeout: float | None = 30.0) -> Client:
    """The client of the socket that was asked for. `timeout`: seconds without a byte before giving up."""
    from supervisor.cli.client import Client

    return Client(click.get_current_context().find_root().meta.get("stockade.socket"), timeout=timeout)


def with_code(order: Callable[[str | None], T], code: str | None) -> T:
    """Give an order; where it takes a one-time code and none was given, ask for one on the terminal and give it again.

    Raises errors.StepUpRequired when there is nobody to ask, and whatever `order` raises.
    """
    from supervisor.errors import StepUpRequired

    try:
        return order(code)
    except StepUpRequired as e:
        if code is not None or not on_terminal():
            raise
        report(e)
    return order(click.prompt("One-time code", hide_input=True, err=True).strip())


def privileged(method: str, route: str, body: Any = None, *, code: str | None, timeout: float = 30.0) -> Any:
    """The answer of an order that may take a one-time code. Raises errors.StockadeError."""
    service = client(timeout=timeout)
    return with_code(lambda given: service.call(method, route, body, code=given), code)


def on_terminal() -> bool:
    """Whether somebody can be asked: input and messages are a terminal's."""
    return os.isatty(0) and os.isatty(2)


def report(error: StockadeError) -> None:
    """Say on stderr what was refused, by which rule, and what to do."""
    from supervisor.cli.show import error_lines

    first, *rest = error_lines(error.as_dict())
    # The context, and with it the choice of colours, is gone when main() reports.
    plain = False if os.environ.get("NO_COLOR") else None
    click.echo(first.replace("stockade:", click.style("stockade:", fg="red", bold=True), 1), err=True, color=plain)
    for line in rest:
        click.echo(line, err=True)


def report_unexpected(error: Exception) -> None:
    """One line for a bug of ours; STOCKADE_DEBUG=1 raises it again, with its traceback."""
    if os.environ.get("STOCKADE_DEBUG"):
        raise error
    click.echo(f"stockade: unexpected {type(error).__name__}: {error} (STOCKADE_DEBUG=1 shows where)", err=True)


def die_of(number: int) -> NoReturn:
    """End as any program that this signal kills, so that a shell or a pipeline sees the truth."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)  # only reached when the signal is blocked


def complete_from(route: str, key: str, member: str = "id") -> Callable[..., list[str]]:
    """Shell completion by the service's own list; silent when it cannot be had."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from supervisor.cli.client import Client
        from supervisor.errors import StockadeError

        try:
            answer: Any = Client(ctx.find_root().meta.get("stockade.socket"), timeout=1.0).call("GET", route)
        except StockadeError:
            return []
        return [item[member] for item in answer[key] if item[member].startswith(incomplete)]

    return complete


def seconds_or_unit(text: str | None) -> str | None:
    """A time as the API takes it: a number by itself is seconds."""
    return f"{text}s" if text is not None and text.isascii() and text.isdecimal() else text


def pairs(what: str) -> Callable[..., dict[str, str]]:
    """A callback for a repeated option that is written NAME=VALUE; the last value of a name counts."""

    def split(_ctx: click.Context, _param: click.Parameter, values: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for value in values:
            name, equals, text = value.partition("=")
            if not equals or not name:
                raise click.BadParameter(f"{value!r} is not {what}")
            found[name] = text
        return found

    return split


def limits_member(limits: dict[str, str]) -> dict[str, int | str]:
    """The `limits` of a request: counts are integers there, everything else is text with its unit."""
    return {k: int(v) if v.isascii() and v.isdecimal() else v for k, v in limits.items()}


workspace_option = click.option(
    "-w", "--workspace", metavar="DIR", type=click.Path(), help="The directory to work in; default: this one."
)
profile_option = click.option(
    "-p", "--profile", metavar="NAME", help="The confinement; default: the first that policy grants you."
)
limits_option = click.option(
    "-l",
    "--limit",
    "limits",
    metavar="KEY=VALUE",
    multiple=True,
    callback=pairs("KEY=VALUE, such as memory=256M"),
    help="Narrow a limit of the profile: memory, cpu, processes, files, output, disk, tmp, idle_timeout.",
)
labels_option = click.option(
    "--label",
    "labels",
    metavar="K=V",
    multiple=True,
    callback=pairs("K=V, such as agent=reviewer"),
    help="Who asked: user, agent, channel. Recorded in the audit log.",
)
