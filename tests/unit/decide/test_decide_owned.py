"""Who has how many counters: always as many as there are keys of that caller."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.decide.owned import Owned, owner


@pytest.mark.parametrize(
    ("key", "caller"),
    [
        ("c:uid:1000", "uid:1000"),
        ("a:uid:1000/planner", "uid:1000"),
        ("a:uid:1000/", "uid:1000"),
        ("!f:uid:1000/planner", "uid:1000"),
        ("t:unit:gateway.service/shell", "unit:gateway.service"),
        ("uid:1000/planner", "uid:1000"),
        ("unit:a:b.service/x/y:z", "unit:a:b.service"),
        ("a:uid:1000/x:y/z", "uid:1000"),
    ],
)
def test_the_caller_is_read_off_the_name(key: str, caller: str) -> None:
    assert owner(key) == caller


@given(
    st.lists(st.tuples(st.sampled_from("sdp"), st.sampled_from(["a:uid:1/x", "a:uid:1/y", "c:uid:2", "!f:uid:2/x"]))),
    st.lists(st.sampled_from(["a:uid:1/x", "c:uid:3"]), unique=True),
)
def test_owners_are_those_of_the_keys_whatever_was_done(steps: list[tuple[str, str]], first: list[str]) -> None:
    found: Owned[int] = Owned((key, 1) for key in first)
    for what, key in steps:
        if what == "s":
            found[key] = found.get(key, 0) + 1
        elif what == "p":
            found.pop(key, None)
        elif key in found:
            del found[key]
    assert found.owners == Counter(map(owner, found))
