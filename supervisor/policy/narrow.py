"""Narrower or not: the one comparison that ceiling, drop-ins, main and launcher all use. Pure.

No pydantic here: the launcher decides by this file. "Within" is a partial order: whatever is within something
that is within X is within X, so no order of files and no number of requests adds up to more than the first grant.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from supervisor import errors
from supervisor.policy import globs, units
from supervisor.policy.match import inside
from supervisor.policy.snapshot import Ceiling, Limits, Profile

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supervisor.policy.snapshot import Snapshot

WORKSPACE = "$WORKSPACE"
NETWORKS = ("none", "loopback")  # narrowest first
OWNERS = ("mapped", "shared")  # narrowest first
AUTONOMY = ("readonly", "supervised", "full")  # narrowest first, R46 to R48
PRIVATE = ("/tmp", "/var/tmp", "/home/agent", "/dev/shm")  # noqa: S108 - each session has these to itself
LAYERS = (
    "landlock",
    "seccomp",
    "namespaces",
    "cgroup.memory",
    "cgroup.pids",
    "cgroup.cpu",
    "landlock.net",
    "landlock.scope",
    "idmap",
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which something is wider than its bound. `index` is the item's place in a list."""

    field: str  # as in TOML: "limits.memory", "read"
    asked: str
    bound: str
    index: int | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.asked} is wider than {self.bound}"


def covers(outer: Iterable[str], path: str) -> bool:
    """Whether `path` is one of `outer` or below one. `$WORKSPACE` is below "/" and below itself."""
    return any(directory == "/" or inside(path, directory) for directory in outer)


def exceeds(limit: str, value: int, bound: int) -> bool:
    """Whether a limit's value is wider than the bound. Without an idle timeout nothing is wider."""
    if limit == "idle_timeout_ms":
        return bound != 0 and (value == 0 or value > bound)
    return value > bound


def within(inner: Profile, outer: Profile | Ceiling) -> list[Violation]:
    """Every way in which `inner` is wider than `outer`; empty when it is within."""
    found: list[Violation] = []
    granted = {
        "read": (*outer.read, *outer.write),  # what may be written there may be read there
        "write": outer.write,
        "execute": outer.execute,
    }
    for name, bound in granted.items():
        paths: tuple[str, ...] = getattr(inner, name)
        found += [Violation(name, p, _listed(bound), i) for i, p in enumerate(paths) if not covers(bound, p)]
    if NETWORKS.index(inner.network) > NETWORKS.index(outer.network):
        found.append(Violation("network", inner.network, outer.network))
    for f in fields(Limits):
        value, most = getattr(inner.limits, f.name), getattr(outer.limits, f.name)
        if exceeds(f.name, value, most):
            shown = f"limits.{units.LIMITS[f.name][0]}"
            found.append(Violation(shown, units.show_limit(f.name, value), units.show_limit(f.name, most)))
    if isinstance(outer, Profile):
        dropped = [layer for layer in outer.required if layer not in inner.required]
        if dropped:
            found.append(Violation("required", f"a list without {_listed(dropped)}", _listed(outer.required)))
        if OWNERS.index(inner.workspace_owner) > OWNERS.index(outer.workspace_owner):
            found.append(Violation("workspace_owner", inner.workspace_owner, outer.workspace_owner))
        if AUTONOMY.index(inner.autonomy) > AUTONOMY.index(outer.autonomy):
            found.append(Violation("autonomy", inner.autonomy, outer.autonomy))
        found += _commands(inner.allowed_commands, outer.allowed_commands)
    return found


def _commands(inner: tuple[str, ...], outer: tuple[str, ...]) -> list[Violation]:
    """A list bounds a list, by the names as they are written. No list at all is every command."""
    if outer and not inner:
        return [Violation("allowed_commands", "every command", _listed(outer))]
    wider = [(i, name) for i, name in enumerate(inner) if outer and name not in outer]
    return [Violation("allowed_commands", name, _listed(outer), i) for i, name in wider]


