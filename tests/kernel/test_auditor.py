"""The real auditor process on real sockets and files: acknowledged means durable, and nothing runs unrecorded."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.audit import auditor, events, peer, writer
from supervisor.audit import client as clients
from supervisor.audit.client import MAX_BACKLOG, AuditClient
from supervisor.errors import AuditUnavailable
from supervisor.wire import framing
from supervisor.wire.messages import (
    AUDITOR_TO_LAUNCHER,
    AUDITOR_TO_MAIN,
    Ack,
    Go,
    Nack,
    Nogo,
    Record,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SO_SNDBUFFORCE = 32  # asm-generic/socket.h
SES, PRINT = "ses-000000000001", "ab" * 32


def run_id(n: int) -> str:
    return f"run-{n:012d}"


def decided(n: int, outcome: str = "allow", args: str = "true") -> events.Event:
    return events.decision(
        outcome=outcome,
        run=run_id(n),
        request_id=f"req-{n}",
        session_id=SES,
        caller={"uid": 1, "pid": 2, "unit": ""},
        tool="shell",
        action="run",
        resource="/srv",
        args=[args],
        fingerprint=PRINT,
    )


def ended(n: int) -> events.Event:
    return events.outcome(run=run_id(n), outcome="exited", result={"exit_code": 0})


def noted(n: int) -> events.Event:
    return events.service(action=f"note-{n}", outcome="ok")


@dataclass
class Running:
    pid: int
    main: socket.socket
    launcher: socket.socket
    status: int | None = field(default=None)

    def wait(self) -> int:
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> int:
        """End as in real life: both peers go away. The exit status."""
        self.main.close()
        self.launcher.close()
        return self.wait()

    def kill(self) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


class Auditors:
    """Starts auditors on one log and leaves none behind."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.started: list[Running] = []

    def start(self, before: Callable[[], None] | None = None, confine: Callable[[], None] | None = None) -> Running:
        main, main_end = framing.pair()
        launcher, launcher_end = framing.pair()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                main.close()
                launcher.close()
                for other in self.started:
                    other.main.close()
                    other.launcher.close()
                if before is not None:
                    before()
                status = auditor.run(main_end, launcher_end, self.path, confine)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        main_end.close()
        launcher_end.close()
        for s in (main, launcher):
            s.settimeout(30)
        self.started.append(Running(pid, main, launcher))
        return self.started[-1]

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line: a read(2) beside the auditor's write(2) may see a half of the last one."""
        with open(self.path, "rb") as f:
            return [json.loads(x) for x in f.read().rpartition(b"\n")[0].splitlines()]


@pytest.fixture
def auditors(tmp_path: Path) -> Iterator[Auditors]:
    made = Auditors(str(tmp_path / "audit.jsonl"))
    try:
        yield made
    finally:
        for running in made.started:
            running.main.close()
            running.launcher.close()
            running.kill()


def from_main(a: Running) -> Any:
    got = framing.receive(a.main, AUDITOR_TO_MAIN)
    return None if got is None else got[0]


def from_launcher(a: Running) -> Any:
    got = framing.receive(a.launcher, AUDITOR_TO_LAUNCHER)
    return None if got is None else got[0]


def rest(sock: socket.socket, vocabulary: Any) -> list[Any]:
    """Everything up to the peer's end, also after it was killed with packets unread."""
    found: list[Any] = []
    while True:
        try:
            got = framing.receive(sock, vocabulary)
        except ConnectionResetError:
            continue
        if got is None:
            return found
        found.append(got[0])


def contiguous(lines: list[dict[str, Any]]) -> bool:
    return [r["seq"] for r in lines] == list(range(1, len(lines) + 1))


# --- the bracket --------------------------------------------------------------------------------------------


def test_an_allowed_decision_is_in_the_file_before_anyone_is_told(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(7, decided(1)))
    assert from_launcher(a) == Go(run_id(1), PRINT)
    (line,) = [r for r in auditors.lines() if r["event_type"] == "decision"]
    assert from_main(a) == Ack(7, line["seq"])
    assert line["timestamp"].endswith("Z")
    framing.send(a.launcher, Record(3, ended(1)))
    ack = from_launcher(a)
    assert (ack.id, auditors.lines()[ack.seq - 1]["event_type"]) == (3, "outcome")
    assert a.end() == auditor.CLEAN
    assert auditors.lines()[-1]["event_type"] == "checkpoint"
    assert contiguous(auditors.lines())


