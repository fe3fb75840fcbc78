"""Whatever is wrong with a workspace or a program is refused with its reason, and nothing else happens."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Agent, Daemon
from tests.system.outside import listing, outcomes, policy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root
RENAME_EXCHANGE = 2  # rename(2)
AT_FDCWD = -100


@pytest.fixture(scope="module")
def daemon(ground: Path, agent: Agent) -> Iterator[Daemon]:
    with Daemon(ground, agent, sys.executable, policy()) as running:
        made(running.root / "settled", agent.uid)
        yield running


@pytest.fixture
def place(ground: Path, agent: Agent) -> Iterator[Path]:
    """A directory of the agent in which workspaces of every kind can be made."""
    path = ground / f"place-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    os.chown(path, agent.uid, agent.gid)
    yield path
    shutil.rmtree(path)


def made(path: Path, owner: int) -> Path:
    path.mkdir()
    os.chown(path, owner, owner)
    return path


def records(daemon: Daemon, settled: Path) -> list[dict[str, Any]]:
    """The audit log with everything that was answered so far: records keep their order, and this one is waited for."""
    session = daemon.request("POST", "/v1/sessions", {"workspace": str(settled)}).json["id"]
    assert daemon.request("DELETE", f"/v1/sessions/{session}").json["state"] == "ended"
    return daemon.audit()


def refusal(daemon: Daemon, workspace: str) -> dict[str, Any]:
    """The one refusal of a session and of a run there. Nothing is left, nothing ran, both are in the audit log."""
    known = len(records(daemon, daemon.root / "settled"))
    answers = [
        daemon.request("POST", "/v1/sessions", {"workspace": workspace}),
        daemon.request("POST", "/v1/runs", {"workspace": workspace, "script": "touch ran; touch /tmp/ran"}),
    ]
    assert [a.status for a in answers] == [answers[0].status] * 2
    problems = [a.json for a in answers]
    assert {p["code"] for p in problems} == {problems[0]["code"]}
    for problem in problems:
        assert problem["field"] == "workspace"
        assert problem["hint"]
        assert problem["detail"]
    assert workspace not in [s["workspace"] for s in daemon.request("GET", "/v1/sessions").json["sessions"]]
    new = records(daemon, daemon.root / "settled")[known:]
    recorded = [r for r in new if r["outcome"] == "deny"]
    assert [r["resource"] for r in recorded] == [workspace] * 2
    assert all(r["reason"].startswith(f"{problems[0]['code']}: ") for r in recorded)
    assert not any(r["event_type"] == "outcome" for r in new)
    return {"status": answers[0].status, **problems[0]}


def is_refused(daemon: Daemon, workspace: str | Path, says: str) -> dict[str, Any]:
    problem = refusal(daemon, str(workspace))
    assert (problem["status"], problem["code"]) == (422, "workspace_refused"), problem
    assert says in problem["detail"]
    return problem


def test_a_directory_that_is_not_there(daemon: Daemon, place: Path) -> None:
    assert "make the directory" in is_refused(daemon, place / "missing", "No such file or directory")["hint"]
    assert not (place / "missing").exists()


def test_a_file(daemon: Daemon, agent: Agent, place: Path) -> None:
    (place / "file").write_text("untouched")
    os.chown(place / "file", agent.uid, agent.gid)
    is_refused(daemon, place / "file", "not a directory")
    assert (place / "file").read_text() == "untouched"


@pytest.mark.parametrize("target", ["/etc", "/root", "own"])
def test_a_symbolic_link_wherever_it_leads(daemon: Daemon, agent: Agent, place: Path, target: str) -> None:
    made(place / "own", agent.uid)
    (place / "link").symlink_to(target)
    before = listing(place)
    assert "realpath" in is_refused(daemon, place / "link", "symbolic link")["hint"]
    assert listing(place) == before


def test_a_path_through_a_symbolic_link(daemon: Daemon, agent: Agent, place: Path) -> None:
    made(place / "own", agent.uid)
    made(place / "own" / "below", agent.uid)
    (place / "link").symlink_to("own")
    is_refused(daemon, place / "link" / "below", "symbolic link")
    assert list((place / "own" / "below").iterdir()) == []


def test_a_directory_of_root(daemon: Daemon, place: Path) -> None:
    assert "chown" in is_refused(daemon, made(place / "roots", 0), "belongs to root")["hint"]


def test_a_directory_of_another_user(daemon: Daemon, stranger: Agent, place: Path) -> None:
    is_refused(daemon, made(place / "others", stranger.uid), f"belongs to uid {stranger.uid}")


@pytest.mark.parametrize("path", ["/etc", "/usr/lib", "/", "/proc/self/root/tmp", "/dev/shm", "/srvx", "/home"])
def test_a_place_outside_the_granted_roots(daemon: Daemon, path: str) -> None:
    problem = is_refused(daemon, path, "" if path != "/" else "whole file system")
    if path != "/":
        assert (problem["rule"], "/srv/**" in problem["allowed"]) == ("callers.workspaces", True)
        assert ":" in problem["source"]


@pytest.mark.parametrize("name", [".ssh", ".gnupg", ".aws", ".ssh/below"])
def test_a_directory_of_secrets(daemon: Daemon, agent: Agent, place: Path, name: str) -> None:
    (place / name).mkdir(parents=True)
    for path in place.iterdir():
        os.chown(path, agent.uid, agent.gid)
    is_refused(daemon, place / name, "secrets")


@pytest.mark.parametrize(
    ("workspace", "kept"),
    [
        ("home", ".ssh"),
        ("home", ".gnupg"),
        ("home", ".aws/credentials"),
        ("home", ".config/gcloud"),
        (".config", "gcloud"),
    ],
)
def test_a_home_that_holds_secrets(daemon: Daemon, agent: Agent, place: Path, workspace: str, kept: str) -> None:
    """What lies in a workspace can be read, whatever paths are named; so none may be a home that has keys."""
    home = made(place / workspace, agent.uid)
    (home / kept).mkdir(parents=True)
    assert kept in is_refused(daemon, home, f"holds {kept}")["hint"]


def test_a_repository_with_a_directory_for_aws(daemon: Daemon, agent: Agent, place: Path) -> None:
    repository = made(place / "repository", agent.uid)
    (repository / ".aws").mkdir()
    (repository / ".aws" / "task-definition.json").touch()
    assert daemon.run(repository, "true")["exit_code"] == 0


@pytest.mark.parametrize("shape", ["{0}/.", "{0}/", "{0}/../{1}", "//{2}", "{0}//below"])
def test_a_path_that_is_not_normalised(daemon: Daemon, workspace: Path, shape: str) -> None:
    path = shape.format(workspace, workspace.name, str(workspace)[1:])
    assert "realpath" in is_refused(daemon, path, "normalised")["hint"]


@pytest.mark.parametrize("path", ["relative", "./here", "~", "$HOME"])
def test_a_relative_path(daemon: Daemon, path: str) -> None:
    is_refused(daemon, path, "absolute")


@pytest.mark.parametrize("path", ["/srv/a\0b", "", "/srv/" + "x" * 5000])
def test_a_path_that_no_file_system_has(daemon: Daemon, path: str) -> None:
    for where, body in (("/v1/sessions", {}), ("/v1/runs", {"script": "true"})):
        refused = daemon.request("POST", where, {"workspace": path, **body})
        assert refused.status in (413, 422)
        assert refused.json["field"] == "workspace"
        assert refused.json.get("hint") or refused.json.get("allowed") or refused.json["detail"]
    assert path not in [s["workspace"] for s in daemon.request("GET", "/v1/sessions").json["sessions"]]


def test_a_place_inside_another_live_session_or_around_it(daemon: Daemon, agent: Agent, place: Path) -> None:
    inner = made(made(place / "outer", agent.uid) / "inner", agent.uid)
    for first, second in ((place / "outer", inner), (inner, place / "outer")):
        session = daemon.request("POST", "/v1/sessions", {"workspace": str(first)}).json["id"]
        try:
            refused = daemon.request("POST", "/v1/runs", {"workspace": str(second), "script": "touch ran"})
            assert (refused.status, refused.json["code"], refused.json["field"]) == (409, "conflict", "workspace")
            assert refused.json["hint"]
            assert not (second / "ran").exists()
            again = daemon.run(first, "true")  # the very same one may be shared
            assert again["exit_code"] == 0
        finally:
            daemon.request("DELETE", f"/v1/sessions/{session}")


def test_places_around_each_other_are_free_as_soon_as_a_run_was_answered(
    daemon: Daemon, agent: Agent, place: Path
) -> None:
    inner = made(place / "inner", agent.uid)
    for _ in range(10):
        for path in (place, inner):
            assert daemon.run(path, "true")["exit_code"] == 0


def test_another_users_session_does_not_name_its_place(daemon: Daemon, agent: Agent, place: Path) -> None:
    session = daemon.request("POST", "/v1/sessions", {"workspace": str(place)}).json["id"]
    below = made(place / "below", agent.uid)
    try:
        refused = daemon.request("POST", "/v1/runs", {"workspace": str(below), "script": "true"}, root=True)
        assert (refused.status, refused.json["code"]) == (409, "conflict")
        assert f"({place})" not in refused.json["detail"]
    finally:
        daemon.request("DELETE", f"/v1/sessions/{session}")


def exchange(one: Path, other: Path) -> None:
    """Swap two names in one step, renameat2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, bytes(one), AT_FDCWD, bytes(other), RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["roots", "secret"])
