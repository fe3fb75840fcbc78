"""Properties of loading: no set and no order of drop-ins widens, adding one never does, JSON loses nothing."""

from __future__ import annotations

import tempfile
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from supervisor.errors import PolicyInvalid
from supervisor.policy import narrow
from supervisor.policy.snapshot import Snapshot, from_json
from supervisor.policy.words import BUILT_IN, PRIVILEGED, role_permits
from tests.unit.policy.conftest import PolicyFiles

if TYPE_CHECKING:
    from collections.abc import Sequence

MAIN = """\
[ceiling]
network = "none"
limits = { memory = "2G" }
workspaces = ["/srv/**"]
[profiles.shell]
read = ["/usr", "/bin"]
write = ["$WORKSPACE", "/tmp"]
execute = ["/usr", "/bin"]
autonomy = "supervised"
[profiles.open]
read = ["/usr", "/opt", "$WORKSPACE"]
execute = ["/usr"]
[autonomy]
level = "supervised"
[roles.keeper]
permissions = ["config:write"]
[[callers]]
user = "agent"
role = "operator"
profiles = ["shell", "open"]
workspaces = ["/srv/a"]
labels = { channel = ["*"] }
[[contexts]]
match = { channel = ["discord"] }
autonomy = "readonly"
[[rates]]
per_minute = 20
"""

_names = st.sampled_from(["shell", "open", "new"])


def _subset(*of: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(of), unique=True)


def _toml(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{v}"' for v in values) + "]"


@st.composite
def profiles(draw: Any) -> str:
    """A profile; mostly one that is narrower than what MAIN has, sometimes wider in one respect or several."""

    def value(narrower: Any, wider: Any) -> Any:
        return draw(wider if draw(st.integers(0, 19)) == 0 else narrower)

    name = draw(_names)
    writes = ("$WORKSPACE", "$WORKSPACE/out", "/tmp") if name != "open" else ()
    return (
        f"[profiles.{name}]\n"
        f"read = {_toml(value(_subset('/usr', '/usr/share', '$WORKSPACE'), _subset('/bin', '/opt', '/srv')))}\n"
        f"write = {_toml(value(_subset(*writes) if writes else st.just([]), _subset('$WORKSPACE', '/dev/shm')))}\n"
        f"execute = {_toml(value(_subset('/usr', '/usr/bin'), _subset('/opt', '/usr')))}\n"
        f'network = "{value(st.just("none"), st.just("loopback"))}"\n'
        f'autonomy = "{value(st.sampled_from(["readonly", "supervised"]), st.just("full"))}"\n'
        f'limits.memory = "{value(st.sampled_from(["64M", "512M", "1G"]), st.just("3G"))}"\n'
    )


@st.composite
def callers(draw: Any) -> str:
    return (
        f"[[callers]]\nuid = {draw(st.integers(2000, 2003))}\n"
        f'role = "{draw(st.sampled_from(["viewer", "operator", "administrator", "keeper"]))}"\n'
        f'workspaces = {_toml(draw(_subset("/srv/a", "/srv/*", "/home/*")))}\nprofiles = ["open"]\n'
    )


@st.composite
def narrowings(draw: Any) -> str:
    return str(
        draw(
            st.sampled_from(
                [
                    '[[contexts]]\nmatch = { tool = ["shell"] }\nautonomy = "readonly"\n',
                    '[[contexts]]\nmatch = {}\nautonomy = "full"\n',
                    '[[rules]]\nname = "one"\n',
                    '[[rules]]\nname = "two"\neffect = "ask"\n',
                    '[[rates]]\nscope = "caller"\nper_minute = 5\n',
                    '[[budgets]]\ncpu = "1h"\n',
                    '[autonomy]\nlevel = "full"\n',
                    '[roles.operator]\npermissions = ["*"]\n',
                    "[ceiling]\n",
                    "[tools]\nbrowser_enabled = true\n",
                ]
            )
        )
    )


