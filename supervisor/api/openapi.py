"""The API as OpenAPI 3.1, made from the route table and the models.

python -m supervisor.api.openapi > docs/openapi.json
"""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema

from supervisor import __version__
from supervisor.api import answers

if TYPE_CHECKING:
    from pydantic import BaseModel

    from supervisor.api.routes import Route

_REF = "#/components/schemas/{model}"
_HEADERS = {"X-Request-Id": {"description": "ties the answer to log and audit", "schema": {"type": "string"}}}
_STATUS = {
    200: "Done",
    201: "Made",
    202: "Accepted, not finished yet; as a problem: it waits for an approval",
}
# What can go wrong at all. The class of the error is in the problem's `code`.
_PROBLEMS = {
    "400": "not HTTP, not UTF-8 or not JSON",
    "403": "policy or a person says no, a one-time code is missing, or the caller may only see itself",
    "404": "no such run, session, question, grant or route",
    "408": "the body did not arrive in time",
    "409": "not possible in this state, or the idempotency key was used for another request",
    "413": "over a size bound",
    "415": "a body of a type that is not taken",
    "422": "the request is not valid: `field` names what",
    "429": "a limit is reached; see Retry-After",
    "431": "the head of the request is too large",
    "500": "an error of Stockade's own",
    "503": "something that must work does not; see Retry-After",
}


def build() -> dict[str, Any]:
    """The document as Python values."""
    from supervisor.api.routes import ROUTES

    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Stockade",
            "version": __version__,
            "description": "Confined execution for agents, over a Unix socket.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost", "description": "over the socket /run/stockade/api.sock"}],
        "paths": paths,
        "components": {
            "schemas": _schemas([*ROUTES], answers.Problem),
            "responses": {
                "Problem": {
                    "description": "An error (RFC 9457)",
                    "headers": _HEADERS,
                    "content": {"application/problem+json": {"schema": {"$ref": _ref(answers.Problem)}}},
                }
            },
        },
    }


def _schemas(routes: list[Route], problem: type[BaseModel]) -> dict[str, Any]:
    used: dict[type[BaseModel], None] = {problem: None}
    for route in routes:
        used.update({model: None for model in (route.answer, route.dry, route.body) if model is not None})
    _, document = models_json_schema(
        [(model, "validation") for model in used], ref_template=_REF, title=None, description=None
    )
    found: dict[str, Any] = dict(sorted(document["$defs"].items()))
    for schema in found.values():
        for member in schema.get("properties", {}).values():
            if "patternProperties" in member:  # pydantic leaves out that there are no others
                member["additionalProperties"] = False
    return found


def _ref(model: type[BaseModel]) -> str:
    return _REF.format(model=model.__name__)


def _operation(route: Route) -> dict[str, Any]:
    about = [f"Permission: {route.permission}." if route.permission != "anyone" else "Open to anyone."]
    if route.asks:
        about.append("Answers a problem with status 202 where somebody has to approve it first.")
    if route.inside:
        about.append("The only route that is open to a process inside one of Stockade's own sessions.")
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__ + ("_delete" if route.method == "DELETE" else ""),
        "summary": route.summary,
        "description": " ".join(about),
        "tags": [route.path.split("/")[2] if route.path.startswith("/v1/") else "service"],
        "responses": {
            **{str(s): _response(route, s) for s in sorted({*route.statuses, *([202] if route.asks else [])})},
            **{status: {"$ref": "#/components/responses/Problem"} for status in _problems(route)},
        },
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.body is not None:
        schema = {"$ref": _ref(route.body)}
        content = {"application/json": {"schema": schema}}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    elif route.body_stream:
        operation["requestBody"] = {"content": {"application/octet-stream": {}}}
    return operation


def _problems(route: Route) -> list[str]:
    absent = set()
    if route.body is None:
        absent |= {"408", "413", "415"}
    return [status for status in _PROBLEMS if status not in absent]


def _response(route: Route, status: int) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if status == 202 and route.asks:
        content["application/problem+json"] = {"schema": {"$ref": _ref(answers.Problem)}}
    if route.answer is not None and status in route.statuses:
        shapes = [{"$ref": _ref(model)} for model in (route.answer, route.dry) if model is not None]
        content["application/json"] = {"schema": shapes[0] if len(shapes) == 1 else {"anyOf": shapes}}
    for kind in route.also if status in route.statuses else ():
        content[kind] = {}
    return {"description": _STATUS[status], "headers": _HEADERS, "content": content}


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if route.place is not None:
        schema = {"type": "string", "pattern": route.place.pattern}
        found.append({"name": route.place.name, "in": "path", "required": True, "schema": schema})
    properties = route.query.model_json_schema().get("properties", {})
    for name, schema in properties.items():
        found.append({"name": name, "in": "query", "required": False, "schema": _plain(schema)})
    if route.acts:
        schema = {"type": "string", "pattern": "^[!-~]{1,128}$"}
        about = "the same key with the same request is carried out once; kept for an hour"
        found.append({"name": "Idempotency-Key", "in": "header", "description": about, "schema": schema})
    if route.code:
        schema = {"type": "string", "pattern": "^[0-9]{6,8}$"}
        about = "a one-time code (RFC 6238), where the caller's role takes one"
        found.append({"name": "X-Stockade-Code", "in": "header", "description": about, "schema": schema})
    return found


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter's schema: it is either there or not, never null, and its default is not text."""
    options = [s for s in schema.get("anyOf", []) if s != {"type": "null"}]
    found = options[0] if len(options) == 1 else schema
    return {k: v for k, v in found.items() if k not in ("title", "default")}


@functools.cache
def document() -> bytes:
    return (json.dumps(build(), indent=1, sort_keys=False) + "\n").encode("ascii")


if __name__ == "__main__":
    sys.stdout.write(document().decode("ascii"))
