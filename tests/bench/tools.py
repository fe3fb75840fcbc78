"""The other ways to start a program confined, as far as this host has them and they really work here."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.place import as_agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.place import Place

TRUE = "/bin/true"
BARE, BUBBLEWRAP = "posix_spawn, bare", "bubblewrap"
_BUBBLEWRAP = (
    "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--die-with-parent",
)  # fmt: skip
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/"}
_QUIET = [
    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
    (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
    (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
]


def spawn(argv: list[str], environment: dict[str, str] | None = None) -> None:
    """Start and wait; posix_spawn(3) does not pay for the size of this process. Raises RuntimeError."""
    pid = os.posix_spawn(argv[0], argv, environment or _ENVIRONMENT, file_actions=_QUIET)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(argv)}: status {os.waitstatus_to_exitcode(status)}")


@dataclass(frozen=True)
class Tool:
    name: str
    argv: Callable[[], list[str]]
    root: bool = False  # only root may start it

    def call(self) -> None:
        spawn(self.argv())


class Absent(Exception):
    """Why it is not measured."""


def find(place: Place, stack: contextlib.ExitStack) -> tuple[list[Tool], dict[str, str]]:
    """What works, and of the others why not. `stack` takes back what was prepared."""
    tools, absent = [Tool(BARE, lambda: [TRUE])], {}
    for name, prepare in _KNOWN.items():
        try:
            tool = prepare(place, stack)
            _try(place, tool)
            tools.append(tool)
        except Absent as e:
            absent[name] = str(e)
    return tools, absent


def _try(place: Place, tool: Tool) -> None:
    with contextlib.nullcontext() if tool.root else as_agent(place.agent):
        argv = tool.argv()
        try:
            done = subprocess.run(
                argv, env=_ENVIRONMENT, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as e:
            raise Absent(f"does not work here: {e}") from e
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Absent(f"does not work here: {said[-1] if said else f'status {done.returncode}'}")


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Absent("not installed")
    return path


def _fixed(name: str, program: str, *options: str, root: bool = False) -> Callable[[Place, contextlib.ExitStack], Tool]:
    def prepare(_place: Place, _stack: contextlib.ExitStack) -> Tool:
        argv = [_program(program), *options, TRUE]
        return Tool(name, lambda: argv, root)

    return prepare


def _crun(place: Place, stack: contextlib.ExitStack) -> Tool:
    crun = _program("crun")
    bundle = place.ground / "bundle"
    bundle.mkdir()
    stack.callback(shutil.rmtree, bundle)
    subprocess.run([crun, "spec"], cwd=bundle, check=True, capture_output=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(args=[TRUE], terminal=False)
    config["root"] = {"path": "/", "readonly": True}
    (bundle / "config.json").write_text(json.dumps(config))
    numbers = itertools.count()
    options = ["--cgroup-manager=disabled", "run", "--bundle", str(bundle)]
    return Tool("crun run", lambda: [crun, *options, f"{place.agent.name}-{next(numbers)}"], root=True)


def _docker(place: Place, stack: contextlib.ExitStack) -> Tool:
    docker = _program("docker")
    told = subprocess.run(
        [docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=False
    )
    if told.returncode != 0:
        raise Absent("no daemon answers")
    # Nothing is pulled: the image is this host's own true and what it is linked with.
    archive = place.ground / "image.tar"
    linked = subprocess.run(["ldd", TRUE], capture_output=True, text=True, check=False).stdout.split()
    with tarfile.open(archive, "w") as tar:
        for path in (TRUE, *(word for word in linked if word.startswith("/"))):
            tar.add(Path(path).resolve(), arcname=path.lstrip("/"))
    image = f"{place.agent.name}:image"
    stack.callback(archive.unlink)
    subprocess.run([docker, "import", str(archive), image], check=True, capture_output=True)
    stack.callback(subprocess.run, [docker, "image", "rm", "--force", image], capture_output=True, check=False)
    argv = [docker, "run", "--rm", "--network", "none", "--read-only", image, TRUE]
    return Tool("docker run", lambda: argv, root=True)


def _systemd(_place: Place, _stack: contextlib.ExitStack) -> Tool:
    program = _program("systemd-run")
    if not Path("/run/systemd/system").is_dir():
        raise Absent("systemd is not running here")
    strict = ("PrivateTmp=yes", "ProtectSystem=strict", "PrivateNetwork=yes", "NoNewPrivileges=yes", "DynamicUser=yes")
    argv = [program, "--quiet", "--wait", "--collect", "--pipe", *(f"--property={p}" for p in strict), TRUE]
    return Tool("systemd-run --wait", lambda: argv, root=True)


_KNOWN: dict[str, Callable[[Place, contextlib.ExitStack], Tool]] = {
    BUBBLEWRAP: _fixed(BUBBLEWRAP, "bwrap", *_BUBBLEWRAP),
    "firejail": _fixed("firejail", "firejail", "--quiet", "--noprofile", "--net=none", "--private-tmp", "--seccomp"),
    "nsjail": _fixed("nsjail", "nsjail", "--mode", "o", "--really_quiet", "--chroot", "/"),
    "crun": _crun,
    "docker": _docker,
    "systemd-run": _systemd,
}
