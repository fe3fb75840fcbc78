"""What holds for every policy, every caller and every request: nothing but policy's own grants ever gives more.

Requests name their profile: which of the granted ones is the default is the order of a list, and no ceiling.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor import errors
from supervisor.decide.admission import Admission, Counters, admit_run
from supervisor.decide.meters import Book, Who
from supervisor.decide.request import Peer, RunRequest
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.decide.shell.model import Analysis
from supervisor.decide.trace import Trace
from supervisor.policy import snapshot as s
from supervisor.policy.narrow import AUTONOMY, NETWORKS, exceeds
from supervisor.policy.words import SCOPES
from tests.unit.decide.samples import LIMITS, caller, peer, profile, session, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_767_614_400.0  # a Monday at noon, UTC
WORKSPACE = "/srv/agents/a"
VERDICTS = ("allow", "ask", "refused")
few = settings(max_examples=200, deadline=None, derandomize=True)

# --- what is generated ------------------------------------------------------------------------------------------------

NAMES, VALUES = ("channel", "agent", "user"), ("", "a", "ab", "b")
GLOBS = ("*", "a", "a*", "?", "b", "")
COMMANDS = (
    ("ls",), ("rm", "-rf", "x"), ("git", "push", "-f"), ("cat", "/etc/ssl/x"), ("cat", "secret/x"),
    ("python3", "-c", "1"),
)  # fmt: skip
PATTERNS = ("rm", "rm -rf", "git push", "git", "ls", "*", "python", "cat")
RISKS = ("outside", "destructive", "dynamic")
PLACES = ("/etc", "/etc/ssl", "/srv/agents/a/secret", "~/notes", "/usr/share")
PROFILES = ("shell", "other", "third")


def few_of(r: Random, options: tuple[str, ...], most: int = 2) -> tuple[str, ...]:
    return tuple(r.sample(options, r.randint(0, most)))


def rarely(r: Random, usual: Any, *others: Any, one_in: int = 5) -> Any:
    """Most requests have to get as far as there is something to compare."""
    return r.choice(others) if r.randrange(one_in) == 0 else usual


def a_match(r: Random) -> tuple[tuple[str, tuple[str, ...]], ...]:
    names = r.sample((*NAMES, "zone", "role", "tool"), r.randint(0, 2))
    return tuple((name, tuple(r.sample(GLOBS, r.randint(1, 2)))) for name in sorted(names))


def a_context(r: Random) -> s.Context:
    return s.Context(
        match=a_match(r),
        source="p:50",
        zone=r.choice((None, r.randint(0, 4))),
        role=rarely(r, None, "viewer", "operator", one_in=15),
        autonomy=r.choice((None, *AUTONOMY)),
        profiles=rarely(r, None, few_of(r, PROFILES, 3), one_in=10),
        network=r.choice((None, *NETWORKS)),
        tools=rarely(r, None, few_of(r, ("shell", "file")), one_in=12),
        blocked_commands=rarely(r, (), few_of(r, PATTERNS), one_in=10),
        approval_patterns=few_of(r, PATTERNS),
    )


def a_rule(r: Random) -> s.Rule:
    return s.Rule(
        name=r.choice(("one", "two", "three")),
        permissions=(r.choice(("agent:execute", "agent:*", "*", "config:write")),),
        match=a_match(r),
        effect=rarely(r, "ask", "deny", one_in=3),
        source="p:70",
        time=r.choice(((), ((480, 1080),), ((0, 60),))),
        days=r.choice(((), (0, 1, 2, 3, 4), (6,))),
        labels=rarely(r, (), (("channel", ("a*",)),)),
    )


def a_rate(r: Random) -> s.Rate:
    return s.Rate(r.choice(SCOPES), *(rarely(r, 0, 1, 2, 3, 4, one_in=4) for _ in range(3)), "p:80")


def a_policy(r: Random) -> s.Snapshot:
    profiles = [
        profile(
            name,
            source=f"p:{n}",
            network=r.choice(NETWORKS),
            autonomy=rarely(r, "full", *AUTONOMY, one_in=2),
            limits=replace(LIMITS, memory=r.randint(1 << 20, 1 << 30), timeout_ms=r.randint(1, 90_000)),
        )
        for n, name in enumerate(PROFILES)
    ]
    who = caller(
        role=rarely(r, "operator", "administrator", "viewer", "worker", one_in=12),
        profiles=rarely(r, PROFILES, ("shell",), ("other", "shell")),
        autonomy=rarely(r, "full", *AUTONOMY),
        zone=r.randint(0, 4),
        labels=rarely(r, (("*", ("*",)),), (("channel", ("a*",)),), (), one_in=20),
        must_state=rarely(r, (), ("channel",), one_in=20),
    )
    somebody = (caller(uid=0, role="administrator"),) if r.randrange(3) else ()
    autonomy = s.Autonomy(
        level=r.choice(AUTONOMY),
        blocked_commands=rarely(r, (), few_of(r, PATTERNS)),
        approval_patterns=few_of(r, PATTERNS),
        approval_risks=few_of(r, RISKS),
        unparsed=r.choice(("ask", "readonly")),
        workspace_only=r.random() < 0.5,
        forbidden_paths=few_of(r, PLACES),
        granted_paths=few_of(r, PLACES),
        source="p:40",
    )
    return replace(
        snapshot(who, *somebody, profiles=tuple(profiles)),
        tools=s.Tools(
            rarely(r, "enabled", "whitelist", "restrictive", one_in=12),
            few_of(r, ("shell", "file")),
            file_write_enabled=rarely(r, True, False),
            source="p:30",
        ),
        autonomy=autonomy,
        roles=rarely(r, (), (s.Role("worker", ("agent:execute",)),), (s.Role("operator", ("agent:read",)),), one_in=20),
        contexts=tuple(a_context(r) for _ in range(r.randint(0, 3))),
        rules=tuple(a_rule(r) for _ in range(rarely(r, 0, 1, 2, one_in=2))),
        rates=tuple(a_rate(r) for _ in range(rarely(r, 0, 1, 2, one_in=2))),
    )


@dataclass(frozen=True)
class Case:
    """A request, who makes it, and what was begun before it."""

    request: RunRequest
    live: bool  # in a session that lives, with the same profile
    readonly: bool
    peer: Peer
    parsed: bool
    before: int  # runs of the same caller within this minute
    roles: tuple[str, ...]

    def decide(
        self, policy: s.Snapshot, trace: Trace | None = None, **changes: Any
    ) -> Admission | errors.StockadeError:
        asked = replace(self.request, **changes)
        where = None
        if self.live:
            name = asked.profile or ""
            where = session(profile=name, granted=policy.profile(name), readonly=self.readonly, labels={})
            asked = replace(asked, session=where.id, workspace=None)
        book = Book()
        labels = asked.labels
        who = Who("uid:1000", labels.get("agent", ""), labels.get("user", ""), labels.get("channel", ""), "shell")
        for n in range(self.before):
            book.begin(policy, f"run-{n}", who, "", int(NOW * 1000), what="", timeout_ms=1, cpu=1)
            book.end(policy.breaker, f"run-{n}", None, None, int(NOW * 1000))
        analysis = analyse_argv(asked.argv or ())
        if not self.parsed:
            analysis = replace(analysis, parsed=False, error="1:1: no shell")
        state = Counters(now=NOW, book=book, roles=self.roles)
        try:
            return admit_run(policy, {}, self.peer, where, asked, state, analysis, trace)
        except errors.StockadeError as refusal:
            return refusal


def a_case(r: Random) -> Case:
    asked = RunRequest(
        workspace=rarely(r, WORKSPACE, "/srv/elsewhere", one_in=30),
        profile=r.choice(("shell", "shell", "other", "third")),
        argv=r.choice(COMMANDS),
        labels={name: r.choice(VALUES) for name in r.sample(NAMES, r.randint(0, 3))},
        limits=rarely(r, {}, {r.choice(("memory", "timeout_ms")): r.randint(1, 1 << 30)}),
        cwd=rarely(r, None, "sub", "/etc"),
    )
    return Case(
        request=asked,
        live=r.random() < 0.5,
        readonly=r.random() < 0.7,
        peer=rarely(r, peer(1000), peer(1000, unit="x.service"), peer(4000), one_in=20),
        parsed=rarely(r, True, False, one_in=3),
        before=r.randint(0, 3),
        roles=rarely(r, (), ("operator",), ("administrator",)),
    )


def made(build: Callable[[Random], Any]) -> st.SearchStrategy[Any]:
    """What is built from a seed: a hundred times as fast as what is drawn, and just as repeatable."""
    return st.integers(0, 1 << 62).map(lambda seed: build(Random(seed)))  # noqa: S311 - no secret


POLICIES, CASES, CONTEXTS, RULES, RATES = map(made, (a_policy, a_case, a_context, a_rule, a_rate))
LEVELS = st.sampled_from(AUTONOMY)

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
