"""Approvals stand in the audit log: bounded, from main alone, and no start mistakes them for runs."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.audit import events, recover
from supervisor.audit.auditor import Auditor
from supervisor.audit.ledger import Ledger
from supervisor.audit.writer import Log, open_log
from supervisor.wire import framing
from supervisor.wire.messages import AUDITOR_TO_MAIN, TO_AUDITOR, Ack, Nack, Record, decode, encode

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

CALLER = {"uid": 1000, "pid": 7, "unit": "agent.service"}
long_text = st.builds(lambda c, n, t: c * n + t, st.characters(), st.sampled_from([0, 9, 5000, 90_000]), st.text())


def asked(**given: Any) -> events.Event:
    return events.approval(**{"action": "asked", "outcome": "pending", "caller": CALLER, **given})


@given(text=long_text, args=st.lists(long_text, max_size=3) | long_text)
def test_an_approval_fits_one_packet_whatever_an_agent_sent(text: str, args: Any) -> None:
    event = asked(reason=text, resource=text, args=args, tool=text, labels={"agent": text}, result={"note": text})
    assert decode(encode(Record(1, event)), TO_AUDITOR).event == event


@pytest.mark.parametrize("action", events.APPROVAL_ACTIONS)
def test_every_action_of_an_approval_can_be_recorded(action: str) -> None:
    assert events.problem(asked(action=action)) is None


@pytest.mark.parametrize("action", ["ran", "", None, 5])
def test_another_action_is_refused_where_the_event_is_made_and_where_it_arrives(action: Any) -> None:
    with pytest.raises(ValueError, match="action"):
        asked(action=action)
    assert events.problem({**asked(), "action": action}) is not None


def test_only_main_records_approvals() -> None:
    assert Ledger().refusal(asked(), "main") is None
    assert Ledger().refusal(asked(), "launcher") == "only main records approvals"


@pytest.fixture
def auditor(tmp_path: Path) -> Iterator[tuple[Auditor, socket.socket, socket.socket]]:
    pairs = [framing.pair() for _ in range(2)]
    path = str(tmp_path / "audit.jsonl")
    log = Log(open_log(path), path)
    for ours, _ in pairs:
        ours.setblocking(False)
    yield Auditor(pairs[0][0], pairs[1][0], log), pairs[0][1], pairs[1][1]
    log.close()
    for pair in pairs:
        for end in pair:
            end.close()


def test_the_auditor_writes_one_of_main_and_refuses_one_of_the_launcher(
    tmp_path: Path, auditor: tuple[Auditor, socket.socket, socket.socket]
) -> None:
    serving, main, launcher = auditor
    serving.commit([(serving.main, Record(1, asked())), (serving.launcher, Record(2, asked()))])
    for peer in serving.peers:
        peer.flush()
    assert isinstance(received(main), Ack)
    assert isinstance(received(launcher), Nack)
    log = [json.loads(x) for x in (tmp_path / "audit.jsonl").read_bytes().splitlines()]
    assert [r["action"] for r in log if r["event_type"] == "approval"] == ["asked"]
    assert log[-1]["reason"] == "approval from launcher: only main records approvals"


def test_a_start_reads_past_approvals_and_owes_nothing_for_them(
    tmp_path: Path, auditor: tuple[Auditor, socket.socket, socket.socket]
) -> None:
    serving, _, _ = auditor
    serving.commit([(serving.main, Record(n, asked(action=a))) for n, a in enumerate(events.APPROVAL_ACTIONS, 1)])
    fd = os.open(tmp_path / "audit.jsonl", os.O_RDONLY)
    try:
        found = recover.scan(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    assert (found.garbage, found.torn, found.ledger.open, recover.repairs(found)) == (0, 0, {}, [])
    assert found.seq >= len(events.APPROVAL_ACTIONS)


def received(sock: socket.socket) -> Any:
    got = framing.receive(sock, AUDITOR_TO_MAIN)
    assert got is not None
    return got[0]
