"""Held files: what a human approved is what a run sees in its place, whatever is done to the file meanwhile."""

from __future__ import annotations

import hashlib
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.wire import messages as w
from tests.kernel.hostile import Launcher
from tests.kernel.sessions import Said, opened, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Agent

pytestmark = pytest.mark.root

GOOD = "#!/bin/sh\necho good $0\n"
EVIL = "#!/bin/sh\necho evil $0; touch evil-ran\n"


@pytest.fixture(scope="module")
def launcher(ground: Path, agent: Agent) -> Iterator[Launcher]:
    with Launcher(ground, agent) as made:
        made.reload()
        yield made
        assert os.listdir(f"{made.layout.run}/held") == [], "copies are gone with their runs"
        assert made.security() == []


@pytest.fixture
def session(launcher: Launcher, workspace: Path) -> Iterator[str]:
    with opened(launcher, workspace, launcher.snapshot.digest()) as answer:
        yield answer.session


def put(launcher: Launcher, path: Path, text: str = GOOD, mode: int = 0o755) -> str:
    """A file of the agent's; its hash."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    for made in (path, path.parent):
        os.chown(made, launcher.agent.uid, launcher.agent.gid)
    return hashlib.sha256(text.encode()).hexdigest()


def held(launcher: Launcher, session: str, workspace: Path, files: dict[str, str], *argv: str) -> Said:
    return run(launcher, session, workspace, *argv, held=files)


def inspect(launcher: Launcher, session: str, *paths: str) -> Any:
    return launcher.answer(w.Inspect(launcher.number(), session, list(paths)))


# --- looking ----------------------------------------------------------------------------------------------------


def test_a_file_is_told_as_it_is(launcher: Launcher, session: str, workspace: Path) -> None:
    one, two = put(launcher, workspace / "x.sh"), put(launcher, workspace / "sub" / "y\udcff.sh", "\0" + "ä" * 4096)
    answer = inspect(launcher, session, "x.sh", "sub/y\udcff.sh")
    assert answer.files[0] == {"path": "x.sh", "sha256": one, "size": len(GOOD), "head": GOOD}
    assert (answer.files[1]["sha256"], answer.files[1]["size"]) == (two, 8193)
    assert answer.files[1]["head"] == "\ufffd" + "ä" * 2047 + "\ufffd"


def test_the_largest_answer_fits_a_message(launcher: Launcher, session: str, workspace: Path) -> None:
    paths = [f"f{n}" for n in range(w.MAX_HELD)]
    for path in paths:
        (workspace / path).write_bytes(b"\x01" * (1 << 20))
    assert [f["path"] for f in inspect(launcher, session, *paths).files] == paths


def _secret(launcher: Launcher, workspace: Path) -> None:
    (workspace / "x").write_text("of root")
    (workspace / "x").chmod(0o600)


def _too_large(launcher: Launcher, workspace: Path) -> None:
    put(launcher, workspace / "x", "a" * ((1 << 20) + 1))


def _socket(launcher: Launcher, workspace: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(workspace / "x"))


REFUSED: dict[str, Any] = {
    "not there": lambda *_: None,
    "a directory": lambda _, workspace: os.mkdir(workspace / "x"),
    "a symbolic link": lambda _, workspace: os.symlink("/etc/passwd", workspace / "x"),
    "a FIFO": lambda _, workspace: os.mkfifo(workspace / "x"),
    "a device": lambda _, workspace: os.mknod(workspace / "x", 0o020666, os.makedev(1, 5)),
    "a socket": _socket,
    "what the owner may not read": _secret,
    "too large": _too_large,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_file_of_the_owner_is_neither_shown_nor_run(
    launcher: Launcher, session: str, workspace: Path, kind: str
) -> None:
    REFUSED[kind](launcher, workspace)
    answer = inspect(launcher, session, "x")
    assert (type(answer), answer.code) == (w.Refused, "invalid_request"), kind
    said = held(launcher, session, workspace, {"x": "0" * 64}, "touch", "ran")
    assert (said.ended.cause, said.ended.recorded) == ("denied", True)
    assert said.ended.detail.startswith("x: ")
    assert not (workspace / "ran").exists()


def test_no_way_through_a_link_leads_out(launcher: Launcher, session: str, workspace: Path) -> None:
    os.symlink("/etc", workspace / "out")
    assert inspect(launcher, session, "out/passwd").code == "invalid_request"


def test_a_session_that_is_not_there_shows_nothing(launcher: Launcher) -> None:
    assert inspect(launcher, "ses-nosuchsession", "x").code == "not_found"


# --- running ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [
        ("sh", "x.sh"),
        ("./x.sh",),
        ("/bin/sh", "-c", ". ./x.sh"),
        ("/usr/bin/env", "sh", "-c", "exec ./x.sh"),
    ],
)
def test_what_was_approved_runs_in_its_place(
    launcher: Launcher, session: str, workspace: Path, argv: tuple[str, ...]
) -> None:
    digest = put(launcher, workspace / "x.sh")
    said = held(launcher, session, workspace, {"x.sh": digest}, *argv)
    assert (said.ended.cause, said.ended.exit_code, said.err) == ("exited", 0, ""), said
    assert said.out.startswith("good ")


def test_files_of_a_program_find_each_other(launcher: Launcher, session: str, workspace: Path) -> None:
    files = {
        "tool/main.py": put(launcher, workspace / "tool" / "main.py", "import other; print('main', other.NAME)\n"),
        "tool/other.py": put(launcher, workspace / "tool" / "other.py", "NAME = 'other'\n"),
    }
    said = held(launcher, session, workspace, files, "/usr/bin/python3", "-B", "tool/main.py")
    assert said.out == "main other\n", said


def test_only_the_run_sees_the_copy_and_the_file_is_as_it_was(
    launcher: Launcher, session: str, workspace: Path
) -> None:
    """The copy cannot be written, and to replace it fails too; beside it the run works as ever."""
    digest = put(launcher, workspace / "x.sh")
    before = os.stat(workspace / "x.sh")
    script = (
        "echo more >> x.sh; mv other x.sh; rm -f x.sh; chmod 777 x.sh; cat x.sh; stat -c '%a %u' x.sh; echo new > y"
    )
    (workspace / "other").write_text(EVIL)
    said = held(launcher, session, workspace, {"x.sh": digest}, "/bin/sh", "-c", script)
    assert said.out == f"{GOOD}555 0\n", said
    after = os.stat(workspace / "x.sh")
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    assert (workspace / "y").read_text() == "new\n"
    plain = run(launcher, session, workspace, "/bin/sh", "-c", "echo more >> x.sh && tail -n 1 x.sh && ls /run")
    assert plain.out == "more\n", plain


def test_a_file_that_is_not_executable_is_not_made_so(launcher: Launcher, session: str, workspace: Path) -> None:
    digest = put(launcher, workspace / "x.sh", mode=0o644)
    assert held(launcher, session, workspace, {"x.sh": digest}, "./x.sh").ended.cause == "not_started"
    assert held(launcher, session, workspace, {"x.sh": digest}, "sh", "x.sh").out == "good x.sh\n"


def test_a_file_that_was_changed_does_not_run(launcher: Launcher, session: str, workspace: Path) -> None:
    digest = put(launcher, workspace / "x.sh")
    put(launcher, workspace / "x.sh", EVIL)
    message = launcher.starting(session, workspace, "sh", "x.sh", held={"x.sh": digest})
    launcher.start(message)
    launcher.go(message)
    ended = launcher.ends(message)
    assert (ended.cause, ended.recorded) == ("denied", True)
    assert ended.detail == "x.sh is not what was approved: it was changed since"
    assert launcher.outcomes(message.run) == ["denied"]
    assert not (workspace / "evil-ran").exists()


def test_one_changed_file_of_several_is_enough(launcher: Launcher, session: str, workspace: Path) -> None:
    files = {f"f{n}": put(launcher, workspace / f"f{n}") for n in range(w.MAX_HELD)}
    files["f5"] = "0" * 64
    said = held(launcher, session, workspace, files, "touch", "ran")
    assert (said.ended.cause, said.ended.detail.split(" ")[0]) == ("denied", "f5")
    assert not (workspace / "ran").exists()


def test_a_read_only_session_holds_files_as_well(launcher: Launcher, workspace: Path) -> None:
    digest = put(launcher, workspace / "x.sh")
    with opened(launcher, workspace, launcher.snapshot.digest(), readonly=True) as answer:
        assert answer.receipt["readonly"] is True
        assert held(launcher, answer.session, workspace, {"x.sh": digest}, "./x.sh").out == "good ./x.sh\n"


def test_other_files_than_those_recorded_are_a_surprise(ground: Path, agent: Agent, workspace: Path) -> None:
    with Launcher(ground, agent) as launcher:
        opening = launcher.opening(workspace, launcher.reload())
        launcher.answer(opening)
        recorded = launcher.starting(opening.session, workspace, "sh", "x.sh", held={"x.sh": "0" * 64})
        launcher.go(recorded)
        launcher.start(launcher.starting(opening.session, workspace, *recorded.argv, run=recorded.run))
        launcher.ended()
        assert "not what was recorded" in launcher.security()[0]
