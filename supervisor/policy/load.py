"""From the policy files to one snapshot, or every finding at once.

read.py takes the bytes, check.py the tables of each file; here the files meet: ceiling, redefinitions, callers.
Imports pydantic, so a small process asks another one to load and takes the snapshot as JSON.
"""

from __future__ import annotations

import grp
import pwd
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from supervisor.policy import check, model, narrow
from supervisor.policy import snapshot as compiled
from supervisor.policy.fields import close, shown
from supervisor.policy.findings import Finding, dotted, finding, invalid
from supervisor.policy.locate import Lines, Loc, lines
from supervisor.policy.read import Source, read

if TYPE_CHECKING:
    from supervisor.layout import Layout

Resolve = Callable[[Literal["user", "group"], str], int | None]

_SYNTAX = re.compile(r"(.*?)\s*\(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


def resolve(kind: Literal["user", "group"], name: str) -> int | None:
    """The uid or gid of a name on this host, or None."""
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError, OSError):
        return None


def load(layout: Layout, *, trusted_uid: int = 0, resolve: Resolve = resolve) -> compiled.Snapshot:
    """The snapshot of the policy files below `layout.etc`.

    Raises PolicyInvalid with extra["findings"] (findings.py). Files must belong to root or `trusted_uid`.
    """
    sources, found = read(layout, trusted_uid)
    files = [_parse(source, found) for source in sources]
    snapshot = _Compiler(resolve, found).compile([f for f in files if f is not None])
    if found:
        order = {layout.policy: 0, **{s.path: n for n, s in enumerate(sources)}}
        raise invalid(sorted(found, key=lambda f: (order.get(f["file"], -1), f["line"])))
    return snapshot


@dataclass(frozen=True, slots=True)
class _File:
    source: Source
    raw: dict[str, Any]
    lines: Lines
    policy: model.Policy
    places: list[int]  # for each valid caller its index in the file
    broken: frozenset[str]  # sections with a finding of their own

    def at(self, loc: Loc) -> str:
        return f"{self.source.path}:{self.lines.of(loc)}"


