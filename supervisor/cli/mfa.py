"""`stockade mfa`: your key for one-time codes."""

from __future__ import annotations

import click

from supervisor.cli import show
from supervisor.cli.common import code_option, json_option, privileged, socket_option


@click.group()
@socket_option
def mfa() -> None:
    """One-time codes (TOTP, RFC 6238) for what takes one: policy says so with mfa_required of a role.

    A code is six digits that an authenticator app shows. It is good once. Commands that may take one have --code;
    without it, on a terminal, they ask.

    \b
    Examples:
      stockade mfa enroll
      stockade policy reload --code 123456
    """


@mfa.command()
@code_option
@json_option
@socket_option
def enroll(*, code: str | None, as_object: bool) -> None:
    """Make your key and print it, this once: as a URI for an authenticator app, and in base32 to type in.

    It takes the place of the one that you had, which then takes a code of that one. Keep it off shared terminals and
    out of logs.

    \b
    Examples:
      stockade mfa enroll
      stockade mfa enroll --json | jq -r .uri | qrencode -t ansiutf8
    """
    answer = privileged("POST", "/v1/mfa", code=code)
    show.emit(answer, f"{show.safe(answer['uri'])}\nsecret: {show.safe(answer['secret'])}", as_object=as_object)


@mfa.command()
@click.argument("user", metavar="USER|UID")
@code_option
@json_option
@socket_option
def forget(*, user: str, code: str | None, as_object: bool) -> None:
    """Forget the key of USER, who lost it: then USER can make another one without a code of the old.

    Takes the permission credentials:rotate. Nobody forgets their own.

    \b
    Example:
      stockade mfa forget alice
    """
    import pwd

    try:
        uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise click.BadParameter(f"there is no user {user!r}") from None
    answer = privileged("POST", "/v1/mfa/forget", {"uid": uid}, code=code)
    show.emit(answer, f"forgotten: the key of uid {uid}", as_object=as_object)
