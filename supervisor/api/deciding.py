"""Handlers of what stands around a decision: questions and grants, why, and what holds an agent up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from supervisor.api import stream, views
from supervisor.api.call import answer
from supervisor.api.ending import to_the_end

if TYPE_CHECKING:
    from aiohttp import web

    from supervisor.api.call import Answer, Call


# --- questions ------------------------------------------------------------------------------------------------


async def get_approvals(call: Call) -> web.StreamResponse:
    query = call.query
    state = None if query.state == "all" else query.state
    found = call.supervisor.desk.questions(call.peer, state=state, limit=query.limit)
    return await stream.listed(call, "approvals", map(views.question, found))


async def get_approval(call: Call) -> Answer:
    return answer(views.question(call.supervisor.desk.question(call.peer, call.id)))


async def wait_approval(call: Call) -> Answer:
    desk = call.supervisor.desk
    seconds = None if call.query.timeout is None else call.query.timeout / 1000
    try:
        async with asyncio.timeout(seconds):
            return answer(views.question(await desk.wait(call.peer, call.id)))
    except TimeoutError:
        return answer(views.question(desk.question(call.peer, call.id)), 202)


async def approve(call: Call) -> Answer:
    body = call.body
    given = call.supervisor.desk.answer(
        call.peer,
        call.id,
        approve=True,
        scope=body.scope,
        times=body.times,
        duration_ms=body.duration,
        note=body.note,
        code=call.code,
    )
    return answer(views.question(await to_the_end(given)))


async def deny(call: Call) -> Answer:
    given = call.supervisor.desk.answer(
        call.peer,
        call.id,
        approve=False,
        scope="once",
        times=None,
        duration_ms=None,
        note=call.body.note,
        code=call.code,
    )
    return answer(views.question(await to_the_end(given)))


async def withdraw(call: Call) -> Answer:
    return answer(views.question(await to_the_end(call.supervisor.desk.withdraw(call.peer, call.id))))


# --- grants and roles for a time ------------------------------------------------------------------------------


async def get_grants(call: Call) -> Answer:
    return answer({"grants": [views.grant(g) for g in call.supervisor.desk.grants(call.peer)]})


async def revoke(call: Call) -> Answer:
    return answer(views.grant(await to_the_end(call.supervisor.desk.revoke(call.peer, call.id, call.code))))


async def request_access(call: Call) -> Answer:
    body = call.body
    asked = await call.supervisor.desk.request_access(call.peer, body.role, body.duration, body.reason)
    return answer(views.question(asked), 202, Location=f"/v1/approvals/{asked.id}")


async def enroll(call: Call) -> Answer:
    return answer(await to_the_end(call.supervisor.desk.enroll(call.peer, call.code)), 201)


async def forget_codes(call: Call) -> Answer:
    return answer(await to_the_end(call.supervisor.desk.forget_codes(call.peer, call.body.uid, call.code)))


# --- why ------------------------------------------------------------------------------------------------------


async def explain(call: Call) -> Answer:
    return answer(await call.supervisor.desk.explain(call.peer, call.body.request()))


async def get_unused(call: Call) -> Answer:
    found = await call.supervisor.desk.unused(call.peer, call.query.days)
    return answer({"days": call.query.days, "rules": [views.timed(r) for r in found]})


async def get_tools(call: Call) -> Answer:
    return answer({"tools": call.supervisor.desk.tools(call.peer)})


async def get_tool(call: Call) -> Answer:
    return answer(call.supervisor.desk.tool(call.peer, call.id))


# --- what holds an agent up -----------------------------------------------------------------------------------


async def get_breakers(call: Call) -> Answer:
    return answer({"breakers": [views.timed(b) for b in call.supervisor.desk.breakers(call.peer)]})


async def reset_breaker(call: Call) -> Answer:
    done = await to_the_end(call.supervisor.desk.reset_breaker(call.peer, call.body.key, call.code))
    return answer(views.timed(done))


async def get_queue(call: Call) -> Answer:
    return answer({"queue": [views.timed(e) for e in call.supervisor.desk.queue(call.peer)]})


async def leave_queue(call: Call) -> Answer:
    return answer(views.timed(await call.supervisor.desk.leave_queue(call.peer, call.id)))


async def get_usage(call: Call) -> Answer:
    return answer(call.supervisor.desk.usage(call.peer))
