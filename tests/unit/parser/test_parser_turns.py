"""What takes the parser long: it is given up in time, looked at outside of main, and holds up nobody for long."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from supervisor.decide.shell.analyse import analyse_argv
from supervisor.decide.shell.model import Analysis, Command
from supervisor.parser import client as clients
from supervisor.parser import process, turns
from supervisor.parser.client import ParserClient
from supervisor.parser.shfmt import Shfmt
from supervisor.wire import framing
from supervisor.wire import messages as w
from tests.unit.parser.test_parser_process import Asked, Child

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest_asyncio.fixture
async def against() -> AsyncIterator[Callable[[Callable[[w.Parse], dict[str, object]]], ParserClient]]:
    """Clients of parsers that answer so."""
    made: list[tuple[ParserClient, Asked]] = []

    def make(answer: Callable[[w.Parse], dict[str, object]]) -> ParserClient:
        ours, theirs = framing.pair()
        made.append((ParserClient(ours, asyncio.get_running_loop()), Asked(theirs, answer)))
        made[-1][1].start()
        return made[-1][0]

    yield make
    for client, parser in made:
        client.close()
        parser.join(10)
        assert not parser.is_alive()
        parser.sock.close()


SLOW = ("perl", "-e", "qx{" * 20_000)  # followed in the square of its length: a minute


async def test_what_takes_long_is_looked_at_elsewhere_and_given_up_in_time() -> None:
    """In main it would hold up everybody, in the parser everybody's next script."""
    made = Child()
    client = ParserClient(made.main, asyncio.get_running_loop())
    found = await client.analyse(SLOW, None)
    assert not found.parsed
    assert found.error
    assert [c.words[0] for c in (await client.analyse(None, "rm -rf / && ls")).commands] == ["rm", "ls"]
    client.close()
    assert made.status() == 0


async def test_what_was_found_before_the_time_was_over_stands() -> None:
    before = signal.signal(signal.SIGALRM, process._over)
    try:
        with Shfmt() as shfmt:
            found = process._analysed(w.Parse(1, None, f"rm -rf /\nperl -e '{SLOW[2]}'", None), shfmt, 0.5)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not found.parsed
    assert ("rm", "-rf", "/") in [c.words for c in found.commands]


async def test_a_long_command_without_a_shell_is_looked_at_whole() -> None:
    made = Child()
    client = ParserClient(made.main, asyncio.get_running_loop())
    found = await client.analyse(("rm", "-rf", "/", *["x" * 60] * 1500), None)
    assert found.parsed
    assert found.commands[0].words[:3] == ("rm", "-rf", "/")
    client.close()
    assert made.status() == 0


async def test_callers_take_turns_so_that_nobody_waits_for_all_questions_of_another(against) -> None:
    asked: list[str] = []
    first, go = threading.Event(), threading.Event()

    def slowly(question: w.Parse) -> dict[str, object]:
        asked.append(question.script or "")
        first.set()
        go.wait(10)
        return Analysis().to_json()

    client = against(slowly)
    many = [asyncio.ensure_future(client.analyse(None, f"many {n}", asker=1)) for n in range(6)]
    await asyncio.to_thread(first.wait, 10)
    gone = asyncio.ensure_future(client.analyse(None, "gone", asker=2))
    other = asyncio.ensure_future(client.analyse(None, "other", asker=3))
    await asyncio.sleep(0)
    gone.cancel()
    many[1].cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*many, other, gone, return_exceptions=True)
    assert asked == ["many 0", "other", "many 2", "many 3", "many 4", "many 5"]


async def test_one_caller_does_not_fill_what_there_is_for_all(against) -> None:
    go = threading.Event()

    def slowly(_: w.Parse) -> dict[str, object]:
        go.wait(10)
        return Analysis().to_json()

    client = against(slowly)
    many = [asyncio.ensure_future(client.analyse(None, f"many {n}", asker=1)) for n in range(turns.MOST_OF_ONE + 2)]
    await asyncio.sleep(0)
    other = asyncio.ensure_future(client.analyse(None, "other", asker=2))
    await asyncio.sleep(0)
    go.set()
    assert [(await one).error for one in many].count("the parser is busy") == 1
    assert (await other).parsed


@pytest.mark.parametrize("program", ["sed", "python3", "psql", "vim", "export", "awk"])
@pytest.mark.parametrize("text", ["\n", " ", "[", "s/", "1,e "])
def test_what_is_looked_at_in_main_takes_no_time(program: str, text: str) -> None:
    """There everybody waits. Blanks alone took sed twelve seconds."""
    argv = (program, "-c", (text * clients.LOCAL)[: clients.LOCAL])
    began = time.process_time()
    analyse_argv(argv)
    assert time.process_time() - began < 0.2


async def test_much_that_was_found_in_a_short_text_is_not_kept(against) -> None:
    """A thousand such texts of a client would take hundreds of megabytes of main."""
    asked: list[str] = []
    few = Analysis((Command(("x", "y"), "", 0, 1, (), None),)).to_json()
    much = Analysis(tuple(Command(("x" * 1500, str(n)), "", 0, 1, (), None) for n in range(60))).to_json()

    def answer(question: w.Parse) -> dict[str, object]:
        asked.append(question.script or "")
        return much if question.script == "much" else few

    client = against(answer)
    for text in ("much", "few") * 2:
        assert (await client.analyse(None, text)).parsed
    assert asked == ["much", "few", "much"]


async def test_nobody_waits_for_a_turn_without_end(against, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def never(_: w.Parse) -> dict[str, object]:
        go.wait(10)
        return Analysis().to_json()

    client = against(never)
    first = asyncio.ensure_future(client.analyse(None, "first", asker=1))
    await asyncio.sleep(0)
    monkeypatch.setattr(clients, "WHOLE", 0.01)
    assert (await client.analyse(None, "second", asker=2)).error == "the parser is busy"
    go.set()
    assert (await first).parsed
    monkeypatch.undo()
    assert (await client.analyse(None, "third", asker=2)).parsed
