"""Each route against the real service: who lacks its permission is refused by name, who has just that is not."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.api import answers
from supervisor.api.routes import ANYONE, ROUTES, Route
from supervisor.policy.words import PERMISSIONS
from tests.unit.api.served import OTHER, Served, served
from tests.unit.decide.samples import peer

if TYPE_CHECKING:
    from pathlib import Path

OURS = peer(os.getuid())
GUARDED = [r for r in ROUTES if r.permission != ANYONE]
NOTHING = "-" + "a" * 20  # what no id ends with


async def things(at: Served) -> dict[str, str]:
    """One of everything that a path can name, made by a role that may do everything."""
    await at.role("*", may_request=("wanted",))
    workspace = at.world.workspace
    _, session = await at.ask("POST", "/v1/sessions", {"workspace": workspace})
    _, run = await at.ask("POST", "/v1/runs", {"workspace": workspace, "script": "sleep 1000", "background": True})
    body = {"role": "wanted", "duration": "1m", "reason": "a test"}
    _, question = await at.ask("POST", "/v1/access", body)
    return {"runs": run["id"], "sessions": session["id"], "approvals": question["id"], "tools": "shell"}


def body_of(route: Route, workspace: str) -> Any:
    """The least that is well formed."""
    run = {"workspace": workspace, "argv": ["true"]}
    return {
        "RunBody": run,
        "ShellBody": {"argv": ["true"]},
        "SessionBody": {"workspace": workspace},
        "SignalBody": {"signal": "CONT"},
        "AccessBody": {"role": "wanted", "duration": "1m", "reason": "a test"},
        "BreakerBody": {"key": "uid:1/a"},
        "ForgetBody": {"uid": 4711},
    }.get(route.body.__name__ if route.body is not None else "")


def path_of(route: Route, found: dict[str, str]) -> str:
    if route.place is None:
        return route.path
    kind = route.path.split("/")[2]
    name = found.get(kind) or route.place.pattern[1:4] + NOTHING
    query = "?timeout=1ms" if route.path.endswith("/wait") else ""
    return route.path.replace(f"{{{route.place.name}}}", name) + query


@pytest.mark.parametrize("route", GUARDED, ids=lambda r: f"{r.method} {r.path}")
async def test_who_lacks_the_permission_is_refused_by_its_name(tmp_path: Path, route: Route) -> None:
    async with served(tmp_path) as at:
        found = await things(at)
        await at.role(*(p for p in PERMISSIONS if p != route.permission), may_request=("wanted",))
        status, problem = await at.ask(route.method, path_of(route, found), body_of(route, at.world.workspace))
        assert (status, problem["code"], problem["field"]) == (403, "denied", "role")
        assert problem["permission"] == route.permission
        answers.Problem.model_validate(problem)


@pytest.mark.parametrize("route", GUARDED, ids=lambda r: f"{r.method} {r.path}")
async def test_who_has_just_that_permission_is_let_in(tmp_path: Path, route: Route) -> None:
    """One who acts on a thing has to see it, so agent:read goes with everything."""
    async with served(tmp_path) as at:
        found = await things(at)
        await at.role("agent:read", route.permission, may_request=("wanted",))
        status, said = await at.ask(route.method, path_of(route, found), body_of(route, at.world.workspace))
        assert status != 422
        refused = isinstance(said, dict) and said.get("code") == "denied" and said.get("field") == "role"
        assert not refused, said


async def test_what_is_anothers_is_not_even_there(tmp_path: Path) -> None:
    """Neither a question nor a grant of somebody else can be told from one that never was."""
    async with served(tmp_path) as at:
        await at.role("agent:read", "grants:revoke", "approvals:answer")
        book = at.world.supervisor.book
        asker = {"uid": OTHER.uid, "pid": 1, "unit": ""}
        asked = await book.ask("operation", asker, "0" * 64, {"permission": "x"}, [], session=None, labels={}, needed=1)
        assert (await at.ask("GET", f"/v1/approvals/{asked.id}"))[0] == 404
        assert (await at.ask("GET", "/v1/approvals?state=all"))[1] == {"approvals": []}
        await at.role("agent:read", "approvals:read")
        _, seen = await at.ask("GET", "/v1/approvals?state=all")
        assert [q["id"] for q in seen["approvals"]] == [asked.id]
        answers.QuestionList.model_validate(seen)


async def test_who_may_no_longer_see_anothers_run_reads_no_more_of_it(tmp_path: Path) -> None:
    async with served(tmp_path) as at:
        await at.role("agent:read", "agent:read_all", "agent:execute", "agent:execute_all", profiles=("shell",))
        service, workspace = at.world.supervisor, at.world.workspace
        _, session = await at.ask("POST", "/v1/sessions", {"workspace": workspace})
        run = await service.start(OURS, at.world.request("cat", session=session["id"], stdin_stream=True), "req-1")
        run.peer = OTHER  # as if it had been started by somebody else
        async with at.http.get(f"http://stockade/v1/runs/{run.id}/output?follow") as followed:
            assert json.loads(await followed.content.readline())["type"] == "started"
            await service.feed(OURS, run.id, b"before", False)
            assert json.loads(await followed.content.readline())["data"] == "before"
            running = service.running[run.id]
            await at.role("agent:read", "agent:execute", profiles=("shell",))
            assert running.stdin is not None
            await running.stdin.feed(b"after", eof=True)
            last = json.loads(await followed.content.readline())
            assert (last["type"], last["problem"]["code"]) == ("error", "not_found")
            assert await followed.content.read() == b""


async def test_who_may_read_questions_hears_of_new_ones(tmp_path: Path) -> None:
    async with served(tmp_path) as at:
        await at.role("agent:read", "approvals:read")
        async with at.http.get("http://stockade/v1/events") as told:
            await told.content.readuntil(b"\n\n")
            asker = {"uid": OTHER.uid, "pid": 1, "unit": ""}
            book = at.world.supervisor.book
            await book.ask("operation", asker, "0" * 64, {"permission": "x"}, [], session=None, labels={}, needed=1)
            event = (await told.content.readuntil(b"\n\n")).decode()
        assert "event: approval.requested\n" in event
        assert json.loads(event.partition("data: ")[2])["expires"].endswith("Z")