def test_a_refusal_is_recorded_and_lets_nothing_run(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, decided(1, "deny")))
    framing.send(a.main, Record(0, noted(1)))
    framing.send(a.main, Record(2, noted(2)))
    first, second = from_main(a), from_main(a)
    assert (type(first), first.id, second) == (Ack, 1, Ack(2, first.seq + 2))
    a.main.shutdown(socket.SHUT_WR)
    a.launcher.shutdown(socket.SHUT_WR)
    assert a.wait() == auditor.CLEAN
    assert rest(a.launcher, AUDITOR_TO_LAUNCHER) == []
    assert [r["outcome"] for r in auditors.lines() if r["event_type"] == "decision"] == ["deny"]


def test_a_decision_from_the_launcher_never_gives_go(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.launcher, Record(1, decided(1)))
    nack = from_launcher(a)
    assert (type(nack), nack.id) == (Nack, 1)
    framing.send(a.launcher, Record(2, noted(1)))
    assert isinstance(from_launcher(a), Ack)
    assert a.end() == auditor.CLEAN
    kinds = Counter(r["event_type"] for r in auditors.lines())
    assert (kinds["decision"], kinds["security"]) == (0, 1)


def test_main_cannot_close_a_run(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, decided(1)))
    framing.send(a.main, Record(2, ended(1)))
    assert [type(from_main(a)), type(from_main(a))] == [Ack, Nack]
    framing.send(a.launcher, Record(1, ended(1)))
    assert [type(from_launcher(a)), type(from_launcher(a))] == [Go, Ack]


def test_a_run_has_one_decision_and_one_outcome(auditors: Auditors) -> None:
    a = auditors.start()
    for i in (1, 2):
        framing.send(a.main, Record(i, decided(1)))
    assert [type(from_main(a)), type(from_main(a))] == [Ack, Nack]
    for i in (1, 2):
        framing.send(a.launcher, Record(i, ended(1)))
    assert [type(from_launcher(a)) for _ in range(3)] == [Go, Ack, Nack]
    # After its end the run cannot be decided again; nobody waits on an old Go, so the launcher hears Nogo.
    framing.send(a.main, Record(3, decided(1)))
    assert isinstance(from_main(a), Nack)
    assert isinstance(from_launcher(a), Nogo)
    assert a.end() == auditor.CLEAN
    kinds = Counter((r["event_type"], r["run"]) for r in auditors.lines() if r["event_type"] != "checkpoint")
    assert (kinds["decision", run_id(1)], kinds["outcome", run_id(1)], kinds["security", run_id(1)]) == (1, 1, 3)


def test_an_outcome_without_a_decision_is_refused(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.launcher, Record(1, ended(1)))
    assert isinstance(from_launcher(a), Nack)


def test_a_decision_that_was_recorded_before_a_crash_is_refused_after_it(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, decided(1)))
    assert isinstance(from_main(a), Ack)
    a.kill()
    b = auditors.start()
    framing.send(b.main, Record(1, decided(1)))
    assert isinstance(from_main(b), Nack)
    assert b.end() == auditor.CLEAN
    runs = [(r["event_type"], r["outcome"]) for r in auditors.lines() if r.get("run") == run_id(1)]
    assert runs == [("decision", "allow"), ("outcome", "lost"), ("security", "refused")]


# --- ends ---------------------------------------------------------------------------------------------------


def test_signals_do_not_end_it_and_one_peer_is_served_until_it_ends_too(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, decided(1)))
    assert isinstance(from_main(a), Ack)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(a.pid, number)
    a.main.close()
    assert isinstance(from_launcher(a), Go)
    framing.send(a.launcher, Record(1, ended(1)))
    assert isinstance(from_launcher(a), Ack)
    assert a.end() == auditor.CLEAN
    assert auditors.lines()[-1]["result"] == {"open": []}


def test_records_sent_just_before_a_peer_died_with_answers_unread_are_kept(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, noted(0)))
    a.main.recv(1, socket.MSG_PEEK)  # the answer is here and stays unread
    os.kill(a.pid, signal.SIGSTOP)
    os.waitpid(a.pid, os.WUNTRACED)
    for i in range(1, 101):
        framing.send(a.main, Record(i, noted(i)))
    a.main.close()
    os.kill(a.pid, signal.SIGCONT)
    assert a.end() == auditor.CLEAN
    assert sum(r["action"].startswith("note-") for r in auditors.lines()) == 101


