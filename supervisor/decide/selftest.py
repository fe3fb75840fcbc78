"""[[tests]] of policy: decisions that it says it makes, made on a peer and a request for each. Pure.

Each load looks at them before the policy serves, and `stockade policy test` does without a service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.request import Peer, RunRequest
from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.policy.words import may_ever

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.policy.snapshot import Caller, Snapshot, Test

NOBODY = 2**32 - 2  # a uid and gid that no entry of policy can name
_NOON = 1_767_614_400.0  # Monday, 5 January 2026, 12:00 UTC: tests do not depend on when they are made


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of one test. `verdict` is "allow", "ask" or "deny"; `detail` says why."""

    test: Test
    verdict: str
    detail: str

    @property
    def ok(self) -> bool:
        return self.verdict == self.test.expect

    def row(self) -> dict[str, Any]:
        command = self.test.command if self.test.command is not None else " ".join(self.test.argv or ())
        return {
            "ok": self.ok,
            "expected": self.test.expect,
            "verdict": self.verdict,
            "detail": self.detail,
            "source": self.test.source,
            "command": command,
        }


def run(snapshot: Snapshot, parse: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each test, in the order of policy. `parse` is parser.shfmt's."""
    return [_tried(snapshot, test, parse).row() for test in snapshot.tests]


def _tried(snapshot: Snapshot, test: Test, parse: Callable[[str], dict[str, Any]]) -> Outcome:
    caller = named(snapshot, test.caller)
    if caller is None:
        return Outcome(test, "deny", f"no entry of callers is {test.caller or 'one that may run anything'}")
    request = RunRequest(
        tool=test.tool,
        workspace=test.workspace or example(caller),
        profile=test.profile,
        argv=test.argv,
        script=test.command,
        labels=dict(test.labels),
    )
    try:
        analysis = analyse_argv(test.argv, parse) if test.argv else analyse_script(test.command or "", parse)
        found = admit_run(snapshot, {}, peer_of(caller), None, request, Counters(now=_NOON), analysis)
    except errors.StockadeError as e:
        return Outcome(test, "deny", f"{e.detail} ({e.rule or e.code})")
    why = "; ".join(f"{r.detail} ({r.rule})" for r in found.reasons)
    return Outcome(test, found.verdict, why or found.reason)


def named(snapshot: Snapshot, name: str | None) -> Caller | None:
    """The entry that a test means: by unit, by uid or gid; without a name the first that may run anything."""
    for caller in snapshot.callers:
        if name is None:
            if may_ever(snapshot, caller, "agent:execute") and caller.profiles and caller.workspaces:
                return caller
        elif name in (caller.unit, f"uid:{caller.uid}", f"gid:{caller.gid}", caller.name):
            return caller
    return None


def peer_of(caller: Caller) -> Peer:
    """A process that this entry names."""
    uid = caller.uid if caller.uid is not None else NOBODY
    gid = caller.gid if caller.gid is not None else NOBODY
    return Peer(0, uid, gid, (gid,), caller.unit or "", inside=False)


def example(caller: Caller) -> str:
    """A workspace that the caller's first pattern names."""
    if not caller.workspaces:
        return "/nowhere"
    return caller.workspaces[0].replace("**", "agent").replace("*", "agent").replace("?", "a")
