"""Which files a yes is bound to: those of the workspace that a command names as scripts. Pure.

A file is held under the path that is worked out here as text, and the run opens what the kernel makes of the same
words. So a name that the two may read differently is not taken: one that goes up again from a directory of the
workspace (that may be a symbolic link), one that only the shell will know, one that is looked for in a directory that
the command enters by itself. What lies outside of the workspace and cannot be written is the host's, and needs no hold.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from supervisor.decide.command import HOME
from supervisor.decide.shell.programs import base
from supervisor.errors import Denied
from supervisor.policy.match import inside

if TYPE_CHECKING:
    from collections.abc import Iterable

    from supervisor.decide.request import RunRequest
    from supervisor.decide.shell.model import Analysis, Command

MOST = 8  # files that one approval can be bound to

# The session's own places, and names that stand for whatever a process has open or where it stands.
_OWN = ("/tmp", "/var/tmp", "/dev/shm", HOME, "/proc", "/dev/fd")  # noqa: S108
_AT_RUN_TIME = re.compile(r"[*?\[…]|^~")
_ENTERS = re.compile(r"\s*cd[ \t]+(?:--[ \t]+)?([\w./][\w./-]*)[ \t]*(?:&&|;|\n)")
_MOVES = frozenset(("cd", "chdir", "pushd", "popd"))
# Options that do the same, by the letter and the long name.
_MOVED_BY = {
    "env": ("C", "--chdir"),
    "git": ("C", "--work-tree"),
    "make": ("C", "--directory"),
    "start-stop-daemon": ("d", "--chdir"),
    "nsenter": ("w", "--wd"),
}


def named(
    analysis: Analysis, request: RunRequest, workspace: str, directory: str, writable: Iterable[str] = ()
) -> list[str]:
    """The files, relative to the workspace. `writable` are the profile's other paths that can be written.

    Raises Denied for a name of which it is not certain which file it is, or which file it will be when it is run.
    """
    found: list[str] = []
    own = (*_OWN, *(path for path in writable if not path.startswith("$WORKSPACE")))
    moved = _moved(analysis, request)
    for name in analysis.scripts:
        if _AT_RUN_TIME.search(name):
            _refuse(name, "which file that is, is only known when it is run", "name the script as it is called")
        where = directory
        if moved is not None and not name.startswith("/"):
            if not moved:
                _refuse(
                    name,
                    "the command enters a directory, and which file is meant depends on that",
                    "send the directory as cwd, or name the script by its absolute path",
                )
            where = moved if moved.startswith("/") else f"{directory}/{moved}"
        path = _resolved(name, f"{where}/{name}" if not name.startswith("/") else name, workspace)
        if inside(path, workspace):
            found.append(path[len(workspace.rstrip("/")) + 1 :] or ".")
        elif any(inside(path, one) for one in own):
            _refuse(
                name,
                "a file there can change until it runs",
                "put the script into the workspace; then it is shown, approved, and executed as it was approved",
            )
    unique = list(dict.fromkeys(found))
    if len(unique) > MOST:
        raise Denied(
            f"{len(unique)} script files are named",
            field="command",
            rule="approvals",
            layer="decision",
            allowed=f"{MOST} script files in one request that has to be approved",
            hint="send several requests",
        )
    return unique


def _resolved(name: str, path: str, workspace: str) -> str:
    """The path without `.` and `..`, when that is what the kernel would open. Raises Denied.

    Nothing on the way to the workspace is a symbolic link: the launcher refuses such a workspace.
    """
    at = ""
    for part in path.split("/"):
        if part == "..":
            if at != workspace and inside(at, workspace):
                _refuse(
                    name,
                    "`..` leads elsewhere when the directory before it is a symbolic link",
                    "name the script, and cwd, without `..`",
                )
            at = at.rpartition("/")[0]
        elif part not in ("", "."):
            at = f"{at}/{part}"
    return at or "/"


def _moved(analysis: Analysis, request: RunRequest) -> str | None:
    """The directory that the whole command runs in: None is where it starts, "" is that nobody can say."""
    moving = [command for command in analysis.commands if _moves(command)]
    if not moving:
        return None
    text = request.script
    if text is None and request.argv is not None and len(request.argv) == 3 and request.argv[1] in ("-c", "-lc"):
        text = request.argv[2]
    # Held is what is there: had the directory not been entered, the file would not have been found.
    entered = _ENTERS.match(text or "")
    return entered[1] if entered is not None and len(moving) == 1 and "CDPATH" not in request.env else ""


def _moves(command: Command) -> bool:
    if command.words[0] is None:
        return True
    program = base(command.words[0])
    if program in _MOVES:
        return True
    if program == "find":
        return any(word in (None, "-execdir", "-okdir") for word in command.words[1:])
    letter, name = _MOVED_BY.get(program, ("", ""))
    return bool(letter) and any(
        word is None
        or (word[:2] == "--" and len(word) > 2 and name.startswith(word.partition("=")[0]))
        or (word[:1] == "-" and word[:2] != "--" and letter in word)
        for word in command.words[1:]
    )


def _refuse(name: str, why: str, hint: str) -> NoReturn:
    raise Denied(
        f"{name[:128]!r} cannot be approved: {why}",
        field="command",
        rule="approvals",
        layer="decision",
        allowed="a script in the workspace, named so that it is one file for everybody",
        hint=hint,
    )
