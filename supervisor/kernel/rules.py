"""The words in which `filters.py` is written: what a filter is, and how a condition on an argument is put."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Literal

INT = 0xFFFFFFFF  # the kernel reads these arguments as 32 bits, so a filter that looked at more could be fooled


@dataclass(frozen=True, slots=True)
class Arg:
    """One condition on argument `index` (0 to 5): `masked` compares `value` under `mask`, `above` is unsigned >."""

    index: int
    value: int
    mask: int = INT
    op: Literal["masked", "above"] = "masked"


@dataclass(frozen=True, slots=True)
class Group:
    """System calls with one reason."""

    why: str
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rule:
    """`names` with every condition of `when` true; `errno` is the answer of a refusal."""

    why: str
    names: frozenset[str]
    when: tuple[Arg, ...]
    errno: int = errno.EPERM


@dataclass(frozen=True, slots=True)
class Filter:
    allow: tuple[Group, ...]
    deny: tuple[Group, ...]
    absent: tuple[Group, ...]
    only_if: tuple[Rule, ...] = field(default=())
    refuse: tuple[Rule, ...] = field(default=())

    def names(self, kind: Literal["allow", "deny", "absent"]) -> frozenset[str]:
        groups: tuple[Group, ...] = getattr(self, kind)
        return frozenset(name for group in groups for name in group.names)


def group(why: str, names: str) -> Group:
    return Group(why, frozenset(names.split()))


def rules(why: str, names: str, *whens: tuple[Arg, ...], errno: int = errno.EPERM) -> tuple[Rule, ...]:
    """One rule per condition list: any of them matches."""
    return tuple(Rule(why, frozenset(names.split()), when, errno) for when in whens)


def bit(index: int, flag: int) -> Arg:
    """Every bit of `flag` is set."""
    return Arg(index, flag, flag)


def outside(index: int, allowed: set[int]) -> tuple[tuple[Arg, ...], ...]:
    """Conditions of which one holds exactly when the argument is none of `allowed` (small numbers).

    Compared over 64 bits: stray high bits make it "outside", which is the safe side.
    """
    gaps = tuple((Arg(index, n, (1 << 64) - 1),) for n in range(max(allowed)) if n not in allowed)
    return (*gaps, (Arg(index, max(allowed), op="above"),))
