"""One timer, set for the earliest; nothing rings early and nothing is forgotten."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from supervisor.approvals.deadlines import Deadlines, Steady
from tests.unit.approvals.world import Clock


def made() -> tuple[Clock, Deadlines, list[tuple[float, str]]]:
    clock = Clock()
    rung: list[tuple[float, str]] = []
    deadlines = Deadlines(clock, clock.later, lambda ids: rung.extend((clock(), i) for i in ids))
    return clock, deadlines, rung


def test_they_ring_in_order_and_only_one_timer_waits() -> None:
    clock, deadlines, rung = made()
    start = clock()
    for name, after in (("late", 30.0), ("early", 10.0), ("middle", 20.0)):
        deadlines.set(name, start + after)
        assert clock.waiting == 1
    clock.advance(25)
    assert rung == [(start + 10, "early"), (start + 20, "middle")]
    clock.advance(5)
    assert rung[-1] == (start + 30, "late")
    assert clock.waiting == 0


def test_a_dropped_one_does_not_ring_and_a_moved_one_rings_once() -> None:
    clock, deadlines, rung = made()
    start = clock()
    deadlines.set("a", start + 10)
    deadlines.set("b", start + 10)
    deadlines.drop("a")
    deadlines.set("b", start + 20)
    clock.advance(100)
    assert rung == [(start + 20, "b")]


def test_a_wall_clock_that_is_set_back_rings_nothing_early() -> None:
    clock, deadlines, rung = made()
    deadlines.set("a", clock() + 10)
    clock.time -= 1000  # the timer rings by the loop's clock all the same
    clock.advance(1005)
    assert rung == []
    clock.advance(10)
    assert [name for _, name in rung] == ["a"]


def test_a_far_deadline_is_looked_at_again_within_the_hour() -> None:
    clock, deadlines, rung = made()
    deadlines.set("a", clock() + 86_400)
    clock.time += 86_400  # set forward: the timer knows nothing of it
    clock.advance(3600)
    assert [name for _, name in rung] == ["a"]


def test_close_leaves_no_timer() -> None:
    clock, deadlines, rung = made()
    deadlines.set("a", clock() + 1)
    deadlines.close()
    clock.advance(10)
    assert (clock.waiting, rung) == (0, [])


def test_many_that_are_dropped_leave_nothing_behind() -> None:
    clock, deadlines, _ = made()
    for n in range(20_000):
        deadlines.set(f"{n}", clock() + 600)
        deadlines.drop(f"{n}")
    assert len(deadlines) == 0
    assert len(deadlines._heap) < 2000


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 50), st.integers(0, 20)), max_size=40))
def test_whatever_is_set_dropped_and_waited_for_rings_at_its_time(steps: list[tuple[str, int | None, int]]) -> None:
    clock, deadlines, rung = made()
    expected: dict[str, float] = {}
    due: list[tuple[float, str]] = []
    for name, after, wait in steps:
        if after is None:
            deadlines.drop(name)
            expected.pop(name, None)
        else:
            deadlines.set(name, clock() + after)
            expected[name] = clock() + after
        end = clock() + wait
        due += [(max(at, clock()), n) for n, at in expected.items() if at <= end]
        expected = {n: at for n, at in expected.items() if at > end}
        clock.advance(wait)
    assert sorted(rung) == sorted(due)
    assert len(deadlines) == len(expected)


# --- the clock --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(-100_000, 100_000)), max_size=20))
def test_the_clock_of_what_holds_never_runs_slower_than_time_passes(steps: list[tuple[int, int]]) -> None:
    """`steps`: how long passes, and by how much the wall clock is set meanwhile."""
    passed, wall = 50.0, 1_790_000_000.0
    steady = Steady(lambda: wall, lambda: passed)
    last = steady()
    assert last == wall
    for seconds, set_by in steps:
        passed, wall = passed + seconds, wall + seconds + set_by
        now = steady()
        assert now >= last + seconds
        assert now >= wall
        assert now <= last + seconds + max(set_by, 0)
        last = now


def test_the_clock_of_what_holds_is_the_hosts() -> None:
    assert abs(Steady()() - time.time()) < 1
