"""From a profile to the list of operations that make its mount tree, and the paths for Landlock. Pure."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from supervisor.kernel.mounts import MOUNT_ATTR_NOSUID
from supervisor.launcher.operations import (
    Bind,
    Device,
    Devpts,
    Directory,
    File,
    Mask,
    Operation,
    Proc,
    Scratch,
    Symlink,
    Tmpfs,
)
from supervisor.policy.match import inside
from supervisor.policy.narrow import PRIVATE
from supervisor.wire.messages import LIMITS

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Profile

HOME = "/home/agent"
HOSTNAME = "stockade"
LIMITS_FILE = "/etc/stockade-limits.json"
WORKSPACE = "$WORKSPACE"

# What is made anew in every session and never bound from the host.
OWN = ("/tmp", "/var/tmp", HOME, "/dev", "/proc")  # noqa: S108 - the session's own /tmp

SCRATCH_PLACES = (("/tmp", 0o1777), ("/var/tmp", 0o1777), (HOME, 0o700), ("/dev/shm", 0o1777))  # noqa: S108

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))

# Files of /proc that tell about the host or its other tenants beyond what a program needs in order to run.
MASKED = ("kcore", "keys", "key-users", "sysrq-trigger", "timer_list", "latency_stats", "sched_debug", "kmsg",
          "kallsyms", "modules", "cmdline", "interrupts", "diskstats", "config.gz", "iomem", "ioports")  # fmt: skip

_INODE_BYTES = 4096  # one file for each 4 KiB that the file system may hold, like mkfs.ext4's densest usual ratio


class Identity(NamedTuple):
    """Who the children of a session are, and who its leader is."""

    uid: int
    gid: int
    leader: int


class Rules(NamedTuple):
    """What Landlock grants, in paths of the session."""

    read: list[str]
    write: list[str]
    execute: list[str]
    devices: list[str]


def etc_files(identity: Identity) -> list[Operation]:
    """The synthetic part of /etc: what the C library asks for, and nothing that names the host."""
    passwd = (
        f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\nagent:x:{identity.uid}:{identity.gid}:agent:{HOME}:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    )
    group = f"root:x:0:\nagent:x:{identity.gid}:\nnogroup:x:65534:\n"
    nsswitch = "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n"
    return [
        File("/etc/passwd", passwd),
        File("/etc/group", group),
        File("/etc/hosts", f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n"),
        File("/etc/hostname", f"{HOSTNAME}\n"),
        File("/etc/host.conf", "multi on\n"),
        File("/etc/nsswitch.conf", nsswitch),
    ]


def limits_file(profile: Profile) -> Operation:
    """What is granted at most, for who runs inside, where no socket is, and would find out by trying (lesson 21)."""
    shown = {
        "profile": profile.name,
        "read": profile.read,
        "write": profile.write,
        "execute": profile.execute,
        "allowed_commands": profile.allowed_commands,
        "network": profile.network,
        "limits": {name: getattr(profile.limits, name) for name in LIMITS},
    }
    return File(LIMITS_FILE, json.dumps(shown, indent=2) + "\n")


def bound_paths(profile: Profile) -> list[tuple[str, bool]]:
    """(path, writable) of the host that the profile shows, outermost first, none inside another of the same kind."""
    wanted = dict.fromkeys((*profile.read, *profile.execute), False)
    wanted.update(dict.fromkeys(profile.write, True))
    chosen: list[tuple[str, bool]] = []
    for path in sorted(wanted):
        own = path.startswith(WORKSPACE) or any(inside(path, o) for o in OWN)
        covered = any(inside(path, other) and writable == wanted[path] for other, writable in chosen)
        if not own and not covered:
            chosen.append((path, wanted[path]))
    return chosen


def writes_workspace(profile: Profile) -> bool:
    """Whether anything of the workspace may be changed; elsewhere its mount is read-only as well."""
    return any(path.startswith(WORKSPACE) for path in profile.write)


def executes(profile: Profile, path: str) -> bool:
    """Whether the profile lets anything at or below `path` be executed; elsewhere mounts are noexec as well.

    With allowed_commands nothing is executable that a run can write: a copy of a program would be that program.
    """
    path = "/tmp" if path == "/var/tmp" else path  # noqa: S108
    if profile.allowed_commands and any(inside(path, w) for w in (WORKSPACE, *PRIVATE, *profile.write)):
        return False
    return any(inside(path, e) or inside(e, path) for e in profile.execute)


def covers(profile: Profile) -> list[Operation]:
    """With allowed_commands: the places of other programs again, without execution, and over them those allowed.

    Landlock alone denies their execve(2). But a loader that may run maps whatever it is told to, unless the mount
    through which it opens that is noexec. What may be written is mounted noexec already (`executes`).
    """
    shown = [path for path, _ in bound_paths(profile)]
    places = [p for p in profile.covered if any(inside(p, path) for path in shown)]
    places = [p for p in places if not any(inside(p, path) for path in profile.write)]
    allowed = [p for p in profile.programs if any(inside(p, place) for place in places)]
    over: list[Operation] = [Bind(place, executable=False) for place in places if place not in allowed]
    return [*over, *(Bind(program) for program in allowed)]


def changeable(profile: Profile, workspace: str) -> list[str]:
    """The mounts of a session in which somebody can put another file."""
    bound = [path for path, writable in bound_paths(profile) if writable]
    return [workspace, *(where for where, _ in SCRATCH_PLACES), *bound]


def own_parent(workspace: str) -> str | None:
    """The outermost directory above a workspace that lies in a place of the session's own, if there is one between."""
    place = next((where for where, _ in SCRATCH_PLACES if inside(workspace, where)), None)
    if place is None or os.path.dirname(workspace) == place or workspace == place:
        return None
    return os.path.join(place, workspace[len(place) + 1 :].split("/")[0])


