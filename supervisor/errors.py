"""Every error that Stockade reports, drawn once.

    StockadeError                    code, HTTP status, exit status, retry
    ├── InvalidRequest               malformed body, wrong type, unknown field, bad value
    │   ├── WorkspaceRefused         missing, not a directory, symlink, foreign owner, outside the granted roots
    │   ├── CommandNotStarted        argv[0] not found, not executable, not a program
    │   ├── Malformed                not HTTP, not UTF-8, not JSON (400)
    │   ├── UnsupportedMedia         a body that is not declared as what the route takes (415)
    │   └── RequestTimeout           a request that does not arrive in time (408)
    ├── Denied                       policy says no
    │   ├── SelfViewOnly             a caller inside one of Stockade's own cgroups
    │   ├── CallerUnknown            the kernel could not say who is calling
    │   ├── ApprovalDenied           somebody was asked, and said no or nothing in time
    │   └── StepUpRequired           a one-time code is missing, wrong or used before
    ├── ApprovalRequired             somebody has to be asked first, and has been (202)
    ├── NotFound                     no such run, session, route
    │   └── MethodNotAllowed         the route exists, not with this method (405)
    ├── Conflict                     state does not permit this now
    │   ├── Stopped                  the emergency stop is on
    │   └── IdempotencyMismatch      same key, other request
    ├── TooLarge                     body, argv, environment, policy file over its bound
    │   └── HeadersTooLarge          the head of an HTTP request (431)
    ├── LimitReached                 rate, concurrency, sessions, budgets of a day
    │   └── SessionSpent             a session has used up its budget: waiting does not help
    ├── Unavailable                  something that must work does not
    │   ├── AuditUnavailable         the record cannot be made durable, so nothing runs
    │   ├── OutcomeUnrecorded        it ran and ended, but its end is not in the log
    │   ├── LayerMissing             a layer that the profile requires and the host lacks
    │   ├── ProfileRefused           a profile whose proof failed
    │   └── LauncherUnavailable      the launcher died or does not answer
    ├── PolicyInvalid                a policy file that does not load (carries every finding)
    └── Internal                     a bug of ours

`errors` imports nothing of Stockade. A library's own errors are mapped to these at the border where the
library is used. `code` is what programs compare; `retry` says whether the same request can ever succeed
(design, promise 7).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Retry = Literal["never", "after_approval", "after_change", "later"]


class StockadeError(Exception):
    """Base of every reported error.

    `detail` is one sentence for a person; `hint` says what to do; `field` names the part of the request,
    `rule` and `source` (FILE:LINE) the policy entry, `layer` the confinement layer concerned.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 125
    retry: ClassVar[Retry] = "never"

    def __init__(
        self,
        detail: str,
        *,
        hint: str | None = None,
        field: str | None = None,
        rule: str | None = None,
        source: str | None = None,
        layer: str | None = None,
        allowed: str | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint
        self.field = field
        self.rule = rule
        self.source = source
        self.layer = layer
        self.allowed = allowed
        self.extra = extra

    def as_dict(self) -> dict[str, Any]:
        """The RFC 9457 members of this error, without empty ones; extension members are flat."""
        known = {
            "type": f"urn:stockade:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            "field": self.field,
            "rule": self.rule,
            "source": self.source,
            "layer": self.layer,
            "allowed": self.allowed,
            "hint": self.hint,
            "retry": self.retry,
        }
        return {k: v for k, v in {**self.extra, **known}.items() if v is not None}


class InvalidRequest(StockadeError):
    code = "invalid_request"
    title = "The request is not valid"
    status = 422
    retry: ClassVar[Retry] = "after_change"


class WorkspaceRefused(InvalidRequest):
    code = "workspace_refused"
    title = "The workspace cannot be used"


class CommandNotStarted(InvalidRequest):
    code = "command_not_started"
    title = "The command could not be started"


class Malformed(InvalidRequest):
    code = "malformed"
    title = "The request cannot be read"
    status = 400


class UnsupportedMedia(InvalidRequest):
    code = "unsupported_media"
    title = "The body is of a type that is not taken here"
    status = 415


class RequestTimeout(InvalidRequest):
    code = "request_timeout"
    title = "The request did not arrive in time"
    status = 408
    retry: ClassVar[Retry] = "later"


class Denied(StockadeError):
    code = "denied"
    title = "Policy does not allow this"
    status = 403
    retry: ClassVar[Retry] = "after_change"


class SelfViewOnly(Denied):
    code = "self_view_only"
    title = "A sandboxed process may only read its own limits"
    retry: ClassVar[Retry] = "never"


class CallerUnknown(Denied):
    code = "caller_unknown"
    title = "The kernel could not say who is calling"
    retry: ClassVar[Retry] = "later"


class ApprovalDenied(Denied):
    """A person said no, or nobody said anything in time: not the same as policy saying no (R59)."""

    code = "approval_denied"
    title = "The request was not approved"
    retry: ClassVar[Retry] = "never"


class StepUpRequired(Denied):
    code = "step_up_required"
    title = "This takes a one-time code"


class ApprovalRequired(StockadeError):
    """Not a failure: the request waits for an answer. `extra` has approval (its id) and expires (Unix time)."""

    code = "approval_required"
    title = "Somebody has to approve this first"
    status = 202
    retry: ClassVar[Retry] = "after_approval"


class NotFound(StockadeError):
    code = "not_found"
    title = "There is no such thing"
    status = 404
    retry: ClassVar[Retry] = "after_change"


class MethodNotAllowed(NotFound):
    code = "method_not_allowed"
    title = "The route does not know this method"
    status = 405


class Conflict(StockadeError):
    code = "conflict"
    title = "Not possible in this state"
    status = 409
    retry: ClassVar[Retry] = "after_change"


class Stopped(Conflict):
    code = "stopped"
    title = "The emergency stop is on"
    status = 503
    retry: ClassVar[Retry] = "later"


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"
    title = "The idempotency key was used for another request"
    status = 409


class TooLarge(StockadeError):
    code = "too_large"
    title = "Over a size bound"
    status = 413
    retry: ClassVar[Retry] = "after_change"


class HeadersTooLarge(TooLarge):
    code = "headers_too_large"
    title = "The head of the request is over its bound"
    status = 431


class LimitReached(StockadeError):
    code = "limit_reached"
    title = "A limit is reached"
    status = 429
    retry: ClassVar[Retry] = "later"


class SessionSpent(LimitReached):
    code = "session_spent"
    title = "The session has used up its budget"
    retry: ClassVar[Retry] = "after_change"


class Unavailable(StockadeError):
    code = "unavailable"
    title = "Something that must work does not"
    status = 503
    retry: ClassVar[Retry] = "later"


class AuditUnavailable(Unavailable):
    code = "audit_unavailable"
    title = "The audit record cannot be made durable, so nothing runs"


class OutcomeUnrecorded(Unavailable):
    code = "outcome_unrecorded"
    title = "The run ended, but its end is not in the audit log"
    retry: ClassVar[Retry] = "never"


class LayerMissing(Unavailable):
    code = "layer_missing"
    title = "The host lacks a confinement layer that policy requires"
    retry: ClassVar[Retry] = "after_change"


class ProfileRefused(Unavailable):
    code = "profile_refused"
    title = "The profile failed its proof and is not served"
    retry: ClassVar[Retry] = "after_change"


class LauncherUnavailable(Unavailable):
    code = "launcher_unavailable"
    title = "The launcher does not answer"


class PolicyInvalid(StockadeError):
    """A policy that does not load; `extra["findings"]` lists every finding at once."""

    code = "policy_invalid"
    title = "The policy does not load"
    status = 422
    retry: ClassVar[Retry] = "after_change"


class Internal(StockadeError):
    pass


def tree() -> dict[str, type[StockadeError]]:
    """Every error class by its code (used to rebuild an error that crossed a process line)."""
    found: dict[str, type[StockadeError]] = {}
    stack: list[type[StockadeError]] = [StockadeError]
    while stack:
        cls = stack.pop()
        found.setdefault(cls.code, cls)
        stack.extend(cls.__subclasses__())
    return found
