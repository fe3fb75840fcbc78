"""Which paths a policy may name at all. Every refusal is a sentence; None means that the path is fine.

These are checks of what an operator wrote, made once at load. What a session really opens is decided by the
launcher with descriptors.
"""

from __future__ import annotations

import os
from functools import lru_cache

from supervisor.policy import globs
from supervisor.policy.match import inside, secret_part
from supervisor.policy.narrow import WORKSPACE

# What no tool may write and no workspace may be, R74 and what belongs with it. The /lib family comes with its ABIs.
SYSTEM = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/spool",
)
# What the launcher makes afresh for each session: the host's own would show other processes and sockets.
MADE_AFRESH = ("/dev", "/proc", "/run", "/var/run")


def form(path: str) -> str | None:
    """Absolute or below $WORKSPACE, and written the way the kernel would resolve it."""
    if "\0" in path:
        return "a path cannot contain NUL"
    rest = path.removeprefix(WORKSPACE)
    if rest == path and not path.startswith("/"):
        return f"a path is absolute or starts with {WORKSPACE}"
    if rest != path and rest and not rest.startswith("/"):
        return f"{WORKSPACE} is followed by / or nothing"
    if ".." in path.split("/"):
        return "a path cannot contain .."
    if path != normal(path):
        return "the path is not in its normal form"
    if len(os.fsencode(path)) > 4095:
        return "a path has at most 4095 bytes"
    return None


def normal(path: str) -> str:
    """The path without empty and `.` components and without a slash at the end."""
    head = WORKSPACE if path.startswith(WORKSPACE) else ""
    parts = (part for part in path.removeprefix(head).split("/") if part not in ("", "."))
    return head + "".join(f"/{part}" for part in parts) or "/"


def read_refused(path: str, *, ceiling: bool) -> str | None:
    return _never(path, ceiling=ceiling)


def execute_refused(path: str, *, ceiling: bool) -> str | None:
    return "everything would be executable" if path == "/" else _never(path, ceiling=ceiling)


def write_refused(path: str, *, ceiling: bool) -> str | None:
    system = next((d for d in SYSTEM if inside(path, d) or inside(d, path)), None)
    if system is not None and path != "/dev/shm":  # noqa: S108 - the private one
        return "everything would be writable" if path == "/" else f"{system} belongs to the system"
    return _never(path, ceiling=ceiling)


def _never(path: str, *, ceiling: bool) -> str | None:
    if any(c in path for c in "*?"):
        return "patterns are not understood here; a directory stands for everything below it"
    secret = secret_part(path)
    if secret is not None:
        return f"{secret} holds secrets"
    if path == "/" and not ceiling:
        return "the whole file system is not a grant; name the directories"
    made = next((d for d in MADE_AFRESH if inside(path, d)), None)
    if made is not None and path != "/dev/shm":  # noqa: S108 - the private one
        return f"{made} is made afresh for each session and cannot be the host's"
    return None


@lru_cache(maxsize=256)
def workspace_refused(pattern: str) -> str | None:
    """A workspace pattern that names a system directory, one above or below it, or a directory of secrets."""
    wrong = form(pattern)
    if wrong is not None or pattern.startswith(WORKSPACE):
        return wrong or "a workspace pattern is an absolute path"
    for directory in SYSTEM:
        above = directory
        while above != "/":
            if globs.meets(pattern, above):
                return f"it covers {above}, and {directory} belongs to the system"
            above = os.path.dirname(above)
        if globs.meets(pattern, f"{directory}/**"):
            return f"it covers paths in {directory}, which belongs to the system"
    if globs.meets(pattern, "/"):
        return "it covers /"
    if secret_part(pattern) is not None:
        return "it names a directory of secrets"
    return None
