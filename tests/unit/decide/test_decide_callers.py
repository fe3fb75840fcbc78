"""Who a peer is to policy."""

from __future__ import annotations

import tomllib

import pytest

from supervisor.decide.callers import ROLES, find_caller, permits, require
from supervisor.errors import Denied, SelfViewOnly
from tests.unit.decide.samples import caller, peer, snapshot

UNIT = caller(unit="agent.service", uid=None)
UID = caller(uid=1000)
GROUP = caller(uid=None, gid=990)


@pytest.mark.parametrize("order", [(UNIT, UID, GROUP), (GROUP, UID, UNIT), (UID, GROUP, UNIT)])
def test_an_entry_by_unit_comes_before_uid_and_uid_before_group(order) -> None:
    policy = snapshot(*order)
    everything = peer(1000, unit="agent.service", gids=(990,))
    assert find_caller(policy, everything)[1] is UNIT
    assert find_caller(policy, peer(1000, gids=(990,)))[1] is UID
    assert find_caller(policy, peer(1001, gids=(990,)))[1] is GROUP


def test_the_first_of_several_entries_of_one_kind_counts() -> None:
    assert find_caller(snapshot(caller(role="viewer"), caller(role="administrator")), peer())[0] == 0


def test_the_primary_group_counts_as_a_group() -> None:
    assert find_caller(snapshot(GROUP), peer(1001, gid=990, gids=()))[1] is GROUP


def test_a_process_without_unit_matches_no_entry_by_unit() -> None:
    with pytest.raises(Denied):
        find_caller(snapshot(caller(unit="", uid=None)), peer(1001, unit="other.service"))


def test_a_refused_caller_learns_the_exact_lines_that_would_admit_it() -> None:
    with pytest.raises(Denied) as refusal:
        find_caller(snapshot(UNIT), peer(1234, gids=(5, 6)))
    shown = refusal.value.as_dict()
    assert "1234" in shown["detail"]
    assert "5, 6, 1234" in shown["detail"]
    entry = tomllib.loads(shown["hint"].partition(":\n")[2])["callers"][0]
    assert entry["uid"] == 1234
    with pytest.raises(Denied) as by_unit:
        find_caller(snapshot(UID), peer(1234, unit="new.service"))
    assert tomllib.loads(by_unit.value.hint.partition(":\n")[2])["callers"][0]["unit"] == "new.service"


def test_a_process_inside_a_session_is_no_caller_whoever_it_is() -> None:
    with pytest.raises(SelfViewOnly):
        find_caller(snapshot(UID), peer(1000, inside=True))


def test_each_role_permits_its_actions_and_no_other() -> None:
    actions = frozenset().union(*ROLES.values())
    granted = {role: {a for a in actions if permits(caller(role=role), a)} for role in ROLES}
    assert granted == {
        "viewer": {"read"},
        "operator": {"read", "run"},
        "administrator": {"read", "run", "stop", "reload", "see_all", "end_all"},
    }
    assert not any(permits(caller(role="root"), a) for a in actions)
    assert not permits(caller(role="administrator"), "fly")


def test_a_missing_right_names_the_roles_that_have_it() -> None:
    with pytest.raises(Denied) as refusal:
        require(caller(role="viewer"), "run")
    shown = refusal.value.as_dict()
    assert shown["allowed"] == "run: operator, administrator"
    assert shown["source"] == "/etc/stockade/policy.toml:20"
    assert shown["retry"] == "after_change"
