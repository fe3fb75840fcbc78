"""Privileged orders of roles that need approval (R62, R157): each is asked about, and a yes is good for one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.approvals import gate
from supervisor.approvals.model import digest_of

if TYPE_CHECKING:
    from supervisor.approvals.book import Book
    from supervisor.approvals.model import Grant


def target(uid: int, unit: str, permission: str, parameters: dict[str, Any], policy_digest: str) -> str:
    """What a yes is bound to: who, which permission, and with exactly which parameters. JSON values only."""
    whole = {"uid": uid, "unit": unit, "permission": permission, "parameters": parameters, "policy": policy_digest}
    return digest_of("operation", whole)


def held(book: Book, asker: dict[str, Any], permission: str, parameters: dict[str, Any]) -> bool:
    """Whether a yes to this order is there to be used; of memory alone."""
    wanted = target(asker["uid"], asker["unit"], permission, parameters, book.digest)
    return gate.held(book, asker, wanted, [{"subject": f"permission {permission}"}], None) is not None


async def permit(
    book: Book,
    asker: dict[str, Any],
    permission: str,
    parameters: dict[str, Any],
    *,
    rule: str,
    source: str,
    needed: int = 1,
    wait_ms: int = 0,
) -> Grant:
    """The one use of a yes to this order, by the rule that asks for it ("roles.NAME"). Raises as gate.obtain()."""
    reason = {
        "rule": rule,
        "source": source,
        "detail": f"{permission} takes the yes of {'another person' if needed == 1 else f'{needed} other people'}",
        "subject": f"permission {permission}",
        "blanket": False,
    }
    return await gate.obtain(
        book,
        "operation",
        asker,
        target(asker["uid"], asker["unit"], permission, parameters, book.digest),
        {"permission": permission, "parameters": parameters},
        [reason],
        needed=needed,
        wait_ms=wait_ms,
    )
