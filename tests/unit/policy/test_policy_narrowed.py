"""A session that is narrower than its profile: never wider, whatever is asked, and private places stay."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import Denied
from supervisor.policy import narrow
from tests.unit.decide.samples import profile

PLACES = ("$WORKSPACE", "$WORKSPACE/out", "/tmp", "/var/tmp", "/home/agent/.cache", "/dev/shm", "/srv/data", "/mnt/x")
lists = st.lists(st.sampled_from(PLACES), unique=True).map(tuple)


def test_read_only_keeps_what_the_session_has_to_itself_and_reading() -> None:
    one = profile(read=("/usr",), write=("$WORKSPACE", "/tmp", "/srv/data", "/home/agent"))
    found = narrow.narrowed(one, readonly=True)
    assert found.write == ("/tmp", "/home/agent")
    assert found.read == ("/usr", "$WORKSPACE", "/srv/data")


def test_read_only_takes_no_program_from_where_wider_sessions_write() -> None:
    one = profile(write=("$WORKSPACE", "/tmp", "/srv/data"), allowed_commands=("sort",), covered=("/usr/bin",))
    assert narrow.narrowed(one, readonly=True).covered == ("/usr/bin", "/srv/data")
    assert narrow.narrowed(one).covered == ("/usr/bin",)


def test_nothing_asked_is_the_profile_itself() -> None:
    assert narrow.narrowed(profile()) == profile()


@given(read=lists, write=lists, network=st.sampled_from(narrow.NETWORKS), readonly=st.booleans())
def test_what_is_narrowed_is_within_and_narrowing_again_changes_nothing(
    read: tuple[str, ...], write: tuple[str, ...], network: str, readonly: bool
) -> None:
    one = profile(read=read, write=write, network=network)
    for asked in ("", *narrow.NETWORKS[: narrow.NETWORKS.index(network) + 1]):
        found = narrow.narrowed(one, readonly=readonly, network=asked)
        assert narrow.within(found, one) == []
        assert narrow.narrowed(found, readonly=readonly, network=asked) == found
        both = narrow.narrowed(found, readonly=True, network="none")
        assert both == narrow.narrowed(one, readonly=True, network="none"), "in one step or two"


@pytest.mark.parametrize(("has", "asked"), list(itertools.combinations(narrow.NETWORKS, 2)))
def test_a_wider_network_is_denied(has: str, asked: str) -> None:
    with pytest.raises(Denied) as refused:
        narrow.narrowed(profile(network=has), network=asked)
    assert refused.value.field == "network"
    assert refused.value.source == profile().source


def test_the_narrowest_autonomy_counts() -> None:
    for levels in itertools.product(narrow.AUTONOMY, repeat=3):
        expected = min(map(narrow.AUTONOMY.index, levels))
        assert narrow.narrowest(*levels) == narrow.AUTONOMY[expected]
