"""How arguments are told apart: options, their values, operands. Pure."""

from __future__ import annotations

import shlex

from supervisor.decide.shell.marks import collapsed, known


def operand(words: list[str], at: int, short: str = "", long: frozenset[str] = frozenset()) -> int:
    """Where the first operand stands at or behind `at`: getopt_long(3) with `+`."""
    while at < len(words):
        w = words[at]
        if w == "--":
            return at + 1
        if w[:1] != "-" or w == "-":
            return at
        at += 1
        if w[:2] == "--":
            name = w[2:]
            if "=" not in name and (name in long or (len(name) > 2 and sum(x.startswith(name) for x in long) == 1)):
                at += 1
        else:
            for i, letter in enumerate(w[1:], 1):
                if letter in short:
                    at += i == len(w) - 1  # -n 5; otherwise -n5
                    break
    return at


def subcommand(words: list[str], values: frozenset[str], at: int = 1) -> int:
    """Where the first word stands at or behind `at` that is neither an option nor the value of one of `values`."""
    while at < len(words) and words[at][:1] == "-":
        at += 2 if words[at] in values else 1
    return at


def option(words: list[str], *names: str) -> str | None:
    """The value of an option: `-c x`, `-cx`, `--command x`, `--command=x`."""
    for i, w in enumerate(words):
        for name in names:
            if w == name:
                return words[i + 1] if i + 1 < len(words) else None
            if w.startswith(name + "=") and name[:2] == "--":
                return w[len(name) + 1 :]
            if name[:2] != "--" and len(name) == 2 and w.startswith(name) and w[:2] != "--":
                return w[2:]
    return None


def letters(words: list[str]) -> set[str]:
    """Letters of short options and names of long ones."""
    out: set[str] = set()
    for w in words[1:]:
        if w == "--":
            break
        if w.startswith("--"):
            out.add(w[2:].split("=")[0])
        elif w[:1] == "-":
            out |= set(known(w) or collapsed(w))
    return out


def operands(words: list[str]) -> list[str]:
    return [w for i, w in enumerate(words) if i and (w[:1] != "-" or "--" in words[:i])]


def split(text: str) -> list[str]:
    """A text as words, also where its quotes do not end."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
