"""`stockade access`: a role for a time."""

from __future__ import annotations

import time

import click

from supervisor.cli import question, show
from supervisor.cli.common import client, json_option, seconds_or_unit, socket_option


@click.group()
@socket_option
def access() -> None:
    """Ask for a role for a time; somebody else has to say yes, and it ends by itself.

    Which roles you may ask for is said by may_request of your entry in [[callers]].

    \b
    Examples:
      stockade access request --role administrator --duration 1h --reason "the disk is full"
      stockade access list
    """


@access.command()
@click.option("--role", required=True, metavar="NAME", help="The role, as policy names it.")
@click.option("--duration", required=True, metavar="TIME", help="For how long: 30m, 1h.")
@click.option("--reason", required=True, metavar="TEXT", help="What for; whoever answers reads it.")
@json_option
@socket_option
def request(*, role: str, duration: str, reason: str, as_object: bool) -> None:
    """Ask for a role and print the id of the question.

    \b
    Example:
      id=$(stockade access request --role administrator --duration 1h --reason "reload policy")
      stockade approvals wait "$id" && stockade policy reload
    """
    body = {"role": role, "duration": seconds_or_unit(duration), "reason": reason}
    answer = client().call("POST", "/v1/access", body)
    show.emit(answer, show.safe(answer["id"]), as_object=as_object)


@access.command("list")
@json_option
@socket_option
def listing(*, as_object: bool) -> None:
    """List roles that were given for a time and those that are asked for.

    \b
    Example:
      stockade access list
    """
    service = client()
    asked = [
        q
        for q in service.call("GET", "/v1/approvals", state="pending", limit=1000)["approvals"]
        if q["kind"] == "access"
    ]
    given = [g for g in service.call("GET", "/v1/grants")["grants"] if g.get("role")]
    now = time.time()
    rows = [
        (
            q["id"],
            q["asker"].get("unit") or f"uid {q['asker']['uid']}",
            question.what(q),
            "asked for",
            show.remaining(q["expires"], now),
        )
        for q in asked
    ]
    rows += [
        (
            g["id"],
            g.get("unit") or f"uid {g['uid']}",
            f"role {g['role']}",
            g.get("ended") or "given",
            show.remaining(g["until"], now),
        )
        for g in given
    ]
    text = show.table(("ID", "WHO", "WHAT", "STATE", "TIME LEFT"), rows)
    show.emit({"asked": asked, "given": given}, text, as_object=as_object)
