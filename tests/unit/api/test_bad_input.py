"""Issue: bad input. Each gets a problem with field, reason and remedy, and nothing else happens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api import parse, schema
from supervisor.errors import InvalidRequest, Malformed
from supervisor.policy import units

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

WS = {"workspace": "/srv/ws"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'{"workspace": "/w",}', "not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"tool": "shell", "tool": "shell"}', "stands twice"),
        (b'{"env": {"A": "1", "A": "2"}}', "stands twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too long"),
    ],
)
async def test_what_is_no_json_is_a_400(api: Api, body: bytes, says: str) -> None:
    status, problem, _ = await api.post(body)
    assert (status, problem["code"]) == (400, "malformed")
    assert says in problem["detail"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
async def test_deep_nesting_is_refused(api: Api, opening: bytes) -> None:
    status, problem, _ = await api.post(opening * 100_000)
    assert (status, problem["code"]) == (422, "invalid_request")
    assert "nested" in problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json; charset=latin-1"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_a_body_of_another_type_is_a_415(api: Api, headers: dict[str, str]) -> None:
    status, problem, _ = await api.ask("POST", "/v1/runs", data=b"{}", headers=headers)
    assert (status, problem["code"]) == (415, "unsupported_media")
    assert "hint" in problem


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], None),
        ("text", None),
        (WS, "argv"),
        (WS | {"argv": ["true"], "script": "true"}, "argv"),
        (WS | {"argv": []}, "argv[0]"),
        (WS | {"argv": [""]}, "argv[0]"),
        (WS | {"argv": "true"}, "argv"),
        (WS | {"argv": ["true", 1]}, "argv[1]"),
        (WS | {"argv": ["true", None]}, "argv[1]"),
        (WS | {"argv": ["true", "a\0b"]}, "argv[1]"),
        (WS | {"argv": ["true", "\ud800"]}, "argv[1]"),
        (WS | {"script": "echo \udcff"}, "script"),
        (WS | {"script": "a\0b"}, "script"),
        (WS | {"script": "true", "env": {"A": "a\0b"}}, "env.A"),
        (WS | {"script": "true", "env": {"A=B": "x"}}, "env"),
        (WS | {"script": "true", "env": {"": "x"}}, "env"),
        (WS | {"script": "true", "env": {"A": 1}}, "env.A"),
        (WS | {"script": "true", "env": ["A=1"]}, "env"),
        (WS | {"script": "true", "cwd": ""}, "cwd"),
        (WS | {"script": "true", "cwd": "a\0"}, "cwd"),
        (WS | {"script": "true", "session": "x"}, "session"),
        (WS | {"script": "true", "profile": "../x"}, "profile"),
        (WS | {"script": "true", "tool": "telnet"}, "tool"),
        (WS | {"script": "true", "wait_approval": 600}, "wait_approval"),
        (WS | {"script": "true", "wait_approval": "-1s"}, "wait_approval"),
        (WS | {"script": "true", "background": "yes"}, "background"),
        (WS | {"script": "true", "background": 1}, "background"),
        (WS | {"script": "true", "labels": {"Agent": "x"}}, "labels.Agent"),
        (WS | {"script": "true", "labels": {"agent": "x" * 300}}, "labels.agent"),
        (WS | {"script": "true", "labels": {"agent": "a\nb"}}, "labels.agent"),
        (WS | {"script": "true", "stdin": "a", "stdin_base64": "YQ=="}, "stdin"),
        (WS | {"script": "true", "stdin_base64": "%%%"}, "stdin_base64"),
        (WS | {"script": "true", "timeout": "-5s"}, "timeout"),
        (WS | {"script": "true", "timeout": -5}, "timeout"),
        (WS | {"script": "true", "timeout": 30}, "timeout"),
        (WS | {"script": "true", "timeout": "30"}, "timeout"),
        (WS | {"script": "true", "timeout": "30 s"}, "timeout"),
        (WS | {"script": "true", "timeout": "3e1s"}, "timeout"),
        (WS | {"script": "true", "timeout": "٣s"}, "timeout"),
        (WS | {"script": "true", "timeout": True}, "timeout"),
        (WS | {"script": "true", "timeout": "30s", "limits": {"timeout": "30s"}}, "timeout"),
        (WS | {"script": "true", "limits": {"memory": "512MB"}}, "limits.memory"),
        (WS | {"script": "true", "limits": {"memory": 1.5}}, "limits.memory"),
        (WS | {"script": "true", "limits": {"memory": -1}}, "limits.memory"),
        (WS | {"script": "true", "limits": {"cpu": 80}}, "limits.cpu"),
        (WS | {"script": "true", "limits": {"cpu": "80"}}, "limits.cpu"),
        (WS | {"script": "true", "limits": {"processes": "64"}}, "limits.processes"),
        (WS | {"script": "true", "limits": {"procesess": 64}}, "limits.procesess"),
        (WS | {"script": "true", "limits": []}, "limits"),
        (WS | {"script": "true", "user": "root"}, "user"),
        (WS | {"script": "true", "\ud800": 1}, None),
    ],
)
async def test_a_bad_field_is_named_and_nothing_runs(api: Api, body: Any, field: str | None) -> None:
    status, problem, _ = await api.post(body)
    assert status == 422
    assert problem.get("field") == field
    assert problem["retry"] == "after_change"
    assert api.double.starts == 0


async def test_a_misspelt_field_is_told_the_right_one(api: Api) -> None:
    _, problem, _ = await api.post(WS | {"scirpt": "true"})
    assert problem["hint"] == "did you mean 'script'?"


async def test_every_finding_is_reported_at_once(api: Api) -> None:
    _, problem, _ = await api.post(WS | {"argv": "x", "timeout": "x", "nope": 1})
    assert {f["field"] for f in problem["findings"]} == {"argv", "timeout", "nope"}


async def test_findings_are_bounded_and_never_repeat_the_input(api: Api) -> None:
    _, problem, _ = await api.post(WS | {"argv": list(range(5000)), "env": {f"SECRET{i}": i for i in range(5000)}})
    assert len(problem["findings"]) == parse.MAX_FINDINGS
    _, problem, _ = await api.post(WS | {"script": "true", "timeout": "hunter2hunter2"})
    assert "hunter2" not in json.dumps(problem)


async def test_too_much_to_execute_is_a_413(api: Api) -> None:
    for body in (WS | {"argv": ["x" * 50_000] * 2}, WS | {"script": "x", "env": {"A": "é" * 49_500}}):
        status, problem, _ = await api.post(body)
        assert (status, problem["code"]) == (413, "too_large")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "nope=1", "state=done", "session=x", "limit=+5"]
)
async def test_a_bad_query_is_refused(api: Api, query: str) -> None:
    status, problem, _ = await api.ask("GET", f"/v1/runs?{query}")
    assert (status, problem["field"]) == (422, query.partition("=")[0])


@pytest.mark.parametrize("bad", ["KILLL", "0", 0, 65, -9, 9.5, True, None, "SIG", "9"])
async def test_what_is_no_signal_is_refused(api: Api, bad: Any) -> None:
    status, problem, _ = await api.post({"signal": bad}, "/v1/runs/run-aaaaaaaaaaaa/signal")
    assert (status, problem["field"]) == (422, "signal")


@pytest.mark.parametrize(
    ("asked", "wire"),
    [
        ({"memory": "512M"}, {"memory": 512 << 20}),
        ({"memory": 4096}, {"memory": 4096}),
        ({"memory": 4096.0}, {"memory": 4096}),
        ({"cpu": "80%", "processes": 64, "files": 1024}, {"cpu": 80, "processes": 64, "files": 1024}),
        ({"timeout": "500ms", "idle_timeout": "5m"}, {"timeout_ms": 500, "idle_timeout_ms": 300_000}),
    ],
)
def test_limits_become_the_wires_integers(asked: dict[str, Any], wire: dict[str, int]) -> None:
    assert schema.wire_limits(schema.LimitsBody.model_validate(asked)) == wire


def test_requests_know_every_limit_of_policy() -> None:
    assert set(schema.LimitsBody.model_fields) == {row[0] for row in units.LIMITS.values()}


@given(st.binary(max_size=64))
def test_any_bytes_are_json_or_a_refusal(data: bytes) -> None:
    try:
        found = parse.json_body(data, "application/json", None)
    except (Malformed, InvalidRequest):
        return
    assert found == json.loads(data.decode())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["argv", "env", "limits"]), inner),
        max_leaves=8,
    )
)
def test_any_json_is_a_request_or_a_refusal(value: Any) -> None:
    try:
        parse.typed(schema.RunBody, value).request()
    except InvalidRequest as e:
        json.dumps(e.as_dict()).encode("ascii")
