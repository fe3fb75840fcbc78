"""Where the policy files meet: the ceiling over every profile, redefinitions, callers, and names that must exist.

Whatever a drop-in adds only narrows, or adds callers and profiles within [ceiling]; so no order and no number of
files grants more than policy.toml meant to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from supervisor.policy import entries, mentions, model, narrow, programs
from supervisor.policy import snapshot as compiled
from supervisor.policy.fields import shown
from supervisor.policy.findings import Finding, dotted, finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from supervisor.policy import confining
    from supervisor.policy.locate import Loc
    from supervisor.policy.parsed import File

Resolve = Callable[[Literal["user", "group"], str], int | None]

# What is of the whole service: a drop-in has none of it.
ONLY_MAIN = ("service", "ceiling", "tools", "autonomy", "roles", "breaker", "alerts", "concurrency", "approvals")


@dataclass(slots=True)
class Compiler:
    """Compiles once. What is wrong is added to `found`; the snapshot is of use only when nothing is."""

    resolve: Resolve
    found: list[Finding]
    ceiling: compiled.Ceiling | None = None
    known: mentions.Known = field(default_factory=lambda: mentions.Known([], [], []))
    profiles: dict[str, compiled.Profile] = field(default_factory=dict)
    callers: list[compiled.Caller] = field(default_factory=list)
    walked: programs.Walked = field(default_factory=dict)

    def compile(self, files: list[File]) -> compiled.Snapshot:
        main = next((f for f in files if not f.source.drop_in), None)
        for file in files:
            if file.source.drop_in:
                self._only_additions(file)
        self.ceiling = _ceiling(main) if main is not None and "ceiling" not in main.broken else None
        self.known = _known(files)
        service = main.policy.service if main is not None else model.Service()
        for file in files:
            for name, table in file.policy.profiles.items():
                self._profile(file, name, table)
        first, many = service.uid_range
        for file in files:
            for loc, caller in _each(file, "callers"):
                self._caller(file, loc, caller, range(first, first + many))
        if files and not self.found and not self.profiles:
            self._say(files[0], (), "no profile is declared", "at least one [profiles.NAME]")
        return compiled.Snapshot(
            profiles=tuple(self.profiles.values()),
            callers=tuple(self.callers),
            service=entries.service(service),
            files=tuple((f.source.path, f.source.digest) for f in files),
            contexts=tuple(self._contexts(files)),
            rules=tuple(self._rules(files)),
            rates=tuple(entries.rate(t, file.at(loc)) for file in files for loc, t in _each(file, "rates")),
            budgets=tuple(self._budgets(files)),
            tests=tuple(self._tests(files)),
            ceiling=self.ceiling,
            **(self._of_main(main) if main is not None else {}),
        )

    def _of_main(self, file: File) -> dict[str, Any]:
        """The tables that only policy.toml has."""
        policy = file.policy
        self._wrong(file, ("approvals",), mentions.approvals(policy.approvals))
        self._wrong(file, ("ceiling",), mentions.ceiling(policy.ceiling, self.known))
        return {
            "tools": entries.tools(policy.tools, file.where("tools")),
            "autonomy": entries.autonomy(policy.autonomy, file.where("autonomy")),
            "roles": tuple(entries.role(name, t, file.at(("roles", name))) for name, t in policy.roles.items()),
            "breaker": entries.breaker(policy.breaker, file.where("breaker")),
            "alerts": entries.alerts(policy.alerts, file.where("alerts")),
            "concurrency": entries.concurrency(policy.concurrency, file.where("concurrency")),
            "approvals": entries.approvals(policy.approvals, file.where("approvals")),
        }

    def _say(self, file: File, loc: Loc, message: str, expected: str | None = None, nearest: str | None = None) -> None:
        line = file.lines.of(loc)
        self.found.append(finding(file.source.path, line, dotted(loc), message, expected=expected, nearest=nearest))

    def _wrong(self, file: File, loc: Loc, wrong: Iterable[mentions.Wrong]) -> None:
        for at, message, expected, nearest in wrong:
            self._say(file, (*loc, *at), message, expected, nearest)

    def _only_additions(self, file: File) -> None:
        for section in ONLY_MAIN:
            if section in file.raw:
                self._say(file, (section,), "a drop-in cannot have this table", "it in policy.toml")

    def _profile(self, file: File, name: str, table: confining.Profile) -> None:
        loc = ("profiles", name)
        profile = entries.profile(name, table, file.at(loc))
        bounds: list[tuple[compiled.Ceiling | compiled.Profile, str]] = []
        if self.ceiling is not None:
            bounds.append((self.ceiling, f"[ceiling] in {self.ceiling.source}"))
        if name in self.profiles:
            bounds.append((self.profiles[name], f"the profile that it replaces, at {self.profiles[name].source}"))
        for bound, what in bounds:
            for v in narrow.within(profile, bound):
                at: Loc = (*loc, *v.field.split("."), *(() if v.index is None else (v.index,)))
                default = "" if file.written(at) else " (the default)"
                said = f"{v.asked}{default} is wider than {what} grants"
                self._say(file, at, said, f"within {v.bound}")
        self.profiles[name] = self._with_programs(file, profile)

    def _with_programs(self, file: File, profile: compiled.Profile) -> compiled.Profile:
        """The profile with what its allowed_commands are on this host."""
        path = dict(profile.env).get("PATH", programs.DEFAULT_PATH)
        found, covered, problems = programs.resolve(profile, path, self.walked)
        for p in problems:
            loc = ("profiles", profile.name, "allowed_commands")
            self._say(file, loc if p.place is None else (*loc, p.place), p.message, p.expected)
        return replace(profile, programs=found, covered=covered)

    def _caller(self, file: File, loc: Loc, table: model.Caller, uids: range) -> None:
        caller = self._identity(file, loc, table)
        self._wrong(file, loc, mentions.caller(table, self.known))
        if self.ceiling is not None:
            if file.source.drop_in:
                self._wrong(file, loc, mentions.drop_in_caller(table, self.ceiling.roles, self.ceiling.source))
            for v in narrow.workspaces_within(table.workspaces, self.ceiling.workspaces):
                said = f"{v.asked} is wider than [ceiling] in {self.ceiling.source} grants"
                self._say(file, (*loc, "workspaces", v.index or 0), said, f"within one of {v.bound}")
        if caller is None:
            return
        for number in (caller.uid, caller.gid):
            if number is not None and number in uids:
                self._say(file, loc, f"{number} is in service.uid_range: a session would be this caller")
        if caller.uid == 0 and caller.workspaces and not caller.any_owner:
            said = "root owns no workspace that is ever accepted, so none of these can be used"
            self._say(file, (*loc, "workspaces"), said, "any_owner = true, or no workspaces")
        for other in self.callers:
            if (other.unit, other.uid, other.gid) == (caller.unit, caller.uid, caller.gid):
                self._say(file, loc, f"the same caller is declared at {other.source}, which counts", "one entry")
                break
        self.callers.append(caller)

    def _identity(self, file: File, loc: Loc, table: model.Caller) -> compiled.Caller | None:
        """The caller with its names looked up, or None (and a finding) when it is nobody."""
        uid, gid = table.uid, None
        if table.user is not None:
            uid = self.resolve("user", table.user)
        if table.group is not None:
            gid = self.resolve("group", table.group)
        if (table.unit, uid, gid) == (None, None, None):
            kind, name = ("user", table.user) if table.user is not None else ("group", table.group)
            remedy = f"a {kind} of this host; create it with {kind}add --system {name}, or name another"
            self._say(file, (*loc, kind), f"there is no {kind} {shown(name)}", remedy)
            return None
        return entries.caller(table, uid, gid, file.at(loc))

    def _contexts(self, files: list[File]) -> Iterator[compiled.Context]:
        for file in files:
            for loc, table in _each(file, "contexts"):
                self._wrong(file, loc, mentions.context(table, self.known))
                yield entries.context(table, file.at(loc))

    def _rules(self, files: list[File]) -> Iterator[compiled.Rule]:
        named: dict[str, str] = {}
        for file in files:
            for loc, table in _each(file, "rules"):
                self._wrong(file, loc, mentions.rule(table, self.known))
                source = file.at(loc)
                if table.name in named:
                    said = f"the rule at {named[table.name]} has this name already"
                    self._say(file, (*loc, "name"), said, "a name of its own, by which answers can tell them apart")
                named.setdefault(table.name, source)
                yield entries.rule(table, source)

    def _budgets(self, files: list[File]) -> Iterator[compiled.Budget]:
        for file in files:
            for loc, table in _each(file, "budgets"):
                self._wrong(file, loc, mentions.budget(table))
                yield entries.budget(table, file.at(loc))

    def _tests(self, files: list[File]) -> Iterator[compiled.Test]:
        for file in files:
            for loc, table in _each(file, "tests"):
                self._wrong(file, loc, mentions.test(table, self.known))
                yield entries.test(table, file.at(loc))


def _each(file: File, section: str) -> Iterator[tuple[Loc, Any]]:
    """The valid entries of a list of tables, each with its place in the file."""
    for index, table in zip(file.places[section], getattr(file.policy, section), strict=True):
        yield (section, index), table


def _known(files: list[File]) -> mentions.Known:
    identities: list[str] = []
    for file in files:
        for entry in file.raw["callers"] if isinstance(file.raw.get("callers"), list) else ():
            given = entry if isinstance(entry, dict) else {}
            identities += [given[name] for name in ("unit", "user", "group") if isinstance(given.get(name), str)]
            identities += [f"uid:{given['uid']}"] if type(given.get("uid")) is int else []
    main = [f for f in files if not f.source.drop_in]
    return mentions.Known(
        profiles=[name for file in files for name in file.names("profiles")],
        roles=mentions.roles(name for file in main for name in file.names("roles")),
        identities=identities,
    )


def _ceiling(file: File) -> compiled.Ceiling:
    t = file.policy.ceiling
    where = file.at(("ceiling",)) if "ceiling" in file.raw else f"{file.source.path} (the default one)"
    return compiled.Ceiling(
        t.read, t.write, t.execute, t.network, entries.limits(t.limits), t.workspaces, where, t.roles
    )
