"""Lines: every key and list item of any valid TOML is found where it stands."""

from __future__ import annotations

import contextlib
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.policy.locate import lines

TEXT = """\
# [not.a.table]
[service]
runs = 3

[profiles.shell]
read = [
  "/usr", # ] not the end
  \"\"\"over
two lines\"\"\",
  '/a]',
]
limits.memory = "1G"
more = { a = 1, b = [1,
 2], "c d" = 1979-05-27 07:32:00 }
[[callers]]
unit = 'x = "y"'
[[callers]]
uid = 0
[callers.deep]
k = true
[profiles."a.b"]
x = 1
"""


@pytest.mark.parametrize(
    ("loc", "line"),
    [
        (("service", "runs"), 3),
        (("profiles", "shell"), 5),
        (("profiles", "shell", "read", 0), 7),
        (("profiles", "shell", "read", 1), 8),
        (("profiles", "shell", "read", 2), 10),
        (("profiles", "shell", "limits", "memory"), 12),
        (("profiles", "shell", "more", "a"), 13),
        (("profiles", "shell", "more", "b", 1), 14),
        (("profiles", "shell", "more", "c d"), 14),
        (("callers", 0, "unit"), 16),
        (("callers", 1, "uid"), 18),
        (("callers", 1, "deep", "k"), 20),
        (("profiles", "a.b", "x"), 22),
    ],
)
def test_a_key_is_found_at_its_line(loc: tuple[str | int, ...], line: int) -> None:
    tomllib.loads(TEXT)
    assert lines(TEXT).of(loc) == line


def test_what_is_not_written_is_found_at_the_header_of_its_table() -> None:
    found = lines(TEXT)
    assert found.of(("callers", 1, "role")) == 17
    assert found.of(("profiles", "shell", "execute", 3)) == 5
    assert found.of(("nowhere",)) == 1


def test_a_table_that_a_subtable_implied_before_is_found_at_its_own_header() -> None:
    assert lines("[a.b]\nx = 1\n\n[a]\ny = 2\n").of(("a",)) == 4


SCALARS = [
    "1",
    "true",
    '"t]"',
    "'l#'",
    '"""m\n"q"\n"""',
    "'''n\n'''",
    '""',
    "2020-01-01 10:00:00",
    "1.5e3",
    '""""x""""',
]
KEYS = ["a", "b", '"k.1"', "'q q'", "a.b"]
VALUES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda v: "[ # c ]\n" + ",\n".join(v) + "\n]"),
        st.tuples(st.sampled_from(KEYS), inner).map(lambda p: "{ " + p[0] + " = " + p[1] + " }"),
    ),
    max_leaves=4,
)
STATEMENTS = st.one_of(
    st.sampled_from(["[t]", "[[l]]", "[l.s]", "[ t . u ]", "# comment", "", "[[l.m]]"]),
    st.tuples(st.sampled_from(KEYS), VALUES).map(lambda p: f"{p[0]} = {p[1]}"),
)


@given(st.lists(STATEMENTS, max_size=8).map("\n".join))
def test_every_key_of_valid_toml_has_a_line_of_its_own(text: str) -> None:
    data: dict[str, Any] = {}
    with contextlib.suppress(tomllib.TOMLDecodeError):
        data = tomllib.loads(text)
    if not data:
        return
    found = lines(text)
    written = text.split("\n")

    def walk(value: Any, loc: tuple[str | int, ...]) -> None:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            at = found.of((*loc, key))
            if isinstance(key, str):
                assert key.split(".")[0] in written[at - 1]
            assert (*loc, key) in found._at
            if isinstance(inner, dict | list):
                walk(inner, (*loc, key))

    walk(data, ())
