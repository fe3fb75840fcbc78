"""May this peer open this session, or run this in it? The rules in the order in which they are asked (R6). Pure.

Whatever is not granted is refused, and each refusal names the entry of policy that refuses, what would be allowed
and what to do (design, promise 7). The launcher asks again what it can, against its own snapshot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from supervisor import errors
from supervisor.decide import asking, meters, rules, tools
from supervisor.decide import place as places
from supervisor.decide.callers import answerable, find_caller, permits, require
from supervisor.decide.command import check_command, check_labels, directory
from supervisor.decide.context import context, merged
from supervisor.decide.trace import Reason
from supervisor.policy.narrow import AUTONOMY, NETWORKS, differs, narrow_limits

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from supervisor.decide.context import Context
    from supervisor.decide.request import Peer, RunRequest, SessionRequest
    from supervisor.decide.shell.model import Analysis
    from supervisor.decide.trace import Trace
    from supervisor.policy.snapshot import Limits, Profile, Snapshot
    from supervisor.runs.model import Session

_RETRY_RUN, _RETRY_SESSION = 1, 5  # seconds: a run ends sooner than a session


@dataclass(frozen=True, slots=True)
class Counters:
    """What lives now, as far as decisions ask for it. `now` is Unix time in seconds."""

    stopped: bool = False
    sessions: int = 0
    runs: int = 0
    workspaces: Collection[tuple[str, int]] = ()  # (path, uid of the owner) of every live session
    now: float = 0.0
    audit_ok: bool = True
    roles: tuple[str, ...] = ()  # that the peer was given for a time
    book: meters.Book = field(default_factory=meters.Book)


@dataclass(slots=True)
class Admission:
    """A request that is allowed, or that somebody has to be asked about: by which entry, and as what it would run.

    It is put together step by step in this file, since copies would cost half of the decision; nobody changes it later.
    """

    context: Context
    profile: Profile
    limits: Limits
    rule: str
    source: str  # FILE:LINE
    reason: str
    verdict: str = "allow"  # or "ask"
    autonomy: str = "full"
    readonly: bool = False  # the workspace is mounted read-only
    network: str = ""  # narrower than the profile's
    who: meters.Who = field(default_factory=lambda: meters.Who(""))
    reasons: tuple[Reason, ...] = ()  # why to ask
    notes: tuple[str, ...] = ()  # what was noticed and changes nothing
    left: tuple[tuple[str, int], ...] = ()  # of rates and budgets: (rule, how much)
    waits: bool = False  # for a place in the queue

    @property
    def caller(self) -> int:
        """Index into the snapshot's callers."""
        return self.context.index

    @property
    def labels(self) -> Mapping[str, str]:
        """The session's and the run's."""
        return self.context.labels


def admit_session(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    request: SessionRequest,
    state: Counters,
    trace: Trace | None = None,
) -> Admission:
    """Whether a session may be opened. `refused` maps a profile to the proof that failed.

    Raises Denied, WorkspaceRefused, InvalidRequest, ProfileRefused, LimitReached, Stopped or Conflict.
    """
    found = _place(snapshot, refused, peer, request, request.workspace, "shell", state, trace)
    found.left = meters.check(snapshot, found.who, "", state.book, state.now).left
    if not found.reasons:
        return found
    if not answerable(snapshot, peer, found.context.caller):
        raise _nobody(found.reasons[0])
    found.verdict = "ask"
    return found


def admit_run(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    session: Session | None,
    request: RunRequest,
    state: Counters,
    analysis: Analysis,
    trace: Trace | None = None,
) -> Admission:
    """Whether a run may start: in `session`, or with None in one that is opened for it alone.

    `analysis` is that of the request's argv or script. Raises what admit_session raises, and NotFound for a session
    that this peer may not know of.
    """
    if session is None:
        if request.session is not None:
            raise places.no_session(request.session)
        if request.workspace is None:
            raise errors.InvalidRequest(
                "neither session nor workspace given", field="workspace", allowed="exactly one of session and workspace"
            )
        found = _place(snapshot, refused, peer, request, request.workspace, request.tool, state, trace)
        workspace = request.workspace
    else:
        found = _in_session(snapshot, refused, peer, session, request, state, trace)
        workspace = session.workspace
    check_command(request)
    return _judged(snapshot, peer, found, request, session, workspace, state, analysis, trace)


def _place(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    request: SessionRequest | RunRequest,
    workspace: str,
    tool: str,
    state: Counters,
    trace: Trace | None,
) -> Admission:
    """A new session, asked for by itself or for one run."""
    who = _asker(snapshot, peer, request.labels, tool, state, trace)
    profile = places.choose_profile(snapshot, refused, who, request.profile)
    found = _allow(snapshot, who, profile, tool, state, trace)
    places.check_workspace(who.caller, workspace)
    limits = narrow_limits(profile.limits, request.limits, rule=f"profiles.{profile.name}", source=profile.source)
    places.check_apart(workspace, peer, state.workspaces)
    if state.sessions >= snapshot.service.sessions:
        raise errors.LimitReached(
            f"{state.sessions} sessions are open",
            field="session",
            rule="service.sessions",
            allowed=f"{snapshot.service.sessions} sessions",
            hint="close sessions that are done, or try again later",
            retry_after=_RETRY_SESSION,
        )
    found.limits = limits
    return found


