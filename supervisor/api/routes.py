"""Every route, once. Dispatch, OpenAPI and docs/api.md are all made from this table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from supervisor.api import answers, handlers, schema
from supervisor.api.call import NDJSON
from supervisor.api.parse import nearest, printable
from supervisor.errors import MethodNotAllowed, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydantic import BaseModel

    from supervisor.api.call import Call

Role = Literal["anyone", "viewer", "operator", "administrator"]
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str
    handler: Callable[[Call], Awaitable[handlers.Response]]
    summary: str
    role: Role  # the least role of a caller; runs/service.py is what checks it
    answer: type[BaseModel] | None = None  # None: not JSON
    dry: type[BaseModel] | None = None  # the answer to a dry run
    body: type[schema.Request] | None = None
    body_optional: bool = False
    body_stream: bool = False  # the handler reads the bytes itself
    query: type[schema.Request] = schema.NoQuery
    statuses: tuple[int, ...] = (200,)
    also: tuple[str, ...] = ()  # other content types than JSON that it may answer with
    inside: bool = False  # open to a process in one of Stockade's own cgroups

    @property
    def acts(self) -> bool:
        """Whether an Idempotency-Key is honoured."""
        return self.method != "GET" and not self.body_stream

    @property
    def thing(self) -> str:
        """What {id} is the id of."""
        return "session" if self.path.startswith("/v1/sessions") else "run"


_RUN = answers.RunView
_SESSION = answers.SessionView

# fmt: off
ROUTES: tuple[Route, ...] = (
    Route("POST", "/v1/runs", handlers.post_run,
          "Run one tool call and answer when its whole tree is gone",
          "operator", _RUN, answers.DryRun, body=schema.RunBody, statuses=(200, 202), also=(NDJSON,)),
    Route("GET", "/v1/runs", handlers.get_runs,
          "List the caller's runs, newest first",
          "viewer", answers.RunList, query=schema.RunsQuery),
    Route("GET", "/v1/runs/{id}", handlers.get_run,
          "Show a run",
          "viewer", _RUN),
    Route("DELETE", "/v1/runs/{id}", handlers.cancel_run,
          "End a run; its cause is `cancelled`",
          "operator", _RUN, body=schema.EmptyBody, body_optional=True),
    Route("POST", "/v1/runs/{id}/cancel", handlers.cancel_run,
          "End a run; the same as DELETE",
          "operator", _RUN, body=schema.EmptyBody, body_optional=True),
    Route("GET", "/v1/runs/{id}/wait", handlers.wait_run,
          "Wait until a run is finished; 202 when `timeout` is over first",
          "viewer", _RUN, query=schema.WaitQuery, statuses=(200, 202)),
    Route("GET", "/v1/runs/{id}/output", handlers.get_output,
          "Read what a run wrote, byte for byte; with `follow` as frames until it is finished",
          "viewer", query=schema.OutputQuery, also=(BYTES, NDJSON)),
    Route("POST", "/v1/runs/{id}/stdin", handlers.post_stdin,
          "Send the body to the run's stdin as it arrives",
          "operator", answers.StdinView, body_stream=True, query=schema.StdinQuery),
    Route("POST", "/v1/runs/{id}/signal", handlers.signal_run,
          "Send a signal to the run's first process, or to its tree",
          "operator", answers.SignalView, body=schema.SignalBody, statuses=(202,)),
    Route("POST", "/v1/sessions", handlers.post_session,
          "Open a session: a workspace and a profile for several runs",
          "operator", _SESSION, body=schema.SessionBody, statuses=(201,)),
    Route("GET", "/v1/sessions", handlers.get_sessions,
          "List the caller's sessions",
          "viewer", answers.SessionList),
    Route("GET", "/v1/sessions/{id}", handlers.get_session,
          "Show a session",
          "viewer", _SESSION),
    Route("DELETE", "/v1/sessions/{id}", handlers.close_session,
          "Close a session; its runs end as `cancelled`",
          "operator", _SESSION, body=schema.EmptyBody, body_optional=True),
    Route("POST", "/v1/sessions/{id}/shell", handlers.post_shell,
          "Run a command in a session",
          "operator", _RUN, answers.DryRun, body=schema.ShellBody, statuses=(200, 202), also=(NDJSON,)),
    Route("GET", "/v1/status", handlers.get_status,
          "How the service is: policy, sessions, runs, stop",
          "viewer", answers.Open),
    Route("GET", "/v1/doctor", handlers.get_doctor,
          "What this host can enforce, every proof, and remedies",
          "anyone", answers.Open),
    Route("POST", "/v1/stop", handlers.stop,
          "Emergency stop: every tree dies and nothing starts until resumed",
          "administrator", answers.Open, body=schema.StopBody, body_optional=True),
    Route("POST", "/v1/resume", handlers.resume,
          "Let runs start again after a stop",
          "administrator", answers.Open, body=schema.EmptyBody, body_optional=True),
    Route("GET", "/v1/policy", handlers.get_policy,
          "The policy that serves, as compiled",
          "viewer", answers.Open),
    Route("POST", "/v1/policy/reload", handlers.reload_policy,
          "Load, prove and swap the policy files",
          "administrator", answers.Open, body=schema.EmptyBody, body_optional=True),
    Route("GET", "/v1/events", handlers.get_events,
          "Follow what happens, as server-sent events",
          "viewer", also=(EVENTS,)),
    Route("GET", "/v1/self", handlers.get_self,
          "What the calling process may do",
          "anyone", answers.Open, inside=True),
    Route("GET", "/openapi.json", handlers.get_openapi,
          "This API as OpenAPI 3.1",
          "anyone", answers.Open),
    Route("GET", "/health", handlers.get_health,
          "Whether the service answers",
          "anyone", answers.HealthView),
)
# fmt: on

_ID = re.compile(r"(?:ses|run)-[0-9a-z]{8,32}", re.ASCII)
_TABLE: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    _TABLE.setdefault(_route.path, {})[_route.method] = _route


def match(method: str, path: str) -> tuple[Route, str]:
    """The route of a request and the id in its path. Raises NotFound or MethodNotAllowed."""
    name = ""
    methods = _TABLE.get(path)
    if methods is None:
        parts = path.split("/")
        if len(parts) > 3 and _ID.fullmatch(parts[3]):
            name, parts[3] = parts[3], "{id}"
            methods = _TABLE.get("/".join(parts))
    if methods is None:
        raise _unknown(path)
    route = methods.get(method)
    if route is None:
        raise MethodNotAllowed(
            f"{path} does not know {printable(method, 32)}", allowed=", ".join(sorted(methods)), allow=sorted(methods)
        )
    if name and not name.startswith(route.thing[:3]):
        raise NotFound(f"there is no {route.thing} {name}", field="id")
    return route, name


def _unknown(path: str) -> NotFound:
    parts = path.split("/")
    if len(parts) > 3 and parts[1] == "v1":
        generic = "/".join([*parts[:3], "{id}", *parts[4:]])
        if generic in _TABLE:
            thing = "session" if parts[2] == "sessions" else "run"
            return NotFound(f"{printable(parts[3])!r} is not the id of a {thing}", field="id")
    else:
        generic = path
    near = nearest(generic, _TABLE, 3)
    return NotFound(
        f"there is no route {printable(path)!r}",
        hint=f"the nearest are {', '.join(near)}" if near else "GET /openapi.json lists every route",
    )
