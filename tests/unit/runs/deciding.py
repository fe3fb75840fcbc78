"""What the tests of the desk and of decisions share: a world with a policy that asks, and people who answer."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyotp
import pytest

from supervisor import errors
from supervisor.audit import events
from supervisor.policy import snapshot as s
from supervisor.runs.model import SessionRequest
from tests.unit.decide.samples import caller, peer
from tests.unit.runs.conftest import ADMINISTRATOR, AGENT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from supervisor.approvals.model import Question
    from supervisor.runs.bus import Event, Subscription
    from supervisor.runs.model import Peer, Run, Session
    from tests.unit.runs.conftest import World

SECOND, JUDGE = peer(4000), peer(5000)  # another administrator; one whose role is to answer
ASKING = s.Autonomy(approval_patterns=("touch", "sh approved.sh"), source="/etc/stockade/policy.toml:40")
JUDGES = s.Role("judge", ("agent:read", "approvals:*"), source="/etc/stockade/policy.toml:60")


def admin(**changes: bool) -> s.Role:
    """The administrator's role, with what its orders take."""
    return s.Role("administrator", ("*",), source="/etc/stockade/policy.toml:61", **changes)


async def serving(
    worlds: Callable[[], World], *roles: s.Role, of: dict[int, dict[str, Any]] | None = None, **changes: Any
) -> World:
    """A world whose policy has these roles, callers changed by uid (`of`), and other parts."""
    world = worlds()
    base = world.snapshot
    granted = {"workspaces": base.callers[0].workspaces, "profiles": ("shell",)}
    callers = (
        *base.callers,
        caller(uid=4000, role="administrator", **granted),
        caller(uid=5000, role="judge", **granted),
    )
    changed = tuple(replace(c, **(of or {}).get(c.uid or 0, {})) for c in callers)
    declared = (*roles, *(() if any(r.name == "judge" for r in roles) else (JUDGES,)))
    policy = {"autonomy": ASKING, "callers": changed, "roles": declared, **changes}
    world.snapshot = world.launcher.snapshot = replace(base, **policy)
    await world.supervisor.load()
    return world


async def reloaded(world: World, **changes: Any) -> None:
    """Another policy is in force."""
    world.snapshot = world.launcher.snapshot = replace(world.snapshot, **changes)
    await world.supervisor.reload(None)


async def say(world: World, ident: str, who: Peer = JUDGE, **more: Any) -> Question:
    """What a person answers: yes, once, without a code, where nothing else is said."""
    terms = {"approve": True, "scope": "once", "times": None, "duration_ms": None, "note": "", "code": None}
    found: Question = await world.supervisor.desk.answer(who, ident, **{**terms, **more})
    return found


async def question(events: Subscription) -> str:
    """The id of the next question."""
    async for event in until(events, "approval.requested"):
        found = event
    return str(found.data["approval"])


async def until(subscription: Subscription, kind: str) -> AsyncIterator[Event]:
    async for event in subscription:
        yield event
        if event.kind == kind:
            return


async def settled(world: World) -> None:
    """Everything that was posted has been recorded, and nothing is being closed any more."""
    await world.audit.record(events.service(action="mark", outcome="ok"))
    await asyncio.gather(*world.supervisor._tasks)


async def opened(world: World, who: Peer = AGENT, **changes: Any) -> Session:
    return await world.supervisor.open_session(who, replace(SessionRequest(world.workspace), **changes), "req-1")


def script(world: World, text: str = "echo approved\n") -> None:
    """What the policy asks about when a shell is handed it."""
    with open(os.path.join(world.workspace, "approved.sh"), "w") as file:
        file.write(text)


async def finished(world: World, *argv: str, **changes: Any) -> Run:
    run = await world.run(*argv, **changes)
    await world.supervisor.wait(run)
    return run


async def waits(work: Awaitable[Any]) -> errors.ApprovalRequired:
    """What an order or a request is told that has to be approved."""
    with pytest.raises(errors.ApprovalRequired) as waiting:
        await work
    return waiting.value


async def asked(work: Awaitable[Any]) -> str:
    """The id of the question that an order or a request leads to."""
    return str((await waits(work)).extra["approval"])


async def nothing_left(world: World) -> None:
    """No session, no place, nobody in the queue, and no order under way."""
    await settled(world)
    assert world.launcher.sessions == []
    assert world.supervisor.sessions(AGENT) == []
    assert world.supervisor.meters.book.live == {}
    assert world.supervisor.running == {}
    assert len(world.supervisor.line) == 0


class Authenticator:
    """A device that shows one-time codes."""

    def __init__(self, secret: str) -> None:
        self._totp = pyotp.TOTP(secret)

    def code(self, step: int = 0) -> str:
        return self._totp.at(time.time(), counter_offset=step)

    def wrong(self) -> str:
        good = {self.code(n) for n in range(-3, 4)}
        return next(c for c in map("{:06d}".format, range(10)) if c not in good)


async def enrolled(world: World, who: Peer = ADMINISTRATOR) -> Authenticator:
    return Authenticator((await world.supervisor.desk.enroll(who, None))["secret"])
