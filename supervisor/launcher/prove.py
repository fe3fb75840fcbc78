"""The prover: reads and compiles the policy as root, then proves every profile by real runs that try what is forbidden.

It is started for each (re)load, drives the same Warden that serves requests, and ends. A profile of which one proof
fails is refused by name; the others are served. Promise 2 of the design.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from supervisor.errors import Internal, StockadeError
from supervisor.kernel import seccomp
from supervisor.launcher import host, probes, proofs
from supervisor.launcher.loop import Loop
from supervisor.launcher.plan import WORKSPACE
from supervisor.launcher.pool import PROVER_UIDS, Identities
from supervisor.launcher.warden import Warden
from supervisor.launcher.workspace import Workspace
from supervisor.layout import Layout
from supervisor.policy.findings import finding, invalid
from supervisor.policy.load import load
from supervisor.policy.narrow import narrowed
from supervisor.wire import messages as w

if TYPE_CHECKING:
    from supervisor.kernel.cgroup import Tree
    from supervisor.launcher.session import World
    from supervisor.policy.snapshot import Profile, Snapshot

_PATIENCE = 20.0  # seconds for all proofs of one profile
OWNER = 65534  # whom the proof workspace belongs to: a uid that is neither root nor a session's


class Proving:
    """Questions to the children of one session of a profile."""

    def __init__(self, snapshot: Snapshot, profile: Profile, plan: proofs.Plan, world: World) -> None:
        self.profile, self._plan = profile, plan
        self.loop = Loop()
        self.answers: dict[str, proofs.Answer] = {}
        self.failed = ""
        self._names = {f"run-prove{n:05d}": name for n, name in enumerate(self._plan)}
        self._pipes: dict[str, int] = {}
        self._question: dict[str, Any] = {}
        self._session = f"ses-prove{os.getpid():08d}"
        self.warden = Warden(self.loop, world, self._recorded, self._heard, prefix=f"p{os.getpid()}-", ahead=0)
        base, count = snapshot.service.uid_base, snapshot.service.uid_count
        self.loop.watch(world.forge.sock.fileno(), lambda _: self._forged(world))
        self.warden.use_identities(Identities(base + count - PROVER_UIDS, PROVER_UIDS))

    def ask(self, workspace: Workspace, question: dict[str, Any]) -> None:
        """Ask every question of the plan; `answers` or `failed` has what came of it. Nothing runs afterwards."""
        try:
            self._ask(workspace, question)
        finally:
            self.warden.end_now()

    def _ask(self, workspace: Workspace, question: dict[str, Any]) -> None:
        self._question = question
        message = w.OpenSession(1, self._session, "0" * 64, self.profile.name, 0, OWNER, [], "", workspace.path, {})
        try:
            self.warden.open_session(message, self.profile, self.profile, workspace)
        except (StockadeError, OSError) as e:
            self.failed = f"no session: {e}"
            return
        self.loop.at(time.monotonic() + _PATIENCE, self._overdue)
        self.loop.run()

    def _forged(self, world: World) -> None:
        if not world.forge.answered():
            self.failed = "the forge ended"
            self.loop.running = False

    def _recorded(self, _: dict[str, Any]) -> None:
        """There is no auditor beside the prover: what its children do is told as proofs."""

    def _heard(self, message: w.Message) -> None:
        if isinstance(message, w.SessionOpened):
            for run, name in self._names.items():
                self._start(run, *self._plan[name])
        elif isinstance(message, w.RunEnded):
            self.answers[self._names[message.run]] = proofs.Answer(message, self._drain(message.run))
            if len(self.answers) == len(self._plan):
                self.warden.close(self._session, "closed")
        elif isinstance(message, w.SessionEnded):
            self.loop.running = False
        elif isinstance(message, w.Refused):
            self.failed = message.detail
            self.loop.running = False

    def _start(self, run: str, limits: dict[str, int], question: dict[str, Any]) -> None:
        asked = {**self._question, **question}
        if asked.get("place") == WORKSPACE:
            asked["place"] = asked["workspace"]
        argv = ["stockade:probe", json.dumps(asked)]
        start = w.StartRun(self._session, run, argv, {}, asked["workspace"], limits)
        self._pipes[run], into = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.warden.runs.start(start, [into, os.dup(into)], stopped=False)
        self.warden.runs.go(run, w.fingerprint(start))

    def _drain(self, run: str) -> bytes:
        fd = self._pipes.pop(run)
        try:
            return os.read(fd, 1 << 16)
        except BlockingIOError:
            return b""
        finally:
            os.close(fd)

    def _overdue(self) -> None:
        self.failed = f"no answer within {_PATIENCE:g} s"
        self.loop.running = False


def own_workspace(layout: Layout) -> Workspace:
    """A directory of the state that belongs to an unprivileged uid; the prover's children write only there."""
    path = os.path.join(os.path.realpath(layout.state), f"prove-{os.getpid()}")
    os.mkdir(path, 0o700)
    os.mkdir(os.path.join(path, "place"))
    with open(os.path.join(path, "kept"), "x", encoding="ascii") as f:
        f.write("kept")
    for name in ("place", "kept", ""):
        os.chown(os.path.join(path, name), OWNER, OWNER)
    return Workspace(path, os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), OWNER, OWNER)


