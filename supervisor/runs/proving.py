"""Proofs that decisions are made: on the policy that is about to serve, the code that serves is made to refuse.

What a policy happens not to use is proved with the one entry added that would: a rule that denies, a rate of one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from supervisor.approvals import terms
from supervisor.approvals.model import Question
from supervisor.approvals.totp import Codes
from supervisor.decide import meters, usual
from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.request import RunRequest
from supervisor.decide.selftest import NOBODY, example, peer_of
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.decide.windows import HOUR
from supervisor.errors import Denied, LimitReached, StepUpRequired, StockadeError
from supervisor.policy.snapshot import Alerts, Breaker, Budget, Concurrency, Context, Rate, Rule
from supervisor.policy.words import may_ever

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Caller, Profile, Snapshot
    from supervisor.state.store import Store

_NOW = 1_767_614_400.0  # Monday, 5 January 2026, 12:00 UTC
_ALWAYS = Rule("proof", ("*",), (), "deny", "proof")


class _Asking:
    """One caller's harmless request under a profile, and what a changed policy makes of it."""

    def __init__(self, snapshot: Snapshot, profile: Profile, caller: Caller) -> None:
        # Alone and without labels that have to be stated: so that nothing else refuses what is to be refused.
        alone = replace(caller, profiles=(profile.name,), role="operator", must_state=())
        bare: dict[str, Any] = {
            "rules": (),
            "contexts": (),
            "rates": (),
            "budgets": (),
            "breaker": Breaker(),
            "alerts": Alerts(),
            "roles": (),
        }
        tools = replace(snapshot.tools, policy="enabled", shell_enabled=True)
        self.snapshot = replace(snapshot, callers=(alone,), tools=tools, concurrency=Concurrency(), **bare)
        self.profile, self.caller = profile, alone

    def refusal(
        self,
        wanted: type[StockadeError],
        rule: str,
        *,
        argv: tuple[str, ...] = ("true",),
        labels: dict[str, str] | None = None,
        tool: str = "shell",
        book: meters.Book | None = None,
        **changes: Any,
    ) -> str:
        """ "" when the request is refused by `rule` under the policy with these changes, else what came of it."""
        request = RunRequest(
            tool=tool, workspace=example(self.caller), profile=self.profile.name, argv=argv, labels=labels or {}
        )
        policy = replace(self.snapshot, **changes)
        peer = peer_of(self.caller)
        state = Counters(now=_NOW, book=book if book is not None else meters.Book())
        try:
            found = admit_run(policy, {}, peer, None, request, state, analyse_argv(argv))
        except wanted as e:
            return "" if (e.rule or "").startswith(rule) else f"refused by {e.rule} instead of {rule}"
        except StockadeError as e:
            return f"refused as {e.code} ({e.detail}) instead of by {rule}"
        return f"{rule}: was not refused but {found.verdict}"


def _first(*found: str) -> str:
    return next((wrong for wrong in found if wrong), "")


def _decision(ask: _Asking) -> str:
    """ "" when commands, labels, tools, contexts and rules decide."""
    autonomy = ask.snapshot.autonomy
    blocked = replace(autonomy, blocked_commands=("proof --blocked",))
    asked = replace(autonomy, level="supervised", blocked_commands=(), approval_patterns=("proof --asked",))
    supervised = replace(ask.profile, autonomy="full")
    narrow = Context((("proof", ("*",)),), "proof", tools=())
    return _first(
        ask.refusal(Denied, "autonomy.blocked_commands[0]", argv=("proof", "--blocked"), autonomy=blocked),
        ask.refusal(
            Denied,
            "autonomy.approval_patterns[0]",
            argv=("proof", "--asked"),
            autonomy=asked,
            callers=(replace(ask.caller, autonomy="full"),),
            profiles=tuple(supervised if p.name == ask.profile.name else p for p in ask.snapshot.profiles),
        ),
        ask.refusal(Denied, "callers.labels", labels={"proof": "x"}, callers=(replace(ask.caller, labels=()),)),
        ask.refusal(Denied, "callers.must_state", callers=(replace(ask.caller, must_state=("proof",)),)),
        ask.refusal(
            Denied, "tools.browser_enabled", tool="browser", tools=replace(ask.snapshot.tools, browser_enabled=False)
        ),
        ask.refusal(Denied, "tools.allow_list", tools=replace(ask.snapshot.tools, policy="restrictive", allow_list=())),
        ask.refusal(Denied, "contexts[0].tools", contexts=(narrow,)),
        ask.refusal(Denied, "rules.proof", rules=(_ALWAYS,)),
    )


