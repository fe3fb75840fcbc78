"""What holds for every policy, every caller and every request: nothing but policy's own grants ever gives more.

Requests name their profile: which of the granted ones is the default is the order of a list, and no ceiling.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from itertools import permutations
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor import errors
from supervisor.decide.admission import Admission, Counters, admit_run
from supervisor.decide.request import RunRequest
from supervisor.decide.shell.model import Analysis
from supervisor.decide.trace import Trace
from supervisor.policy import snapshot as s
from supervisor.policy.narrow import AUTONOMY, NETWORKS, exceeds
from tests.unit.decide.generated import (
    CASES,
    CONTEXTS,
    LEVELS,
    NOW,
    PATTERNS,
    PLACES,
    POLICIES,
    RATES,
    RISKS,
    RULES,
    VERDICTS,
    WORKSPACE,
    Case,
)
from tests.unit.decide.samples import caller, peer, snapshot

few = settings(max_examples=200, deadline=None, derandomize=True)

# --- what is compared -------------------------------------------------------------------------------------------------


def strictness(found: Admission | errors.StockadeError) -> int:
    return VERDICTS.index(found.verdict if isinstance(found, Admission) else "refused")


def network(found: Admission) -> int:
    return NETWORKS.index(found.network or found.profile.network)


def no_more(one: Admission | errors.StockadeError, other: Admission | errors.StockadeError) -> bool:
    """Whether `one` gives nothing that `other` does not.

    A script that nobody can read is asked about or put where it cannot write: either is less than the other.
    """
    if not isinstance(one, Admission):
        return True
    if not isinstance(other, Admission):
        return False
    boxed = one.readonly and not other.readonly and any(r.rule == "autonomy.unparsed" for r in other.reasons)
    if not boxed and strictness(one) < strictness(other):
        return False
    wider = [
        f.name for f in fields(s.Limits) if exceeds(f.name, getattr(one.limits, f.name), getattr(other.limits, f.name))
    ]
    return (
        one.profile.name == other.profile.name
        and AUTONOMY.index(one.autonomy) <= AUTONOMY.index(other.autonomy)
        and one.readonly >= other.readonly
        and network(one) <= network(other)
        and not wider
    )


def told(found: Admission | errors.StockadeError) -> Any:
    """A decision without the rules that it names: those tell the order of policy."""
    if not isinstance(found, Admission):
        return "limit" if isinstance(found, errors.LimitReached) else "refused"
    reasons = Counter((r.detail, r.subject, r.start, r.end, r.blanket) for r in found.reasons)
    kept = (found.verdict, found.profile.name, found.limits, found.autonomy, found.readonly, found.network, found.waits)
    return kept, reasons, found.notes, Counter(left for _, left in found.left), found.context.zone


def exact(found: Admission | errors.StockadeError) -> Any:
    return found if isinstance(found, Admission) else found.as_dict()


# --- (a) nothing that a request says gives more -----------------------------------------------------------------------


@few
@given(POLICIES, CASES)
def test_labels_give_no_more_than_the_same_request_where_no_context_and_no_rule_is(policy, case) -> None:
    bare = replace(policy, contexts=(), rules=())
    assert no_more(case.decide(policy), case.decide(bare))


@few
@given(POLICIES, CASES)
def test_what_labels_do_without_contexts_and_rules_is_to_be_refused_or_counted(policy, case) -> None:
    bare = replace(policy, contexts=(), rules=(), rates=(), callers=(replace(policy.callers[0], must_state=()),))
    assert no_more(case.decide(bare), case.decide(bare, labels={}))


@few
@given(
    POLICIES, CASES,
    st.fixed_dictionaries({}, optional={
        "env": st.just({"PATH": "/x", "LD_PRELOAD": "/x"}), "code": st.just("123456"), "background": st.just(True),
        "wait_approval_ms": st.just(60_000), "stdin": st.just(b"x"), "dry_run": st.just(True),
    }),
)  # fmt: skip
def test_no_other_field_of_a_request_changes_what_is_decided(policy, case, more) -> None:
    assert exact(case.decide(policy, **more)) == exact(case.decide(policy))


@few
@given(POLICIES, CASES, st.dictionaries(st.sampled_from([f.name for f in fields(s.Limits)]), st.integers(-1, 1 << 33)))
def test_limits_of_a_request_only_make_less_of_it(policy, case, limits) -> None:
    """(e) What is granted is within the profile, however much is asked for."""
    found = case.decide(policy, limits=limits)
    assert no_more(found, case.decide(policy, limits={}))
    if isinstance(found, Admission):
        ceiling = found.profile.limits
        assert not [
            f.name for f in fields(ceiling) if exceeds(f.name, getattr(found.limits, f.name), getattr(ceiling, f.name))
        ]
        assert all(getattr(found.limits, name) == value for name, value in limits.items())


@few
@given(POLICIES, CASES)
def test_what_is_admitted_is_what_the_caller_is_granted(policy, case) -> None:
    found = case.decide(policy)
    if isinstance(found, Admission):
        entry = policy.callers[found.caller]
        assert found.profile.name in entry.profiles
        assert case.peer.uid == entry.uid
        assert AUTONOMY.index(found.autonomy) <= min(
            AUTONOMY.index(level) for level in (policy.autonomy.level, entry.autonomy, found.profile.autonomy)
        )
        assert found.readonly or (found.autonomy != "readonly" and policy.tools.file_write_enabled)
        assert network(found) <= NETWORKS.index(found.profile.network)
        assert policy.tools.policy == "enabled" or "shell" in policy.tools.allow_list


# --- (b) more policy never gives more ---------------------------------------------------------------------------------


@few
@given(POLICIES, CASES, CONTEXTS, st.integers(0, 3))
def test_one_more_context_gives_nothing(policy, case, more, at: int) -> None:
    wider = replace(policy, contexts=(*policy.contexts[:at], more, *policy.contexts[at:]))
    assert no_more(case.decide(wider), case.decide(policy))


@few
@given(POLICIES, CASES, RULES, RATES)
def test_one_more_rule_and_one_more_rate_give_nothing(policy, case, rule, rate) -> None:
    before = case.decide(policy)
    assert no_more(case.decide(replace(policy, rules=(*policy.rules, rule))), before)
    assert no_more(case.decide(replace(policy, rates=(*policy.rates, rate))), before)


@few
@given(POLICIES, CASES, st.sampled_from(PATTERNS), st.sampled_from(RISKS), st.sampled_from(PLACES))
def test_one_more_pattern_risk_or_forbidden_place_gives_nothing(policy, case, pattern, risk, place) -> None:
    own, before = policy.autonomy, case.decide(policy)
    for name, more in (
        ("blocked_commands", pattern),
        ("approval_patterns", pattern),
        ("approval_risks", risk),
        ("forbidden_paths", place),
    ):
        longer: Any = {name: tuple(dict.fromkeys((*getattr(own, name), more)))}
        assert no_more(case.decide(replace(policy, autonomy=replace(own, **longer))), before), name


@few
@given(POLICIES, CASES, LEVELS)
def test_lowering_any_autonomy_gives_nothing(policy, case, level) -> None:
    def lower(now: str) -> str:
        return min(now, level, key=AUTONOMY.index)

    before = case.decide(policy)
    own, (entry, *others) = policy.autonomy, policy.callers
    profiles = tuple(replace(p, autonomy=lower(p.autonomy)) for p in policy.profiles)
    for narrower in (
        replace(policy, autonomy=replace(own, level=lower(own.level))),
        replace(policy, callers=(replace(entry, autonomy=lower(entry.autonomy)), *others)),
        replace(policy, profiles=profiles),
    ):
        assert no_more(case.decide(narrower), before)


@few
@given(POLICIES, CASES)
def test_taking_grants_back_gives_nothing(policy, case) -> None:
    before = case.decide(policy)
    entry, *others = policy.callers
    for less in (
        replace(policy, callers=(replace(entry, profiles=entry.profiles[:1]), *others)),
        replace(policy, callers=(replace(entry, labels=()), *others)),
        replace(policy, callers=(replace(entry, must_state=(*entry.must_state, "user")), *others)),
        replace(policy, callers=(replace(entry, role="viewer"), *others)),
        replace(policy, tools=replace(policy.tools, file_write_enabled=False)),
        replace(policy, tools=replace(policy.tools, policy="whitelist", allow_list=())),
    ):
        assert no_more(case.decide(less), before)


@few
@given(POLICIES, CASES)
def test_nobody_to_answer_gives_nothing_but_the_narrowest_box(policy, case) -> None:
    alone = replace(policy, callers=policy.callers[:1])
    assert no_more(case.decide(alone), case.decide(policy))
    found = case.decide(alone)
    if policy.callers[0].uid == case.peer.uid:
        assert strictness(found) != VERDICTS.index("ask")


# --- (c) the order of policy ------------------------------------------------------------------------------------------


@few
@given(POLICIES, CASES)
def test_the_order_of_contexts_rules_and_rates_changes_nothing_but_which_is_named(policy, case) -> None:
    whole = told(case.decide(policy))
    for name in ("contexts", "rules", "rates"):
        for order in permutations(getattr(policy, name)):
            turned: Any = {name: order}
            assert told(case.decide(replace(policy, **turned))) == whole, name


# --- (d) and (f) the same answer --------------------------------------------------------------------------------------


@few
@given(POLICIES, CASES)
def test_the_same_question_has_the_same_answer_traced_or_not(policy, case) -> None:
    trace = Trace()
    found = exact(case.decide(policy))
    assert exact(case.decide(policy)) == found
    assert exact(case.decide(policy, trace)) == found
    assert trace or case.peer.uid != 1000 or isinstance(found, dict)


@few
@given(POLICIES, CASES)
def test_a_policy_that_went_through_json_decides_the_same(policy, case) -> None:
    again = s.from_json(policy.to_json())
    assert again == policy
    assert exact(case.decide(again)) == exact(case.decide(policy))


def test_the_cases_here_are_not_all_of_one_kind() -> None:
    """What holds of refusals alone would hold of nothing."""
    seen: Counter[str] = Counter()

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(POLICIES, CASES)
    def count(policy, case) -> None:
        seen[VERDICTS[strictness(case.decide(policy))]] += 1

    count()
    assert all(seen[verdict] >= 40 for verdict in VERDICTS), seen


def test_an_analysis_is_never_trusted_for_more() -> None:
    """Whatever the parser says or does not say, a decision is within what is granted: it may only add reasons."""
    policy = replace(snapshot(caller(), caller(uid=0, role="administrator")), autonomy=s.Autonomy(level="readonly"))
    case = Case(RunRequest(workspace=WORKSPACE, profile="shell", argv=("ls",)), False, False, peer(), True, 0, ())
    found = case.decide(policy)
    assert isinstance(found, Admission)
    assert found.readonly
    blind = admit_run(policy, {}, peer(), None, case.request, Counters(now=NOW), Analysis())
    assert (blind.readonly, blind.limits, blind.network) == (found.readonly, found.limits, found.network)
