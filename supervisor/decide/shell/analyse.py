"""What a command or a script would run: the two entry points. Pure; nothing raised but what is said here.

A text that is no valid shell is not refused for that: what parses of it is looked at, line by line, and the analysis
says that it is not all (`parsed`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from supervisor.decide.shell import builtins as b
from supervisor.decide.shell import calls, git, projects, readers, remote, tools
from supervisor.decide.shell import starters as s
from supervisor.decide.shell.flow import EMPTY, Flow
from supervisor.decide.shell.limits import TooMuch
from supervisor.decide.shell.marks import clean, reserved
from supervisor.decide.shell.model import Analysis, Parse, ShellSyntaxError
from supervisor.decide.shell.programs import (
    INTERPRETERS,
    RUNNERS,
    SHELLS,
    STARTERS,
    WRAPPERS,
    base,
    family,
    is_interpreter,
)
from supervisor.decide.shell.scope import Scope
from supervisor.decide.shell.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Parse", "analyse_argv", "analyse_script", "needs_parser"]

MAX_TEXT = 65_536  # characters of a script that are looked at
_TOO_MUCH = "it runs more than can be followed"
_LINE = 4096  # characters
_CODE = 96  # the same, of one word
_LINES = 24  # of a text that does not parse, how many are looked at alone
_INTERESTING = (
    SHELLS | INTERPRETERS | WRAPPERS | frozenset(remote.STARTS) | (frozenset(projects.STARTS) - projects.OF_FILES)
)

calls.STARTS.update(
    {
        **dict.fromkeys(STARTERS, s.starter),
        **dict.fromkeys(RUNNERS, s.runner),
        **dict.fromkeys(SHELLS, readers.shell),
        **dict.fromkeys(INTERPRETERS - SHELLS, readers.interpreter),
        **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), readers.awk),
        **dict.fromkeys(("su", "runuser", "sg", "flock", "script"), s.as_user),
        **dict.fromkeys(("watch", "ssh"), s.joined),
        **dict.fromkeys(("docker", "podman", "nerdctl", "docker-compose"), tools.container),
        **dict.fromkeys(("kubectl", "oc"), tools.cluster),
        **dict.fromkeys(("vim", "vi", "nvim", "ed", "ex", "gdb", "ftp", "telnet"), tools.editor),
        **dict.fromkeys(("sqlite3", "psql", "mysql", "mariadb"), tools.sql),
        **dict.fromkeys(("nc", "ncat", "netcat", "socat"), tools.netcat),
        **dict.fromkeys(("rsync", "scp", "sftp"), tools.remote_shell),
        **dict.fromkeys(("make", "gmake"), tools.make),
        "cmake": tools.cmake,
        "unzip": tools.unzip,
        **dict.fromkeys(("at", "batch"), tools.stdin_script),
        **dict.fromkeys(
            ("hyperfine", "nix-shell", "nix", "capsh", "tmux", "screen", "zip", "split", "sort", "man", "less",
             "crontab"), tools.texts,
        ),
        **dict.fromkeys(("npx", "bunx", "uvx", "shx"), s.fetched_runner),
        **dict.fromkeys(("rimraf", "del-cli", "Remove-Item", "remove-item"), s.removes),
        **dict.fromkeys(("concurrently", "just", "dc"), s.several),
        **dict.fromkeys(("declare", "typeset", "local", "export", "readonly"), b.declares),
        **dict.fromkeys(("read", "mapfile", "readarray", "getopts"), b.reads),
        **dict.fromkeys(("cd", "pushd", "chdir"), b.cd),
        **dict.fromkeys(("complete", "compgen", "bind"), b.bound),
        **dict.fromkeys(("source", "."), b.source),
        "ld.so": s.loader,
        "env": s.env, "xargs": s.xargs, "find": s.find, "fd": s.fd, "fdfind": s.fd, "parallel": s.parallel,
        "sed": s.sed, "git": git.git, "tar": tools.tar, "ip": tools.namespace, "start-stop-daemon": tools.daemon,
        "eval": b.evaluate, "trap": b.trap, "alias": b.alias, "unalias": b.unalias, "unset": b.unset,
        "set": b.setting, "shift": b.shift, "printf": b.prints, "hash": b.hashed,
        "enable": b.enable, "mapfile": b.bound, "readarray": b.bound,
        **remote.STARTS, **projects.STARTS,
    }
)  # fmt: skip


class _Needed(Exception):
    """A parser would have been asked."""


def _needed(_text: str) -> NoReturn:
    raise _Needed


def needs_parser(argv: Sequence[str]) -> bool:
    """Whether a shell text hides in a command that only a parser can read: `bash -c`, `env sh -c`.

    Or code of a language, but for a word or two of it: that is read in the parser's process, where time is bounded.
    """
    if any(len(word) > _CODE for word in argv) and any(is_interpreter(word) for word in argv):
        return True
    if not argv or (family(base(argv[0])) not in _INTERESTING and "ld" not in argv[0]):
        return False
    try:
        _argv(argv, _needed, None)
    except _Needed:
        return True
    return False


def analyse_argv(argv: Sequence[str], parse: Parse | None = None, stdin: str | None = None) -> Analysis:
    """What a command runs that is given as its words. `stdin` is what it is fed, where that is known.

    Without a parser a shell text among the words is not looked at, and the analysis says so.
    """
    return _argv(argv, parse, stdin)


def _argv(argv: Sequence[str], parse: Parse | None, stdin: str | None) -> Analysis:
    if not argv or not argv[0]:
        return Analysis()
    walk = Walk(parse)
    whole = " ".join(argv)
    words = list(argv) if reserved(whole) is None else [clean(w) for w in argv]
    given = EMPTY if stdin is None else Flow(clean(stdin[:MAX_TEXT]))
    span = (0, len(whole))
    return _walked(walk, lambda: calls.simple(walk, words, Scope(), span, [], given))


def analyse_script(text: str, parse: Parse, stdin: str | None = None) -> Analysis:
    """What a script runs. `stdin` is what it is fed, where that is known."""
    walk = Walk(parse)
    problem = "" if len(text) <= MAX_TEXT else f"longer than {MAX_TEXT} characters"
    text = clean(text[:MAX_TEXT]).replace("\0", "")
    walk.positions(text)
    given = EMPTY if stdin is None else Flow(clean(stdin[:MAX_TEXT]))
    scope = Scope(positionals=[])  # it is run as `sh -c TEXT`

    def run() -> None:
        try:
            tree = parse(text)
        except ShellSyntaxError as e:
            walk.problem = problem or str(e) or "no valid shell script"
            _by_line(walk, text, parse, scope)
        else:
            walk.problem = problem
            walk.statements(tree.get("Stmts") or [], scope, given)
            if tree.get("Otherwise"):
                walk.statements(tree["Otherwise"], Scope(positionals=[]), given)
        walk.uncalled()
        walk.planted()

    return _walked(walk, run)


def _by_line(walk: Walk, text: str, parse: Parse, scope: Scope) -> None:
    """What a shell would have run before it came to the error, and every line that is a command by itself."""
    offset, left = 0, _LINES
    lines = text.split("\n")
    for line in lines:
        if line.strip() and left and len(line) < _LINE and len(lines) > 1:
            left -= 1
            try:
                tree: dict[str, Any] = parse(line)
            except ShellSyntaxError:
                tree = {}
            scope.span = (offset, offset + len(line))
            walk.statements(tree.get("Stmts") or [], scope)
        offset += len(line) + 1
    scope.span = None


def _walked(walk: Walk, run: Callable[[], object]) -> Analysis:
    try:
        run()
    except (TooMuch, RecursionError):
        walk.problem = walk.problem or _TOO_MUCH
    parsed = not walk.problem
    return Analysis(
        tuple(walk.commands), tuple(walk.risks), tuple(walk.paths), tuple(walk.scripts), parsed, walk.problem
    )
