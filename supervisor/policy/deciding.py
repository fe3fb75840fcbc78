"""The keys of policy that say who may do what and when to ask, and the tests that hold them to it.

Declared like the rest in model.py.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PlainValidator, model_validator

from supervisor.policy import fields as f
from supervisor.policy import values as v
from supervisor.policy import words as w
from supervisor.policy.narrow import AUTONOMY, NETWORKS

_COUNT, _TIME = "count", "time"
_NAMES = "list of names"
_PATTERNS = "table of a name to a list of patterns"
_DECIDE = "the decision about every request"
_LEVELS = " or ".join(f'"{level}"' for level in AUTONOMY)

Names = Annotated[tuple[Annotated[str, PlainValidator(f.named)], ...], f.LIST]
Patterns = Annotated[tuple[tuple[str, tuple[str, ...]], ...], PlainValidator(v.patterns)]
Commands = Annotated[tuple[Annotated[str, PlainValidator(v.command_pattern)], ...], f.LIST]

BLOCKED = ["rm -rf /", "mkfs", "dd if=", "format", "chmod 777", "chown root", "nmap", "tcpdump", "xmrig", "cgminer"]
ASKED = ["rm -rf", "DROP TABLE", "kubectl delete", "git push --force"]
RISKS_ASKED = ["destructive", "privilege", "secrets", "remote_code", "persistence", "evasion", "dynamic"]


class Tools(f.Table):
    """Which tools there are at all. Only policy.toml may have it."""

    policy: Annotated[str, f.one_of(*w.TOOL_POLICIES)] = f.key(
        "enabled",
        '"enabled": every tool that is switched on. "whitelist": of these only those of allow_list. "restrictive": '
        "the same, and meant to have an empty list: no tool at all.",
        unit=" or ".join(f'"{p}"' for p in w.TOOL_POLICIES),
        enforcer=_DECIDE,
        probe="decision",
    )
    allow_list: Annotated[tuple[Annotated[str, f.one_of(*w.TOOLS)], ...], f.LIST] = f.key(
        [], "The tools of a whitelist.", unit="list of " + ", ".join(w.TOOLS), enforcer=_DECIDE, probe="decision"
    )
    shell_enabled: bool = f.key(
        True, "Whether commands may be run.", unit="true or false", enforcer=_DECIDE, probe="decision"
    )
    file_write_enabled: bool = f.key(
        True,
        "Whether any tool may change a workspace. With false every workspace is mounted read-only.",
        unit="true or false",
        enforcer="the launcher: read-only mount and Landlock, for every session",
        probe="readonly",
    )
    browser_enabled: bool = f.key(
        False, "Whether the browser may be driven.", unit="true or false", enforcer=_DECIDE, probe="decision"
    )


class Autonomy(f.Table):
    """How much anybody may do unasked, and what is denied or asked about. Only policy.toml may have it.

    Command patterns are compared with the parsed words of every simple command, wherever it stands: in pipes,
    substitutions, `sh -c`, `env`, `xargs`, `find -exec`. They classify; what cannot be let happen is the profile's to
    prevent.
    """

    level: Annotated[str, f.one_of(*AUTONOMY)] = f.key(
        "supervised",
        '"supervised": what approval_patterns and approval_risks name is asked about, and denied where nobody can '
        'answer. "readonly": the same, and no session can write its workspace. "full": nothing is asked. The narrowest '
        "of this, the "
        "profile's, the caller's and every matching context's counts.",
        unit=_LEVELS,
        enforcer="the decision; readonly: the launcher, by a read-only mount and Landlock",
        probe="readonly",
    )
    blocked_commands: Commands = f.key(
        BLOCKED,
        "Denied, whatever the autonomy. What only the run will know (`$(which nmap)`) is asked about where it most "
        "likely is one of these, and denied where nothing is asked about.",
        unit="list of command patterns",
        enforcer=_DECIDE,
        probe="decision",
    )
    approval_patterns: Commands = f.key(
        ASKED, "Asked about.", unit="list of command patterns", enforcer=_DECIDE, probe="decision"
    )
    approval_risks: Annotated[tuple[Annotated[str, f.one_of(*w.RISKS)], ...], f.LIST] = f.key(
        RISKS_ASKED,
        "Kinds of danger that are asked about when a command shows signs of them: "
        + " ".join(f"{name}: {said}." for name, said in w.RISKS.items()),
        unit="list of " + ", ".join(w.RISKS),
        enforcer=_DECIDE,
        probe="decision",
    )
    unparsed: Annotated[str, f.one_of("ask", "readonly")] = f.key(
        "ask",
        'What becomes of a script that cannot be parsed. "ask": it is asked about, and where nobody can answer it '
        'runs with the workspace read-only. "readonly": it runs so at once.',
        unit='"ask" or "readonly"',
        enforcer=_DECIDE,
        probe="decision",
    )
    workspace_only: bool = f.key(
        True,
        "Whether the file tool is kept inside the workspace; outside of it is also what a command's arguments are "
        "classified by.",
        unit="true or false",
        enforcer=_DECIDE,
        probe="decision",
    )
    forbidden_paths: Annotated[tuple[Annotated[str, PlainValidator(v.named_path)], ...], f.LIST] = f.key(
        [],
        "Beside the 14 system directories and the 4 directories of secrets: what no tool may name.",
        unit="list of paths, absolute or starting with ~/",
        enforcer=_DECIDE,
        probe="decision",
    )
    granted_paths: Annotated[tuple[Annotated[str, PlainValidator(v.named_path)], ...], f.LIST] = f.key(
        [],
        "What may be named although it is forbidden. It opens nothing that the profile does not show.",
        unit="list of paths, absolute or starting with ~/",
        enforcer=_DECIDE,
        probe="decision",
    )


class Role(f.Table):
    """What callers of this role may do. viewer, operator and administrator are built in and may be declared again.

    Only policy.toml may have it.
    """

    permissions: Annotated[tuple[Annotated[str, PlainValidator(v.permission)], ...], f.LIST] = f.key(
        ...,
        "Of " + ", ".join(w.PERMISSIONS) + '; with `*` for either half: "agent:*".',
        unit="list of permissions",
        enforcer=_DECIDE,
        probe="decision",
    )
    requires_approval: bool = f.key(
        False,
        "Whether privileged operations (" + ", ".join(w.PRIVILEGED) + ") are asked about.",
        unit="true or false",
        enforcer=_DECIDE,
        probe="approvals",
    )
    mfa_required: bool = f.key(
        False,
        "Whether privileged operations need a one-time code (TOTP, RFC 6238), each code once.",
        unit="true or false",
        enforcer=_DECIDE,
        probe="approvals",
    )
    second_person: bool = f.key(
        False,
        "Whether a question about a request of this role takes the yes of two people.",
        unit="true or false",
        enforcer=_DECIDE,
        probe="approvals",
    )


class Context(f.Table):
    """What holds for requests that carry certain labels. Every entry that matches applies, and each only narrows."""

    match: Patterns = f.key(
        ...,
        "Labels and the patterns (`*`, `?`) of which one must match each: channel, agent, user and so on; also "
        + ", ".join(w.SPECIAL)
        + ". What was not stated counts as empty text, which `*` matches. What names a zone names "
        "every less trusted one too; the role is the caller's own, and where that may not run anything, also each that "
        "it was given for a time and that may.",
        unit=_PATTERNS,
        enforcer=_DECIDE,
        probe="decision",
    )
    zone: Annotated[int | None, f.optional(f.a_count(0, 4))] = f.key(
        None,
        "The trust zone of such a request: 0 public, 1 user, 2 API, 3 agent runtime, 4 privileged. The lowest counts.",
        unit="0 to 4",
        enforcer=_DECIDE,
        probe="decision",
    )
    role: Annotated[str | None, f.optional(f.named)] = f.key(
        None, "A role whose permissions it must have too.", unit="role", enforcer=_DECIDE, probe="decision"
    )
    autonomy: Annotated[str | None, f.optional(v.level)] = f.key(
        None, "The most autonomy that it has.", unit=_LEVELS, enforcer=_DECIDE, probe="decision"
    )
    profiles: Names | None = f.key(
        None,
        "Of the caller's profiles it may use these; the first of them is the default.",
        unit="list of profile names",
        enforcer=_DECIDE,
        probe="decision",
    )
    network: Annotated[str | None, f.optional(v.network)] = f.key(
        None,
        "The widest network.",
        unit=" or ".join(f'"{n}"' for n in NETWORKS),
        enforcer="the launcher, which makes the session so",
        probe="network",
    )
    tools: Annotated[tuple[Annotated[str, f.one_of(*w.TOOLS)], ...], f.LIST] | None = f.key(
        None, "The tools that it may use.", unit="list of " + ", ".join(w.TOOLS), enforcer=_DECIDE, probe="decision"
    )
    blocked_commands: Commands = f.key(
        [], "Denied as well.", unit="list of command patterns", enforcer=_DECIDE, probe="decision"
    )
    approval_patterns: Commands = f.key(
        [], "Asked about as well.", unit="list of command patterns", enforcer=_DECIDE, probe="decision"
    )


class Require(f.Table):
    """What must hold; every key that is given."""

    time: Annotated[tuple[tuple[int, int], ...], PlainValidator(v.spans)] = f.key(
        [],
        'Spans of the day, "08:00-18:00"; one that ends before it begins goes over midnight.',
        unit="list of spans",
        enforcer=_DECIDE,
        probe="decision",
    )
    days: Annotated[tuple[int, ...], PlainValidator(v.days)] = f.key(
        [],
        'Days of the week, "mon" to "sun", also as "mon-fri".',
        unit="list of days",
        enforcer=_DECIDE,
        probe="decision",
    )
    timezone: Annotated[str, PlainValidator(v.timezone)] = f.key(
        "UTC", "Where time and days are taken.", unit="name of the IANA database", enforcer=_DECIDE, probe="decision"
    )
    source_ip: Annotated[tuple[Annotated[str, PlainValidator(v.ip_network)], ...], f.LIST] = f.key(
        [],
        "Networks of which one holds the label source_ip.",
        unit="list of networks in CIDR form",
        enforcer=_DECIDE,
        probe="decision",
    )
    labels: Patterns = f.key(
        {},
        "Labels that must be stated with a value that one of the patterns matches: device_encrypted, mfa, data. Only "
        "runs and sessions carry labels.",
        unit=_PATTERNS,
        enforcer=_DECIDE,
        probe="decision",
    )
    audit: bool = f.key(
        False, "Whether the audit log must be working.", unit="true or false", enforcer=_DECIDE, probe="decision"
    )


class Rule(f.Table):
    """A request that `permissions` and `match` concern is denied, or asked about, unless all of `require` holds.

    Rules only take away: what no rule concerns is decided by role and profile alone. What is one's own can be seen and
    ended whatever they say. Asked about are runs, sessions and privileged operations; the rest is only denied.
    """

    name: Annotated[str, PlainValidator(f.named)] = f.key(
        ..., "What answers and log call it.", unit="name", enforcer=_DECIDE, probe="decision"
    )
    permissions: Annotated[tuple[Annotated[str, PlainValidator(v.permission)], ...], f.LIST] = f.key(
        ["agent:execute"], "What it is about.", unit="list of permissions", enforcer=_DECIDE, probe="decision"
    )
    match: Patterns = f.key(
        {}, "Which requests; as in contexts. Without it: all.", unit=_PATTERNS, enforcer=_DECIDE, probe="decision"
    )
    require: Require = Field(default_factory=Require, description="What must hold.")
    effect: Annotated[str, f.one_of("deny", "ask")] = f.key(
        "deny",
        "What happens where that does not hold. Without `require` it always happens.",
        unit='"deny" or "ask"',
        enforcer=_DECIDE,
        probe="decision",
    )


class Approvals(f.Table):
    """Questions and the answers to them. Only policy.toml may have it."""

    timeout: Annotated[int, PlainValidator(v.a_time)] = f.key(
        "10m", "A question that nobody answered by then is denied.", unit=_TIME, enforcer="the main process's timer",
        probe="approvals",
    )  # fmt: skip
    pending: Annotated[int, f.count(1, 10_000)] = f.key(
        1000, "Questions that may be open at once. One more is refused, or takes the place of the newest of whoever "
        "asks most.", unit=_COUNT, enforcer=_DECIDE, probe="approvals",
    )  # fmt: skip
    grant: Annotated[int, PlainValidator(v.a_time)] = f.key(
        "10m", "How long a yes holds that names no time.", unit=_TIME, enforcer=_DECIDE, probe="approvals"
    )
    longest: Annotated[int, PlainValidator(v.a_time)] = f.key(
        "24h", "The longest time that a yes may name.", unit=_TIME, enforcer=_DECIDE, probe="approvals"
    )
    access: Annotated[int, PlainValidator(v.a_time)] = f.key(
        "4h", "The longest time of a role that was asked for.", unit=_TIME, enforcer=_DECIDE, probe="approvals"
    )


class Test(f.Table):
    """A decision that this policy makes. Looked at before it serves; one that comes out otherwise refuses it."""

    tool: Annotated[str, f.one_of(*w.TOOLS)] = f.key(
        "shell", "The tool.", unit="one of " + ", ".join(w.TOOLS), enforcer="the loader's tests", probe="tests"
    )
    command: Annotated[str | None, f.optional(v.script)] = f.key(
        None, "A script. Exactly one of command and argv is given.", unit="text", enforcer="the loader's tests",
        probe="tests",
    )  # fmt: skip
    argv: Annotated[tuple[str, ...] | None, f.optional(v.arguments)] = f.key(
        None, "A command as its words.", unit="list of text", enforcer="the loader's tests", probe="tests"
    )
    caller: Annotated[str | None, f.optional(f.account)] = f.key(
        None,
        'Who asks: the unit, user or group of an entry of callers, or "uid:N". Without it: the first that may run '
        "anything.",
        unit="text",
        enforcer="the loader's tests",
        probe="tests",
    )
    profile: Annotated[str | None, f.optional(f.named)] = f.key(
        None, "The profile that is asked for.", unit="profile name", enforcer="the loader's tests", probe="tests"
    )
    workspace: Annotated[str | None, f.optional(v.absolute)] = f.key(
        None, "The workspace. Without it: one that the caller is granted.", unit="path", enforcer="the loader's tests",
        probe="tests",
    )  # fmt: skip
    labels: Annotated[tuple[tuple[str, str], ...], PlainValidator(v.labels)] = f.key(
        {}, "What the request carries.", unit="table of text", enforcer="the loader's tests", probe="tests"
    )
    expect: Annotated[str, f.one_of("allow", "ask", "deny")] = f.key(
        ..., "What must come out.", unit='"allow", "ask" or "deny"', enforcer="the loader's tests", probe="tests"
    )

    @model_validator(mode="after")
    def _one_command(self) -> Self:
        if (self.command is None) == (self.argv is None):
            raise f.refuse("neither or both of command and argv", "exactly one of them")
        return self
