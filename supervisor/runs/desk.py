"""The desk: who may do what to the service itself, and everything that is asked and answered about decisions."""

from __future__ import annotations

import os
import pwd
import time
from typing import TYPE_CHECKING, Any

from supervisor.approvals import operations
from supervisor.audit import events
from supervisor.decide import explain, rules, tools
from supervisor.decide.callers import acting, called, find_caller, permits, require, second_person
from supervisor.decide.context import context
from supervisor.decide.request import Peer
from supervisor.errors import Denied, InvalidRequest, NotFound, StockadeError
from supervisor.policy.words import PRIVILEGED, TOOLS, role
from supervisor.runs import deciding, sessions

if TYPE_CHECKING:
    from supervisor.approvals.model import Grant, Question, Scope, State
    from supervisor.decide.request import RunRequest
    from supervisor.decide.trace import Reason
    from supervisor.policy.snapshot import Caller, Role
    from supervisor.runs.bus import Subscription
    from supervisor.runs.service import Supervisor

_OWN = ("agent:read", "agent:execute")  # what is one's own can be seen and ended, whatever rules say of new runs
_NOBODY = 2**32 - 1  # (gid_t)-1, which is no group: chown(2)


class Desk:
    def __init__(self, room: Supervisor) -> None:
        self._room = room

    # --- who may --------------------------------------------------------------------------------------------------

    def caller(self, peer: Peer) -> Caller:
        return find_caller(self._room.serving.snapshot, peer)[1]

    def roles(self, peer: Peer) -> tuple[str, ...]:
        """The roles that a peer was given for a time."""
        return tuple(self._room.book.roles(peer.uid, peer.unit, self._room.book.now()))

    def permits(self, peer: Peer, permission: str) -> bool:
        """Whether require() lets it pass. Raises what find_caller() raises."""
        if not permits(self._room.serving.snapshot, self.caller(peer), permission, self.roles(peer)):
            return False
        try:
            self._ruled(peer, permission)
        except Denied:
            return False
        return True

    def require(self, peer: Peer, permission: str) -> None:
        """Raises Denied, which is recorded (R69), unless a role of the peer has it and no rule denies it."""
        try:
            self._has(peer, permission)
        except Denied as refusal:
            self._denied(peer, permission, refusal)
            raise

    def _denied(self, peer: Peer, permission: str, refusal: Denied) -> None:
        caller = sessions.caller_of(peer)
        self._room.post(events.security(action=permission, outcome="deny", reason=refusal.detail, caller=caller))

    def _has(self, peer: Peer, permission: str) -> list[Reason]:
        """The same without a record. What rules say is to be asked about is given back: orders are asked about,
        everything else is not."""
        require(self._room.serving.snapshot, self.caller(peer), permission, self.roles(peer))
        return self._ruled(peer, permission)

    def _ruled(self, peer: Peer, permission: str) -> list[Reason]:
        """What rules say of a permission that the peer has. Raises Denied."""
        if permission in _OWN or not self._room.serving.snapshot.rules:
            return []
        caller, role = self.caller(peer), self._role(peer, permission).name
        facts = {"caller": called(peer, caller), "role": role, "tool": "", "profile": "", "zone": str(caller.zone)}
        return rules.apply(self._room.serving.snapshot, permission, facts, time.time(), audit_ok=self._room.audit_ok)

    def sees(self, peer: Peer, permission: str = "agent:read_all", least: str = "agent:read") -> int | None:
        """The uid whose things this peer may see (or end); None is everybody's. Raises Denied."""
        self.require(peer, least)
        return None if self.permits(peer, permission) else peer.uid

    async def order(
        self, peer: Peer, permission: str, parameters: dict[str, Any], code: str | None, *, unasked: bool = False
    ) -> None:
        """Whether an order to the service itself may be given now (R65, R157): role, rules, one-time code, approval.

        `unasked`: never waits for a person. Raises Denied (recorded), StepUpRequired, ApprovalRequired, ApprovalDenied.
        """
        try:
            await self._order(peer, permission, parameters, code, unasked=unasked)
        except Denied as refusal:
            self._denied(peer, permission, refusal)
            raise

    async def _order(
        self, peer: Peer, permission: str, parameters: dict[str, Any], code: str | None, *, unasked: bool
    ) -> None:
        room = self._room
        asked = self._has(peer, permission)
        held = self._role(peer, permission)
        if permission not in PRIVILEGED and not asked:
            return
        waits = not unasked and (bool(asked) or held.requires_approval)
        who = sessions.caller_of(peer)
        # A code is good once, so it is not spent on a request that has to wait for a person first.
        if held.mfa_required and not (waits and not operations.held(room.book, who, permission, parameters)):
            await room.codes.verify(peer.uid, code)
        if not waits:
            return
        rule, source = (asked[0].rule, asked[0].source) if asked else (f"roles.{held.name}", held.source)
        await operations.permit(
            room.book,
            who,
            permission,
            parameters,
            rule=rule,
            source=source,
            needed=2 if held.second_person else 1,
        )

    def _role(self, peer: Peer, permission: str) -> Role:
        """The role by which a peer has a permission: its own before one that it was given."""
        snapshot = self._room.serving.snapshot
        own, *given = acting(snapshot, self.caller(peer), permission, self.roles(peer))
        return role(snapshot, given[0] if given else own)

    # --- questions and grants -------------------------------------------------------------------------------------

    def questions(self, peer: Peer, *, state: State | None, limit: int) -> list[Question]:
        """Newest first: one's own, or with approvals:read everybody's."""
        uid = self.sees(peer, "approvals:read")
        found = (q for q in self._room.book.questions(state) if uid is None or q.asker["uid"] == uid)
        return [q for _, q in zip(range(limit), found, strict=False)]

    def question(self, peer: Peer, ident: str) -> Question:
        """Raises NotFound: also for one that this peer may not know of."""
        uid = self.sees(peer, "approvals:read")
        found = self._room.book.question(ident)
        if uid is not None and found.asker["uid"] != uid:
            raise NotFound(f"there is no approval {ident}", field="approval", hint="see `stockade approvals list`")
        return found

    async def wait(self, peer: Peer, ident: str) -> Question:
        """The question once it is answered or over."""
        self.question(peer, ident)
        return await self._room.book.wait(ident, None)

    async def answer(
        self,
        peer: Peer,
        ident: str,
        *,
        approve: bool,
        scope: Scope,
        times: int | None,
        duration_ms: int | None,
        note: str,
        code: str | None,
    ) -> Question:
        """What one person says to a question. Raises Denied, StepUpRequired, and as Book.answer()."""
        self.require(peer, "approvals:answer")
        self.question(peer, ident)
        if approve and self._role(peer, "approvals:answer").mfa_required:
            await self._room.codes.verify(peer.uid, code)
        return await self._room.book.answer(
            ident,
            peer.uid,
            approve=approve,
            scope=scope,
            times=times,
            duration_ms=duration_ms,
            note=note,
            unit=peer.unit,
            check=self._room.access.check,
        )

    async def withdraw(self, peer: Peer, ident: str) -> Question:
        """One's own question is not asked any more. Raises NotFound, Denied, Conflict."""
        found = self.question(peer, ident)
        if found.asker["uid"] != peer.uid:
            self.require(peer, "approvals:answer")
        return await self._room.book.withdraw(ident)

    def grants(self, peer: Peer) -> list[Grant]:
        uid = self.sees(peer, "approvals:read")
        return [g for g in self._room.book.grants() if uid is None or g.uid == uid]

    async def revoke(self, peer: Peer, ident: str, code: str | None) -> Grant:
        """One's own, or with grants:revoke anybody's. Raises NotFound, Denied, StepUpRequired, Conflict."""
        uid = self.sees(peer, "approvals:read")
        found = self._room.book.grant(ident)
        if uid is not None and found.uid != uid:
            raise NotFound(f"there is no grant {ident}", field="grant", hint="see `stockade grants list`")
        if found.uid != peer.uid:
            await self.order(peer, "grants:revoke", {"grant": ident}, code)
        return await self._room.book.revoke(ident, peer.uid)

    async def request_access(self, peer: Peer, name: str, duration_ms: int, reason: str) -> Question:
        """Ask for a role for a time (R64). Raises Denied, InvalidRequest, LimitReached."""
        self.require(peer, "access:request")
        caller = self.caller(peer)
        _may_request(caller, name)  # by what the kernel says of it now; may_request() is by the host's files
        second = second_person(self._room.serving.snapshot, caller, (name, *self.roles(peer)))
        return await self._room.access.request(
            sessions.caller_of(peer), name, duration_ms, reason, needed=2 if second else 1
        )

    def may_request(self, uid: int, unit: str, name: str) -> None:
        """Raises Denied unless the entry of policy that names whoever this is now lets it ask for the role."""
        _may_request(self.caller(Peer(pid=0, uid=uid, unit=unit, inside=False, **_groups(uid))), name)

    async def enroll(self, peer: Peer, code: str | None) -> dict[str, str]:
        """A new secret for one-time codes, told once. Raises Denied, StepUpRequired when there is one already."""
        self.require(peer, "agent:read")
        return await self._room.codes.enroll(peer.uid, code)

    async def forget_codes(self, peer: Peer, uid: int, code: str | None) -> dict[str, int]:
        """The key of somebody who lost it is good no more. One's own cannot be forgotten so: that would be no second
        factor. Raises Denied, StepUpRequired, ApprovalRequired, Conflict.
        """
        if uid == peer.uid:
            raise Denied(
                "nobody forgets their own key",
                field="uid",
                rule="mfa: not one's own",
                allowed="the key of another user",
                hint="make a new one with a code of the old (`stockade mfa enroll`), or let somebody else forget it",
            )
        await self.order(peer, "credentials:rotate", {"forget_codes": uid}, code)
        await self._room.codes.forget(uid)
        return {"uid": uid}

    # --- what happens ---------------------------------------------------------------------------------------------

    def subscribe(self, peer: Peer, after: int | None) -> Subscription:
        """Events that this peer may see: its own, with agent:read_all all, with approvals:read all of questions.

        Who may not see as much any more (a role that ended, a reload) is dropped, and can come back for less.
        """
        before = self._hears(peer)

        def still() -> bool:
            try:
                return self._hears(peer) == before
            except StockadeError:
                return False

        uid, also, who = before
        return self._room.events.subscribe(uid, after, also, who, still)

    def _hears(self, peer: Peer) -> tuple[int | None, tuple[str, ...], str]:
        also = ("approval.", "grant.") if self.permits(peer, "approvals:read") else ()
        return self.sees(peer), also, called(peer, self.caller(peer))

    # --- why ------------------------------------------------------------------------------------------------------

    async def explain(self, peer: Peer, request: RunRequest) -> dict[str, Any]:
        """What would be decided about a request, every rule that took part, and what would allow just this."""
        room = self._room
        self.require(peer, "agent:read")
        session = None if request.session is None else room.registry.find_session(request.session)
        analysis = await deciding.analysed(room, peer, request)
        state = room.counters(peer)
        found = explain.explain(room.serving.snapshot, room.refused, peer, session, request, state, analysis)
        return {"policy_digest": room.serving.digest, **found}

    def tools(self, peer: Peer) -> list[dict[str, Any]]:
        """Every tool that there is, with the effective answer and the rule behind it (R51)."""
        self.require(peer, "agent:read")
        return [self._tool(peer, name) for name in TOOLS]

    def tool(self, peer: Peer, name: str) -> dict[str, Any]:
        self.require(peer, "agent:read")
        if name not in TOOLS:
            raise NotFound(f"there is no tool {name[:64]!r}", field="tool", allowed=", ".join(TOOLS))
        return self._tool(peer, name)

    def _tool(self, peer: Peer, name: str) -> dict[str, Any]:
        snapshot = self._room.serving.snapshot
        found = find_caller(snapshot, peer)
        try:
            who = context(snapshot, found, peer, {}, name, self.roles(peer))
        except StockadeError:  # labels that must be stated are not known here
            who = None
        answer = tools.check(snapshot, name, who)
        executes = permits(snapshot, found[1], "agent:execute", self.roles(peer))
        if answer.allowed and not executes:
            said = f"the role {found[1].role} does not have agent:execute"
            answer = tools.Answer(name, False, "callers.role", found[1].source, said)
        return {
            "tool": name,
            "allowed": answer.allowed,
            "rule": answer.rule,
            "source": answer.source,
            "reason": answer.reason,
        }

    async def unused(self, peer: Peer, days: int) -> list[dict[str, Any]]:
        """Rules that took part in no decision for so many days (R154)."""
        self.require(peer, "config:read")
        if days < 1:
            raise InvalidRequest("days is not a number of days", field="days", allowed="1 or more")
        return self._room.meters.unused(self._room.serving.snapshot, days, time.time())

    # --- what holds an agent up -----------------------------------------------------------------------------------

    def breakers(self, peer: Peer) -> list[dict[str, Any]]:
        """Breakers that are not closed, or have counted failures: one's own, or with agent:read_all all."""
        uid = self.sees(peer)
        who = called(peer, self.caller(peer))
        return [b for b in self._room.meters.breakers() if uid is None or b["key"].partition("/")[0] == who]

    async def reset_breaker(self, peer: Peer, key: str, code: str | None) -> dict[str, Any]:
        """Close a breaker. Raises Denied, StepUpRequired, NotFound."""
        await self.order(peer, "breaker:reset", {"key": key}, code)
        return await self._room.meters.reset(key)

    def queue(self, peer: Peer) -> list[dict[str, Any]]:
        """Requests that wait for a place, first come first; their positions count everybody's."""
        return self._room.line.entries(self.sees(peer))

    async def leave_queue(self, peer: Peer, ident: str) -> dict[str, Any]:
        """Take a request out of the queue: it is refused. Raises NotFound."""
        self.require(peer, "agent:execute")
        return self._room.line.cancel(ident, self.sees(peer, "agent:end_all"))

    def usage(self, peer: Peer) -> dict[str, Any]:
        """What is used and left of rates and budgets."""
        self.require(peer, "agent:read")
        return self._room.meters.usage(self._room.serving.snapshot, called(peer, self.caller(peer)), time.time())


def _may_request(caller: Caller, name: str) -> None:
    if name not in caller.may_request:
        raise Denied(
            f"this caller may not ask for the role {name[:64]}",
            field="role",
            rule="callers.may_request",
            source=caller.source,
            allowed=", ".join(caller.may_request) or "no role",
            hint="have the operator add it to may_request of this entry",
        )


def _groups(uid: int) -> dict[str, Any]:
    """Which groups a user is in by the host's own files; for questions that were asked a while ago."""
    try:
        entry = pwd.getpwuid(uid)
        return {"gid": entry.pw_gid, "gids": tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))}
    except (KeyError, OSError):
        return {"gid": _NOBODY, "gids": ()}
