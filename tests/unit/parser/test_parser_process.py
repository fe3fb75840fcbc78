"""The parser's process and main's side of it, over a real pair of sockets and with the real shfmt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from supervisor.decide.shell.analyse import analyse_argv, needs_parser
from supervisor.decide.shell.model import Analysis
from supervisor.parser import client as clients
from supervisor.parser import process, turns
from supervisor.parser.client import ParserClient
from supervisor.policy.words import MAX_SCRIPT
from supervisor.wire import framing
from supervisor.wire import messages as w

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator


def nothing() -> None:
    """In place of the confinement: that is the tests' of the kernel."""


class Child:
    """The process as it is started, forked from here: signals, socket, loop, exit status."""

    def __init__(self, confine: Callable[[], None] = nothing) -> None:
        self.main, theirs = framing.pair()
        self.pid = os.fork()
        if self.pid == 0:  # whatever happens, nothing of the tests goes on in here
            with contextlib.suppress(BaseException):
                self.main.close()
                os._exit(process.run(theirs, confine))
            os._exit(99)
        theirs.close()

    def ask(
        self, argv: list[str] | None = None, script: str | None = None, ident: int = 1, stdin: str | None = None
    ) -> Analysis:
        framing.send(self.main, w.Parse(ident, argv, script, stdin))
        received = framing.receive(self.main, w.FROM_PARSER)
        assert received is not None
        assert received[0].id == ident
        return Analysis.from_json(received[0].analysis)

    def status(self) -> int:
        """Main is gone; how it ended."""
        self.main.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture
def child() -> Iterator[Child]:
    made = Child()
    yield made
    made.main.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(made.pid, 0)


# --- the process ------------------------------------------------------------------------------------------------------


def test_it_answers_what_a_script_and_what_a_command_would_run_until_main_is_gone(child: Child) -> None:
    first = child.ask(script="cd /tmp && rm -rf x | wc")
    assert [c.words for c in first.commands] == [("cd", "/tmp"), ("rm", "-rf", "x"), ("wc",)]
    second = child.ask(argv=["bash", "-c", "nmap host"], ident=2)
    assert ("nmap", "host") in [c.words for c in second.commands]
    assert first.parsed
    assert second.parsed
    assert child.status() == 0


def test_what_is_no_shell_is_an_answer_too(child: Child) -> None:
    found = child.ask(script="if then")
    assert not found.parsed
    assert "1:1" in found.error
    assert child.ask(script="ls").parsed, "and the next one is answered as ever"


def test_orders_to_end_do_not_end_it_before_main(child: Child) -> None:
    assert child.ask(script="ls").parsed
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(child.pid, number)
    assert child.ask(script="ls").parsed
    assert child.status() == 0


@pytest.mark.parametrize(
    "packet", [b"x", b"[]", b'["record",{}]', b'["parse",{"id":0,"argv":null,"script":"x","stdin":null}]']
)
def test_garbage_from_main_ends_it(child: Child, packet: bytes) -> None:
    child.main.send(packet)
    assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == process.EX_SOFTWARE


def test_it_leaves_no_child_behind(child: Child) -> None:
    assert child.ask(script="ls").parsed
    with open(f"/proc/{child.pid}/task/{child.pid}/children") as listed:
        waiting = [int(pid) for pid in listed.read().split()]
    assert waiting, "the next shfmt is there already"
    assert child.status() == 0
    for pid in waiting:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_it_is_confined_before_it_reads_anything() -> None:
    """Nothing is answered by one that could not be."""

    def refuses() -> None:
        raise PermissionError

    failed = Child(refuses)
    with contextlib.suppress(OSError):
        framing.send(failed.main, w.Parse(1, None, "ls", None))
    with contextlib.suppress(ConnectionResetError):  # unix(7): what was sent was never read
        assert framing.receive(failed.main, w.FROM_PARSER) is None
    assert failed.status() == 99


