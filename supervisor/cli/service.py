"""Commands on the service as a whole: status, events, stop, resume, serve."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import show
from supervisor.cli.common import client, code_option, json_option, privileged, socket_option

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@click.command()
@json_option
@socket_option
def status(*, as_object: bool) -> None:
    """Is the service well: version, policy in force, sessions, runs, refused profiles.

    \b
    Exit status: 0 it serves; 1 it is stopped, or cannot be reached.

    \b
    Examples:
      stockade status
      stockade status --json | jq .policy
    """
    answer = client().call("GET", "/v1/status")
    show.emit(answer, "\n".join(_status_lines(answer)), as_object=as_object)
    if answer["stopped"]:
        raise click.exceptions.Exit(1)


def _status_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    stopped, policy, you = answer["stopped"], answer["policy"], answer["you"]
    if stopped:
        since = show.age(stopped["since"], time.time())
        yield f"state: stopped {since} ago: {show.safe(stopped['reason']) or '-'}; `stockade resume` ends it"
    else:
        yield "state: serving"
    yield f"version: {answer['version']}"
    yield f"policy: {policy['digest'][:12]}, loaded {show.age(policy['since'], time.time())} ago"
    yield from (f"  {show.safe(file)}" for file in policy["files"])
    if policy["failure"]:
        yield f"policy on disk is not in force: {show.safe(policy['failure']['detail'])}"
    for name, proof in policy["refused"].items():
        yield f"refused profile {show.safe(name)}: {show.safe(proof['probe'])}: {show.safe(proof['detail'])}"
    for what in ("sessions", "runs"):
        yield f"{what}: {answer[what]['live']} of at most {answer[what]['most']}"
    if agents := (answer.get("alerts") or {}).get("agents"):
        yield f"alerts: of {agents} agents in this hour; see the audit log, or `stockade usage` for your own"
    yield f"audit: {'ok' if answer['audit']['ok'] else 'cannot be written, so nothing runs'}"
    yield f"you: uid {you['uid']}, {show.safe(you['role'])} by {show.safe(you['source'])}"


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """One line for each leaf: `policy.digest: 3f2c…`; lists of plain values on one line."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict) and item:
            yield from flat(item, f"{name}.")
        elif isinstance(item, list) and item and isinstance(item[0], dict):
            for number, member in enumerate(item):
                yield from flat(member, f"{name}[{number}].")
        elif isinstance(item, (list, dict)):
            yield f"{name}: {', '.join(show.safe(x) for x in item) or '-'}"
        else:
            yield f"{name}: {_plain(item)}"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else show.safe(value)


@click.command()
@json_option
@socket_option
def events(*, as_object: bool) -> None:
    """Follow what happens: decisions, ends of runs, sessions, policy. Ctrl-C leaves.

    \b
    Examples:
      stockade events
      stockade events --json | jq -c 'select(.event == "run.finished")'
    """
    for name, data in client(timeout=None).events():
        if as_object:
            click.echo(json.dumps({"event": name, "data": data}))
        else:
            members = dict(data)
            moment = members.pop("time", "")
            said = " ".join(f"{k}={_short(v)}" for k, v in members.items() if v not in (None, "", {}) and k != "kind")
            click.echo(f"{show.safe(moment)} {show.safe(name)} {said}")


def _short(value: Any) -> str:
    return show.safe(value if isinstance(value, (str, int, float)) else json.dumps(value, separators=(",", ":")))


@click.command()
@click.option("--reason", metavar="TEXT", help="Why, for the audit log.")
@code_option
@json_option
@socket_option
def stop(*, reason: str | None, code: str | None, as_object: bool) -> None:
    """Emergency stop: kill every run and session now; nothing starts until `stockade resume`.

    It may take a one-time code, and never waits for an approval.

    \b
    Example:
      stockade stop --reason "agent 7 deletes files"
    """
    answer = privileged("POST", "/v1/stop", {"reason": reason or ""}, code=code)
    killed = f"{answer.get('runs', 0)} runs and {answer.get('sessions', 0)} sessions were killed"
    show.emit(answer, f"stopped: {killed}; `stockade resume` lets runs start again", as_object=as_object)


@click.command()
@code_option
@json_option
@socket_option
def resume(*, code: str | None, as_object: bool) -> None:
    """Let runs start again after `stockade stop`.

    \b
    Example:
      stockade resume
    """
    show.emit(privileged("POST", "/v1/resume", code=code), "resumed", as_object=as_object)


@click.command()
@click.option("--root", metavar="DIR", type=click.Path(), help="Put etc, run, state and log below DIR.")
def serve(*, root: str | None) -> None:
    """Run the service in the foreground. Started by systemd as root; see stockade.service.

    \b
    Example:
      sudo stockade serve --root /tmp/stockade
    """
    from supervisor.daemon import serve as daemon

    daemon(root)
