"""Workspaces of live sessions lie apart, or are one and the same owner's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import errors
from supervisor.decide.place import check_apart
from tests.unit.decide.samples import peer

# Few names, so that paths meet; one is the beginning of another, and one has the character that joins them inside.
PATHS = st.lists(st.sampled_from(["a", "ab", "b", "a\nb"]), min_size=1, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def together(one: str, other: str) -> bool:
    return one.startswith(f"{other}/") or other.startswith(f"{one}/")


@given(PATHS, st.lists(st.tuples(PATHS, st.sampled_from([1000, 2000])), max_size=6))
def test_a_workspace_overlaps_with_none_but_its_owners_very_own(path: str, others: list[tuple[str, int]]) -> None:
    asker = peer(uid=1000)
    wrong = [(other, uid) for other, uid in others if together(path, other) or (other == path and uid != 1000)]
    if not wrong:
        check_apart(path, asker, others)
        return
    with pytest.raises(errors.Conflict) as refusal:
        check_apart(path, asker, others)
    assert (wrong[0][0] in refusal.value.detail) == (wrong[0][1] == 1000), "a path of somebody else's is not told"
