"""What labels make of a caller: every entry that matches applies, and each only takes away."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import errors
from supervisor.decide.context import Context, context, matches, merged
from supervisor.decide.trace import Trace
from supervisor.policy import snapshot as s
from supervisor.policy.narrow import AUTONOMY, NETWORKS
from tests.unit.decide.samples import caller, peer, snapshot

ANY = (("*", ("*",)),)


def entry(match: dict[str, tuple[str, ...]], **changes) -> s.Context:
    return replace(s.Context(tuple(sorted(match.items())), "/etc/stockade/policy.toml:50"), **changes)


def see(policy: s.Snapshot, labels: dict[str, str] | None = None, tool: str = "shell") -> Context:
    return context(policy, (0, policy.callers[0]), peer(), labels or {}, tool)


def with_contexts(*entries: s.Context, **of_caller) -> s.Snapshot:
    who = caller(**{"labels": ANY, "profiles": ("shell", "other"), **of_caller})
    return replace(snapshot(who), contexts=entries, autonomy=s.Autonomy(level="full", source="p:1"))


def test_without_contexts_a_caller_has_what_its_entry_says() -> None:
    found = see(with_contexts())
    assert (found.profiles, found.zone, found.autonomy[0]) == (("shell", "other"), 3, "full")
    assert (found.network, found.tools, found.blocked, found.asked) == (None, None, (), ())


@pytest.mark.parametrize("level", AUTONOMY)
@pytest.mark.parametrize("of_caller", AUTONOMY)
@pytest.mark.parametrize("of_context", AUTONOMY)
def test_the_narrowest_autonomy_counts_and_names_its_rule(level: str, of_caller: str, of_context: str) -> None:
    policy = with_contexts(entry({"channel": ("*",)}, autonomy=of_context), autonomy=of_caller)
    policy = replace(policy, autonomy=replace(policy.autonomy, level=level))
    found, rule, source = see(policy).autonomy
    assert found == min((level, of_caller, of_context), key=AUTONOMY.index)
    named = {"autonomy.level": level, "callers[0].autonomy": of_caller, "contexts[0].autonomy": of_context}
    assert named[rule] == found
    assert source


def test_an_entry_applies_only_where_every_name_matches() -> None:
    policy = with_contexts(entry({"channel": ("discord*", "irc"), "agent": ("mail",)}, autonomy="readonly"))
    for labels, narrowed in (
        ({"channel": "discord-7", "agent": "mail"}, True),
        ({"channel": "irc", "agent": "mail"}, True),
        ({"channel": "irc", "agent": "mailer"}, False),
        ({"channel": "slack", "agent": "mail"}, False),
        ({"channel": "irc"}, False),
        ({}, False),
    ):
        assert (see(policy, labels).autonomy[0] == "readonly") is narrowed, labels


def test_what_is_not_stated_counts_as_empty_so_a_star_covers_it_and_leaving_a_label_out_is_no_way_past() -> None:
    assert see(with_contexts(entry({"channel": ("*",)}, autonomy="readonly"))).autonomy[0] == "readonly"
    assert see(with_contexts(entry({"channel": ("?*",)}, autonomy="readonly"))).autonomy[0] == "full"
    assert see(with_contexts(entry({"channel": ("",)}, autonomy="readonly"))).autonomy[0] == "readonly"


def test_profiles_are_those_of_the_caller_in_the_order_of_the_context() -> None:
    policy = with_contexts(entry({"channel": ("discord",)}, profiles=("other", "secret")))
    assert see(policy, {"channel": "discord"}).profiles == ("other",)
    assert see(policy, {"channel": "slack"}).profiles == ("shell", "other")
    both = with_contexts(entry({}, profiles=("other", "shell")), entry({}, profiles=("shell",)))
    assert see(both).profiles == ("shell",)


def test_tools_and_networks_are_cut_to_what_all_entries_have() -> None:
    policy = with_contexts(
        entry({}, tools=("shell", "file"), network="loopback"), entry({}, tools=("file",), network="none")
    )
    found = see(policy)
    assert found.tools is not None
    assert found.tools[0] == ("file",)
    assert found.network is not None
    assert found.network[:2] == ("none", "contexts[1].network")


def test_the_lowest_zone_counts_and_later_matches_see_it() -> None:
    policy = with_contexts(
        entry({"zone": ("0", "1")}, autonomy="readonly"),
        entry({"channel": ("discord",)}, zone=1),
        entry({"channel": ("*",)}, zone=2),
    )
    assert see(policy, {"channel": "discord"}).zone == 1
    assert see(policy, {"channel": "discord"}).autonomy[0] == "readonly"
    assert see(policy, {"channel": "slack"}).zone == 2
    assert see(policy, {"channel": "slack"}).autonomy[0] == "full"


@pytest.mark.parametrize(
    ("pattern", "zones"),
    [("0", {0}), ("1", {0, 1}), ("4", {0, 1, 2, 3}), ("*", {0, 1, 2, 3}), ("1*", {0, 1}), ("?", {0, 1, 2, 3})],
)
def test_a_zone_stands_for_every_less_trusted_one_too_so_no_label_is_a_way_past(pattern: str, zones: set[int]) -> None:
    for lowered in range(4):
        policy = with_contexts(
            entry({"channel": ("x",)}, zone=lowered), entry({"zone": (pattern,)}, autonomy="readonly")
        )
        assert (see(policy, {"channel": "x"}).autonomy[0] == "readonly") is (lowered in zones)


def test_brackets_stand_for_themselves() -> None:
    assert matches((("agent", ("[a]*",)),), {"agent": "[a]b"})
    assert not matches((("agent", ("[a]*",)),), {"agent": "ab"})


def test_patterns_of_commands_add_up_with_the_rule_that_they_come_from() -> None:
    policy = with_contexts(entry({}, blocked_commands=("curl",)), entry({}, approval_patterns=("git push",)))
    found = see(policy)
    assert [(p.patterns, p.rule) for p in found.blocked] == [(("curl",), "contexts[0].blocked_commands")]
    assert [(p.patterns, p.rule) for p in found.asked] == [(("git push",), "contexts[1].approval_patterns")]


def test_a_role_of_a_context_is_needed_beside_the_callers_own() -> None:
    policy = with_contexts(entry({"user": ("telegram:123",)}, role="viewer"), role="administrator")
    see(policy, {"user": "telegram:124"})
    with pytest.raises(errors.Denied) as refusal:
        see(policy, {"user": "telegram:123"})
    assert refusal.value.rule == "contexts[0].role"


@pytest.mark.parametrize(
    ("granted", "labels", "field"),
    [
        ((), {"channel": "slack"}, "labels.channel"),
        ((("channel", ("slack-*",)),), {"channel": "discord"}, "labels.channel"),
        ((("channel", ("slack-*",)),), {"agent": "slack-1"}, "labels.agent"),
        (ANY, {"role": "administrator"}, "labels.role"),
        (ANY, {"zone": "4"}, "labels.zone"),
    ],
)
def test_a_label_that_the_caller_may_not_state_is_refused(granted, labels, field: str) -> None:
    with pytest.raises(errors.Denied) as refusal:
        see(with_contexts(labels=granted), labels)
    assert refusal.value.field == field
    assert refusal.value.rule == "callers.labels"
    assert refusal.value.hint


def test_a_label_that_must_be_stated_is() -> None:
    policy = with_contexts(must_state=("channel",))
    see(policy, {"channel": "x"})
    for labels in ({}, {"channel": ""}, {"agent": "x"}):
        with pytest.raises(errors.Denied) as refusal:
            see(policy, labels)
        assert refusal.value.rule == "callers.must_state"


def test_a_run_has_its_sessions_labels_and_cannot_say_otherwise() -> None:
    assert merged({"channel": "a"}, {}) == {"channel": "a"}
    assert merged({"channel": "a"}, {"agent": "b", "channel": "a"}) == {"channel": "a", "agent": "b"}
    with pytest.raises(errors.InvalidRequest) as refusal:
        merged({"channel": "a"}, {"channel": "b"})
    assert refusal.value.field == "labels.channel"


def test_a_trace_names_what_matched() -> None:
    policy = with_contexts(entry({"channel": ("discord",)}), entry({"channel": ("slack",)}))
    trace = Trace()
    context(policy, (0, policy.callers[0]), peer(), {"channel": "slack"}, "shell", (), trace)
    assert [step.rule for step in trace] == ["contexts[1]"]


NAMES = st.sampled_from(["channel", "agent", "user"])
VALUES = st.sampled_from(["", "a", "ab", "b"])
PATTERNS = st.lists(st.sampled_from(["*", "a", "a*", "?", "b", ""]), min_size=1, max_size=2).map(tuple)
ENTRIES = st.builds(
    entry,
    st.dictionaries(NAMES, PATTERNS, max_size=2),
    autonomy=st.none() | st.sampled_from(AUTONOMY),
    network=st.none() | st.sampled_from(NETWORKS),
    zone=st.none() | st.integers(0, 4),
    profiles=st.none() | st.lists(st.sampled_from(["shell", "other", "x"]), unique=True).map(tuple),
    tools=st.none() | st.lists(st.sampled_from(["shell", "file"]), unique=True).map(tuple),
    blocked_commands=st.lists(st.sampled_from(["a", "b"]), unique=True, max_size=2).map(tuple),
)
LABELS = st.dictionaries(NAMES, VALUES, max_size=3)


def width(found: Context) -> tuple[int, set[str], int, set[str], int, set[str]]:
    network = len(NETWORKS) if found.network is None else NETWORKS.index(found.network[0])
    tools = {"shell", "file", "browser"} if found.tools is None else set(found.tools[0])
    blocked = {p for listed in found.blocked for p in listed.patterns}
    return AUTONOMY.index(found.autonomy[0]), set(found.profiles), network, tools, found.zone, blocked


def narrower(one, other) -> bool:
    return (
        one[0] <= other[0] and one[1] <= other[1] and one[2] <= other[2] and one[3] <= other[3] and one[4] <= other[4]
        and one[5] >= other[5]
    )  # fmt: skip


@given(st.lists(ENTRIES, max_size=4), ENTRIES, LABELS)
def test_one_more_context_never_widens(entries, more, labels) -> None:
    before = see(with_contexts(*entries), labels)
    after = see(with_contexts(*entries, more), labels)
    assert narrower(width(after), width(before))


@given(st.lists(ENTRIES, max_size=3), LABELS)
def test_the_order_of_contexts_changes_nothing_but_the_default_profile(entries, labels) -> None:
    widths = [width(see(with_contexts(*order), labels)) for order in permutations(entries)]
    assert all(w == widths[0] for w in widths)


@given(st.lists(ENTRIES, max_size=4), LABELS)
def test_no_labels_give_more_than_the_entry_of_the_caller(entries, labels) -> None:
    assert narrower(width(see(with_contexts(*entries), labels)), width(see(with_contexts())))


def test_matching_is_by_case() -> None:
    assert matches((("channel", ("Discord",)),), {"channel": "Discord"})
    assert not matches((("channel", ("Discord",)),), {"channel": "discord"})
