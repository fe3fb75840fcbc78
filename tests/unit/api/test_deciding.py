"""Questions, grants, reasons and limits over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.api import answers
from supervisor.errors import ApprovalDenied, ApprovalRequired, StepUpRequired
from supervisor.runs.model import RunRequest

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

NDJSON = {"Accept": "application/x-ndjson"}
RUN = {"workspace": "/srv/ws", "argv": ["true"]}
NOBODYS = "apr-" + "z" * 20


def required(ident: str = NOBODYS) -> ApprovalRequired:
    return ApprovalRequired(
        "somebody has to approve `git push` first",
        rule="autonomy.approval_patterns[0]",
        source="policy.toml:3",
        approval=ident,
        expires=601.5,
        reasons=[],
    )


# --- questions -----------------------------------------------------------------------------------------------------


async def test_a_question_is_shown_exactly_as_openapi_says(api: Api) -> None:
    asked = api.double.desk.ask()
    status, seen, _ = await api.ask("GET", f"/v1/approvals/{asked.id}")
    assert status == 200
    answers.QuestionView.model_validate(seen)
    assert (seen["what"]["argv"], seen["reasons"][0]["source"]) == (["git", "push"], "policy.toml:3")
    assert (seen["created"], seen["expires"]) == ("1970-01-01T00:00:01.500Z", "1970-01-01T00:10:01.500Z")


async def test_pending_questions_are_listed_and_others_when_asked_for(api: Api) -> None:
    desk = api.double.desk
    pending, over = desk.ask(), desk.ask(state="denied", ended=2.0)
    for query, expected in (("", [pending]), ("?state=all", [pending, over]), ("?state=denied&limit=1", [over])):
        status, seen, _ = await api.ask("GET", f"/v1/approvals{query}")
        answers.QuestionList.model_validate(seen)
        assert (status, [q["id"] for q in seen["approvals"]]) == (200, [q.id for q in expected])
    assert [a for n, a in desk.asked if n == "questions"] == [("pending", 100), (None, 100), ("denied", 1)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (None, (True, "once", None, None, "")),
        ({}, (True, "once", None, None, "")),
        ({"scope": "times", "times": 3, "note": "ok"}, (True, "times", 3, None, "ok")),
        ({"scope": "until", "duration": "30m"}, (True, "until", None, 1_800_000, "")),
        ({"scope": "session"}, (True, "session", None, None, "")),
        ({"scope": "target", "duration": "1h"}, (True, "target", None, 3_600_000, "")),
    ],
)
async def test_a_yes_says_for_how_much(api: Api, body: Any, said: Any) -> None:
    asked = api.double.desk.ask()
    route = f"/v1/approvals/{asked.id}/approve"
    status, seen, _ = await (api.ask("POST", route) if body is None else api.post(body, route))
    answers.QuestionView.model_validate(seen)
    assert (status, seen["state"], seen["answers"][0]["scope"]) == (200, "approved", said[1])
    assert ("answer", said) in api.double.desk.asked


async def test_a_no_has_a_note_and_no_terms(api: Api) -> None:
    asked = api.double.desk.ask()
    status, seen, _ = await api.post({"note": "not on a Friday"}, f"/v1/approvals/{asked.id}/deny")
    (said,) = seen["answers"]
    assert (status, seen["state"]) == (200, "denied")
    assert (said["approve"], said["note"], "scope" in said) == (False, "not on a Friday", False)


async def test_ones_own_question_is_answered_with_a_403(api: Api) -> None:
    asked = api.double.desk.ask()
    api.double.desk.own.add(asked.id)
    status, problem, _ = await api.post({}, f"/v1/approvals/{asked.id}/approve")
    assert (status, problem["code"], problem["field"]) == (403, "denied", "id")


async def test_a_question_is_withdrawn(api: Api) -> None:
    asked = api.double.desk.ask()
    status, seen, _ = await api.ask("DELETE", f"/v1/approvals/{asked.id}")
    assert (status, seen["state"]) == (200, "cancelled")


async def test_waiting_ends_with_the_answer_or_with_its_time(api: Api) -> None:
    asked = api.double.desk.ask()
    status, seen, _ = await api.ask("GET", f"/v1/approvals/{asked.id}/wait?timeout=1ms")
    assert (status, seen["state"]) == (202, "pending")
    waiting = asyncio.ensure_future(api.ask("GET", f"/v1/approvals/{asked.id}/wait"))
    await api.post({}, f"/v1/approvals/{asked.id}/approve")
    status, seen, _ = await waiting
    assert (status, seen["state"]) == (200, "approved")


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "approve", {"scope": "forever"}, "scope"),
        ("POST", "approve", {"scope": "times"}, "times"),
        ("POST", "approve", {"scope": "times", "times": 0}, "times"),
        ("POST", "approve", {"times": 2}, "times"),
        ("POST", "approve", {"scope": "until"}, "duration"),
        ("POST", "approve", {"scope": "until", "duration": "1d"}, "duration"),
        ("POST", "approve", {"note": "x" * 1025}, "note"),
        ("POST", "approve", {"note": "a\0b"}, "note"),
        ("POST", "approve", {"nte": "x"}, "nte"),
        ("POST", "deny", {"scope": "once"}, "scope"),
    ],
)
async def test_a_bad_answer_is_refused_by_field(api: Api, method: str, path: str, body: Any, field: str) -> None:
    asked = api.double.desk.ask()
    status, problem, _ = await api.post(body, f"/v1/approvals/{asked.id}/{path}")
    assert (status, problem["field"]) == (422, field)
    assert api.double.desk.question(None, asked.id).state == "pending"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "route", "field"),
    [
        ("GET", f"/v1/approvals/{NOBODYS}", "id"),
        ("POST", f"/v1/approvals/{NOBODYS}/approve", "id"),
        ("DELETE", f"/v1/approvals/{NOBODYS}", "id"),
        ("GET", "/v1/approvals/run-aaaaaaaaaaaa", "id"),
        ("DELETE", "/v1/grants/apr-aaaaaaaaaaaa", "id"),
        ("DELETE", "/v1/grants/gra-aaaaaaaaaaaa", "id"),
        ("DELETE", "/v1/queue/ses-aaaaaaaaaaaa", "id"),
        ("GET", "/v1/tools/telnet", "name"),
        ("GET", "/v1/tools/..%2f", "name"),
        ("GET", "/v1/runs/apr-aaaaaaaaaaaa", "id"),
    ],
)
async def test_what_is_not_there_is_a_404(api: Api, method: str, route: str, field: str) -> None:
    status, problem, _ = await api.ask(method, route)
    assert (status, problem["code"], problem["field"]) == (404, "not_found", field)


@pytest.mark.parametrize("query", ["state=open", "limit=0", "nope=1", "state=all&state=all"])
async def test_a_bad_query_of_questions_is_refused(api: Api, query: str) -> None:
    status, problem, _ = await api.ask("GET", f"/v1/approvals?{query}")
    assert (status, problem["field"]) == (422, query.partition("=")[0])


# --- grants, access, codes -----------------------------------------------------------------------------------------


async def test_grants_are_listed_and_taken_back(api: Api) -> None:
    given = api.double.desk.give()
    _, seen, _ = await api.ask("GET", "/v1/grants")
    answers.GrantList.model_validate(seen)
    assert (seen["grants"][0]["id"], seen["grants"][0]["left"]) == (given.id, 1)
    status, seen, _ = await api.ask("DELETE", f"/v1/grants/{given.id}")
    answers.GrantView.model_validate(seen)
    assert (status, seen["ended"], seen["ended_at"]) == (200, "revoked", "1970-01-01T00:00:04.000Z")


async def test_access_is_asked_for_with_role_time_and_reason(api: Api) -> None:
    body = {"role": "administrator", "duration": "1h", "reason": "the disk is full"}
    status, seen, headers = await api.post(body, "/v1/access")
    answers.QuestionView.model_validate(seen)
    assert (status, seen["kind"], headers["Location"]) == (202, "access", f"/v1/approvals/{seen['id']}")
    assert headers["Content-Type"].startswith("application/json")
    assert ("request_access", ("administrator", 3_600_000, "the disk is full")) in api.double.desk.asked


@pytest.mark.parametrize("field", ["role", "duration", "reason"])
async def test_access_needs_all_three(api: Api, field: str) -> None:
    body = {"role": "administrator", "duration": "1h", "reason": "x"}
    del body[field]
    status, problem, _ = await api.post(body, "/v1/access")
    assert (status, problem["field"]) == (422, field)


@pytest.mark.parametrize("code", ["12345", "123456789", "12345a", "١٢٣٤٥٦", "", "123456 7"])
async def test_what_is_no_code_is_refused_and_not_repeated(api: Api, code: str) -> None:
    status, problem, _ = await api.ask("POST", "/v1/stop", headers={"X-Stockade-Code": code})
    assert (status, problem["field"]) == (422, "X-Stockade-Code")
    assert not code or code not in json.dumps(problem)
    assert not api.double.desk.asked


async def test_a_code_goes_to_every_privileged_order(api: Api) -> None:
    desk = api.double.desk
    desk.code = "123456"
    asked, given = desk.ask(), desk.give()
    orders = [
        ("POST", f"/v1/approvals/{asked.id}/approve", {}),
        ("DELETE", f"/v1/grants/{given.id}", None),
        ("POST", "/v1/breakers/reset", {"key": "uid:1000"}),
        ("POST", "/v1/mfa", None),
    ]
    for method, route, body in orders:
        status, problem, _ = await api.ask(method, route, json=body)
        assert (status, problem["code"]) == (403, "step_up_required"), route
        status, _, _ = await api.ask(method, route, json=body, headers={"X-Stockade-Code": "123456"})
        assert status in (200, 201), route
    for order in ("stop", "resume"):
        await api.ask("POST", f"/v1/{order}", headers={"X-Stockade-Code": "12345678"})
        assert (order, "12345678") in desk.asked


async def test_a_code_goes_with_a_run_and_its_idempotency_key_stays_good(api: Api) -> None:
    """A refusal is not kept, and the code is no part of what the key stands for."""
    api.double.refuse = StepUpRequired("a one-time code is needed")
    assert (await api.post(RUN, **{"Idempotency-Key": "k"}))[0] == 403
    status, _, _ = await api.post(RUN, **{"Idempotency-Key": "k", "X-Stockade-Code": "654321"})
    assert (status, [r.code for r in api.double.requests]) == (200, [None, "654321"])


async def test_a_key_for_codes_is_made(api: Api) -> None:
    status, seen, _ = await api.ask("POST", "/v1/mfa")
    answers.KeyView.model_validate(seen)
    assert (status, seen["uri"][:10]) == (201, "otpauth://")


# --- why, and what holds an agent up -------------------------------------------------------------------------------


async def test_a_decision_is_explained_and_nothing_runs(api: Api) -> None:
    status, seen, _ = await api.post(RUN | {"tool": "browser", "labels": {"agent": "a"}}, "/v1/policy/explain")
    answers.Explanation.model_validate(seen)
    assert (status, seen["verdict"], api.double.starts) == (200, "ask", 0)
    (request,) = [what for name, what in api.double.desk.asked if name == "explain"]
    assert isinstance(request, RunRequest)
    assert (request.tool, request.argv, request.labels) == ("browser", ("true",), {"agent": "a"})
    status, problem, _ = await api.post(RUN | {"scirpt": "x"}, "/v1/policy/explain")
    assert (status, problem["field"]) == (422, "scirpt")


async def test_unused_rules_of_so_many_days(api: Api) -> None:
    for query, days in (("", 90), ("?days=7", 7)):
        status, seen, _ = await api.ask("GET", f"/v1/policy/unused{query}")
        answers.UnusedList.model_validate(seen)
        assert (status, seen["days"], seen["rules"][0]["rule"]) == (200, days, "rules[0]")
    for bad in ("0", "-1", "3661", "x", "1.5"):
        status, problem, _ = await api.ask("GET", f"/v1/policy/unused?days={bad}")
        assert (status, problem["field"]) == (422, "days")


async def test_tools_are_listed_and_checked(api: Api) -> None:
    _, seen, _ = await api.ask("GET", "/v1/tools")
    answers.ToolList.model_validate(seen)
    _, one, _ = await api.ask("GET", "/v1/tools/shell")
    answers.ToolView.model_validate(one)
    assert seen == {"tools": [one]}


async def test_a_breaker_is_reset_by_its_key(api: Api) -> None:
    _, seen, _ = await api.ask("GET", "/v1/breakers")
    answers.BreakerList.model_validate(seen)
    assert (seen["breakers"][0]["since"], seen["breakers"][0]["until"]) == ("1970-01-01T00:00:01.500Z", None)
    key = seen["breakers"][0]["key"]
    status, seen, _ = await api.post({"key": key}, "/v1/breakers/reset")
    assert (status, seen["state"]) == (200, "closed")
    for bad in ({}, {"key": ""}, {"key": "a\nb"}, {"key": "x" * 601}, {"key": 1}):
        status, problem, _ = await api.post(bad, "/v1/breakers/reset")
        assert (status, problem["field"]) == (422, "key")


async def test_the_queue_is_seen_and_left(api: Api) -> None:
    _, seen, _ = await api.ask("GET", "/v1/queue")
    answers.QueueList.model_validate(seen)
    ident = seen["queue"][0]["id"]
    status, _, _ = await api.ask("DELETE", f"/v1/queue/{ident}")
    assert (status, ("leave_queue", ident) in api.double.desk.asked) == (200, True)


async def test_usage_says_what_is_left(api: Api) -> None:
    status, seen, _ = await api.ask("GET", "/v1/usage")
    assert (status, set(seen)) == (200, {"rates", "budgets"})


# --- runs that wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, NDJSON])
async def test_a_run_that_has_to_be_approved_is_a_problem_with_status_202(api: Api, headers: dict[str, str]) -> None:
    api.double.refuse = required()
    status, problem, found = await api.post(RUN, **headers)
    assert (status, found["Content-Type"]) == (202, "application/problem+json")
    assert found["Location"] == f"/v1/approvals/{NOBODYS}"
    assert (problem["code"], problem["retry"], problem["approval"]) == ("approval_required", "after_approval", NOBODYS)
    assert problem["expires"] == "1970-01-01T00:10:01.500Z"
    answers.Problem.model_validate(problem)


async def test_an_order_that_has_to_be_approved_is_one_too(api: Api) -> None:
    api.double.refuse = required()
    status, problem, found = await api.ask("POST", "/v1/policy/reload")
    assert (status, problem["code"], found["Location"]) == (202, "approval_required", f"/v1/approvals/{NOBODYS}")


async def test_a_run_says_how_long_it_waits(api: Api) -> None:
    await api.post(RUN | {"wait_approval": "10m"})
    await api.post(RUN)
    assert [r.wait_approval_ms for r in api.double.requests] == [600_000, 0]


async def frames_of(api: Api) -> list[dict[str, Any]]:
    async with api.http.post("http://stockade/v1/runs", json=RUN, headers=NDJSON) as answered:
        assert (answered.status, answered.content_type) == (200, "application/x-ndjson")
        return [json.loads(line) async for line in answered.content]


async def test_what_a_run_waits_for_comes_before_its_start(api: Api) -> None:
    waits = {"type": "approval", "approval": {"id": NOBODYS, "state": "pending", "expires": 601.5}}
    api.double.notices = [waits, {"type": "queued", "position": 2}]
    found = await frames_of(api)
    assert [f["type"] for f in found] == ["approval", "queued", "started", "finished"]
    assert found[0]["approval"] == {"id": NOBODYS, "state": "pending", "expires": "1970-01-01T00:10:01.500Z"}
    assert found[1]["position"] == 2


async def test_frames_are_sent_while_it_waits(api: Api) -> None:
    api.double.notices = [{"type": "queued", "position": 1}]
    api.double.hold.clear()
    async with api.http.post("http://stockade/v1/runs", json=RUN, headers=NDJSON) as answered:
        first = json.loads(await answered.content.readline())
        assert first == {"type": "queued", "position": 1}
        assert api.double.starts == 0
        api.double.hold.set()
        rest = [json.loads(line)["type"] async for line in answered.content]
    assert rest == ["started", "finished"]


async def test_silence_while_it_waits_is_filled_with_heartbeats(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supervisor.api.stream.HEARTBEAT_SECONDS", 0.01)
    api.double.notices = [{"type": "queued", "position": 1}]
    api.double.hold.clear()
    async with api.http.post("http://stockade/v1/runs", json=RUN, headers=NDJSON) as answered:
        await answered.content.readline()
        assert json.loads(await answered.content.readline()) == {"type": "heartbeat"}
        api.double.hold.set()
        assert json.loads((await answered.content.read()).splitlines()[-1])["type"] == "finished"


async def test_a_refusal_after_the_first_frame_is_the_last_one(api: Api) -> None:
    api.double.notices = [{"type": "approval", "approval": {"id": NOBODYS}}]
    api.double.refuse = ApprovalDenied("denied by uid 0: not on a Friday")
    found = await frames_of(api)
    assert [f["type"] for f in found] == ["approval", "error"]
    assert (found[1]["problem"]["code"], found[1]["problem"]["status"]) == ("approval_denied", 403)


@pytest.mark.parametrize("accept", [b"", b"Accept: application/x-ndjson\r\n"])
async def test_a_client_that_leaves_while_it_waits_gives_its_request_up(api: Api, accept: bytes) -> None:
    api.double.notices = [{"type": "queued", "position": 1}]
    api.double.hold.clear()
    body = json.dumps(RUN).encode()
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
    _, writer = await asyncio.open_unix_connection(api.path)
    writer.write(head % (len(body), accept) + body)
    while not api.double.requests:
        await api.ask("GET", "/health")
    writer.close()
    await writer.wait_closed()
    await api.double.given_up.wait()
    assert api.double.starts == 0
