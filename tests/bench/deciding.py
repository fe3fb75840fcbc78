"""What a decision costs: the pure functions alone, in this process, on the policy that the service runs under."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from supervisor.decide.admission import Counters, admit_run
from supervisor.layout import layout
from supervisor.policy.load import load
from supervisor.policy.narrow import narrow_limits
from supervisor.runs.model import Peer, RunRequest, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.place import Place

_BATCH = 100


def measure(place: Place, batches: int) -> dict[str, list[float]]:
    """Microseconds of one call, mean of a batch of 100, for each batch."""
    snapshot = load(layout(str(place.daemon.root)))
    profile = snapshot.profiles[0]
    agent = place.agent
    peer = Peer(1, agent.uid, agent.gid, agent.groups, "", inside=False)
    session = Session(
        "ses-bench", peer, 0, profile.name, place.workspace, snapshot.digest(), one_shot=False, labels={},
        state="live", granted=profile,
    )  # fmt: skip
    argv = ("git", "status", "--short")
    live = RunRequest(session=session.id, argv=argv)
    one_shot = RunRequest(workspace=place.workspace, argv=argv)
    # As full as the service may be: one live session for each that the policy allows.
    full = Counters(sessions=snapshot.service.sessions - 1, workspaces=[(place.workspace, agent.uid)] * 200)
    less = {"memory": profile.limits.memory // 2, "timeout_ms": 1000, "processes": 8}
    calls: dict[str, Callable[[], object]] = {
        "decide: run in a live session": lambda: admit_run(snapshot, {}, peer, session, live, full),
        "decide: run in a new session, beside 200": lambda: admit_run(snapshot, {}, peer, None, one_shot, full),
        "policy: narrow three limits": lambda: narrow_limits(profile.limits, less),
    }
    return {name: [_batch(call) for _ in range(batches)] for name, call in calls.items()}


def _batch(call: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    for _ in range(_BATCH):
        call()
    return (time.perf_counter_ns() - begun) / 1000 / _BATCH
