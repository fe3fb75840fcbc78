"""What is left, and what is refused: rates, budgets, places and the bound of all counters."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.decide import meters
from supervisor.decide.book import COMMANDS, Book
from supervisor.decide.meters import Spent, Who, check
from supervisor.decide.windows import DAY, HOUR, MINUTE
from supervisor.errors import LimitReached
from supervisor.policy.snapshot import Breaker, Budget, Rate, Snapshot
from tests.unit.decide.samples import LIMITS, snapshot

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Limits

NOW = 1_790_000_000_000 // DAY * DAY / 1000  # a midnight, Unix seconds
WHO = Who("uid:1000", "planner", "ann", "discord", "shell")


NO_BREAKER = Breaker()


def policy(*rates: Rate, budgets: tuple[Budget, ...] = (), breaker: Breaker = NO_BREAKER) -> Snapshot:
    return replace(snapshot(), rates=rates, budgets=budgets, breaker=breaker)


def rate(scope: str = "agent", minute: int = 0, hour: int = 0, day: int = 0, line: int = 1) -> Rate:
    return Rate(scope, minute, hour, day, f"policy.toml:{line}")


def budget(period: str = "day", scope: str = "agent", **bounds: int) -> Budget:
    whole = {"cpu_ms": 0, "wall_ms": 0, "written": 0, "processes": 0, **bounds}
    return Budget(period, scope, source="policy.toml:7", **whole)


class Desk:
    """A book with a clock, as runs/meters.py has one."""

    def __init__(self, snap: Snapshot, bound: int = meters.MAX_COUNTERS) -> None:
        self.snapshot, self.book, self.now = snap, Book(bound), NOW
        self.names = itertools.count()

    def check(self, who: Who = WHO, session: str = "ses-1") -> dict[str, int]:
        return dict(check(self.snapshot, who, session, self.book, self.now).left)

    def narrowed(self, limits: Limits, session: str = "ses-1") -> Limits:
        return meters.narrowed(limits, check(self.snapshot, WHO, session, self.book, self.now).wall)

    def begin(self, who: Who = WHO, session: str = "ses-1", what: str = "", timeout_ms: int = 0) -> str:
        self.check(who, session)
        run = f"run-{next(self.names)}"
        self.book.begin(self.snapshot, run, who, session, self.at, what=what, timeout_ms=timeout_ms, cpu=100)
        return run

    def end(self, run: str, failed: bool | None = False, **used: int) -> None:
        self.book.end(self.snapshot.breaker, run, Spent(**used), failed, self.at)

    @property
    def at(self) -> int:
        return int(self.now * 1000)

    def refused(self, who: Who = WHO, session: str = "ses-1") -> LimitReached:
        with pytest.raises(LimitReached) as refusal:
            self.check(who, session)
        return refusal.value


def test_without_any_bound_nothing_is_asked_and_nothing_kept() -> None:
    desk = Desk(policy())
    assert desk.check() == {}
    desk.end(desk.begin())
    assert len(desk.book) == 0
    assert not desk.book.dirty


def test_what_is_left_counts_this_request_as_begun() -> None:
    desk = Desk(policy(rate(minute=3, hour=10)))
    assert desk.check() == {"rates[0].per_minute": 2, "rates[0].per_hour": 9}
    for _ in range(3):
        desk.begin()
    told = desk.refused()
    assert (told.rule, told.source, told.field) == ("rates[0].per_minute", "policy.toml:1", "agent")
    assert told.allowed == "3 runs and sessions in one minute"
    assert told.extra["left"] == {"rates[0].per_minute": 0, "rates[0].per_hour": 6}


def test_asking_does_not_count() -> None:
    desk = Desk(policy(rate(minute=1)))
    for _ in range(5):
        assert desk.check() == {"rates[0].per_minute": 0}


@pytest.mark.parametrize(("scope", "other"), [
    ("caller", Who("uid:1001", "planner", "ann", "discord", "shell")),
    ("agent", WHO._replace(agent="other")),
    ("user", WHO._replace(user="bob")),
    ("channel", WHO._replace(channel="slack")),
    ("tool", WHO._replace(tool="file")),
])  # fmt: skip
def test_each_scope_counts_for_itself(scope: str, other: Who) -> None:
    desk = Desk(policy(rate(scope, minute=1)))
    desk.begin()
    assert desk.refused().field == scope
    assert desk.check(other) == {"rates[0].per_minute": 0}


def test_the_same_label_of_another_caller_is_somebody_else() -> None:
    desk = Desk(policy(rate("agent", minute=1)))
    desk.begin()
    assert desk.check(WHO._replace(caller="uid:2000")) == {"rates[0].per_minute": 0}


def test_requests_without_the_label_count_as_one() -> None:
    desk = Desk(policy(rate("agent", minute=1)))
    desk.begin(Who("uid:1000", user="ann"))
    desk.refused(Who("uid:1000", user="bob"))


def test_long_labels_are_told_apart_and_kept_short() -> None:
    one, two = (Who("uid:1", agent="x" * 255 + tail) for tail in "ab")
    assert meters.keys("agent", one) != meters.keys("agent", two)
    assert len(meters.agent_key(one)) < 80


@pytest.mark.parametrize("span", ["minute", "hour", "day"])
def test_the_retry_time_is_when_it_passes(span: str) -> None:
    desk = Desk(policy(rate(**{span: 2})))
    desk.now += 17.25
    desk.begin()
    desk.begin()
    wait = desk.refused().extra["retry_after"]
    desk.now += wait - 0.002
    desk.refused()
    desk.now += 0.002
    assert desk.check()


def test_the_rule_that_holds_longest_is_named() -> None:
    desk = Desk(policy(rate(minute=1, hour=1)))
    desk.begin()
    assert desk.refused().rule == "rates[0].per_hour"


def test_sessions_count_like_runs() -> None:
    desk = Desk(policy(rate(minute=2)))
    desk.book.opened(desk.snapshot, WHO, desk.at)
    desk.begin()
    desk.refused()


def test_what_was_not_launched_is_taken_back() -> None:
    desk = Desk(policy(rate(minute=1, hour=5), budgets=(budget(cpu_ms=10),)))
    run = desk.begin()
    desk.book.forget(run)
    assert desk.check() == {"rates[0].per_minute": 0, "rates[0].per_hour": 4, "budgets[0].cpu": 10}
    assert desk.book.running(WHO) == 0
    desk.book.forget(run)
    assert desk.book.running(WHO) == 0


@pytest.mark.parametrize(("bound", "used", "rule"), [
    ({"cpu_ms": 5}, {"cpu_us": 5000}, "cpu"),
    ({"wall_ms": 5}, {"wall_us": 5000}, "wall"),
    ({"written": 5}, {"written": 5}, "written"),
    ({"processes": 5}, {"processes": 5}, "processes"),
])  # fmt: skip
def test_a_spent_budget_of_the_day_holds_until_midnight(bound: dict[str, int], used: dict[str, int], rule: str) -> None:
    desk = Desk(policy(budgets=(budget(**bound),)))
    desk.now += 3600
    assert desk.check() == {f"budgets[0].{rule}": 5}
    desk.end(desk.begin(), **used)
    told = desk.refused()
    assert (told.rule, told.source) == (f"budgets[0].{rule}", "policy.toml:7")
    assert told.extra["retry_after"] == 23 * 3600
    desk.now += 23 * 3600
    assert desk.check() == {f"budgets[0].{rule}": 5}


def test_what_is_less_than_a_millisecond_adds_up() -> None:
    desk = Desk(policy(budgets=(budget(cpu_ms=2),)))
    for _ in range(4):
        desk.end(desk.begin(), cpu_us=500)
    desk.refused()


def test_a_spent_session_is_no_obstacle_for_another() -> None:
    desk = Desk(policy(budgets=(budget("session", cpu_ms=1),)))
    desk.end(desk.begin(), cpu_us=1000)
    told = desk.refused()
    assert (told.field, told.code, told.retry) == ("session", "session_spent", "after_change")
    assert "retry_after" not in told.extra, "waiting does not help"
    assert desk.check(session="ses-2")
    assert desk.check(session="")


def test_a_session_that_is_closed_leaves_nothing() -> None:
    desk = Desk(policy(budgets=(budget("session", cpu_ms=1),)))
    run = desk.begin()
    del desk.book.sessions["ses-1"]
    desk.end(run, cpu_us=1000)
    assert len(desk.book) == 0


def test_the_deadline_is_what_the_narrowest_wall_budget_leaves() -> None:
    desk = Desk(policy(budgets=(budget(wall_ms=90_000), budget("session", wall_ms=50_000))))
    assert desk.narrowed(LIMITS) == replace(LIMITS, timeout_ms=50_000)
    endless = replace(LIMITS, timeout_ms=0)
    desk.end(desk.begin(), wall_us=49_999_999)
    assert desk.narrowed(endless).timeout_ms == 1
    assert desk.narrowed(LIMITS).timeout_ms == 1
    short = replace(LIMITS, timeout_ms=40_000)
    assert desk.narrowed(short, "ses-2") is short
    assert Desk(policy()).narrowed(LIMITS) is LIMITS


def test_an_agent_that_fails_is_stopped_and_one_run_tries() -> None:
    desk = Desk(policy(breaker=Breaker(failures=2, open_ms=1000)))
    for _ in range(2):
        desk.end(desk.begin(), failed=True)
    assert desk.refused().rule == "breaker"
    assert desk.check(WHO._replace(agent="other")) == {}
    desk.now += 1
    trial = desk.begin()
    desk.refused()
    desk.end(trial, failed=False)
    desk.check()
    assert not desk.book.breakers


def test_the_same_command_again_and_again_opens_it() -> None:
    desk = Desk(policy(breaker=Breaker(repeats=5, repeat_window_ms=60_000, open_ms=1000)))
    for i in range(5):
        desk.now += 11
        desk.end(desk.begin(what=f"other-{i}"))
        desk.end(desk.begin(what="one"))
    assert desk.refused().rule == "breaker"


def test_a_command_that_keeps_below_the_bound_never_opens_it() -> None:
    """Every 15 s is four times a minute, wherever the window begins."""
    desk = Desk(policy(breaker=Breaker(repeats=5, repeat_window_ms=60_000)))
    for _ in range(100):
        desk.end(desk.begin(what="status"))
        desk.now += 15


def test_as_many_commands_of_an_agent_are_watched_as_there_is_room_for() -> None:
    desk = Desk(policy(breaker=Breaker(repeats=5)))
    for i in range(3 * COMMANDS):
        desk.end(desk.begin(what=str(i)))
    assert len(desk.book) == COMMANDS


def test_at_the_bound_a_new_counter_is_refused_and_an_old_one_goes_on() -> None:
    desk = Desk(policy(rate(minute=100)), bound=10)
    for i in range(10):
        desk.begin(WHO._replace(caller="uid:1000" if i < 5 else "uid:2000", agent=f"a{i}"))
    told = desk.refused(WHO._replace(agent="one more"))
    assert told.rule == "counters"
    assert told.allowed is not None
    assert told.allowed.startswith("10 counters")
    assert desk.check(WHO._replace(agent="a3"))
    desk.now += 120
    assert desk.check(WHO._replace(agent="one more")), "what is over was dropped"


def test_no_caller_alone_uses_up_the_room_of_all() -> None:
    """Whoever makes up agents without end is refused; who comes later, and what is known already, is not."""
    desk = Desk(policy(rate(minute=100), breaker=Breaker(repeats=50)), bound=100)
    agents = 0
    while desk.book.held("uid:1000") < 74:  # two counters each
        desk.begin(WHO._replace(agent=f"made-up-{agents}"), what="x")
        agents += 1
    told = desk.refused(WHO._replace(agent="one more"))
    assert told.rule == "counters"
    assert "75 of one caller" in (told.allowed or "")
    assert len(desk.book) == 2 * agents == 74
    desk.begin(WHO._replace(agent="made-up-3"), what="x")
    for n in range(8):
        desk.begin(Who("unit:other.service", f"a{n}"), what="x")
    desk.now += 120
    assert desk.check(WHO._replace(agent="one more")), "the counts of a minute are over"


def test_commands_of_agents_that_are_known_do_not_fill_the_book_over_its_bound() -> None:
    """In a full book an agent's new command takes the place of its oldest one."""
    desk = Desk(policy(breaker=Breaker(repeats=5)), bound=12)
    agents = [Who(caller, f"a{n}") for caller in ("uid:1000", "uid:2000") for n in range(3)]
    for n in range(10):
        for who in agents:
            desk.end(desk.begin(who, what=f"command {n}"))
    assert len(desk.book) == 12
    for _ in range(4):
        desk.end(desk.begin(agents[0], what="the same"))
    desk.begin(agents[0], what="the same")
    assert "5 times" in desk.refused(agents[0]).detail, "what it repeats is found out all the same"
    assert len(desk.book) == 13, "its breaker"


