"""Whatever stands behind a program that is followed: it is looked at, and nothing breaks on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.decide.shell import analyse, calls, risks
from supervisor.parser.shfmt import Shfmt

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = sorted(set(calls.STARTS) | set(risks._BY_NAME))
# What the handlers look for, and what nobody would write: empty words, options at the end, values that are none.
WORDS = (
    "", "-", "--", "-c", "-e", "-f", "-a", "-m", "-w", "-S", "-i", "-o", "-X", "-r", "--command", "--command=",
    "--exec", "--exclude", "--image", "--image=", "--scripts", "--parameters", "--from", "--prefix", "--help", "x",
    "/", ".", "a b", "run", "exec", "ssh", "set", "pkg", "scripts.a=b", "cmd.run", "send-command", "commands=[",
    "commands={}", "{}", "[]", "/c", "tinker", "runner", "shell", "dbshell", "manage.py", "db", "execute",
    "install", "get", "del", "apply", "DELETE", "a/nmap:1", "http://example.com/a.tgz", "@x", "root:", "777", "!a",
    "=x", "=", "{", "}", ";", "+", "'", '"', "\\",
)  # fmt: skip
SHELL = (
    "$x", '"$@"', '"${@:2}"', "${x:1:-1}", "${PWD%%/*}", "$((1+2))", "$((08))", "$((1<<99))", "<(a)", ">(a)", "<<<x",
    "3<<<x", "{n}<<<x", "<&3", ">p", "<p", "$(which x)", "$(id -u)", "&", "|", "||", "; }", "=x",
)  # fmt: skip
argvs = st.tuples(st.sampled_from(PROGRAMS), st.lists(st.sampled_from(WORDS), max_size=6)).map(lambda t: [t[0], *t[1]])
texts = st.lists(
    st.tuples(st.sampled_from(PROGRAMS), st.lists(st.sampled_from((*SHELL, *WORDS)), max_size=5)).map(
        lambda t: " ".join([t[0], *t[1]])
    ),
    min_size=1, max_size=3,
).map("; ".join)  # fmt: skip


@pytest.fixture(scope="module")
def shfmt() -> Iterator[Shfmt]:
    with Shfmt() as parser:
        yield parser


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(argvs, st.sampled_from((None, "", "a\nb", "!x", "{", '{"scripts": [1]}')))
def test_any_words(shfmt: Shfmt, argv: list[str], stdin: str | None) -> None:
    found = analyse.analyse_argv(argv, shfmt.parse, stdin)
    assert found.commands[0].words[0] == argv[0]


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(texts)
def test_any_script(shfmt: Shfmt, text: str) -> None:
    found = analyse.analyse_script(text, shfmt.parse)
    assert all(0 <= one.start <= one.end <= len(text) for one in (*found.commands, *found.risks, *found.paths))