def anything(cls: Any) -> st.SearchStrategy[Any]:
    """Any instance of a dataclass of the snapshot, with every field drawn, also those that have a default."""
    made = {}
    for name, hint in get_type_hints(cls).items():
        inner = get_args(hint)[0] if get_args(hint) else None
        if is_dataclass(hint):
            made[name] = anything(hint)
        elif is_dataclass(inner) and type(None) in get_args(hint):
            made[name] = st.none() | anything(inner)
        elif is_dataclass(inner):
            made[name] = st.lists(anything(inner), max_size=2).map(tuple)
        else:
            made[name] = st.from_type(hint)
    return st.builds(cls, **made)


drop_ins = st.lists(st.one_of(profiles(), profiles(), profiles(), callers(), narrowings()), min_size=1, max_size=3)


def loaded(texts: Sequence[str]) -> Snapshot | None:
    """What policy.toml and these drop-ins, in this order, load to; None when they are refused."""
    with tempfile.TemporaryDirectory() as root:
        files = PolicyFiles(Path(root))
        files.write(MAIN)
        for n, text in enumerate(texts):
            files.write(text, f"{n:02}.toml")
        try:
            return files.load()
        except PolicyInvalid:
            return None


def check_no_wider(s: Snapshot, base: Snapshot) -> None:
    for profile in s.profiles:
        before = base.profile(profile.name)
        if before is not None:
            assert narrow.within(profile, before) == []
        assert profile.network == "none"
        assert profile.limits.memory <= 2 << 30
    assert (s.tools.policy, s.tools.browser_enabled) == (base.tools.policy, base.tools.browser_enabled)
    assert (s.autonomy.level, s.autonomy.blocked_commands) == (base.autonomy.level, base.autonomy.blocked_commands)
    assert [(r.name, r.permissions) for r in s.roles] == [(r.name, r.permissions) for r in base.roles]
    assert [c.role for c in s.callers if c.uid == 1500] == ["operator"]
    for caller in s.callers:
        assert caller.role in BUILT_IN
        assert not any(role_permits(s, caller.role, p) for p in (*PRIVILEGED, "approvals:answer", "agent:end_all"))
        assert not narrow.workspaces_within(caller.workspaces, ("/srv/**",))
    assert {c.match for c in base.contexts} <= {c.match for c in s.contexts}
    assert {(r.scope, r.per_minute) for r in base.rates} <= {(r.scope, r.per_minute) for r in s.rates}


@settings(max_examples=60, deadline=None)
@given(drop_ins, st.randoms(use_true_random=False))
def test_no_set_and_no_order_of_drop_ins_widens(texts: list[str], random: Any) -> None:
    base = loaded([])
    assert base is not None
    random.shuffle(texts)
    for files in (texts, texts[::-1], texts[1:]):
        found = loaded(files)
        if found is not None:
            check_no_wider(found, base)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(profiles(), narrowings()), max_size=3), profiles())
def test_one_more_drop_in_never_widens_a_profile(texts: list[str], more: str) -> None:
    before = loaded(texts)
    assume(before is not None)
    after = loaded([*texts, more])
    assert before is not None
    for profile in after.profiles if after is not None else ():
        earlier = before.profile(profile.name)
        assert earlier is None or narrow.within(profile, earlier) == []


@settings(max_examples=30, deadline=None)
@given(drop_ins)
def test_the_same_files_load_to_the_same_snapshot_or_the_same_findings(texts: list[str]) -> None:
    one, two = loaded(texts), loaded(texts)
    assert (one is None) == (two is None)
    if one is not None and two is not None:
        # Paths differ by the directory of the test alone.
        assert [p.limits for p in one.profiles] == [p.limits for p in two.profiles]
        assert len(one.to_json()) == len(two.to_json())


@settings(max_examples=25, deadline=None)
@given(anything(Snapshot))
def test_json_loses_nothing_of_any_snapshot(snapshot: Snapshot) -> None:
    assert from_json(snapshot.to_json()) == snapshot
    assert from_json(snapshot.to_json()).digest() == snapshot.digest()
