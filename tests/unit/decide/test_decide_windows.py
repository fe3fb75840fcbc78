"""Sliding windows: never more than the bound in an aligned window, the documented error elsewhere, exact waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.decide.windows import DAY, HOUR, MINUTE, Daily, Spent, Windows, unmeasured

START = 1_790_000_000_000 // DAY * DAY  # a midnight
KEY = "a:uid:1000/x"

steps = st.lists(st.integers(0, 2 * MINUTE), max_size=80)
bounds = st.integers(1, 12)


def passing(waits: list[int], bound: int) -> list[int]:
    """The times at which a request passed, when one is sent after each of `waits`."""
    window, now, passed = Windows(MINUTE), START, []
    for wait in waits:
        now += wait
        window.roll(now)
        if window.used(KEY, now) < bound:
            window.add(KEY)
            passed.append(now)
    return passed


@given(steps, bounds)
def test_no_aligned_window_holds_more_than_the_bound(waits: list[int], bound: int) -> None:
    per_window: dict[int, int] = {}
    for at in passing(waits, bound):
        per_window[at // MINUTE] = per_window.get(at // MINUTE, 0) + 1
    assert all(count <= bound for count in per_window.values())


@given(steps, bounds)
def test_no_window_at_all_holds_more_than_the_bound_and_the_documented_error(waits: list[int], bound: int) -> None:
    """From any time on, within one length: at most bound x (1 + f), f being how far into its window it began."""
    passed = passing(waits, bound)
    for first in passed:
        inside = sum(first <= at < first + MINUTE for at in passed)
        assert inside <= bound * (1 + (first % MINUTE) / MINUTE) + 1
        assert inside <= 2 * bound


def test_even_use_at_the_bound_always_passes() -> None:
    assert len(passing([MINUTE // 6] * 60, 6)) == 60


def test_a_burst_at_the_end_of_a_window_is_still_felt_in_the_next() -> None:
    window = Windows(MINUTE)
    window.roll(START)
    for _ in range(10):
        window.add(KEY)
    window.roll(START + MINUTE)
    assert window.used(KEY, START + MINUTE) == 9, "a whole length later what was first is over"
    assert window.used(KEY, START + MINUTE + MINUTE // 2 - 1) == 5
    window.roll(START + 2 * MINUTE)
    assert window.used(KEY, START + 2 * MINUTE) == 0
    assert len(window) == 0


@given(st.lists(st.integers(0, MINUTE), max_size=40), bounds, st.integers(0, MINUTE))
def test_the_wait_is_exact(waits: list[int], bound: int, later: int) -> None:
    """At the time that is named one passes, and one millisecond earlier it does not."""
    window, now = Windows(MINUTE), START
    for wait in waits:
        now += wait
        window.roll(now)
        window.add(KEY)  # also more than the bound: a reload may have lowered it
    now += later
    window.roll(now)
    wait = window.wait(KEY, bound, now)
    assert (wait == 0) == (window.used(KEY, now) < bound)
    if wait:
        window.roll(now + wait - 1)
        assert window.used(KEY, now + wait - 1) >= bound
        window.roll(now + wait)
        assert window.used(KEY, now + wait) < bound


@pytest.mark.parametrize("length", [MINUTE, HOUR, DAY])
def test_what_is_over_is_forgotten_whole(length: int) -> None:
    window = Windows(length)
    window.roll(START)
    for i in range(100):
        window.add(f"k{i}")
    assert len(window) == 100
    window.roll(START + 2 * length)
    assert len(window) == 0


def test_a_clock_that_is_set_back_a_little_opens_nothing() -> None:
    window = Windows(MINUTE)
    window.roll(START + MINUTE)
    for _ in range(3):
        window.add(KEY)
    window.roll(START + MINUTE - 5)
    assert window.used(KEY, START + MINUTE - 5) == 3


def test_a_clock_that_is_set_back_far_does_not_hold_anyone_until_then() -> None:
    window = Windows(MINUTE)
    window.roll(START + HOUR)
    for _ in range(3):
        window.add(KEY)
    window.roll(START)
    assert window.used(KEY, START) == 3
    window.roll(START + 2 * MINUTE)
    assert window.used(KEY, START + 2 * MINUTE) == 0


def test_an_action_is_taken_back_where_it_was_counted() -> None:
    window = Windows(MINUTE)
    window.roll(START)
    at = window.at
    window.add(KEY)
    window.add(KEY)
    window.roll(START + MINUTE)
    window.add(KEY)
    assert window.take_back(KEY, at)
    assert (window.before, window.counts) == ({KEY: 1}, {KEY: 1})
    assert window.take_back(KEY, window.at)
    assert window.counts == {}
    assert not window.take_back(KEY, at - 1), "that window is over"


def test_a_day_begins_anew_at_midnight_utc_and_not_before() -> None:
    day = Daily()
    day.roll(START + DAY - 1)
    day.spent["k"] = Spent(1, 2, 3, 4)
    assert day.until_midnight(START + DAY - 1) == 1
    day.roll(START)
    assert day.spent, "the same day"
    day.roll(START + DAY)
    assert not day.spent


def test_a_clock_that_is_set_back_over_midnight_gives_nothing_back() -> None:
    day = Daily()
    day.roll(START + DAY)
    day.spent["k"] = Spent(1)
    day.roll(START + DAY - 1)
    assert day.spent == {"k": Spent(1)}


def test_what_nobody_measured_is_charged_as_the_most_that_it_can_be() -> None:
    assert unmeasured(5000, 2000, 80) == Spent(1_600_000, 2_000_000, 0, 1)
    assert unmeasured(5000, 0, 200) == Spent(10_000_000, 5_000_000, 0, 1)
    assert unmeasured(-5, 2000, 100) == Spent(0, 0, 0, 1), "the clock was set back"