def test_denials_at_the_bound_add_nothing() -> None:
    desk = Desk(policy(breaker=Breaker(failures=5)), bound=4)
    for caller in ("uid:1000", "uid:2000"):
        for i in range(10):
            desk.book.denied(desk.snapshot, Who(caller, f"a{i}"), desk.at)
    assert len(desk.book) == 4
    assert (desk.book.held("uid:1000"), desk.book.held("uid:2000")) == (3, 1)


def test_idle_breakers_are_forgotten_after_a_day() -> None:
    desk = Desk(policy(breaker=Breaker(failures=2, repeats=3)))
    desk.end(desk.begin(what="x"), failed=True)
    assert len(desk.book) == 2
    desk.now += 2 * DAY / 1000
    desk.check()
    assert len(desk.book) == 0


def test_usage_names_what_every_agent_of_a_caller_used() -> None:
    desk = Desk(policy(rate("agent", minute=5), rate("caller", hour=9), budgets=(budget(cpu_ms=10),)))
    desk.end(desk.begin(), cpu_us=4000)
    desk.begin(WHO._replace(agent="other"))
    desk.begin(WHO._replace(caller="uid:2000"))
    found = meters.usage(desk.snapshot, "uid:1000", desk.book, desk.now)
    rows = {(r["rule"], r["of"]): (r["used"], r["left"]) for r in found["rates"]}
    assert rows == {
        ("rates[0].per_minute", ""): (0, 5),
        ("rates[0].per_minute", "planner"): (1, 4),
        ("rates[0].per_minute", "other"): (1, 4),
        ("rates[1].per_hour", ""): (2, 7),
    }
    assert {(b["of"], b["used"], b["unit"]) for b in found["budgets"]} >= {("planner", 4, "ms of CPU time")}
    assert found["running"] == {"other": 1}


