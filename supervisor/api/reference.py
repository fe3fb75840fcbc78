"""docs/api.md, made from the route table and the models.

python -m supervisor.api.reference > docs/api.md
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from supervisor.api import openapi
from supervisor.api.routes import ROUTES
from supervisor.errors import tree

if TYPE_CHECKING:
    from supervisor.api.routes import Route

_INTRODUCTION = """\
# API reference

This page is generated: `python -m supervisor.api.reference > docs/api.md`.

HTTP/1.1 with JSON over the Unix socket `/run/stockade/api.sock`. The same as OpenAPI 3.1: `GET /openapi.json`,
checked in as `docs/openapi.json`.

```sh
curl --unix-socket /run/stockade/api.sock http://localhost/v1/runs \\
     -H 'Content-Type: application/json' \\
     -d '{"workspace": "/srv/agent/ws", "argv": ["git", "status"], "timeout": "30s"}'
```

## Who is calling

The kernel says: uid, gids and, through the peer's pidfd and cgroup, the systemd system unit. It is taken once, when
the connection is accepted, and speaks of the process that called `connect(2)`: whoever passes a connection on passes
on what it may do. A process inside one of Stockade's own sessions may ask for `GET /v1/self` and nothing else.

## What holds for every route

- **`X-Request-Id`** is on every answer: the client's own if it is at most 64 characters of `A-Za-z0-9._:-`,
  otherwise a fresh one. It is in the log and in the audit records too.
- **Permissions** stand beside each route. A caller has those of its role, and of roles it was granted for a time. One
  sees what is one's own; with `agent:read_all` or `approvals:read` everybody's.
- **Errors** are problem documents (`application/problem+json`, RFC 9457) with `code`, `detail`, `field`, `hint`,
  and `retry`: `never`, `after_change`, `after_approval` or `later`. With `later` goes `Retry-After`.
- **`Idempotency-Key`** on whatever acts: the same key with the same request from the same uid is carried out once and
  answered twice, for an hour. Another request with the same key is a 409. Refusals are not kept.
- **Bodies** are UTF-8 JSON declared as `application/json`, at most 1 MiB, without unknown or duplicate names.
- **Quantities** carry their unit, as in policy: `"512M"` (powers of 1024), `"80%"` of one CPU, `"500ms"`, `"60s"`.
- **A client that vanishes** ends the run it waits for, with the cause `cancelled`, unless it asked for `background`.
- **Connections** are kept alive; at most 256 at a time, 64 of one uid.

## What takes a person

Policy can want a person's yes for a run, a privileged order, or a role for a time. Then the answer is **202** with a
problem document: `code` is `approval_required`, `approval` the question's id, `Location` its path. Nothing has run.

```sh
curl --unix-socket /run/stockade/api.sock http://localhost/v1/approvals/apr-…/wait?timeout=10m   # until it is answered
```

Once it is approved, the same request again is carried out; a run that says `"wait_approval": "10m"` waits by itself. A
yes is bound to exactly what was asked (`target`): command, directory, labels, reasons, policy, the contents of the
scripts that the command names, and what variables are set to. Shown of those are the names, and the values of the ones
that the loader, a shell or a well-known program obeys (`env`). Nobody answers a question of their own. A no, and
silence until `expires`, is a 403 with the code `approval_denied`.

Where the caller's role takes one-time codes (RFC 6238), what is privileged wants one in the header `X-Stockade-Code`:
without, or with one that is wrong or was used before, the answer is a 403 with the code `step_up_required`.

## Streaming

With `Accept: application/x-ndjson`, a run answers with one JSON object a line, as things happen:

```sh
curl --unix-socket /run/stockade/api.sock -N http://localhost/v1/runs -H 'Accept: application/x-ndjson' \\
     -H 'Content-Type: application/json' -d '{"workspace": "/srv/agent/ws", "script": "make -j2"}'
```

```
{"type":"approval","approval":{"id":"apr-…","state":"pending","expires":"…"}}
{"type":"queued","queued":"run-…","position":2}
{"type":"started","run":{"id":"run-…",…}}
{"type":"stdout","offset":0,"data":"cc -c a.c\\n"}
{"type":"stderr","offset":0,"data_base64":"/w=="}
{"type":"heartbeat"}
{"type":"finished","run":{"id":"run-…","cause":"exited","exit_code":0,…}}
```

The first two come only where the run has to wait: for a person's answer, if the body says for how long
(`"wait_approval": "10m"`), or for a place, with a new frame whenever its position changes. What goes wrong after
a frame was sent is a last frame `{"type":"error","problem":{…}}`.

