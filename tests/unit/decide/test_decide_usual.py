"""What is usual for an agent: learned from its hours, and what is decided about an hour that is not (R101)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.decide import usual
from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.book import Book
from supervisor.decide.bounds import UnusualBound, Who, agent_key
from supervisor.decide.meters import check, usage
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.decide.usual import KNOWN, Usual
from supervisor.decide.windows import DAY, HOUR
from supervisor.errors import LimitReached
from supervisor.policy.snapshot import Alerts, Autonomy, Snapshot
from tests.unit.decide.samples import caller, peer, request, snapshot

WEEK = 7 * 24
BOUND = UnusualBound("alerts.unusual[0]", "p:1", "runs", threshold=3, least=20, period=WEEK, action="tell")
WHO = Who("uid:1000", "planner", tool="shell")
NOON = 1_790_000_000_000 // DAY * DAY + 12 * HOUR
SOURCE = "policy.toml:9"


def hours(counts: list[int], bound: UnusualBound = BOUND, start: int = 1000) -> Usual:
    """An agent that did so much in one hour after the other; the last one is still going on."""
    found: Usual | None = None
    for n, count in enumerate(counts):
        for _ in range(count):
            found = usual.counted(found, bound, start + n)
    assert found is not None
    return found


def test_nothing_is_unusual_until_a_day_of_hours_is_known() -> None:
    young = hours([5] * (KNOWN - 1) + [1, 10_000])
    assert usual.most(hours([5] * KNOWN), BOUND) is None
    assert young.hours == KNOWN, "the one hour that was needed is over now"
    assert usual.most(hours([5] * KNOWN + [1]), BOUND) is not None


def test_three_standard_deviations_above_the_mean_are_unusual() -> None:
    steady = hours([90, 110] * KNOWN + [1])
    assert steady.mean == pytest.approx(100, abs=1)
    assert usual.most(steady, BOUND) == 131, "the mean, three times its deviation of ten, and one more"
    assert usual.most(steady, replace(BOUND, threshold=5)) == 151
    assert usual.most(steady, replace(BOUND, least=500)) == 500


def test_chance_alone_is_not_unusual() -> None:
    """An agent that did exactly a hundred things in each hour has no deviation at all."""
    exact = hours([100] * KNOWN + [1])
    assert exact.variance == 0
    assert usual.most(exact, BOUND) == 131


def test_hours_in_which_nothing_is_done_teach_nothing() -> None:
    found: Usual | None = None
    for day in range(10):
        for hour in range(8):
            for _ in range(50):
                found = usual.counted(found, BOUND, 24 * day + hour)
    assert found is not None
    assert found.mean == pytest.approx(50)


def test_a_flood_does_not_become_usual_by_one_flood() -> None:
    before = hours([100] * KNOWN + [1])
    limit = usual.most(before, BOUND)
    assert limit is not None
    flooded = usual.learned(before._replace(count=1_000_000), BOUND)
    calm = usual.learned(before._replace(count=limit), BOUND)
    assert flooded == calm._replace(count=1_000_000)
    after = usual.most(flooded, BOUND)
    assert after is not None
    assert after < 1.2 * limit


def test_what_was_long_ago_fades_and_after_a_period_of_nothing_all_is_forgotten() -> None:
    short = replace(BOUND, period=48)
    moved = hours([100] * 48 + [30] * 200 + [1], short)
    assert moved.hours == 48
    assert moved.mean == pytest.approx(30, abs=2)
    known = hours([30] * 60 + [1], short)
    assert usual.counted(known, short, known.hour + 48).hours == 48
    assert usual.counted(known, short, known.hour + 49) == Usual(known.hour + 49, 1)


def test_a_clock_that_is_set_back_goes_on_with_its_hour() -> None:
    known = hours([30] * 30)
    back = usual.counted(known, BOUND, known.hour - 5)
    assert back == known._replace(count=known.count + 1)


def test_an_hour_is_told_of_while_it_lasts_alone() -> None:
    known = hours([30] * 30 + [500])
    limit = usual.unusual(known, BOUND, known.hour)
    assert limit == usual.most(known, BOUND)
    assert usual.unusual(known, BOUND, known.hour + 1) == 0
    assert usual.unusual(None, BOUND, known.hour) == 0


@given(st.lists(st.integers(1, 300), min_size=1, max_size=120), st.integers(0, 5))
def test_the_mean_is_that_of_the_hours_and_the_bound_lies_above_it(counts: list[int], gap: int) -> None:
    """Whatever an agent did: no overflow, no negative variance, and never a bound at or below what is usual."""
    found: Usual | None = None
    for n, count in enumerate(counts):
        for _ in range(count):
            found = usual.counted(found, BOUND, n * (1 + gap))
    assert found is not None
    assert found.variance >= 0
    assert 0 <= found.mean <= max(counts)
    limit = usual.most(found, BOUND)
    assert limit is None or (limit > found.mean and limit >= BOUND.least)


# --- in the book, and in decisions --------------------------------------------------------------------------------


def policy(action: str, **alerts: Any) -> Snapshot:
    found = snapshot(caller(), caller(uid=0, role="administrator"))
    bounds = {"unusual": ("runs",), **alerts}
    return replace(found, autonomy=Autonomy(level="full"), alerts=Alerts(action=action, source=SOURCE, **bounds))


class Desk:
    def __init__(self, snap: Snapshot, bound: int = 1000) -> None:
        self.snapshot, self.book, self.now = snap, Book(bound), NOON
        (self.bound,) = self.book.plan(snap).unusual

    def act(self, times: int = 1, who: Who = WHO) -> list[tuple[int, int]]:
        """Who is told of each of so many: (count, from where on that is not usual)."""
        found = [self.book.strange(self.bound, agent_key(who), self.now) for _ in range(times)]
        return [one for one in found if one != (0, 0)]

    def usual_days(self, who: Who = WHO) -> None:
        for _ in range(KNOWN + 1):
            assert self.act(30, who) == []
            self.now += HOUR

    def admit(self, agent: str = "planner") -> Any:
        asked = request(labels={"agent": agent})
        state = Counters(now=self.now / 1000, book=self.book)
        return admit_run(self.snapshot, {}, peer(), None, asked, state, analyse_argv(("true",)))


def test_somebody_is_told_once_in_the_hour_and_again_in_the_next_one() -> None:
    desk = Desk(policy("tell"))
    desk.usual_days()
    assert desk.act(200) == [(47, 47)], "30, three times the root of it, and one more"
    desk.book.roll(desk.now)
    assert desk.book.alarmed(1000) == 1
    desk.now += HOUR
    assert len(desk.act(200)) == 1
    assert desk.act(200, WHO._replace(agent="new")) == [], "nothing is known of this one"
    assert desk.admit().verdict == "allow"


def test_where_policy_asks_the_agent_is_asked_about_until_the_hour_is_over() -> None:
    desk = Desk(policy("ask"))
    desk.usual_days()
    assert desk.admit().verdict == "allow"
    desk.act(47)
    found = desk.admit()
    assert found.verdict == "ask"
    (reason,) = found.reasons
    assert (reason.rule, reason.source, reason.blanket) == ("alerts.unusual[0]", SOURCE, False)
    assert "than is usual" in reason.detail
    assert desk.admit("other").verdict == "allow"
    desk.now += HOUR
    assert desk.admit().verdict == "allow"


def test_where_policy_stops_it_begins_nothing_until_the_hour_is_over() -> None:
    desk = Desk(policy("stop"))
    desk.usual_days()
    desk.act(47)
    desk.now += HOUR // 4
    with pytest.raises(LimitReached) as refusal:
        desk.admit()
    assert refusal.value.rule == "alerts.unusual[0]"
    assert refusal.value.extra["retry_after"] == pytest.approx(HOUR * 3 / 4 / 1000)
    assert refusal.value.extra["left"] == {"alerts.unusual[0]": 0}
    desk.now += HOUR - HOUR // 4
    assert desk.admit().verdict == "allow"


def test_what_is_named_twice_is_counted_once() -> None:
    assert [b.scope for b in Book().plan(policy("tell", unusual=("runs", "failed", "runs"))).unusual] == [
        "runs",
        "failed",
    ]


def test_usage_says_what_is_usual_once_it_is_known() -> None:
    desk = Desk(policy("tell"))
    desk.act(3)
    assert usage(desk.snapshot, "uid:1000", desk.book, desk.now / 1000)["alerts"] == []
    desk.usual_days()
    desk.act(3)
    (row,) = usage(desk.snapshot, "uid:1000", desk.book, desk.now / 1000)["alerts"]
    assert (row["of"], row["counts"], row["used"], row["allowed"]) == ("planner", "runs", 3, row["used"] + row["left"])


def test_what_was_loaded_is_kept_until_a_policy_says_for_how_long() -> None:
    """A service that starts on Monday and is only looked at first still knows what was usual on Friday."""
    desk = Desk(policy("tell"))
    desk.act(5)
    loaded = Book()
    loaded.usual = desk.book.usual
    loaded.roll(desk.now + 3 * DAY)
    assert len(loaded.usual) == 1
    loaded.plan(desk.snapshot)
    loaded.roll(desk.now + 6 * DAY)
    assert len(loaded.usual) == 1
    loaded.roll(desk.now + 8 * DAY)
    assert len(loaded.usual) == 0


def test_a_full_book_learns_of_nobody_new_and_an_idle_agent_makes_room() -> None:
    desk = Desk(policy("tell"), bound=1)
    desk.act(5)
    assert len(desk.book) == 1
    other = WHO._replace(agent="other")
    desk.act(5, other)
    assert len(desk.book) == 1
    with pytest.raises(LimitReached, match="counters"):
        check(desk.snapshot, other, "", desk.book, desk.now / 1000)
    desk.now += 8 * DAY
    desk.book.sweep(desk.now)
    assert len(desk.book) == 0
    assert ("usual", "n:uid:1000/planner") in desk.book.dirty
    check(desk.snapshot, other, "", desk.book, desk.now / 1000)
