"""Proofs of what main itself enforces: the launcher's prover cannot see it (design, promise 2).

The same code that serves requests is made to refuse, on the policy that is about to serve: a pipe that floods, a
limit that is asked wider, a stranger, a foreign workspace, a full house.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from supervisor.decide import command
from supervisor.decide.admission import Counters, admit_session
from supervisor.decide.request import Peer, SessionRequest
from supervisor.decide.selftest import NOBODY, example, peer_of
from supervisor.errors import Denied, LimitReached, StockadeError
from supervisor.policy.narrow import exceeds, narrow_limits
from supervisor.policy.snapshot import Limits, Tools
from supervisor.policy.words import may_ever
from supervisor.runs import proving
from supervisor.runs.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.policy.snapshot import Profile, Snapshot
    from supervisor.state.store import Store

_FLOOD = 32 * 1024  # bytes; below what a pipe takes without a reader (pipe(7))
_PATIENCE = 5.0  # seconds
_FOREIGN = "/proc/1/root"  # a workspace that no policy can grant


def _refusal(what: Callable[[], Any], *expected: type[StockadeError]) -> str:
    """ "" when `what` is refused as it must be."""
    try:
        what()
    except expected:
        return ""
    except StockadeError as e:
        return f"refused as {e.code} instead"
    return "was not refused"


async def _output(spool: str, profile: Profile) -> tuple[str, str]:
    """(output, idle_timeout): what is wrong with each. A flood is noticed at the limit; output moves the idle clock."""
    limit = min(profile.limits.output, _FLOOD)
    loop = asyncio.get_running_loop()
    flooded: asyncio.Future[str] = loop.create_future()
    out, into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    err, unused = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    output = Output(out, err, limit=limit, spool=spool, name="proof", on_flood=flooded.set_result)
    began = output.last
    try:
        os.write(into, bytes(limit + 1))
        await asyncio.wait_for(flooded, _PATIENCE)
        kept = output.size("stdout")[1]
        wrong = "" if kept <= limit else f"kept {kept} of {limit} bytes"
    except TimeoutError:
        wrong = f"{limit + 1} bytes passed a limit of {limit}"
    finally:
        idle = "" if output.last > began else "output did not move the idle clock"
        os.close(into)
        os.close(unused)
        output.finish()
        output.forget()
    return wrong, idle


def _wider(profile: Profile) -> str:
    """ "" when no limit of the profile can be asked wider than it is."""
    for item in fields(Limits):
        bound = getattr(profile.limits, item.name)
        asked = bound + 1 if bound else None  # nothing is wider than no idle timeout
        if asked is not None and exceeds(item.name, asked, bound):
            wrong = _refusal(lambda n=item.name, a=asked: narrow_limits(profile.limits, {n: a}), Denied)  # type: ignore[misc]
            if wrong:
                return f"{item.name}: {asked} over {bound} {wrong}"
    return ""


def _environment(profile: Profile) -> str:
    given = command.environment(profile, "ses-0000000000", "run-0000000000", {})
    lacking = [name for name, value in profile.env if given.get(name) != value]
    own = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TMPDIR", "STOCKADE_SESSION", "STOCKADE_RUN"}
    foreign = sorted(given.keys() - own - {name for name, _ in profile.env})
    return f"lacking {lacking}, foreign {foreign}" if lacking or foreign else ""


def _admission(snapshot: Snapshot, profile: Profile) -> str:
    """ "" when strangers, foreign workspaces and profiles that were not granted are refused."""
    stranger = Peer(0, NOBODY, NOBODY, (NOBODY,), "", inside=False)
    request = SessionRequest(workspace=_FOREIGN, profile=profile.name)
    wrong = _refusal(lambda: admit_session(snapshot, {}, stranger, request, Counters()), Denied)
    if wrong:
        return f"a stranger {wrong}"
    for caller in snapshot.callers:
        wrong = _refusal(lambda c=caller: admit_session(snapshot, {}, peer_of(c), request, Counters()), StockadeError)  # type: ignore[misc]
        if wrong:
            return f"{caller.source}: workspace {_FOREIGN} {wrong}"
    return ""


def _service(snapshot: Snapshot) -> str:
    """ "" when the house is full at its bound, for the first caller that may run anything at all."""
    for caller in snapshot.callers:
        if may_ever(snapshot, caller, "agent:execute") and caller.profiles and caller.workspaces:
            alone = replace(caller, role="operator", must_state=())
            policy = replace(snapshot, callers=(alone,), rules=(), contexts=(), roles=(), tools=Tools())
            request = SessionRequest(workspace=example(caller), profile=caller.profiles[0])
            full = Counters(sessions=snapshot.service.sessions, runs=snapshot.service.runs)
            return _refusal(lambda: admit_session(policy, {}, peer_of(alone), request, full), LimitReached)  # noqa: B023
    return ""


async def prove(snapshot: Snapshot, spool: str, store: Store) -> tuple[dict[str, Any], ...]:
    """One row for each profile and probe, in the form of the prover's: {profile, probe, ok, detail, source}."""
    rows = []
    service = _service(snapshot)
    for profile in snapshot.profiles:
        output, idle = await _output(spool, profile)
        found = {
            "output": output,
            "idle_timeout": idle,
            "ceiling": _wider(profile),
            "env": _environment(profile),
            "admission": _admission(snapshot, profile),
            "service": service,
            **await proving.prove(snapshot, profile, store),
        }
        for probe, wrong in found.items():
            detail = wrong or "refused as it must be"
            rows.append(
                {"profile": profile.name, "probe": probe, "ok": not wrong, "detail": detail, "source": profile.source}
            )
    return tuple(rows)
