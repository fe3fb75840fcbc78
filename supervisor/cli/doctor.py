"""`stockade doctor`: what is missing on this machine, and the remedy."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from supervisor import errors
from supervisor.cli import host, show
from supervisor.cli.common import client, json_option, socket_option
from supervisor.cli.host import Check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


@click.command()
@json_option
@socket_option
def doctor(*, as_object: bool) -> None:
    """Check the host's layers, the profiles' proofs and the policy; say the remedy of what is missing.

    Asks the running service, which has proved every profile with real children. Without a service only what can be
    read from outside is checked, and the missing service is itself a failure.

    \b
    Exit status: 0 nothing that is required is missing; 1 something is.

    \b
    Examples:
      stockade doctor
      stockade doctor --json | jq '.checks[] | select(.ok == false)'
    """
    try:
        answer: dict[str, Any] = client().call("GET", "/v1/doctor")
        checks = [*served(answer), host.client_group()]
        source = "service"
    except errors.StockadeError as e:
        checks = [*host.checks(), Check("service", False, e.detail, e.hint or "")]
        answer, source = {}, "host"
    ok = not any(c.ok is False and c.required for c in checks)
    said = {**answer, "source": source, "ok": ok, "checks": [asdict(c) for c in checks]}
    show.emit(said, "\n".join(lines(checks, source)), as_object=as_object)
    raise click.exceptions.Exit(0 if ok else 1)


def served(answer: Mapping[str, Any]) -> Iterator[Check]:
    """The service's layers and proofs as checks."""
    for name, layer in (answer.get("host") or {}).items():
        required = bool(layer.get("required", True))
        yield Check(
            name, bool(layer["present"]), str(layer.get("detail", "")), str(layer.get("remedy") or ""), required
        )
    if "audit" in answer:
        well = bool(answer["audit"]["ok"])
        yield Check("audit", well, "records are durable" if well else "cannot be written, so nothing runs")
    for proof in answer.get("proofs") or ():
        name = f"{proof['profile']}: {proof['probe']}"
        yield Check(name, bool(proof["ok"]), str(proof.get("detail", "")), "" if proof["ok"] else _refused(proof))


def _refused(proof: Mapping[str, Any]) -> str:
    return f"profile {proof['profile']} is not served until this holds (policy key {proof.get('key', '?')})"


def lines(checks: Iterable[Check], source: str) -> Iterator[str]:
    """The report for a person."""
    if source == "host":
        yield "The service does not answer: only what can be seen from outside was checked, no profile was proved."
    for check in checks:
        word = show.mark(None if check.ok is False and not check.required else check.ok)
        yield f"{word}  {show.safe(check.name)}: {show.safe(check.detail)}".rstrip(": ")
        if not check.ok and check.remedy:
            yield f"      remedy: {show.safe(check.remedy)}"
