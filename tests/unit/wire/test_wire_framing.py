"""Packets with descriptors: none is lost, none is kept that was not expected."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from supervisor.wire import framing
from supervisor.wire import messages as w

if TYPE_CHECKING:
    from collections.abc import Iterator

START = w.StartRun("ses-000000000001", "run-000000000001", ["true"], {}, "/", {})


def descriptors() -> set[str]:
    return {f"{n} {os.readlink(f'/proc/self/fd/{n}')}" for n in os.listdir("/proc/self/fd") if _open(int(n))}


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = framing.pair()
    before = descriptors()
    yield a, b
    assert descriptors() <= before, "a descriptor is left"
    a.close()
    b.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    fds = os.pipe2(os.O_CLOEXEC)
    yield fds
    for fd in fds:
        os.close(fd)


# `pipe` is made before `ends` counts and closed after it counted again.
Pipe = tuple[int, int]
Ends = tuple[socket.socket, socket.socket]


def test_a_message_arrives_with_its_descriptors_closed_on_exec(pipe: Pipe, ends: Ends) -> None:
    framing.send(ends[0], START, pipe)
    received = framing.receive(ends[1], w.TO_LAUNCHER)
    assert received is not None
    message, fds = received
    try:
        assert message == START
        assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in pipe]
        assert not any(os.get_inheritable(fd) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize("count", [1, 4, 5, 9, 250])
def test_a_wrong_number_of_descriptors_is_refused_and_all_are_closed(pipe: Pipe, ends: Ends, count: int) -> None:
    socket.send_fds(ends[0], [w.encode(START)], [pipe[0]] * count)
    with pytest.raises(w.WireError):
        framing.receive(ends[1], w.TO_LAUNCHER)


@pytest.mark.parametrize(
    "data",
    [b"x", b"[]", b'["stop", {"id": 0}]', w.encode(w.Go("run-000000000001", "0" * 64)), b"[" * 90_000],
    ids=["no JSON", "empty", "out of bounds", "other direction", "deep"],
)
def test_descriptors_beside_a_packet_that_is_none_are_closed(pipe: Pipe, ends: Ends, data: bytes) -> None:
    socket.send_fds(ends[0], [data], list(pipe))
    with pytest.raises(w.WireError):
        framing.receive(ends[1], w.TO_LAUNCHER)


def test_a_packet_over_the_bound_is_refused_and_its_descriptors_are_closed(pipe: Pipe, ends: Ends) -> None:
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    try:
        socket.send_fds(ends[0], [w.encode(START) + b" " * w.MAX_MESSAGE], list(pipe))
    except OSError:
        pytest.skip("this kernel does not take so large a packet from anyone")
    with pytest.raises(w.WireError):
        framing.receive(ends[1], w.TO_LAUNCHER)


def test_the_largest_message_fits_without_privilege(ends: Ends) -> None:
    head = len(w.encode(w.Refused(1, "x", "", {"a": ""})))
    message = w.Refused(1, "x", "", {"a": "x" * (w.MAX_MESSAGE - head)})
    assert len(w.encode(message)) == w.MAX_MESSAGE
    framing.send(ends[0], message)
    assert framing.receive(ends[1], w.FROM_LAUNCHER) == (message, [])


def test_an_empty_packet_with_descriptors_is_refused_and_one_without_is_the_end(pipe: Pipe, ends: Ends) -> None:
    socket.send_fds(ends[0], [b""], list(pipe))
    with pytest.raises(w.WireError):
        framing.receive(ends[1], w.TO_LAUNCHER)
    ends[0].close()
    assert framing.receive(ends[1], w.TO_LAUNCHER) is None


def test_what_was_sent_before_the_end_is_still_read(ends: Ends) -> None:
    for n in range(1, 4):
        framing.send(ends[0], w.Stop(n))
    ends[0].shutdown(socket.SHUT_WR)
    got = [framing.receive(ends[1], w.TO_LAUNCHER) for _ in range(4)]
    assert [g[0].id if g else None for g in got] == [1, 2, 3, None]


def test_nothing_to_read_is_no_end(ends: Ends) -> None:
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        framing.receive(ends[1], w.TO_LAUNCHER)


def test_a_peer_that_does_not_read_blocks_nobody(ends: Ends) -> None:
    ends[0].setblocking(False)
    for _ in range(8):
        framing.send(ends[0], w.Stop(1))  # a burst fits
    with pytest.raises(BlockingIOError):
        _send_many(ends[0], 100_000)


def _send_many(sock: socket.socket, count: int) -> None:
    for _ in range(count):
        framing.send(sock, w.Stop(1))


def test_sending_to_a_closed_peer_is_an_error_and_no_signal(ends: Ends) -> None:
    ends[1].close()
    with pytest.raises(BrokenPipeError):
        framing.send(ends[0], w.Stop(1))


def test_the_ends_are_not_inherited_by_what_is_executed(ends: Ends) -> None:
    assert not any(os.get_inheritable(s.fileno()) for s in ends)