def executes_own(profile: Profile) -> bool:
    """Whether a run may execute what it wrote itself. Where it may not, it gets no files in memory either: Landlock and
    noexec mounts do not concern them, so a dynamic loader would start what it is told lies there.
    """
    return any(executes(profile, path) for path in (*profile.write, *PRIVATE))


def mount_tree(profile: Profile, identity: Identity) -> list[Operation]:
    """Everything of a session's tree but the workspace, in the order of making."""
    tmp = profile.limits.tmp
    places = tuple((where, mode, executes(profile, where)) for where, mode in SCRATCH_PLACES)
    inodes = max(1024, tmp // _INODE_BYTES)
    plan: list[Operation] = [
        Bind(path, writable, executable=executes(profile, path)) for path, writable in bound_paths(profile)
    ]
    plan += covers(profile)
    plan += [
        Proc("/proc"),
        Tmpfs("/dev", size=65536, inodes=64, attributes=MOUNT_ATTR_NOSUID),
        Scratch("/.scratch", tmp, inodes, identity.uid, identity.gid, places),
    ]
    plan += [Device(f"/dev/{name}", major, minor) for name, major, minor in DEVICES]
    plan += [
        Symlink("/dev/fd", "/proc/self/fd"),
        Symlink("/dev/stdin", "/proc/self/fd/0"),
        Symlink("/dev/stdout", "/proc/self/fd/1"),
        Symlink("/dev/stderr", "/proc/self/fd/2"),
        Symlink("/dev/ptmx", "pts/ptmx"),
        Devpts("/dev/pts"),
        Symlink("/etc/mtab", "/proc/self/mounts"),
        *etc_files(identity),
        limits_file(profile),
        Directory("/run"),
        Directory("/var"),
    ]
    plan += [Mask(f"/proc/{name}") for name in MASKED]
    return plan


def landlock_rules(profile: Profile, workspace: str) -> Rules:
    """The profile's three lists as Landlock grants them, with what every session has of its own."""

    def expand(paths: tuple[str, ...]) -> list[str]:
        found = [workspace + p[len(WORKSPACE) :] if p.startswith(WORKSPACE) else p for p in paths]
        return [*found, "/var/tmp"] if "/tmp" in found else found  # noqa: S108 - both are the session's own

    read = [*expand(profile.read), "/etc", "/proc", "/dev"]
    if profile.allowed_commands:
        read += expand(profile.execute)  # the programs there are files like others now, and libraries are among them
    return Rules(
        read=read,
        write=[*expand(profile.write), HOME, "/dev/shm"],  # noqa: S108
        execute=list(profile.programs) if profile.allowed_commands else expand(profile.execute),
        devices=[*(f"/dev/{name}" for name, _, _ in DEVICES), "/dev/pts"],
    )
