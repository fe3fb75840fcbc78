"""Every request body and query of the API as pydantic models.

They are strict about form: unknown fields, wrong types and units are refused here, with the field's name. Whether a
request can be carried out and whether policy allows it is asked in decide/, where a refusal is recorded.
"""

import base64
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from supervisor.api.values import (
    AbsolutePath,
    Argument,
    Base64,
    Bytes,
    Count,
    Days,
    EnvName,
    Flag,
    Key,
    Label,
    LabelName,
    Length,
    Name,
    Offset,
    Path,
    Percent,
    Purpose,
    Reason,
    Rows,
    SessionId,
    Signal,
    Text,
    Time,
    Times,
    Uid,
)
from supervisor.policy import units
from supervisor.runs.model import RunRequest, SessionRequest
from supervisor.wire.messages import MAX_ARGS


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _refuse(field: str, detail: str) -> PydanticCustomError:
    """An error of the whole model that nevertheless names the field to change; parse.py reads it."""
    return PydanticCustomError("refused", "{detail}", {"field": field, "detail": detail})


class LimitsBody(Request):
    """Limits of one run or session. They can only be narrower than the profile's."""

    memory: Bytes | None = None
    cpu: Percent | None = None
    processes: Count | None = None
    files: Count | None = None
    output: Bytes | None = None
    disk: Bytes | None = None
    tmp: Bytes | None = None
    timeout: Time | None = None
    idle_timeout: Time | None = None


def wire_limits(limits: LimitsBody | None) -> dict[str, int]:
    """The limits that were asked for, by their wire names."""
    if limits is None:
        return {}
    asked = {wire: getattr(limits, row[0]) for wire, row in units.LIMITS.items()}
    return {wire: value for wire, value in asked.items() if value is not None}


class SessionBody(Request):
    """A workspace and a profile that several runs will share."""

    workspace: AbsolutePath
    profile: Name | None = None
    limits: LimitsBody | None = None
    labels: Annotated[dict[LabelName, Label], Field(max_length=32, default_factory=dict)]

    def request(self) -> SessionRequest:
        return SessionRequest(self.workspace, self.profile, wire_limits(self.limits), dict(self.labels))


_ONE_COMMAND: list[Any] = [
    {"required": ["argv"], "properties": {"argv": {"type": "array"}}},
    {"required": ["script"], "properties": {"script": {"type": "string"}}},
]
_ONE_PLACE: list[Any] = [
    {"required": ["workspace"], "properties": {"workspace": {"type": "string"}}},
    {"required": ["session"], "properties": {"session": {"type": "string"}}},
]


class ShellBody(Request):
    """One command in a session that exists: `argv`, or `script` for the profile's shell."""

    model_config = ConfigDict(json_schema_extra={"oneOf": _ONE_COMMAND})

    argv: Annotated[list[Argument], Field(max_length=MAX_ARGS, json_schema_extra={"minItems": 1})] | None = None
    script: Text | None = None
    env: Annotated[dict[EnvName, Argument], Field(max_length=MAX_ARGS, default_factory=dict)]
    cwd: Path | None = None
    stdin: str | None = None
    stdin_base64: Base64 | None = None
    stdin_stream: bool = False
    timeout: Time | None = None
    idle_timeout: Time | None = None
    limits: LimitsBody | None = None
    labels: Annotated[dict[LabelName, Label], Field(max_length=32, default_factory=dict)]
    background: bool = False
    dry_run: bool = False
    wait_approval: Time | None = None

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if sum((self.stdin is not None, self.stdin_base64 is not None, self.stdin_stream)) > 1:
            raise _refuse("stdin", "only one of stdin, stdin_base64 and stdin_stream may be given")
        for name in ("timeout", "idle_timeout"):
            if getattr(self, name) is not None and self.limits is not None and getattr(self.limits, name) is not None:
                raise _refuse(name, f"the same limit as limits.{name}: give one of them")
        return self

    def request(self, session: str | None = None) -> RunRequest:
        """What runs/ is asked for."""
        limits = wire_limits(self.limits)
        if self.timeout is not None:
            limits["timeout_ms"] = self.timeout
        if self.idle_timeout is not None:
            limits["idle_timeout_ms"] = self.idle_timeout
        return RunRequest(
            tool=getattr(self, "tool", "shell"),
            session=session if session is not None else getattr(self, "session", None),
            workspace=getattr(self, "workspace", None),
            profile=getattr(self, "profile", None),
            argv=None if self.argv is None else tuple(self.argv),
            script=self.script,
            env=dict(self.env),
            cwd=self.cwd,
            stdin=_stdin(self.stdin, self.stdin_base64),
            stdin_stream=self.stdin_stream,
            limits=limits,
            labels=dict(self.labels),
            background=self.background,
            dry_run=self.dry_run,
            wait_approval_ms=self.wait_approval or 0,
        )


