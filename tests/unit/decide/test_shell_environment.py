"""Variables of a request that programs obey count like those of `env NAME=VALUE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.decide.shell import environment
from supervisor.decide.shell.analyse import analyse_argv

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


def test_what_programs_usually_have_is_no_risk() -> None:
    assert analysed(PATH="/usr/local/bin:/usr/bin:/bin", PAGER="cat", EDITOR="vim").risks == ()


def test_a_value_that_cannot_be_read_is_said() -> None:
    found = analysed(GIT_SSH_COMMAND="sh -c 'a; b'")
    assert not found.parsed, "without a parser"
