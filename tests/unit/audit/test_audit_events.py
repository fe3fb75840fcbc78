"""Every event is bounded, readable by any JSON reader, and loses nothing silently."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import events
from supervisor.wire.messages import TO_AUDITOR, Record, decode, encode

RUN, SES, PRINT = "run-0123456789ab", "ses-0123456789ab", "ab" * 32

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=20,
)
# Control characters and emoji take 6 and 12 bytes of ASCII JSON each, so long texts of them test the bounds best.
long_text = st.builds(lambda c, n, t: c * n + t, st.characters(), st.sampled_from([0, 9, 5000, 90_000]), st.text())


def make(**given: Any) -> events.Event:
    fixed: dict[str, Any] = {
        "outcome": "allow",
        "run": RUN,
        "request_id": "req-1",
        "session_id": SES,
        "caller": {"uid": 1000, "pid": 7, "unit": "agent.service"},
        "tool": "shell",
        "action": "run",
        "resource": "/srv/ws",
        "args": ["true"],
        "fingerprint": PRINT,
    }
    return events.decision(**{**fixed, **given})


@given(
    args=st.lists(long_text, max_size=4) | long_text,
    text=long_text,
    labels=st.fixed_dictionaries({}, optional=dict.fromkeys(events.LABELS, long_text)),
    names=st.lists(long_text, max_size=3),
    checks=st.lists(anything, max_size=3),
)
def test_a_decision_fits_one_packet_and_reads_back_unchanged_whatever_an_agent_sent(
    args: Any, text: str, labels: dict[str, str], names: list[str], checks: list[Any]
) -> None:
    event = make(
        args=args,
        resource=text,
        reason=text,
        request_id=text,
        authorization_policy=text,
        labels=labels,
        env_names=names,
        compliance_checks=checks,
        caller={"uid": 1000, "pid": 7, "unit": text},
    )
    assert decode(encode(Record(1, event)), TO_AUDITOR).event == event
    assert events.problem(event) is None
    json.dumps(event, allow_nan=False).encode().decode("utf-8", "strict")


@given(anything)
def test_any_result_becomes_json_that_strict_readers_take(value: Any) -> None:
    event = events.outcome(run=RUN, outcome="exited", result={"receipt": value})
    assert events.problem(event) is None
    assert json.loads(json.dumps(event, allow_nan=False)) == event


@pytest.mark.parametrize("whole", [["sh", "-c", "x" * 9000, "tail"], "é" * 9000, ["a"] * 4000])
def test_arguments_over_the_bound_keep_their_head_their_size_and_their_digest(whole: Any) -> None:
    cut = make(args=whole)["args"]
    text = json.dumps(whole, separators=(",", ":")).encode()
    assert cut["truncated"] is True
    assert (cut["bytes"], cut["sha256"]) == (len(text), hashlib.sha256(text).hexdigest())
    assert len(json.dumps(cut["head"], separators=(",", ":"))) <= events.ARGS_BYTES + 16
    if isinstance(whole, str):
        assert whole.startswith(cut["head"])
    else:
        assert cut["head"][:-1] == whole[: len(cut["head"]) - 1]


def test_arguments_within_the_bound_are_whole() -> None:
    assert make(args=["a" * 8000, "\n", "\0", "ü"])["args"] == ["a" * 8000, "\n", "\0", "ü"]


def test_a_cut_text_says_how_long_it_was_and_what_it_was() -> None:
    text = "because " * 4000
    cut = make(reason=text)["reason"]
    assert len(cut) <= events.TEXT_BYTES
    assert cut.endswith(f"[cut: {len(text)} bytes, sha256 {hashlib.sha256(text.encode()).hexdigest()}]")


def test_environment_values_cannot_enter_even_when_a_whole_environment_is_passed() -> None:
    event = make(env_names={"TOKEN": "hunter2", "A": "b"})
    assert event["env_names"] == ["A", "TOKEN"]
    assert "hunter2" not in json.dumps(event)


def test_an_object_without_a_json_form_is_named_by_its_type_never_by_its_repr() -> None:
    class Secret:
        def __repr__(self) -> str:
            return "hunter2"

    result = events.service(action="a", outcome="ok", result={"x": Secret()})["result"]
    assert result == {"x": "<Secret>"}


def test_a_name_that_is_not_utf8_is_recorded_in_escapes() -> None:
    assert make(args=["caf\udce9"])["args"] == ["caf\\udce9"]


def test_the_user_is_the_label_or_the_uid() -> None:
    assert make()["user"] == "uid:1000"
    assert make(labels={"user": "telegram:123", "channel": "ops"})["user"] == "telegram:123"


def test_every_type_has_every_field() -> None:
    caller = {"uid": 0, "pid": 1, "unit": ""}
    made = [
        make(),
        events.outcome(run=RUN, outcome="exited"),
        events.session(session_id=SES, action="open", outcome="ok", caller=caller),
        events.service(action="start", outcome="ok"),
        events.security(action="peer", outcome="refused", caller=caller),
        events.policy(action="reload", outcome="loaded", policy_digest=PRINT),
    ]
    assert [e["event_type"] for e in made] == ["decision", "outcome", "session", "service", "security", "policy"]
    assert all(e.keys() == events.FIELDS.keys() for e in made)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "run-BAD"},
        {"run": None},
        {"fingerprint": None},
        {"fingerprint": "ab"},
        {"outcome": "maybe"},
        {"session_id": "../x"},
        {"policy_digest": "a" * 65},
    ],
)
def test_an_identifier_that_is_none_is_refused_where_the_event_is_made(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="audit event decision"):
        make(**wrong)


@pytest.mark.parametrize(
    "change",
    [
        {"event_type": "checkpoint"},
        {"event_type": []},
        {"seq": 1},
        {"prev": "0"},
        {"tool": 1},
        {"tool": "x" * 600},
        {"reason": "\ud800"},
        {"result": {"x": float("nan")}},
        {"result": {"x": 2**60}},
        {"result": {"\ud800": 1}},
        {"compliance_checks": None},
        {"args": 5},
    ],
)
def test_what_no_builder_makes_is_a_problem(change: dict[str, Any]) -> None:
    assert events.problem({**make(), **change}) is not None


def test_a_missing_field_is_a_problem() -> None:
    event = make()
    del event["tool"]
    assert events.problem(event) == "wrong fields"


def test_the_builders_import_no_event_loop_and_no_library() -> None:
    code = "import sys, supervisor.audit.events; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=_top())
    loaded = set(out.stdout.split())
    assert not loaded & {"asyncio", "socket", "aiohttp", "pydantic", "cryptography", "logging", "typing_extensions"}


def _top() -> str:
    import supervisor

    return str(supervisor.__path__[0]).removesuffix("supervisor")
