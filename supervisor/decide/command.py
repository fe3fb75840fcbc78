"""Whether what a request wants executed can be executed at all, and the environment it gets. Pure.

Nothing here is about danger: whatever argv says, the kernel confines it. Refused is what execve(2) cannot carry
exactly as it was asked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor import errors
from supervisor.wire.messages import MAX_ARGS, MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.policy.snapshot import Profile
    from supervisor.runs.model import RunRequest

PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
HOME = "/home/agent"
MAX_LABELS = 32
MAX_LABEL = 256  # characters
MAX_PATH = 4095  # bytes without the final NUL, PATH_MAX of limits.h
_LABEL = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def text(field: str, value: object, most: int = MAX_TEXT) -> int:
    """The size of `value` in bytes as execve(2) counts it, with its NUL. Raises InvalidRequest or TooLarge."""
    if type(value) is not str:
        raise errors.InvalidRequest(f"{field} is not text", field=field, allowed="text")
    if "\0" in value:
        raise errors.InvalidRequest(
            f"{field} holds a NUL character at offset {value.index(chr(0))}",
            field=field,
            allowed="text without NUL: nothing that is executed can carry one",
        )
    try:
        size = len(value.encode()) + 1
    except UnicodeEncodeError as e:
        raise errors.InvalidRequest(
            f"{field} holds half a surrogate pair at offset {e.start}", field=field, allowed="text that UTF-8 can carry"
        ) from e
    if size > most:
        raise errors.TooLarge(f"{field} is {size} bytes", field=field, allowed=f"{most} bytes", hint=_LONG)
    return size


_LONG = "put long input into stdin or into a file of the workspace"


def check_command(request: RunRequest) -> None:
    """Raises InvalidRequest or TooLarge for argv, script, env, cwd and labels that cannot be carried out."""
    if (request.argv is None) == (request.script is None):
        given = "neither" if request.argv is None else "both"
        raise errors.InvalidRequest(
            f"{given} of argv and script given", field="argv", allowed="exactly one of argv and script"
        )
    if request.stdin is not None and request.stdin_stream:
        raise errors.InvalidRequest(
            "both stdin and stdin_stream given", field="stdin", allowed="at most one of stdin and stdin_stream"
        )
    size = text("script", request.script) if request.argv is None else _arguments(request.argv)
    size += _environment(request.env)
    if size > MAX_TEXT:
        field = "script" if request.argv is None else "argv"
        raise errors.TooLarge(
            f"{field} and env are {size} bytes together", field=field, allowed=f"{MAX_TEXT} bytes", hint=_LONG
        )
    if request.cwd is not None:
        text("cwd", request.cwd, MAX_PATH)
        if request.cwd == "":
            raise errors.InvalidRequest(
                "cwd is empty", field="cwd", allowed="an absolute path, or one relative to the workspace"
            )
    check_labels(request.labels)


def _arguments(argv: tuple[str, ...]) -> int:
    if not argv or argv[0] == "":
        raise errors.InvalidRequest("argv names no program", field="argv[0]", allowed="a program's name or path")
    if len(argv) > MAX_ARGS:
        raise errors.TooLarge(f"argv has {len(argv)} entries", field="argv", allowed=f"{MAX_ARGS} entries", hint=_LONG)
    try:
        joined = "\n".join(argv)
        size = len(joined.encode()) + 1
    except (TypeError, UnicodeEncodeError):
        pass
    else:
        if size <= MAX_TEXT and "\0" not in joined:
            return size
    return sum([text(f"argv[{i}]", a) for i, a in enumerate(argv)])  # which one it is, and where


def _environment(env: Mapping[str, str]) -> int:
    if len(env) > MAX_ARGS // 2:
        raise errors.TooLarge(f"env has {len(env)} variables", field="env", allowed=f"{MAX_ARGS // 2} variables")
    size = 0
    for name, value in env.items():
        size += text("env", name, 256)
        if name == "" or "=" in name:
            raise errors.InvalidRequest(
                f"{name!r} is not the name of a variable", field="env", allowed='a name that is not empty, without "="'
            )
        size += text(f"env.{name}", value)
    return size


def check_labels(labels: Mapping[str, str]) -> None:
    """Raises InvalidRequest for labels that are too many, too long, or hold control characters."""
    if len(labels) > MAX_LABELS:
        raise errors.InvalidRequest(f"{len(labels)} labels", field="labels", allowed=f"{MAX_LABELS} labels")
    for name, value in labels.items():
        if type(name) is not str or _LABEL.fullmatch(name) is None:
            raise errors.InvalidRequest(
                f"{str(name)[:64]!r} is not the name of a label", field="labels", allowed="names of [a-z][a-z0-9_.-]*"
            )
        text(f"labels.{name}", value, 4 * MAX_LABEL)
        if len(value) > MAX_LABEL or _CONTROL.search(value):
            raise errors.InvalidRequest(
                f"labels.{name} is too long or holds control characters",
                field=f"labels.{name}",
                allowed=f"{MAX_LABEL} printable characters",
            )


def arguments(profile: Profile, request: RunRequest) -> tuple[str, ...]:
    """What is executed: argv as it is, or the script under the profile's shell. Raises TooLarge."""
    if request.argv is not None:
        return request.argv
    argv = (profile.shell, "-c", request.script or "")
    if sum([len(a.encode()) + 1 for a in argv]) > MAX_TEXT:
        raise errors.TooLarge(
            "script, with the shell that runs it, is too large", field="script", allowed=f"{MAX_TEXT} bytes", hint=_LONG
        )
    return argv


def environment(profile: Profile, session: str, run: str, asked: Mapping[str, str]) -> dict[str, str]:
    """Built from nothing: the base, then the profile's variables, then the request's. Raises TooLarge."""
    env = {
        "PATH": PATH,
        "HOME": HOME,
        "USER": "agent",
        "LOGNAME": "agent",
        "SHELL": profile.shell,
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",  # noqa: S108 - the session's own
        "STOCKADE_SESSION": session,
        "STOCKADE_RUN": run,
    }
    env.update(profile.env)
    if asked:
        env.update(asked)
        if sum(len(n.encode()) + len(v.encode()) + 2 for n, v in env.items()) > MAX_TEXT:
            raise errors.TooLarge(
                "env, with what the profile sets, is too large", field="env", allowed=f"{MAX_TEXT} bytes", hint=_LONG
            )
    return env


def directory(workspace: str, cwd: str | None) -> str:
    """Where the command starts: an absolute path inside the session. Raises TooLarge."""
    if cwd is None:
        return workspace
    path = cwd if cwd.startswith("/") else f"{workspace}/{cwd}"
    text("cwd", path, MAX_PATH)
    return path