`offset` counts the bytes of that stream. `data_base64` stands in for `data` where the bytes are not UTF-8; a character
is never cut in two. A heartbeat comes after 15 s of silence. After a lost connection a run in the background is
followed from the next offset:
`GET /v1/runs/{id}/output?follow&stdout_offset=10&stderr_offset=1`.

A run with `"stdin_stream": true` reads what is sent to `POST /v1/runs/{id}/stdin`, in one request or several
(`?eof=false` keeps its stdin open):

```sh
curl --unix-socket /run/stockade/api.sock -T - http://localhost/v1/runs/run-…/stdin -X POST < data
```

`GET /v1/events` is a stream of server-sent events: what happens to the caller's runs and sessions, and what concerns
everybody. A client that comes back with `Last-Event-ID` gets what it missed; where that is not kept any more,
`subscription.gap` comes first. A client that does not keep up, or that may see something else than before (policy was
reloaded, a role for a time ended), gets `subscription.dropped` as its last event and listens anew.

```sh
curl --unix-socket /run/stockade/api.sock -N http://localhost/v1/events
```
"""


def page() -> str:
    """The whole page, Markdown."""
    document = openapi.build()
    parts = [_INTRODUCTION, _table()]
    parts += [_section(route, document) for route in ROUTES]
    parts += ["## Objects\n", *(_object(name, schema) for name, schema in document["components"]["schemas"].items())]
    parts.append(_errors())
    return "\n".join(parts).rstrip() + "\n"


def _table() -> str:
    rows = [f"| `{r.method} {r.path}` | {r.summary} | {r.permission} |" for r in ROUTES]
    return "\n".join(["## Routes\n", "| route | what it does | permission |", "|---|---|---|", *rows, ""])


def _section(route: Route, document: dict[str, Any]) -> str:
    operation = document["paths"][route.path][route.method.lower()]
    lines = [f"### {route.method} {route.path}\n", f"{route.summary}. {operation['description']}\n"]
    query = [p for p in operation.get("parameters", []) if p["in"] == "query"]
    if query:
        lines += ["| query | value |", "|---|---|"]
        lines += [f"| `{p['name']}` | {_kind(p['schema'])} |" for p in query]
        lines.append("")
    if route.body is not None:
        optional = ", may be left out" if route.body_optional else ""
        lines.append(f"Body: {_link(route.body.__name__)}{optional}.\n")
    elif route.body_stream:
        lines.append("Body: bytes, of any length.\n")
    kinds = [
        *(_link(model.__name__) for model in (route.answer, route.dry) if model),
        *(f"`{kind}`" for kind in route.also),
    ]
    lines.append(f"Answers {' or '.join(map(str, route.statuses))}: {' or '.join(kinds)}.\n")
    return "\n".join(lines)


def _object(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### {name}\n"]
    if "description" in schema:
        lines.append(" ".join(schema["description"].split()) + "\n")
    if schema.get("properties"):
        required = schema.get("required", [])
        lines += ["| member | value |", "|---|---|"]
        for member, value in schema["properties"].items():
            lines.append(f"| `{member}`{' (always)' if member in required else ''} | {_kind(value)} |")
        lines.append("")
    return "\n".join(lines)


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words."""
    if "description" in schema and "anyOf" not in schema and "$ref" not in schema:
        return f"{schema.get('type', 'value')}: {schema['description']}"
    if "$ref" in schema:
        words = _link(schema["$ref"].rpartition("/")[2])
    elif "anyOf" in schema:
        null = {"type": "null"} in schema["anyOf"]
        words = " or ".join(dict.fromkeys(_kind(s) for s in schema["anyOf"] if s != {"type": "null"}))
        words = f"null or {words}" if null else words
    elif "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        shown = [f"`{v}`" if v != "" else "nothing" for v in values[:16]]
        words = ", ".join(shown) + (", …" if len(values) > 16 else "")
    elif schema.get("type") == "array":
        words = f"list of {_kind(schema['items'])}"
    elif schema.get("type") == "object":
        extra = schema.get("additionalProperties")
        words = f"object of {_kind(extra)}" if isinstance(extra, dict) and extra else "object"
    else:
        words = str(schema.get("type", "anything"))
        if "pattern" in schema and schema["pattern"] not in (r"^[^\x00]*$",):
            words += f" `{schema['pattern']}`".replace("|", "\\|")
    if "description" in schema:
        words += f": {schema['description']}"
    return words


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _errors() -> str:
    rows = sorted({(cls.status, code, cls.title, cls.retry) for code, cls in tree().items()})
    lines = ["## Errors\n", "| status | `code` | title | `retry` |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {s} | `{code}` | {title} | `{retry}` |" for s, code, title, retry in rows)])


if __name__ == "__main__":
    sys.stdout.write(page())