def _parse(source: Source, found: list[Finding]) -> _File | None:
    """One file as tables, or None when it is no TOML at all."""
    try:
        text = source.data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = source.data.count(b"\n", 0, e.start) + 1
        found.append(finding(source.path, line, "", f"byte {e.start} is not UTF-8", expected="text in UTF-8"))
        return None
    try:
        raw = tomllib.loads(text)
        located = lines(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as e:
        found.append(_syntax(source.path, text, str(e)))
        return None
    except (RecursionError, ValueError) as e:
        said = "tables or lists are nested too deeply" if isinstance(e, RecursionError) else "a value is out of bounds"
        found.append(finding(source.path, 1, "", said, expected="a policy as docs/policy.md describes it"))
        return None
    policy, places, wrong = check.tables(source.path, raw, located)
    found += wrong
    broken = frozenset(re.split(r"[.\[]", f["key"], maxsplit=1)[0] for f in wrong)
    return _File(source, raw, located, policy, places, broken)


def _syntax(path: str, text: str, said: str) -> Finding:
    """tomllib's sentence; its place is only in the text before Python 3.14."""
    found = _SYNTAX.fullmatch(said)
    message, line, column = found.groups() if found else (said, None, None)
    last = text.rstrip().count("\n") + 1
    return finding(
        path,
        int(line) if line else last,
        "",
        message[:200],
        expected="TOML 1.0",
        column=int(column) if column else None,
    )


@dataclass(slots=True)
class _Compiler:
    resolve: Resolve
    found: list[Finding]
    ceiling: narrow.Ceiling | None = None
    profiles: dict[str, compiled.Profile] = field(default_factory=dict)
    callers: list[compiled.Caller] = field(default_factory=list)

    def compile(self, files: list[_File]) -> compiled.Snapshot:
        service = model.Service()
        for file in files:
            if file.source.drop_in:
                self._only_additions(file)
            else:
                service = file.policy.service
                self.ceiling = None if "ceiling" in file.broken else _ceiling(file)
        for file in files:
            for name, table in file.policy.profiles.items():
                self._profile(file, name, table)
        declared = [f.raw["profiles"] for f in files if isinstance(f.raw.get("profiles"), dict)]
        known = [name for names in declared for name in names]
        first, many = service.uid_range
        for file in files:
            for index, caller in enumerate(file.policy.callers):
                self._caller(file, ("callers", file.places[index]), caller, known, range(first, first + many))
        if files and not self.found and not self.profiles:
            self._say(files[0], (), "no profile is declared", "at least one [profiles.NAME]")
        return compiled.Snapshot(
            profiles=tuple(self.profiles.values()),
            callers=tuple(self.callers),
            service=compiled.Service(service.sessions, service.runs, service.session_idle, first, many),
            files=tuple((f.source.path, f.source.digest) for f in files),
        )

    def _say(
        self, file: _File, loc: Loc, message: str, expected: str | None = None, nearest: str | None = None
    ) -> None:
        line = file.lines.of(loc)
        self.found.append(finding(file.source.path, line, dotted(loc), message, expected=expected, nearest=nearest))

    def _only_additions(self, file: _File) -> None:
        for section in ("service", "ceiling"):
            if section in file.raw:
                self._say(file, (section,), "a drop-in cannot have this table", "it in policy.toml")

    def _profile(self, file: _File, name: str, table: model.Profile) -> None:
        loc = ("profiles", name)
        profile = _profile(name, table, file.at(loc))
        bounds: list[tuple[narrow.Ceiling | compiled.Profile, str]] = []
        if self.ceiling is not None:
            bounds.append((self.ceiling, f"[ceiling] in {self.ceiling.source}"))
        if name in self.profiles:
            bounds.append((self.profiles[name], f"the profile that it replaces, at {self.profiles[name].source}"))
        for bound, what in bounds:
            for v in narrow.within(profile, bound):
                at: Loc = (*loc, *v.field.split("."), *(() if v.index is None else (v.index,)))
                default = "" if _written(file.raw, at) else " (the default)"
                said = f"{v.asked}{default} is wider than {what} grants"
                self._say(file, at, said, f"within {v.bound}")
        self.profiles[name] = profile

    def _caller(self, file: _File, loc: Loc, table: model.Caller, known: list[str], uids: range) -> None:
        caller = self._identity(file, loc, table)
        for n, name in enumerate(table.profiles):
            if name not in known:
                expected = "one of " + ", ".join(dict.fromkeys(known)) if known else "a profile that is declared"
                self._say(
                    file, (*loc, "profiles", n), f"there is no profile {shown(name)}", expected, close(name, known)
                )
        if self.ceiling is not None:
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

    def _identity(self, file: _File, loc: Loc, table: model.Caller) -> compiled.Caller | None:
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
        return compiled.Caller(
            table.unit, uid, gid, table.role, table.workspaces, table.profiles, table.any_owner, file.at(loc)
        )


def _written(raw: Any, loc: Loc) -> bool:
    """Whether a place is there in the file, and not a default."""
    for part in loc:
        if isinstance(raw, dict) and part not in raw:
            return False
        raw = raw[part]
    return True


def _limits(table: model.Limits) -> compiled.Limits:
    values = table.model_dump()
    return compiled.Limits(timeout_ms=values.pop("timeout"), idle_timeout_ms=values.pop("idle_timeout"), **values)


def _ceiling(file: _File) -> narrow.Ceiling:
    t = file.policy.ceiling
    limits = _limits(t.limits)
    where = file.at(("ceiling",)) if "ceiling" in file.raw else f"{file.source.path} (the default one)"
    return narrow.Ceiling(t.read, t.write, t.execute, t.network, limits, t.workspaces, where)


def _profile(name: str, t: model.Profile, source: str) -> compiled.Profile:
    return compiled.Profile(
        name=name,
        read=t.read,
        write=t.write,
        execute=t.execute,
        network=t.network,
        limits=_limits(t.limits),
        required=t.required,
        env=t.env,
        shell=t.shell,
        workspace_owner=t.workspace_owner,
        source=source,
    )