scopes = st.sampled_from(["caller", "agent", "user"])
entries = st.lists(
    st.builds(rate, scopes, st.integers(0, 4), st.integers(0, 8), st.integers(1, 12)), min_size=1, max_size=4
)
requests = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab"), st.sampled_from("xy")), max_size=60)


@settings(deadline=None)
@given(entries, requests, st.randoms())
def test_the_order_of_entries_changes_no_decision(
    rates: list[Rate], sent: list[tuple[int, str, str]], rng: Any
) -> None:
    shuffled = rates[:]
    rng.shuffle(shuffled)
    assert _passed(rates, sent) == _passed(shuffled, sent)


@settings(deadline=None)
@given(entries, requests, st.builds(rate, st.just("agent"), st.integers(1, 3)))
def test_one_more_entry_never_lets_more_through_at_any_moment(
    rates: list[Rate], sent: list[tuple[int, str, str]], more: Rate
) -> None:
    """With the same book, an additional entry only takes away."""
    wide, narrow = policy(*rates), policy(*rates, more)
    book, now = Book(), NOW
    for wait, agent, user in sent:
        now += wait
        who = Who("uid:1", agent, user)
        allowed = _passes(narrow, who, book, now)
        assert not allowed or _passes(wide, who, book, now)
        if allowed:
            book.opened(narrow, who, int(now * 1000))


