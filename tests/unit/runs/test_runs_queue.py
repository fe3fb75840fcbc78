"""The queue: agents take turns, places are never lost and never given twice, and positions are true."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import Conflict, LimitReached, NotFound
from supervisor.policy.snapshot import Concurrency
from supervisor.runs.queue import SHOWN_ARGS, Entry, Queue

POLICY = Concurrency(runs_per_agent=0, queue=1000, queue_per_agent=100, queue_time_ms=60_000, source="policy.toml:4")


class Place:
    """A service with so many places, of which each agent may have so many. Everything that happens is noted."""

    def __init__(self, places: int, each: int = 1000, policy: Concurrency = POLICY) -> None:
        self.places, self.each, self.policy = places, each, policy
        self.queue = Queue(lambda promised: sum(self.running.values()) + promised < self.places)
        self.running: Counter[str] = Counter()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}  # of runs that go on, in the order of their begin
        self.begun: list[str] = []
        self.failed: dict[str, BaseException] = {}

    def ask(self, name: str, **more: Any) -> None:
        """`name` is AGENT and a number."""
        self.tasks[name] = asyncio.create_task(self._run(name, name[0], **more))

    async def _run(self, name: str, agent: str, **more: Any) -> None:
        def free(promised: int) -> bool:
            return self.running[agent] + promised < self.each

        try:
            await self.queue.turn(Entry(name, agent, 1000, ("sleep", name), **more), free, self.policy)
        except (LimitReached, Conflict) as e:
            self.failed[name] = e
            return
        self.running[agent] += 1
        assert sum(self.running.values()) <= self.places, "a place was given twice"
        assert self.running[agent] <= self.each
        self.begun.append(name)
        self.ends[name] = asyncio.Event()
        try:
            await self.ends[name].wait()
        finally:
            del self.ends[name]
            self.running[agent] -= 1
            self.queue.freed(agent)

    async def settle(self) -> None:
        for _ in range(8):  # turns of the loop: a place that is handed out, taken, and the look afterwards
            await asyncio.sleep(0)

    async def end(self, name: str | None = None) -> None:
        self.ends[name or next(iter(self.ends))].set()
        await self.settle()

    def waiting(self) -> list[str]:
        return [entry["id"] for entry in self.queue.entries()]

    def blocked(self) -> bool:
        """Whether nobody who waits could run: else a place was lost."""
        if sum(self.running.values()) >= self.places:
            return True
        return all(self.running[name[0]] >= self.each for name in self.waiting())

    async def leave(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        await self.settle()
        self.queue.close(Conflict("over"))
        assert len(self.queue) == 0
        assert not any((self.queue._waiting, self.queue._ring, self.queue._full, self.queue._promised))
        assert self.queue._total == 0


async def test_a_free_place_is_taken_at_once() -> None:
    place = Place(2)
    place.ask("a1")
    place.ask("b1")
    await place.settle()
    assert place.begun == ["a1", "b1"]
    await place.leave()


async def test_agents_take_turns_and_each_keeps_its_order() -> None:
    place = Place(1)
    for name in ("x0", "a1", "a2", "a3", "b1", "b2", "c1"):
        place.ask(name)
        await place.settle()
    assert place.waiting() == ["a1", "b1", "c1", "a2", "b2", "a3"]
    for _ in range(6):
        await place.end()
    assert place.begun == ["x0", "a1", "b1", "c1", "a2", "b2", "a3"]
    await place.leave()


async def test_whoever_comes_later_does_not_overtake() -> None:
    place = Place(1)
    place.ask("a1")
    place.ask("b1")
    await place.settle()
    place.ends["a1"].set()
    place.ask("c1")
    await place.settle()
    assert place.begun == ["a1", "b1"]
    await place.leave()


async def test_an_agent_at_its_own_bound_holds_up_nobody_else() -> None:
    place = Place(3, each=1)
    for name in ("a1", "a2", "a3", "b1"):
        place.ask(name)
    await place.settle()
    assert place.begun == ["a1", "b1"]
    assert [e["waits_for"] for e in place.queue.entries()] == ["its own runs", "its own runs"]
    await place.end("b1")
    assert place.begun == ["a1", "b1"], "that was not the place a2 waits for"
    await place.end("a1")
    assert place.begun == ["a1", "b1", "a2"]
    await place.leave()


async def test_bounds_that_were_raised_let_in_who_waited() -> None:
    place = Place(4, each=1)
    for name in ("a1", "a2", "a3"):
        place.ask(name)
    await place.settle()
    place.each = 3
    place.queue.freed()
    await place.settle()
    assert place.begun == ["a1", "a2", "a3"]
    await place.leave()


@pytest.mark.parametrize(("policy", "rule"), [
    (replace(POLICY, queue=0), "concurrency.queue"),
    (replace(POLICY, queue=2), "concurrency.queue"),
    (replace(POLICY, queue_per_agent=1), "concurrency.queue_per_agent"),
])  # fmt: skip
async def test_a_full_queue_refuses_and_says_which_bound(policy: Concurrency, rule: str) -> None:
    place = Place(1, policy=policy)
    for i in range(5):
        place.ask(f"a{i}")
    await place.settle()
    told = place.failed["a4"]
    assert isinstance(told, LimitReached)
    assert (told.rule, told.source, told.extra["retry_after"]) == (rule, "policy.toml:4", 1.0)
    await place.leave()


async def test_whoever_waits_too_long_is_told_so_and_the_rest_move_up() -> None:
    place = Place(1)
    place.ask("a1")
    await place.settle()
    place.policy = replace(POLICY, queue_time_ms=1)
    place.ask("b1")
    await place.settle()
    place.policy = POLICY
    place.ask("c1")
    await place.tasks["b1"]
    told = place.failed["b1"]
    assert isinstance(told, LimitReached)
    assert told.rule == "concurrency.queue_time"
    assert place.waiting() == ["c1"]
    await place.leave()


async def test_a_request_is_taken_out_by_its_owner_alone() -> None:
    place = Place(1)
    for name in ("a1", "a2", "a3"):
        place.ask(name)
    await place.settle()
    with pytest.raises(NotFound):
        place.queue.cancel("a2", uid=2000)
    with pytest.raises(NotFound):
        place.queue.cancel("a1")  # it runs
    assert place.queue.cancel("a2", uid=1000)["argv"] == ["sleep", "a2"]
    await place.settle()
    assert isinstance(place.failed["a2"], Conflict)
    assert place.waiting() == ["a3"]
    with pytest.raises(NotFound):
        place.queue.cancel("a2")
    await place.leave()


async def test_a_client_that_vanishes_with_its_place_promised_loses_no_place() -> None:
    place = Place(1)
    for name in ("a1", "b1", "c1"):
        place.ask(name)
    await place.settle()
    place.ends["a1"].set()
    await asyncio.sleep(0)  # a1 has ended, and b1 has its promise and has not run yet
    assert place.queue._promised == {"b": 1}
    place.tasks["b1"].cancel()
    await place.settle()
    assert place.begun == ["a1", "c1"]
    await place.leave()


async def test_a_client_that_vanishes_as_a_place_comes_free_is_skipped() -> None:
    place = Place(1)
    for name in ("a1", "b1", "c1"):
        place.ask(name)
    await place.settle()
    place.tasks["b1"].cancel()
    place.ends["a1"].set()
    await place.settle()
    assert place.begun == ["a1", "c1"]
    await place.leave()


async def test_a_place_that_was_not_taken_goes_to_the_next() -> None:
    place = Place(1)
    place.ask("a1")
    await place.settle()
    queue = place.queue
    gone = asyncio.create_task(queue.turn(Entry("b1", "b", 1, ("x",)), lambda _: True, POLICY))
    await place.settle()
    place.ask("c1")
    await place.settle()
    await place.end("a1")
    assert gone.done()
    assert place.begun == ["a1", "c1"]
    await place.leave()


async def test_a_stop_ends_every_wait() -> None:
    place = Place(1)
    for name in ("a1", "b1", "c1"):
        place.ask(name)
    await place.settle()
    place.queue.close(Conflict("the emergency stop is on"))
    await place.settle()
    assert set(place.failed) == {"b1", "c1"}
    await place.leave()


async def test_positions_are_told_when_they_change() -> None:
    place, told = Place(1), []
    place.ask("a1")
    place.ask("b1")
    heard = asyncio.Event()

    def notice(position: int) -> None:
        told.append(position)
        heard.set()

    place.ask("c1", notice=notice)
    await heard.wait()
    heard.clear()
    await place.end("a1")
    await heard.wait()
    assert told == [2, 1]
    await place.leave()


def test_what_is_shown_of_a_command_is_bounded() -> None:
    entry = Entry("x", "a", 1, ("y" * 10_000,) * 10_000)
    assert len(entry.argv) == SHOWN_ARGS + 1
    assert sum(map(len, entry.argv)) < 10_000


events = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.sampled_from("abcd")),
        st.tuples(st.sampled_from(["end", "vanish", "cancel"]), st.integers(0, 30)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(events, st.integers(1, 4), st.integers(1, 3))
def test_whatever_happens_places_are_used_and_nobody_is_passed_over(
    happens: list[tuple[str, Any]], places: int, each: int
) -> None:
    """No idle place while somebody could have it; first come, first served within an agent; and while an agent waits
    for any place, another gets at most one before it.
    """

    async def story() -> None:
        place, names = Place(places, each), Counter[str]()
        since: dict[str, Counter[str]] = {}  # for each agent that waits: what others got meanwhile
        for kind, which in happens:
            before = len(place.begun)
            if kind == "ask":
                names[which] += 1
                place.ask(f"{which}{names[which]}")
            elif kind == "end" and place.ends:
                place.ends[list(place.ends)[which % len(place.ends)]].set()
            elif (waiting := place.waiting()) and kind in ("vanish", "cancel"):
                name = waiting[which % len(waiting)]
                if kind == "vanish":
                    place.tasks[name].cancel()
                else:
                    place.queue.cancel(name)
            await place.settle()
            assert place.blocked()
            for name in place.begun[before:]:
                since.pop(name[0], None)
                for got in since.values():
                    got[name[0]] += 1
            now = {e["agent"] for e in place.queue.entries() if e["waits_for"] == "a place"}
            since = {agent: since.get(agent, Counter()) for agent in now}
            assert all(count <= 1 for got in since.values() for count in got.values()), since
        for agent in "abcd":
            own = [int(name[1:]) for name in place.begun if name[0] == agent]
            assert own == sorted(own)
        await place.leave()

    asyncio.run(story())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_positions_are_the_order_in_which_places_come(asked: list[str]) -> None:
    async def story() -> None:
        place = Place(1)
        place.ask("x0")
        for i, agent in enumerate(asked):
            place.ask(f"{agent}{i}")
        await place.settle()
        told = place.waiting()
        while place.ends:
            await place.end()
        assert place.begun[1:] == told
        await place.leave()

    asyncio.run(story())
