"""What must hold when a permission is used: each requirement, and that rules only take away."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import errors
from supervisor.decide.rules import apply, unmet
from supervisor.policy import snapshot as s
from tests.unit.decide.samples import snapshot

MONDAY_NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC).timestamp()


def rule(**changes) -> s.Rule:
    whole = s.Rule(name="r", permissions=("agent:execute",), match=(), effect="deny", source="/etc/policy.toml:9")
    return replace(whole, **changes)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def lacking(found: s.Rule, now: float = MONDAY_NOON, audit_ok: bool = True, **facts: str) -> str | None:
    said = unmet(found, facts, now, audit_ok=audit_ok)
    return None if said is None else said[0]


@pytest.mark.parametrize(
    ("spans", "when", "holds"),
    [
        (((480, 1080),), "2026-01-05 08:00", True),
        (((480, 1080),), "2026-01-05 17:59", True),
        (((480, 1080),), "2026-01-05 18:00", False),
        (((480, 1080),), "2026-01-05 07:59", False),
        (((1320, 360),), "2026-01-05 23:00", True),
        (((1320, 360),), "2026-01-05 05:59", True),
        (((1320, 360),), "2026-01-05 12:00", False),
        (((0, 60), (120, 180)), "2026-01-05 02:30", True),
        (((0, 60), (120, 180)), "2026-01-05 01:30", False),
    ],
)
def test_a_span_of_the_day(spans, when: str, holds: bool) -> None:
    assert (lacking(rule(time=spans), at(when)) is None) is holds


def test_days_and_time_are_those_of_the_rules_own_zone() -> None:
    tokyo = rule(days=(1,), timezone="Asia/Tokyo")
    assert lacking(tokyo, at("2026-01-05 16:00")) is None  # Tuesday 01:00 there
    assert lacking(tokyo, at("2026-01-05 12:00")) == "time"
    assert lacking(rule(days=(0, 1, 2, 3, 4)), at("2026-01-10 12:00")) == "time"  # a Saturday


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.0.0.1", False),
        ("fd00::1", True),
        ("fe80::1", False),
        ("", False),
        ("ten", False),
        ("10.1.2.3/8", False),
    ],
)
def test_an_address_lies_in_one_of_the_networks(address: str, holds: bool) -> None:
    found = rule(source_ip=("10.0.0.0/8", "fd00::/8"))
    assert (lacking(found, source_ip=address) is None) is holds


def test_labels_must_be_stated_with_a_value_that_matches() -> None:
    found = rule(labels=(("device_encrypted", ("true",)), ("mfa", ("*",))))
    assert lacking(found, device_encrypted="true", mfa="totp") is None
    assert lacking(found, device_encrypted="false", mfa="totp") == "labels.device_encrypted"
    assert lacking(found, device_encrypted="true") == "labels.mfa"
    assert lacking(found, device_encrypted="true", mfa="") == "labels.mfa"


def test_the_audit_log_can_be_a_requirement() -> None:
    assert lacking(rule(audit=True)) is None
    assert lacking(rule(audit=True), audit_ok=False) == "audit"


def with_rules(*rules: s.Rule) -> s.Snapshot:
    return replace(snapshot(), rules=rules)


def asked(policy: s.Snapshot, permission: str = "agent:execute", **facts: str) -> list[str]:
    return [r.rule for r in apply(policy, permission, facts, MONDAY_NOON, audit_ok=True)]


def test_a_rule_without_requirements_always_has_its_effect() -> None:
    with pytest.raises(errors.Denied) as refusal:
        asked(with_rules(rule()))
    assert (refusal.value.rule, refusal.value.source) == ("rules.r", "/etc/policy.toml:9")
    assert asked(with_rules(rule(effect="ask"))) == ["rules.r"]


def test_a_rule_is_about_its_permissions_and_requests_alone() -> None:
    policy = with_rules(rule(permissions=("config:*",), match=(("channel", ("irc",)),)))
    assert asked(policy, "agent:execute", channel="irc") == []
    assert asked(policy, "config:write", channel="slack") == []
    with pytest.raises(errors.Denied):
        asked(policy, "config:write", channel="irc")


def test_a_denial_says_what_would_be_allowed() -> None:
    with pytest.raises(errors.Denied) as refusal:
        apply(with_rules(rule(time=((480, 540),))), "agent:execute", {}, MONDAY_NOON, audit_ok=True)
    assert refusal.value.allowed == "08:00-09:00 (UTC)"
    assert "12:00" in refusal.value.detail


RULES = st.builds(
    rule,
    name=st.sampled_from(["a", "b", "c"]),
    permissions=st.sampled_from([("agent:execute",), ("*",), ("config:write",)]),
    match=st.sampled_from([(), (("channel", ("irc",)),)]),
    effect=st.sampled_from(["deny", "ask"]),
    days=st.sampled_from([(), (0,), (5,)]),
)


def outcome(rules, facts) -> str:
    try:
        found = apply(with_rules(*rules), "agent:execute", facts, MONDAY_NOON, audit_ok=True)
    except errors.Denied:
        return "deny"
    return "ask" if found else "allow"


@given(st.lists(RULES, max_size=3), RULES, st.sampled_from([{}, {"channel": "irc"}]))
def test_one_more_rule_never_widens_and_order_changes_nothing(rules, more, facts) -> None:
    strictness = ("allow", "ask", "deny")
    before, after = outcome(rules, facts), outcome([*rules, more], facts)
    assert strictness.index(after) >= strictness.index(before)
    assert {outcome(order, facts) for order in permutations([*rules, more])} == {after}
