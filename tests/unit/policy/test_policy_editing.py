"""Single keys of a file: every key can be named, comments and layout stay, nothing else changes."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import InvalidRequest
from supervisor.policy import editing
from supervisor.policy.presets import preset_names, preset_text
from supervisor.policy.reference import keys

TEXT = """\
# first
[autonomy]            # who may
level = "supervised"  # for now
forbidden_paths = [   # a list
    "/data",          # of one
]

[profiles."web.ui"]
read = ["/usr"]
limits = { memory = "1G" }

[[callers]]
uid = 5
role = "viewer"       # only looks
"""


def lines_changed(before: str, after: str) -> list[str]:
    return [line for line in after.split("\n") if line not in before.split("\n")]


@pytest.mark.parametrize(
    ("key", "value", "line"),
    [
        ("autonomy.level", "full", 'level = "full"  # for now'),
        ('profiles."web.ui".limits.memory', "2G", 'limits = { memory = "2G" }'),
        ("callers.0.role", "operator", 'role = "operator"       # only looks'),
        ("callers.0.uid", 6, "uid = 6"),
        ("autonomy.unparsed", "readonly", 'unparsed = "readonly"'),
        ("rates.0", {"per_minute": 3}, None),
        ("tools.browser_enabled", True, None),
        ("callers.0.labels", {"channel": ["a"]}, None),
        ("callers.0.labels.channel", ["a"], None),
        ("callers.1", {"uid": 7, "role": "viewer", "labels": {"x": ["y"]}}, None),
    ],
)
def test_one_key_changes_and_everything_else_stays(key: str, value: Any, line: str | None) -> None:
    path = editing.path_of(key)
    edited = editing.set_value(TEXT, path, value)
    assert editing.get(edited, path) == value
    if line is not None:
        assert lines_changed(TEXT, edited) == [line]
    assert all(kept in edited for kept in ("# first", "# who may", "# a list", "# of one", "# only looks"))


def test_setting_what_is_there_changes_no_byte() -> None:
    for name in preset_names():
        text = preset_text(name)
        assert editing.set_value(text, ("service", "sessions"), tomllib.loads(text)["service"]["sessions"]) == text


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("autonomy.levl", "level"),
        ("autonmy.level", "autonomy"),
        ("callers.0.rol", "role"),
        ("profiles.shell.limits.mem", None),
        ("", None),
        ("a..b", None),
        ("autonomy.", None),
        ("callers.role", None),
    ],
)
def test_a_key_that_there_is_not_is_told_with_the_nearest(key: str, hint: str | None) -> None:
    with pytest.raises(InvalidRequest) as wrong:
        editing.path_of(key)
    assert hint is None or hint in str(wrong.value.hint)


def test_a_place_that_there_is_not_is_refused() -> None:
    for key in ("callers.2", "callers.2.role", "rates.1"):
        with pytest.raises(InvalidRequest):
            editing.set_value(TEXT, editing.path_of(key), {"uid": 1})


@pytest.mark.parametrize("key", keys(), ids=lambda k: k.path)
def test_every_key_of_the_reference_can_be_named_and_set(key: Any) -> None:
    path = editing.path_of(key.path.replace("*", "0"))
    known = editing.info(path)
    assert known is not None
    assert known.path == key.path
    value = json.loads(key.default) if key.default not in (None, "not given") else "x"
    assert editing.get(editing.set_value("", path, value), path) == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True), ("12", 12), ('"12"', "12"), ("512M", "512M"), ('["a", "b"]', ["a", "b"]), ("['a']", ["a"]),
        ('{"a": ["b"]}', {"a": ["b"]}), ("{ a = ['b'] }", {"a": ["b"]}), ("readonly", "readonly"), ("", ""),
        ("2026-01-01", "2026-01-01"), ("a = 1", "a = 1"), ("x\ny = 2", "x\ny = 2"),
        ("git push --force", "git push --force"),
    ],
)  # fmt: skip
def test_a_value_is_json_or_toml_or_plain_text(written: str, value: Any) -> None:
    found = editing.value_of(written)
    assert (type(found), found) == (type(value), value)


def test_null_is_no_value() -> None:
    with pytest.raises(InvalidRequest):
        editing.value_of("null")


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    try:
        editing.value_of(text)
    except InvalidRequest:
        return


@given(st.lists(st.text(max_size=12), max_size=5), st.sampled_from(preset_names()))
def test_any_list_of_text_is_written_so_that_it_reads_back(value: list[str], preset: str) -> None:
    path = ("autonomy", "approval_patterns")
    edited = editing.set_value(preset_text(preset), path, value)
    assert tomllib.loads(edited)["autonomy"]["approval_patterns"] == value
