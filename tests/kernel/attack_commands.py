"""Runs inside a session, as its command: every way of this list to execute id(1). One JSON object for each attempt.

A profile whose allowed_commands has no id must deny each; one without a list lets nearly all succeed, which shows that
the attempts are not broken.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "/usr/bin/id"
LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
SAYS = re.compile(
    rb"uid=|^(/usr/bin/)?id: (?!error while loading)", re.MULTILINE
)  # also that it does not like its arguments
PLACES = {"workspace": os.getcwd(), "tmp": "/tmp", "var tmp": "/var/tmp", "home": "/home/agent", "shm": "/dev/shm"}


def ran(*argv: str, env: dict[str, str] | None = None) -> bool:
    """Whether the words of id came out of a command."""
    whole = {"PATH": "/usr/bin:/bin", "HOME": "/home/agent", **(env or {})}
    try:
        done = subprocess.run(argv, capture_output=True, env=whole, stdin=subprocess.DEVNULL, timeout=30, check=False)
    except OSError:
        return False
    return SAYS.search(done.stdout + done.stderr) is not None


def forked(what: Callable[[], object]) -> bool:
    """Whether `what` became id in a child."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(into, 1)
        try:
            what()
        except OSError:
            pass
        finally:
            os._exit(1)
    os.close(into)
    with open(out, "rb") as f:
        said = f.read()
    os.waitpid(pid, 0)
    return b"uid=" in said


def written(place: str, name: str, data: bytes) -> str:
    path = os.path.join(place, name)
    with open(path, "wb") as f:
        f.write(data)
    os.chmod(path, 0o755)  # noqa: S103 - it is to be executed
    return path


def program() -> bytes:
    with open(ID, "rb") as f:
        return f.read()


def loader() -> str:
    return next(path for path in LOADERS if os.path.exists(path))


def through_symlink() -> bool:
    os.symlink(ID, "link-to-id")
    return ran("./link-to-id")


def by_descriptor(open_: Callable[[], int]) -> bool:
    fd = open_()
    return forked(lambda: os.execve(fd, ["id"], {}))  # noqa: S606 - that is the attempt


def in_memory() -> int:
    fd = os.memfd_create("id", 0)
    os.write(fd, program())
    return fd


def loaded_from_memory() -> bool:
    """A dynamic loader may run, and what it is told to load has no mount that could be noexec."""
    fd = in_memory()
    os.set_inheritable(fd, True)
    return forked(lambda: os.execve(loader(), ["ld", f"/proc/self/fd/{fd}"], {}))  # noqa: S606 - that is the attempt


def mapped() -> bool:
    """What a loader would do: the code of a program as executable memory."""
    fd = os.open(ID, os.O_RDONLY)
    try:
        mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def posix_spawn() -> bool:
    try:
        quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
        pid = os.posix_spawn(ID, ["id"], {}, file_actions=quiet)
    except OSError:
        return False
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def execveat() -> bool:
    libc = ctypes.CDLL(None)
    number = 322 if os.uname().machine == "x86_64" else 281
    argv = (ctypes.c_char_p * 2)(b"id", None)
    return forked(lambda: libc.syscall(number, -100, ID.encode(), argv, None, 0))


def git(*words: str, **env: str) -> bool:
    return ran("/usr/bin/git", *words, env=env)


def copied() -> dict[str, Callable[[], bool]]:
    found: dict[str, Callable[[], bool]] = {}
    for name, place in PLACES.items():
        found[f"copy in {name}"] = lambda p=place: ran(written(p, "copied-id", program()))  # type: ignore[misc]
        found[f"loader with a copy in {name}"] = lambda p=place: ran(loader(), written(p, "loaded-id", program()))  # type: ignore[misc]
        found[f"script in {name}"] = lambda p=place: ran(written(p, "id.sh", b"#!/bin/sh\nid\n"))  # type: ignore[misc]
    return found


ATTEMPTS: dict[str, Callable[[], bool]] = {
    "execve": lambda: ran(ID),
    "execveat": execveat,
    "posix_spawn": posix_spawn,
    "by another name of /": lambda: ran("/proc/self/root/usr/bin/id"),
    "by /bin": lambda: ran("/bin/id"),
    "with dots": lambda: ran("/usr/lib/../bin/id"),
    "sh -c": lambda: ran("/bin/sh", "-c", "id"),
    "bash -c": lambda: ran("/bin/bash", "-c", "exec id"),
    "os.system": lambda: os.system("id >/dev/null") == 0,  # noqa: S605
    "env": lambda: ran("/usr/bin/env", "id"),
    "env -S": lambda: ran("/usr/bin/env", "-S", "sh -c id"),
    "find -exec": lambda: ran("/usr/bin/find", ".", "-maxdepth", "0", "-exec", "id", ";"),
    "xargs": lambda: ran("/usr/bin/xargs", "id"),
    "awk system": lambda: ran("/usr/bin/awk", 'BEGIN { system("id") }'),
    "git alias": lambda: git("-c", "alias.x=!id", "x"),
    "git alias through sh": lambda: git("-c", "alias.x=!id;:", "x"),
    "git editor": lambda: git("config", "-e", "-f", "some", GIT_EDITOR="id"),
    "git external diff": lambda: git("diff", "--no-index", "/etc/passwd", __file__, GIT_EXTERNAL_DIFF="id"),
    "git ssh": lambda: git("ls-remote", "ssh://x/y", GIT_SSH="/usr/bin/id"),
    "symbolic link": through_symlink,
    "descriptor of the program": lambda: by_descriptor(lambda: os.open(ID, os.O_RDONLY)),
    "descriptor of a path": lambda: by_descriptor(lambda: os.open(ID, os.O_PATH)),
    "loader": lambda: ran(loader(), ID),
    "loader, by the library path": lambda: ran(loader(), "--library-path", "/usr/lib", ID),
    "loader with a program in memory": loaded_from_memory,
    "mapped as code": mapped,
    "script with #! of a program": lambda: ran(written(".", "shebang", f"#!{ID}\n".encode())),
    "script with #!env": lambda: ran(written(".", "shebang-env", b"#!/usr/bin/env id\n")),
    "busybox": lambda: ran("/usr/bin/busybox", "id"),
    **copied(),
    # What no profile permits, with a list or without:
    "memfd": lambda: by_descriptor(in_memory),
    "hard link": lambda: os.link(ID, "hard") is None and ran("./hard"),
}


def main() -> None:
    wanted = sys.argv[1:]
    for name, attempt in ATTEMPTS.items():
        if wanted and name not in wanted:
            continue
        try:
            outcome, detail = ("succeeded" if attempt() else "denied"), ""
        except OSError as e:
            outcome, detail = "denied", str(e)
        print(json.dumps({"attempt": name, "outcome": outcome, "detail": detail}), flush=True)
    for name in os.listdir("."):
        if name.endswith(("id", "hard")) or name.startswith("shebang"):
            os.unlink(name) if not os.path.isdir(name) else shutil.rmtree(name)


if __name__ == "__main__":
    main()
