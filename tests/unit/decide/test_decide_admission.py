"""Each rule of admission as a table, and what holds for every request."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import errors
from supervisor.decide import admission
from supervisor.decide.admission import Counters, admit_session
from supervisor.decide.shell.model import Analysis
from supervisor.policy.narrow import exceeds
from supervisor.policy.snapshot import Role
from supervisor.runs.model import SessionRequest
from supervisor.wire.messages import LIMITS as NAMES
from tests.unit.decide.samples import LIMITS, caller, peer, profile, request, session, snapshot

FREE = Counters()
admit_run = partial(admission.admit_run, analysis=Analysis())  # what a command looks like has tests of its own
OTHER = "/srv/agents/a/sub"


def ask(workspace: str = "/srv/agents/a", **changes) -> SessionRequest:
    return replace(SessionRequest(workspace), **changes)


def test_what_policy_grants_is_admitted_with_its_entry_and_the_profiles_limits() -> None:
    found = admit_session(snapshot(), {}, peer(), ask(), FREE)
    assert (found.verdict, found.caller, found.profile.name, found.limits) == ("allow", 0, "shell", LIMITS)
    assert found.source == "/etc/stockade/policy.toml:20"
    assert found.rule == "callers[0].profiles"


@pytest.mark.parametrize(
    ("workspace", "rule"),
    [
        ("relative/path", None),
        ("", None),
        ("/srv/agents/../agents/a", None),
        ("/srv/agents/a/", None),
        ("//srv/agents/a", None),
        ("/srv/agents/./a", None),
        ("/", None),
        ("/srv/agents/.ssh", "secret directories"),
        ("/srv/.aws/x", "secret directories"),
        ("/srv/.config/gcloud", "secret directories"),
        ("/srv/agents", "callers.workspaces"),
        ("/srv/agents/a/b", "callers.workspaces"),
        ("/etc", "callers.workspaces"),
    ],
)
def test_a_workspace_that_policy_does_not_grant_is_refused(workspace: str, rule: str | None) -> None:
    policy = snapshot(caller(workspaces=("/srv/agents/*", "/srv/.aws/*", "/srv/.config/*")))
    with pytest.raises(errors.WorkspaceRefused) as refusal:
        admit_session(policy, {}, peer(), ask(workspace), FREE)
    assert refusal.value.field == "workspace"
    assert refusal.value.rule == rule
    assert refusal.value.hint


@pytest.mark.parametrize("workspace", ["/srv/agents/a\0", "/srv/agents/\ud800"])
def test_a_workspace_that_is_no_path_is_refused(workspace: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        admit_session(snapshot(), {}, peer(), ask(workspace), FREE)


def test_a_whole_file_system_is_no_workspace_even_when_a_pattern_names_it() -> None:
    with pytest.raises(errors.WorkspaceRefused):
        admit_session(snapshot(caller(workspaces=("/**", "/"))), {}, peer(), ask("/"), FREE)


def test_a_viewer_may_not_run() -> None:
    with pytest.raises(errors.Denied, match="viewer"):
        admit_session(snapshot(caller(role="viewer")), {}, peer(), ask(), FREE)


def test_a_profile_not_granted_and_one_that_does_not_exist_read_the_same() -> None:
    said = []
    for name in ("other", "ohter"):
        with pytest.raises(errors.Denied) as refusal:
            admit_session(snapshot(), {}, peer(), ask(profile=name), FREE)
        said.append(refusal.value.detail.replace(name, "X"))
        assert refusal.value.allowed == "shell"
    assert said[0] == said[1]


def test_without_a_profile_the_first_that_is_granted_is_meant() -> None:
    for names in (("other",), ("other", "shell"), ("shell", "other")):
        assert admit_session(snapshot(caller(profiles=names)), {}, peer(), ask(), FREE).profile.name == names[0]
    with pytest.raises(errors.Denied) as refusal:
        admit_session(snapshot(caller(profiles=())), {}, peer(), ask(), FREE)
    assert refusal.value.allowed == "none"


def test_a_profile_that_failed_its_proof_is_refused_with_the_probes_name() -> None:
    refused = {"shell": {"profile": "shell", "probe": "read_shadow", "key": "read", "ok": False, "detail": "it read"}}
    with pytest.raises(errors.ProfileRefused, match="read_shadow") as refusal:
        admit_session(snapshot(), refused, peer(), ask(), FREE)
    assert refusal.value.extra["probe"] == "read_shadow"


def test_over_the_number_of_sessions_a_caller_is_told_when_to_come_back() -> None:
    with pytest.raises(errors.LimitReached) as refusal:
        admit_session(snapshot(sessions=3), {}, peer(), ask(), Counters(sessions=3))
    assert refusal.value.extra["retry_after"] >= 1
    assert admit_session(snapshot(sessions=3), {}, peer(), ask(), Counters(sessions=2))


def test_over_the_number_of_runs_a_caller_is_told_when_to_come_back() -> None:
    for where in (None, session()):
        asked = request(workspace=None, session=where.id) if where else request()
        with pytest.raises(errors.LimitReached) as refusal:
            admit_run(snapshot(runs=3), {}, peer(), where, asked, Counters(runs=3))
        assert refusal.value.extra["retry_after"] >= 1


def test_nothing_is_admitted_while_the_emergency_stop_is_on() -> None:
    stopped = Counters(stopped=True)
    with pytest.raises(errors.Stopped) as refusal:
        admit_session(snapshot(), {}, peer(), ask(), stopped)
    assert "stockade resume" in refusal.value.hint
    with pytest.raises(errors.Stopped):
        admit_run(snapshot(), {}, peer(), session(), request(workspace=None), stopped)


@pytest.mark.parametrize("live", ["/srv/agents/a/b", "/srv/agents", "/srv"])
@pytest.mark.parametrize("uid", [1000, 2000])
def test_workspaces_of_live_sessions_do_not_lie_in_one_another(live: str, uid: int) -> None:
    with pytest.raises(errors.Conflict) as refusal:
        admit_session(snapshot(), {}, peer(), ask(), Counters(workspaces=[(live, uid)]))
    assert (live in refusal.value.detail) == (uid == 1000), "another's path is not this caller's to know"


def test_two_sessions_of_one_owner_share_a_workspace_those_of_two_do_not() -> None:
    assert admit_session(snapshot(), {}, peer(), ask(), Counters(workspaces=[("/srv/agents/a", 1000)]))
    with pytest.raises(errors.Conflict):
        admit_session(snapshot(), {}, peer(), ask(), Counters(workspaces=[("/srv/agents/a", 2000)]))
    assert admit_session(snapshot(), {}, peer(), ask(), Counters(workspaces=[("/srv/agents/ab", 2000)]))


def test_the_session_of_another_uid_is_not_there_but_for_administrators() -> None:
    asked = request(workspace=None, session=session().id)
    stranger = snapshot(caller(uid=2000))
    with pytest.raises(errors.NotFound) as hidden:
        admit_run(stranger, {}, peer(2000), session(), asked, FREE)
    with pytest.raises(errors.NotFound) as missing:
        admit_run(stranger, {}, peer(2000), None, asked, FREE)
    assert hidden.value.as_dict() == missing.value.as_dict()
    administrator = snapshot(caller(uid=2000, role="administrator"))
    assert admit_run(administrator, {}, peer(2000), session(), asked, FREE)


def test_to_see_a_session_of_another_is_not_to_run_in_it() -> None:
    """A support role that reads everything and runs in its own sessions is not one that runs in all."""
    asked = request(workspace=None, session=session().id)
    also = ("agent:read", "agent:execute", "agent:read_all")
    policy = replace(snapshot(caller(uid=2000, role="support")), roles=(Role("support", also),))
    with pytest.raises(errors.Denied) as refusal:
        admit_run(policy, {}, peer(2000), session(), asked, FREE)
    assert refusal.value.extra["permission"] == "agent:execute_all"
    granted = replace(policy, roles=(Role("support", (*also, "agent:execute_all")),))
    assert admit_run(granted, {}, peer(2000), session(), asked, FREE)


@pytest.mark.parametrize("state", ["opening", "closing", "ended"])
def test_a_session_that_is_not_live_takes_no_run(state: str) -> None:
    with pytest.raises(errors.Conflict, match=state):
        admit_run(snapshot(), {}, peer(), session(state=state), request(workspace=None), FREE)


def test_a_session_keeps_its_profile() -> None:
    policy = snapshot(caller(profiles=("shell", "other")))
    with pytest.raises(errors.Conflict) as refusal:
        admit_run(policy, {}, peer(), session(), request(workspace=None, profile="other"), FREE)
    assert refusal.value.allowed == "shell"


def test_a_session_takes_no_more_runs_once_a_reload_changed_its_profile() -> None:
    narrowed = snapshot(profiles=(profile(execute=("/usr/bin/git",)),))
    with pytest.raises(errors.Conflict, match="changed by a reload"):
        admit_run(narrowed, {}, peer(), session(), request(workspace=None), FREE)
    moved = snapshot(profiles=(profile(source="/etc/stockade/policy.toml:99"),))
    assert admit_run(moved, {}, peer(), session(), request(workspace=None), FREE)


def test_a_session_takes_no_more_runs_once_a_reload_withdrew_its_grant() -> None:
    for entry in (caller(profiles=("other",)), caller(role="viewer")):
        with pytest.raises(errors.Denied):
            admit_run(snapshot(entry), {}, peer(), session(), request(workspace=None, profile="shell"), FREE)
    with pytest.raises(errors.WorkspaceRefused):
        admit_run(snapshot(caller(workspaces=("/srv/b",))), {}, peer(), session(), request(workspace=None), FREE)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tool": "telnet"}, "tool"),
        ({"workspace": None}, "workspace"),
        ({"argv": ("",)}, "argv[0]"),
    ],
)
def test_a_request_that_says_nothing_executable_is_refused(changes, field: str) -> None:
    with pytest.raises(errors.InvalidRequest) as refusal:
        admit_run(snapshot(), {}, peer(), None, request(**changes), FREE)
    assert refusal.value.field == field


def test_session_and_workspace_together_are_refused() -> None:
    with pytest.raises(errors.InvalidRequest, match="both"):
        admit_run(snapshot(), {}, peer(), session(), request(), FREE)


def test_a_run_may_not_ask_for_more_than_its_session_kept() -> None:
    where = session(limits={"memory": 64 << 20})
    kept = admit_run(snapshot(), {}, peer(), where, request(workspace=None), FREE)
    assert kept.limits.memory == 64 << 20
    with pytest.raises(errors.Denied) as refusal:
        admit_run(snapshot(), {}, peer(), where, request(workspace=None, limits={"memory": 128 << 20}), FREE)
    assert refusal.value.field == "limits.memory"


ASKED = st.dictionaries(st.sampled_from(NAMES), st.integers(-5, 1 << 40), max_size=9)


@given(first=ASKED, second=ASKED)
def test_no_request_gets_more_than_its_profile_and_its_session_grant(first, second) -> None:
    try:
        opened = admit_session(snapshot(), {}, peer(), ask(limits=first), FREE)
    except errors.StockadeError:
        return
    where = session(limits={n: getattr(opened.limits, n) for n in NAMES})
    assert not [n for n in NAMES if exceeds(n, getattr(opened.limits, n), getattr(LIMITS, n))]
    asked = request(workspace=None, limits=second)
    try:
        found = admit_run(snapshot(), {}, peer(), where, asked, FREE)
    except errors.StockadeError:
        return
    assert not [n for n in NAMES if exceeds(n, getattr(found.limits, n), getattr(opened.limits, n))]
    assert found == admit_run(snapshot(), {}, peer(), where, asked, FREE), "the same question, the same answer"
