"""What the prover asks of the children of a profile, what it puts outside for them to reach, and how it judges."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from supervisor.launcher.plan import HOME, WORKSPACE, executes_own
from supervisor.launcher.receipt import own_filters
from supervisor.policy import elf
from supervisor.policy.match import inside

if TYPE_CHECKING:
    from types import TracebackType

    from supervisor.launcher.workspace import Workspace
    from supervisor.layout import Layout
    from supervisor.policy.snapshot import Limits, Profile
    from supervisor.wire.messages import RunEnded

_MIB = 1 << 20
# Bounds of a proof are the profile's own, or these where the profile's would take long to reach: the mechanism that
# is proved is the same, and that the nominal value is what the kernel holds is read back beside it.
_QUICK = {"memory": 48 * _MIB, "processes": 12, "cpu": 10, "files": 32, "disk": _MIB, "timeout_ms": 150}
_TMP = 2 * _MIB
_LEAST_TIME_MS = 10_000
_SPIN = 0.25  # seconds
_LONG_SPIN = 1.0
MORE_SPINS = 2  # times
_MOST_STARTED = 12
_HARMLESS = ("true", "id", "echo", "ls")  # may be started by a loader that should not: they end by themselves

Proof = tuple[str, bool, str]
Plan = dict[str, tuple[dict[str, int], dict[str, Any]]]  # probe -> (limits to narrow to, question for the child)

READONLY: Plan = {"readonly": ({}, {"what": "readonly"})}


class Answer(NamedTuple):
    ended: RunEnded
    said: bytes

    def json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.said)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def narrowed(profile: Profile) -> Profile:
    """The profile as it is proved: a /tmp that can be filled in a moment, and room for the probes themselves, which are
    more than some profiles need. Each bound is proved by narrowing to it, and `nominal` reads back the profile's own.
    """
    held = profile.limits
    limits = replace(
        held,
        tmp=min(held.tmp, _TMP),
        timeout_ms=max(held.timeout_ms, _LEAST_TIME_MS),
        memory=max(held.memory, _QUICK["memory"]),
        processes=max(held.processes, _QUICK["processes"]),
        files=max(held.files, _QUICK["files"]),
    )
    return replace(profile, limits=limits)


def scratch(profile: Profile) -> str:
    """A place that a session has to itself and may write."""
    return next(p for p in ("/tmp", HOME) if p in profile.write or p == HOME)  # noqa: S108


def plan(profile: Profile, nominal: Limits) -> Plan:
    """What a session of the profile is asked; `nominal` are the limits that policy says."""
    limits = profile.limits

    def quick(name: str) -> dict[str, int]:
        held = getattr(limits, name)
        return {name: min(held, _QUICK[name]) if held else _QUICK[name]}

    memory, processes, disk = quick("memory"), quick("processes"), quick("disk")
    writable = any(p.startswith(WORKSPACE) for p in profile.write)
    asked: Plan = {
        "confinement": ({}, {"what": "confinement"}),
        "nominal": ({"memory": nominal.memory, "processes": nominal.processes}, {"what": "cpu", "seconds": 0}),
        "memory": (memory, {"what": "memory", "bytes": memory["memory"] + 32 * _MIB}),
        "processes": (processes, {"what": "processes", "count": processes["processes"] + 8}),
        "cpu": (quick("cpu"), {"what": "cpu", "seconds": _SPIN}),
        "files": (quick("files"), {"what": "files"}),
        "tmp": ({}, {"what": "disk", "place": scratch(profile), "most": limits.tmp + _MIB}),
        "timeout": (quick("timeout_ms"), {"what": "timeout"}),
    }
    if profile.allowed_commands:
        asked["allowed_commands"] = ({}, {"what": "allowed_commands", **commands(profile)})
    if writable:
        asked["mark"] = ({}, {"what": "mark"})
        asked["disk"] = (disk, {"what": "disk", "place": WORKSPACE, "most": disk["disk"] + _MIB})
    return asked


def commands(profile: Profile) -> dict[str, list[Any]]:
    """What a child of a profile with a list is asked to execute: other programs of the host, and those allowed."""
    others = _programs(profile)
    loaders = {elf.kind(path).loader for path in others[:1]} - {""}
    harmless = [path for path in others if os.path.basename(path) in _HARMLESS][:1]
    allowed = [p for p in profile.programs if any(inside(p, place) for place in profile.covered)]
    return {
        "others": others,
        "loaded": [[loader, path] for loader in loaders for path in harmless],
        "allowed": (allowed or list(profile.programs))[:_MOST_STARTED],
    }


def _programs(profile: Profile) -> list[str]:
    """Programs of the covered places that are not allowed, harmless ones first."""
    found: list[str] = []
    for place in profile.covered:
        names = sorted(os.listdir(place), key=lambda n: (n not in _HARMLESS, n)) if os.path.isdir(place) else [""]
        paths = (os.path.join(place, name) if name else place for name in names)
        fit = (p for p in paths if not os.path.islink(p) and os.access(p, os.X_OK) and elf.is_elf(p))
        found += itertools.islice((p for p in fit if p not in profile.programs), 2)
    return sorted(found, key=lambda p: os.path.basename(p) not in _HARMLESS)[:_MOST_STARTED]


def judge_commands(profile: Profile, answer: Answer | None) -> Proof:
    """Whether of all programs only those of the list start."""
    if answer is None:
        empty = not profile.programs and not profile.covered
        return ("allowed_commands", empty, "no list: execute decides" if empty else "there are programs without a list")
    tries = answer.json()
    wrong = "; ".join(f"{k}: {v}" for k, v in tries.items() if v)
    if not any(name.endswith(" as code") for name in tries):
        wrong = wrong or f"no answer: {answer.ended.detail or 'there is no other program to try'}"
    return ("allowed_commands", not wrong, wrong or f"{len(tries)} attempts, as they should be")


def judge_readonly(answer: Answer | None, failed: str) -> Proof:
    """Whether a session of the profile that was narrowed to reading changes nothing."""
    tries = answer.json() if answer is not None else {}
    wrong = "; ".join(f"{k}: {v}" for k, v in tries.items() if v)
    if not tries:
        wrong = failed or f"no answer: {answer.ended.detail if answer is not None else ''}"
    return ("readonly", not wrong, wrong or f"{len(tries)} attempts denied")


class Canaries:
    """What a confined child must not reach: a file, a directory, and sockets of the host. Gone when left."""

    def __init__(self, layout: Layout, profile: Profile, workspace: str) -> None:
        self._directory = os.path.join(os.path.realpath(layout.run), f"canary-{os.getpid()}")
        self._profile, self._workspace = profile, workspace
        self._sockets: list[socket.socket] = []
        self._stack = ExitStack()

    def __enter__(self) -> dict[str, Any]:
        os.mkdir(self._directory, 0o755)
        self._stack.callback(shutil.rmtree, self._directory)
        os.chmod(self._directory, 0o777)  # noqa: S103 - permissions must not be what keeps the child out
        secret = os.path.join(self._directory, "secret")
        with open(secret, "x", encoding="ascii") as f:
            f.write("canary")
        os.chmod(secret, 0o644)
        path, abstract = os.path.join(self._directory, "socket"), f"\0stockade-canary-{os.getpid()}"
        port = 0
        for family, kind, address in (
            (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            (socket.AF_UNIX, socket.SOCK_STREAM, path),
            (socket.AF_UNIX, socket.SOCK_STREAM, abstract),
        ):
            s = self._stack.enter_context(socket.socket(family, kind))
            s.bind(address)
            s.listen(8)
            s.setblocking(False)
            self._sockets.append(s)
            port = port or s.getsockname()[1]
        os.chmod(path, 0o666)  # noqa: S103
        return {
            **_places(self._profile, self._workspace, self._directory),
            "port": port,
            "socket": path,
            "abstract": abstract,
            "shell": self._profile.shell,
            "shell_allowed": not self._profile.allowed_commands or self._profile.shell in self._profile.programs,
            "private": scratch(self._profile),
            "executes_own": executes_own(self._profile),
            "inherited": own_filters(),
            "workspace": self._workspace,
        }

    def __exit__(self, *_: tuple[type[BaseException] | None, BaseException | None, TracebackType | None]) -> None:
        self._stack.close()

    def reached(self) -> bool:
        """Whether anything connected to a socket outside."""
        for s in self._sockets:
            try:
                s.accept()[0].close()
            except BlockingIOError:
                continue
            return True
        return False


def _places(profile: Profile, workspace: str, outside: str) -> dict[str, list[str]]:
    def granted(path: str, paths: tuple[str, ...]) -> bool:
        return any(inside(path, p.replace(WORKSPACE, workspace)) for p in paths)

    everything = (*profile.read, *profile.execute, *profile.write)
    unreadable = [p for p in (f"{outside}/secret",) if not granted(p, everything)]
    candidates = (outside, "/", "/etc", "/usr", "/var", "/run", "/dev", "/proc", "/proc/sys/kernel")
    unwritable = [p for p in candidates if not granted(p, profile.write)]
    if not granted(workspace, profile.write):
        unwritable.append(workspace)
    places = [workspace, "/tmp", HOME, "/dev/shm"]  # noqa: S108
    if not profile.allowed_commands:
        places = [p for p in places if not granted(p, profile.execute)]
    return {"unreadable": unreadable, "unwritable": unwritable, "not_executable": places}


def judge(profile: Profile, answers: dict[str, Answer], canaries: Canaries) -> list[Proof]:
    """(probe, whether it holds, what was seen) for every proof; a child that did not answer proves nothing."""
    proofs: list[Proof] = []

    def claim(probe: str, holds: bool, seen: str) -> None:
        proofs.append((probe, holds, seen))

    confined = answers["confinement"].json()
    for probe in ("read_outside", "write_outside", "exec_outside", "shell", "network", "seccomp", "identity"):
        tries = confined.get(probe)
        wrong = {
            k: v for k, v in (tries or {"no answer": answers["confinement"].ended.detail}).items() if v or not tries
        }
        claim(
            probe, not wrong, "; ".join(f"{k}: {v}" for k, v in wrong.items()) or f"{len(tries or ())} attempts denied"
        )
    if canaries.reached():
        claim("network", False, "a socket of the host was reached")
    held = answers["nominal"].ended.receipt.get("limits", {})
    for probe, key, nominal in (
        ("memory", "memory", profile.limits.memory),
        ("processes", "pids", profile.limits.processes),
    ):
        answer = answers[probe]
        bound = held.get(key) == nominal
        if probe == "memory":
            stopped = answer.ended.cause == "memory" and answer.ended.usage.get("memory_oom", 0) > 0
        else:
            forked = answer.json().get("forked", -1)
            stopped = 0 <= forked < _QUICK["processes"] and answer.ended.usage.get("pids_refused", 1) > 0
        claim(
            probe,
            stopped and bound,
            f"kernel holds {held.get(key)}, ended as {answer.ended.cause} {answer.said[:80]!r}",
        )
    proofs.append(judge_cpu(answers["cpu"], _SPIN))
    files = answers["files"].json()
    claim("files", 0 < files.get("highest", 0) < _QUICK["files"], f"highest descriptor {files.get('highest')}")
    late = answers["timeout"].ended
    claim("timeout", late.cause == "timeout", f"ended as {late.cause}, {late.usage.get('killed')} killed")
    for probe in ("tmp", "disk"):
        if probe in answers:
            found = answers[probe].json()
            full = found.get("errno", 0) != 0
            claim(probe, full, f"stopped after {found.get('written')} bytes by errno {found.get('errno')}")
        else:
            claim(probe, True, "nothing of the workspace is writable")
    return proofs


def long_spin(profile: Profile) -> Plan:
    """What is asked once more when a child had more CPU than its bound: over a longer time."""
    bound, question = plan(profile, profile.limits)["cpu"]
    return {"cpu": (bound, {**question, "seconds": _LONG_SPIN})}


def judge_cpu(answer: Answer | None, seconds: float = _LONG_SPIN) -> Proof:
    """Whether a child that spins has a small part of the time; without a bound it has half of a busy machine's, or all.

    Where a virtual machine stood still meanwhile, its kernel counts that as the child's: so one that had too much is
    asked again before that proves anything.
    """
    spun = seconds if answer is None else answer.json().get("cpu", seconds)
    return ("cpu", spun < 0.4 * seconds, f"{spun:.3f} s of CPU in {seconds} s at 10%")


def judge_owner(profile: Profile, workspace: Workspace, mark: Answer | None) -> Proof:
    """Whether what a child wrote belongs to the owner of the workspace, seen from outside."""
    if mark is None:
        return ("workspace_owner", True, "nothing of the workspace is writable")
    try:
        found = os.stat("mark", dir_fd=workspace.fd, follow_symlinks=False)
    except OSError as e:
        return ("workspace_owner", False, f"the child could not write: {mark.said[:80]!r} {mark.ended.detail}: {e}")
    good = (found.st_uid, found.st_gid) == (workspace.uid, workspace.gid)
    return ("workspace_owner", good, f"{profile.workspace_owner}: the file belongs to {found.st_uid}:{found.st_gid}")