def _meters(ask: _Asking) -> str:
    """ "" when rates, budgets, breaker, alerts and places refuse once they are used up."""
    who = meters.Who(f"unit:{ask.caller.unit}" if ask.caller.unit else f"uid:{peer_of(ask.caller).uid}", tool="shell")
    rates = (Rate("caller", 1, 0, 0, "proof"),)
    budgets = (Budget("day", "caller", 1, 0, 0, 0, "proof"),)
    breaker = Breaker(failures=1, source="proof")
    places = Concurrency(runs_per_agent=1, source="proof")

    def alarmed(alerts: Alerts) -> meters.Book:
        """A book in which this caller's agent has reached every bound of alerts."""
        book, agent, now = meters.Book(), meters.agent_key(who), int(_NOW * 1000)
        plan = book.plan(replace(ask.snapshot, alerts=alerts))
        for bound in plan.alerts:
            book.alarm(bound, agent, now)
        for strange in plan.unusual:  # a day of hours with one, then one with two more than that
            for n in range(usual.KNOWN + 3):
                book.strange(strange, agent, now - max(0, usual.KNOWN - n) * HOUR)
        return book

    stop = Alerts(failed_per_hour=1, action="stop", source="proof")
    asks = Alerts(sensitive_per_hour=1, action="ask", source="proof")
    strange = Alerts(unusual=("runs",), unusual_threshold=1, unusual_least=1, action="stop", source="proof")

    def used(**changes: Any) -> meters.Book:
        """A book in which this caller has done something once that failed and took its time."""
        book, policy, now = meters.Book(), replace(ask.snapshot, **changes), int(_NOW * 1000)
        book.begin(policy, "run-proof", who, "", now, what="proof", timeout_ms=1000, cpu=100)
        if "concurrency" not in changes:
            book.end(policy.breaker, "run-proof", meters.Spent(1_000_000, 1_000_000, 1, 1), True, now)
        return book

    return _first(
        ask.refusal(LimitReached, "rates[0].per_minute", book=used(rates=rates), rates=rates),
        ask.refusal(LimitReached, "budgets[0].cpu", book=used(budgets=budgets), budgets=budgets),
        ask.refusal(LimitReached, "breaker", book=used(breaker=breaker), breaker=breaker),
        ask.refusal(LimitReached, "concurrency.runs_per_agent", book=used(concurrency=places), concurrency=places),
        ask.refusal(LimitReached, "alerts.failed_per_hour", book=alarmed(stop), alerts=stop),
        ask.refusal(LimitReached, "alerts.unusual[0]", book=alarmed(strange), alerts=strange),
        # Of those who are left in this policy nobody could answer, so what is asked about is denied.
        ask.refusal(Denied, "alerts.sensitive_per_hour", book=alarmed(asks), alerts=asks),
    )


async def _approvals(store: Store) -> str:
    """ "" when nobody answers their own question and no privileged order passes without its one-time code."""
    own = Question(
        "apr-proof", "run", "pending", {"uid": NOBODY, "pid": 0, "unit": ""}, {}, None, "", "", 0.0, 1.0, 1, b""
    )
    try:
        terms.check_person(own, NOBODY, "")
    except Denied:
        pass
    else:
        return "somebody could answer their own request"
    try:
        await Codes(store, lambda *_: None).verify(NOBODY, None)
    except StepUpRequired:
        return ""
    except StockadeError as e:  # a proof that cannot be made is one that failed
        return e.detail
    return "an order passed without a one-time code"


async def prove(snapshot: Snapshot, profile: Profile, store: Store) -> dict[str, str]:
    """probe -> what is wrong, "" when nothing is, for one profile."""
    caller = next(
        (c for c in snapshot.callers if may_ever(snapshot, c, "agent:execute") and c.workspaces and c.profiles), None
    )
    found = {"approvals": await _approvals(store)}
    if caller is None:  # nobody may run anything, so nothing is decided
        return found | {"decision": "", "meters": ""}
    ask = _Asking(snapshot, profile, caller)
    return found | {"decision": _decision(ask), "meters": _meters(ask)}