def test_a_place_that_is_swapped_for_a_link_under_way(
    daemon: Daemon, agent: Agent, place: Path, ground: Path, target: str
) -> None:
    """A thread swaps directory and link all the time. Each request is refused or works in the real directory."""
    canary = ground / f"canary-{uuid.uuid4().hex[:8]}"
    if target == "secret":  # the agent's own, but not to be handed in
        canary = made(place / "elsewhere", agent.uid) / ".ssh"
    made(canary, 0 if target == "roots" else agent.uid)
    (canary / "secret").write_text("a secret")
    (canary / "secret").chmod(0o666)
    real, link = made(place / "ws", agent.uid), place / "link"
    (real / "secret").write_text("harmless")
    link.symlink_to(canary)
    before = listing(canary)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            exchange(real, link)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen = {"refused": 0, "ran": 0}
    try:
        for n in range(60):
            body = {"workspace": str(place / "ws"), "script": f"cat secret; echo {n} >> secret; touch f{n}"}
            answer = daemon.request("POST", "/v1/runs", body)
            if answer.status == 200:
                seen["ran"] += 1
                assert answer.json["stdout"].startswith("harmless")
            else:
                seen["refused"] += 1
                assert (answer.status, answer.json["code"]) == (422, "workspace_refused"), answer.body
    finally:
        over.set()
        swapping.join()
    assert listing(canary) == before
    if target == "roots":
        shutil.rmtree(canary)
    assert seen["refused"] > 0, "the swapping was never met"
    assert seen["ran"] > 0, "the swapping was always met"


