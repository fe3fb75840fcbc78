"""A run's stdin through a real pipe, no faster than it is read."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import Conflict
from supervisor.runs.input import Input

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = 300_000  # more than a pipe holds


@pytest.fixture
def pipe() -> Iterator[list[int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)
    ends = [reading, writing]
    yield ends
    for fd in ends:
        if fd >= 0:
            os.close(fd)


def take_over(pipe: list[int]) -> Input:
    made = Input(pipe[1])
    pipe[1] = -1
    return made


async def read_all(fd: int) -> bytes:
    """In a thread, as a real reader of its own."""

    def read() -> bytes:
        with os.fdopen(os.dup(fd), "rb") as f:
            return f.read()

    return await asyncio.to_thread(read)


async def test_bytes_given_with_the_request_arrive_whole_and_then_the_end(pipe: list[int]) -> None:
    given = bytes(range(256)) * (BIG // 256)
    made = take_over(pipe)
    made.send(given, eof=True)
    assert await read_all(pipe[0]) == given
    assert not made.open


async def test_empty_input_is_the_end_at_once(pipe: list[int]) -> None:
    made = take_over(pipe)
    made.send(b"", eof=True)
    assert os.read(pipe[0], 1) == b""


async def test_a_feed_returns_only_when_the_pipe_took_everything(pipe: list[int]) -> None:
    made = take_over(pipe)
    feeding = asyncio.ensure_future(made.feed(b"x" * BIG, eof=False))
    await asyncio.sleep(0)
    assert not feeding.done()
    with pytest.raises(Conflict):
        await made.feed(b"y", eof=False)
    reading = asyncio.ensure_future(read_all(pipe[0]))
    await feeding
    await made.feed(b"z", eof=True)
    assert await reading == b"x" * BIG + b"z"
    with pytest.raises(Conflict):
        await made.feed(b"more", eof=True)


async def test_a_feed_learns_that_nobody_reads_any_more(pipe: list[int]) -> None:
    made = take_over(pipe)
    feeding = asyncio.ensure_future(made.feed(b"x" * BIG, eof=False))
    await asyncio.sleep(0)
    os.close(pipe[0])
    pipe[0] = -1
    with pytest.raises(Conflict):
        await feeding
    assert not made.open


async def test_the_end_of_the_run_ends_a_feed(pipe: list[int]) -> None:
    made = take_over(pipe)
    feeding = asyncio.ensure_future(made.feed(b"x" * BIG, eof=False))
    await asyncio.sleep(0)
    made.close()
    made.close()
    with pytest.raises(Conflict):
        await feeding
