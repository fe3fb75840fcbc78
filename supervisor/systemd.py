"""What systemd and a service say to each other: readiness, signs of life, sockets (sd_notify(3), sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket

_FIRST_FD = 3


def notify(state: str) -> None:
    """Send one state line to the service manager; without one, nothing. Never raises: it must not end the service."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    name = "\0" + address[1:] if address[0] == "@" else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(state.encode(), name)
    except OSError:
        return


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of what the manager waits, or None when it does not watch."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2e6 if microseconds.isdigit() and int(microseconds) > 0 else None


def listening_socket() -> socket.socket | None:
    """The one socket that the manager passed, or None. Raises ValueError when it passed something else."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = os.environ.get("LISTEN_FDS", "")
    if count != "1":
        raise ValueError(f"expected one socket from the service manager, got {count or 'none'}")
    os.set_inheritable(_FIRST_FD, False)
    sock = socket.socket(fileno=_FIRST_FD)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        raise ValueError("the socket from the service manager is not a Unix stream socket")
    return sock