def _in_session(
    snapshot: Snapshot,
    refused: Mapping[str, Mapping[str, Any]],
    peer: Peer,
    session: Session,
    request: RunRequest,
    state: Counters,
    trace: Trace | None,
) -> Admission:
    """A run in a session that lives: it has what the session has, and may not need less."""
    if session.peer.uid != peer.uid:
        caller = find_caller(snapshot, peer)[1]
        if not permits(snapshot, caller, "agent:read_all", state.roles):
            raise places.no_session(session.id)
        require(snapshot, caller, "agent:execute_all", state.roles)  # to see a session is not to act in it
    who = _asker(snapshot, peer, merged(session.labels, request.labels), request.tool, state, trace)
    if request.workspace is not None:
        raise errors.InvalidRequest(
            "both session and workspace given", field="workspace", allowed="exactly one of session and workspace"
        )
    if session.state != "live":
        raise errors.Conflict(f"the session is {session.state}", field="session", hint="open a new session")
    if request.profile is not None and request.profile != session.profile:
        raise errors.Conflict(
            f"the session runs under profile {session.profile}, not {request.profile}",
            field="profile",
            allowed=session.profile,
            hint="leave profile out, or open a session with the other profile",
        )
    profile = places.choose_profile(snapshot, refused, who, session.profile)
    if session.granted is not None and session.granted is not profile and differs(session.granted, profile):
        raise errors.Conflict(
            f"profile {profile.name} was changed by a reload since the session was opened",
            field="session",
            rule=f"profiles.{profile.name}",
            source=profile.source,
            hint="open a new session: it will run under the new policy",
        )
    found = _allow(snapshot, who, profile, request.tool, state, trace)
    if session.peer.uid != peer.uid:
        facts = who.facts(request.tool, profile.name)
        more = rules.apply(snapshot, "agent:execute_all", facts, state.now, audit_ok=state.audit_ok, trace=trace)
        found.reasons += tuple(reason for reason in more if reason not in found.reasons)
    places.check_granted(who.caller, session.workspace)
    _fits(found, session)
    base = replace(profile.limits, **session.limits) if session.limits else profile.limits
    limits = narrow_limits(base, request.limits, rule=f"profiles.{profile.name}", source=profile.source)
    found.limits, found.readonly, found.network = limits, session.readonly, session.network
    return found


def _asker(
    snapshot: Snapshot, peer: Peer, labels: Mapping[str, str], tool: str, state: Counters, trace: Trace | None
) -> Context:
    """Who asks, with which labels, and whether at all."""
    found = find_caller(snapshot, peer)
    if trace is not None:
        trace.step(
            f"callers[{found[0]}]", found[1].source, "note", f"this entry names the caller: role {found[1].role}"
        )
    require(snapshot, found[1], "agent:execute", state.roles)
    if state.stopped:
        raise errors.Stopped("the emergency stop is on", hint="an administrator resumes with `stockade resume`")
    check_labels(labels)
    who = context(snapshot, found, peer, labels, tool, state.roles, trace)
    tools.require(snapshot, tool, who)
    return who


def _allow(
    snapshot: Snapshot, who: Context, profile: Profile, tool: str, state: Counters, trace: Trace | None
) -> Admission:
    """What role, labels, profile and rules make of the request; limits are the profile's."""
    level, rule, source = who.autonomy
    if AUTONOMY.index(profile.autonomy) < AUTONOMY.index(level):
        level, rule, source = profile.autonomy, f"profiles.{profile.name}.autonomy", profile.source
    network = ""
    if who.network is not None and NETWORKS.index(who.network[0]) < NETWORKS.index(profile.network):
        network = who.network[0]
    readonly = level == "readonly" or not snapshot.tools.file_write_enabled
    if trace is not None:
        trace.step(rule, source, "narrow" if level != "full" else "note", f"autonomy is {level}")
        if network:
            trace.step(*(who.network or ("", "", ""))[1:], "narrow", f"network is {network}")
    reasons = rules.apply(
        snapshot, "agent:execute", who.facts(tool, profile.name), state.now, audit_ok=state.audit_ok, trace=trace
    )
    labels = who.labels
    found = Admission(
        context=who,
        profile=profile,
        limits=profile.limits,
        rule=f"callers[{who.index}].profiles",
        source=who.caller.source,
        reason=f"role {who.acting[-1]}, profile {profile.name} granted",
        autonomy=level,
        readonly=readonly,
        network=network,
        who=meters.Who(who.who, labels.get("agent", ""), labels.get("user", ""), labels.get("channel", ""), tool),
        reasons=tuple(reasons),
    )
    if snapshot.alerts.asks:
        found.reasons += (alerts := meters.asked(snapshot, found.who, state.book, state.now))
        if trace is not None:
            for reason in alerts:
                trace.step(reason.rule, reason.source, "ask", reason.detail)
    if trace is not None:
        trace.step(found.rule, found.source, "allow", found.reason)
    return found


