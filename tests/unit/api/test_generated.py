"""What is checked in is what the table of routes says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest

from supervisor.api import openapi, parse, reference, schema
from supervisor.api.routes import ROUTES
from supervisor.decide.callers import ROLES
from supervisor.errors import InvalidRequest

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


def test_every_role_of_the_table_is_one_of_policy() -> None:
    assert {r.role for r in ROUTES} <= {"anyone", *ROLES}


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
]


@pytest.mark.parametrize("body", BODIES)
def test_the_schema_and_the_model_agree_on_form(body: dict[str, object]) -> None:
    """A client that checks its body against OpenAPI is told the same as by the service."""
    document = openapi.build()
    validator = jsonschema_rs.Draft202012Validator(
        {"$ref": "#/components/schemas/RunBody", "components": document["components"]}
    )
    try:
        parse.typed(schema.RunBody, json.loads(json.dumps(body))).request()
        taken = True
    except InvalidRequest:
        taken = False
    assert validator.is_valid(body) is taken
