"""Every key of policy, declared once: type, unit, default, meaning, enforcer and probe.

Here are the service, the callers and the file as a whole; what a session is confined to is declared in confining.py,
what is decided about a request in deciding.py, how much in metering.py. docs/policy.md is generated from these tables
(reference.py), and a test walks the keys and fails on one without enforcer and probe. Strict, frozen, no unknown key.
Values come out in the units of policy.snapshot.
"""

from __future__ import annotations

from typing import Annotated, Any, cast

from pydantic import Field, PlainValidator, model_validator

from supervisor.policy import deciding as d
from supervisor.policy import fields as f
from supervisor.policy import metering as m
from supervisor.policy import values as v
from supervisor.policy.confining import Ceiling, Profile
from supervisor.policy.fields import Table
from supervisor.policy.narrow import AUTONOMY

_COUNT, _TIME = "count", "time"


class Caller(Table):
    """Who may use the socket, as the kernel says. An entry by unit counts before one by uid, that before a group."""

    unit: Annotated[str | None, f.optional(f.unit_name)] = f.key(
        None,
        "The systemd system unit that the calling process runs in. Exactly one of unit, uid, user and group is given.",
        unit="name of a .service, .scope or .slice",
        enforcer="admission by SO_PEERPIDFD or SO_PEERCRED, unix(7)",
        probe="admission",
    )
    uid: Annotated[int | None, f.optional(f.a_count(0, 2**32 - 2))] = f.key(
        None,
        "The calling process's effective uid, as a number.",
        unit=_COUNT,
        enforcer="admission by SO_PEERCRED, unix(7)",
        probe="admission",
    )
    user: Annotated[str | None, f.optional(f.account)] = f.key(
        None,
        "The same by name; the name is looked up when the policy is loaded and must exist.",
        unit="user name",
        enforcer="admission by SO_PEERCRED, unix(7)",
        probe="admission",
    )
    group: Annotated[str | None, f.optional(f.account)] = f.key(
        None,
        "A group that the calling process has, primary or supplementary; it must exist when the policy is loaded.",
        unit="group name",
        enforcer="admission by SO_PEERGROUPS, unix(7)",
        probe="admission",
    )
    role: Annotated[str, PlainValidator(f.named)] = f.key(
        ...,
        "viewer: sees its own runs and the status. operator: starts, sees and ends its own. administrator: all of "
        "everybody's, reload, emergency stop and answers to questions too. Others are declared in `[roles.NAME]`.",
        unit="name of a role",
        enforcer="admission of every request",
        probe="admission",
    )
    workspaces: Annotated[tuple[Annotated[str, PlainValidator(f.workspace_pattern)], ...], f.LIST] = f.key(
        [],
        "Directories that this caller may hand in as workspaces, compared with the real path. `*` stays within one "
        "component, `**` does not. The directory must belong to the caller unless any_owner is true; one that "
        "belongs to root is never accepted, nor one with .ssh, .gnupg, AWS credentials or .config/gcloud at its top.",
        unit="list of path patterns",
        enforcer="admission, and again the launcher on the opened directory",
        probe="admission",
    )
    profiles: Annotated[tuple[Annotated[str, PlainValidator(f.named)], ...], f.LIST] = f.key(
        [],
        "Profiles that this caller may use; the first is what a request without a profile gets.",
        unit="list of profile names",
        enforcer="admission, and again the launcher",
        probe="admission",
    )
    any_owner: bool = f.key(
        False,
        "Whether workspaces of other users (never of root) are accepted.",
        unit="true or false",
        enforcer="admission, and again the launcher on the opened directory",
        probe="admission",
    )
    autonomy: Annotated[str, f.one_of(*AUTONOMY)] = f.key(
        "full",
        "The most autonomy of this caller's requests; see `[autonomy] level`.",
        unit=" or ".join(f'"{level}"' for level in AUTONOMY),
        enforcer="the decision; readonly: the launcher too",
        probe="readonly",
    )
    zone: Annotated[int, f.count(0, 4)] = f.key(
        3,
        "The trust zone of its requests: 0 public, 1 user, 2 API, 3 agent runtime, 4 privileged. Contexts may lower "
        "it.",
        unit="0 to 4",
        enforcer="the decision, wherever a rule or context matches `zone`",
        probe="decision",
    )
    labels: Annotated[tuple[tuple[str, tuple[str, ...]], ...], PlainValidator(v.stated)] = f.key(
        {},
        'The labels that it may state about its requests, each with patterns of the value: { channel = ["slack-*"] }; '
        'the name "*" stands for every label. Others are refused.',
        unit="table of a name to a list of patterns",
        enforcer="the decision about every request",
        probe="decision",
    )
    must_state: Annotated[tuple[str, ...], PlainValidator(v.label_names)] = f.key(
        [],
        "Labels without which a request of it is refused, so that leaving one out is no way past a context.",
        unit="list of labels",
        enforcer="the decision about every request",
        probe="decision",
    )
    may_request: Annotated[tuple[str, ...], PlainValidator(v.role_names)] = f.key(
        [],
        "Roles that it may ask for, for a time; somebody else has to agree.",
        unit="list of roles",
        enforcer="the decision about every request",
        probe="approvals",
    )