class RunBody(ShellBody):
    """One tool call: in a session, or in a workspace through a session made for this run alone."""

    model_config = ConfigDict(json_schema_extra={"allOf": [{"oneOf": _ONE_COMMAND}, {"oneOf": _ONE_PLACE}]})

    tool: Literal["shell", "file", "browser"] = "shell"
    workspace: AbsolutePath | None = None
    session: SessionId | None = None
    profile: Name | None = None


def _stdin(text: str | None, encoded: str | None) -> bytes | None:
    if encoded is not None:
        return base64.b64decode(encoded)
    return None if text is None else text.encode()


class SignalBody(Request):
    """A signal for the first process of a run, or with `tree` for all of them."""

    signal: Signal
    tree: bool = False


class StopBody(Request):
    """Why everything has to end; goes into the audit log."""

    reason: Reason = ""


_SCOPES: list[Any] = [
    {
        "required": ["scope", "times"],
        "properties": {"scope": {"const": "times"}, "times": {"type": "integer"}},
    },
    {
        "required": ["scope", "duration"],
        "properties": {"scope": {"const": "until"}, "duration": {"type": "string"}, "times": {"type": "null"}},
    },
    {"properties": {"scope": {"enum": ["once", "session", "target"]}, "times": {"type": "null"}}},
]


class ApproveBody(Request):
    """What a yes is good for. `duration` shortens any scope; policy says how long an answer without it holds."""

    model_config = ConfigDict(json_schema_extra={"anyOf": _SCOPES})

    scope: Literal["once", "times", "until", "session", "target"] = "once"
    times: Times | None = None
    duration: Time | None = None
    note: Reason = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.times is not None) != (self.scope == "times"):
            raise _refuse("times", 'goes with the scope "times", which needs it')
        if self.duration is None and self.scope == "until":
            raise _refuse("duration", 'the scope "until" needs it')
        return self


class DenyBody(Request):
    """Why not, for whoever asked."""

    note: Reason = ""


class AccessBody(Request):
    """A role for a time, by the name that policy gives it."""

    role: Name
    duration: Time
    reason: Purpose


class BreakerBody(Request):
    """Whose breaker, by the key that GET /v1/breakers lists."""

    key: Key


class ForgetBody(Request):
    """Whose key for one-time codes is forgotten."""

    uid: Uid


class EmptyBody(Request):
    """Nothing, or an empty object."""


class RunsQuery(Request):
    session: SessionId | None = None
    state: Literal["pending", "running", "finished"] | None = None
    limit: Rows = 100


class OutputQuery(Request):
    stream: Literal["stdout", "stderr"] = "stdout"
    offset: Offset = 0
    length: Length = 1 << 20
    follow: Flag = False
    stdout_offset: Offset = 0
    stderr_offset: Offset = 0


class StdinQuery(Request):
    eof: Flag = True


class WaitQuery(Request):
    timeout: Time | None = None


class ApprovalsQuery(Request):
    state: Literal["pending", "approved", "denied", "expired", "cancelled", "all"] = "pending"
    limit: Rows = 100


class UnusedQuery(Request):
    days: Days = 90


class NoQuery(Request):
    pass