def test_a_clean_end_with_a_run_still_open_closes_it_at_the_next_start_only(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, decided(1)))
    assert isinstance(from_main(a), Ack)
    assert a.end() == auditor.CLEAN
    for _ in range(3):
        assert auditors.start().end() == auditor.CLEAN
    assert [r["outcome"] for r in auditors.lines() if r["event_type"] == "outcome"] == ["lost"]


def test_a_second_auditor_on_the_same_log_ends_at_once(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, noted(1)))
    assert isinstance(from_main(a), Ack)
    assert auditors.start().wait() == auditor.NO_LOG
    framing.send(a.main, Record(2, noted(2)))
    assert isinstance(from_main(a), Ack)


def test_it_is_confined_after_the_log_is_open_and_before_a_record_is_read(auditors: Auditors) -> None:
    def confine() -> None:
        # No further descriptor can be opened: what follows must need none but the epoll that this leaves room for.
        highest = max(int(n) for n in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, highest + 2))
        assert os.path.getsize(auditors.path) == 0

    a = auditors.start(confine=confine)
    framing.send(a.main, Record(1, noted(1)))
    assert isinstance(from_main(a), Ack)
    assert a.end() == auditor.CLEAN


def test_a_peer_that_never_reads_is_fatal_and_blocks_nobody_for_good(
    auditors: Auditors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "MAX_QUEUE", 2 * auditor.BATCH)
    a = auditors.start()
    a.main.setblocking(True)
    sent = 0
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while sent < 100_000:
            sent += 1
            framing.send(a.main, Record(sent, noted(sent)))
    assert a.wait() == auditor.OVERFLOW
    acked = [m.seq for m in rest(a.main, AUDITOR_TO_MAIN)]
    assert acked
    assert set(acked) <= {r["seq"] for r in auditors.lines()}


# --- hostile peers ------------------------------------------------------------------------------------------

HOSTILE: dict[str, bytes] = {
    "not json": b"\xff\x00",
    "not a list": b'{"record":1}',
    "unknown kind": b'["erase",{}]',
    "a message of another direction": encode(Go(run_id(1), PRINT)),
    "missing field": b'["record",{"id":1}]',
    "extra field": b'["record",{"id":1,"event":{},"seq":1}]',
    "negative id": b'["record",{"id":-1,"event":{}}]',
    "boolean id": b'["record",{"id":true,"event":{}}]',
    "huge id": b'["record",{"id":' + b"9" * 40 + b',"event":{}}]',
    "deep": b"[" * 60_000,
    "empty event": b'["record",{"id":1,"event":{}}]',
    "forged checkpoint": encode(Record(1, {**noted(1), "event_type": "checkpoint"})),
    "forged seq": encode(Record(1, {**noted(1), "seq": 1})),
    "forged hash": encode(Record(1, {**noted(1), "hash": "0"})),
    "unknown event": encode(Record(1, {**noted(1), "event_type": "erase"})),
    "allow without fingerprint": encode(Record(1, {**decided(1), "fingerprint": None})),
    "run that is a path": encode(Record(1, {**decided(1), "run": "../../etc"})),
    "not a number": encode(Record(1, {**noted(1), "result": {"x": float("nan")}})),
    "lone surrogate": encode(Record(1, {**noted(1), "reason": "\ud800"})),
    "oversized": b'["record",{"id":1,"event":{"x":"' + b"a" * 192 * 1024 + b'"}}]',
}


@pytest.mark.parametrize("sender", ["main", "launcher"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_message_is_fatal_and_in_the_log(auditors: Auditors, what: str, sender: str) -> None:
    a = auditors.start()
    sock: socket.socket = getattr(a, sender)
    framing.send(sock, Record(1, noted(1)))
    sock.sendmsg([HOSTILE[what]])
    assert a.wait() == auditor.HOSTILE
    lines = auditors.lines()
    assert (lines[-1]["event_type"], lines[-1]["outcome"]) == ("security", "fatal")
    assert lines[-1]["reason"].startswith(f"{sender} sent a message")
    # What the peer had said properly before that is still recorded and answered.
    vocabulary = AUDITOR_TO_MAIN if sender == "main" else AUDITOR_TO_LAUNCHER
    assert [type(m) for m in rest(sock, vocabulary)] == [Ack]


def test_descriptors_beside_a_record_are_fatal(auditors: Auditors) -> None:
    a = auditors.start()
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [a.launcher.fileno()]))]
    a.main.sendmsg([encode(Record(1, noted(1)))], rights)
    assert a.wait() == auditor.HOSTILE


