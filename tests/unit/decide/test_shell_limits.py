"""Whatever the text: an answer, in bounded time and size, and nothing raised."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.decide.shell.match import first
from supervisor.decide.shell.model import MAX_JSON, Analysis, ShellSyntaxError
from supervisor.parser.shfmt import Shfmt
from supervisor.policy.deciding import ASKED, BLOCKED
from tests.unit.decide.corpus import entries

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = [e.script for name in ("hostile.txt", "benign.txt") for e in entries(name)]


@pytest.fixture(scope="module")
def shfmt() -> Iterator[Shfmt]:
    with Shfmt() as parser:
        yield parser


def checked(analysis: Analysis) -> None:
    """What holds for every analysis."""
    raw = analysis.to_json()
    assert len(json.dumps(raw)) <= MAX_JSON
    again = Analysis.from_json(json.loads(json.dumps(raw)))
    assert again.to_json() == raw
    assert analysis.parsed == (not analysis.error)
    for found in (*analysis.commands, *analysis.risks, *analysis.paths):
        assert 0 <= found.start <= found.end
    first((*BLOCKED, *ASKED), analysis)


@pytest.mark.parametrize(
    "text",
    [
        "$(" * 2000 + ")" * 2000,
        "echo " + "$(" * 150 + "a" + ")" * 150,
        "${a:-" * 500 + "}" * 500,
        "(" * 30_000,
        "'a' " * 16_384,
        '"a" ' * 16_384,
        "a;" * 30_000,
        "a|" * 20_000 + "b",
        "a&&" * 20_000 + "b",
        "x=" + "a" * 60_000 + "; " + "echo $x;" * 500,
        "x=a; " + "x=$x$x; " * 200 + "echo $x",
        "echo " + "{a,b}" * 40,
        "echo {1..1000000}",
        "f() { f; f; f; }; f",
        "f() { g; g; }; g() { h; h; }; h() { f; f; }; f",
        "for a in 1 2 3 4 5 6 7 8; do " * 8 + "echo $a;" + " done;" * 8,
        "eval " * 2000 + "ls",
        "sudo " * 5000 + "ls",
        "bash -c '" + "ls; " * 10_000 + "'",
        "alias a=b b=a; a; b",
        "alias a='a a'; a",
        "if true; then " * 200 + "ls" + "; fi" * 200,
        "cat <<E\n" + "$(ls)\n" * 8000 + "E\n",
        "a[" * 3000,
        "$((" + "(" * 500 + "1" + ")" * 500 + "))",
        "`" * 3000,
        "\ufdd0\ufdd1\ufdd3 rm",
        "\0rm -rf /",
        "é" * 40_000,
        "x" * 70_000,
        "\ud800",
        "",
        "\n\n#",
        "'",
        "}",
        "rm -rf '",
        "python -c '" + "os.system(\"ls\");" * 3000 + "'",
        "python -c '" + "`" * 20_000 + "'",
        "echo '" + "x|" * 20_000 + "' | sh",
    ],
)  # fmt: skip
def test_no_text_takes_long_or_much(shfmt: Shfmt, text: str) -> None:
    began = time.monotonic()
    checked(analyse_script(text, shfmt.parse))
    assert time.monotonic() - began < 20  # seconds; most take some milliseconds, the parser at most two seconds each


def test_what_is_too_much_is_not_said_to_be_read(shfmt: Shfmt) -> None:
    for text in ("$(" * 2000 + ")" * 2000, "x" * 70_000, "f() { f | f; g; g; }; " + "f; " * 3000):
        analysis = analyse_script(text, shfmt.parse)
        assert not analysis.parsed or len(analysis.commands) > 0
    assert not analyse_script("x" * 70_000, shfmt.parse).parsed
    assert not analyse_script("$(" * 2000 + ")" * 2000, shfmt.parse).parsed


def test_padding_does_not_push_danger_out_of_the_answer(shfmt: Shfmt) -> None:
    """What is left out of a large answer is said, and the risks stay in."""
    text = "".join(f"echo {'x' * 20} {i}\n" for i in range(1700)) + "rm -rf ~\n"
    raw = analyse_script(text, shfmt.parse).to_json()
    assert len(json.dumps(raw)) <= MAX_JSON
    assert any(kind == "destructive" for kind, *_ in raw["risks"])


def test_an_answer_over_its_bound_keeps_what_fits(shfmt: Shfmt) -> None:
    analysis = analyse_script("".join(f"cat <<E\n{'y' * 900}\nE\nrun{i} /p/{i}\n" for i in range(60)), shfmt.parse)
    small = analysis.to_json()
    assert small["parsed"] is True
    big = Analysis(commands=analysis.commands * 40, risks=analysis.risks, paths=analysis.paths).to_json()
    assert big["parsed"] is False
    assert big["error"]
    assert len(json.dumps(big)) <= MAX_JSON
    assert len(big["commands"]) > 100


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_scripts_are_answered(shfmt: Shfmt, data: st.DataObject) -> None:
    """Scripts of the corpora, cut, joined and sprinkled with what means something to a shell."""
    script = data.draw(st.sampled_from(SEEDS))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(script)))
        end = data.draw(st.integers(at, min(len(script), at + 12)))
        piece = data.draw(
            st.sampled_from(
                [
                    "",
                    "'",
                    '"',
                    "$(",
                    ")",
                    "`",
                    "{",
                    "}",
                    "|",
                    "&&",
                    ";",
                    "\n",
                    "<<E\n",
                    "$x",
                    "${",
                    "\\",
                    "((",
                    "é",
                    "*",
                ]
            )
            | st.sampled_from(SEEDS)
        )
        script = script[:at] + piece + script[end:]
    checked(analyse_script(script, shfmt.parse))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=8))
def test_any_words_are_answered(argv: list[str]) -> None:
    checked(analyse_argv(argv))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([s.split() for s in SEEDS]), st.data())
def test_words_of_scripts_in_any_order_are_answered(words: list[str], data: st.DataObject) -> None:
    checked(analyse_argv(data.draw(st.permutations(words[:10]))))


def test_a_parser_that_only_refuses_is_no_reason_to_fail() -> None:
    def refuse(text: str) -> dict[str, object]:
        raise ShellSyntaxError("no")

    analysis = analyse_script("rm -rf /\nls", refuse)
    assert not analysis.parsed
    assert analysis.error == "no"
    assert analysis.commands == ()
