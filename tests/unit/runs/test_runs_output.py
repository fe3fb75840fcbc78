"""Output with real pipes: two streams kept apart, whole up to the limit, at constant memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import NotFound
from supervisor.runs.output import CHUNK, IN_MEMORY, Output, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Pipes:
    """The writing ends of one run's output."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.floods: list[str] = []
        self.writing: list[int] = []
        self.output: Output | None = None

    def make(self, limit: int = 1 << 20) -> Output:
        reading = []
        for _ in range(2):
            r, w = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(r, False)
            reading.append(r)
            self.writing.append(w)
        self.output = Output(
            *reading, limit=limit, spool=str(self.spool), name="run-aaaaaaaa", on_flood=self.floods.append
        )
        return self.output

    def write(self, stream: int, data: bytes) -> None:
        assert os.write(self.writing[stream], data) == len(data)

    def end(self, *streams: int) -> None:
        for stream in streams or (0, 1):
            if self.writing[stream] >= 0:
                os.close(self.writing[stream])
                self.writing[stream] = -1

    def files(self) -> list[str]:
        return sorted(p.name for p in self.spool.iterdir())


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    made = Pipes(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    yield made
    made.end() if made.writing else None
    if made.output is not None:
        made.output.forget()
    assert made.files() == []
    assert len(os.listdir("/proc/self/fd")) == before


async def spawn(pipes: Pipes, program: str) -> asyncio.subprocess.Process:
    """A real child with the writing ends; ours are closed."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdin=subprocess.DEVNULL, stdout=pipes.writing[0], stderr=pipes.writing[1]
    )
    pipes.end()
    return child


async def test_a_little_output_stays_in_memory_with_its_streams_apart(pipes: Pipes) -> None:
    output = pipes.make()
    pipes.write(0, b"out")
    pipes.write(1, b"\xff\0err")
    output.finish()
    assert output.head_tail("stdout") == (b"out", False)
    assert output.head_tail("stderr") == (b"\xff\0err", False)
    assert (output.size("stdout"), output.size("stderr")) == ((3, 3), (5, 5))
    assert pipes.files() == []


async def test_what_a_run_left_in_its_pipes_is_kept_even_when_nobody_closed_them(pipes: Pipes) -> None:
    """A writing end may have been handed to another process; the end of the run is the end of its output."""
    output = pipes.make()
    pipes.write(0, b"x" * 60_000)
    output.finish()
    assert output.size("stdout") == (60_000, 60_000)
    with pytest.raises(BrokenPipeError):
        pipes.write(0, b"later")


async def test_more_goes_to_one_file_per_stream_that_only_the_service_can_read(pipes: Pipes) -> None:
    output = pipes.make()
    pipes.write(0, b"a" * IN_MEMORY)
    pipes.write(1, b"b")
    output.finish()
    assert pipes.files() == ["run-aaaaaaaa.stderr", "run-aaaaaaaa.stdout"]
    assert {p.stat().st_mode & 0o777 for p in pipes.spool.iterdir()} == {0o600}
    assert output.read("stdout", IN_MEMORY - 2, 10) == b"aa"
    assert output.read("stderr", 0, 10) == b"b"
    output.forget()
    assert pipes.files() == []


async def test_a_flood_is_stopped_once_and_costs_no_memory(pipes: Pipes) -> None:
    """100 MiB of a real child against a limit of 1 MiB: read to the end, kept to the limit, on disk."""
    output = pipes.make(limit=1 << 20)
    total = 100 << 20
    child = await spawn(pipes, f"import os\nfor _ in range({total >> 20}): os.write(1, b'x' * (1 << 20))")
    assert await child.wait() == 0
    output.finish()
    assert pipes.floods == ["more output than the limit allows"]
    assert output.size("stdout") == (total, 1 << 20)
    assert output.kept == 1 << 20
    assert all(s.memory is None for s in output._streams.values())
    assert (pipes.spool / "run-aaaaaaaa.stdout").stat().st_size == 1 << 20


async def test_the_limit_is_of_both_streams_together_and_exact(pipes: Pipes) -> None:
    output = pipes.make(limit=10)
    pipes.write(0, b"123456")
    pipes.write(1, b"abcd")
    output.finish()
    assert pipes.floods == []
    assert output.kept == 10


async def test_one_byte_over_the_limit_is_a_flood(pipes: Pipes) -> None:
    output = pipes.make(limit=10)
    pipes.write(0, b"123456")
    pipes.write(1, b"abcde")
    output.finish()
    assert len(pipes.floods) == 1
    assert output.read("stderr", 0, 100) == b"abcd"
    data, truncated = output.head_tail("stderr")
    assert truncated
    assert data.startswith(b"abcd\n[stockade: 1 bytes")


async def test_a_spool_that_takes_nothing_ends_the_run_and_keeps_what_memory_holds(pipes: Pipes) -> None:
    output = pipes.make()
    (pipes.spool / "run-aaaaaaaa.stdout").mkdir()
    pipes.write(0, b"y" * 100)
    pipes.write(1, b"z" * (IN_MEMORY + 1))
    output.finish()
    assert len(pipes.floods) == 1
    assert "spool" in pipes.floods[0]
    assert output.read("stdout", 0, 200) == b"y" * 100
    (pipes.spool / "run-aaaaaaaa.stdout").rmdir()


@pytest.mark.parametrize("size", [100, 5 * CHUNK + 7])
async def test_frames_begin_where_they_are_asked_to_and_follow_until_the_end(pipes: Pipes, size: int) -> None:
    output = pipes.make(limit=1 << 30)
    child = await spawn(
        pipes, f"import os\nos.write(2, b'e')\nn = {size}\nwhile n: n -= os.write(1, b'0123456789'[:n])"
    )
    whole = (b"0123456789" * (size // 10 + 1))[:size]
    start = {"stdout": size // 2, "stderr": 1}
    got = {"stdout": b"", "stderr": b""}
    ended = asyncio.ensure_future(child.wait())
    ended.add_done_callback(lambda _: output.finish())
    async for frame in output.frames(start):
        assert frame.offset == start[frame.stream] + len(got[frame.stream])
        assert len(frame.data) <= CHUNK
        got[frame.stream] += frame.data
    assert await ended == 0
    assert got == {"stdout": whole[size // 2 :], "stderr": b""}
    assert [f.data async for f in output.frames({"stdout": 10**9})] == [b"e"]


async def test_a_follower_sees_output_as_it_comes_and_a_second_one_everything(pipes: Pipes) -> None:
    output = pipes.make()
    first = aiter(output.frames())
    pipes.write(0, b"one")
    assert (await anext(first)) == ("stdout", 0, b"one")
    waiting = asyncio.ensure_future(anext(first))
    await asyncio.sleep(0)
    pipes.write(1, b"two")
    assert (await waiting) == ("stderr", 0, b"two")
    given_up = asyncio.ensure_future(anext(aiter(output.frames({"stdout": 3, "stderr": 3}))))
    await asyncio.sleep(0)
    given_up.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await given_up
    pipes.end()
    output.finish()
    assert [f.data async for f in output.frames()] == [b"one", b"two"]
    with pytest.raises(StopAsyncIteration):
        await anext(first)


async def test_a_long_answer_is_head_and_tail_with_the_missing_bytes_counted(pipes: Pipes) -> None:
    output = pipes.make()
    pipes.write(0, b"H" * 600 + b"M" * 100 + b"T" * 600)
    output.finish()
    data, truncated = output.head_tail("stdout", cap=1000)
    assert truncated
    assert data == b"H" * 500 + b"\n[stockade: 300 bytes left out here]\n" + b"T" * 500
    assert output.head_tail("stdout", cap=1300) == (b"H" * 600 + b"M" * 100 + b"T" * 600, False)


@pytest.mark.parametrize("character", ["é", "€", "😀"])
@pytest.mark.parametrize("shift", range(4))
async def test_the_cuts_do_not_split_a_character(pipes: Pipes, character: str, shift: int) -> None:
    output = pipes.make()
    text = "x" * shift + character * 1000
    pipes.write(0, text.encode())
    output.finish()
    data, truncated = output.head_tail("stdout", cap=102)
    assert truncated
    head, marker, tail = data.decode().split("\n")
    missing = int(marker.split()[1])
    assert len(head.encode()) + missing + len(tail.encode()) == len(text.encode())


async def test_output_that_is_forgotten_is_not_found(pipes: Pipes) -> None:
    output = pipes.make()
    pipes.write(0, b"x" * (IN_MEMORY + 1))
    output.forget()
    for ask in (lambda: output.read("stdout", 0, 1), lambda: output.head_tail("stdout")):
        with pytest.raises(NotFound):
            ask()


async def test_a_sweep_removes_what_an_earlier_process_left_and_nothing_else(tmp_path: Path) -> None:
    for name in ("run-aaaaaaaa.stdout", "run-b.stderr", "notes.txt", "run-x"):
        (tmp_path / name).write_bytes(b"x")
    assert sweep(str(tmp_path)) == 2
    assert sorted(os.listdir(tmp_path)) == ["notes.txt", "run-x"]