# --- durability ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_kill_9_at_any_moment_loses_no_acknowledged_record_and_closes_each_run_once(
    auditors: Auditors, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311 (repeatable moments)
    a = auditors.start()
    acked: dict[int, str] = {}
    started: set[int] = set()
    n = 0
    stop_at = rng.randrange(1, 60)
    outstanding: dict[int, str] = {}
    for step in range(stop_at):
        for _ in range(rng.randrange(1, 9)):
            n += 1
            framing.send(a.main, Record(n, decided(n)))
            outstanding[n] = run_id(n)
        # Sometimes everything is read before going on, sometimes the kill meets a full pipeline.
        for _ in range(rng.choice([0, 0, 1, len(outstanding)]) if step < stop_at - 1 else 0):
            if not outstanding:
                break
            answer = from_main(a)
            acked[answer.seq] = outstanding.pop(answer.id)
            started.add(answer.id)
        if started and rng.random() < 0.5:
            one = started.pop()
            framing.send(a.launcher, Record(one, ended(one)))
    a.kill()
    for answer in rest(a.main, AUDITOR_TO_MAIN):
        acked[answer.seq] = outstanding.pop(answer.id)
    gone = {m.run for m in rest(a.launcher, AUDITOR_TO_LAUNCHER) if isinstance(m, Go)}

    # A start may be killed too, in the middle of its recovery.
    for _ in range(rng.randrange(3)):
        b = auditors.start()
        if rng.random() < 0.5:
            framing.send(b.main, Record(1, noted(0)))
            from_main(b)
        b.kill()
    assert auditors.start().end() == auditor.CLEAN

    lines = []
    with open(auditors.path, "rb") as f:
        for raw in f.read().splitlines():
            with contextlib.suppress(ValueError):  # a torn line, reported by the start after it
                lines.append(json.loads(raw))
    assert contiguous(lines)
    by_seq = {r["seq"]: r for r in lines}
    for seq, run in acked.items():
        assert (by_seq[seq]["event_type"], by_seq[seq]["run"]) == ("decision", run)
    decisions = Counter(r["run"] for r in lines if r["event_type"] == "decision")
    outcomes = Counter(r["run"] for r in lines if r["event_type"] == "outcome")
    assert gone <= decisions.keys()
    assert decisions == outcomes
    assert set(decisions.values()) <= {1}


def one_decision(path: str) -> tuple[int, list[Any], list[Any]]:
    """One decision through an auditor in this process: the exit status, and what main and the launcher were told."""
    main, main_end = framing.pair()
    launcher, launcher_end = framing.pair()
    log = writer.Log(writer.open_log(path), path)
    with main, launcher, contextlib.closing(log):
        with main_end, launcher_end:
            framing.send(main, Record(1, decided(1)))
            main.shutdown(socket.SHUT_WR)
            launcher.shutdown(socket.SHUT_WR)
            status = auditor.Auditor(main_end, launcher_end, log).serve()
        return status, rest(main, AUDITOR_TO_MAIN), rest(launcher, AUDITOR_TO_LAUNCHER)


def test_the_disk_has_confirmed_before_any_answer_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    real_sync, real_send = os.fdatasync, framing.send
    confirmed = [0]

    def sync(fd: int) -> None:
        real_sync(fd)
        confirmed.append(os.fstat(fd).st_size)

    def send(sock: socket.socket, message: Any, fds: tuple[int, ...] = ()) -> None:
        if isinstance(message, Ack | Go):
            assert b'"decision"' in path.read_bytes()[: confirmed[-1]]
        real_send(sock, message, fds)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(framing, "send", send)
    assert one_decision(str(path)) == (auditor.CLEAN, [Ack(1, 2)], [Go(run_id(1), PRINT)])


