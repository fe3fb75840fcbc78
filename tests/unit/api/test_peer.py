from __future__ import annotations

import errno
import os
import pwd
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.api import peer
from supervisor.errors import CallerUnknown

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# Connects, optionally as another user in a cgroup, and then ends or waits until its stdin is closed.
CLIENT = """
import os, socket, sys
path, uid, group, stay = sys.argv[1:]
if group:
    with open(os.path.join(group, "cgroup.procs"), "w") as f:
        f.write("0")
if int(uid) >= 0:
    os.setgroups([12345, 23456]); os.setgid(int(uid)); os.setuid(int(uid))
s = socket.socket(socket.AF_UNIX)
s.connect(path)
print("connected", flush=True)
if stay == "fork":
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
    os._exit(0)
sys.stdin.read()
"""


class Server:
    """A listening socket and the processes that connect to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(path)
        self.listening.listen()
        os.chmod(path, 0o666)  # noqa: S103 - another user connects
        self.children: list[subprocess.Popen[str]] = []

    def client(self, *, uid: int = -1, group: str = "", stay: str = "stay") -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", CLIENT, self.path, str(uid), group, stay],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "connected\n"
        return child

    def close(self) -> None:
        for child in self.children:
            child.communicate()
        self.listening.close()


@pytest.fixture
def server() -> Iterator[Server]:
    # Not in tmp_path: another user has to be able to walk there.
    path = f"/tmp/stockade-peer-{os.getpid()}.sock"
    found = Server(path)
    try:
        yield found
    finally:
        found.close()
        os.unlink(path)


def test_the_kernel_names_the_process_that_connected(server: Server) -> None:
    child = server.client()
    connection, _ = server.listening.accept()
    with connection:
        seen = peer.identify(connection, [])
    assert (seen.pid, seen.uid, seen.gid) == (child.pid, os.getuid(), os.getgid())
    assert set(seen.gids) == set(os.getgroups())
    assert seen.inside is False


@ROOT
def test_another_user_is_that_user_with_its_groups(server: Server) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    server.client(uid=nobody)
    connection, _ = server.listening.accept()
    with connection:
        seen = peer.identify(connection, [])
    assert (seen.uid, seen.gid, sorted(seen.gids)) == (nobody, nobody, [12345, 23456])


def test_a_process_that_is_gone_is_nobody(server: Server) -> None:
    """Also while its child still holds the connection: the number may belong to somebody else by now."""
    child = server.client(stay="fork")
    pidfd = os.pidfd_open(child.pid)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    os.close(pidfd)
    connection, _ = server.listening.accept()
    with connection, pytest.raises(CallerUnknown):
        peer.identify(connection, [])
    child.wait()
    again = socket.socket(socket.AF_UNIX)
    with again, pytest.raises(CallerUnknown):
        peer.identify(Old(again, child.pid, os.getuid()), [])


def test_no_descriptor_is_left_open(server: Server) -> None:
    server.client()
    connection, _ = server.listening.accept()
    with connection:
        before = len(os.listdir("/proc/self/fd"))
        peer.identify(connection, [])
        peer.identify(Old(connection, os.getpid(), os.getuid()), [])
        with pytest.raises(CallerUnknown):
            peer.identify(Old(connection, os.getpid(), os.getuid() + 1), [])
        assert len(os.listdir("/proc/self/fd")) == before


class Old:
    """A socket of a kernel before 6.5, which does not know SO_PEERPIDFD."""

    def __init__(self, sock: socket.socket, pid: int, uid: int, groups: int | None = None) -> None:
        self._sock = sock
        self._credentials = struct.pack("3i", pid, uid, os.getgid())
        self._groups = groups

    def getsockopt(self, _level: int, option: int, _buflen: int = 0, /) -> bytes:
        if option == socket.SO_PEERCRED:
            return self._credentials
        if option == peer.SO_PEERPIDFD:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        if self._groups is not None:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        return struct.pack("I", os.getgid())


def test_before_the_kernel_had_peer_pidfds_the_number_is_checked(server: Server) -> None:
    me, _ = socket.socketpair()
    with me, _:
        seen = peer.identify(Old(me, os.getpid(), os.getuid()), [])
        assert seen.pid == os.getpid()
        with pytest.raises(CallerUnknown):  # the number belongs to somebody else by now
            peer.identify(Old(me, os.getpid(), os.getuid() + 1), [])
        with pytest.raises(CallerUnknown):  # in a PID namespace that is not visible from here
            peer.identify(Old(me, 0, os.getuid()), [])
        with pytest.raises(CallerUnknown, match="supplementary groups"):
            peer.identify(Old(me, os.getpid(), os.getuid(), groups=1000), [])


def own_cgroup() -> tuple[Path, str]:
    """A directory of the v2 hierarchy in which groups can be made, and its path as /proc/PID/cgroup writes it."""
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    mount = next(
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line
    )
    return Path(mount + own), own.rstrip("/")


@pytest.mark.root
@ROOT
def test_a_process_below_the_sessions_base_is_inside(server: Server) -> None:
    here, own = own_cgroup()
    base = here / f"stockade-test-{os.getpid()}"
    below = base / "ses-1" / "run-1"
    below.mkdir(parents=True)
    try:
        server.client(group=str(below))
        server.client()
        for expected in (True, False):
            connection, _ = server.listening.accept()
            with connection:
                assert peer.identify(connection, [f"{own}/{base.name}"]).inside is expected
    finally:
        server.close()
        for directory in (below, below.parent, base):
            directory.rmdir()


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/zeroclaw.service", "zeroclaw.service"),
        ("/system.slice/zeroclaw.service/workers/1", "zeroclaw.service"),
        ("/a.slice/a-b.slice/x.service", "x.service"),
        ("/system.slice/agent@one.service", "agent@one.service"),
        ("/system.slice/system-agent.slice/agent@one.service", "agent@one.service"),
        ("/system.slice/_cgroup.service", "cgroup.service"),
        ("/init.scope", "init.scope"),
        ("/user.slice/user-1000.slice/session-3.scope", "session-3.scope"),
        (r"/system.slice/dev-disk\x2d1.mount", r"dev-disk\x2d1.mount"),
        # A user's manager may make what it likes below its own service: that is never a system unit.
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/zeroclaw.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/user@1000.service/system.slice/zeroclaw.service", "user@1000.service"),
        ("/user.slice/user-1000.slice/user@1000.service/zeroclaw.service", "user@1000.service"),
        ("/machine.slice/systemd-nspawn@c.service/payload/system.slice/zeroclaw.service", "systemd-nspawn@c.service"),
        ("/machine.slice/docker-abc.scope/system.slice/zeroclaw.service", "docker-abc.scope"),
        ("/docker/abc/system.slice/zeroclaw.service", ""),
        ("/kubepods/zeroclaw.service", ""),
        ("/", ""),
        ("", ""),
        ("/system.slice", ""),
        ("/system.slice/not a unit.service", ""),
        ("/system.slice/.service", ""),
        ("/system.slice/@x.service", ""),
        ("/system.slice/x@.service", ""),
        ("/system.slice/x@y.slice/zeroclaw.service", ""),
        ("/system.slice/zeroclaw.service.d", ""),
        ("/system.slice/zeroclaw.service (deleted)", ""),
        ("/../system.slice/zeroclaw.service", ""),
        ("/../../zeroclaw.service", ""),
        ("/system.slice/" + "x" * 250 + ".service", ""),
        ("/system.slice/zeröclaw.service", ""),
    ],
)
def test_the_unit_of_a_cgroup_path_is_the_one_systemd_gave_it(path: str, unit: str) -> None:
    assert peer.unit_of_path(path) == unit


@given(st.text(alphabet="ab/.@-_s", max_size=40))
def test_nothing_below_a_users_manager_becomes_another_unit(tail: str) -> None:
    assert peer.unit_of_path(f"/user.slice/user-7.slice/user@7.service/{tail}/zeroclaw.service") == "user@7.service"


@pytest.mark.parametrize(
    ("lines", "unit"),
    [
        ([("", "/system.slice/a.service")], "a.service"),
        ([("name=systemd", "/system.slice/a.service"), ("", "/system.slice/a.service")], "a.service"),
        ([("name=systemd", "/system.slice/a.service"), ("", "/")], "a.service"),
        ([("name=systemd", "/system.slice/a.service"), ("", "/system.slice/b.service")], ""),
        ([("memory", "/system.slice/a.service"), ("", "/")], ""),
        ([], ""),
    ],
)
def test_only_systemds_own_hierarchies_name_a_unit(lines: list[tuple[str, str]], unit: str) -> None:
    assert peer.system_unit(lines) == unit


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("/s/sessions", True),
        ("/s/sessions/ses-1/run-1", True),
        ("/s/sessions (deleted)", True),
        ("/s/sessions/run (deleted)", True),
        ("/s/sessions2", False),
        ("/s", False),
        ("/", False),
    ],
)
def test_inside_is_the_base_or_below_it_in_any_hierarchy(path: str, inside: bool) -> None:
    assert peer.lies_inside([("", "/"), ("memory", path)], ["/other", "/s/sessions/"]) is inside
