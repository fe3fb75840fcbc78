"""From a request that has to be approved to its run, through the real service: HTTP, decision, book and launcher."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest_asyncio

from supervisor.api import answers
from supervisor.policy.snapshot import Autonomy
from tests.unit.api.served import OTHER, Served, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ASKS = Autonomy(approval_patterns=("echo secret",), source="policy.toml:3")
NDJSON = {"Accept": "application/x-ndjson"}


@pytest_asyncio.fixture
async def at(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as found:
        await found.role("agent:*", "access:request", "approvals:answer", "config:*", autonomy=ASKS)
        yield found


def body(at: Served, **more: Any) -> dict[str, Any]:
    return {"workspace": at.world.workspace, "argv": ["echo", "secret", "word"], **more}


async def say(at: Served, ident: str, *, approve: bool, **terms: Any) -> None:
    whole: dict[str, Any] = {"scope": "once", "times": None, "duration_ms": None, "note": "", "code": None} | terms
    await at.world.supervisor.desk.answer(OTHER, ident, approve=approve, **whole)


async def test_a_run_is_asked_about_approved_and_carried_out_once(at: Served) -> None:
    status, problem = await at.ask("POST", "/v1/runs", body(at))
    answers.Problem.model_validate(problem)
    assert (status, problem["code"]) == (202, "approval_required")
    ident = problem["approval"]
    _, again = await at.ask("POST", "/v1/runs", body(at))
    assert again["approval"] == ident  # who sends it twice asks once
    _, question = await at.ask("GET", f"/v1/approvals/{ident}")
    answers.QuestionView.model_validate(question)
    assert question["what"]["argv"] == ["echo", "secret", "word"]
    (reason,) = question["reasons"]
    assert (reason["source"], reason["start"], reason["end"]) == ("policy.toml:3", 0, len("echo secret word"))
    await say(at, ident, approve=True)
    status, run = await at.ask("POST", "/v1/runs", body(at))
    assert (status, run["stdout"]) == (200, "secret word\n")
    _, grants = await at.ask("GET", "/v1/grants")
    answers.GrantList.model_validate(grants)
    status, problem = await at.ask("POST", "/v1/runs", body(at))
    assert (status, problem["approval"] != ident) == (202, True)


async def test_what_is_changed_does_not_run_on_that_yes(at: Served) -> None:
    _, problem = await at.ask("POST", "/v1/runs", body(at))
    await say(at, problem["approval"], approve=True, scope="target")
    for change in ({"argv": ["echo", "secret", "words"]}, {"env": {"A": "b"}}, {"stdin": "x"}, {"cwd": "/"}):
        status, other = await at.ask("POST", "/v1/runs", body(at, **change))
        assert status == 202, (change, other)
    assert (await at.ask("POST", "/v1/runs", body(at)))[0] == 200


async def test_nobody_answers_their_own_question(at: Served) -> None:
    _, problem = await at.ask("POST", "/v1/runs", body(at))
    for verdict in ("approve", "deny"):
        status, refusal = await at.ask("POST", f"/v1/approvals/{problem['approval']}/{verdict}", {})
        assert (status, refusal["code"]) == (403, "denied")
    status, question = await at.ask("DELETE", f"/v1/approvals/{problem['approval']}")
    assert (status, question["state"]) == (200, "cancelled")


async def test_a_no_is_told_with_its_note(at: Served) -> None:
    _, problem = await at.ask("POST", "/v1/runs", body(at))
    await say(at, problem["approval"], approve=False, note="use a branch")
    status, refusal = await at.ask("POST", "/v1/runs", body(at))
    assert (status, refusal["code"], refusal["retry"]) == (403, "approval_denied", "never")
    assert "use a branch" in refusal["detail"]


async def test_a_stream_tells_what_it_waits_for_and_goes_on_with_the_yes(at: Served) -> None:
    whole = body(at, wait_approval="10m")
    async with at.http.post("http://stockade/v1/runs", json=whole, headers=NDJSON) as answered:
        first = json.loads(await answered.content.readline())
        assert first["type"] == "approval"
        assert first["approval"]["expires"].endswith("Z")
        await say(at, first["approval"]["id"], approve=True)
        rest = [json.loads(line) async for line in answered.content]
    assert [f["type"] for f in rest] == ["started", "stdout", "finished"]
    assert rest[1]["data"] == "secret word\n"


async def test_a_client_that_does_not_stream_waits_too(at: Served) -> None:
    told = at.world.supervisor.events.subscribe(None)
    waiting = asyncio.ensure_future(at.ask("POST", "/v1/runs", body(at, wait_approval="10m")))
    ident = ""
    async for event in told:
        if event.kind == "approval.requested":
            ident = event.data["approval"]
            told.close()
    await say(at, ident, approve=True)
    status, run = await waiting
    assert (status, run["stdout"]) == (200, "secret word\n")


async def test_waiting_is_over_at_its_time(at: Served) -> None:
    status, problem = await at.ask("POST", "/v1/runs", body(at, wait_approval="1ms"))
    assert (status, problem["code"]) == (202, "approval_required")


async def test_a_dry_run_and_explain_ask_nobody(at: Served) -> None:
    status, plan = await at.ask("POST", "/v1/runs", body(at, dry_run=True))
    answers.DryRun.model_validate(plan)
    assert (status, plan["decision"]["verdict"]) == (200, "ask")
    status, why = await at.ask("POST", "/v1/policy/explain", body(at))
    answers.Explanation.model_validate(why)
    assert (status, why["verdict"]) == (200, "ask")
    assert "policy.toml:3" in why["change"]
    assert (await at.ask("GET", "/v1/approvals?state=all"))[1] == {"approvals": []}


async def test_what_is_not_served_is_refused_and_recorded(at: Served) -> None:
    status, problem = await at.ask("POST", "/v1/runs", body(at, tool="browser"))
    assert (status, problem["code"], problem["field"]) == (403, "denied", "tool")
    await at.world.supervisor.reload(None)  # is recorded, and with it everything before it
    assert any("browser" in str(r.get("reason")) for r in at.world.auditor.of("decision"))


async def test_the_lists_are_what_openapi_says(at: Served) -> None:
    for route, model in (
        ("/v1/tools", answers.ToolList),
        ("/v1/tools/shell", answers.ToolView),
        ("/v1/breakers", answers.BreakerList),
        ("/v1/queue", answers.QueueList),
        ("/v1/usage", answers.Open),
        ("/v1/policy/unused?days=1", answers.UnusedList),
    ):
        status, seen = await at.ask("GET", route)
        assert status == 200, (route, seen)
        model.model_validate(seen)
