"""From a request to what may be launched: the command is analysed, the decision made, a place waited for, a person
asked. decide/ says what is right; here is what takes time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from supervisor.approvals import gate, operations
from supervisor.approvals.model import Target, canonical
from supervisor.audit import events
from supervisor.audit.bounded import args_within
from supervisor.decide import command, scripts
from supervisor.decide.admission import admit_run
from supervisor.decide.asking import sensitive
from supervisor.decide.bounds import FAILED, RUNS, SENSITIVE, Who, agent_key
from supervisor.decide.callers import called, find_caller, second_person
from supervisor.decide.context import credible
from supervisor.decide.shell import environment
from supervisor.errors import ApprovalRequired, Conflict, Denied, StockadeError
from supervisor.runs import alerting, sessions
from supervisor.runs.meters import failure
from supervisor.runs.registry import new_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.approvals.model import Grant
    from supervisor.decide.admission import Admission
    from supervisor.decide.request import Peer, RunRequest, SessionRequest
    from supervisor.decide.shell.model import Analysis
    from supervisor.runs.model import Run, Session
    from supervisor.runs.service import Supervisor
    from supervisor.wire.messages import StartRun

    Notice = Callable[[dict[str, Any]], None] | None

_SETTINGS = 16 << 10  # bytes of JSON that variables may take that are shown


@dataclass(slots=True)
class Decided:
    """A request that may run: as what, where, under which grant, bound to which files (path -> SHA-256)."""

    admission: Admission
    place: str  # the session's id, also of one that is not open yet
    session: Session | None  # None: it is to be opened
    grant: Grant | None = None
    held: dict[str, str] = field(default_factory=dict)


async def decide(
    room: Supervisor, peer: Peer, session: Session | None, request: RunRequest, request_id: str, notice: Notice = None
) -> Decided:
    """Until it may run. Raises every refusal, ApprovalRequired and ApprovalDenied; nothing is left open then."""
    analysis = await analysed(room, peer, request)
    try:
        admission = await _placed(room, peer, session, request, analysis, notice)
    except Denied:
        if _watches(room, SENSITIVE):
            with contextlib.suppress(StockadeError):  # nobody that policy knows, or a disk that refuses
                saved = _watched(room, peer, session, request, analysis, _who(room, peer, request))
                if saved is not None:
                    await asyncio.shield(saved)
        raise
    if _watches(room, SENSITIVE):  # a run, or a question, is durable no earlier than this
        _watched(room, peer, session, request, analysis, admission.who)
    place = new_id("ses") if session is None else session.id
    if admission.verdict == "allow":
        return Decided(admission, place, session)
    return await _asked(room, peer, session, request, request_id, notice, Decided(admission, place, session), analysis)


def _watches(room: Supervisor, counts: str) -> bool:
    """Whether policy has any alert counted of it."""
    return counts in room.meters.book.plan(room.serving.snapshot).watched


def _watched(
    room: Supervisor, peer: Peer, session: Session | None, request: RunRequest, analysis: Analysis, who: Who
) -> asyncio.Future[None] | None:
    """Count a request that reaches for what is secret or off limits, once, whatever is decided about it."""
    snapshot = room.serving.snapshot
    workspace = session.workspace if session is not None else request.workspace or ""
    if sensitive(snapshot.autonomy, analysis, (workspace, command.directory(workspace, request.cwd))):
        return alerting.reached(room, peer, who)
    return None


async def analysed(room: Supervisor, peer: Peer, request: RunRequest) -> Analysis:
    """What the command looks like it does. Waits at most for one question of each other caller at the parser."""
    found = await room.parser.analyse(
        request.argv, request.script, request.stdin, streamed=request.stdin_stream, asker=peer.uid
    )
    set_to = environment.settings(request.env)
    if not set_to:
        return found
    words = environment.carrier(set_to)
    return environment.beside(found, set_to, await room.parser.analyse(words, None, asker=peer.uid))


async def _placed(
    room: Supervisor,
    peer: Peer,
    session: Session | None,
    request: RunRequest,
    analysis: Analysis,
    notice: Notice,
    *,
    had_turn: bool = False,
) -> Admission:
    """The decision, made while there is a place for the run; whoever waits comes before who asks now."""
    admission = admit(room, peer, session, request, analysis)
    behind = not had_turn and bool(len(room.line) and room.serving.snapshot.concurrency.queue)
    waits = admission.waits or behind
    while waits:
        await room.line.turn(peer, admission, request, notice)
        admission = admit(room, peer, session, request, analysis)
        waits = admission.waits
    return admission


def admit(room: Supervisor, peer: Peer, session: Session | None, request: RunRequest, analysis: Analysis) -> Admission:
    return admit_run(room.serving.snapshot, room.refused, peer, session, request, room.counters(peer), analysis)


async def _asked(
    room: Supervisor,
    peer: Peer,
    session: Session | None,
    request: RunRequest,
    request_id: str,
    notice: Notice,
    found: Decided,
    analysis: Analysis,
) -> Decided:
    """Somebody has to say yes. Files that are named as scripts are looked at first: the yes is bound to them."""
    admission, digest = found.admission, room.serving.digest
    workspace = session.workspace if session is not None else request.workspace or ""
    directory = command.directory(workspace, request.cwd)
    named = scripts.named(analysis, request, workspace, directory, admission.profile.write)
    opened: Session | None = None
    try:
        files: list[dict[str, Any]] = []
        if named:
            if session is None:
                opened = await sessions.open_session(room, peer, admission, found.place, workspace, one_shot=True)
                found.session = opened
            files = await room.runtime.inspect(found.place, named)
            found.held = {f["path"]: f["sha256"] for f in files}
        asking = _Asking(room, peer, session, request, admission, digest, (workspace, directory), files)
        try:
            found.grant = await asking.grant(0, None)
        except ApprovalRequired as waiting:
            _record(room, peer, request, request_id, waiting, session, workspace)
            if not request.wait_approval_ms:
                raise
            if opened is not None:  # nothing is kept open while a person thinks
                await sessions.close(room, opened)
                opened = found.session = None
                found.place = new_id("ses")
            found.grant = await asking.grant(request.wait_approval_ms, notice)
        # Rates, places and policy may have changed while it was looked at, as they may while a person thinks.
        if opened is None:
            again = await _placed(room, peer, session, request, analysis, notice)
        else:  # a run of the session that was opened for it, and that has its limits
            own = replace(request, session=opened.id, workspace=None, limits={})
            again = await _placed(room, peer, opened, own, analysis, notice, had_turn=True)
        found.admission = anew(admission, again)
    except BaseException:
        if opened is not None:
            room.spawn(sessions.close(room, opened))
        raise
    return found


def anew(before: Admission, now: Admission) -> Admission:
    """The decision made again after the wait: meanwhile anything may have changed. Raises Conflict.

    That this agent is asked about everything by now changes nothing: this was asked about.
    """
    reasons = {reason for reason in subjects(now) if not reason[0].startswith("alerts.")}
    if reasons <= subjects(before) and (now.readonly, now.network) == (before.readonly, before.network):
        return now
    raise Conflict(
        "what was approved would be decided otherwise by now",
        field="approval",
        hint="send the request again: it is decided, and if need be asked about, anew",
    )


def subjects(admission: Admission) -> set[tuple[str, str]]:
    """What is asked about, whatever it says at the moment: the detail of a rule may name the time."""
    return {(reason.rule, reason.subject) for reason in admission.reasons}


def counted(room: Supervisor, peer: Peer, admission: Admission, message: StartRun) -> asyncio.Future[None]:
    """The run takes its place and is counted; the future is done when that is durable. Raises Unavailable."""
    meters, limits = room.meters, admission.limits
    meters.rule_used(admission.rule)
    meters.rule_used(f"profiles.{admission.profile.name}")
    for n in admission.context.matched:
        meters.rule_used(f"contexts[{n}]")
    for reason in admission.reasons:
        meters.rule_used(reason.rule)
    if _watches(room, RUNS):
        alerting.began(room, peer, admission.who)
    return meters.begin(
        room.serving.snapshot,
        message.run,
        admission.who,
        message.session,
        what=message.argv,
        timeout_ms=limits.timeout_ms,
        cpu=limits.cpu,
    )


def given_back(room: Supervisor, who: Who, message: StartRun) -> None:
    """The run was not launched after all: its place is free, and a session that was to be opened for it is none."""
    room.meters.forget(message.run)
    if room.registry.find_session(message.session) is None:
        room.meters.session_ended(message.session)
    room.line.freed(agent_key(who))


def charged(room: Supervisor, run: Run, who: Who, counters: dict[str, Any] | None) -> asyncio.Future[None]:
    """The run is over: what it used is charged, its place is free. None: nobody knows what it used."""
    failed, snapshot = failure(run.cause, run.exit_code), room.serving.snapshot
    if failed and _watches(room, FAILED):
        alerting.failed(room, run, who)
    saved = room.meters.end(snapshot.breaker, run.id, counters, failed=failed)
    asyncio.get_running_loop().call_soon(room.line.freed, agent_key(who))
    return saved


def noted(room: Supervisor, peer: Peer, request: RunRequest, refusal: StockadeError) -> None:
    """A refusal counts for the breaker, when policy refused; and the rule that refused was used."""
    if refusal.rule is not None:
        room.meters.rule_used(refusal.rule)
    if not isinstance(refusal, Denied):
        return
    with contextlib.suppress(StockadeError):  # nobody that policy knows
        snapshot, who = room.serving.snapshot, _who(room, peer, request)
        room.meters.denied(snapshot, who)
        if snapshot.alerts.blocked_command and "blocked_commands[" in (refusal.rule or ""):
            alerting.blocked(room, peer, who, refusal)


def _who(room: Supervisor, peer: Peer, request: RunRequest) -> Who:
    """Whose a request is that was refused. Raises CallerUnknown, NotFound.

    Labels that policy does not let this caller state name nobody: else whoever is refused for them could fill the book
    of counters, which is one for all callers.
    """
    session = None if request.session is None else room.registry.find_session(request.session)
    caller = find_caller(room.serving.snapshot, peer)[1]
    labels = credible(caller, request.labels) | (dict(session.labels) if session is not None else {})
    return Who(
        called(peer, caller),
        labels.get("agent", ""),
        labels.get("user", ""),
        labels.get("channel", ""),
        request.tool,
    )


class _Asking:
    """One request that takes a yes: exactly what it would be given for, and how it is shown."""

    def __init__(
        self,
        room: Supervisor,
        peer: Peer,
        session: Session | None,
        request: RunRequest,
        admission: Admission,
        digest: str,
        where: tuple[str, str],
        files: list[dict[str, Any]],
    ) -> None:
        self._room, self._peer, self._admission = room, peer, admission
        self._session = None if session is None or session.one_shot else session.id
        self._target = Target(
            uid=peer.uid,
            unit=peer.unit,
            tool=request.tool,
            argv=request.argv,
            script=request.script,
            cwd=where[1],
            env_names=tuple(sorted(request.env)),
            stdin=_fed(request),
            workspace=where[0],
            profile=admission.profile.name,
            readonly=admission.readonly,
            network=admission.network,
            files=tuple((f["path"], f["sha256"]) for f in files),
            policy_digest=digest,
            env=_values(request),
            labels=tuple(sorted(admission.labels.items())),
            reasons=tuple(sorted(subjects(admission))),
        )
        marks = [{"start": r.start, "end": r.end, "detail": r.detail} for r in admission.reasons if r.start >= 0]
        self._what = gate.what_of(self._target, session=self._session, marks=marks, files=files)
        self._what |= {"autonomy": admission.autonomy, "notes": list(admission.notes)}
        if obeyed := environment.settings(request.env):
            self._what["env"] = args_within(obeyed, _SETTINGS)
        if request.stdin is not None:  # of a shell that is the script, and a person cannot read a hash
            self._what["input"] = request.stdin.decode("utf-8", "backslashreplace")

    async def grant(self, wait_ms: int, notice: Notice) -> Grant:
        """One use of a grant for it. Raises as gate.obtain(), and Conflict when it was decided by an old policy."""
        admission, serving = self._admission, self._room.serving
        if serving.digest != self._target.policy_digest:  # while files were looked at, or a session closed
            raise gate.reloaded()
        return await gate.obtain(
            self._room.book,
            "run",
            sessions.caller_of(self._peer),
            self._target.digest(),
            self._what,
            [asdict(reason) for reason in admission.reasons],
            session=self._session,
            labels=dict(admission.labels),
            needed=2 if second_person(serving.snapshot, admission.context.caller, admission.context.roles) else 1,
            wait_ms=wait_ms,
            notice=notice,
        )


def _values(request: RunRequest) -> str:
    """What the variables are set to. PATH, LD_PRELOAD, BASH_ENV and their like choose what is executed."""
    return "" if not request.env else hashlib.sha256(canonical(dict(request.env))).hexdigest()


def _fed(request: RunRequest) -> str:
    if request.stdin_stream:
        return "stream"
    return "" if request.stdin is None else hashlib.sha256(request.stdin).hexdigest()


def _record(
    room: Supervisor,
    peer: Peer,
    request: RunRequest,
    request_id: str,
    waiting: StockadeError,
    session: Session | None,
    workspace: str,
) -> None:
    room.post(
        events.decision(
            outcome="ask",
            run=None,
            request_id=request_id,
            session_id=None if session is None else session.id,
            caller=sessions.caller_of(peer),
            tool=request.tool,
            action="run",
            resource=workspace,
            args=list(request.argv) if request.argv is not None else request.script,
            reason=waiting.detail,
            authorization_policy=f"{waiting.rule or ''} {waiting.source or ''}".strip() or None,
            policy_digest=room.digest,
            labels=request.labels,
            env_names=request.env,
            result={"approval": waiting.extra.get("approval")},
        )
    )


async def session_approved(room: Supervisor, peer: Peer, request: SessionRequest, admission: Admission) -> Grant:
    """One use of a yes to opening this session. Raises as gate.obtain(): nobody waits here for an answer."""
    what = {
        "workspace": request.workspace,
        "profile": admission.profile.name,
        "autonomy": admission.autonomy,
        "readonly": admission.readonly,
        "network": admission.network or admission.profile.network,
        "labels": dict(admission.labels),
    }
    asker = sessions.caller_of(peer)
    target = operations.target(peer.uid, peer.unit, "agent:execute", what, room.serving.digest)
    snapshot = room.serving.snapshot
    return await gate.obtain(
        room.book,
        "operation",
        asker,
        target,
        {"permission": "agent:execute", "parameters": what},
        [asdict(reason) for reason in admission.reasons],
        labels=dict(admission.labels),
        needed=2 if second_person(snapshot, admission.context.caller, admission.context.roles) else 1,
    )
