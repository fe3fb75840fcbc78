"""The breaker against a model: what it lets through, when, and how often."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.decide import breaker
from supervisor.decide.breaker import CLOSED, State
from supervisor.errors import LimitReached
from supervisor.policy.snapshot import Breaker

POLICY = Breaker(failures=3, repeats=4, repeat_window_ms=60_000, open_ms=10_000, source="policy.toml:9")


def admitted(state: State, now: int) -> bool:
    try:
        breaker.admit(state, POLICY, now)
    except LimitReached:
        return False
    return True


class Model(RuleBasedStateMachine):
    """Runs begin and end in any order and overlap. The model keeps the story in plain words and lists."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.now, self.names = CLOSED, 1_000_000, 0
        self.going: list[str] = []  # runs that were begun
        self.opened_at: int | None = None  # of the model: None is closed
        self.streak = 0
        self.trial: str | None = None

    def open(self) -> bool:
        return self.opened_at is not None and self.now < self.opened_at + POLICY.open_ms

    def failed_once_more(self) -> None:
        self.streak += 1
        if self.streak >= POLICY.failures:
            self.opened_at, self.trial = self.now, None

    @rule(ms=st.integers(0, 12_000))
    def time_passes(self, ms: int) -> None:
        self.now += ms

    @rule()
    def one_asks(self) -> None:
        expected = self.opened_at is None or (not self.open() and self.trial is None)
        assert admitted(self.state, self.now) is expected
        if not expected:
            return
        self.names += 1
        name = f"run-{self.names}"
        self.state = breaker.begun(self.state, name, self.now)
        if self.opened_at is not None:
            self.trial = name
        self.going.append(name)

    @precondition(lambda self: self.going)
    @rule(data=st.data(), failed=st.sampled_from([True, False, None]))
    def one_ends(self, data: st.DataObject, failed: bool | None) -> None:
        name = data.draw(st.sampled_from(self.going))
        self.going.remove(name)
        self.state = breaker.ended(self.state, POLICY, name, failed, self.now)
        if self.trial == name:
            self.trial = None
            if failed:
                self.opened_at = self.now
            elif failed is False:
                self.opened_at, self.streak = None, 0
        elif self.opened_at is None and failed is not None:
            if failed:
                self.failed_once_more()
            else:
                self.streak = 0

    @rule()
    def one_is_denied(self) -> None:
        self.state = breaker.denied(self.state, POLICY, self.now)
        if self.opened_at is None:
            self.failed_once_more()
        elif not self.open() and self.trial is None:
            self.opened_at = self.now

    @rule()
    def somebody_resets(self) -> None:
        self.state, self.opened_at, self.streak, self.trial = CLOSED, None, 0, None

    @invariant()
    def the_names_agree(self) -> None:
        expected = "closed" if self.opened_at is None else "open" if self.open() else "half_open"
        assert breaker.name(self.state, self.now) == expected


Model.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestModel = Model.TestCase


def test_it_says_why_and_until_when() -> None:
    state = CLOSED
    for _ in range(3):
        state = breaker.ended(state, POLICY, "r", True, 1000)
    with pytest.raises(LimitReached) as refusal:
        breaker.admit(state, POLICY, 4000)
    told = refusal.value
    assert told.rule == "breaker"
    assert told.source == "policy.toml:9"
    assert told.extra["retry_after"] == 7.0
    assert "3 runs in a row failed" in told.detail


def test_a_trial_that_was_cancelled_lets_the_next_one_try() -> None:
    state = breaker.begun(State(3, 0, 10, "x"), "run-1", 20)
    with pytest.raises(LimitReached, match="one run is trying") as refusal:
        breaker.admit(state, POLICY, 20)
    assert refusal.value.extra["retry_after"] == 1.0
    assert admitted(breaker.ended(state, POLICY, "run-1", None, 30), 30)
    assert admitted(breaker.untried(state, "run-1"), 30)
    assert not admitted(breaker.untried(state, "run-2"), 30), "it was another one's trial"


def test_repetition_opens_at_the_bound() -> None:
    assert breaker.repeated(POLICY, 3, 0) is None
    opened = breaker.repeated(POLICY, 4, 5)
    assert opened is not None
    assert breaker.name(opened, 5) == "open"
    assert "4 times within 60 s" in opened.why
    assert breaker.repeated(Breaker(failures=3), 1000, 0) is None, "policy does not look at repetition"


def test_a_policy_without_failures_counts_none() -> None:
    assert breaker.ended(CLOSED, Breaker(repeats=2), "r", True, 0) == CLOSED
