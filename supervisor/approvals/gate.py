"""The way to a yes: a grant that fits is used, else somebody is asked, and whoever may wait waits for the answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from supervisor.approvals.model import MEMBER_BYTES
from supervisor.approvals.terms import refusal
from supervisor.audit.bounded import fits
from supervisor.errors import ApprovalRequired, Conflict

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.approvals.book import Book
    from supervisor.approvals.model import Grant, Kind, Question, Target


def what_of(
    target: Target, *, session: str | None, marks: list[dict[str, Any]], files: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a person is shown of a run: all that the target is bound to, and the heads of its script files.

    `marks` are the parts at risk ({start, end, detail}), `files` what the launcher found ({path, sha256, size, head}).
    Of several files each has its share of what can be shown, so that none takes the others' names away.
    """
    share = MEMBER_BYTES * 3 // 4 // max(len(files), 1)
    command = {"argv": list(target.argv)} if target.argv is not None else {"script": target.script}
    return {
        "tool": target.tool,
        **command,
        "marks": marks,
        "cwd": target.cwd,
        "env_names": sorted(set(target.env_names)),
        "stdin": target.stdin,
        "workspace": target.workspace,
        "profile": target.profile,
        "readonly": target.readonly,
        "network": target.network,
        "session": session,
        "files": [{**f, "head": f["head"][: fits(f["head"], share)]} for f in files],
    }


async def obtain(
    book: Book,
    kind: Kind,
    asker: dict[str, Any],
    target: str,
    what: dict[str, Any],
    reasons: list[dict[str, Any]],
    *,
    session: str | None = None,
    labels: dict[str, str] | None = None,
    needed: int = 1,
    wait_ms: int = 0,
    notice: Callable[[dict[str, Any]], None] | None = None,
) -> Grant:
    """One use of a grant for exactly this, spent and durable. `session` is None for one that ends with its run.

    `notice` is told of the question that is waited for.

    Raises ApprovalRequired when the answer is not there within `wait_ms`, ApprovalDenied, Conflict when the question
    was withdrawn or the policy reloaded, and what Book.ask() raises. Decide anew after it when you waited: what
    policy, breakers and budgets say may have changed.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + wait_ms / 1000
    digest = book.digest
    while True:
        if book.digest != digest:  # the target is of the old policy, and nobody is asked about that under the new one
            raise reloaded()
        grant = held(book, asker, target, reasons, session)
        if grant is not None:
            try:
                return await book.use(grant)
            except Conflict:  # somebody else had its last use
                continue
        question = await book.ask(kind, asker, target, what, reasons, session=session, labels=labels, needed=needed)
        left = until - loop.time()
        if question.state == "pending" and left > 0:
            if notice is not None:
                shown = {"id": question.id, "state": question.state, "expires": question.expires}
                notice({"type": "approval", "approval": shown})
            question = await book.wait(question.id, left)
        if question.state == "pending":
            raise required(question)
        if question.state == "cancelled":
            raise Conflict(
                "the question was withdrawn, made room for others', or the policy was reloaded while it waited",
                field="approval",
                hint="send the request again: it is decided anew",
                approval=question.id,
            )
        if question.state != "approved":
            raise refusal(question)


def reloaded() -> Conflict:
    """What was decided by one policy is not asked about, nor carried out, under another."""
    return Conflict(
        "the policy was reloaded meanwhile",
        field="approval",
        hint="send the request again: it is decided, and if need be asked about, anew",
    )


def held(
    book: Book, asker: dict[str, Any], target: str, reasons: list[dict[str, Any]], session: str | None
) -> Grant | None:
    """The grant that obtain() would use now; of memory alone, so that a dry run may ask too."""
    return book.match(
        target,
        session,
        {reason["subject"] for reason in reasons},
        asker["uid"],
        asker["unit"],
        book.digest,
        book.now(),
        blanket=all(reason.get("blanket", False) for reason in reasons),
    )


def required(question: Question) -> ApprovalRequired:
    """The answer to a request that waits for a person (202)."""
    people = "somebody has" if question.needed == 1 else f"{question.needed} people have"
    first = question.reasons[0] if question.reasons else {}
    return ApprovalRequired(
        f"{people} to say yes first: {first.get('detail', 'policy asks for it')}",
        rule=first.get("rule"),
        source=first.get("source"),
        hint=f"stockade approvals show {question.id}; send the same request again once it is approved",
        approval=question.id,
        expires=question.expires,
        reasons=question.reasons,
    )
