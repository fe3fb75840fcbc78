"""One of the auditor's two peers: bounded in what it may leave unread, never waited for."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from supervisor.audit import events
from supervisor.wire import framing
from supervisor.wire.messages import TO_AUDITOR, Message, Record, WireError

if TYPE_CHECKING:
    import socket

    from supervisor.audit.ledger import Sender

MAX_QUEUE = 4096  # answers that wait for one peer


class Overflow(Exception):
    """A peer leaves its answers unread."""


class Hostile(Exception):
    """A peer sent what no peer of ours sends; `before` is what it sent just before that."""

    def __init__(self, peer: Peer, why: str, before: list[Record]) -> None:
        super().__init__(why)
        self.peer = peer
        self.why = why
        self.before = before


class Peer:
    """One end of a SEQPACKET pair: what waits to be sent, and whether the other end is there."""

    def __init__(self, name: Sender, sock: socket.socket) -> None:
        self.name = name
        self.sock = sock
        self.ended = False
        self.deaf = False  # its receiving side is gone; what it sent before may still be here
        self.queue: deque[Message] = deque()
        sock.setblocking(False)

    def send(self, message: Message) -> None:
        if len(self.queue) >= MAX_QUEUE:
            raise Overflow(f"{self.name} leaves {MAX_QUEUE} answers unread")
        self.queue.append(message)

    def flush(self) -> None:
        while self.queue and not self.deaf:
            try:
                framing.send(self.sock, self.queue[0])
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self.deaf = True
            else:
                self.queue.popleft()
        self.queue.clear()

    def receive(self, limit: int) -> list[Record]:
        """What waits, at most `limit` records; sets `ended` at the end. Raises Hostile."""
        got: list[Record] = []
        while len(got) < limit and not self.ended:
            try:
                packet = framing.receive(self.sock, TO_AUDITOR)
            except BlockingIOError:
                break
            except ConnectionResetError:
                # unix(7): the peer closed with answers unread. Linux reports that once, ahead of what it sent.
                self.deaf = True
                continue
            except WireError as e:
                raise Hostile(self, str(e), got) from e
            if packet is None:
                self.ended = True
                break
            record: Record = packet[0]
            if why := events.problem(record.event):
                raise Hostile(self, f"record.event: {why}", got)
            got.append(record)
        return got
