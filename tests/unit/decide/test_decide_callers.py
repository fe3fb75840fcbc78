"""Who a peer is to policy."""

from __future__ import annotations

import tomllib
from dataclasses import replace

import pytest

from supervisor.decide.callers import answerable, find_caller, permits, require
from supervisor.errors import Denied, SelfViewOnly
from supervisor.policy.snapshot import Role
from supervisor.policy.words import BUILT_IN, PERMISSIONS
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


def test_each_built_in_role_permits_its_permissions_and_no_other() -> None:
    policy = snapshot()
    granted = {name: {p for p in PERMISSIONS if permits(policy, caller(role=name), p)} for name in BUILT_IN}
    viewer = {"agent:read", "logs:read", "config:read", "access:request"}
    assert granted == {
        "viewer": viewer,
        "operator": viewer | {"agent:execute"},
        "administrator": set(PERMISSIONS),
    }
    assert not any(permits(policy, caller(role="root"), p) for p in PERMISSIONS)


def test_a_declared_role_counts_instead_of_the_built_in_one() -> None:
    policy = replace(snapshot(), roles=(Role("operator", ("agent:*",)), Role("auditor", ("logs:read", "*:read"))))
    assert permits(policy, caller(role="operator"), "agent:end_all")
    assert not permits(policy, caller(role="operator"), "logs:read")
    assert permits(policy, caller(role="auditor"), "approvals:read")
    assert not permits(policy, caller(role="auditor"), "approvals:answer")


def test_a_role_that_was_given_for_a_time_counts_beside_the_callers_own() -> None:
    assert permits(snapshot(), caller(role="viewer"), "agent:execute", ("operator",))
    assert not permits(snapshot(), caller(role="viewer"), "agent:execute", ("viewer",))


def test_a_missing_right_names_the_roles_that_have_it() -> None:
    with pytest.raises(Denied) as refusal:
        require(snapshot(), caller(role="viewer"), "agent:execute")
    shown = refusal.value.as_dict()
    assert shown["allowed"] == "agent:execute: administrator, operator"
    assert shown["source"] == "/etc/stockade/policy.toml:20"
    assert shown["retry"] == "after_change"


def test_a_right_that_may_be_asked_for_says_how() -> None:
    with pytest.raises(Denied) as refusal:
        require(snapshot(), caller(role="viewer", may_request=("operator",)), "agent:execute")
    assert "stockade access request --role operator" in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("entries", "can"),
    [
        ((caller(),), False),
        ((caller(), caller(uid=0, role="administrator")), True),
        ((caller(role="administrator"),), False),
        ((caller(uid=None, gid=1000, role="administrator"),), True),
        ((caller(), caller(uid=None, unit="console.service", role="administrator")), True),
        ((caller(), caller(uid=5, role="operator"), caller(uid=6, role="viewer")), False),
    ],
)
def test_somebody_else_must_be_able_to_answer(entries, can: bool) -> None:
    policy = snapshot(*entries)
    assert answerable(policy, peer(), find_caller(policy, peer())[1]) is can


def test_a_unit_that_is_the_only_one_to_answer_cannot_answer_itself() -> None:
    policy = snapshot(caller(uid=None, unit="gateway.service", role="administrator"))
    asking = peer(unit="gateway.service")
    assert not answerable(policy, asking, find_caller(policy, asking)[1])
