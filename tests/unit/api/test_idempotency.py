from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from supervisor.api.call import Answer
from supervisor.api.idempotency import Keys, digest
from supervisor.errors import Denied, IdempotencyMismatch, InvalidRequest, LimitReached

if TYPE_CHECKING:
    from tests.unit.api.conftest import Api

KEY = {"Idempotency-Key": "7f9c"}
BODY = {"workspace": "/srv/ws", "script": "echo $$"}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """Something that is done; ends when `go` is set, with `answer`."""

    def __init__(self, answer: Answer | Exception = Answer(b"x")) -> None:  # noqa: B008 - frozen
        self.go = asyncio.Event()
        self.times = 0
        self.cancelled = asyncio.Event()
        self._answer = answer

    async def __call__(self) -> Answer:
        self.times += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def done(data: bytes = b"x", status: int = 200) -> Answer:
    return Answer(data, status)


async def test_the_same_request_twice_is_carried_out_once(api: Api) -> None:
    first = await api.post(BODY, **KEY)
    second = await api.post(BODY, **KEY)
    assert first[0] == 200
    assert second[:2] == first[:2]
    assert api.double.starts == 1
    assert (await api.post(BODY, **KEY | {"Idempotency-Key": "other"}))[1]["id"] != first[1]["id"]


async def test_another_request_with_the_same_key_is_a_conflict(api: Api) -> None:
    await api.post(BODY, **KEY)
    status, problem, _ = await api.post(BODY | {"script": "true"}, **KEY)
    assert (status, problem["code"]) == (409, "idempotency_mismatch")
    assert (await api.post({"workspace": "/srv/ws"}, "/v1/sessions", **KEY))[0] == 409


async def test_a_refused_request_may_be_sent_again(api: Api) -> None:
    api.double.refuse = Denied("not now")
    assert (await api.post(BODY, **KEY))[0] == 403
    assert (await api.post(BODY, **KEY))[0] == 200


async def test_a_client_that_comes_back_gets_the_answer_of_the_run_it_left(api: Api) -> None:
    """The run ended with its client; the command is not carried out a second time."""
    body = json.dumps(BODY | {"script": "echo hi; exec sleep 1000"}).encode()
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nIdempotency-Key: 7f9c\r\n"
    _, writer = await asyncio.open_unix_connection(api.path)
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    run = await api.double.started.get()
    writer.close()
    await writer.wait_closed()
    status, again, _ = await api.post(body, **KEY)
    assert (status, again["id"], again["cause"]) == (200, run.id, "cancelled")
    assert api.double.starts == 1


async def test_a_stream_is_started_once_and_replayed_from_the_spool(api: Api) -> None:
    headers = KEY | {"Accept": "application/x-ndjson"}
    seen = []
    for _ in range(2):
        async with api.http.post("http://stockade/v1/runs", json=BODY, headers=headers) as answered:
            seen.append([json.loads(line) async for line in answered.content])
    assert api.double.starts == 1
    assert [f["type"] for f in seen[1]] == ["started", "stdout", "finished"]
    assert seen[1][1] == next(f for f in seen[0] if f["type"] == "stdout")


async def test_an_unusable_key_is_refused(api: Api) -> None:
    status, problem, _ = await api.post(BODY, **{"Idempotency-Key": "a b"})
    assert (status, problem["field"]) == (422, "Idempotency-Key")
    with pytest.raises(InvalidRequest):
        await Keys().once(0, "x" * 129, b"", done)


async def test_one_in_flight_is_waited_for() -> None:
    keys, work = Keys(), Work()
    both = [asyncio.create_task(keys.once(0, "k", b"d", work)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(IdempotencyMismatch):
        await keys.once(0, "k", b"other", done)
    work.go.set()
    assert [a.body for a in await asyncio.gather(*both)] == [b"x", b"x"]
    assert work.times == 1


async def test_work_is_given_up_with_the_last_who_waits_for_it() -> None:
    keys, work = Keys(), Work()
    first, second = (asyncio.create_task(keys.once(0, "k", b"d", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait({first})
    assert not work.cancelled.is_set()
    second.cancel()
    await work.cancelled.wait()
    await asyncio.wait({second})
    assert (await keys.once(0, "k", b"d", done)).body == b"x"


async def test_a_key_belongs_to_the_uid_that_sent_it() -> None:
    keys = Keys()
    assert (await keys.once(1, "k", b"d", lambda: done(b"one"))).body == b"one"
    assert (await keys.once(2, "k", b"e", lambda: done(b"two"))).body == b"two"


async def test_a_key_is_forgotten_after_its_time() -> None:
    clock = Clock()
    keys = Keys(ttl=10, clock=clock)
    await keys.once(0, "k", b"d", done)
    clock.now = 10
    assert (await keys.once(0, "k", b"other", lambda: done(b"new"))).body == b"new"
    assert len(keys) == 1


async def test_a_long_request_in_flight_does_not_keep_others_from_expiring() -> None:
    clock, work = Clock(), Work()
    keys = Keys(ttl=10, clock=clock)
    long = asyncio.create_task(keys.once(0, "long", b"d", work))
    await asyncio.sleep(0)
    await keys.once(0, "k", b"d", done)
    clock.now = 11
    assert (await keys.once(0, "k", b"other", lambda: done(b"new"))).body == b"new"
    work.go.set()
    await long


async def test_the_oldest_goes_when_there_are_too_many_and_never_one_in_flight() -> None:
    keys, work = Keys(keys=2), Work()
    flying = asyncio.create_task(keys.once(0, "flying", b"d", work))
    await asyncio.sleep(0)
    await keys.once(0, "a", b"d", done)
    await keys.once(0, "b", b"d", done)
    assert len(keys) == 2
    assert (await keys.once(0, "a", b"other", lambda: done(b"new"))).body == b"new"
    other = asyncio.create_task(keys.once(0, "other", b"d", work))
    await asyncio.sleep(0)
    with pytest.raises(LimitReached):
        await keys.once(0, "c", b"d", done)
    work.go.set()
    await asyncio.gather(flying, other)


async def test_kept_answers_are_bounded_in_bytes() -> None:
    keys = Keys(size=100)
    for name in "abc":
        await keys.once(0, name, b"d", lambda: done(b"x" * 40))
    assert (await keys.once(0, "c", b"d", lambda: done(b"new"))).body == b"x" * 40
    assert (await keys.once(0, "a", b"other", lambda: done(b"new"))).body == b"new"


async def test_an_error_is_not_kept() -> None:
    keys, work = Keys(), Work(Denied("no"))
    work.go.set()
    with pytest.raises(Denied):
        await keys.once(0, "k", b"d", work)
    assert len(keys) == 0


def test_the_parts_of_a_request_cannot_run_into_each_other() -> None:
    assert digest("POST", "/a", "b", b"") != digest("POST", "/ab", "", b"")
