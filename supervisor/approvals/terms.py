"""What may be asked and answered, the grant that comes of a yes, the refusal that comes of a no. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.approvals.model import SCOPES, Answer, Grant, new_id
from supervisor.errors import ApprovalDenied, Conflict, Denied, InvalidRequest, LimitReached

if TYPE_CHECKING:
    from supervisor.approvals.model import Question
    from supervisor.policy.snapshot import Approvals

MAX_TIMES = 10_000
MAX_NOTE = 4096  # characters
MAX_SHOWN = 64 << 20  # bytes of all pending questions together: what they show, compressed, and their labels
MAX_GRANTS = 10_000  # that hold


def check_room(approvals: Approvals, asked: int, shown: int) -> None:
    """Whether one more question may wait beside `asked` others, when all show `shown` bytes. Raises LimitReached."""
    if asked >= approvals.pending:
        detail, allowed = f"{asked} questions wait for an answer", f"{approvals.pending} questions"
    elif shown > MAX_SHOWN:
        detail, allowed = f"{asked} questions wait and fill what there is for them", f"{MAX_SHOWN >> 20} MiB"
    else:
        return
    raise LimitReached(
        detail,
        rule="approvals.pending",
        source=approvals.source or None,
        allowed=allowed,
        hint="somebody has to answer first: stockade approvals list",
        retry_after=60,
    )


def check_grants(held: int) -> None:
    """Whether one more grant may hold. Raises LimitReached."""
    if held >= MAX_GRANTS:
        raise LimitReached(
            f"{held} grants hold",
            allowed=f"{MAX_GRANTS} grants",
            hint="revoke what is not needed: stockade grants list",
        )


def check_person(question: Question, uid: int, unit: str) -> None:
    """Whether this is somebody else than who asks, and somebody who has not answered yet. Raises Denied or Conflict."""
    asker = question.asker
    if uid == asker["uid"] or (unit and unit == asker["unit"]):
        raise Denied(
            f"uid {asker['uid']}{_of(asker['unit'])} asked this itself, and nobody answers their own request",
            field="approval",
            rule="approvals: not one's own",
            allowed="an answer by another user",
            hint="let somebody else answer, or withdraw the request",
        )
    if any(answer.uid == uid for answer in question.answers):
        raise Conflict(
            f"uid {uid} has said yes to {question.id} already; it takes {question.needed} different people",
            field="approval",
            rule="second_person",
            allowed="the answer of another user",
            hint="let a second person answer",
        )


def check_terms(question: Question, answer: Answer, approvals: Approvals) -> None:
    """Whether a yes may say this about this question. Raises InvalidRequest, Denied or Conflict."""
    if len(answer.note) > MAX_NOTE:
        raise InvalidRequest("the note is too long", field="note", allowed=f"{MAX_NOTE} characters")
    if not answer.approve:
        return
    if answer.scope not in SCOPES:
        raise InvalidRequest(f"no scope {answer.scope!r}", field="scope", allowed=", ".join(SCOPES))
    if question.kind != "run":
        _check_other(question, answer)
    if (answer.times is None) == (answer.scope == "times"):
        detail = "times is missing" if answer.times is None else f"times is not for scope {answer.scope}"
        raise InvalidRequest(detail, field="times", allowed=f'with scope "times": 1 to {MAX_TIMES}; else none')
    if answer.times is not None and not 1 <= answer.times <= MAX_TIMES:
        raise InvalidRequest(f"{answer.times} times", field="times", allowed=f"1 to {MAX_TIMES}")
    _check_duration(question, answer, approvals)
    if answer.scope != "once" and question.kind == "run" and question.what.get("stdin") == "stream":
        raise Denied(
            "what will be fed to it is not known, so a yes can only be for this once",
            field="scope",
            allowed="once",
            hint="say yes once, or have the agent send the input with the request: then the yes is bound to it",
        )
    if answer.scope == "session":
        _check_session(question)
    if earlier := next((a for a in question.answers if a.approve and a.terms != answer.terms), None):
        raise Conflict(
            f"uid {earlier.uid} said yes with scope {earlier.scope}, {earlier.times or 'no'} times, "
            f"{earlier.duration_ms or 'no'} ms; two people have to agree to the same",
            field="scope",
            allowed=f"scope {earlier.scope}, times {earlier.times}, duration_ms {earlier.duration_ms}",
            hint="answer with the same terms, or say no",
        )


def _check_other(question: Question, answer: Answer) -> None:
    if answer.scope != "once":
        what = "a role is given once" if question.kind == "access" else "a privileged order is allowed once"
        raise InvalidRequest(
            f"scope {answer.scope} is not for this: {what}",
            field="scope",
            allowed="once",
            hint="ask again the next time",
        )


def _check_duration(question: Question, answer: Answer, approvals: Approvals) -> None:
    longest, rule = approvals.longest_ms, "approvals.longest"
    if question.kind == "access":
        longest, rule = min(approvals.access_ms, question.what["duration_ms"]), "approvals.access"
    given = answer.duration_ms
    if given is None:
        if answer.scope == "until":
            raise InvalidRequest("the time is missing", field="duration", allowed=f"1 to {longest} ms")
        return
    if not 1 <= given <= longest:
        raise InvalidRequest(
            f"a yes for {given} ms is longer than policy lets one be" if given > 0 else f"a yes for {given} ms",
            field="duration",
            rule=rule,
            source=approvals.source or None,
            allowed=f"1 to {longest} ms",
            hint="say yes for a shorter time",
        )


def _check_session(question: Question) -> None:
    """A yes for a whole session covers no shell, interpreter or variable, whose doing nobody knows yet (lesson 6)."""
    if question.session is None:
        raise Denied(
            "the request has no session that lives on, so a yes cannot hold for it",
            field="scope",
            allowed="once, times, until, target",
            hint="choose one of those, or let the agent open a session first",
        )
    for reason in question.reasons:
        if not reason.get("blanket", False):
            raise Denied(
                f"{reason.get('subject') or reason.get('rule')}: {reason.get('detail')}. "
                "A yes for the whole session would cover whatever it turns out to run",
                field="scope",
                rule=reason.get("rule"),
                source=reason.get("source"),
                allowed="once, times, until, target",
                hint="choose one of those: they hold for exactly this command, with the files as they are now",
            )


def _of(unit: str) -> str:
    return f" of {unit}" if unit else ""


def granted(question: Question, approvals: Approvals, now: float) -> Grant:
    """What holds once everybody who is needed has said yes. The time counts from the last yes."""
    yes = [answer for answer in question.answers if answer.approve]
    scope, times, duration = yes[-1].terms
    access, whole_session = question.kind == "access", scope == "session"
    if duration is None:
        duration = approvals.longest_ms if whole_session else approvals.grant_ms
        if access:
            duration = min(question.what["duration_ms"], approvals.access_ms)
    uses = 1 if scope == "once" else times
    asker: dict[str, Any] = question.asker
    return Grant(
        id=new_id("gra"),
        question=question.id,
        kind=question.kind,
        scope="role" if access else "session" if whole_session else "target",
        uid=asker["uid"],
        unit=asker["unit"],
        target=question.target,
        session=question.session if whole_session else None,
        subjects=tuple(sorted({r["subject"] for r in question.reasons})) if whole_session else (),
        role=question.what["role"] if access else None,
        policy_digest=question.policy_digest,
        by=tuple(answer.uid for answer in yes),
        created=now,
        until=now + duration / 1000,
        uses=None if access else uses,
    )


def refusal(question: Question, retry_after: int | None = None) -> ApprovalDenied:
    """Why a question that ended without a yes lets nothing run: somebody said no, or nobody said anything (R59)."""
    if question.state == "denied":
        no = question.answers[-1]
        detail = f"uid {no.uid} said no to exactly this" + (f": {no.note}" if no.note else "")
    else:
        detail = "nobody answered in time whether exactly this may be done"
    return ApprovalDenied(
        detail,
        rule="approvals",
        hint="do not send it again as it is: do without it, or ask a person what would be approved",
        approval=question.id,
        retry_after=retry_after,
    )