def _fits(found: Admission, session: Session) -> None:
    """A session cannot become narrower for one of its runs."""
    if found.readonly and not session.readonly:
        raise errors.Denied(
            "this request may only read, and the session can write its workspace",
            field="session",
            rule="autonomy",
            source=found.source,
            layer="landlock",
            allowed="a session that is opened with the same labels: it will be read-only",
            hint="open a session for this agent, channel or user",
        )
    if found.network and found.network != session.network:
        raise errors.Denied(
            f"this request may have network {found.network} at most, and the session has more",
            field="session",
            rule="contexts.network",
            source=found.source,
            layer="namespaces",
            allowed="a session that is opened with the same labels",
            hint="open a session for this agent, channel or user",
        )


def _judged(
    snapshot: Snapshot,
    peer: Peer,
    found: Admission,
    request: RunRequest,
    session: Session | None,
    workspace: str,
    state: Counters,
    analysis: Analysis,
    trace: Trace | None,
) -> Admission:
    """The command, then how much: what is asked about, narrowed, or over a rate."""
    caller = found.context.caller
    if request.script is not None:
        places.check_shell(found.profile)
    supervised = found.autonomy != "full"  # what may only read is asked no less than what may write
    where = workspace, directory(workspace, request.cwd)
    looked = asking.look(snapshot, found.context, analysis, where, supervised=supervised, trace=trace)
    reasons = [*found.reasons, *looked.reasons]
    readonly, network, notes = found.readonly, found.network, looked.notes
    if looked.unparsed and supervised:
        if not readonly and snapshot.autonomy.unparsed == "ask" and answerable(snapshot, peer, caller):
            reasons.append(
                Reason("autonomy.unparsed", snapshot.autonomy.source, looked.unparsed, "unparsed", blanket=False)
            )
        elif session is None:  # the narrowest box that there is
            readonly, network = True, "none"
            notes = [*notes, f"unparsed: {looked.unparsed}; so the workspace is read-only"]
        elif not readonly:
            raise _only_readonly(snapshot, looked.unparsed)
    if reasons and not answerable(snapshot, peer, caller):
        raise _nobody(reasons[0])
    within = "" if session is None else session.id
    left, wall = meters.check(snapshot, found.who, within, state.book, state.now)
    found.verdict = "ask" if reasons else "allow"
    found.limits, found.left = meters.narrowed(found.limits, wall), left
    found.waits = _full(snapshot, found.who, state)
    found.reasons, found.notes = tuple(reasons), tuple(notes)
    found.readonly, found.network = readonly, network
    return found


def _full(snapshot: Snapshot, who: meters.Who, state: Counters) -> bool:
    """Whether the run has to wait for a place. Raises LimitReached where policy has no queue."""
    most = snapshot.concurrency.runs_per_agent
    running = state.book.running(who) if most else 0
    if state.runs < snapshot.service.runs and (not most or running < most):
        return False
    if snapshot.concurrency.queue:
        return True
    if most and running >= most:
        raise errors.LimitReached(
            f"{running} runs of this agent are going on",
            field="run",
            rule="concurrency.runs_per_agent",
            source=snapshot.concurrency.source,
            allowed=f"{most} runs of one agent at once",
            hint="wait for one of them to end, then try again",
            retry_after=_RETRY_RUN,
        )
    raise errors.LimitReached(
        f"{state.runs} runs are going on",
        field="run",
        rule="service.runs",
        allowed=f"{snapshot.service.runs} runs at once",
        hint="wait for runs to end, then try again",
        retry_after=_RETRY_RUN,
    )


def _nobody(reason: Reason) -> errors.Denied:
    """R47: what would be asked about is denied where nobody can answer; that is not fail-open."""
    return errors.Denied(
        f"this has to be approved ({reason.detail}), and policy names nobody else who could",
        field="command",
        rule=reason.rule,
        source=reason.source,
        layer="decision",
        allowed="what is not asked about",
        hint="have the operator name a caller with the permission approvals:answer, or take the entry out of the list",
    )


def _only_readonly(snapshot: Snapshot, why: str) -> errors.Denied:
    return errors.Denied(
        f"the script cannot be parsed ({why}), so it may only run where it cannot write",
        field="script",
        rule="autonomy.unparsed",
        source=snapshot.autonomy.source,
        layer="decision",
        allowed="the same with `workspace` in place of `session`: it runs with the workspace read-only",
        hint="correct the script, or run it on its own",
    )


__all__ = ["Admission", "Counters", "admit_run", "admit_session", "find_caller", "permits", "require"]
