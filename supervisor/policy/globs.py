"""What the patterns of match.py have in common: exact answers, for the checks that policy makes at load.

A pattern is a small automaton over characters; `*` and `?` do not match "/", `**` matches anything. Both
questions are decided by walking the two automata side by side. The walk is bounded, and past the bound the
answer is the one that refuses.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOUND = 20_000  # pairs of states; ordinary patterns need some hundred
_OTHER = "\0"  # stands for every character that neither pattern names; no path contains it


def _tokens(glob: str) -> tuple[str, ...]:
    out: list[str] = []
    for part in re.split(r"(\*\*|\*|\?)", glob):
        out.extend([part] if part in ("**", "*", "?") else part)
    return tuple(out)


def _closure(tokens: tuple[str, ...], states: set[int]) -> frozenset[int]:
    """A star may match nothing, so being before it is being after it too."""
    out = set(states)
    for i in sorted(states):
        while i < len(tokens) and tokens[i] in ("*", "**"):
            i += 1
            out.add(i)
    return frozenset(out)


def _step(tokens: tuple[str, ...], states: frozenset[int], char: str) -> frozenset[int]:
    out: set[int] = set()
    for i in states:
        if i == len(tokens):
            continue
        part = tokens[i]
        if part == "**" or (part == "*" and char != "/"):
            out.add(i)
        elif part == char or (part == "?" and char != "/"):
            out.add(i + 1)
    return _closure(tokens, out)


def _alphabet(*globs: tuple[str, ...]) -> set[str]:
    return {t for tokens in globs for t in tokens if t not in ("*", "**", "?")} | {"/", _OTHER}


def _walk(a: tuple[str, ...], b: tuple[str, ...], *, both: bool) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    """Every pair of state sets that one text can lead to, while it leads somewhere in `a`
    (or in both). Raises OverflowError past the bound.
    """
    alphabet = _alphabet(a, b)
    start = (_closure(a, {0}), _closure(b, {0}))
    seen, stack = {start}, [start]
    while stack:
        if len(seen) > _BOUND:
            raise OverflowError
        at = stack.pop()
        yield at
        for char in alphabet:
            following = (_step(a, at[0], char), _step(b, at[1], char))
            if following[0] and (following[1] or not both) and following not in seen:
                seen.add(following)
                stack.append(following)


def contains(outer: str, inner: str) -> bool:
    """Whether every path that `inner` names is named by `outer`. False when that is not provable."""
    a, b = _tokens(inner), _tokens(outer)
    try:
        # From every living state of a pattern some text leads to its end, so an `outer` without states is decided.
        return all(
            in_outer and (len(a) not in in_inner or len(b) in in_outer)
            for in_inner, in_outer in _walk(a, b, both=False)
        )
    except OverflowError:
        return False


def meets(a: str, b: str) -> bool:
    """Whether some path is named by both. True when the opposite is not provable."""
    x, y = _tokens(a), _tokens(b)
    try:
        return any(len(x) in in_a and len(y) in in_b for in_a, in_b in _walk(x, y, both=True))
    except OverflowError:
        return True