def prove(snapshot: Snapshot, profile: Profile, world: World, layout: Layout) -> list[proofs.Proof]:
    """Every proof of a profile. Leaves nothing behind."""
    workspace = own_workspace(layout)
    proved = proofs.narrowed(profile)
    canaries = proofs.Canaries(layout, profile, workspace.path)
    try:
        with canaries as question:
            proving = Proving(snapshot, proved, proofs.plan(proved, profile.limits), world)
            proving.ask(workspace, question)
            if proving.failed:
                return [("session", False, proving.failed)]
            found = proofs.judge(profile, proving.answers, canaries)
            for _ in range(proofs.MORE_SPINS):
                if ("cpu", True) not in [(probe, holds) for probe, holds, _ in found]:
                    again = Proving(snapshot, proved, proofs.long_spin(proved), world)
                    again.ask(workspace, question)
                    found = [p for p in found if p[0] != "cpu"] + [proofs.judge_cpu(again.answers.get("cpu"))]
            found.append(proofs.judge_owner(profile, workspace, proving.answers.get("mark")))
            found.append(proofs.judge_commands(profile, proving.answers.get("allowed_commands")))
            reading = Proving(snapshot, narrowed(proved, readonly=True), proofs.READONLY, world)
            reading.ask(workspace, question)
            return [*found, proofs.judge_readonly(reading.answers.get("readonly"), reading.failed)]
    finally:
        workspace.close()
        shutil.rmtree(workspace.path)


def every_proof(snapshot: Snapshot, filters: tuple[bytes, ...], layout: Layout, tree: Tree) -> list[dict[str, Any]]:
    """One dict for each profile and probe: {profile, probe, ok, detail, source}."""
    there = host.layers(tree)
    world = host.make_world(layout, tree, probes.attempt)
    world.forge.filters(filters)
    rows: list[dict[str, Any]] = []
    for profile in snapshot.profiles:
        lacking = [name for name in profile.required if not there[name]["present"]]
        remedies = "; ".join(f"{name}: {there[name]['remedy']}" for name in lacking)
        found: list[proofs.Proof] = [("required", not lacking, remedies or "every required layer is there")]
        if not lacking:
            found += prove(snapshot, profile, world, layout)
        for probe, ok, detail in found:
            rows.append({"profile": profile.name, "probe": probe, "ok": ok, "detail": detail, "source": profile.source})
    return rows


def told(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Whether policy decides what its [[tests]] say: a row for each profile. Raises PolicyInvalid where it does not.

    The libraries of the decision are only loaded where there is something to test; what is parsed is the operator's.
    """
    if snapshot.tests:
        from supervisor.decide import selftest
        from supervisor.parser.shfmt import Shfmt

        with Shfmt() as shfmt:
            outcomes = selftest.run(snapshot, shfmt.parse)
        wrong = [
            finding(
                *_place(row["source"]),
                "tests",
                f"{row['command'][:200]!r} comes out as {row['verdict']}: {row['detail']}",
                expected=row["expected"],
            )
            for row in outcomes
            if not row["ok"]
        ]
        if wrong:
            raise invalid(wrong)
    said = f"{len(snapshot.tests)} tests of policy hold"
    return [
        {"profile": p.name, "probe": "tests", "ok": True, "detail": said, "source": p.source} for p in snapshot.profiles
    ]


def _place(source: str) -> tuple[str, int]:
    file, _, line = source.rpartition(":")
    return file, int(line)


def answer(layout: Layout) -> dict[str, Any]:
    try:
        tree = host.own_tree(layout)
        tree.prepare()
        snapshot = load(layout)
        tested = told(snapshot)
        filters = seccomp.compile_filter("tool")
        rows = [*every_proof(snapshot, filters, layout, tree), *tested]
    except StockadeError as e:
        return {"error": e.as_dict()}
    return {
        "snapshot": json.loads(snapshot.to_json()),
        "filters": [base64.b64encode(part).decode() for part in filters],
        "proofs": rows,
        "host": host.layers(tree),
        "layers": host.receipt_layers(tree),
    }


def main(arguments: list[str]) -> int:
    """`prove FD ETC RUN STATE LOG INSTANCE`: write the answer as JSON to the descriptor."""
    fd, layout = int(arguments[0]), Layout(*arguments[1:6])
    try:
        body = answer(layout)
    except Exception as e:  # noqa: BLE001 - the border of this process: the launcher needs an answer
        import traceback

        traceback.print_exc(file=sys.stderr)
        body = {"error": Internal(f"the prover failed: {type(e).__name__}: {e}").as_dict()}
    os.write(fd, json.dumps(body).encode())
    return 0
