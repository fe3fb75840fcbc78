"""`stockade policy import`: the configuration of another agent gateway as a policy of ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from supervisor import errors
from supervisor.cli import show
from supervisor.cli.common import EXIT_FAILED, json_option

if TYPE_CHECKING:
    from supervisor.policy.importing.convert import Imported


@click.command("import")
@click.argument("file", metavar="FILE", type=click.Path())
@click.option(
    "--format", "product", type=click.Choice(["zeroclaw", "clawdbot"]), help="Default: TOML is zeroclaw, JSON clawdbot."
)
@click.option("-o", "--output", metavar="OUT", type=click.Path(), help="Write here; default: standard output.")
@click.option("--force", is_flag=True, help="Replace OUT when it is there.")
@json_option
def import_policy(*, file: str, product: Any, output: str | None, force: bool, as_object: bool) -> None:
    """Write a policy that means what a configuration of ZeroClaw (TOML) or Clawdbot (JSON, with comments too) means.

    Clawdbot is OpenClaw by its earlier name; its exec-approvals.json can be read too. What FILE leaves out is as in the
    preset, and what was denied or asked about by a key of FILE is so here.

    Every key that could not be carried over, or not whole, is told with the reason, and stands at the top of the
    policy. What is written loads, or nothing is. The table of keys is in docs/policy.md.

    \b
    Exit status: 0 all carried over; 1 written, and something was not carried over; or nothing could be written;
    2 wrong usage.

    \b
    Examples:
      stockade policy import ~/.zeroclaw/config.toml
      stockade policy import clawdbot.json -o policy.toml && stockade policy check ./policy.toml
    """
    from supervisor.policy.importing.convert import convert

    if output is not None and os.path.lexists(output) and not force:
        raise errors.Conflict(f"{output} is there already", field="output", hint="--force replaces it")
    found = convert(_read(file), file, product)
    warnings = _warnings(found)
    report = "\n".join([_report(found), *(f"warning: {show.finding_line(w)}" for w in warnings)])
    if output is not None:
        from supervisor.cli.files import replace

        replace(output, found.text)
    if as_object:
        answer: dict[str, Any] = {"format": found.product, "preset": found.preset, "complete": found.complete}
        answer |= {"keys": [row.as_dict() for row in found.rows], "findings": warnings, "output": output}
        click.echo(show.as_json(answer if output is not None else {**answer, "text": found.text}))
    else:
        if output is None:
            click.echo(found.text, nl=False)
        click.echo(report, err=True)
    raise click.exceptions.Exit(0 if found.complete else EXIT_FAILED)


def _read(file: str) -> bytes:
    from supervisor.policy.importing.read import MAX_BYTES

    try:
        with open(file, "rb") as source:
            return source.read(MAX_BYTES + 1)
    except OSError as e:
        raise errors.NotFound(f"{file} cannot be read: {e.strerror}", field="file") from e


def _warnings(found: Imported) -> list[dict[str, Any]]:
    """What the linter says. Raises Internal for a policy that would not load, so that none is ever written."""
    from supervisor.policy.lint import lint
    from supervisor.policy.load import loads, resolve

    try:
        # It may be meant for another host, which has the accounts that this one lacks.
        snapshot = loads(
            found.text, resolve=lambda kind, name: known if (known := resolve(kind, name)) is not None else _ELSEWHERE
        )
    except errors.PolicyInvalid as e:
        raise errors.Internal(
            "the policy that was made of it would not load", hint="please report it, with the file", **e.extra
        ) from e
    return [finding for finding in lint(snapshot) if finding["severity"] == "warning"]


_ELSEWHERE = 2**32 - 3  # a uid and gid that nobody has


def _report(found: Imported) -> str:
    missing = [(row.key, row.why) for row in found.rows if not row.carried]
    carried = len(found.rows) - len(missing)
    said = f"{carried} of {len(found.rows)} keys carried over, on the page of the preset {found.preset}"
    return said if not missing else "\n".join([show.table(("NOT CARRIED OVER", "WHY"), missing), said])
