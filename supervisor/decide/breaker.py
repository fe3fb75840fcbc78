"""The circuit breaker of one agent as a pure state machine (R90, R147): a loop that fails is stopped, and not retried.

    closed ── `failures` in a row, or one command `repeats` times within the window ──> open, for open_ms
    open ── open_ms are over ──> half open: exactly one run may try
    half open ── that run ends well ──> closed          ── it fails, or a request is refused ──> open, anew

A run that ends without saying anything about the agent (it was cancelled, the service was stopped) leaves all as it
was, and in half-open lets the next one try. Runs that were begun before it opened say nothing any more. Times are
milliseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from supervisor.errors import LimitReached

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Breaker

_TRIAL_SECONDS = 1.0  # until whoever is refused because another run tries may ask again

Name = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class State:
    failures: int = 0  # in a row
    since: int = 0  # when it opened, or the last failure while it is closed
    until: int = 0  # it stays open; 0 is closed
    why: str = ""
    trial: str = ""  # the run that tries, while it is half open


CLOSED = State()


def name(state: State, now: int) -> Name:
    if not state.until:
        return "closed"
    return "open" if now < state.until else "half_open"


def admit(state: State, policy: Breaker, now: int) -> None:
    """Raises LimitReached while nothing may run."""
    if not state.until or (now >= state.until and not state.trial):
        return
    wait = (state.until - now) / 1000 if now < state.until else _TRIAL_SECONDS
    what = "is stopped" if now < state.until else "was stopped, and one run is trying whether it works again"
    raise LimitReached(
        f"this agent {what}: {state.why}",
        rule="breaker",
        source=policy.source or None,
        layer="decision",
        allowed=f"nothing for {policy.open_ms // 1000} s, then one run; when that ends well, everything",
        hint="find out why it failed and change that; an operator resets it with `stockade breakers reset`",
        retry_after=wait,
    )


def begun(state: State, run: str, now: int) -> State:
    """`run` was admitted: in half-open it is the one that tries."""
    return replace(state, trial=run) if name(state, now) == "half_open" and not state.trial else state


def repeated(policy: Breaker, times: int, now: int) -> State | None:
    """The state after the same command was begun `times` times within the window, when that opens it."""
    if not policy.repeats or times < policy.repeats:
        return None
    why = f"the same command was begun {times} times within {policy.repeat_window_ms / 1000:g} s"
    return State(0, now, now + policy.open_ms, why)


def ended(state: State, policy: Breaker, run: str, failed: bool | None, now: int) -> State:
    """`run` is over. `failed` None: its end says nothing about the agent."""
    if state.trial and state.trial == run:
        if failed is None:
            return untried(state, run)
        return _open(state, policy, now, "the run that tried failed as well") if failed else CLOSED
    if state.until or failed is None:
        return state
    return _failure(state, policy, now, "runs in a row failed or were refused") if failed else CLOSED


def untried(state: State, run: str) -> State:
    """`run` did not come to say anything: in half-open the next one may try."""
    return replace(state, trial="") if state.trial == run else state


def denied(state: State, policy: Breaker, now: int) -> State:
    """A request was refused by policy. While it is open, or a run tries, that changes nothing."""
    where = name(state, now)
    if where == "closed":
        return _failure(state, policy, now, "runs in a row failed or were refused")
    if where == "half_open" and not state.trial:
        return _open(state, policy, now, "the request that tried was refused")
    return state


def _failure(state: State, policy: Breaker, now: int, why: str) -> State:
    if not policy.failures:
        return CLOSED
    failures = state.failures + 1
    if failures >= policy.failures:
        return _open(state, policy, now, f"{failures} {why}")
    return State(failures, now)


def _open(state: State, policy: Breaker, now: int, why: str) -> State:
    return State(state.failures, now, now + policy.open_ms, why)