def workspaces_within(patterns: Iterable[str], ceiling: Iterable[str]) -> list[Violation]:
    """The patterns that name a path which no single pattern of the ceiling names."""
    bounds = tuple(ceiling)
    return [
        Violation("workspaces", p, _listed(bounds), i)
        for i, p in enumerate(patterns)
        if not any(globs.contains(bound, p) for bound in bounds)
    ]


def narrow_limits(
    base: Limits, asked: Mapping[str, int], *, rule: str | None = None, source: str | None = None
) -> Limits:
    """`base` with what a request asks for, which may only be less.

    Keys are wire names (units.LIMITS), values integers in the wire's units. Raises Denied for a value above the
    bound, InvalidRequest for an unknown limit or a value below what means anything. `rule` and `source` name the
    policy entry that `base` came from.
    """
    if not asked:
        return base
    for limit, value in asked.items():
        if limit not in units.LIMITS:
            raise errors.InvalidRequest(
                f"there is no limit {str(limit)[:64]!r}", field="limits", allowed=", ".join(units.LIMITS)
            )
        name, unit, least, _ = units.LIMITS[limit]
        bound: int = getattr(base, limit)
        if type(value) is not int or not least <= value < 1 << 63:
            raise errors.InvalidRequest(
                f"limits.{name} is not a usable value",
                field=f"limits.{name}",
                allowed=f"{units.EXPECTED[unit]}; at least {units.show_limit(limit, least)}",
            )
        if exceeds(limit, value, bound):
            granted = units.show_limit(limit, bound)
            raise errors.Denied(
                f"limits.{name}: {units.show_limit(limit, value)} was asked, {granted} is granted",
                field=f"limits.{name}",
                rule=f"{rule}.limits.{name}" if rule else None,
                source=source,
                allowed=f"{name} up to {granted}",
                hint="ask for no more than that, or have the operator raise the profile's limit",
            )
    return replace(base, **dict(asked))


def narrowest(*levels: str) -> str:
    """Of several levels of autonomy the one that counts."""
    return min(levels, key=AUTONOMY.index)


def differs(old: Profile, new: Profile) -> bool:
    """Whether a profile says something else than before, and not only in another line."""
    return replace(old, source="") != replace(new, source="")


def narrowed(profile: Profile, *, readonly: bool = False, network: str = "") -> Profile:
    """A profile as a session may have it: never more than policy grants.

    `readonly` takes writing away from everything but what the session has to itself; what could be written can still be
    read. `network` "" is the profile's own. Raises Denied for a wider network.
    """
    network = network or profile.network
    if NETWORKS.index(network) > NETWORKS.index(profile.network):
        raise errors.Denied(
            f"network: {network} was asked, {profile.network} is granted",
            field="network",
            rule=f"profiles.{profile.name}.network",
            source=profile.source,
            allowed=", ".join(NETWORKS[: NETWORKS.index(profile.network) + 1]),
            hint="ask for no more than that, or have the operator raise the profile's network",
        )
    read, write, covered = profile.read, profile.write, profile.covered
    if readonly:
        write = tuple(path for path in profile.write if covers(PRIVATE, path))
        read = (*read, *(path for path in profile.write if path not in write and path not in read))
        if profile.allowed_commands:  # sessions that are not narrowed still write there: no programs come from there
            covered = (*covered, *(p for p in profile.write if p not in write and not p.startswith(WORKSPACE)))
    return replace(profile, read=read, write=write, network=network, covered=covered)


def only_reads(snapshot: Snapshot) -> bool:
    """Whether policy as a whole lets no session write, whoever asks and under whatever profile."""
    return snapshot.autonomy.level == "readonly" or not snapshot.tools.file_write_enabled


def outdated(granted: Profile | None, held: Profile, snapshot: Snapshot) -> bool:
    """Whether a session that has `held` of what was `granted` would not be opened like that under `snapshot`."""
    now = snapshot.profile(held.name)
    if granted is None or now is None or differs(granted, now):
        return True
    return only_reads(snapshot) and narrowed(held, readonly=True) != held


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items) or "nothing"