def test_a_bug_in_the_analysis_is_an_answer_and_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Analysis:
        raise IndexError("a bug")

    monkeypatch.setattr(process, "analyse_script", broken)
    made = Child()
    found = made.ask(script="ls")
    assert (found.parsed, found.error) == (False, "the analysis failed: IndexError")
    assert made.ask(argv=["bash", "-c", "ls"]).parsed
    assert made.status() == 0


# --- main's side ------------------------------------------------------------------------------------------------------


class Asked(threading.Thread):
    """A parser that answers as it is told, and notes what it was asked."""

    def __init__(self, sock: socket.socket, answer: Callable[[w.Parse], dict[str, object] | None]) -> None:
        super().__init__(daemon=True)
        self.sock, self._answer = sock, answer
        self.questions: list[w.Parse] = []

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while (received := framing.receive(self.sock, w.TO_PARSER)) is not None:
                self.questions.append(received[0])
                body = self._answer(received[0])
                if body is not None:
                    framing.send(self.sock, w.Parsed(received[0].id, body))


def clear(_: w.Parse) -> dict[str, object]:
    return Analysis(scripts=("seen",)).to_json()


def silent(_: w.Parse) -> None:
    """Never an answer."""


@pytest_asyncio.fixture
async def against() -> AsyncIterator[Callable[..., tuple[ParserClient, Asked]]]:
    made: list[tuple[ParserClient, Asked]] = []

    def make(answer: Callable[[w.Parse], dict[str, object] | None] = clear) -> tuple[ParserClient, Asked]:
        ours, theirs = framing.pair()
        made.append((ParserClient(ours, asyncio.get_running_loop()), Asked(theirs, answer)))
        made[-1][1].start()
        return made[-1]

    yield make
    for client, parser in made:
        client.close()
        parser.join(10)
        assert not parser.is_alive()
        parser.sock.close()


async def test_the_client_has_from_the_process_what_the_analysis_says() -> None:
    made = Child()
    client = ParserClient(made.main, asyncio.get_running_loop())
    found = await client.analyse(None, "git push -f && ls")
    assert [c.words for c in found.commands] == [("git", "push", "-f"), ("ls",)]
    several = await asyncio.gather(*(client.analyse(None, f"echo {n}; rm x") for n in range(20)))
    assert [a.commands[0].words for a in several] == [("echo", str(n)) for n in range(20)]
    client.close()
    assert made.status() == 0


async def test_what_needs_no_parser_asks_none(against) -> None:
    client, parser = against()
    for argv in (("ls", "-l"), ("git", "push", "-f"), ("env", "A=1", "rm", "x"), ("sh", "-c", "ls"), ()):
        assert not needs_parser(argv)
        assert await client.analyse(argv, None) == analyse_argv(argv)
    assert parser.questions == []


async def test_the_same_text_is_asked_about_once(against) -> None:
    client, parser = against()
    for _ in range(3):
        assert (await client.analyse(None, "a && b")).scripts == ("seen",)
        assert (await client.analyse(("bash", "-c", "a && b"), None)).scripts == ("seen",)
        assert (await client.analyse(["bash", "-c", "a && b"], None)).scripts == ("seen",)
    assert [(q.argv, q.script) for q in parser.questions] == [(None, "a && b"), (["bash", "-c", "a && b"], None)]


async def test_as_much_is_kept_as_there_is_room_for_and_what_was_used_last(against, monkeypatch) -> None:
    monkeypatch.setattr(clients, "KEPT", 2)
    client, parser = against()
    for script in ("a", "b", "a", "c", "a", "b"):
        await client.analyse(None, script)
    assert [q.script for q in parser.questions] == ["a", "b", "c", "b"]


@pytest.mark.parametrize("size", [clients.KEPT_TEXT, clients.KEPT_TEXT + 1])
async def test_a_long_text_is_not_kept(against, size: int) -> None:
    client, parser = against()
    for _ in range(2):
        await client.analyse(None, "x" * size)
    assert len(parser.questions) == (1 if size == clients.KEPT_TEXT else 2)


