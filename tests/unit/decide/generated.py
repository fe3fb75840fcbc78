"""Policies, callers and requests for properties, built from a seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from supervisor import errors
from supervisor.decide.admission import Admission, Counters, admit_run
from supervisor.decide.meters import Book, Who
from supervisor.decide.request import Peer, RunRequest
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.policy import snapshot as s
from supervisor.policy.narrow import AUTONOMY, NETWORKS
from supervisor.policy.words import SCOPES
from tests.unit.decide.samples import LIMITS, caller, peer, profile, session, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.trace import Trace

NOW = 1_767_614_400.0  # a Monday at noon, UTC
WORKSPACE = "/srv/agents/a"
VERDICTS = ("allow", "ask", "refused")

NAMES, VALUES = ("channel", "agent", "user"), ("", "a", "ab", "b")
SAID = {  # what policy itself says of a request, and patterns that meet some of it
    "zone": ("0", "1", "2", "3", "4", "3*", "?", "*"),
    "role": ("operator", "viewer", "oper*", "worker", "administrator", "*"),
    "tool": ("shell", "file", "s*", "*"),
    "caller": ("uid:1000", "uid:*", "unit:*", "*"),
}
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
    names = r.sample((*NAMES, *SAID), r.randint(0, 2))
    return tuple((name, tuple(r.sample(SAID.get(name, GLOBS), r.randint(1, 2)))) for name in sorted(names))


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
