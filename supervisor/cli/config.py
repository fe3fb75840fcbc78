"""`stockade config`: single keys of the policy file, read and set."""

from __future__ import annotations

import os

import click

from supervisor import errors
from supervisor.cli import show
from supervisor.cli.common import EXIT_FAILED, client, json_option, socket_option
from supervisor.layout import layout

_file_option = click.option(
    "--file", metavar="FILE", type=click.Path(), help="The policy file; default: /etc/stockade/policy.toml."
)


@click.group()
@socket_option
def config() -> None:
    """Read and set single keys of the policy file. What is set counts after `stockade policy reload`.

    Keys are those of docs/policy.md, entries of lists by their number: profiles.shell.limits.memory, callers.0.role.

    \b
    Examples:
      stockade config get autonomy.level
      stockade config set profiles.shell.limits.memory 512M && stockade policy reload
    """


@config.command()
@click.argument("key")
@_file_option
@json_option
def get(*, key: str, file: str | None, as_object: bool) -> None:
    """Print the value of KEY as JSON, or its default where the file does not have it.

    \b
    Exit status: 0 printed; 1 the key has neither a value nor a default, or there is no such key.

    \b
    Examples:
      stockade config get autonomy.blocked_commands
      stockade config get callers.0
    """
    import json

    from supervisor.policy import editing
    from supervisor.policy.check import LISTS, TABLES

    path = editing.path_of(key)
    text, source = _text(_path(file)), _path(file)
    value, known = editing.get(text, path), editing.info(path)
    # An entry that is not there has no defaults either.
    there = path[0] not in (*TABLES, *LISTS) or editing.get(text, path[:2]) is not None
    if value is None and there and known is not None and known.default not in (None, "not given"):
        value, source = json.loads(known.default), "the default"
    if value is None:
        raise errors.NotFound(f"{key} is not set, and has no default", field="key")
    show.emit({"key": key, "value": value, "source": source}, json.dumps(value, ensure_ascii=True), as_object=as_object)


@config.command("set")
@click.argument("key")
@click.argument("value")
@_file_option
@click.option(
    "--offline",
    is_flag=True,
    help="Also where no service answers. For a machine on which it does not run: nothing is logged there either.",
)
@json_option
@socket_option
def set_key(*, key: str, value: str, file: str | None, offline: bool, as_object: bool) -> None:
    """Set KEY to VALUE: JSON, a value as in TOML, or plain text. Comments and layout stay.

    The file is loaded as it would be, with its drop-ins and [[tests]], before anything is written; on any finding it
    stays as it was. Policy changes only while the audit log works, so the service is asked first.

    \b
    Exit status: 0 written; 1 refused, with the findings on stderr; 2 wrong usage.

    \b
    Examples:
      stockade config set autonomy.level readonly
      stockade config set autonomy.approval_patterns '["git push", "kubectl delete"]'
      stockade config set callers.1 '{"unit": "gateway.service", "role": "operator"}'
    """
    from supervisor.cli.files import replace
    from supervisor.policy import editing

    path, given, place = editing.path_of(key), editing.value_of(value), _path(file)
    _audited(offline=offline)
    text = _text(place)
    edited = editing.set_value(text, path, given)
    _valid(place, edited)
    if _text(place) != text:
        raise errors.Conflict(f"{place} was changed by somebody else meanwhile", hint="try again")
    replace(place, edited)
    answer = {"key": key, "value": given, "file": place, "changed": edited != text}
    show.emit(answer, f"{show.safe(place)}: {show.safe(key)} is set; `stockade policy reload`", as_object=as_object)


@config.command()
@_file_option
@json_option
def validate(*, file: str | None, as_object: bool) -> None:
    """Say whether the policy file loads, with its drop-ins, and its [[tests]] hold.

    \b
    Exit status: 0 it does; 1 it does not, with the findings.

    \b
    Example:
      stockade config validate --file ./policy.toml
    """
    place = _path(file)
    try:
        _valid(place, None)
    except errors.PolicyInvalid as e:
        findings = e.extra["findings"]
        show.emit(
            {"valid": False, "findings": findings}, "\n".join(map(show.finding_line, findings)), as_object=as_object
        )
        raise click.exceptions.Exit(EXIT_FAILED) from e
    show.emit({"valid": True, "findings": []}, f"valid: {show.safe(place)}", as_object=as_object)


def _path(file: str | None) -> str:
    return layout().policy if file is None else os.path.abspath(file)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
        other = "--file FILE names another policy"
        raise errors.NotFound(f"{path} cannot be read: {why}", field="file", hint=other) from e


def _valid(path: str, text: str | None) -> None:
    """Raises PolicyInvalid when the file, with `text` in it, would not load or a test would not hold."""
    from supervisor.cli.policy import place, tried
    from supervisor.policy.findings import finding, invalid
    from supervisor.policy.load import load

    directory = os.path.dirname(path)
    drop_in = os.path.basename(directory) == "policy.d"
    where = place(os.path.dirname(directory) if drop_in else path)
    snapshot = load(where, trusted_uid=os.geteuid(), instead=None if text is None else {path: text.encode()})
    if path not in (file for file, _ in snapshot.files):
        raise errors.InvalidRequest(
            f"{path} is no policy file: nothing would read it", field="file", allowed="policy.toml, policy.d/*.toml"
        )
    failed = [row for row in tried(snapshot) if not row["ok"]]
    if failed:
        found = []
        for row in failed:
            file, _, line = row["source"].rpartition(":")
            said = f"{row['command']!r} is {row['verdict']}: {row['detail']}"
            found.append(finding(file, int(line), "tests", said, expected=row["expected"]))
        raise invalid(found)


def _audited(*, offline: bool) -> None:
    """R63: raises unless the service says that its audit log works. `offline`: or no service answers."""
    try:
        status = client(timeout=10.0).call("GET", "/v1/status")
    except errors.Unavailable as e:
        if offline:
            return
        raise errors.AuditUnavailable(
            f"policy changes only while the audit log works, and no service says so: {e.detail}",
            hint="start the service, or say --offline on a machine where it does not run",
        ) from e
    if not (status.get("audit") or {}).get("ok"):
        raise errors.AuditUnavailable(
            "policy changes only while the audit log works, and the service says that it does not",
            hint="`stockade status` says what is wrong with it",
        )
