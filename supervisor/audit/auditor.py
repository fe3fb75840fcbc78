"""The auditor process: receives records, makes them durable, and only then tells anyone.

Single-threaded, one epoll. Everything that waits is one batch, one write, one fdatasync (group commit). Go for
a run comes from here alone, and only for a decision that main sent and the disk holds. The process ends when
both peers have ended, so signals do not end it; every surprise is fatal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import TYPE_CHECKING

from supervisor.audit import events
from supervisor.audit.peer import Hostile, Overflow, Peer
from supervisor.audit.recover import repairs
from supervisor.audit.writer import Log, open_log
from supervisor.errors import AuditUnavailable
from supervisor.wire.messages import Ack, Closed, Go, Nack, Nogo

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from supervisor.wire.messages import Record

# Exit statuses, as sysexits.h names them.
CLEAN = 0
HOSTILE = 70  # a message that no peer of ours sends
OVERFLOW = 71  # a peer does not read its answers
NO_LOG = 73  # the log cannot be opened
UNWRITTEN = 74  # the last records could not be written

BATCH = 128  # records of one peer in one batch
CHECKPOINT_EVERY = 1000  # records; bounds what recovery reads


class Auditor:
    """The state of the process: the log, who is open, and what is owed to the log before anything else."""

    def __init__(self, main: socket.socket, launcher: socket.socket, log: Log) -> None:
        self.main = Peer("main", main)
        self.launcher = Peer("launcher", launcher)
        self.peers = (self.launcher, self.main)  # Go leaves first: a child waits for it
        self.log = log
        self.ledger = log.found.ledger
        self.owed = [*repairs(log.found), events.service(action="audit_start", outcome="ok")]
        self.failing = False

    def serve(self) -> int:
        """Until both peers have ended. Returns the exit status."""
        self.commit([])
        with select.epoll() as poll:
            masks = dict.fromkeys(self.peers, select.EPOLLIN)
            by_fd = {p.sock.fileno(): p for p in self.peers}
            for fd in by_fd:
                poll.register(fd, select.EPOLLIN)
            while masks:
                ready = [by_fd[fd] for fd, _ in poll.poll()]
                batch: list[tuple[Peer, Record]] = []
                hostile: Hostile | None = None
                for peer in ready:
                    try:
                        batch += [(peer, r) for r in peer.receive(BATCH)]
                    except Hostile as e:
                        batch += [(peer, r) for r in e.before]
                        hostile = e
                if batch:
                    self.commit(batch)
                if hostile is not None:
                    self.owed.append(_hostile_record(hostile))
                    self.commit([])
                for peer in self.peers:
                    peer.flush()
                if hostile is not None:
                    _say(f"fatal: {hostile.peer.name} sent {hostile.why}")
                    return HOSTILE
                for peer in list(masks):
                    wanted = select.EPOLLIN | (select.EPOLLOUT if peer.queue else 0)
                    if peer.ended:
                        poll.unregister(peer.sock)
                        del masks[peer]
                    elif masks[peer] != wanted:
                        poll.modify(peer.sock, wanted)
                        masks[peer] = wanted
        self.owed.append(events.service(action="audit_stop", outcome="ok"))
        self.commit([])
        if not self.owed:
            self.owed.append(events.checkpoint(self.ledger.open))
            self.commit([])
        return UNWRITTEN if self.owed else CLEAN

    def commit(self, batch: list[tuple[Peer, Record]]) -> None:
        """One batch: refuse, append, answer. What is owed goes first, and stays owed until it is durable."""
        admitted, refused = self._admit(batch)
        if not batch and not self.owed:
            return
        # A checkpoint lists what is open before it, so it never follows owed outcomes in the same batch.
        due = not self.owed and self.log.seq - self.log.checkpoint >= CHECKPOINT_EVERY
        first = [*self.owed, *([events.checkpoint(self.ledger.open)] if due else [])]
        last = [_refused_record(peer, record, why) for peer, record, why in refused]
        written = [*first, *(record.event for _, record in admitted), *last]
        try:
            seqs = self.log.append(written)
        except OSError as e:
            self._failed(admitted, e)
            self._stood(written[: self.log.stood], len(first))
        else:
            self.owed.clear()
            for event, seq in zip(written, seqs, strict=True):
                if event["event_type"] != "checkpoint":
                    self.ledger.apply(event, seq)
            self._answer(admitted, seqs[len(first) : len(first) + len(admitted)])
            if self.failing:
                self.failing = False
                _say(f"{self.log.path} can be written again")
        for peer, record, why in refused:
            self._refuse(peer, record, why)

    def _admit(
        self, batch: list[tuple[Peer, Record]]
    ) -> tuple[list[tuple[Peer, Record]], list[tuple[Peer, Record, str]]]:
        admitted: list[tuple[Peer, Record]] = []
        refused: list[tuple[Peer, Record, str]] = []
        # A run's outcome can only follow its Go, so the same run twice in one batch is a duplicate.
        touched: set[str] = set()
        for peer, record in batch:
            event = record.event
            why = self.ledger.refusal(event, peer.name)
            if why is None and _moves(event):
                if event["run"] in touched:
                    why = "duplicate: the same run twice"
                touched.add(event["run"])
            if why is None:
                admitted.append((peer, record))
            else:
                refused.append((peer, record, why))
        return admitted, refused

    def _answer(self, admitted: list[tuple[Peer, Record]], seqs: list[int]) -> None:
        for (peer, record), seq in zip(admitted, seqs, strict=True):
            event = record.event
            if _allows(event):
                self.launcher.send(Go(event["run"], event["fingerprint"]))
            if record.id:
                peer.send(Ack(record.id, seq))
            elif event["event_type"] == "outcome":
                self.main.send(Closed(event["run"], seq))

    def _failed(self, admitted: list[tuple[Peer, Record]], error: OSError) -> None:
        why = f"{self.log.path}: {error.strerror or error}"
        if not self.failing:
            self.failing = True
            _say(f"nothing can run: {why}")
        for peer, record in admitted:
            self._refuse(peer, record, why)

    def _stood(self, stood: list[events.Event], first: int) -> None:
        """Records that were refused and yet stand in a log that cannot be cut: each run still ends exactly once."""
        del self.owed[: len(stood)]
        for seq, event in enumerate(stood, self.log.seq - len(stood) + 1):
            if event["event_type"] != "checkpoint":
                self.ledger.apply(event, seq)
        self.owed += [
            events.outcome(
                run=event["run"],
                outcome="not_started",
                session_id=event["session_id"],
                reason="its decision was not acknowledged, so it did not run",
            )
            for event in stood[first:]
            if _allows(event)
        ]

    def _refuse(self, peer: Peer, record: Record, why: str) -> None:
        event = record.event
        if record.id:
            peer.send(Nack(record.id, why[:1024]))
        elif peer is self.launcher and event["event_type"] == "outcome" and event["run"] in self.ledger.open:
            self.main.send(Closed(event["run"], 0, why[:1024]))
        # A duplicate says nothing against the run that has its Go already.
        if peer is self.main and _allows(event) and event["run"] not in self.ledger.open:
            self.launcher.send(Nogo(event["run"], why[:1024]))


def _moves(event: events.Event) -> bool:
    return event["event_type"] == "outcome" or _allows(event)


def _allows(event: events.Event) -> bool:
    return bool(event["event_type"] == "decision" and event["outcome"] == "allow")


def _refused_record(peer: Peer, record: Record, why: str) -> events.Event:
    event = record.event
    return events.security(
        action="audit_record",
        outcome="refused",
        reason=f"{event['event_type']} from {peer.name}: {why}",
        run=event["run"],
        session_id=event["session_id"],
        request_id=event["request_id"],
    )


def _hostile_record(hostile: Hostile) -> events.Event:
    return events.security(
        action="audit_message",
        outcome="fatal",
        reason=f"{hostile.peer.name} sent a message that is none: {hostile.why}",
    )


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(f"stockade auditor: {text}", file=sys.stderr, flush=True)


def run(main: socket.socket, launcher: socket.socket, path: str, confine: Callable[[], None] | None = None) -> int:
    """Be the auditor of the log at `path` until both sockets end; the exit status.

    Runs as whatever user the process already is. `confine` is called once the log is open and before anything
    in it, or from a peer, is read.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        fd = open_log(path)
    except (OSError, AuditUnavailable) as e:
        _say(f"fatal: {e}")
        return NO_LOG
    try:
        if confine is not None:
            confine()
        try:
            log = Log(fd, path)
        except OSError as e:
            _say(f"fatal: {e}")
            return NO_LOG
        return Auditor(main, launcher, log).serve()
    except Overflow as e:
        _say(f"fatal: {e}")
        return OVERFLOW
    finally:
        os.close(fd)
