"""Patterns of policy against commands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.decide.shell.match import first
from supervisor.decide.shell.model import Analysis, Command
from supervisor.parser.shfmt import Shfmt

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shfmt() -> Iterator[Shfmt]:
    with Shfmt() as parser:
        yield parser


@pytest.mark.parametrize(
    ("pattern", "command"),
    [
        ("rm -rf /", "rm -r --force -- /"),
        ("rm -rf /", "rm --recurs --f //"),
        ("rm -rf", "rm -f x -R y"),
        ("rm --recursive", "rm -r x"),
        ("rm -rf /srv/data", "rm -rf /srv//data/"),
        ("rm -rf /srv/data", "rm -fr /srv/x/../data/*"),
        ("rm -rf ~", "rm -rf ~/"),
        ("mkfs", "mkfs.btrfs x"),
        ("dd if=", "dd of=x if=y"),
        ("dd if=", "dd of=x if="),
        ("chmod 777", "chmod -R 0777 x"),
        ("chmod 777", "chmod +rwx x"),
        ("chmod -R 777", "chmod --recursive a+rwx x"),
        ("chown root", "chown --from=a root:root x"),
        ("chown root", "chown 0:0 x"),
        ("git push --force", "git push -f"),
        ("git push -f", "git -C d -c a=b push --force origin x"),
        ("git push --force", "git push origin +a:b"),
        ("git push --force", "git push --force-with-lease"),
        ("git push --force", "git --git-dir d push origin -uf x"),
        ("git push", "git push origin"),
        ("git", "git status"),
        ("kubectl delete", "kubectl --context c -n ns delete pod x"),
        ("kubectl delete ns", "kubectl delete ns x"),
        ("docker run --privileged", "docker --context x run --rm --privileged y"),
        ("npm publish", "npm --prefix x publish"),
        ("systemctl stop", "systemctl --host h stop x"),
        ("apt-get remove", "apt-get -o a=b -y remove x"),
        ("aws s3 rm", "aws --region r s3 rm x"),
        ("python", "python3.12 x.py"),
        ("gcc", "gcc-13 x.c"),
        ("/opt/tool", "/opt/tool x"),
        ("/opt/tool", "tool x"),
        ("mk*", "mkswap x"),
        ("curl *.example.com*", "curl -s http://db.example.com/x"),
        ("find -delete", "find . -name x -delete"),
        ("terraform -destroy", "terraform apply -destroy"),
        ("DROP TABLE", "psql -c 'drop /* x */ table y'"),
        ("DROP TABLE", "mysql -e 'DROP\tTABLE y'"),
        ("drop table", "sqlite3 x 'DROP TABLE y'"),
        ("DELETE FROM", "echo 'delete from x' | mysql"),
        ("TRUNCATE TABLE", "psql <<< 'truncate table x'"),
    ],
)
def test_a_pattern_names_a_command_however_it_is_written(shfmt: Shfmt, pattern: str, command: str) -> None:
    hit = first((pattern,), analyse_script(command, shfmt.parse))
    assert hit is not None
    assert (hit.index, hit.pattern) == (0, pattern)
    assert command[hit.start : hit.end]


@pytest.mark.parametrize(
    ("pattern", "command"),
    [
        ("rm -rf /", "rm -rf build"),
        ("rm -rf /", "rm -rf /srv/x"),
        ("rm -rf /", "rm -r /"),
        ("rm -rf /", "echo rm -rf /"),
        ("rm -rf /", "git log --grep 'rm -rf /'"),
        ("rm -rf /", "rm -rf -- -/"),
        ("rm -rf", "rm -f -- -r"),
        ("format", "mkdir format"),
        ("format", "git format-patch"),
        ("format", "npm run format"),
        ("format", "clang-format x"),
        ("nmap", "grep nmap README"),
        ("mkfs", "man mkfs"),
        ("dd if=", "dd of=x"),
        ("dd if=", "echo if=x"),
        ("chmod 777", "chmod 755 x"),
        ("chmod 777", "chmod 644 777"),
        ("chmod 777", "chmod u+rwx x"),
        ("chmod 777", "chmod a+rx x"),
        ("chown root", "chown :root x"),
        ("chown root", "chown me root"),
        ("git push --force", "git push"),
        ("git push --force", "git commit -m 'push --force'"),
        ("git push --force", "git fetch --force"),
        ("git push --force", "git stash push -m f"),
        ("kubectl delete", "kubectl get delete"),
        ("kubectl delete ns", "kubectl delete pod x"),
        ("/opt/tool", "/usr/bin/tool"),
        ("DROP TABLE", "echo 'DROP TABLE x'"),
        ("DROP TABLE", "grep 'DROP TABLE' x.sql"),
        ("DROP TABLE", "psql -c 'DROP VIEW x'"),
        ("DROP TABLE", "psql -c 'SELECT raindrop, table1 FROM x'"),
    ],
)
def test_a_pattern_names_nothing_else(shfmt: Shfmt, pattern: str, command: str) -> None:
    assert first((pattern,), analyse_script(command, shfmt.parse)) is None


def test_the_first_pattern_counts_whichever_command_it_names() -> None:
    analysis = analyse_argv(["sudo", "rm", "-rf", "x"])
    assert first(("rm -rf /", "rm -rf", "sudo"), analysis) == (1, "rm -rf", "rm -rf x", 0, 13)
    assert first((), analysis) is None


def test_a_hit_shows_the_command_with_what_is_not_known(shfmt: Shfmt) -> None:
    hit = first(("rm -rf",), analyse_script("rm -rf 'a b' \"$x\"", shfmt.parse))
    assert hit is not None
    assert hit.command == "rm -rf 'a b' …"


@pytest.mark.parametrize(
    ("pattern", "argv"),
    [
        ("chmod -R 777", ("chmod", "-R", "u" * 40_000 + "+" + "r" * 40_000, "x")),
        ("DROP TABLE", ("psql", "-c", "a " + "/*!" * 30_000)),
        ("DROP TABLE", ("psql", "-c", "a /*!" + "1" * 90_000)),
        ("DROP TABLE", ("psql", "-c", "a */ " + "/*" * 40_000)),
    ],
)
def test_no_command_is_matched_in_the_square_of_its_length(pattern: str, argv: tuple[str, ...]) -> None:
    """It is done in main, where everybody waits: each of these took minutes."""
    found = Analysis((Command(argv, "", 0, 1, (), None),))
    began = time.process_time()
    assert first((pattern,), found) is None
    assert time.process_time() - began < 2


def test_a_phrase_in_the_comments_of_a_database_is_found_and_one_beside_them_too() -> None:
    for text in (
        "/*!50000 DROP */ TABLE x",
        "DROP/* */TABLE x",
        "/* */ DROP /**/ TABLE x /* open",
        "/*! DROP TABLE x */",
    ):
        assert first(("DROP TABLE",), Analysis((Command(("mysql", "-e", text), "", 0, 1, (), None),)))