def test_a_disk_that_does_not_confirm_means_nack_nogo_and_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audit.jsonl"
    real_sync = os.fdatasync

    def sync(fd: int) -> None:
        # fsync(2): after EIO the kernel may drop the pages, so what was written must not stay and be believed.
        if path.read_bytes().rstrip().endswith(json.dumps(decided(1), separators=(",", ":"))[1:].encode()):
            raise OSError(5, "Input/output error")
        real_sync(fd)

    monkeypatch.setattr(os, "fdatasync", sync)
    status, to_main, to_launcher = one_decision(str(path))
    assert status == auditor.CLEAN
    assert [type(m) for m in (*to_main, *to_launcher)] == [Nack, Nogo]
    lines = [json.loads(x) for x in path.read_bytes().splitlines()]
    assert contiguous(lines)
    assert "decision" not in {r["event_type"] for r in lines}


@pytest.mark.root
def test_records_of_two_senders_share_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process, so that the writer's counter can be read: everything waits before it starts to serve.
    monkeypatch.setattr(peer, "MAX_QUEUE", 2000)
    main, main_end = framing.pair()
    launcher, launcher_end = framing.pair()
    path = str(tmp_path / "audit.jsonl")
    log = writer.Log(writer.open_log(path), path)
    with main, main_end, launcher, launcher_end, contextlib.closing(log):
        for s in (main, launcher, main_end, launcher_end):
            s.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 * 1024 * 1024)
        for i in range(1, 501):
            framing.send(main, Record(i, noted(i)))
            framing.send(launcher, Record(i, noted(i)))
        main.shutdown(socket.SHUT_WR)
        launcher.shutdown(socket.SHUT_WR)
        assert auditor.Auditor(main_end, launcher_end, log).serve() == auditor.CLEAN
        main_end.close()
        launcher_end.close()
        acks = [m.seq for m in rest(main, AUDITOR_TO_MAIN)] + [m.seq for m in rest(launcher, AUDITOR_TO_LAUNCHER)]
    assert len(set(acks)) == 1000
    assert log.syncs <= 3 + 1000 / auditor.BATCH  # the start has one of its own, and the end two
    assert log.seq == 1000 + 3  # start, stop and its checkpoint


def test_a_checkpoint_bounds_what_the_next_start_reads(auditors: Auditors) -> None:
    a = auditors.start()
    framing.send(a.main, Record(1, decided(1)))
    from_main(a)
    for i in range(2, 2 + 2 * auditor.CHECKPOINT_EVERY):
        framing.send(a.main, Record(i, noted(i)))
        from_main(a)
    a.kill()
    assert auditors.start().end() == auditor.CLEAN
    lines = auditors.lines()
    marks = [r["seq"] for r in lines if r["event_type"] == "checkpoint"]
    assert len(marks) == 2 + 2  # on the way; after recovery and at the end
    assert lines[marks[1] - 1]["result"]["open"] == [[run_id(1), SES, 2]]
    assert [r["run"] for r in lines if r["outcome"] == "lost"] == [run_id(1)]


