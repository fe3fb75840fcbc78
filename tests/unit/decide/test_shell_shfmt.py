"""The parser process: its bounds, its errors, and that nothing of it is left."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor import errors
from supervisor.decide.shell.model import ShellSyntaxError
from supervisor.parser import shfmt as module
from supervisor.parser.shfmt import Shfmt

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def shfmt() -> Iterator[Shfmt]:
    with Shfmt() as parser:
        yield parser


def children() -> set[int]:
    return {int(p) for p in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()} | {
        int(p) for task in Path("/proc/self/task").iterdir() for p in (task / "children").read_text().split()
    }


def program(directory: Path, body: str) -> Path:
    path = directory / "shfmt"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_script_becomes_its_tree(shfmt: Shfmt) -> None:
    tree = shfmt.parse("ls -l | wc\n")
    assert tree["Type"] == "File"
    assert tree["Stmts"][0]["Cmd"]["Op"] == "|"


def test_every_text_has_a_parser_of_its_own_and_the_next_one_waits(shfmt: Shfmt) -> None:
    before = children()
    for _ in range(3):
        shfmt.parse("ls")
        assert len(children()) == len(before)
    shfmt.close()
    assert not children() & before


@pytest.mark.parametrize(
    ("text", "said"),
    [("if then", "1:1"), ("echo 'x", "1:6"), ("a\nb (", "2:"), ("$(" * 2000 + ")" * 2000, "depth")],
)
def test_what_is_no_shell_text_is_said_with_its_place(shfmt: Shfmt, text: str, said: str) -> None:
    with pytest.raises(ShellSyntaxError, match=said):
        shfmt.parse(text)
    assert shfmt.parse("ls")["Stmts"]


def test_another_dialect_counts_only_where_bash_reads_nothing(shfmt: Shfmt) -> None:
    assert shfmt.parse("echo ${(U)x}")["Stmts"]  # zsh alone


def test_a_text_over_the_bound_is_refused_before_anything_starts(shfmt: Shfmt) -> None:
    with pytest.raises(ShellSyntaxError, match="65536"):
        shfmt.parse("x" * 65_537)
    assert shfmt.parse("x" * 65_536)["Stmts"]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_no_shell_can_be_given_is_refused(shfmt: Shfmt, text: str) -> None:
    with pytest.raises(ShellSyntaxError, match="offset"):
        shfmt.parse(text)


def test_a_parser_that_hangs_is_ended_in_time(tmp_path: Path) -> None:
    """It has read the text and answers nothing; it ignores what can be ignored."""
    parser = Shfmt(program(tmp_path, "trap '' TERM INT HUP; cat >/dev/null; exec tail -f /dev/null"), seconds=0.3)
    began = time.monotonic()
    with pytest.raises(ShellSyntaxError, match=r"0\.3 seconds"):
        parser.parse("ls")
    assert time.monotonic() - began < 5
    parser.close()
    assert not children()


def test_a_parser_that_answers_and_does_not_end_is_ended(tmp_path: Path) -> None:
    parser = Shfmt(program(tmp_path, "cat >/dev/null; echo '{}'; exec >&- 2>&-; exec tail -f /dev/null"), seconds=5)
    with pytest.raises(ShellSyntaxError):
        parser.parse("ls")
    parser.close()
    assert not children()


def test_an_endless_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OUTPUT", 100_000)
    with (
        Shfmt(program(tmp_path, "cat >/dev/null; yes"), seconds=10) as parser,
        pytest.raises(ShellSyntaxError, match="larger"),
    ):
        parser.parse("ls")


@pytest.mark.parametrize(
    "body", ["exit 0", "echo nonsense; cat >/dev/null", "kill -9 $$", "echo '1:2: bad' >&2; exit 1"]
)
def test_a_parser_that_is_broken_is_an_error_and_no_more(tmp_path: Path, body: str) -> None:
    with Shfmt(program(tmp_path, body), seconds=5) as parser, pytest.raises(ShellSyntaxError):
        parser.parse("ls")


def test_a_waiting_parser_that_died_is_replaced(shfmt: Shfmt) -> None:
    shfmt.parse("ls")
    for pid in children():
        os.kill(pid, 9)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert shfmt.parse("ls")["Stmts"]


def test_a_missing_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.Unavailable, match="could not be started"):
        Shfmt(tmp_path / "none")
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(errors.Unavailable, match="shfmt is not in") as caught:
        Shfmt()
    assert caught.value.hint


def test_a_closed_parser_says_so(shfmt: Shfmt) -> None:
    shfmt.close()
    with pytest.raises(errors.Unavailable, match="closed"):
        shfmt.parse("ls")


def test_several_threads_parse_at_once(shfmt: Shfmt) -> None:
    texts = [f"cmd{i} x" for i in range(24)]
    with ThreadPoolExecutor(6) as pool:
        trees = list(pool.map(shfmt.parse, texts))
    assert [t["Stmts"][0]["Cmd"]["Args"][0]["Parts"][0]["Value"] for t in trees] == [f"cmd{i}" for i in range(24)]
    shfmt.close()
    assert not children()
    assert threading.active_count() == 1


def test_nothing_of_ours_is_open_or_set_in_the_parser(tmp_path: Path) -> None:
    """An empty environment, three descriptors, the root as its directory, no core, little memory."""
    seen = tmp_path / "seen"
    opened = os.open(tmp_path, os.O_RDONLY)
    fd = fcntl.fcntl(opened, fcntl.F_DUPFD, 100)  # inheritable, and no number that the shell takes for itself (10, 11)
    os.close(opened)
    assert os.get_inheritable(fd)
    body = f"{{ cat /proc/self/environ | tr '\\0' '\\n'; ls /proc/$$/fd; pwd; ulimit -c; ulimit -d; }} >{seen}; cat"
    with Shfmt(program(tmp_path, body), seconds=5) as parser, pytest.raises(ShellSyntaxError):
        parser.parse("ls")
    os.close(fd)
    said = seen.read_text()
    assert "HOME=" not in said
    assert str(fd) not in said.split("\n")
    assert f"\n/\n0\n{module.MAX_MEMORY // 1024}" in said
