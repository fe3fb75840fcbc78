"""Patterns: containment and overlap agree with what the patterns match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.policy import globs
from supervisor.policy.match import path_matches

PATTERN = st.lists(st.sampled_from(["/", "a", "b", "*", "**", "?"]), max_size=7).map(lambda p: "/" + "".join(p))
PATH = st.lists(st.sampled_from(["/", "a", "b", "c"]), max_size=7).map(lambda p: "/" + "".join(p))


@given(PATTERN, PATTERN, PATH)
def test_a_contained_pattern_matches_nothing_that_the_outer_does_not(inner: str, outer: str, path: str) -> None:
    if globs.contains(outer, inner) and path_matches(path, [inner]):
        assert path_matches(path, [outer])


@given(PATTERN, PATTERN, PATH)
def test_patterns_that_match_the_same_path_meet(a: str, b: str, path: str) -> None:
    if path_matches(path, [a]) and path_matches(path, [b]):
        assert globs.meets(a, b)


@given(PATTERN)
def test_a_pattern_contains_itself(pattern: str) -> None:
    assert globs.contains(pattern, pattern)


@pytest.mark.parametrize(
    ("outer", "inner", "contained"),
    [
        ("/srv/**", "/srv/agents/*", True),
        ("/srv/*", "/srv/a/b", False),
        ("/srv/*", "/srv/**", False),
        ("/home/*/**", "/home/alice/work", True),
        ("/home/*/**", "/home/alice", False),
        ("/srv/?", "/srv/*", False),
        ("/srv/a*", "/srv/a?c*", True),
        ("/srv/[ab]", "/srv/a", False),
    ],
)
def test_containment_is_exact(outer: str, inner: str, contained: bool) -> None:
    assert globs.contains(outer, inner) is contained


def test_a_pattern_too_intricate_to_decide_is_refused() -> None:
    intricate = "/" + "**a" + "?" * 40
    assert not globs.contains(intricate, "/**a" + "?" * 41 + "**b" * 30)
    assert globs.meets(intricate, "/**b" + "?" * 41)
