"""The launcher's small parts, each alone: causes, uids, blanks, disk arithmetic, receipts, the loop."""

from __future__ import annotations

import os
import random
import signal
import time
from types import SimpleNamespace
from typing import Any

import pytest

from supervisor.errors import LimitReached
from supervisor.launcher import disk, ending, receipt
from supervisor.launcher.loop import Loop
from supervisor.launcher.plan import Identity
from supervisor.launcher.pool import Blanks, Identities
from supervisor.wire.messages import ASKED_CAUSES, CAUSES
from tests.unit.decide.samples import profile

# --- causes -----------------------------------------------------------------------------------------------------


def run(status: tuple[int | None, int | None], **changes: Any) -> Any:
    return SimpleNamespace(**{"status": status, "cause": None, "failure": None, "killed": 0, "refused": "", **changes})


CASES: list[tuple[Any, dict[str, int], str]] = [
    (run((0, None)), {}, "exited"),
    (run((3, None)), {}, "exited"),
    (run((None, signal.SIGTERM)), {}, "signal"),
    (run((None, signal.SIGKILL)), {}, "signal"),
    (run((None, signal.SIGKILL)), {"memory_oom": 1}, "memory"),
    (run((137, None)), {"memory_oom": 2}, "memory"),
    (run((0, None)), {"memory_oom": 1}, "exited"),  # it went on without the one that was killed
    (run((None, signal.SIGXFSZ)), {}, "disk"),
    (run((None, signal.SIGKILL)), {"memory_oom": 1, "pids_refused": 9}, "memory"),
    (run((1, None)), {"pids_refused": 1}, "processes"),
    (run((0, None)), {"pids_refused": 1}, "exited"),
    (run((0, None), killed=5), {"pids_refused": 1}, "processes"),
    (run((None, signal.SIGKILL), cause="timeout"), {"memory_oom": 1}, "timeout"),
    (run((0, None), cause="cancelled"), {}, "cancelled"),
    (run((127, None), failure={"step": "exec"}), {}, "not_started"),
    (run((127, None), failure={"step": "exec"}, cause="cancelled"), {}, "not_started"),
    (run((None, signal.SIGKILL), cause="lost"), {}, "lost"),
    (run((None, None)), {}, "exited"),
    (run((127, None), failure={"step": "exec"}, cause="denied", refused="x.sh was replaced"), {}, "denied"),
]


@pytest.mark.parametrize(("ended", "counters", "expected"), CASES)
def test_every_end_has_one_cause(ended: Any, counters: dict[str, int], expected: str) -> None:
    assert ending.cause(ended, counters) == expected
    assert expected in CAUSES


@pytest.mark.parametrize("asked", ASKED_CAUSES)
def test_what_was_asked_for_comes_before_what_followed_from_it(asked: str) -> None:
    ended = run((None, signal.SIGKILL), cause=asked, killed=3)
    assert ending.cause(ended, {"memory_oom": 1, "pids_refused": 1}) == asked


def test_only_a_pipe_is_plain() -> None:
    pipe = os.pipe2(os.O_CLOEXEC)
    others = [os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC), os.open("/", os.O_RDONLY | os.O_CLOEXEC)]
    try:
        assert [ending.is_plain(fd) for fd in pipe] == [True, True]
        assert [ending.is_plain(fd) for fd in others] == [False, False]
    finally:
        for fd in (*pipe, *others):
            os.close(fd)


# --- uids and blanks --------------------------------------------------------------------------------------------


def test_no_uid_is_ever_given_to_two_sessions_or_outside_the_range() -> None:
    dice, pool, held = random.Random(1), Identities(9000, 101), set()  # noqa: S311 - a test that can be repeated
    for _ in range(5000):
        if held and dice.random() < 0.5:
            pool.give_back(held.pop())
            continue
        try:
            taken = pool.take()
        except LimitReached:
            assert len(held) == 50
            continue
        assert taken.uid == taken.gid
        assert taken.leader == taken.uid + 1
        assert 9000 <= taken.uid < taken.leader < 9101
        held.add(taken)
        used = [uid for identity in held for uid in (identity.uid, identity.leader)]
        assert len(used) == len(set(used))


