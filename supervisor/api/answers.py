"""The shape of the API's answers, for OpenAPI. views.py puts them together; a test holds the two against each other."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from supervisor.errors import Retry
from supervisor.runs.model import RunState, SessionState
from supervisor.wire.messages import CAUSES

Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Cause = Annotated[str, Field(json_schema_extra={"enum": list(CAUSES)})]


class Exact(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Open(BaseModel):
    """An object whose members may grow."""

    model_config = ConfigDict(extra="allow")


class OutputView(Exact):
    """How many bytes each stream has; the whole of it is at GET /v1/runs/{id}/output."""

    stdout_bytes: int = Field(description="bytes that the run wrote")
    stdout_kept: int = Field(description="bytes of it that can be read; less when the limit `output` was reached")
    stderr_bytes: int
    stderr_kept: int
    forgotten: bool = Field(description="whether nothing of it can be read any more")
    truncated: bool | None = Field(default=None, description="whether stdout or stderr here are head and tail only")


class RunView(Exact):
    """A run. Of stdout and stdout_base64 there is one: the second where the bytes are not UTF-8. So with stderr."""

    id: str
    session: str
    request_id: str
    tool: str
    profile: str
    workspace: str
    argv: list[str]
    script: str | None
    cwd: str
    labels: dict[str, str]
    background: bool
    state: RunState
    cause: Cause | None
    exit_code: int | None
    signal: int | None
    detail: str
    problem: dict[str, Any] | None = Field(description="why nothing was executed at all, if so: a Problem")
    created: Moment
    finished: Moment | None
    stdout: str | None = None
    stdout_base64: str | None = None
    stderr: str | None = None
    stderr_base64: str | None = None
    output: OutputView
    decision: dict[str, Any]
    limits: dict[str, int]
    usage: dict[str, Any]
    receipt: dict[str, Any]


class DryRun(Open):
    """The decision alone, for a request with `dry_run`."""

    dry_run: Literal[True]
    decision: dict[str, Any]
    profile: str
    limits: dict[str, int]


class RunList(Exact):
    runs: list[RunView]


class SessionView(Exact):
    id: str
    state: SessionState
    profile: str
    workspace: str
    policy_digest: str
    one_shot: bool
    labels: dict[str, str]
    limits: dict[str, int] = Field(description="what the session narrowed, by wire names")
    created: Moment
    live_runs: list[str]
    ended_cause: str | None
    receipt: dict[str, Any]


class SessionList(Exact):
    sessions: list[SessionView]


class StdinView(Exact):
    bytes: int = Field(description="how many bytes were handed to the run")
    eof: bool


class SignalView(Exact):
    id: str
    signal: int
    tree: bool


class HealthView(Exact):
    status: Literal["ok"]


class ReasonView(Open):
    """Why a request is asked about."""

    rule: str = Field(description="the key of policy")
    source: str | None = Field(description="FILE:LINE")
    detail: str
    subject: str = Field(description="what an answer for a whole session would be given for")
    start: int = Field(default=-1, description="of the part of the command that it is about, in characters; -1: all")
    end: int = -1
    blanket: bool = Field(description="whether it can be approved for a whole session")


class AnswerView(Exact):
    """What one person said."""

    uid: int
    approve: bool
    note: str
    time: Moment
    scope: str | None = None
    times: int | None = None
    duration_ms: int | None = None


class QuestionView(Exact):
    """What somebody is asked. A yes is bound to `target`: whatever of it changes does not run on it."""

    id: str
    kind: Literal["run", "access", "operation"]
    state: Literal["pending", "approved", "denied", "expired", "cancelled"]
    asker: dict[str, Any] = Field(description="uid, pid and unit, as the kernel named who asks")
    labels: dict[str, str]
    session: str | None
    what: dict[str, Any] = Field(description="exactly what would be done")
    reasons: list[ReasonView]
    target: str = Field(description="SHA-256 over everything that an answer is bound to")
    policy_digest: str
    created: Moment
    expires: Moment
    ended: Moment | None
    needed: int = Field(description="how many different people have to say yes")
    answers: list[AnswerView]


class QuestionList(Exact):
    approvals: list[QuestionView]


class GrantView(Exact):
    """A yes that holds, or held."""

    id: str
    question: str
    kind: Literal["run", "access", "operation"]
    scope: str = Field(description="target, session or role")
    uid: int = Field(description="of its owner, who asked")
    unit: str
    target: str
    session: str | None
    subjects: list[str]
    role: str | None
    policy_digest: str
    by: list[int] = Field(description="the uids of those who said yes")
    created: Moment
    until: Moment
    uses: int | None = Field(description="how often in all; null: any number of times until then")
    used: int
    left: int | None
    last_used: Moment | None
    ended: str | None = Field(description="used_up, expired, revoked, stale or session_ended; null: it holds")
    ended_at: Moment | None


class GrantList(Exact):
    grants: list[GrantView]


class ToolView(Open):
    """Whether one tool may be used, and the rule behind the answer."""

    tool: str
    allowed: bool
    rule: str
    source: str
    reason: str


class ToolList(Exact):
    tools: list[ToolView]


class StepView(Exact):
    """One rule that took part in a decision."""

    rule: str
    source: str = Field(description="FILE:LINE")
    effect: Literal["allow", "deny", "ask", "limit", "narrow", "note"]
    detail: str


class Explanation(Open):
    """A decision that was not carried out, with every rule that took part."""

    verdict: Literal["allow", "ask", "deny", "limit"]
    steps: list[StepView]
    change: str | None = Field(description="the smallest change of policy, TOML, that would allow just this")
    reasons: list[ReasonView] | None = Field(default=None, description="why it would be asked about")
    problem: dict[str, Any] | None = Field(default=None, description="why it would be refused: a Problem")


class UnusedList(Exact):
    days: int
    rules: list[Open]


class BreakerList(Exact):
    breakers: list[Open]


class QueueList(Exact):
    queue: list[Open]


class ForgottenView(Exact):
    uid: int


class KeyView(Exact):
    """The secret of one-time codes: for an authenticator app, shown this once."""

    uri: str = Field(description="otpauth:// as QR codes carry it")
    secret: str = Field(description="the same in base32")


class Finding(BaseModel):
    """One thing wrong with a body."""

    field: str
    detail: str
    hint: str | None = None


class Problem(Open):
    """An error, RFC 9457. `code` is what programs compare; `retry` says whether the same request can ever succeed."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str
    retry: Retry
    field: str | None = None
    rule: str | None = None
    source: str | None = None
    layer: str | None = None
    allowed: str | None = None
    hint: str | None = None
    approval: str | None = Field(default=None, description="with the status 202: the question that was asked")
    expires: Moment | None = Field(default=None, description="until when it can be answered")
    findings: list[Finding] | None = None