@settings(deadline=None)
@given(entries, requests)
def test_no_aligned_window_of_any_scope_holds_more_than_its_bound(
    rates: list[Rate], sent: list[tuple[int, str, str]]
) -> None:
    passed = _passed(rates, sent)
    seen: dict[tuple[object, ...], int] = {}
    times = itertools.accumulate(wait for wait, _, _ in sent)
    for ok, at, (_, agent, user) in zip(passed, times, sent, strict=True):
        if not ok:
            continue
        who = Who("uid:1", agent, user)
        for i, entry in enumerate(rates):
            for span, most in ((MINUTE, entry.per_minute), (HOUR, entry.per_hour), (DAY, entry.per_day)):
                key = i, span, meters.keys(entry.scope, who), int((NOW + at) * 1000) // span
                seen[key] = seen.get(key, 0) + 1
                assert not most or seen[key] <= most


def _passed(rates: list[Rate], sent: list[tuple[int, str, str]]) -> list[bool]:
    snap, book, now, passed = policy(*rates), Book(), NOW, []
    for wait, agent, user in sent:
        now += wait
        who = Who("uid:1", agent, user)
        passed.append(_passes(snap, who, book, now))
        if passed[-1]:
            book.opened(snap, who, int(now * 1000))
    return passed


def _passes(snap: Snapshot, who: Who, book: Book, now: float) -> bool:
    try:
        check(snap, who, "", book, now)
    except LimitReached:
        return False
    return True
