"""The keys of policy that say what a session is confined to: limits, profiles and the ceiling over all of them.

Declared like the rest in model.py.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainValidator

from supervisor.policy import fields as f
from supervisor.policy import paths
from supervisor.policy import values as v
from supervisor.policy.fields import Table
from supervisor.policy.narrow import AUTONOMY, LAYERS, NETWORKS, OWNERS, WORKSPACE

_BYTES, _COUNT, _TIME = "bytes", "count", "time"
_PATHS = "list of paths"

CEILING_LIMITS = {
    "memory": "64G",
    "cpu": "6400%",
    "processes": 65_536,
    "files": 1_048_576,
    "output": "16G",
    "disk": "1T",
    "tmp": "64G",
    "timeout": "168h",
    "idle_timeout": "none",
}


# Below these the host's own directories stay out of reach: /tmp, /home/agent and /dev/shm are private to a session.
CEILING_WRITE = [WORKSPACE, "/tmp", "/home/agent", "/dev/shm"]  # noqa: S108
CEILING_EXECUTE = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", *CEILING_WRITE]
CEILING_ROLES = ["viewer", "operator"]
CEILING_WORKSPACES = ["/home/*/**", "/srv/**", "/tmp/**", "/var/tmp/**", "/mnt/**", "/media/**"]  # noqa: S108


class Limits(Table):
    memory: Annotated[int, f.limit("memory")] = f.key(
        "1G",
        "Memory of a run with everything the kernel charges to it: pages, page cache, tmpfs, kernel objects. No swap.",
        unit=_BYTES,
        enforcer="cgroup memory.max (v1: memory.limit_in_bytes), swap 0",
        probe="memory",
    )
    cpu: Annotated[int, f.limit("cpu")] = f.key(
        "200%",
        "CPU time per wall time, in percent of one CPU; 200% is two CPUs all the time.",
        unit="percent",
        enforcer="cgroup cpu.max (v1: cpu.cfs_quota_us)",
        probe="cpu",
    )
    processes: Annotated[int, f.limit("processes")] = f.key(
        256,
        "Processes and threads of a run that exist at once.",
        unit=_COUNT,
        enforcer="cgroup pids.max",
        probe="processes",
    )
    files: Annotated[int, f.limit("files")] = f.key(
        1024,
        "File descriptors that one process may have open.",
        unit=_COUNT,
        enforcer="RLIMIT_NOFILE, setrlimit(2)",
        probe="files",
    )
    output: Annotated[int, f.limit("output")] = f.key(
        "16M",
        "Bytes on standard output and standard error together. At the limit the run ends with cause `output`.",
        unit=_BYTES,
        enforcer="the main process, which counts what it reads from the run",
        probe="output",
    )
    disk: Annotated[int, f.limit("disk")] = f.key(
        "1G",
        "Bytes that a run may add to the file system of the workspace. No single file may grow beyond it. At the limit "
        "the run ends with cause `disk`; it is looked at in intervals, so a fast writer may pass it by a little.",
        unit=_BYTES,
        enforcer="the launcher, by statvfs(3) and proc_pid_io(5); RLIMIT_FSIZE for a single file",
        probe="disk",
    )
    tmp: Annotated[int, f.limit("tmp")] = f.key(
        "256M",
        "Size of a session's private file system, which /tmp, the home directory and /dev/shm share.",
        unit=_BYTES,
        enforcer="tmpfs size=, tmpfs(5)",
        probe="tmp",
    )
    timeout: Annotated[int, f.limit("timeout_ms")] = f.key(
        "60s",
        "Wall time of a run. At the deadline its whole tree is killed, with cause `timeout`.",
        unit=_TIME,
        enforcer="the launcher's timer and cgroup.kill",
        probe="timeout",
    )
    idle_timeout: Annotated[int, f.limit("idle_timeout_ms")] = f.key(
        "none",
        'Wall time without a byte of output after which a run is killed, with cause `idle_timeout`; "none" for no '
        "such limit.",
        unit='time or "none"',
        enforcer="the main process's timer and cgroup.kill",
        probe="idle_timeout",
    )


class Profile(Table):
    """A named confinement: what may be read, written, executed, reached, and how much of everything."""

    read: Annotated[tuple[Annotated[str, f.path_item(paths.read_refused)], ...], f.LIST] = f.key(
        ...,
        "What may be read, beside what may be written. A path that the host does not have is left out and the "
        "receipt says so.",
        unit=_PATHS,
        enforcer="the mount tree; Landlock READ_FILE and READ_DIR",
        probe="read_outside",
    )
    write: Annotated[tuple[Annotated[str, f.path_item(paths.write_refused)], ...], f.LIST] = f.key(
        [],
        "What may be written; reading is implied. /tmp is private to the session. The home directory /home/agent "
        "and /dev/shm are private too and always writable.",
        unit=_PATHS,
        enforcer="read-only mounts elsewhere; Landlock WRITE_FILE, MAKE_*, REMOVE_*, TRUNCATE, REFER",
        probe="write_outside",
    )
    execute: Annotated[tuple[Annotated[str, f.path_item(paths.execute_refused)], ...], f.LIST] = f.key(
        ...,
        "Where execve(2) may find programs, for the whole tree of a run. The dynamic loader and interpreters need "
        "an entry too, and what they load or interpret is bound by `read`, not by this list.",
        unit=_PATHS,
        enforcer="Landlock EXECUTE",
        probe="exec_outside",
    )
    network: Annotated[str, f.one_of(*NETWORKS)] = f.key(
        "none",
        '"none": no interface is up. "loopback": the session\'s own loopback, which nothing else is connected to.',
        unit=" or ".join(f'"{n}"' for n in NETWORKS),
        enforcer="a network namespace of the session's own; seccomp on socket(2)",
        probe="network",
    )
    limits: Limits = Field(default_factory=Limits, description="Upper bounds of one run.")
    required: Annotated[tuple[Annotated[str, f.one_of(*LAYERS)], ...], f.LIST] = f.key(
        ["landlock", "seccomp", "namespaces", "cgroup.memory", "cgroup.pids"],
        "Layers without which the profile is refused. A layer that is not listed is still used where the host has it, "
        "and the receipt says which were.",
        unit="list of " + ", ".join(LAYERS),
        enforcer="the launcher, before it serves the profile and at each session",
        probe="required",
    )
    env: Annotated[tuple[tuple[str, str], ...], PlainValidator(f.environment)] = f.key(
        {},
        "Environment variables that every run starts with. Nothing is inherited from the service.",
        unit="table of text",
        enforcer="an environment built from nothing, environ(7)",
        probe="env",
    )
    shell: Annotated[str, PlainValidator(f.shell_path)] = f.key(
        "/bin/sh",
        "The program that runs a request's `script`, called as SHELL -c SCRIPT.",
        unit="path",
        enforcer="the argument list that the launcher executes",
        probe="shell",
    )
    workspace_owner: Annotated[str, f.one_of(*OWNERS)] = f.key(
        "mapped",
        '"mapped": files made in the workspace belong to its owner, through an id-mapped mount; a workspace on a file '
        'system that cannot do so is refused. "shared": no mapping, for such file systems; the workspace itself must '
        "let the session's uid in.",
        unit=" or ".join(f'"{o}"' for o in OWNERS),
        enforcer="mount_setattr(2) MOUNT_ATTR_IDMAP",
        probe="workspace_owner",
    )
    autonomy: Annotated[str, f.one_of(*AUTONOMY)] = f.key(
        "full",
        "The most autonomy of what runs under it; see `[autonomy] level`.",
        unit=" or ".join(f'"{level}"' for level in AUTONOMY),
        enforcer="the decision; readonly: the launcher, by a read-only mount and Landlock",
        probe="readonly",
    )
    allowed_commands: Annotated[tuple[Annotated[str, PlainValidator(v.command_name)], ...], f.LIST] = f.key(
        [],
        "When given, only these programs can be executed, anywhere in the tree of a run, with what they need in order "
        "to start (the dynamic loader, the interpreter of a script, the parts that git and compilers call). Names are "
        "looked up in the profile's PATH when the policy is loaded. Each must be below a path of `execute`, and below "
        "none of `write`. Nothing that a run can write is executable then, whatever `execute` says, and `shell` only "
        "when it is named.",
        unit="list of program names or paths",
        enforcer="Landlock EXECUTE on those files alone; noexec mounts over the other programs",
        probe="allowed_commands",
    )


def _ceiling_limits(given: Any) -> Any:
    return {**CEILING_LIMITS, **given} if isinstance(given, dict) else given


class Ceiling(Table):
    """The most that any profile or caller may be granted, in every file. Only policy.toml may have it."""

    read: Annotated[tuple[Annotated[str, f.path_item(paths.read_refused, ceiling=True)], ...], f.LIST] = f.key(
        ["/"],
        "Profiles may read only below these.",
        unit=_PATHS,
        enforcer="the loader: the policy is refused",
        probe="ceiling",
    )
    write: Annotated[tuple[Annotated[str, f.path_item(paths.write_refused, ceiling=True)], ...], f.LIST] = f.key(
        CEILING_WRITE,
        "Profiles may write only below these.",
        unit=_PATHS,
        enforcer="the loader: the policy is refused",
        probe="ceiling",
    )
    execute: Annotated[tuple[Annotated[str, f.path_item(paths.execute_refused, ceiling=True)], ...], f.LIST] = f.key(
        CEILING_EXECUTE,
        "Profiles may execute only below these.",
        unit=_PATHS,
        enforcer="the loader: the policy is refused",
        probe="ceiling",
    )
    network: Annotated[str, f.one_of(*NETWORKS)] = f.key(
        "loopback",
        "The widest network of a profile.",
        unit=" or ".join(f'"{n}"' for n in NETWORKS),
        enforcer="the loader: the policy is refused",
        probe="ceiling",
    )
    limits: Annotated[Limits, BeforeValidator(_ceiling_limits)] = f.key(
        {},
        "The largest limits of a profile; the keys are those of `profiles.*.limits`. Each limit that is not given has "
        "the value " + ", ".join(f"{k} {v}" for k, v in CEILING_LIMITS.items()) + ".",
        unit="table of limits",
        enforcer="the loader: the policy is refused",
        probe="ceiling",
    )
    roles: Annotated[tuple[Annotated[str, PlainValidator(f.named)], ...], f.LIST] = f.key(
        CEILING_ROLES,
        "Roles that the callers of drop-ins may have or ask for. Callers in policy.toml are not bound by it.",
        unit="list of roles",
        enforcer="the loader: the policy is refused",
        probe="ceiling",
    )
    workspaces: Annotated[tuple[Annotated[str, PlainValidator(f.workspace_pattern)], ...], f.LIST] = f.key(
        CEILING_WORKSPACES,
        "The widest workspace patterns of a caller: each of a caller's patterns must lie within one of these.",
        unit="list of path patterns",
        enforcer="the loader: the policy is refused",
        probe="ceiling",
    )
