"""Variables of a request that programs obey count like those of `env NAME=VALUE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.decide.shell import environment
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.parser.shfmt import Shfmt

if TYPE_CHECKING:
    from supervisor.decide.shell.model import Analysis

ARGV = ("git", "fetch")


def analysed(**env: str) -> Analysis:
    set_to = environment.settings(env)
    return environment.beside(analyse_argv(ARGV), set_to, analyse_argv(environment.carrier(set_to)))


def test_what_nothing_obeys_is_not_looked_at() -> None:
    assert environment.settings({"LANG": "C", "API_KEY": "rm -rf /", "HOME": "/tmp", "path": "."}) == ()


def test_a_command_in_a_variable_is_a_command() -> None:
    found = analysed(GIT_SSH_COMMAND="nmap -sS localhost")
    assert [c.words for c in found.commands] == [ARGV, ("nmap", "-sS", "localhost")]
    assert "scanning" in {r.kind for r in found.risks}


def test_the_command_keeps_its_places_and_the_variables_have_none() -> None:
    found = analysed(LD_PRELOAD="./own.so", PATH="/tmp/bin:/bin")
    assert [(c.start, c.end) for c in found.commands] == [(0, 9)]
    assert {(r.kind, r.start, r.end) for r in found.risks} == {("evasion", -1, -1)}
    assert len(found.risks) == 2
    assert not any("=" in p.path for p in found.paths)


def test_what_a_shell_reads_first_is_a_script() -> None:
    assert analysed(BASH_ENV="./first.sh").scripts == ("./first.sh",)


@pytest.mark.parametrize("name", ["BASH_FUNC_git%%", "BASH_FUNC_git()"])
def test_a_function_that_bash_takes_from_a_variable_is_shown_and_what_it_runs_is_a_command(name: str) -> None:
    """It stands in the place of a program, which is what the command would look like to a person."""
    value = "() { nmap -sS localhost; }"
    set_to = environment.settings({name: value})
    assert set_to == (f"{name}={value}",)
    with Shfmt() as shfmt:
        carried = analyse_argv(environment.carrier(set_to), shfmt.parse)
    found = environment.beside(analyse_argv(ARGV), set_to, carried)
    assert ("nmap", "-sS", "localhost") in [c.words for c in found.commands]
    assert ("evasion", "puts a function of bash in the place of git") in {(r.kind, r.detail) for r in found.risks}


def test_what_env_takes_for_a_variable_is_no_program() -> None:
    """env(1) takes every word with a `=`, whatever a shell would say of the name."""
    assert [c.words for c in analyse_argv(("env", "A.B%%=1", "nmap", "x")).commands][-1] == ("nmap", "x")


def test_what_programs_usually_have_is_no_risk() -> None:
    assert analysed(PATH="/usr/local/bin:/usr/bin:/bin", PAGER="cat", EDITOR="vim").risks == ()


def test_a_value_that_cannot_be_read_is_said() -> None:
    found = analysed(GIT_SSH_COMMAND="sh -c 'a; b'")
    assert not found.parsed, "without a parser"
