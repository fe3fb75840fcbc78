"""What each process of a running service is for the kernel: read from /proc, as docs/architecture.md says."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path
from pwd import getpwnam
from typing import TYPE_CHECKING, Any

import pytest

from supervisor import daemon as root
from supervisor.kernel import syscalls
from supervisor.kernel.process import CAPABILITIES, last_capability
from supervisor.launcher.main import KEPT_CAPABILITIES
from tests.harness import Daemon
from tests.kernel.hostile import processes_of, uid_range
from tests.system.faults import policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Agent

pytestmark = pytest.mark.root

NONE = "0" * 16
NAMESPACES = ("mnt", "pid", "net", "ipc", "uts")
SHOWN = ("Name", "Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}


def ids(number: int) -> str:
    return "\t".join([str(number)] * 4)


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for entry in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/{pid}/fd/{entry}")
        except FileNotFoundError:
            continue
    return found


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def sockets(pid: int) -> set[int]:
    links = descriptors(pid).values()
    return {int(m[1]) for m in (re.fullmatch(r"socket:\[(\d+)\]", link) for link in links) if m}


def unix_sockets() -> dict[int, tuple[bool, str]]:
    """inode -> (listening, path), from /proc/net/unix (proc_net(5)); __SO_ACCEPTCON is 1 << 16."""
    found = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        found[int(fields[6])] = (bool(int(fields[3], 16) & 0x10000), fields[7] if len(fields) > 7 else "")
    return found


@pytest.fixture(scope="module")
def service(ground: Path, agent: Agent) -> Iterator[tuple[Daemon, dict[str, int]]]:
    """A service with a session and a run in it: (it, name -> pid)."""
    uids = uid_range()
    place = ground / f"processes-{os.getpid()}"
    place.mkdir(mode=0o755)
    os.chown(place, agent.uid, agent.gid)
    with Daemon(ground, agent, sys.executable, policy(uids)) as running:
        opened = running.request("POST", "/v1/sessions", {"workspace": str(place)}).json
        path = f"/v1/sessions/{opened['id']}/shell"
        body = {"script": "echo; exec sleep 1000", "background": True}
        run = running.request("POST", path, body).json
        follow = running.connect()
        follow.request("GET", f"/v1/runs/{run['id']}/output?follow=true")
        response = follow.getresponse()
        while b'"stdout"' not in (line := response.readline()):
            assert line, "it runs once it has written"
        follow.close()
        uid = opened["receipt"]["uid"]
        child = next(pid for pid, line in processes_of((uid, 1)).items() if line.startswith("sleep"))
        leader = next(iter(processes_of((uid + 1, 1))))
        launcher = running.children()["launcher"]
        children = map(int, Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split())
        forge = next(pid for pid in children if status(pid)["Uid"] == ids(0))
        pids = {"main": running.pid, **running.children(), "forge": forge, "leader": leader, "child": child}
        yield running, pids


def test_the_table_of_docs_architecture(service: tuple[Daemon, dict[str, int]]) -> None:
    """Printed with `pytest -s`: the ps and the status lines that docs/architecture.md shows."""
    _, pids = service
    listed = ",".join(map(str, pids.values()))
    fields = "pid,ppid,uid,gid,rss,args"
    print(subprocess.run(["ps", "-ww", "-o", fields, "-p", listed], capture_output=True, text=True, check=True).stdout)
    for name, pid in pids.items():
        found = status(pid)
        print(name, *(f"{k}={' '.join(found[k].split())}" for k in SHOWN))
        print("    ", dict(sorted(descriptors(pid).items())))
    assert set(pids) == {"main", "launcher", "forge", "auditor", "parser", "leader", "child"}


@pytest.mark.parametrize(("name", "user"), [("main", "stockade"), ("auditor", "stockade-audit")])
def test_main_and_auditor_have_no_privilege_and_cannot_gain_any(
    service: tuple[Daemon, dict[str, int]], name: str, user: str
) -> None:
    found, account = status(service[1][name]), getpwnam(user)
    expected = {
        "Uid": ids(account.pw_uid),
        "Gid": ids(account.pw_gid),
        "Groups": "",
        "NoNewPrivs": "1",
        "Seccomp": "2",
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), NONE),
    }
    assert {k: found[k] for k in expected} == expected


def test_the_launcher_keeps_a_bounded_set_of_capabilities(service: tuple[Daemon, dict[str, int]]) -> None:
    found = status(service[1]["launcher"])
    kept = sum(1 << CAPABILITIES[name] for name in KEPT_CAPABILITIES)
    assert int(found["CapBnd"], 16) & ~kept == 0
    assert int(found["CapEff"], 16) & ~kept == 0
    assert int(found["CapEff"], 16) != (1 << (last_capability() + 1)) - 1
    assert (found["CapInh"], found["CapAmb"], found["Threads"]) == (NONE, NONE, "1")
    forge = status(service[1]["forge"])
    assert int(forge["CapBnd"], 16) & ~kept == 0


@pytest.mark.parametrize("name", ["leader", "child"])
def test_leader_and_child_have_a_uid_of_their_own_and_nothing_else(
    service: tuple[Daemon, dict[str, int]], name: str
) -> None:
    found = status(service[1][name])
    uid = int(found["Uid"].split()[0])
    expected = {
        "Uid": ids(uid),
        "Gid": ids(uid),
        "Groups": "",
        "NoNewPrivs": "1",
        "Seccomp": "2",
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), NONE),
    }
    assert {k: found[k] for k in expected} == expected
    assert uid != int(status(service[1]["leader" if name == "child" else "child"])["Uid"].split()[0])


@pytest.mark.parametrize("name", ["leader", "child"])
@pytest.mark.parametrize("kind", NAMESPACES)
def test_leader_and_child_live_in_namespaces_of_their_session(
    service: tuple[Daemon, dict[str, int]], name: str, kind: str
) -> None:
    _, pids = service
    assert namespace(pids[name], kind) != namespace(os.getpid(), kind)
    assert namespace(pids[name], kind) == namespace(pids["leader"], kind)
    for trusted in ("main", "launcher", "auditor"):
        assert namespace(pids[trusted], kind) == namespace(os.getpid(), kind)


def test_a_child_sees_its_cgroup_as_the_root(service: tuple[Daemon, dict[str, int]]) -> None:
    assert namespace(service[1]["child"], "cgroup") != namespace(os.getpid(), "cgroup")


def test_a_child_has_only_its_three_descriptors(service: tuple[Daemon, dict[str, int]]) -> None:
    found = descriptors(service[1]["child"])
    assert sorted(found) == [0, 1, 2]
    assert found[0].endswith("/dev/null")
    assert found[1].startswith("pipe:")
    assert found[2].startswith("pipe:")
    assert found[1] != found[2]


def test_only_main_holds_the_listening_socket_and_each_only_its_own(service: tuple[Daemon, dict[str, int]]) -> None:
    running, pids = service
    known = unix_sockets()
    listening = {name: {i for i in sockets(pid) if known.get(i, (False, ""))[0]} for name, pid in pids.items()}
    assert [known[i][1] for i in listening.pop("main")] == [running.socket]
    assert set().union(*listening.values()) == set()
    held = {name: sockets(pid) for name, pid in pids.items()}
    for name in ("launcher", "auditor", "forge", "leader", "child"):
        assert held[name] & held["main"] == set(), f"{name} holds a socket of main"
        assert len(held[name]) <= {"launcher": 64, "auditor": 2, "forge": 1, "leader": 1, "child": 0}[name]
    assert held["auditor"] & held["launcher"] == set()
    files = [link for link in descriptors(pids["auditor"]).values() if link.startswith("/")]
    assert sorted(files) == sorted(["/dev/null", "/dev/null", str(running.log), str(running.root / "log/audit.jsonl")])
    spool = str(running.root / "state")
    for name in ("launcher", "forge", "auditor", "leader", "child"):
        assert not [x for x in descriptors(pids[name]).values() if x.startswith(spool)], f"{name} holds main's files"


# --- what main could do if it were taken over -------------------------------------------------------------------


def _attempts(state: str, outside: int) -> dict[str, Callable[[], Any]]:
    def ptrace() -> None:
        syscalls.call("ptrace", 16, outside, ctypes.c_void_p(), ctypes.c_void_p())  # PTRACE_ATTACH

    def write_memory() -> None:
        area = ctypes.create_string_buffer(8)
        vector = struct.pack("QQ", ctypes.addressof(area), 8)
        syscalls.call("process_vm_writev", outside, vector, 1, vector, 1, 0)

    return {
        "socket AF_INET": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "socket AF_INET6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "socket AF_NETLINK": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "exec": lambda: os.execv("/bin/true", ["true"]),  # noqa: S606
        "ptrace": ptrace,
        "process_vm_writev": write_memory,
        "mount": lambda: syscalls.call("mount", b"none", b"/tmp", b"tmpfs", 0, ctypes.c_void_p()),
        "unshare": lambda: syscalls.call("unshare", 0x10000000),
        "bpf": lambda: syscalls.call("bpf", 0, ctypes.c_void_p(), 0),
        "setuid 0": lambda: os.setresuid(0, 0, 0),
        "read /root": lambda: os.listdir("/root"),
        "read the audit log": lambda: open(f"{state}/../log/audit.jsonl", "rb").close(),
        "write /tmp": lambda: open("/tmp/.stockade-main", "wb").close(),
        "write the policy": lambda: open(f"{state}/../etc/policy.toml", "ab").close(),
        "write /proc": lambda: open("/proc/self/oom_score_adj", "wb").close(),
    }


def test_main_confined_as_the_service_confines_it_can_do_nothing_outside(ground: Path, accounts: None) -> None:
    """A process that goes through the same steps as main does then tries it; each answers by its errno."""
    state = ground / f"confined-{os.getpid()}" / "state"
    state.mkdir(parents=True)
    for name in ("log", "etc"):
        (state.parent / name).mkdir()
    (state.parent / "log" / "audit.jsonl").touch(0o666)
    (state.parent / "etc" / "policy.toml").touch(0o666)
    account = getpwnam("stockade")
    os.chown(state, account.pw_uid, account.pw_gid)
    filters = root.compiled_filters()["main"]
    tries = _attempts(str(state), os.getppid())
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            root.give_up_root(account.pw_uid, account.pw_gid)
            root.confine([*root.programs(), "/proc", "/etc"], [str(state)], filters)
            for name, attempt in tries.items():
                try:
                    attempt()
                    os.write(writing, f"{name}: succeeded\n".encode())
                except OSError as e:
                    os.write(writing, f"{name}: {errno.errorcode.get(e.errno or 0)}\n".encode())
            open(state / "own", "wb").close()
            os.write(writing, b"own: succeeded\n")
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as f:
        found = dict(line.strip().split(": ") for line in f)
    os.waitpid(pid, 0)
    assert found.pop("own") == "succeeded", "it is confined, not broken"
    assert found.keys() == tries.keys()
    assert {k: v for k, v in found.items() if v not in ("EPERM", "EACCES", "ENOSYS", "EAFNOSUPPORT")} == {}
