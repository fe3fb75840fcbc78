"""Alerts: what is counted of an agent, when somebody is told, and what is decided at a bound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.decide.admission import Counters, admit_run, admit_session
from supervisor.decide.asking import sensitive
from supervisor.decide.book import Book
from supervisor.decide.bounds import FAILED, SENSITIVE, Who, agent_key
from supervisor.decide.explain import explain
from supervisor.decide.meters import check, usage
from supervisor.decide.request import SessionRequest
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.decide.windows import DAY, HOUR
from supervisor.errors import Denied, LimitReached
from supervisor.parser.shfmt import Shfmt
from supervisor.policy.snapshot import Alerts, Autonomy, Snapshot
from tests.unit.decide.samples import caller, peer, request, snapshot

NOW = 1_790_000_000_000 // DAY * DAY / 1000  # a midnight, Unix seconds
WHO = Who("uid:1000", "planner", tool="shell")
OTHER = WHO._replace(agent="other")
SOURCE = "policy.toml:9"


def policy(action: str, *, people: bool = True, **alerts: Any) -> Snapshot:
    somebody = (caller(uid=0, role="administrator"),) if people else ()
    found = snapshot(caller(), *somebody)
    full = Autonomy(level="full", source="policy.toml:4")
    return replace(found, autonomy=full, alerts=Alerts(action=action, source=SOURCE, **alerts))


class Desk:
    def __init__(self, snap: Snapshot, bound: int = 1000) -> None:
        self.snapshot, self.book, self.now = snap, Book(bound), NOW

    def alarm(self, counts: str = FAILED, who: Who = WHO, times: int = 1) -> list[int]:
        """What each of so many things comes to: the count where somebody is told, else 0."""
        (bound,) = (b for b in self.book.plan(self.snapshot).alerts if b.scope == counts)
        return [self.book.alarm(bound, agent_key(who), int(self.now * 1000)) for _ in range(times)]

    def admit(self, agent: str = "planner") -> Any:
        asked = request(labels={"agent": agent})
        return admit_run(self.snapshot, {}, peer(), None, asked, self.state(), analyse_argv(("true",)))

    def state(self) -> Counters:
        return Counters(now=self.now, book=self.book)


def test_somebody_is_told_at_the_bound_once_in_an_hour_of_the_clock() -> None:
    desk = Desk(policy("tell", failed_per_hour=3))
    assert desk.alarm(times=5) == [0, 0, 3, 0, 0]
    assert desk.alarm(who=OTHER, times=3) == [0, 0, 3], "another agent has a count of its own"
    desk.now += 3601
    assert desk.alarm(times=2) == [5, 0], "still over it: told again in the next hour"
    desk.now += 7200
    assert desk.alarm(times=3) == [0, 0, 3]


def test_told_of_it_or_not_nothing_changes_where_policy_only_tells() -> None:
    desk = Desk(policy("tell", failed_per_hour=1))
    assert desk.alarm() == [1]
    found = desk.admit()
    assert (found.verdict, found.left) == ("allow", ())


def test_without_alerts_nothing_is_asked_and_nothing_kept() -> None:
    desk = Desk(policy("ask", blocked_command=True))
    assert desk.book.plan(desk.snapshot).idle
    assert desk.admit().verdict == "allow"
    assert len(desk.book) == 0


@pytest.mark.parametrize(
    ("counts", "rule"), [(FAILED, "alerts.failed_per_hour"), (SENSITIVE, "alerts.sensitive_per_hour")]
)
def test_whoever_is_over_a_bound_that_stops_passes_again_exactly_when_it_is_said(counts: str, rule: str) -> None:
    bounds: dict[str, Any] = {f"{counts}_per_hour": 2}
    desk = Desk(policy("stop", **bounds))
    desk.now += 1800
    desk.alarm(counts)
    assert desk.admit().left == ((rule, 1),)
    desk.alarm(counts, times=2)
    for refused in (desk.admit, lambda: admit_session(desk.snapshot, {}, peer(), opening(), desk.state())):
        with pytest.raises(LimitReached) as refusal:
            refused()
        assert (refusal.value.rule, refusal.value.source, refusal.value.field) == (rule, SOURCE, "agent")
        assert refusal.value.extra["left"] == {rule: 0}
    assert desk.admit("other").verdict == "allow"
    wait = refusal.value.extra["retry_after"]
    assert 1800 < wait < 5400
    desk.now += wait - 0.001
    with pytest.raises(LimitReached):
        desk.admit()
    desk.now += 0.001
    assert desk.admit().left == ((rule, 1),)


def opening() -> SessionRequest:
    return SessionRequest("/srv/agents/a", labels={"agent": "planner"})


def test_whoever_is_over_a_bound_that_asks_is_asked_about_everything_for_no_whole_session() -> None:
    desk = Desk(policy("ask", failed_per_hour=2, sensitive_per_hour=1))
    desk.alarm(times=2)
    desk.alarm(SENSITIVE)
    for found in (desk.admit(), admit_session(desk.snapshot, {}, peer(), opening(), desk.state())):
        assert found.verdict == "ask"
        assert [(r.rule, r.source, r.blanket) for r in found.reasons] == [
            ("alerts.failed_per_hour", SOURCE, False), ("alerts.sensitive_per_hour", SOURCE, False),
        ]  # fmt: skip
    assert desk.admit("other").verdict == "allow"
    desk.now += 2 * HOUR / 1000
    assert desk.admit().verdict == "allow"


@pytest.mark.parametrize("action", ["tell", "ask", "stop"])
def test_each_count_can_have_an_action_of_its_own(action: str) -> None:
    """R103: who reaches for secrets is blocked, who does much is reviewed."""
    bounds: dict[str, Any] = {"failed_per_hour": 1, "sensitive_per_hour": 1}
    desk = Desk(policy(action, actions=(("failed", "ask"), ("sensitive", "stop")), **bounds))
    desk.alarm(FAILED)
    assert [reason.rule for reason in desk.admit().reasons] == ["alerts.failed_per_hour"]
    desk.alarm(SENSITIVE, OTHER)
    with pytest.raises(LimitReached) as refusal:
        desk.admit("other")
    assert refusal.value.rule == "alerts.sensitive_per_hour"
    desk = Desk(policy(action, actions=(("failed", "tell"),), **bounds))
    desk.alarm(FAILED)
    assert desk.admit().verdict == "allow"


def test_a_reason_stays_the_same_while_the_count_goes_on() -> None:
    desk = Desk(policy("ask", failed_per_hour=1))
    desk.alarm()
    before = desk.admit().reasons
    desk.alarm(times=3)
    assert desk.admit().reasons == before


def test_what_would_be_asked_about_is_denied_where_nobody_can_answer() -> None:
    desk = Desk(policy("ask", people=False, failed_per_hour=1))
    desk.alarm()
    with pytest.raises(Denied) as refusal:
        desk.admit()
    assert (refusal.value.rule, refusal.value.source) == ("alerts.failed_per_hour", SOURCE)


@pytest.mark.parametrize(("action", "verdict", "effect"), [("ask", "ask", "ask"), ("stop", "limit", "limit")])
def test_why_says_the_bound_and_that_it_is_for_a_person_to_weigh(action: str, verdict: str, effect: str) -> None:
    desk = Desk(policy(action, failed_per_hour=1))
    desk.alarm()
    asked = request(labels={"agent": "planner"})
    found = explain(desk.snapshot, {}, peer(), None, asked, desk.state(), analyse_argv(("true",)))
    assert found["verdict"] == verdict
    assert (effect, "alerts.failed_per_hour", SOURCE) in [(s["effect"], s["rule"], s["source"]) for s in found["steps"]]
    assert "alerts.failed_per_hour" in found["change"]


def test_a_full_book_counts_nobody_new_and_lets_nobody_new_begin() -> None:
    desk = Desk(policy("tell", failed_per_hour=1, sensitive_per_hour=1), bound=5)
    assert check(desk.snapshot, WHO, "", desk.book, desk.now).left == ()
    assert desk.alarm() + desk.alarm(SENSITIVE) == [1, 1]
    assert len(desk.book) == 4
    assert check(desk.snapshot, WHO, "", desk.book, desk.now).left == (), "its counters are there"
    assert desk.alarm(who=OTHER) == [0]
    assert len(desk.book) == 4
    with pytest.raises(LimitReached) as refusal:
        check(desk.snapshot, OTHER, "", desk.book, desk.now)
    assert refusal.value.rule == "counters"
    desk.now += 2 * HOUR / 1000
    assert check(desk.snapshot, OTHER, "", desk.book, desk.now).left == ()


def test_usage_has_the_counts_of_a_callers_agents_and_no_marks() -> None:
    desk = Desk(policy("ask", failed_per_hour=2))
    desk.alarm(times=3)
    desk.alarm(who=WHO._replace(caller="uid:2000"))
    assert usage(desk.snapshot, "uid:1000", desk.book, desk.now)["alerts"] == [
        {
            "rule": "alerts.failed_per_hour", "source": SOURCE, "scope": "agent", "of": of, "allowed": 2, "used": used,
            "left": left, "counts": "failed", "per": "hour", "action": "ask",
        }
        for of, used, left in (("", 0, 2), ("planner", 3, 0))
    ]  # fmt: skip
    assert desk.book.alarmed(100) == 1
    assert usage(snapshot(), "uid:1000", Book(), NOW)["alerts"] == []


WORKSPACE = "/srv/agents/a"


@pytest.mark.parametrize(("argv", "workspace_only", "expected"), [
    (("cat", "~/.ssh/id_ed25519"), True, True),
    (("cat", "/etc/shadow"), True, True),
    (("sh", "-c", "true; cat .ssh/config"), True, True),  # below the workspace, and a secret all the same
    (("ls", "notes"), True, False),
    (("cat", "/opt/x"), True, False),  # outside of the workspace, which is no forbidden directory
    (("cat", "/etc/hostname"), True, False),
    (("cat", "/etc/hostname"), False, True),
    (("ls", WORKSPACE), False, False),
])  # fmt: skip
def test_which_commands_reach_for_what_is_secret_or_off_limits(
    argv: tuple[str, ...], *, workspace_only: bool, expected: bool
) -> None:
    parser = Shfmt()
    try:
        analysis = analyse_argv(argv, parser.parse)
    finally:
        parser.close()
    autonomy = Autonomy(workspace_only=workspace_only)
    assert sensitive(autonomy, analysis, (WORKSPACE, WORKSPACE)) is expected
