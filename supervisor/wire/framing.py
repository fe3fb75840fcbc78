"""Packets with descriptors over SOCK_SEQPACKET (unix(7)), for the processes that own no event loop.

The receiving side never keeps a descriptor that it did not expect: with a wrong count the message is a
WireError and every descriptor is closed.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import Any

from supervisor.wire.messages import MAX_FDS, MAX_MESSAGE, Message, Vocabulary, WireError, decode, dumps, encode

_INT = array.array("i").itemsize
_ANCILLARY = socket.CMSG_SPACE((MAX_FDS + 1) * _INT)  # one more than permitted, so that "too many" is seen

# Plain numbers: joining members of an enum takes as long as the call that they are for.
_LOOK = int(socket.MSG_PEEK | socket.MSG_TRUNC)
_TAKE = int(socket.MSG_CMSG_CLOEXEC)
_CUT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)


def pair() -> tuple[socket.socket, socket.socket]:
    """A connected SOCK_SEQPACKET pair, close-on-exec, with room for the largest message."""
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for s in (a, b):
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_MESSAGE)
    return a, b


def send(sock: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send one message. Raises OSError (BlockingIOError when the peer does not read), WireError if too large."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([encode(message)], rights, socket.MSG_NOSIGNAL)


def put(sock: socket.socket, body: object, fds: tuple[int, ...] = ()) -> None:
    """One JSON packet between processes of ours on the same side of the line, where no vocabulary is needed.

    Raises OSError; BlockingIOError when the peer does not read.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([dumps(body).encode("ascii")], rights, socket.MSG_NOSIGNAL)


def parse(data: bytes) -> Any:
    """The body of put()."""
    return json.loads(data)


def take(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int], int]:
    """One packet as it is: (bytes, descriptors, flags of recvmsg(2)); the descriptors are the caller's.

    socket.recv_fds() will not do: it ignores its flags.
    """
    # A look at the size first: a buffer for the largest packet would be 192 KiB to map and fault in each time.
    size = sock.recv_into(bytearray(1), 1, flags | _LOOK)
    data, ancillary, flags, _ = sock.recvmsg(min(size, MAX_MESSAGE) + 1, _ANCILLARY, flags | _TAKE)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            got = array.array("i")
            got.frombytes(payload[: len(payload) - len(payload) % _INT])
            fds.extend(got)
    return data, fds, flags


def receive(sock: socket.socket, permitted: Vocabulary) -> tuple[Any, list[int]] | None:
    """The next message and its descriptors, or None at the peer's end.

    Raises WireError for anything that is not one of `permitted`, with all received descriptors closed;
    BlockingIOError on a non-blocking socket with nothing to read.
    """
    data, fds, flags = take(sock)
    try:
        if flags & _CUT:
            raise WireError("truncated packet")
        if not data:
            if fds:
                raise WireError("descriptors without a message")
            return None
        return decode(data, permitted, len(fds)), fds
    except WireError:
        for fd in fds:
            os.close(fd)
        raise
