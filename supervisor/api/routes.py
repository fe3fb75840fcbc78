"""Every route, once. Dispatch, OpenAPI and docs/api.md are all made from this table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.api import answers, deciding, handlers, schema
from supervisor.api.call import NDJSON
from supervisor.api.parse import nearest, printable
from supervisor.api.values import NAME
from supervisor.errors import MethodNotAllowed, NotFound
from supervisor.policy.words import PRIVILEGED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel

    from supervisor.api.call import Call

ANYONE = "anyone"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handler: Callable[[Call], Awaitable[handlers.Response]]
    summary: str
    permission: str  # of policy.words.PERMISSIONS, or ANYONE; runs/ is what checks it
    answer: type[BaseModel] | None = None  # None: not JSON
    dry: type[BaseModel] | None = None  # the answer to a dry run
    body: type[schema.Request] | None = None
    body_optional: bool = False
    body_stream: bool = False  # the handler reads the bytes itself
    query: type[schema.Request] = schema.NoQuery
    statuses: tuple[int, ...] = (200,)
    also: tuple[str, ...] = ()  # other content types than JSON that it may answer with
    inside: bool = False  # open to a process in one of Stockade's own cgroups
    hedged: bool = False  # may take a person's yes and a one-time code, though not for what is one's own
    code_only: bool = False  # may take a one-time code

    @property
    def acts(self) -> bool:
        """Whether an Idempotency-Key is honoured."""
        return self.method != "GET" and not self.body_stream

    @property
    def asks(self) -> bool:
        """Whether somebody may have to approve it first: then it is answered by a problem with the status 202."""
        return self.permission in PRIVILEGED or self.dry is not None or self.hedged

    @property
    def code(self) -> bool:
        """Whether it reads the one-time code of X-Stockade-Code."""
        return self.asks or self.code_only

    @property
    def place(self) -> Place | None:
        """What stands in the path behind the collection; None where nothing does."""
        return PLACES[self.path.split("/")[2]] if "{" in self.path else None


@dataclass(frozen=True, slots=True)
class Place:
    """The variable part of a path."""

    name: str
    pattern: str
    thing: str  # what it is the id or the name of


def _id(prefix: str, thing: str) -> Place:
    return Place("id", f"^{prefix}-[0-9a-z]{{8,32}}$", thing)


PLACES = {
    "runs": _id("run", "run"),
    "sessions": _id("ses", "session"),
    "approvals": _id("apr", "question"),
    "grants": _id("gra", "grant"),
    "queue": _id("run", "waiting run"),
    "tools": Place("name", NAME, "tool"),
}

_RUN = answers.RunView
_SESSION = answers.SessionView
_QUESTION = answers.QuestionView

# fmt: off
ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/runs", handlers.post_run,
          "Run one tool call and answer when its whole tree is gone",
          "agent:execute", _RUN, answers.DryRun, body=schema.RunBody, statuses=(200, 202), also=(NDJSON,)),
    Route("GET", "/v1/runs", handlers.get_runs,
          "List the caller's runs, newest first",
          "agent:read", answers.RunList, query=schema.RunsQuery),
    Route("GET", "/v1/runs/{id}", handlers.get_run,
          "Show a run",
          "agent:read", _RUN),
    Route("DELETE", "/v1/runs/{id}", handlers.cancel_run,
          "End a run; its cause is `cancelled`",
          "agent:execute", _RUN, body=schema.EmptyBody, body_optional=True),
    Route("POST", "/v1/runs/{id}/cancel", handlers.cancel_run,
          "End a run; the same as DELETE",
          "agent:execute", _RUN, body=schema.EmptyBody, body_optional=True),
    Route("GET", "/v1/runs/{id}/wait", handlers.wait_run,
          "Wait until a run is finished; 202 when `timeout` is over first",
          "agent:read", _RUN, query=schema.WaitQuery, statuses=(200, 202)),
    Route("GET", "/v1/runs/{id}/output", handlers.get_output,
          "Read what a run wrote, byte for byte; with `follow` as frames until it is finished",
          "agent:read", query=schema.OutputQuery, also=(BYTES, NDJSON)),
    Route("POST", "/v1/runs/{id}/stdin", handlers.post_stdin,
          "Send the body to the run's stdin as it arrives",
          "agent:execute", answers.StdinView, body_stream=True, query=schema.StdinQuery),
    Route("POST", "/v1/runs/{id}/signal", handlers.signal_run,
          "Send a signal to the run's first process, or to its tree",
          "agent:execute", answers.SignalView, body=schema.SignalBody, statuses=(202,)),
    Route("POST", "/v1/sessions", handlers.post_session,
          "Open a session: a workspace and a profile for several runs",
          "agent:execute", _SESSION, body=schema.SessionBody, statuses=(201,)),
    Route("GET", "/v1/sessions", handlers.get_sessions,
          "List the caller's sessions",
          "agent:read", answers.SessionList),
    Route("GET", "/v1/sessions/{id}", handlers.get_session,
          "Show a session",
          "agent:read", _SESSION),
    Route("DELETE", "/v1/sessions/{id}", handlers.close_session,
          "Close a session; its runs end as `cancelled`",
          "agent:execute", _SESSION, body=schema.EmptyBody, body_optional=True),
    Route("POST", "/v1/sessions/{id}/shell", handlers.post_shell,
          "Run a command in a session",
          "agent:execute", _RUN, answers.DryRun, body=schema.ShellBody, statuses=(200, 202), also=(NDJSON,)),
    Route("GET", "/v1/status", handlers.get_status,
          "How the service is: policy, sessions, runs, stop",
          "agent:read", answers.Open),
    Route("GET", "/v1/doctor", handlers.get_doctor,
          "What this host can enforce, every proof, and remedies",
          ANYONE, answers.Open),
    Route("POST", "/v1/stop", handlers.stop,
          "Emergency stop: every tree dies and nothing starts until resumed",
          "service:stop", answers.Open, body=schema.StopBody, body_optional=True),
    Route("POST", "/v1/resume", handlers.resume,
          "Let runs start again after a stop",
          "service:stop", answers.Open, body=schema.EmptyBody, body_optional=True),
    Route("GET", "/v1/policy", handlers.get_policy,
          "The policy that serves, as compiled",
          "config:read", answers.Open),
    Route("POST", "/v1/policy/reload", handlers.reload_policy,
          "Load, prove and swap the policy files",
          "config:write", answers.Open, body=schema.EmptyBody, body_optional=True),
    Route("POST", "/v1/policy/explain", deciding.explain,
          "Decide without running: every rule that took part, and the smallest change that would allow it",
          "agent:read", answers.Explanation, body=schema.RunBody),
    Route("GET", "/v1/policy/unused", deciding.get_unused,
          "Rules of policy that nothing has met for so many days",
          "config:read", answers.UnusedList, query=schema.UnusedQuery),
    Route("GET", "/v1/tools", deciding.get_tools,
          "Which tools the caller has, and the rule behind each answer",
          "agent:read", answers.ToolList),
    Route("GET", "/v1/tools/{name}", deciding.get_tool,
          "Whether the caller has one tool, and by which rule",
          "agent:read", answers.ToolView),
    Route("GET", "/v1/approvals", deciding.get_approvals,
          "List the questions that one may see: one's own, with approvals:read everybody's",
          "agent:read", answers.QuestionList, query=schema.ApprovalsQuery),
    Route("GET", "/v1/approvals/{id}", deciding.get_approval,
          "Show a question: exactly what would run, and why it is asked about",
          "agent:read", _QUESTION),
    Route("GET", "/v1/approvals/{id}/wait", deciding.wait_approval,
          "Wait until a question is answered; 202 when `timeout` is over first",
          "agent:read", _QUESTION, query=schema.WaitQuery, statuses=(200, 202)),
    Route("POST", "/v1/approvals/{id}/approve", deciding.approve,
          "Say yes, for as much as `scope` says; never to one's own question",
          "approvals:answer", _QUESTION, body=schema.ApproveBody, body_optional=True, code_only=True),
    Route("POST", "/v1/approvals/{id}/deny", deciding.deny,
          "Say no",
          "approvals:answer", _QUESTION, body=schema.DenyBody, body_optional=True, code_only=True),
    Route("DELETE", "/v1/approvals/{id}", deciding.withdraw,
          "Take back one's own question, with approvals:answer anybody's",
          "agent:read", _QUESTION, body=schema.EmptyBody, body_optional=True),
    Route("GET", "/v1/grants", deciding.get_grants,
          "List what was approved and can still be used: one's own, with approvals:read everybody's",
          "agent:read", answers.GrantList),
    Route("DELETE", "/v1/grants/{id}", deciding.revoke,
          "Take a grant back: one's own, with grants:revoke anybody's",
          "agent:read", answers.GrantView, body=schema.EmptyBody, body_optional=True, hedged=True),
    Route("POST", "/v1/access", deciding.request_access,
          "Ask for a role for a time",
          "access:request", _QUESTION, body=schema.AccessBody, statuses=(202,)),
    Route("POST", "/v1/mfa", deciding.enroll,
          "Make the caller's key for one-time codes (RFC 6238); it is shown this once",
          "agent:read", answers.KeyView, body=schema.EmptyBody, body_optional=True, statuses=(201,),
          code_only=True),
    Route("POST", "/v1/mfa/forget", deciding.forget_codes,
          "Forget the key of somebody who lost it, so that another one can be made",
          "credentials:rotate", answers.ForgottenView, body=schema.ForgetBody),
    Route("GET", "/v1/breakers", deciding.get_breakers,
          "List who is stopped for failing or for repeating itself",
          "agent:read", answers.BreakerList),
    Route("POST", "/v1/breakers/reset", deciding.reset_breaker,
          "Let one that was stopped go on at once",
          "breaker:reset", answers.Open, body=schema.BreakerBody),
    Route("GET", "/v1/queue", deciding.get_queue,
          "List the requests that wait for a place, in the order of their turns",
          "agent:read", answers.QueueList),
    Route("DELETE", "/v1/queue/{id}", deciding.leave_queue,
          "Give up a request that waits for a place",
          "agent:execute", answers.Open, body=schema.EmptyBody, body_optional=True),
    Route("GET", "/v1/usage", deciding.get_usage,
          "What the caller has used of its rates and budgets, and what is left",
          "agent:read", answers.Open),
    Route("GET", "/v1/events", handlers.get_events,
          "Follow what happens, as server-sent events",
          "agent:read", also=(EVENTS,)),
    Route("GET", "/v1/self", handlers.get_self,
          "What the calling process may do",
          ANYONE, answers.Open, inside=True),
    Route("GET", "/openapi.json", handlers.get_openapi,
          "This API as OpenAPI 3.1",
          ANYONE, answers.Open),
    Route("GET", "/health", handlers.get_health,
          "Whether the service answers",
          ANYONE, answers.HealthView),
)
# fmt: on

_TABLE: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    _TABLE.setdefault(_route.path, {})[_route.method] = _route
_NAMED = {kind: (place, re.compile(place.pattern, re.ASCII)) for kind, place in PLACES.items()}


def match(method: str, path: str) -> tuple[Route, str]:
    """The route of a request and what stands for the variable part of its path.

    Raises NotFound or MethodNotAllowed.
    """
    name = ""
    methods = _TABLE.get(path)
    if methods is None:
        parts = path.split("/")
        if len(parts) > 3 and parts[2] in _NAMED:
            place, pattern = _NAMED[parts[2]]
            if pattern.fullmatch(parts[3]):
                name, parts[3] = parts[3], f"{{{place.name}}}"
                methods = _TABLE.get("/".join(parts))
    if methods is None:
        raise _unknown(path)
    route = methods.get(method)
    if route is None:
        raise MethodNotAllowed(
            f"{path} does not know {printable(method, 32)}", allowed=", ".join(sorted(methods)), allow=sorted(methods)
        )
    return route, name


def _unknown(path: str) -> NotFound:
    parts = path.split("/")
    generic = path
    if len(parts) > 3 and parts[1] == "v1" and parts[2] in PLACES:
        place = PLACES[parts[2]]
        generic = "/".join([*parts[:3], f"{{{place.name}}}", *parts[4:]])
        if generic in _TABLE:
            what = "the id" if place.name == "id" else "the name"
            return NotFound(f"{printable(parts[3])!r} is not {what} of a {place.thing}", field=place.name)
    near = nearest(generic, _TABLE, 3)
    return NotFound(
        f"there is no route {printable(path)!r}",
        hint=f"the nearest are {', '.join(near)}" if near else "GET /openapi.json lists every route",
    )
