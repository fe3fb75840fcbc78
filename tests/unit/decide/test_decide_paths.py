"""Which paths may be named: R70 to R78."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.decide.paths import ESCAPE, FORBIDDEN_DIRECTORY, OUTSIDE, Verdict, absolute, classify
from supervisor.policy.match import inside
from supervisor.policy.snapshot import Autonomy

WORKSPACE = "/srv/ws"
HOME = "/home/agent"
OPEN = Autonomy(workspace_only=False)
# As R74 and R75 spell them.
FORBIDDEN = [
    "/etc", "/root", "/proc", "/sys", "/dev", "/boot", "/var/lib", "/var/run", "/usr/sbin", "/usr/bin", "/sbin", "/bin",
    "/lib", "/lib64",
]  # fmt: skip
SECRET = ["~/.ssh", "~/.gnupg", "~/.aws", "~/.config/gcloud"]


def said(path: str, autonomy: Autonomy = Autonomy(), resolved: str | None = None, cwd: str = WORKSPACE) -> str | None:  # noqa: B008
    found = classify(path, workspace=WORKSPACE, cwd=cwd, home=HOME, autonomy=autonomy, resolved=resolved)
    return None if found is None else found.reason


@pytest.mark.parametrize(
    "path", ["a", "./a/b", "a/../b", WORKSPACE, f"{WORKSPACE}/x", "//srv//ws/x", "sub/../../ws/x", ".env"]
)
def test_the_workspace_is_open(path: str) -> None:
    assert said(path) is None


@pytest.mark.parametrize(
    "path", ["..", "../other", "/srv", "/srv/ws2", "/srv/ws/../ws2", "/tmp/x", "~/x", "/etc/passwd", "/", "../../etc"]
)
def test_what_is_not_in_the_workspace_is_outside(path: str) -> None:
    """First of all: also where it is forbidden besides (R72)."""
    assert said(path) == OUTSIDE


@pytest.mark.parametrize("directory", FORBIDDEN)
def test_the_fourteen_are_forbidden_always(directory: str) -> None:
    for path in (directory, f"{directory}/x", f"/srv/..{directory}/x/.."):
        assert said(path, OPEN) == FORBIDDEN_DIRECTORY


@pytest.mark.parametrize("directory", SECRET)
def test_the_four_of_secrets_are_forbidden_always_and_everywhere(directory: str) -> None:
    for path in (
        directory,
        f"{directory}/x",
        f"{HOME}{directory[1:]}/x",
        f"/home/bob{directory[1:]}/x",
        f"~bob{directory[1:]}",
    ):
        assert said(path, OPEN) == FORBIDDEN_DIRECTORY
    assert said(f"{directory[2:]}/x") == FORBIDDEN_DIRECTORY  # in the workspace too


def test_neighbours_of_forbidden_ones_are_not_forbidden() -> None:
    for path in ("/etcetera", "/var/library", "/usr/share/x", "/library", "/opt/x", "~/.sshx", "~/.config/x"):
        assert said(path, OPEN) is None


def test_the_operators_own_are_forbidden_in_the_workspace_too() -> None:
    autonomy = replace(OPEN, forbidden_paths=("/srv/ws/keys", "~/private"))
    assert said("keys/a", autonomy) == FORBIDDEN_DIRECTORY
    assert said("~/private", autonomy) == FORBIDDEN_DIRECTORY
    assert said("keysmith", autonomy) is None


def test_a_grant_opens_one_and_no_more() -> None:
    autonomy = Autonomy(granted_paths=("/etc/ssl", "~/.ssh/known_hosts", "/data"))
    assert said("/etc/ssl/certs/x", autonomy) is None
    assert said("~/.ssh/known_hosts", autonomy) is None
    assert said("/data/x", autonomy) is None
    assert said("/etc/shadow", autonomy) == OUTSIDE
    assert said("~/.ssh/id_rsa", replace(autonomy, workspace_only=False)) == FORBIDDEN_DIRECTORY


def test_a_wide_grant_does_not_open_what_is_forbidden_below_it() -> None:
    autonomy = Autonomy(workspace_only=False, granted_paths=("/", "/srv/ws"), forbidden_paths=("/srv/ws/keys",))
    assert said("/etc/passwd", autonomy) == FORBIDDEN_DIRECTORY
    assert said("keys", autonomy) == FORBIDDEN_DIRECTORY
    assert said("x", autonomy) is None
    assert said("/opt/x", Autonomy(granted_paths=("/",))) is None


def test_a_link_out_of_the_workspace_is_an_escape() -> None:
    assert said("link", resolved="/srv/other/x") == ESCAPE
    assert said("link", resolved="/etc/passwd") == ESCAPE
    assert said("link", OPEN, resolved="/etc/passwd") == ESCAPE
    assert said("link", resolved=f"{WORKSPACE}/real") is None
    assert said("link", OPEN, resolved="/opt/x") is None
    assert said("link", Autonomy(granted_paths=("/data",)), resolved="/data/x") is None


def test_where_the_first_answer_is_no_the_link_does_not_matter() -> None:
    assert said("/opt/link", resolved=f"{WORKSPACE}/x") == OUTSIDE


def test_a_verdict_says_where_and_by_what() -> None:
    found = classify("../x", workspace=WORKSPACE, cwd=f"{WORKSPACE}/a/..", home=HOME, autonomy=Autonomy())
    assert found == Verdict(OUTSIDE, "/srv/x", "workspace_only")
    found = classify("/etc/x", workspace=WORKSPACE, cwd="/", home=HOME, autonomy=OPEN)
    assert found == Verdict(FORBIDDEN_DIRECTORY, "/etc/x", "/etc")


PARTS = st.sampled_from(
    ["a", "ws", "srv", "etc", "..", ".", "", "~", ".ssh", ".aws", "home", "agent", "x y", "root", "var", "lib"]
)
PATHS = st.builds(
    lambda head, parts: head + "/".join(parts),
    st.sampled_from(["", "/", "~/", "/srv/ws/"]),
    st.lists(PARTS, max_size=6),
)
PLACES = st.sampled_from(["/etc", "/srv/ws/a", "/srv", "~/a", "/", "/home", "/var/lib/x", "~/.ssh"])
AUTONOMY = st.builds(
    Autonomy,
    workspace_only=st.booleans(),
    forbidden_paths=st.lists(PLACES, max_size=2).map(tuple),
    granted_paths=st.lists(PLACES, max_size=2).map(tuple),
)


@given(PATHS)
def test_an_absolute_path_is_in_its_normal_form(path: str) -> None:
    full = absolute(path, WORKSPACE, HOME)
    assert full.startswith("/")
    assert not {"", ".", ".."} & set(full.split("/")[1:]) or full == "/"
    assert absolute(full, "/elsewhere", HOME) == full


@given(PATHS, AUTONOMY, PLACES, st.none() | PATHS)
def test_a_further_prohibition_never_opens(path: str, autonomy: Autonomy, place: str, resolved: str | None) -> None:
    narrower = replace(autonomy, forbidden_paths=(*autonomy.forbidden_paths, place))
    if said(path, autonomy, resolved) is not None:
        assert said(path, narrower, resolved) is not None


@given(PATHS, AUTONOMY, PLACES, st.none() | PATHS)
def test_a_further_grant_never_closes(path: str, autonomy: Autonomy, place: str, resolved: str | None) -> None:
    wider = replace(autonomy, granted_paths=(*autonomy.granted_paths, place))
    if said(path, autonomy, resolved) is None:
        assert said(path, wider, resolved) is None


@given(PATHS, AUTONOMY, st.none() | PATHS)
def test_workspace_only_never_opens(path: str, autonomy: Autonomy, resolved: str | None) -> None:
    if said(path, replace(autonomy, workspace_only=False), resolved) is not None:
        assert said(path, replace(autonomy, workspace_only=True), resolved) is not None


@given(PATHS, AUTONOMY)
def test_without_a_grant_nothing_outside_is_open(path: str, autonomy: Autonomy) -> None:
    strict = replace(autonomy, granted_paths=(), workspace_only=True)
    if said(path, strict) is None:
        assert inside(absolute(path, WORKSPACE, HOME), WORKSPACE)


@given(PATHS, AUTONOMY, PATHS)
def test_how_a_path_is_written_does_not_matter(path: str, autonomy: Autonomy, resolved: str) -> None:
    full = absolute(path, WORKSPACE, HOME)
    assert said(path, autonomy, resolved) == said(full, autonomy, resolved) == said(f"{full}/.", autonomy, resolved)
