"""What is checked in is what the table of routes says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest

from supervisor.api import openapi, parse, reference, schema
from supervisor.api.routes import ROUTES
from supervisor.errors import InvalidRequest
from supervisor.policy.words import PERMISSIONS, PRIVILEGED, TOOLS

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_openapi_is_not_stale() -> None:
    assert (DOCS / "openapi.json").read_bytes() == openapi.document(), (
        "python -m supervisor.api.openapi > docs/openapi.json"
    )


def test_the_reference_is_not_stale() -> None:
    assert (DOCS / "api.md").read_text() == reference.page(), "python -m supervisor.api.reference > docs/api.md"


def test_every_reference_in_openapi_leads_somewhere() -> None:
    document = openapi.build()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                place = document
                for step in value["$ref"].removeprefix("#/").split("/"):
                    place = place[step]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)
    operations = [o["operationId"] for methods in document["paths"].values() for o in methods.values()]
    assert len(operations) == len(set(operations)) == len(ROUTES)


def test_every_permission_of_the_table_is_one_of_policy() -> None:
    assert {r.permission for r in ROUTES} <= {"anyone", *PERMISSIONS}


def test_whoever_needs_a_permission_can_read_so_in_openapi() -> None:
    document = openapi.build()
    for route in ROUTES:
        operation = document["paths"][route.path][route.method.lower()]
        assert route.permission in operation["description"]
        headers = {p["name"] for p in operation.get("parameters", []) if p["in"] == "header"}
        assert ("X-Stockade-Code" in headers) == route.code
        assert ("202" in operation["responses"]) or not route.asks


def test_all_that_is_privileged_takes_a_code_and_can_wait_for_approval() -> None:
    assert all(r.asks and r.code for r in ROUTES if r.permission in PRIVILEGED)
    assert sum(r.permission in PRIVILEGED for r in ROUTES) >= 4


def test_requests_know_every_tool_of_policy() -> None:
    assert schema.RunBody.model_json_schema()["properties"]["tool"]["enum"] == list(TOOLS)


BODIES: list[dict[str, object]] = [
    {"workspace": "/w", "script": "x"},
    {"session": "ses-aaaaaaaa", "argv": ["a"], "workspace": None},
    {"workspace": "/w", "argv": ["a"], "limits": {"memory": "1M", "files": 8.0}, "timeout": "1s"},
    {"workspace": "/w", "argv": ["a"], "limits": {"cpu": 5}},
    {"workspace": "/w", "argv": ["a"], "timeout": 5},
    {"workspace": "/w", "argv": "a"},
    {"workspace": "/w", "argv": ["a"], "tool": "x"},
    {"workspace": "/w", "argv": ["a"], "labels": {"Ä": "x"}},
    {"workspace": "/w", "argv": ["a"], "labels": {"agent": "x"}, "env": {"A": "b"}},
    {"workspace": "/w", "argv": ["a"], "env": {"A": 1}},
    {"workspace": "/w", "argv": ["a"], "unknown": 1},
    {"workspace": "/w", "argv": ["a"], "background": 1},
    {"workspace": "/w", "argv": ["a"], "wait_approval": "10m", "tool": "browser"},
    {"workspace": "/w", "argv": ["a"], "wait_approval": 10},
]
ANSWERS: list[dict[str, object]] = [
    {},
    {"scope": "once", "note": "fine"},
    {"scope": "times", "times": 3},
    {"scope": "times", "times": 3, "duration": "1h"},
    {"scope": "until", "duration": "30m"},
    {"scope": "session", "duration": None, "times": None},
    {"scope": "target"},
    {"scope": "times"},
    {"scope": "times", "times": 0},
    {"scope": "times", "times": "3"},
    {"scope": "times", "times": 1.5},
    {"scope": "until"},
    {"scope": "until", "duration": 30},
    {"scope": "until", "duration": "30m", "times": 2},
    {"scope": "once", "times": 2},
    {"times": 2},
    {"scope": "forever"},
    {"note": "a\0b"},
    {"unknown": 1},
]
ACCESS: list[dict[str, object]] = [
    {"role": "administrator", "duration": "1h", "reason": "the disk is full"},
    {"role": "administrator", "duration": "1h", "reason": ""},
    {"role": "administrator", "duration": "1h"},
    {"role": "two words", "duration": "1h", "reason": "x"},
    {"role": "administrator", "duration": "1d", "reason": "x"},
]


def agree(model: type[schema.Request], body: dict[str, object]) -> None:
    """A client that checks its body against OpenAPI is told the same as by the service."""
    components = openapi.build()["components"]
    validator = jsonschema_rs.Draft202012Validator(
        {"$ref": f"#/components/schemas/{model.__name__}", "components": components}
    )
    try:
        found = parse.typed(model, json.loads(json.dumps(body)))
        if isinstance(found, schema.RunBody):
            found.request()
        taken = True
    except InvalidRequest:
        taken = False
    assert validator.is_valid(body) is taken


@pytest.mark.parametrize("body", BODIES)
def test_the_schema_and_the_model_agree_on_form(body: dict[str, object]) -> None:
    agree(schema.RunBody, body)


@pytest.mark.parametrize("body", ANSWERS)
def test_the_schema_and_the_model_agree_on_an_answer(body: dict[str, object]) -> None:
    agree(schema.ApproveBody, body)


@pytest.mark.parametrize("body", ACCESS)
def test_the_schema_and_the_model_agree_on_a_request_for_access(body: dict[str, object]) -> None:
    agree(schema.AccessBody, body)
