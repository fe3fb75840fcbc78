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
    findings: list[Finding] | None = None
