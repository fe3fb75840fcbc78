"""Held files against somebody who replaces them while the run starts: over and over, what was not approved never runs.

The control shows that the same attack, on a run that holds nothing, succeeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.kernel.hostile import Launcher
from tests.kernel.sessions import Said, opened, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.harness import Agent

pytestmark = pytest.mark.root

GOOD = "#!/bin/sh\necho good\n"
EVIL = "#!/bin/sh\necho evil\n"
DIGEST = hashlib.sha256(GOOD.encode()).hexdigest()
RUNS = 60


@pytest.fixture(scope="module")
def launcher(ground: Path, agent: Agent) -> Iterator[Launcher]:
    with Launcher(ground, agent) as made:
        made.reload()
        yield made
        assert os.listdir(f"{made.layout.run}/held") == []


@pytest.fixture
def session(launcher: Launcher, workspace: Path) -> Iterator[str]:
    """With evil in its private /tmp, and both in the workspace, the good one at sub/x.sh as well."""
    (workspace / "sub").mkdir()
    (workspace / "other").mkdir()
    for place, text in (("good", GOOD), ("evil", EVIL), ("sub/x.sh", GOOD), ("other/x.sh", EVIL), ("x.sh", GOOD)):
        (workspace / place).write_text(text)
        (workspace / place).chmod(0o755)
    for path in workspace.rglob("*"):
        os.chown(path, launcher.agent.uid, launcher.agent.gid)
    with opened(launcher, workspace, launcher.snapshot.digest()) as answer:
        run(launcher, answer.session, workspace, "cp", "evil", "/tmp/evil")
        yield answer.session


def by_rename(workspace: Path) -> None:
    for name in ("evil", "good"):
        os.link(workspace / name, workspace / "next")
        os.replace(workspace / "next", workspace / "x.sh")


def by_moving_away(workspace: Path) -> None:
    os.rename(workspace / "x.sh", workspace / "away")
    os.rename(workspace / "evil", workspace / "x.sh")
    os.rename(workspace / "x.sh", workspace / "evil")
    os.rename(workspace / "away", workspace / "x.sh")


def by_a_link_to(target: str) -> Callable[[Path], None]:
    def change(workspace: Path) -> None:
        os.symlink(target, workspace / "next")
        os.replace(workspace / "next", workspace / "x.sh")
        os.link(workspace / "good", workspace / "next")
        os.replace(workspace / "next", workspace / "x.sh")

    return change


def by_the_directory(workspace: Path) -> None:
    os.rename(workspace / "sub", workspace / "away")
    os.rename(workspace / "other", workspace / "sub")
    os.rename(workspace / "sub", workspace / "other")
    os.rename(workspace / "away", workspace / "sub")


def by_writing(workspace: Path) -> None:
    for text in (EVIL, GOOD):
        (workspace / "x.sh").write_text(text)


def by_a_pipe(workspace: Path) -> None:
    os.mkfifo(workspace / "next")
    os.replace(workspace / "next", workspace / "x.sh")
    os.link(workspace / "good", workspace / "next")
    os.replace(workspace / "next", workspace / "x.sh")


WAYS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "rename": ("x.sh", by_rename),
    "moving away": ("x.sh", by_moving_away),
    "a link in the workspace": ("x.sh", by_a_link_to("evil")),
    "a link to the session's /tmp": ("x.sh", by_a_link_to("/tmp/evil")),
    "the directory": ("sub/x.sh", by_the_directory),
    "writing": ("x.sh", by_writing),
    "a pipe": ("x.sh", by_a_pipe),
}


@contextlib.contextmanager
def attacked(workspace: Path, change: Callable[[Path], None]) -> Iterator[list[int]]:
    """Change the workspace again and again meanwhile; how often, in a list that grows."""
    done: list[int] = []
    end = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not end.is_set():
                change(workspace)
                done.append(1)
        except BaseException as e:
            failures.append(e)

    attacker = threading.Thread(target=work)
    attacker.start()
    try:
        yield done
    finally:
        end.set()
        attacker.join()
    assert failures == []
    assert len(done) > RUNS, "the attack was made"


def many(launcher: Launcher, session: str, workspace: Path, path: str, *, hold: bool) -> list[Said]:
    held = {path: DIGEST} if hold else {}
    found = []
    for number in range(RUNS):
        argv = ("sh", path) if number % 2 else (f"./{path}",)
        found.append(run(launcher, session, workspace, *argv, held=held))
    return found


@pytest.mark.parametrize("way", WAYS)
def test_what_was_not_approved_never_runs(launcher: Launcher, session: str, workspace: Path, way: str) -> None:
    path, change = WAYS[way]
    with attacked(workspace, change):
        found = many(launcher, session, workspace, path, hold=True)
    assert [said for said in found if "evil" in said.out] == []
    ends = {said.ended.cause for said in found}
    assert ends <= {"exited", "denied", "not_started"}, [s for s in found if s.ended.cause not in ends]
    assert all(said.out == "good\n" for said in found if said.ended.exit_code == 0), found


@pytest.mark.parametrize("way", ["rename", "a link to the session's /tmp", "the directory"])
def test_without_holding_it_would(launcher: Launcher, session: str, workspace: Path, way: str) -> None:
    path, change = WAYS[way]
    with attacked(workspace, change):
        found = many(launcher, session, workspace, path, hold=False)
    assert [said for said in found if "evil" in said.out]


def test_another_run_of_the_session_replaces_nothing_either(launcher: Launcher, session: str, workspace: Path) -> None:
    script = "while :; do ln evil n$1; mv -f n$1 x.sh; ln good n$1; mv -f n$1 x.sh; done"
    messages = [launcher.starting(session, workspace, "sh", "-c", script, "sh", str(n)) for n in range(2)]
    for message in messages:
        launcher.start(message)
        launcher.go(message)
    found = many(launcher, session, workspace, "x.sh", hold=True)
    assert [said for said in found if "evil" in said.out] == []
    assert [said for said in found if said.ended.cause == "denied"], "the attack was made"


def test_a_file_that_is_replaced_while_its_run_goes_on_ends_it(
    launcher: Launcher, session: str, workspace: Path
) -> None:
    script = "#!/bin/sh\necho begun >&2\nread line\n"
    (workspace / "x.sh").write_text(script)
    digest = hashlib.sha256(script.encode()).hexdigest()
    message = launcher.starting(session, workspace, "sh", "x.sh", held={"x.sh": digest})
    stdin, out, err = pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    try:
        launcher.start(message, (stdin[0], out[1], err[1]))
        launcher.go(message)
        assert os.read(err[0], 100) == b"begun\n"
        (workspace / "unrelated").write_text("a change beside it is none")
        os.rename(workspace / "unrelated", workspace / "other-name")
        os.replace(workspace / "evil", workspace / "x.sh")
        ended = launcher.ends(message)
    finally:
        for fd in (fd for pipe in pipes for fd in pipe):
            os.close(fd)
    assert (ended.cause, ended.recorded) == ("denied", True)
    assert ended.detail == "x.sh was replaced after it was approved, so the run was ended"
    assert launcher.outcomes(message.run) == ["denied"]