@pytest.mark.parametrize("base", [8999, 9000, 9001, 9002, 9003])
def test_a_new_range_gives_out_no_uid_that_a_session_has_of_the_old_one(base: int) -> None:
    old = Identities(9000, 8).take()
    pool = Identities(base, 14, [old.uid, old.leader])
    given = [pool.take() for _ in range(5)]
    assert {old.uid, old.leader}.isdisjoint(uid for pair in given for uid in (pair.uid, pair.leader))
    pool.give_back(given[2])
    assert pool.take() == given[2]


class Blank:
    """What Blanks looks at of a session; equal only to itself, as sessions are."""

    def __init__(self, of: Any) -> None:
        self.profile = of


def test_a_blank_is_taken_once_and_only_for_its_very_profile() -> None:
    made: list[Any] = []

    def make(of: Any) -> Any:
        made.append(of)
        return Blank(of)

    shell, narrower = profile(), profile(network="loopback")
    blanks = Blanks(make)
    assert blanks.wants(shell)
    kept = Blank(shell)
    blanks.keep(kept)  # type: ignore[arg-type]
    assert not blanks.wants(shell)
    assert blanks.wants(narrower)
    assert blanks.take(narrower).profile is narrower
    assert blanks.take(shell) is kept
    assert blanks.take(shell) is not kept
    assert made == [narrower, shell]


def test_a_dead_blank_is_not_taken_and_a_reload_takes_all_back() -> None:
    blanks = Blanks(Blank, ahead=2)  # type: ignore[arg-type, return-value]
    one, two = Blank(profile()), Blank(profile())
    blanks.keep(one)  # type: ignore[arg-type]
    blanks.keep(two)  # type: ignore[arg-type]
    blanks.drop(one)  # type: ignore[arg-type]
    blanks.drop(one)  # type: ignore[arg-type]
    assert blanks.clear() == [two]
    assert blanks.clear() == []


# --- disk -------------------------------------------------------------------------------------------------------


class Disk(disk.DiskWatch):
    """A file system that says what the test says."""

    def __init__(self, free: int, inodes: int) -> None:
        self._fd = -1
        self.now = (free, inodes)

    def mark(self) -> tuple[int, int]:
        return self.now


def test_the_disk_limit_needs_both_a_fuller_disk_and_a_run_that_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Disk(1000, 100_000)
    start = watch.mark()
    written = {"bytes": 0}
    monkeypatch.setattr(disk, "dirtied", lambda _: written["bytes"])
    watch.now = (400, 100_000)
    assert not watch.exceeded(500, start, list), "others filled the disk"
    written["bytes"] = 501
    assert watch.exceeded(500, start, list)
    watch.now = (600, 100_000)
    assert not watch.exceeded(500, start, list), "it rewrote the same bytes"


def test_files_are_bounded_by_the_limit_and_a_floor() -> None:
    start = (0, 100_000)
    assert not Disk(0, 100_000 - 1024).exceeded(1, start, list)
    assert Disk(0, 100_000 - 1025).exceeded(1, start, list)
    assert not Disk(0, 100_000 - 2048).exceeded(2048 * 4096, start, list)
    assert Disk(0, 100_000 - 2049).exceeded(2048 * 4096, start, list)


def test_a_process_that_is_gone_wrote_nothing() -> None:
    assert disk.dirtied([2**22 + 1]) == 0
    assert disk.dirtied([os.getpid()]) >= 0


# --- receipts ---------------------------------------------------------------------------------------------------

GOOD = {
    "Uid": "5000\t5000\t5000\t5000",
    "NoNewPrivs": "1",
    "Seccomp": "2",
    **dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), "0" * 16),
}
WHO = Identity(5000, 5000, 5001)


