"""`stockade policy`: what is allowed, on disk and in force."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from supervisor import errors
from supervisor.cli import show
from supervisor.cli.common import EXIT_FAILED, client, code_option, json_option, privileged, socket_option
from supervisor.cli.explain import explain, unused
from supervisor.cli.importing import import_policy
from supervisor.layout import Layout, layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.policy.snapshot import Snapshot


@click.group()
@socket_option
def policy() -> None:
    """Check the policy on disk, show the one in force, load the new one.

    \b
    Examples:
      stockade policy check && stockade policy reload
      stockade policy explain -- git push --force
      stockade policy show --json | jq '.profiles[].limits'
    """


@dataclass(frozen=True, slots=True)
class _OneFile(Layout):
    """The layout of a policy file by itself, without drop-ins."""

    file: str

    @property
    def policy(self) -> str:
        return self.file

    @property
    def policy_d(self) -> str:
        return "/proc/policy.d"  # never exists


def place(path: str | None) -> Layout:
    """Where to read: a directory (or its policy.toml) with its drop-ins, or any other file by itself."""
    installed = layout()
    if path is None:
        return installed
    found = os.path.abspath(path)
    if os.path.basename(found) == "policy.toml":
        found = os.path.dirname(found)
    others = (installed.run, installed.state, installed.log, installed.instance)
    return Layout(found, *others) if os.path.isdir(found) else _OneFile(os.path.dirname(found), *others, found)


@policy.command()
@click.argument("path", metavar="[FILE|DIR]", required=False, type=click.Path())
@json_option
def check(*, path: str | None, as_object: bool) -> None:
    """Check policy files without a service: every finding as FILE:LINE: KEY: what is wrong, what was expected.

    Default: /etc/stockade with its drop-ins. A FILE not named policy.toml is checked by itself. Files must belong
    to root or to you. What loads and is probably not meant is told as a warning, what is worth knowing as a note.
    [[tests]] are made too. Profiles are not proved here: `stockade policy reload` does that.

    \b
    Exit status: 0 valid, also with warnings; 1 findings, or tests that came out otherwise.

    \b
    Examples:
      stockade policy check
      stockade policy check ./policy.toml
    """
    from supervisor.policy.lint import lint
    from supervisor.policy.load import load

    where = place(path)
    try:
        snapshot = load(where, trusted_uid=os.geteuid())
    except errors.PolicyInvalid as e:
        findings = e.extra["findings"]
        text = "\n".join([*map(show.finding_line, findings), e.detail.partition(":")[0]])
        show.emit({"valid": False, "findings": findings}, text, as_object=as_object)
        raise click.exceptions.Exit(EXIT_FAILED) from e
    tests = tried(snapshot)
    failed = [row for row in tests if not row["ok"]]
    found = lint(snapshot)
    answer = {"valid": not failed, "findings": found, "tests": tests, "digest": snapshot.digest()}
    answer["files"] = [f for f, _ in snapshot.files]
    lines = [f"{_SAID[f['severity']]}: {show.finding_line(f)}" for f in found]
    lines += map(_failure, failed)
    lines += [f"{len(failed)} of {len(tests)} tests came out otherwise"] if failed else _summary(snapshot)
    show.emit(answer, "\n".join(lines), as_object=as_object)
    if failed:
        raise click.exceptions.Exit(EXIT_FAILED)


@policy.command()
@click.argument("path", metavar="[FILE|DIR]", required=False, type=click.Path())
@json_option
def test(*, path: str | None, as_object: bool) -> None:
    """Make the decisions that [[tests]] of policy files name, without a service, and compare.

    FILE and DIR as in `stockade policy check`.

    \b
    Exit status: 0 all came out as written; 1 some did not, or the policy does not load.

    \b
    Examples:
      stockade policy test
      stockade policy test ./policy.toml --json | jq '.tests[] | select(.ok | not)'
    """
    from supervisor.policy.load import load

    tests = tried(load(place(path), trusted_uid=os.geteuid()))
    failed = [row for row in tests if not row["ok"]]
    rows = [
        (r["verdict"] if r["ok"] else f"{r['verdict']}, not {r['expected']}", r["source"], r["command"], r["detail"])
        for r in tests
    ]
    said = f"{len(failed)} of {len(tests)} tests came out otherwise" if failed else f"{len(tests)} tests hold"
    text = "\n".join([*([show.table(("VERDICT", "SOURCE", "COMMAND", "WHY"), rows)] if rows else ()), said])
    show.emit({"ok": not failed, "tests": tests}, text, as_object=as_object)
    if failed:
        raise click.exceptions.Exit(EXIT_FAILED)


def tried(snapshot: Snapshot) -> list[dict[str, Any]]:
    """The rows of decide.selftest. Raises Unavailable when there is no parser to read scripts with."""
    if not snapshot.tests:
        return []
    from supervisor.decide import selftest
    from supervisor.parser.shfmt import Shfmt

    parser = Shfmt()
    try:
        return selftest.run(snapshot, parser.parse)
    finally:
        parser.close()


def _failure(row: dict[str, Any]) -> str:
    said = (
        f"{row['source']}: tests: {row['command']!r} is {row['verdict']}, expected {row['expected']}: {row['detail']}"
    )
    return show.safe(said)


_SAID = {"warning": "warning", "info": "note"}


def _summary(snapshot: Snapshot) -> Iterator[str]:
    yield f"valid: {', '.join(show.safe(file) for file, _ in snapshot.files)}"
    yield f"profiles: {', '.join(p.name for p in snapshot.profiles) or '-'}"
    yield f"callers: {len(snapshot.callers)}"
    yield f"digest: {snapshot.digest()}"


@policy.command("show")
@json_option
@socket_option
def show_policy(*, as_object: bool) -> None:
    """Show the policy in force, as the service compiled it.

    \b
    Example:
      stockade policy show
    """
    from supervisor.cli.service import flat

    answer = client().call("GET", "/v1/policy")
    show.emit(answer, "\n".join(flat(answer)), as_object=as_object)


@policy.command()
@code_option
@json_option
@socket_option
def reload(*, code: str | None, as_object: bool) -> None:
    """Load the policy on disk: parse, prove every profile, then serve it. On any finding the old one goes on serving.

    \b
    Exit status: 0 loaded; 1 refused, with the findings on stderr.

    \b
    Example:
      stockade policy reload
    """
    answer = privileged("POST", "/v1/policy/reload", code=code, timeout=300.0)
    show.emit(answer, f"loaded: {answer.get('digest', '?')}", as_object=as_object)


@policy.command()
@click.argument("name", required=False)
@json_option
def presets(*, name: str | None, as_object: bool) -> None:
    """List the policies that come with Stockade, to start from; with a NAME print that one.

    \b
    Examples:
      stockade policy presets
      stockade policy presets strict | sudo tee /etc/stockade/policy.toml
    """
    from supervisor.policy.presets import preset_names, preset_path, preset_text

    if name is not None:
        text = preset_text(name)
        show.emit({"name": name, "text": text}, text.rstrip("\n"), as_object=as_object)
        return
    found = [{"name": n, "about": _about(preset_text(n)), "file": str(preset_path(n))} for n in preset_names()]
    rows = [(p["name"], p["about"], p["file"]) for p in found]
    show.emit({"presets": found}, show.table(("PRESET", "ABOUT", "FILE"), rows), as_object=as_object)


def _about(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ")


policy.add_command(explain)
policy.add_command(unused)
policy.add_command(import_policy)