async def test_what_was_not_understood_is_asked_about_again(against) -> None:
    client, parser = against(lambda _: Analysis(parsed=False, error="no").to_json())
    for _ in range(2):
        assert (await client.analyse(None, "x")).error == "no"
    assert len(parser.questions) == 2


@pytest.mark.parametrize(
    ("argv", "script"),
    [
        (None, "x" * (MAX_SCRIPT + 1)),
        (("bash", "-c", "x;" * (MAX_SCRIPT // 2)), None),
        (("bash", "-c", "a && b", *["x" * 60] * 3000), None),
    ],
)
async def test_what_is_too_long_is_not_even_asked_about(against, argv, script) -> None:
    client, parser = against()
    found = await client.analyse(argv, script)
    assert (found.parsed, found.error) == (False, f"longer than {MAX_SCRIPT} characters")
    assert parser.questions == []


@pytest.mark.parametrize(
    ("argv", "script"),
    [
        (None, "a\0b"),
        (("bash", "-c", "a\0b && c"), None),
        (("bash", "-c", "a && b", *["y"] * w.MAX_ARGS), None),
        (None, "\U0001f600" * (MAX_SCRIPT // 2)),  # more than a packet holds, as escapes
    ],
)
async def test_what_the_parser_could_not_read_does_not_reach_it_and_end_it(argv, script) -> None:
    """Whoever may send a request could end the whole service with it."""
    made = Child()
    client = ParserClient(made.main, asyncio.get_running_loop())
    found = await client.analyse(argv, script)
    assert not found.parsed
    assert "cannot be asked" in found.error
    assert (await client.analyse(None, "ls")).parsed, "it is still there"
    client.close()
    assert made.status() == 0


@pytest.mark.parametrize("argv", [("sh",), ("/bin/bash", "-s"), ("env", "A=1", "sh"), ("timeout", "5", "bash")])
async def test_what_is_fed_to_a_shell_is_looked_at_and_a_stream_is_not_known(argv: tuple[str, ...]) -> None:
    made = Child()
    client = ParserClient(made.main, asyncio.get_running_loop())
    fed = await client.analyse(argv, None, b"git push -f\n")
    assert ("git", "push", "-f") in [c.words for c in fed.commands]
    other = await client.analyse(argv, None, b"ls\n")
    assert ("git", "push", "-f") not in [c.words for c in other.commands], "another input is another command"
    stream = await client.analyse(argv, None, streamed=True)
    assert "dynamic" in [r.kind for r in stream.risks]
    assert not [c for c in stream.commands if "stockade-input-that-nobody-has-seen" in c.words]
    client.close()
    assert made.status() == 0


async def test_long_input_of_a_script_counts_only_where_commands_are_taken_from_it() -> None:
    made = Child()
    client = ParserClient(made.main, asyncio.get_running_loop())
    long = b"x" * (MAX_SCRIPT + 1)
    stored = await client.analyse(None, "cat > got; wc -c < got", long)
    assert (stored.parsed, stored.risks) == (True, ())
    run = await client.analyse(None, "cd x && sh", long)
    assert "dynamic" in [r.kind for r in run.risks]
    for script in ("cd x && psql", "$DATABASE_CLIENT"):
        assert not (await client.analyse(None, script, long)).parsed, "nobody has read what a database is told"
        assert (await client.analyse(None, script, b"select 1;")).parsed
    client.close()
    assert made.status() == 0


async def test_what_is_fed_to_a_program_that_only_reads_it_is_no_command(against) -> None:
    client, parser = against()
    assert [c.words for c in (await client.analyse(("cat", "-n"), None, b"rm -rf /\n")).commands] == [("cat", "-n")]
    assert (await client.analyse(("cat",), None, streamed=True)).risks == ()
    assert parser.questions == []


async def test_input_longer_than_is_looked_at_is_not_taken_for_its_beginning(against) -> None:
    """NUL characters, which a shell passes over, are no input to look at."""
    client, _ = against()
    assert (await client.analyse(("sh",), None, b"")).parsed
    for argv, text in ((("sh",), b"rm -rf /"), (("psql", "-q"), b"DROP TABLE x"), (("env", "mysql"), b"DROP TABLE x")):
        assert not (await client.analyse(argv, None, b"\0" * MAX_SCRIPT + text)).parsed
    assert (await client.analyse(("cat",), None, b"\0" * MAX_SCRIPT + b"x")).parsed, "it only reads"


async def test_half_a_surrogate_pair_is_no_shell_and_no_harm() -> None:
    made = Child()
    client = ParserClient(made.main, asyncio.get_running_loop())
    assert not (await client.analyse(None, "echo \ud800")).parsed
    assert (await client.analyse(None, "ls")).parsed
    client.close()
    assert made.status() == 0


async def test_without_an_answer_in_time_nothing_is_known_and_a_late_answer_is_nobodys(against, monkeypatch) -> None:
    monkeypatch.setattr(clients, "PATIENCE", 0.01)
    client, parser = against(silent)
    found = await client.analyse(None, "x")
    assert (found.parsed, found.error) == (False, "the parser gave no answer within 0.01 s")
    assert client._waiting == {}
    framing.send(parser.sock, w.Parsed(parser.questions[0].id, clear(parser.questions[0])))
    monkeypatch.setattr(clients, "PATIENCE", 5.0)
    parser._answer = clear
    assert (await client.analyse(None, "y")).scripts == ("seen",)


async def test_a_client_that_gave_up_leaves_nothing(against) -> None:
    client, _ = against(silent)
    waiting = asyncio.ensure_future(client.analyse(None, "x"))
    await asyncio.sleep(0)
    assert len(client._waiting) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert client._waiting == {}


async def test_more_questions_than_may_wait_are_answered_at_once(against, monkeypatch) -> None:
    monkeypatch.setattr(turns, "MOST", 1)
    client, _ = against(silent)
    waiting = [asyncio.ensure_future(client.analyse(None, text, asker=n)) for n, text in enumerate("xy")]
    await asyncio.sleep(0)
    assert (await client.analyse(None, "z", asker=9)).error == "the parser is busy"
    for one in waiting:
        one.cancel()


@pytest.mark.parametrize("body", [{}, {"commands": 1}, {**clear(w.Parse(1, None, "", None)), "risks": [["x"]]}])
async def test_an_answer_that_cannot_be_read_is_not_understood(against, body) -> None:
    client, _ = against(lambda _: body)
    found = await client.analyse(None, "x")
    assert not found.parsed
    assert "cannot be read" in found.error


@pytest.mark.parametrize("how", ["gone", "garbage"])
async def test_when_the_parser_is_gone_whoever_waits_is_told_and_so_is_the_service_once(how: str) -> None:
    ours, theirs = framing.pair()
    client = ParserClient(ours, asyncio.get_running_loop())
    lost = asyncio.Event()
    told: list[int] = []
    client.on_lost(lambda: (told.append(1), lost.set()))  # type: ignore[func-returns-value]
    waiting = [asyncio.ensure_future(client.analyse(None, text)) for text in ("x", "y")]
    await asyncio.sleep(0)
    if how == "garbage":
        theirs.send(b"not a message")
    else:
        theirs.close()
    assert [(await each).error for each in waiting] == ["the parser has ended"] * 2
    await lost.wait()
    assert (await client.analyse(None, "z")).error == "the parser has ended"
    assert (await client.analyse(("ls",), None)).parsed, "what needs no parser is known all the same"
    late = asyncio.Event()
    client.on_lost(late.set)
    await late.wait()
    assert told == [1]
    client.close()
    theirs.close()


async def test_a_client_that_is_closed_tells_nobody(against) -> None:
    client, _ = against(silent)
    told: list[int] = []
    client.on_lost(lambda: told.append(1))
    waiting = asyncio.ensure_future(client.analyse(None, "x"))
    await asyncio.sleep(0)
    client.close()
    assert (await waiting).error == "the parser has ended"
    client.close()
    await asyncio.sleep(0)
    assert told == []
