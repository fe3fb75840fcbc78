"""Whether a path may be named: the workspace, the directories that are off limits, what is granted. Pure. R70 to R78.

The answer is for people, and for what the file tool is asked to open. What a process can reach is decided by the
kernel, through descriptors: a path is resolved here as text, and what it really leads to is handed in.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.policy.match import inside, secret_part
from supervisor.policy.words import FORBIDDEN, FORBIDDEN_HOME

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Autonomy

OUTSIDE = "Outside workspace"
FORBIDDEN_DIRECTORY = "Forbidden directory"
ESCAPE = "Symlink escape"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a path may not be named. `rule` is what says so: a directory, or "workspace_only"."""

    reason: str
    path: str  # absolute
    rule: str


def absolute(path: str, cwd: str, home: str) -> str:
    """The path as the kernel would look for it if there were no symbolic links."""
    if path == "~" or path.startswith("~/"):
        path = home + path[1:]
    elif path.startswith("~") and "/" not in path[1:2]:
        user, _, rest = path[1:].partition("/")
        path = f"{'/root' if user == 'root' else '/home/' + user}/{rest}"
    return "/" + posixpath.normpath(posixpath.join("/", cwd, path)).lstrip("/")


def classify(
    path: str, *, workspace: str, cwd: str, home: str, autonomy: Autonomy, resolved: str | None = None
) -> Verdict | None:
    """None when the path may be named; otherwise why not. The order is R72's.

    `resolved` is what the path really leads to, where somebody looked; without it links are not considered.
    """
    full = absolute(path, cwd, home)
    if _granted(full, home, autonomy):
        verdict = None
    elif autonomy.workspace_only and not inside(full, workspace):
        verdict = Verdict(OUTSIDE, full, "workspace_only")
    else:
        rule = _forbidden(full, workspace, home, autonomy)
        verdict = None if rule is None else Verdict(FORBIDDEN_DIRECTORY, full, rule)
    if verdict is not None or resolved is None:
        return verdict
    real = absolute(resolved, "/", home)
    if real == full or _granted(real, home, autonomy):
        return None
    if autonomy.workspace_only and not inside(real, workspace):
        return Verdict(ESCAPE, real, "workspace_only")
    rule = _forbidden(real, workspace, home, autonomy)
    return None if rule is None else Verdict(ESCAPE, real, rule)


def _forbidden(full: str, workspace: str, home: str, autonomy: Autonomy) -> str | None:
    """What forbids a path. A workspace below a forbidden directory is not forbidden by that."""
    for directory in autonomy.forbidden_paths:
        if inside(full, absolute(directory, "/", home)):
            return directory
    for directory in FORBIDDEN_HOME:
        if inside(full, absolute(directory, "/", home)):
            return directory
    secret = secret_part(full)
    if secret is not None:
        return f"~/{secret}"
    if inside(full, workspace):
        return None
    return next((d for d in FORBIDDEN if inside(full, d)), None)


def _granted(full: str, home: str, autonomy: Autonomy) -> bool:
    """Whether a grant opens a path: one at least as narrow as whatever forbids it, R78."""
    granted = _longest(full, autonomy.granted_paths, home)
    if granted < 0:
        return False
    return granted >= _longest(full, (*FORBIDDEN, *FORBIDDEN_HOME, *autonomy.forbidden_paths), home)


def _longest(full: str, directories: tuple[str, ...], home: str) -> int:
    lengths = [len(d) for d in (absolute(one, "/", home) for one in directories) if inside(full, d)]
    return max(lengths, default=-1)
