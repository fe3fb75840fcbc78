"""What a log says after a crash, whatever state it was left in."""

from __future__ import annotations

import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.audit import events, recover
from supervisor.audit.ledger import MAX_ENDED, Ledger

if TYPE_CHECKING:
    from pathlib import Path

STAMP = "2026-01-02T03:04:05.678901Z"


def run_id(n: int) -> str:
    return f"run-{n:012d}"


def line(seq: int, event: dict[str, Any]) -> bytes:
    return json.dumps({"seq": seq, "timestamp": STAMP, **event}, separators=(",", ":")).encode() + b"\n"


def decided(n: int, outcome: str = "allow") -> dict[str, Any]:
    return events.decision(
        outcome=outcome,
        run=run_id(n),
        request_id=None,
        session_id="ses-000000000001",
        caller={"uid": 1},
        tool="shell",
        action="run",
        resource=None,
        args=["true"],
        fingerprint="ab" * 32,
    )


def ended(n: int) -> dict[str, Any]:
    return events.outcome(run=run_id(n), outcome="exited")


def scan(tmp_path: Path, data: bytes) -> recover.Found:
    file = tmp_path / "audit.jsonl"
    file.write_bytes(data)
    fd = os.open(file, os.O_RDONLY)
    try:
        return recover.scan(fd, len(data))
    finally:
        os.close(fd)


def test_an_empty_log_starts_at_zero_and_owes_nothing(tmp_path: Path) -> None:
    found = scan(tmp_path, b"")
    assert (found.seq, found.torn, found.garbage, found.ledger.open) == (0, 0, 0, {})
    assert recover.repairs(found) == []


def test_a_decision_without_outcome_is_open_and_a_denied_one_is_not(tmp_path: Path) -> None:
    data = line(1, decided(1)) + line(2, decided(2, "deny")) + line(3, decided(3)) + line(4, ended(1))
    found = scan(tmp_path, data)
    assert found.seq == 4
    assert found.ledger.open == {run_id(3): ("ses-000000000001", 3)}
    owed = recover.repairs(found)
    assert [(e["event_type"], e["outcome"]) for e in owed] == [("outcome", "lost"), ("checkpoint", "ok")]
    assert (owed[0]["run"], owed[0]["session_id"]) == (run_id(3), "ses-000000000001")


def test_nothing_before_the_newest_checkpoint_is_read_again(tmp_path: Path) -> None:
    # The run before the checkpoint is open by the first line and closed by the checkpoint's word.
    old = line(1, decided(1)) + b"not a record\n"
    mark = line(2, events.checkpoint({run_id(7): (None, 1)}))
    found = scan(tmp_path, old + mark + line(3, decided(2)))
    assert found.checkpoint == 2
    assert found.garbage == 0
    assert set(found.ledger.open) == {run_id(7), run_id(2)}


@pytest.mark.parametrize("pad", [*range(recover.CHUNK - 140, recover.CHUNK + 140, 7), 3 * recover.CHUNK])
def test_a_checkpoint_on_a_chunks_edge_is_found(tmp_path: Path, pad: int) -> None:
    mark = line(9, events.checkpoint({}))
    tail = b"#" * (pad - len(mark) - 1) + b"\n" if pad > len(mark) else b""
    found = scan(tmp_path, b"x\n" + mark + tail)
    assert (found.checkpoint, found.garbage) == (9, 1)


@pytest.mark.parametrize(
    "false",
    [
        line(50, {**events.checkpoint({}), "result": {"open": "all"}}),
        line(50, {**events.checkpoint({}), "result": {"open": [["run-x", None, 1]]}}),
        line(50, {**events.checkpoint({}), "result": {"open": [[None, None, 1]]}}),
        line(50, events.checkpoint({}))[:-2],
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over_for_the_one_before(tmp_path: Path, false: bytes) -> None:
    found = scan(tmp_path, b"\n" + line(1, events.checkpoint({run_id(1): (None, 1)})) + line(2, decided(2)) + false)
    assert found.checkpoint == 1
    assert set(found.ledger.open) == {run_id(1), run_id(2)}
    assert found.garbage + bool(found.torn) == 1


def test_text_that_looks_like_a_checkpoint_inside_a_value_is_not_one(tmp_path: Path) -> None:
    inner = line(5, events.checkpoint({})).decode()
    event = decided(1) | {"args": [inner], "result": {"x": json.loads(inner)}}
    found = scan(tmp_path, line(1, decided(2)) + line(2, event))
    assert found.checkpoint == 0
    assert set(found.ledger.open) == {run_id(1), run_id(2)}


@pytest.mark.parametrize("cut", [1, 5, 40, -1])
def test_a_torn_last_line_is_measured_and_its_record_does_not_count(tmp_path: Path, cut: int) -> None:
    whole = line(2, ended(1))
    found = scan(tmp_path, line(1, decided(1)) + whole[:cut])
    assert found.torn == len(whole[:cut])
    assert found.seq == 1
    assert set(found.ledger.open) == {run_id(1)}
    first = recover.repairs(found)[0]
    assert (first["event_type"], first["outcome"], first["result"]) == ("service", "torn", {"bytes": found.torn})


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 5000,
        b"[]",
        b'"x"',
        b"nul",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"seq":true,"event_type":"service"}',
        b'{"seq":0,"event_type":"service"}',
        b'{"seq":9007199254740992,"event_type":"service"}',
        b'{"seq":' + b"9" * 5000 + b',"event_type":"service"}',
        b'{"seq":7,"event_type":["decision"]}',
        b'{"seq":7,"event_type":"outcome","run":{}}',
        b"y" * (recover.MAX_LINE + recover.CHUNK * 2),
    ],
    ids=range(13),
)
def test_a_line_that_is_no_record_is_counted_and_changes_nothing(tmp_path: Path, garbage: bytes) -> None:
    found = scan(tmp_path, line(1, decided(1)) + garbage + b"\n" + line(2, decided(2)))
    assert found.garbage == 1
    assert found.seq == 2
    assert set(found.ledger.open) == {run_id(1), run_id(2)}
    reported = [e for e in recover.repairs(found) if e["event_type"] == "security"]
    assert [e["result"] for e in reported] == [{"lines": 1}]


def test_any_damage_leaves_a_log_that_can_be_read(tmp_path: Path) -> None:
    rng = random.Random(20260102)  # noqa: S311 (repeatable damage)
    whole = b"".join(line(i, decided(i) if i % 3 else events.checkpoint({})) for i in range(1, 40))
    for _ in range(300):
        data = bytearray(whole[: rng.randrange(len(whole))])
        for _ in range(rng.randrange(6) if data else 0):
            data[rng.randrange(len(data))] = rng.randrange(256)
        found = scan(tmp_path, bytes(data))
        assert found.torn == len(data) - (bytes(data).rfind(b"\n") + 1)


def test_a_log_in_one_unbroken_line_is_all_torn(tmp_path: Path) -> None:
    data = b"z" * (recover.MAX_LINE * 2)
    assert scan(tmp_path, data).torn == len(data)


def test_the_ledger_forgets_only_the_oldest_ended_runs() -> None:
    ledger = Ledger()
    for n in range(MAX_ENDED + 1):
        ledger.apply(ended(1) | {"run": run_id(n)}, 1)
    assert ledger.refusal(decided(0), "main") is None
    assert ledger.refusal(decided(1), "main") == "duplicate: this run has its decision"
