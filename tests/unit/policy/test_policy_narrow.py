"""Narrowing: nothing that is asked, and no order of asking, adds up to more than the first grant."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import errors
from supervisor.policy import narrow, units
from supervisor.policy.snapshot import Limits, Profile

LIMITS = Limits(
    memory=1 << 30,
    cpu=200,
    processes=64,
    files=256,
    output=1 << 20,
    disk=1 << 20,
    tmp=1 << 20,
    timeout_ms=60_000,
    idle_timeout_ms=0,
)
PROFILE = Profile(
    "p", ("/usr",), ("$WORKSPACE",), ("/usr/bin",), "none", LIMITS, ("seccomp",), (), "/bin/sh", "mapped", "f:1"
)

limits = st.builds(
    Limits,
    **{
        f.name: st.integers(units.LIMITS[f.name][2], units.LIMITS[f.name][2] + 5) | st.just(units.LIMITS[f.name][3])
        for f in fields(Limits)
    },
)
asked = st.dictionaries(st.sampled_from(list(units.LIMITS)), st.integers(-1, 1 << 21), max_size=4)
some_paths = st.lists(
    st.sampled_from(["/", "/usr", "/usr/bin", "/tmp", "$WORKSPACE", "$WORKSPACE/sub", "/tmpx"]), max_size=3, unique=True
).map(tuple)
profiles = st.builds(
    Profile,
    name=st.just("p"),
    read=some_paths,
    write=some_paths,
    execute=some_paths,
    network=st.sampled_from(narrow.NETWORKS),
    limits=limits,
    required=st.lists(st.sampled_from(narrow.LAYERS[:3]), unique=True).map(tuple),
    env=st.just(()),
    shell=st.just("/bin/sh"),
    workspace_owner=st.sampled_from(narrow.OWNERS),
    source=st.just("f:1"),
    autonomy=st.sampled_from(narrow.AUTONOMY),
    allowed_commands=st.lists(st.sampled_from(["git", "ls", "cat"]), unique=True).map(tuple),
)


def wider(a: Limits, b: Limits) -> bool:
    return any(narrow.exceeds(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(Limits))


@given(limits, asked)
def test_narrowed_limits_are_never_wider_than_their_base(base: Limits, request: dict[str, int]) -> None:
    try:
        result = narrow.narrow_limits(base, request)
    except errors.StockadeError:
        return
    assert not wider(result, base)
    assert narrow.narrow_limits(result, request) == result


@given(limits, asked, asked)
def test_the_order_of_two_requests_changes_nothing(base: Limits, one: dict[str, int], two: dict[str, int]) -> None:
    results = set()
    for order in ((one, two), (two, one)):
        try:
            results.add(narrow.narrow_limits(narrow.narrow_limits(base, order[0]), order[1]))
        except errors.StockadeError:
            continue
    assert all(not wider(r, base) for r in results)
    assert len(results) <= 1


@given(profiles)
def test_a_profile_is_within_itself(profile: Profile) -> None:
    assert narrow.within(profile, profile) == []


@given(profiles, profiles, profiles)
def test_within_is_transitive(a: Profile, b: Profile, c: Profile) -> None:
    if not narrow.within(a, b) and not narrow.within(b, c):
        assert not narrow.within(a, c)


@given(profiles, st.lists(profiles, min_size=2, max_size=3))
def test_no_order_of_redefinitions_ends_wider_than_the_first(first: Profile, later: list[Profile]) -> None:
    # Makes redefinitions that have a chance of being accepted: subsets of what is there.
    later = [replace(p, read=p.read[:1], write=(), execute=(), network="none", limits=first.limits) for p in later]
    later = [replace(p, required=narrow.LAYERS[:3], workspace_owner="mapped") for p in later]
    later = [replace(p, autonomy="readonly", allowed_commands=first.allowed_commands) for p in later]
    for order in itertools.permutations(later):
        in_force = first
        for redefinition in order:
            if not narrow.within(redefinition, in_force):
                in_force = redefinition
        assert not narrow.within(in_force, first)


def test_a_denied_limit_names_field_value_bound_and_source() -> None:
    with pytest.raises(errors.Denied) as denied:
        narrow.narrow_limits(LIMITS, {"memory": 2 << 30}, rule="profiles.shell", source="policy.toml:7")
    said = denied.value.as_dict()
    assert said["detail"] == "limits.memory: 2G was asked, 1G is granted"
    assert said["field"] == "limits.memory"
    assert said["rule"] == "profiles.shell.limits.memory"
    assert said["source"] == "policy.toml:7"
    assert said["allowed"] == "memory up to 1G"
    assert said["retry"] == "after_change"


@pytest.mark.parametrize("value", [0, -1, 1 << 70, True, "512M", None, 1.5])
def test_a_limit_that_is_no_usable_integer_is_refused(value: object) -> None:
    with pytest.raises(errors.InvalidRequest):
        narrow.narrow_limits(LIMITS, {"memory": value})  # type: ignore[dict-item]


def test_an_unknown_limit_is_refused() -> None:
    with pytest.raises(errors.InvalidRequest):
        narrow.narrow_limits(LIMITS, {"timeout": 1})


def test_no_idle_timeout_is_wider_than_any() -> None:
    base = replace(LIMITS, idle_timeout_ms=1000)
    with pytest.raises(errors.Denied):
        narrow.narrow_limits(base, {"idle_timeout_ms": 0})
    assert narrow.narrow_limits(LIMITS, {"idle_timeout_ms": 5}).idle_timeout_ms == 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"read": ("/usr", "/etc")}, "read"),
        ({"write": ("/tmp",)}, "write"),
        ({"write": ("$WORKSPACEX",)}, "write"),
        ({"execute": ("/usr",)}, "execute"),
        ({"network": "loopback"}, "network"),
        ({"limits": replace(LIMITS, cpu=201)}, "limits.cpu"),
        ({"limits": replace(LIMITS, timeout_ms=60_001)}, "limits.timeout"),
        ({"required": ()}, "required"),
        ({"workspace_owner": "shared"}, "workspace_owner"),
    ],
)
def test_each_way_of_being_wider_is_named(change: dict[str, object], field: str) -> None:
    violations = narrow.within(replace(PROFILE, **change), PROFILE)  # type: ignore[arg-type]
    assert [v.field for v in violations] == [field]


def test_what_may_be_written_may_be_read() -> None:
    assert narrow.within(replace(PROFILE, read=("$WORKSPACE/sub",)), PROFILE) == []


@pytest.mark.parametrize(
    ("outer", "inner", "wider"),
    [
        ((), (), []),
        ((), ("git",), []),
        (("git",), ("git",), []),
        (("git", "ls"), ("ls",), []),
        (("git",), (), [("every command", None)]),
        (("git",), ("ls", "git", "cat"), [("ls", 0), ("cat", 2)]),
    ],
)
def test_a_list_of_commands_bounds_a_list_and_no_list_is_wider(
    outer: tuple[str, ...], inner: tuple[str, ...], wider: list[tuple[str, int | None]]
) -> None:
    found = narrow.within(replace(PROFILE, allowed_commands=inner), replace(PROFILE, allowed_commands=outer))
    assert [(v.asked, v.index) for v in found] == wider
    assert {v.field for v in found} <= {"allowed_commands"}
