"""Alerts: an agent that fails often, reaches for secrets, tries what is blocked or does what is not usual for it, and
who is told of it (R100, R101, R103).

The counters are the book's, and what is done at a bound is decided as everything else; here they are counted and told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.audit import events
from supervisor.decide.bounds import FAILED, RUNS, SENSITIVE, agent_key
from supervisor.runs import sessions

if TYPE_CHECKING:
    import asyncio

    from supervisor.decide.bounds import Who
    from supervisor.errors import Denied
    from supervisor.runs.model import Peer, Run
    from supervisor.runs.service import Supervisor


def began(room: Supervisor, peer: Peer, who: Who) -> None:
    """A run begins. Its own count, which follows, writes this one with it, in one transaction."""
    _count(room, peer, who, RUNS)


def failed(room: Supervisor, run: Run, who: Who) -> None:
    """A run ended as a failure. The charge that follows writes this count with it, in one transaction."""
    _count(room, run.peer, who, FAILED)


def reached(room: Supervisor, peer: Peer, who: Who) -> asyncio.Future[None]:
    """A request reached for what is secret or off limits; the future is done when that is durable."""
    _count(room, peer, who, SENSITIVE)
    return room.meters.save()


def blocked(room: Supervisor, peer: Peer, who: Who, refusal: Denied) -> None:
    """A command was blocked, and each of them is told."""
    source = room.serving.snapshot.alerts.source
    _tell(room, peer, who, "alerts.blocked_command", source, 1, "tell", f"{refusal.rule}: {refusal.detail}")


def _count(room: Supervisor, peer: Peer, who: Who, counts: str) -> None:
    plan = room.meters.book.plan(room.serving.snapshot)
    for bound in plan.alerts:
        if bound.scope == counts and (count := room.meters.alarm(bound, who)):
            said = f"{count} in one hour, and policy allows less than {bound.most}"
            _tell(room, peer, who, bound.rule, bound.source, count, bound.action, said)
    for strange in plan.unusual:
        if strange.scope == counts:
            count, usual = room.meters.strange(strange, who)
            if count:
                said = f"{count} {counts} in this hour: {usual} are not usual for this agent any more"
                _tell(room, peer, who, strange.rule, strange.source, count, strange.action, said)


def _tell(room: Supervisor, peer: Peer, who: Who, rule: str, source: str, count: int, action: str, reason: str) -> None:
    agent = agent_key(who).partition("/")[2]
    labels = {"agent": agent, "user": who.user, "channel": who.channel}
    said = {"agent": agent, "rule": rule, "count": count}
    room.post(
        events.security(
            action="alert",
            outcome=action,
            reason=reason,
            caller=sessions.caller_of(peer),
            labels={name: value for name, value in labels.items() if value},
            result={**said, "source": source},
        )
    )
    room.events.emit("alert.raised", peer.uid, **said, action=action)
