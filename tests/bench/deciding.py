"""What a decision costs: the pure functions alone, in this process, on the policy that the service runs under."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.layout import layout
from supervisor.parser.shfmt import Shfmt
from supervisor.policy.load import load
from supervisor.policy.narrow import narrow_limits
from supervisor.runs.model import Peer, RunRequest, Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.place import Place

_BATCH = 100
_PAUSE = 0.05  # seconds
_SCRIPT = """set -e
for f in src/*.py; do
    grep -n "TODO" "$f" | sort -u >> notes.txt || true
done
git add notes.txt && git commit -m "notes" 2>/dev/null
"""


def measure(place: Place, batches: int) -> dict[str, list[float]]:
    """Microseconds of one call: mean of a batch of 100, for each batch; of a script with its parser, each alone."""
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
    others = [(f"/srv/agents/tenant-{n}/work", n) for n in range(200)]
    full = Counters(sessions=snapshot.service.sessions - 1, workspaces=others, now=time.time())
    known = analyse_argv(argv)
    less = {"memory": profile.limits.memory // 2, "timeout_ms": 1000, "processes": 8}
    calls: dict[str, Callable[[], object]] = {
        "decide: run in a live session": lambda: admit_run(snapshot, {}, peer, session, live, full, known),
        "decide: run in a new session, beside 200": lambda: admit_run(snapshot, {}, peer, None, one_shot, full, known),
        "decide: a command that was not seen before": lambda: admit_run(
            snapshot, {}, peer, session, live, full, analyse_argv(argv)
        ),
        "policy: narrow three limits": lambda: narrow_limits(profile.limits, less),
    }
    found = {name: [_batch(call) for _ in range(batches)] for name, call in calls.items()}
    with Shfmt() as shfmt:
        script = RunRequest(session=session.id, script=_SCRIPT)
        parsed = {
            "decide: a script that was not seen before (shfmt)": lambda: admit_run(
                snapshot, {}, peer, session, script, full, analyse_script(_SCRIPT, shfmt.parse)
            )
        }
        return found | {name: [_once(call) for _ in range(batches)] for name, call in parsed.items()}


def _once(call: Callable[[], object]) -> float:
    """Microseconds of one call, after a pause in which the next parser gets ready, as between requests."""
    time.sleep(_PAUSE)
    begun = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - begun) / 1000


def _batch(call: Callable[[], object]) -> float:
    begun = time.perf_counter_ns()
    for _ in range(_BATCH):
        call()
    return (time.perf_counter_ns() - begun) / 1000 / _BATCH
