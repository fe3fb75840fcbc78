"""Nobody outside is spoken to: listeners of the host that would have accepted say so."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.escapes.running import assert_all_denied, assert_noticed, confined, unconfined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Daemon

pytestmark = pytest.mark.root

UNIX = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)
# Not attempted unconfined, or not on every host; Docker's socket is stood in for where there is none.
HOST = frozenset({
    "multicast", "broadcast", "raise_an_interface", "join_another_network", "tcp_own_address_host",
    "dns_by_the_library",
    "system_bus_dbus", "system_bus_systemd", "system_bus_journal", "icmp", "tcp_fast_open_loopback4", "own_api",
    "own_by_root_api", "own_by_root_api_1", *(f"file_by_proc_root_{k}" for k in ("stream", "dgram", "seqpacket")),
})  # fmt: skip
ABSENT = frozenset({"system_bus_dbus", "system_bus_systemd", "system_bus_journal"})


class Listeners:
    """One listener of each kind on the host."""

    def __init__(self, directory: Path) -> None:
        self.name = f"stockade-canary-{uuid.uuid4().hex}"
        self.directory = directory / self.name
        self.directory.mkdir()
        self.directory.chmod(0o777)
        self.sockets: list[socket.socket] = []
        self.answered: list[str] = []
        for kind in UNIX:
            self._listen(socket.AF_UNIX, kind, f"\0{self.name}-{int(kind)}")
            self._listen(socket.AF_UNIX, kind, f"{self.directory}/canary-{int(kind)}")
            os.chmod(f"{self.directory}/canary-{int(kind)}", 0o777)  # noqa: S103
        tcp = self._listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
        udp = self._listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
        self.tcp, self.udp = tcp.getsockname()[1], udp.getsockname()[1]
        self._listen(socket.AF_INET6, socket.SOCK_STREAM, ("::1", self.tcp))
        udp6 = self._listen(socket.AF_INET6, socket.SOCK_DGRAM, ("::1", self.udp))
        self._stop, self._stopping = os.pipe()
        self._answering = threading.Thread(target=self._answer, args=(udp, udp6))
        self._answering.start()

    def _listen(self, family: int, kind: int, address: Any) -> socket.socket:
        made = socket.socket(family, kind)
        self.sockets.append(made)
        made.bind(address)
        made.setblocking(False)
        if kind != socket.SOCK_DGRAM:
            made.listen(64)
        return made

    def _answer(self, *sockets: socket.socket) -> None:
        """Answer datagrams of the network: that one was sent says nothing about where it went."""
        while True:
            for s in select.select([self._stop, *sockets], [], [])[0]:
                if s == self._stop:
                    return
                _, sender = s.recvfrom(4096)
                self.answered.append(str(s.getsockname()))
                s.sendto(b"answer", sender)

    def heard(self) -> list[str]:
        """The addresses at which somebody was. Nobody is answered after this."""
        os.write(self._stopping, b"x")
        self._answering.join()
        found = sorted(set(self.answered))
        for s in self.sockets:
            with contextlib.suppress(BlockingIOError):
                if s.type == socket.SOCK_DGRAM:
                    s.recv(4096)
                else:
                    s.accept()[0].close()
                found.append(str(s.getsockname()))
        return found

    def close(self) -> None:
        if self._answering.is_alive():
            self.heard()
        os.close(self._stop)
        os.close(self._stopping)
        for s in self.sockets:
            s.close()


@pytest.fixture
def docker() -> Iterator[None]:
    """Something that listens where Docker's daemon would, if nothing does."""
    path = Path("/run/docker.sock")
    if os.path.lexists(path):
        yield
        return
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        path.chmod(0o666)
        s.listen(64)
        try:
            yield
        finally:
            path.unlink()


@pytest.fixture
def listeners(area: Path) -> Iterator[tuple[Listeners, Listeners]]:
    area.chmod(0o777)
    made = [Listeners(area)]
    try:
        made.append(Listeners(area))
        yield made[0], made[1]
    finally:
        for one in made:
            one.close()


def _target(one: Listeners, workspace: Path, daemon: Daemon) -> dict[str, Any]:
    (workspace / "planted-socket").symlink_to(one.directory / f"canary-{int(socket.SOCK_STREAM)}")
    return {
        "abstract": one.name, "directory": str(one.directory), "tcp": one.tcp, "udp": one.udp, "api": daemon.socket,
        "planted": str(workspace / "planted-socket"), "pid": os.getpid(), "hostname": os.uname().nodename,
        "addresses": _addresses(),
    }  # fmt: skip


def _addresses() -> list[str]:
    """The host's own addresses, which reach it without leaving it."""
    found = set()
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as s, contextlib.suppress(OSError):
            s.connect((far, 9))  # on a datagram socket this only looks up the route; nothing is sent
            found.add(s.getsockname()[0])
    return sorted(found)


@pytest.mark.usefixtures("docker")
def test_nobody_outside_is_spoken_to(
    daemon: Daemon, workspace: Path, control_workspace: Path, listeners: tuple[Listeners, Listeners]
) -> None:
    """Abstract and file sockets of the host, Docker's and our own, TCP, UDP, ICMP and DNS over IPv4 and IPv6."""
    inside, outside = listeners
    found = confined(daemon, workspace, "sockets.py", _target(inside, workspace, daemon))
    assert inside.heard() == []
    control = unconfined(control_workspace, "sockets.py", _target(outside, control_workspace, daemon), daemon.agent.uid)
    assert_noticed(control, host=HOST)
    assert len(outside.heard()) == len(outside.sockets)
    assert_all_denied(found, control, absent=ABSENT)


@pytest.mark.xfail(
    strict=True,
    reason="no kernel of today lets Landlock say which socket files may be connected to, and a filter cannot follow"
    " connect(2)'s pointer: what listens inside the workspace is part of what the owner hands in",
)
def test_a_listener_of_the_host_inside_the_workspace_is_not_spoken_to(daemon: Daemon, workspace: Path) -> None:
    """A daemon of the owner's that listens in its own directory (an editor's, git's fsmonitor) is outside as well."""
    script = (
        "import socket,sys\ns = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect('listening.sock'); s.send(b'hello'); print('connected')\n"
        "except OSError as e: print('denied', e.errno)\n"
    )
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(workspace / "listening.sock"))
        os.chmod(workspace / "listening.sock", 0o777)  # noqa: S103
        os.chown(workspace / "listening.sock", daemon.agent.uid, daemon.agent.gid)
        s.setblocking(False)
        s.listen(8)
        run = daemon.run(workspace, "/usr/bin/python3", "-c", script)
        spoken_to = bool(select.select([s], [], [], 0)[0])
    assert run["stdout"].startswith("denied")
    assert not spoken_to


def test_a_run_that_reaches_the_control_socket_sees_only_itself(daemon: Daemon, workspace: Path) -> None:
    """The socket is not visible inside; the network of a run has no route to anything either."""
    run = daemon.run(
        workspace,
        "/bin/sh",
        "-c",
        f"ls {daemon.socket} {daemon.root} /run/stockade 2>&1; cat /proc/net/route /proc/net/unix",
    )
    assert "api.sock" not in run["stdout"].replace(f"'{daemon.socket}'", "")
    assert len([line for line in run["stdout"].splitlines() if line.startswith(("eth", "lo\t"))]) == 0
