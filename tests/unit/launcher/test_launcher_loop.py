"""The launcher's loop: what is told of a descriptor is told to who watches it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor.launcher.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.epoll.close()


def test_a_descriptor_that_takes_the_number_of_a_closed_one_is_not_told_of_what_that_was(loop: Loop) -> None:
    """Both ends are hung up on, so both are ready at once; whichever is told first closes the other."""
    pipes = dict((os.pipe(), os.pipe()))
    for writing in pipes.values():
        os.close(writing)
    new = os.pipe()
    wrote: list[int] = []

    def ended(own: int) -> None:
        (other,) = (fd for fd in pipes if fd != own)
        for fd in pipes:
            loop.forget(fd)
        os.dup2(new[0], other)
        loop.watch(other, lambda _: heard())
        loop.later(write)

    def write() -> None:
        wrote.append(os.write(new[1], b"x"))

    def heard() -> None:
        assert wrote, "nobody has written to it yet"
        loop.running = False

    for fd in pipes:
        loop.watch(fd, lambda _, fd=fd: ended(fd))  # type: ignore[misc]
    loop.run()
    for fd in (*pipes, *new):
        os.close(fd)