class Service(Table):
    """Bounds of the whole service. Only policy.toml may have it."""

    sessions: Annotated[int, f.count(1, 65_536)] = f.key(
        256,
        "Sessions that may be open at once.",
        unit=_COUNT,
        enforcer="admission",
        probe="service",
    )
    runs: Annotated[int, f.count(1, 65_536)] = f.key(
        64,
        "Runs that may be executing at once.",
        unit=_COUNT,
        enforcer="admission",
        probe="service",
    )
    session_idle: Annotated[int, PlainValidator(f.session_idle)] = f.key(
        "10m",
        "After this time without a run a session is closed.",
        unit=_TIME,
        enforcer="the main process's timer",
        probe="service",
    )
    uid_range: Annotated[tuple[int, int], PlainValidator(f.uid_range)] = f.key(
        [1_900_000_000, 65_536],
        "The uids that sessions run under, each its own: the first, and how many. Keep accounts of the host out of it; "
        "a caller in it is refused.",
        unit="[first, how many]",
        enforcer="setresuid(2) in the session, out of this range only",
        probe="service",
    )

    @model_validator(mode="after")
    def _a_uid_for_each_session(self) -> Service:
        if self.uid_range[1] < self.sessions:
            raise f.refuse(
                f"{self.sessions} sessions, but uid_range has only {self.uid_range[1]} uids", "a uid for each session"
            )
        return self


class Policy(Table):
    """A policy file."""

    service: Service = Field(default_factory=Service)
    ceiling: Ceiling = Field(default_factory=Ceiling)
    profiles: Annotated[dict[Annotated[str, PlainValidator(f.named)], Profile], Field(max_length=64)] = Field(
        default_factory=dict
    )
    callers: Annotated[tuple[Caller, ...], f.listing(4096)] = Field(default=cast("Any", []))  # validated to a tuple
    tools: d.Tools = Field(default_factory=d.Tools)
    autonomy: d.Autonomy = Field(default_factory=d.Autonomy)
    roles: Annotated[dict[Annotated[str, PlainValidator(f.named)], d.Role], Field(max_length=64)] = Field(
        default_factory=dict
    )
    contexts: Annotated[tuple[d.Context, ...], f.listing(1024)] = Field(default=cast("Any", []))
    rules: Annotated[tuple[d.Rule, ...], f.listing(1024)] = Field(default=cast("Any", []))
    rates: Annotated[tuple[m.Rate, ...], f.listing(64)] = Field(default=cast("Any", []))
    budgets: Annotated[tuple[m.Budget, ...], f.listing(64)] = Field(default=cast("Any", []))
    breaker: m.Breaker = Field(default_factory=m.Breaker)
    alerts: m.Alerts = Field(default_factory=m.Alerts)
    concurrency: m.Concurrency = Field(default_factory=m.Concurrency)
    approvals: d.Approvals = Field(default_factory=d.Approvals)
    tests: Annotated[tuple[d.Test, ...], f.listing(1024)] = Field(default=cast("Any", []))
