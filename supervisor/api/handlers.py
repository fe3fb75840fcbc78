"""One function for each route: a Call in, an Answer out. What is allowed and how it is done is decided in runs/."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import web

from supervisor.api import openapi, stream, views
from supervisor.api.call import Answer, answer
from supervisor.api.ending import to_the_end
from supervisor.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from supervisor.api.call import Call
    from supervisor.api.stream import Notice
    from supervisor.runs.model import Run, RunRequest

Response = Answer | web.StreamResponse


# --- runs -----------------------------------------------------------------------------------------------------


async def post_run(call: Call) -> Response:
    return await _start(call, call.body.request())


async def post_shell(call: Call) -> Response:
    return await _start(call, call.body.request(call.id))


async def _start(call: Call, request: RunRequest) -> Response:
    request = replace(request, code=call.code)
    if request.dry_run:
        return answer(await call.supervisor.dry_run(call.peer, request))
    if request.stdin_stream and not (request.background or call.streams):
        raise InvalidRequest(
            "stdin_stream: nobody would learn the run's id before it has ended",
            field="stdin_stream",
            hint='set "background", or ask for frames with "Accept: application/x-ndjson"',
        )
    if call.streams:
        return await stream.begun(call, lambda notice: begin(call, request, notice), owner=not request.background)
    run = await begin(call, request, None)
    if request.background:
        await call.supervisor.recorded(run)  # naming a run acknowledges it, and what is acknowledged survives kill -9
        return answer(views.run(run), 202, Location=f"/v1/runs/{run.id}")
    try:
        await call.supervisor.wait(run)
    except asyncio.CancelledError:
        # The client is gone. With an idempotency key it may come back for this answer, so it is made all the same.
        call.supervisor.abandon(run)
        await call.supervisor.wait(run)
    return answer(views.run(run))


async def begin(call: Call, request: RunRequest, notice: Notice | None) -> Run:
    """Start a run, or with an idempotency key find the one that was started with it.

    `notice` is called with what happens before the start: a question that is asked, a place in the queue.
    """
    if call.once is None:
        return await call.supervisor.start(call.peer, request, call.request_id, notice)

    async def make() -> Answer:
        return answer((await call.supervisor.start(call.peer, request, call.request_id, notice)).id)

    started = await call.once(make)
    return call.supervisor.run(call.peer, json.loads(started.body))


async def get_runs(call: Call) -> Response:
    query = call.query
    found = call.supervisor.runs(call.peer, session=query.session, state=query.state, limit=query.limit)
    return answer({"runs": [views.run(r, output=False) for r in found]})


async def get_run(call: Call) -> Response:
    return answer(views.run(call.supervisor.run(call.peer, call.id)))


async def wait_run(call: Call) -> Response:
    run = call.supervisor.run(call.peer, call.id)
    seconds = None if call.query.timeout is None else call.query.timeout / 1000
    try:
        async with asyncio.timeout(seconds):
            await run.done.wait()
    except TimeoutError:
        return answer(views.run(run), 202)
    return answer(views.run(run))


async def get_output(call: Call) -> Response:
    run = call.supervisor.run(call.peer, call.id)
    query = call.query
    if query.follow:
        offsets = {"stdout": query.stdout_offset, "stderr": query.stderr_offset}
        return await stream.frames(call, run, offsets, owner=False)
    try:
        data = run.output.read(query.stream, query.offset, query.length)
    except FileNotFoundError as e:
        raise NotFound(f"the output of {run.id} is not kept any more", field="id") from e
    headers = {
        "X-Output-Offset": str(query.offset),
        "X-Output-Next": str(query.offset + len(data)),
        "X-Output-Total": str(run.output.size(query.stream)[1]),
        "X-Run-State": run.state,
    }
    return Answer(data, content_type="application/octet-stream", headers=headers)


async def post_stdin(call: Call) -> Response:
    run = call.supervisor.run(call.peer, call.id)
    sent = await stream.stdin(call, run, eof=call.query.eof)
    return answer({"bytes": sent, "eof": call.query.eof})


async def signal_run(call: Call) -> Response:
    call.supervisor.signal(call.peer, call.id, call.body.signal, call.body.tree)
    return answer({"id": call.id, "signal": call.body.signal, "tree": call.body.tree}, 202)


async def cancel_run(call: Call) -> Response:
    run = call.supervisor.run(call.peer, call.id)
    await call.supervisor.end(call.peer, call.id, cause="cancelled")
    await run.done.wait()
    return answer(views.run(run))


# --- sessions -------------------------------------------------------------------------------------------------


async def post_session(call: Call) -> Response:
    session = await call.supervisor.open_session(call.peer, call.body.request(), call.request_id)
    return answer(views.session(session), 201, Location=f"/v1/sessions/{session.id}")


async def get_sessions(call: Call) -> Response:
    return answer({"sessions": [views.session(s) for s in call.supervisor.sessions(call.peer)]})


async def get_session(call: Call) -> Response:
    return answer(views.session(call.supervisor.session(call.peer, call.id)))


async def close_session(call: Call) -> Response:
    session = call.supervisor.session(call.peer, call.id)
    await call.supervisor.close_session(call.peer, call.id)
    return answer(views.session(session))


# --- the service ----------------------------------------------------------------------------------------------


async def get_status(call: Call) -> Response:
    return answer(call.supervisor.status(call.peer))


async def get_doctor(call: Call) -> Response:
    return answer(call.supervisor.doctor())


async def get_policy(call: Call) -> Response:
    return answer(call.supervisor.policy(call.peer))


async def reload_policy(call: Call) -> Response:
    return answer(await to_the_end(call.supervisor.reload(call.peer, call.code)))


async def stop(call: Call) -> Response:
    return answer(await to_the_end(call.supervisor.stop(call.peer, call.body.reason, call.code)))


async def resume(call: Call) -> Response:
    return answer(await to_the_end(call.supervisor.resume(call.peer, call.code)))


async def get_events(call: Call) -> Response:
    return await stream.events(call)


async def get_self(call: Call) -> Response:
    return answer(call.supervisor.self_view(call.peer))


async def get_health(_call: Call) -> Response:
    return answer({"status": "ok"})


async def get_openapi(_call: Call) -> Response:
    return Answer(openapi.document())
