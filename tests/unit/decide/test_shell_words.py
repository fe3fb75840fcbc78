"""The words of commands, as the shell would make them; every place where a command can stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from supervisor.decide.shell.analyse import analyse_argv, analyse_script, needs_parser
from supervisor.parser.shfmt import Shfmt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.decide.shell.model import Analysis


@pytest.fixture(scope="module")
def shfmt() -> Iterator[Shfmt]:
    with Shfmt() as parser:
        yield parser


def words(analysis: Analysis) -> list[tuple[str | None, ...]]:
    return [c.words for c in analysis.commands]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (r"r\m 'a b' \"c d\"", ("rm", "a b", '"c', 'd"')),
        ("x \"a\\$b\\n\"", ("x", "a$b\\n")),
        ("x $'a\\tb\\x41\\101\\u00e9\\''", ("x", "a\tbAAé'")),
        ("x ''", ("x", "")),
        ("x a{b,c}d {1..3} '{a,b}'", ("x", "abd", "acd", "1", "2", "3", "{a,b}")),
        ("x {a,b{1,2}} {x} {a..c} {05..1}", ("x", "a", "b1", "b2", "{x}", "a", "b", "c", "5", "4", "3", "2", "1")),
        ("v='a b'; x $v \"$v\"", ("x", "a", "b", "a b")),
        ("a=(1 '2 3'); x \"${a[@]}\" ${a[1]} \"${a[*]}\"", ("x", "1", "2 3", "2", "3", "1 2 3")),
        ("IFS=:; v=a:b; x $v \"$v\"", ("x", "a", "b", "a:b")),
        ("set -- a 'b c'; x \"$@\" $2 $#", ("x", "a", "b c", "b", "c", None)),
        ("x ~ ~/a ~bob/c \"$HOME/d\"", ("x", "~", "~/a", "~bob/c", "~/d")),
        ("x $unset \"$unset\" a$unset", ("x", None, None, None)),
        ("x -r$unset -f", ("x", "-r", "-f")),
        ("v=abcdef; x ${v:1:2} ${v%ef} ${v#ab} ${v/cd/X} ${v^^} ${v:-z} ${#v}",
         ("x", "bc", "abcd", "cdef", "abXef", "ABCDEF", "abcdef", None)),
        ("x ${none:-d} $(echo e) `printf f`", ("x", "d", "e", "f")),
        ("x $(date) $((1 + 1)) $((n + 1))", ("x", None, "2", None)),
        ("v=1; v+=2; x $v", ("x", "12")),
        ("read v <<< 'hi there'; x \"$v\"", ("x", "hi there")),
        ("printf -v v '%s-%s' a b; x $v", ("x", "a-b")),
        ("x a\\\nb", ("x", "ab")),
    ],
)  # fmt: skip
def test_words_are_made_as_the_shell_makes_them(shfmt: Shfmt, script: str, expected: tuple[str | None, ...]) -> None:
    found = [c for c in words(analyse_script(script, shfmt.parse)) if c[0] == expected[0]]
    assert found == [expected]


@pytest.mark.parametrize(
    "script",
    [
        "if c; then v=a; fi; x $v",
        "c && v=a; x $v",
        "false && w=1 && v=a; x $v",
        "while c; do v=a; done; x $v",
        "case $c in a) v=a;; esac; x $v",
        "v=a; c | while read l; do x $l; done",
        "read v < f; x $v",
        "declare -n r=v; v=a; x $r",
        ". ./f; v=$v; x $v",
        "v=a; . ./f; x $v",
        'v=a; eval "$c"; x $v',
        "v=$(date); x $v",
        "v[0]=a; x ${v[0]}",
        "IFS=$c; v=a; x $v",
    ],
)
def test_what_is_not_certain_is_not_known(shfmt: Shfmt, script: str) -> None:
    """A variable that is set on one way only, or by something unknown, has no value that could be relied on."""
    found = [c for c in words(analyse_script(script, shfmt.parse)) if c[0] == "x"]
    assert found
    assert all(c[1] is None for c in found)


@pytest.mark.parametrize(
    ("script", "first"),
    [
        ("v=a; (v=b); x $v", "a"),
        ("v=a; v=b | c; x $v", "a"),
        ("v=a; w=$(v=b); x $v", "a"),
        ("v=a && w=b && x $v", "a"),
        ("f() { v=b; }; v=a; f; x $v", "b"),
        ("f() { x $1; }; f a", "a"),
        ("for v in a; do x $v; done", "a"),
        ("if true; then v=a; else v=a; fi; x $v", "a"),
    ],
)
def test_what_is_certain_is_known(shfmt: Shfmt, script: str, first: str) -> None:
    found = [c for c in words(analyse_script(script, shfmt.parse)) if c[0] == "x"]
    assert (("x", first)) in found
    assert None not in [c[1] for c in found]


def test_places_of_commands_are_characters_of_the_script(shfmt: Shfmt) -> None:
    """Also behind characters of several bytes, and for text within text: there the outer command is the place."""
    script = "echo 'grüße 🎉'; bash -c \"ls -l\"; pwd"
    places = {c.words[0]: script[c.start : c.end] for c in analyse_script(script, shfmt.parse).commands}
    assert places["pwd"] == "pwd"
    assert places["bash"] == places["ls"] == 'bash -c "ls -l"'


def test_how_a_command_is_reached_is_said(shfmt: Shfmt) -> None:
    script = "env A=b nice sh -c 'xargs ls'; find . -exec cat {} +; trap 'rm x' EXIT"
    via = {c.words[0]: c.via for c in analyse_script(script, shfmt.parse).commands}
    assert via["env"] == ""
    assert via["nice"] == "env"
    assert via["sh"] == "nice"
    assert via["xargs"] == "sh -c"
    assert via["ls"] == "xargs"
    assert via["cat"] == "find -exec"
    assert via["rm"] == "trap"


def test_what_is_fed_to_a_command_is_known(shfmt: Shfmt) -> None:
    script = "echo hi | a; b <<< there; c <<E\nline $x\nE\ncat <<'E' | d\nraw $x\nE\n"
    fed = {c.words[0]: c.stdin for c in analyse_script(script, shfmt.parse).commands}
    assert fed["a"] == "hi\n"
    assert fed["b"] == "there\n"
    assert fed["d"] == "raw $x\n"
    assert fed["c"] is not None
    assert fed["c"].startswith("line ")


def test_redirections_and_paths_are_named(shfmt: Shfmt) -> None:
    analysis = analyse_script(
        "sort -o out/x /data/in >log/y 2>/dev/null <z; dd if=/a of=b/c; tool --to=/etc/q", shfmt.parse
    )
    named = {p.path: p.writes for p in analysis.paths}
    assert named == {
        "out/x": True,
        "/data/in": False,
        "log/y": True,
        "z": False,
        "/a": False,
        "b/c": True,
        "/etc/q": False,
    }
    assert analysis.commands[0].redirects == ((">", "log/y"), ("2>", "/dev/null"), ("<", "z"))


@pytest.mark.parametrize(
    ("script", "scripts"),
    [
        ("bash x.sh a", ("x.sh",)),
        ("sh -e ./dir/x.sh", ("./dir/x.sh",)),
        (". lib.sh", ("lib.sh",)),
        ("source ./lib.sh; python3 -u tool.py", ("./lib.sh", "tool.py")),
        ("cat x.sh | bash", ("x.sh",)),
        ("bash < x.sh", ("x.sh",)),
        ("node build/main.js", ("build/main.js",)),
        ("env A=b nice perl x.pl", ("x.pl",)),
        ("python -m pytest x.py", ()),
        ("bash -c 'echo x.sh'", ()),
        ("BASH_ENV=./e bash -c ls", ("./e",)),
        ("./run.sh now", ("./run.sh",)),
        ("sub/tool", ("sub/tool",)),
    ],
)
def test_files_that_are_run_are_named(shfmt: Shfmt, script: str, scripts: tuple[str, ...]) -> None:
    assert analyse_script(script, shfmt.parse).scripts == scripts


@pytest.mark.parametrize(
    ("argv", "needed"),
    [
        (["ls", "-l"], False),
        (["bash", "x.sh"], False),
        (["bash", "-c", "ls -l"], False),
        (["bash", "-c", "ls; pwd"], True),
        (["env", "A=b", "sh", "-c", "a|b"], True),
        (["xargs", "sh", "-c", "a && b"], True),
        (["find", ".", "-exec", "sh", "-c", "x; y", ";"], True),
        (["git", "-c", "alias.x=!a;b", "x"], True),
        (["git", "log", "--grep", "a;b"], False),
        (["python", "-c", "print(1)"], False),
        (["ssh", "host", "a; b"], True),
        (["echo", "a; b"], False),
    ],
)
def test_whether_a_parser_is_needed_is_known_beforehand(argv: list[str], needed: bool) -> None:
    assert needs_parser(argv) is needed


def test_code_of_a_language_is_read_where_time_is_bounded() -> None:
    """Not in the loop that serves everybody: code can be made to take a tenth of a second."""
    code = "x = [1]\n" + "x = x + x\n" * 10 + "x = list(map(chr, x))\n" * 10
    assert needs_parser(("python3", "-c", code))
    assert needs_parser(("env", "timeout", "5", "node", "-e", code))
    assert not needs_parser(("python3", "-c", "print(1)"))
    assert not needs_parser(("git", "commit", "-m", code))


def test_without_a_parser_the_text_is_said_not_to_be_read(shfmt: Shfmt) -> None:
    argv = ["sh", "-c", "ls; rm -rf /"]
    blind = analyse_argv(argv)
    assert not blind.parsed
    assert blind.error
    assert words(blind) == [tuple(argv)]
    assert ("rm", "-rf", "/") in words(analyse_argv(argv, shfmt.parse))


def test_what_a_run_is_fed_is_looked_at(shfmt: Shfmt) -> None:
    assert ("rm", "-rf", "/") in words(analyse_argv(["bash"], shfmt.parse, stdin="rm -rf /"))
    assert ("rm", "-rf", "/") in words(analyse_script("cat | sh", shfmt.parse, stdin="rm -rf /"))


def test_where_sh_reads_otherwise_than_bash_both_readings_count(shfmt: Shfmt) -> None:
    r"""To bash `$'\'; x #'` is one word; to sh the quotes end at the second one."""
    found = words(analyse_script(": $'\\'; x y #'", shfmt.parse))
    assert (":", "'; x y #") in found
    assert ("x", "y") in found