def limit_file_size(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_log_that_cannot_grow_means_nack_and_nogo(auditors: Auditors) -> None:
    a = auditors.start(before=limit_file_size(100))
    framing.send(a.main, Record(1, decided(1)))
    nack, nogo = from_main(a), from_launcher(a)
    assert (type(nack), nack.id) == (Nack, 1)
    assert "File too large" in nack.detail
    assert (type(nogo), nogo.run) == (Nogo, run_id(1))
    assert a.end() == auditor.UNWRITTEN
    assert os.path.getsize(auditors.path) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounts a tmpfs")
    at = tmp_path / "disk"
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "stockade-test", str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", str(at)], check=True)


def fill(disk: Path) -> None:
    fd = os.open(disk / "fill", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(fd, b"x" * 4096)
    finally:
        os.close(fd)


@pytest.mark.root
def test_on_a_full_disk_nothing_runs_and_with_space_again_the_next_record_is_acknowledged(
    small_disk: Path, auditors: Auditors
) -> None:
    auditors.path = str(small_disk / "audit.jsonl")
    a = auditors.start()
    framing.send(a.main, Record(1, decided(1)))
    assert isinstance(from_main(a), Ack)
    assert isinstance(from_launcher(a), Go)
    fill(small_disk)
    # The log's last page has room left, so that the write that fails is a short one.
    framing.send(a.main, Record(2, decided(2, args="x" * 6000)))
    nack = from_main(a)
    assert (type(nack), nack.id) == (Nack, 2)
    assert "No space left" in nack.detail
    assert isinstance(from_launcher(a), Nogo)
    framing.send(a.launcher, Record(1, events.outcome(run=run_id(1), outcome="exited", reason="y" * 7000)))
    assert isinstance(from_launcher(a), Nack)
    (small_disk / "fill").unlink()
    framing.send(a.main, Record(3, decided(2)))
    assert isinstance(from_main(a), Ack)
    assert isinstance(from_launcher(a), Go)
    framing.send(a.launcher, Record(2, ended(1)))
    assert isinstance(from_launcher(a), Ack)
    assert a.end() == auditor.CLEAN
    lines = auditors.lines()
    assert contiguous(lines)
    kept = [(r["event_type"], r["run"]) for r in lines if r.get("run")]
    assert kept == [("decision", run_id(1)), ("decision", run_id(2)), ("outcome", run_id(1))]


@pytest.mark.root
def test_recovery_on_a_full_disk_is_owed_until_there_is_space_and_then_done_once(
    small_disk: Path, auditors: Auditors
) -> None:
    auditors.path = str(small_disk / "audit.jsonl")
    a = auditors.start()
    for n in range(1, 9):
        framing.send(a.main, Record(n, decided(n)))
        assert isinstance(from_main(a), Ack)
    a.kill()
    fill(small_disk)
    b = auditors.start()
    framing.send(b.main, Record(1, decided(50)))
    assert isinstance(from_main(b), Nack)
    assert isinstance(from_launcher(b), Nogo)
    (small_disk / "fill").unlink()
    framing.send(b.main, Record(2, decided(51)))
    assert isinstance(from_main(b), Ack)
    assert b.end() == auditor.CLEAN
    assert auditors.start().end() == auditor.CLEAN
    lost = Counter(r["run"] for r in auditors.lines() if r["outcome"] == "lost")
    assert lost == dict.fromkeys([*map(run_id, range(1, 9)), run_id(51)], 1)


FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_APPEND_FL = 0x80086601, 0x40086602, 0x20  # linux/fs.h


def set_append_only(path: str, *, on: bool) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        flags = struct.unpack("I", fcntl.ioctl(fd, FS_IOC_GETFLAGS, b"\0" * 4))[0]
        flags = flags | FS_APPEND_FL if on else flags & ~FS_APPEND_FL
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("I", flags))
    finally:
        os.close(fd)


@pytest.mark.root
def test_a_log_that_cannot_be_cut_still_has_each_seq_and_each_end_once(auditors: Auditors) -> None:
    """chattr +a forbids ftruncate(2), so what a failed write left must be lived with and told apart."""
    auditors.path = os.path.join(os.path.dirname(auditors.path), "kept.jsonl")
    with open(auditors.path, "xb"):
        os.chmod(auditors.path, 0o640)
    try:
        set_append_only(auditors.path, on=True)
    except OSError as e:
        pytest.skip(f"no append-only files here: {e}")
    try:
        a = auditors.start()
        os.kill(a.pid, signal.SIGSTOP)
        for n in range(1, 11):
            framing.send(a.main, Record(n, decided(n)))
        soft = 5000  # room for the start's record and for some of the ten, not for all
        resource.prlimit(a.pid, resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        os.kill(a.pid, signal.SIGCONT)
        answers = [from_main(a) for _ in range(10)]
        resource.prlimit(a.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        framing.send(a.main, Record(99, decided(99)))
        assert isinstance(from_main(a), Ack)
        assert Nack in {type(m) for m in answers}
        assert a.end() == auditor.CLEAN
        assert auditors.start().end() == auditor.CLEAN
    finally:
        set_append_only(auditors.path, on=False)
    lines = []
    with open(auditors.path, "rb") as f:
        for raw in f.read().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(raw))
    assert contiguous(lines)
    acked = {m.id for m in answers if isinstance(m, Ack)}
    stood = {r["run"] for r in lines if r["event_type"] == "decision"} - {run_id(n) for n in acked} - {run_id(99)}
    assert stood
    outcomes = {r["run"]: r["outcome"] for r in lines if r["event_type"] == "outcome"}
    assert sum(r["event_type"] == "outcome" for r in lines) == len(outcomes) == len(acked) + len(stood) + 1
    assert {outcomes[run] for run in stood} == {"not_started"}
    assert any(r["event_type"] == "service" and r["action"] == "audit_append" for r in lines)


# --- main's client ------------------------------------------------------------------------------------------


async def test_the_client_gives_the_seq_of_each_durable_record(auditors: Auditors) -> None:
    a = auditors.start()
    client = AuditClient(a.main, asyncio.get_running_loop())
    try:
        client.post(noted(0))
        seqs = await asyncio.gather(*(client.record(noted(n)) for n in range(1, MAX_BACKLOG)))
    finally:
        client.close()
    assert a.end() == auditor.CLEAN
    by_seq = {r["seq"]: r["action"] for r in auditors.lines()}
    assert [by_seq[s] for s in seqs] == [f"note-{n}" for n in range(1, MAX_BACKLOG)]


async def test_the_client_raises_when_the_record_is_refused(auditors: Auditors) -> None:
    client = AuditClient(auditors.start(before=limit_file_size(0)).main, asyncio.get_running_loop())
    try:
        with pytest.raises(AuditUnavailable, match="File too large"):
            await client.record(noted(1))
    finally:
        client.close()


@pytest.mark.root
async def test_main_is_told_when_the_log_takes_nothing_and_when_it_does_again(
    small_disk: Path, auditors: Auditors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a further request: who may do something only while the log works asks before there is one."""
    monkeypatch.setattr(clients, "RETRY", 0.01)
    auditors.path = str(small_disk / "audit.jsonl")
    client = AuditClient(auditors.start().main, asyncio.get_running_loop())
    told: list[bool] = []
    again = asyncio.Event()
    client.on_changed(lambda works: (told.append(works), again.set() if works else None))  # type: ignore[func-returns-value]
    try:
        await client.record(noted(1))
        assert told == []
        fill(small_disk)
        for _ in range(2):
            with pytest.raises(AuditUnavailable, match="No space left"):
                await client.record(decided(1, "deny", "x" * 6000))
        assert told == [False]
        (small_disk / "fill").unlink()
        await again.wait()
        assert told == [False, True]
        await client.record(noted(2))
    finally:
        client.close()
    assert "audit_again" in [line["action"] for line in auditors.lines()]


async def test_when_the_auditor_dies_everything_pending_fails_and_main_is_told_once(auditors: Auditors) -> None:
    a = auditors.start()
    loop = asyncio.get_running_loop()
    client = AuditClient(a.main, loop)
    told: list[str] = []
    lost = asyncio.Event()
    client.on_lost(lambda: told.append("first"))
    client.on_lost(lost.set)
    os.kill(a.pid, signal.SIGSTOP)
    pending = [client.record(noted(n)) for n in range(3)]
    pending[1].cancel()
    a.kill()
    await lost.wait()
    for future in (pending[0], pending[2], client.record(noted(9))):
        with pytest.raises(AuditUnavailable, match="ended"):
            await future
    with pytest.raises(AuditUnavailable):
        client.post(noted(9))
    late = asyncio.Event()
    client.on_lost(late.set)
    await late.wait()
    assert told == ["first"]


async def test_the_client_bounds_what_waits_for_an_auditor_that_does_not_read(auditors: Auditors) -> None:
    a = auditors.start()
    client = AuditClient(a.main, asyncio.get_running_loop())
    try:
        os.kill(a.pid, signal.SIGSTOP)
        futures: list[asyncio.Future[int]] = []
        while not futures or not futures[-1].done():
            futures.append(client.record(noted(len(futures))))
        with pytest.raises(AuditUnavailable, match=f"{MAX_BACKLOG} records wait"):
            await futures.pop()
        os.kill(a.pid, signal.SIGCONT)
        seqs = await asyncio.gather(*futures)
        assert len(set(seqs)) == len(futures) > MAX_BACKLOG
    finally:
        client.close()


async def test_an_answer_to_nothing_ends_the_trust_in_the_auditor() -> None:
    ours, theirs = framing.pair()
    client = AuditClient(ours, asyncio.get_running_loop())
    lost = asyncio.Event()
    client.on_lost(lost.set)
    with theirs:
        framing.send(theirs, Ack(5, 5))
        await lost.wait()
    with pytest.raises(AuditUnavailable, match="waits for no answer"):
        await client.record(noted(1))


def test_the_auditor_imports_no_event_loop_and_no_library() -> None:
    code = "import sys, supervisor.audit.auditor; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    top = os.path.dirname(os.path.dirname(os.path.dirname(auditor.__file__)))
    out = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=top)
    assert not set(out.stdout.split()) & {"asyncio", "aiohttp", "pydantic", "cryptography", "logging"}