def test_a_filter_of_the_service_manager_does_not_count_as_ours() -> None:
    """Under systemd every process has filters of the unit; only one more than the launcher's is a child's own."""
    assert receipt.violations({**GOOD, "Seccomp_filters": "19"}, WHO, 19)
    assert receipt.violations({**GOOD, "Seccomp_filters": "20"}, WHO, 19) == []


def test_what_is_confined_as_it_must_be_raises_no_alarm() -> None:
    assert receipt.violations(GOOD, WHO, 0) == []


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("Uid", "5000\t0\t5000\t5000"),
        ("Uid", "5001\t5001\t5001\t5001"),
        ("NoNewPrivs", "0"),
        ("Seccomp", "0"),
        ("CapEff", "0000000000000001"),
        ("CapBnd", "000001ffffffffff"),
    ],
)
def test_every_line_that_is_wrong_or_missing_raises_one(line: str, value: str) -> None:
    assert len(receipt.violations({**GOOD, line: value}, WHO, 0)) == 1
    assert len(receipt.violations({k: v for k, v in GOOD.items() if k != line}, WHO, 0)) == 1


def test_the_kernels_own_lines_are_read() -> None:
    found = receipt.read_status(os.getpid())
    assert found["Uid"].split()[0] == str(os.getuid())
    assert found.keys() - {"Seccomp_filters"} == GOOD.keys()  # new in Linux 5.9


def test_a_receipt_of_a_process_that_nobody_saw_claims_nothing() -> None:
    told = receipt.receipt({}, {"landlock": 7}, {})
    assert (told["uid"], told["no_new_privs"], told["seccomp"]) == (None, False, "unknown")


# --- the loop ---------------------------------------------------------------------------------------------------


def test_timers_are_called_in_the_order_of_their_times_and_those_of_one_time_as_they_were_set() -> None:
    loop, called = Loop(), []
    now = time.monotonic()
    for name, when in (("late", now + 0.002), ("first", now - 2), ("second", now - 1), ("also second", now - 1)):
        loop.at(when, lambda n=name: called.append(n))  # type: ignore[misc]
    loop.at(now + 0.002, lambda: setattr(loop, "running", False))
    loop.run()
    assert called == ["first", "second", "also second", "late"]


def test_a_cancelled_timer_is_not_called_and_wakes_nobody() -> None:
    loop, called = Loop(), []
    early = loop.at(time.monotonic() - 1, lambda: called.append("cancelled"))
    early.cancel()
    early.cancel()
    loop.at(time.monotonic(), lambda: setattr(loop, "running", False))
    loop.run()
    assert called == []
    assert early.what is None, "what it held is let go"


def test_what_can_wait_waits_for_what_came_in() -> None:
    loop, called = Loop(), []
    reading, writing = os.pipe2(os.O_CLOEXEC)

    def readable(_: int) -> None:
        called.append(os.read(reading, 1))

    def finish() -> None:
        called.append(b"later")
        loop.running = False

    try:
        loop.watch(reading, readable)
        os.write(writing, b"abc")
        loop.later(finish)
        loop.run()
        assert called == [b"a", b"b", b"c", b"later"]
        loop.forget(reading)
        loop.forget(reading)
    finally:
        os.close(reading)
        os.close(writing)
        loop.epoll.close()


def test_a_handler_that_forgets_another_in_the_same_turn_keeps_it_from_being_called() -> None:
    loop, called = Loop(), []
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]

    def ready(own: int, other: int) -> None:
        called.append(own)
        loop.forget(other)
        loop.running = False

    try:
        ends = [r for r, _ in pipes]
        loop.watch(ends[0], lambda _: ready(ends[0], ends[1]))
        loop.watch(ends[1], lambda _: ready(ends[1], ends[0]))
        for _, w in pipes:
            os.write(w, b"x")
        loop.run()
        assert len(called) == 1
    finally:
        for pair in pipes:
            for fd in pair:
                os.close(fd)
        loop.epoll.close()