# --- programs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("no-such-program", "No such file or directory"),
        ("./missing", "No such file or directory"),
        ("/root/program", "No such file or directory"),
        ("./plain", "Permission denied"),
        ("./directory", "Permission denied"),
        ("/tmp", "Permission denied"),
        ("/etc/hosts", "Permission denied"),
        ("./lost", "No such file or directory"),
        ("plain/below", "No such file or directory"),
    ],
)
def test_a_program_that_cannot_be_executed(daemon: Daemon, workspace: Path, program: str, why: str) -> None:
    (workspace / "plain").write_text("#!/bin/sh\necho ran > ran\n")
    (workspace / "directory").mkdir()
    (workspace / "lost").write_text("#!/no/such/interpreter\n")
    (workspace / "lost").chmod(0o755)
    before = listing(workspace)
    refused = daemon.request("POST", "/v1/runs", {"workspace": str(workspace), "argv": [program, "argument"]})
    problem = refused.json
    assert (refused.status, problem["code"], problem["field"]) == (422, "command_not_started", "argv[0]")
    assert problem["detail"] == f"'{program}' cannot be executed: {why}"
    assert "executable" in problem["hint"]
    assert listing(workspace) == before
    assert [r["outcome"] for r in outcomes(daemon, problem["run"])] == ["not_started"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"argv": []}, "argv[0]"),
        ({"argv": [""]}, "argv[0]"),
        ({"argv": ["echo", "a\0b"]}, "argv[1]"),
        ({"script": "echo a\0b"}, "script"),
        ({"argv": ["true"], "env": {"A": "a\0b"}}, "env.A"),
        ({"argv": ["true"], "env": {"A=B": "c"}}, "env"),
        ({"argv": ["true"], "env": {"": "c"}}, "env"),
        ({"argv": ["true"], "script": "true"}, "argv"),
        ({}, "argv"),
        ({"argv": ["true"], "cwd": ""}, "cwd"),
        ({"argv": ["true"], "cwd": "missing"}, "cwd"),
    ],
)
def test_a_command_that_cannot_be_carried_out(
    daemon: Daemon, workspace: Path, body: dict[str, Any], field: str
) -> None:
    refused = daemon.request("POST", "/v1/runs", {"workspace": str(workspace), **body})
    assert (refused.status, refused.json["field"]) == (422, field)
    assert refused.json.get("allowed") or refused.json.get("hint")
    assert list(workspace.iterdir()) == []


def test_newlines_in_arguments_and_environment_are_nothing_special(daemon: Daemon, workspace: Path) -> None:
    run = daemon.run(workspace, "sh", "-c", 'printf "%s" "$1$A"', "sh", "one\ntwo\n", env={"A": "three\n"})
    assert run["stdout"] == "one\ntwo\nthree\n"
    logged = next(r for r in daemon.audit() if r["run"] == run["id"] and r["event_type"] == "decision")
    assert logged["args"][-1] == "one\ntwo\n"
