"""Whole pages, written as an operator would, and the decisions that they lead to.

No set and no order of drop-ins, no role and no label gives more than policy.toml alone does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import assume, given, settings

from supervisor.decide.admission import Admission
from supervisor.errors import PolicyInvalid, StockadeError
from supervisor.policy import narrow
from supervisor.policy.load import _compiled
from supervisor.policy.read import Source
from tests.unit.decide.generated import CASES, made
from tests.unit.decide.test_decide_properties import exact, no_more, told

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from supervisor.policy.snapshot import Snapshot
    from tests.unit.decide.generated import Case

wide = settings(max_examples=200, deadline=None, derandomize=True)
ACCOUNTS = {("user", "root"): 0, ("user", "agent"): 1000, ("group", "agents"): 1000}
LABELS = {"channel": ("a", "a*", "b", "*", "?", ""), "agent": ("a", "ab", "*"), "user": ("a*", "*")}
SAID = {"zone": ("0", "1", "2", "3", "3*", "?", "4"), "role": ("operator", "viewer", "oper*", "extra"),
        "tool": ("shell", "*"), "caller": ("uid:1000", "uid:*")}  # fmt: skip
COMMANDS = ("ls", "rm -rf", "git push", "cat", "python")


def listed(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"


def some(r: Random, of: Sequence[str], least: int = 0, most: int = 3) -> str:
    return listed(r.sample(of, r.randint(least, min(most, len(of)))))


def match(r: Random, **more: tuple[str, ...]) -> str:
    names = r.sample([*(known := {**LABELS, **SAID, **more})], r.randint(0, 2))
    return "{ " + ", ".join(f"{name} = {some(r, known[name], 1, 2)}" for name in names) + " }"


def sometimes(r: Random, line: str, one_in: int = 3) -> str:
    return f"{line}\n" if r.randrange(one_in) == 0 else ""


def level(r: Random) -> str:
    return r.choice(narrow.AUTONOMY)


def context(r: Random) -> str:
    return (
        f"[[contexts]]\nmatch = {match(r)}\n"
        + sometimes(r, f"zone = {r.randint(0, 4)}")
        + sometimes(r, f'autonomy = "{level(r)}"')
        + sometimes(r, f'network = "{r.choice(narrow.NETWORKS)}"')
        + sometimes(r, f"profiles = {some(r, ('shell', 'other', 'third'), 1)}", 6)
        + sometimes(r, f'role = "{r.choice(("viewer", "operator", "extra"))}"', 12)
        + sometimes(r, f"tools = {some(r, ('shell', 'file'), 1)}", 8)
        + sometimes(r, f"blocked_commands = {some(r, COMMANDS, 1)}", 5)
        + sometimes(r, f"approval_patterns = {some(r, COMMANDS, 1)}")
    )


def rule(r: Random, name: str) -> str:
    require = r.choice(
        ("", 'time = ["08:00-18:00"]', 'time = ["22:00-06:00"]', 'days = ["mon-fri"]', 'days = ["sat"]',
         'source_ip = ["10.0.0.0/8"]', 'labels = { channel = ["a*"] }', "audit = true")
    )  # fmt: skip
    return (
        f'[[rules]]\nname = "{name}"\nmatch = {match(r, profile=("shell", "other", "third"))}\n'
        f"permissions = {some(r, ('agent:execute', 'agent:*', '*', 'config:write', 'agent:execute_all'), 1, 2)}\n"
        + ("" if r.randrange(4) == 0 else 'effect = "ask"\n')
        + (f"require = {{ {require} }}\n" if require else "")
    )


def amounts(r: Random) -> str:
    scope = r.choice(("caller", "agent", "user", "channel"))
    return r.choice((f'[[rates]]\nscope = "{scope}"\nper_hour = {r.randint(1, 5)}\n', '[[budgets]]\nwall = "30s"\n'))


def profile(r: Random, name: str, least: int = 0) -> str:
    """With `least` 0 mostly narrower than those of policy.toml, which have at least so many paths of each kind."""
    own = least > 0
    return (
        f"[profiles.{name}]\n"
        f"read = {some(r, ('/usr', '/etc/ssl', '$WORKSPACE', '/opt'), least)}\n"
        f"write = {some(r, ('$WORKSPACE', '/tmp'), least)}\n"
        f"execute = {some(r, ('/usr', '/bin', '$WORKSPACE'), least)}\n"
        f'network = "{r.choice(narrow.NETWORKS)}"\nautonomy = "{"full" if own and r.random() < 0.7 else level(r)}"\n'
        f'limits.memory = "{"1G" if own else r.choice(("64M", "512M", "1G"))}"\n'
        f'limits.timeout = "{90 if own else r.randint(1, 90)}s"\n'
        f"required = {listed(narrow.LAYERS[: r.randint(0, 1) if own else 2])}\n"
    )


def page(r: Random) -> str:
    may = r.choice(('{ "*" = ["*"] }',) * 5 + ('{ channel = ["a*"], "*" = ["*"] }',))
    role = r.choice(("operator",) * 5 + ("extra", "extra", "viewer"))
    return (
        f'[autonomy]\nlevel = "{level(r)}"\n'
        f"blocked_commands = {some(r, COMMANDS, most=1)}\napproval_patterns = {some(r, COMMANDS, most=2)}\n"
        + sometimes(r, "[tools]\nfile_write_enabled = false", 6)
        + '[roles.extra]\npermissions = ["agent:execute"]\n'
        + "".join(profile(r, name, 2) for name in ("shell", "other", "third"))
        + f'[[callers]]\nuser = "agent"\nrole = "{role}"\n'
        + f'profiles = ["shell", "other", "third"]\nworkspaces = ["/srv/agents/*"]\nzone = {r.randint(0, 4)}\n'
        + f'labels = {may}\nautonomy = "{r.choice(("full", "full", "full", level(r)))}"\n'
        + ("" if r.randrange(5) == 0 else '[[callers]]\nuser = "root"\nrole = "administrator"\n')
        + "".join(context(r) for _ in range(r.randint(0, 2)))
        + "".join(rule(r, f"main{n}") for n in range(r.randint(0, 1)))
        + "".join(amounts(r) for _ in range(r.randint(0, 1)))
    )


def drop_in(r: Random, n: int) -> str:
    """Whatever a drop-in may have, but for callers of its own."""
    one: Any = r.choice((context, context, lambda r: rule(r, f"in{n}"), amounts))
    again = profile(r, r.choice(("shell", "shell", "other", "third", "fourth")))
    return str(one(r)) + (again if r.randrange(3) == 0 else "") + (str(amounts(r)) if r.randrange(4) == 0 else "")


def pages(r: Random) -> tuple[str, tuple[str, ...]]:
    return page(r), tuple(drop_in(r, n) for n in range(r.randint(1, 3)))


def loaded(main: str, drop_ins: Sequence[str] = ()) -> Snapshot | None:
    sources = [Source("policy.toml", main.encode(), drop_in=False)]
    sources += [Source(f"policy.d/{n}.toml", text.encode(), drop_in=True) for n, text in enumerate(drop_ins)]
    try:
        return _compiled(sources, [], lambda kind, name: ACCOUNTS.get((kind, name)))
    except PolicyInvalid:
        return None


def confined(found: Admission | StockadeError) -> Any:
    """The profile without the place that it stands in: a drop-in may say it again."""
    return replace(found.profile, source="") if isinstance(found, Admission) else None


def within(one: Admission | StockadeError, other: Admission | StockadeError) -> bool:
    """Whether `one` gives nothing that `other` does not, its profile included."""
    if not no_more(one, other):
        return False
    if not (isinstance(one, Admission) and isinstance(other, Admission)):
        return True
    return narrow.within(one.profile, other.profile) == []


PAGES = made(pages)


@wide
@given(PAGES, CASES)
def test_drop_ins_give_nothing_however_many_there_are(texts, case: Case) -> None:
    main, drop_ins = texts
    base, whole = loaded(main), loaded(main, drop_ins)
    assume(base is not None and whole is not None)
    one = replace(case, live=False)
    assert within(one.decide(whole), one.decide(base))
    assert no_more(case.decide(whole), case.decide(base)) or case.live


@wide
@given(PAGES, CASES)
def test_the_order_of_drop_ins_changes_nothing(texts, case: Case) -> None:
    main, drop_ins = texts
    forth, back = loaded(main, drop_ins), loaded(main, drop_ins[::-1])
    assume(forth is not None and back is not None)
    for policy in (forth, back):
        assert exact(case.decide(policy)) == exact(case.decide(policy))
    assert told(case.decide(forth)) == told(case.decide(back))
    assert confined(case.decide(forth)) == confined(case.decide(back))


@wide
@given(PAGES, CASES)
def test_roles_for_a_time_add_to_who_may_and_take_nothing_away(texts, case: Case) -> None:
    """Who may run by its own role is decided about as if it had no other, and losing one never gives anything."""
    policy = loaded(*texts)
    assume(policy is not None)
    without, given_one = (replace(case, roles=roles).decide(policy) for roles in ((), ("operator", "administrator")))
    assert no_more(without, given_one)
    if policy.callers[0].role != "viewer":
        assert told(without) == told(given_one)
    turned = replace(case, roles=("administrator", "operator")).decide(policy)
    assert told(turned) == told(given_one)


@wide
@given(PAGES, CASES)
def test_what_is_said_of_a_role_holds_for_whoever_runs_by_it(texts, case: Case) -> None:
    policy = loaded(*texts)
    assume(policy is not None)
    own, *others = policy.callers
    by_itself = replace(policy, callers=(replace(own, role="operator"), *others))
    viewer = replace(policy, callers=(replace(own, role="viewer"), *others))
    assert no_more(replace(case, roles=("operator",)).decide(viewer), replace(case, roles=()).decide(by_itself))


@wide
@given(PAGES, CASES)
def test_a_lower_zone_gives_nothing(texts, case: Case) -> None:
    policy = loaded(*texts)
    assume(policy is not None)
    own, *others = policy.callers
    for zone in range(own.zone):
        lower = replace(policy, callers=(replace(own, zone=zone), *others))
        assert no_more(case.decide(lower), case.decide(policy))


def test_most_of_these_pages_load_and_decide_each_way() -> None:
    """What holds of pages that are refused would hold of nothing."""
    seen: dict[str, int] = {"allow": 0, "ask": 0, "refused": 0, "no page": 0}

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(PAGES, CASES)
    def count(texts, case) -> None:
        policy = loaded(*texts)
        found = None if policy is None else case.decide(policy)
        seen["no page" if found is None else found.verdict if isinstance(found, Admission) else "refused"] += 1

    count()
    assert seen["no page"] <= 150, seen
    assert min(seen[verdict] for verdict in ("allow", "ask", "refused")) >= 10, seen
