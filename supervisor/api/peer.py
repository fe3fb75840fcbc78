"""Who is calling, as the kernel says: unix(7) peer credentials, a pidfd, and the cgroup as long as the pidfd lives.

Everything is taken once, when a connection is accepted. SO_PEERCRED, SO_PEERGROUPS and SO_PEERPIDFD speak of the
process that called connect(2), so a connection that is passed on (SCM_RIGHTS, fork) keeps the identity of the one
who made it: handing it over is handing over one's own rights, as with any open descriptor.

/proc/PID/cgroup names a process only by number. The pidfd proves that the number still means the same process: it
becomes readable when the process ends, and a number is not given out again before that. So the order is pidfd,
read, look at the pidfd; when it is readable the answer is thrown away.

SO_PEERPIDFD is new in Linux 6.5. Before it, pidfd_open(2) on the number of SO_PEERCRED leaves a gap between
connect(2) and accept(2) in which the number could be given out again; uid, gid and groups are exact even then, the
unit is not. The check against /proc/PID's owner closes the gap towards other uids.
"""

from __future__ import annotations

import errno
import os
import re
import select
import struct
from socket import SO_PEERCRED, SOL_SOCKET
from typing import TYPE_CHECKING, Protocol, overload

from supervisor.errors import CallerUnknown
from supervisor.runs.model import Peer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SO_PEERGROUPS = 59  # asm-generic/socket.h; not in Python's socket module
SO_PEERPIDFD = 77
MAX_GROUPS = 256  # socket.getsockopt() reads at most 1024 bytes of gid_t

_UCRED = struct.Struct("3i")
_UNIT = re.compile(
    r"[A-Za-z0-9:_.\\-]+(?:@[A-Za-z0-9:_.\\@-]+)?"
    r"\.(?:service|socket|target|device|mount|automount|swap|timer|path|slice|scope)",
    re.ASCII,
)


class PeerSocket(Protocol):
    """What is needed of a socket; asyncio's TransportSocket has it too."""

    @overload
    def getsockopt(self, level: int, option: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, option: int, buflen: int, /) -> bytes: ...


def identify(sock: PeerSocket, bases: Sequence[str]) -> Peer:
    """The process at the other end of a connected AF_UNIX stream socket.

    `bases` are the cgroup paths, as /proc/PID/cgroup writes them, below which Stockade's own sessions live.
    Raises CallerUnknown when the process is gone or the kernel does not say enough.
    """
    credentials = sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(credentials)
    if pid <= 0:  # the kernel's way to say: in a PID namespace that is not visible from here
        raise CallerUnknown("the calling process is not visible from here", hint="call from the same PID namespace")
    uid, gid = uid & 0xFFFFFFFF, gid & 0xFFFFFFFF
    groups = _groups(sock)
    pidfd = _pidfd(sock, pid, uid)
    try:
        lines = _cgroup(pid)
        if _ended(pidfd):
            raise _gone(pid)
    finally:
        os.close(pidfd)
    return Peer(pid=pid, uid=uid, gid=gid, gids=groups, unit=system_unit(lines), inside=lies_inside(lines, bases))


def _groups(sock: PeerSocket) -> tuple[int, ...]:
    try:
        raw = sock.getsockopt(SOL_SOCKET, SO_PEERGROUPS, MAX_GROUPS * 4)
    except OSError as e:
        if e.errno != errno.ERANGE:
            raise
        raise CallerUnknown(
            f"the caller has more than {MAX_GROUPS} supplementary groups", hint="call as a user with fewer groups"
        ) from e
    return struct.unpack(f"{len(raw) // 4}I", raw)


def _pidfd(sock: PeerSocket, pid: int, uid: int) -> int:
    try:
        pidfd = sock.getsockopt(SOL_SOCKET, SO_PEERPIDFD)
    except OSError as e:
        if e.errno in (errno.ESRCH, errno.EINVAL):  # reaped before it was asked for
            raise _gone(pid) from e
        if e.errno != errno.ENOPROTOOPT:
            raise
        return _pidfd_by_number(pid, uid)
    return pidfd


def _pidfd_by_number(pid: int, uid: int) -> int:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as e:
        raise _gone(pid) from e
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            uids = next(line for line in status if line.startswith(b"Uid:")).split()[1:]
        if _ended(pidfd) or uid not in map(int, uids):
            raise _gone(pid)
    except (OSError, StopIteration) as e:
        os.close(pidfd)
        raise _gone(pid) from e
    except CallerUnknown:
        os.close(pidfd)
        raise
    return pidfd


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _cgroup(pid: int) -> list[tuple[str, str]]:
    """(controllers, path) of each line of /proc/PID/cgroup, cgroups(7)."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.rstrip("\n").split(":", 2) for line in file]
    except OSError as e:
        raise _gone(pid) from e
    if not rows or any(len(row) != 3 for row in rows):
        raise _gone(pid)  # a process that is being reaped has no line
    return [(row[1], row[2]) for row in rows]


def _gone(pid: int) -> CallerUnknown:
    return CallerUnknown(
        f"the process that connected (pid {pid}) has ended or cannot be looked at",
        hint="keep the connecting process alive for as long as its requests",
    )


def lies_inside(lines: Iterable[tuple[str, str]], bases: Iterable[str]) -> bool:
    """Whether any line of /proc/PID/cgroup is one of `bases` or below one."""
    roots = [base.rstrip("/") for base in bases]
    for _, path in lines:
        place = path.removesuffix(" (deleted)")
        if any(place == root or place.startswith(root + "/") for root in roots):
            return True
    return False


def system_unit(lines: Iterable[tuple[str, str]]) -> str:
    """The systemd system unit of a process, "" when it has none.

    systemd keeps its tree in the v2 hierarchy, in the v1 hierarchy name=systemd, or (hybrid) in both. Two
    answers that differ are no answer.
    """
    found = {unit_of_path(path) for controllers, path in lines if controllers in ("", "name=systemd")} - {""}
    return found.pop() if len(found) == 1 else ""


def unit_of_path(path: str) -> str:
    """The unit that owns a cgroup path, as sd_pid_get_unit(3) finds it: past the leading slices, the next name.

    Everything below that name is the unit's own doing. In particular a user's units lie below user@UID.service,
    and that is their unit here, whatever directories the user has made further down.
    """
    if path.endswith(" (deleted)"):
        return ""
    for part in path.split("/"):
        if part == "":
            continue
        name = part.removeprefix("_")  # systemd's escape for names that look like files of the kernel
        if len(name) < 256 and _UNIT.fullmatch(name):
            if name.endswith(".slice"):
                if "@" in name:
                    return ""
                continue
            return name
        return ""
    return ""
