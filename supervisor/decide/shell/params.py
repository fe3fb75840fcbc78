"""What `${...}` stands for: bash(1), Parameter Expansion. Pure."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from supervisor.decide.shell.flow import HELD, Flow
from supervisor.decide.shell.marks import ANY, NOTHING, SPLIT, UNSET, globs, quote, unknown
from supervisor.decide.shell.scope import KNOWN, Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.words import Expander

_NUMBERS = frozenset("#?$!-_")
_PATHS = frozenset(["PATH", "PWD", "OLDPWD", "HOME", "SHELL", "BASH"])  # begin with a slash


def expand(by: Expander, part: dict[str, Any], *, quoted: bool) -> str:
    """The text of a parameter expansion, as a raw word: quoted or split as its place asks."""
    name: str = part.get("Param", {}).get("Value", "")
    index = part.get("Index")
    if index is not None or "Slice" in part:
        by.walk.scan([index, part.get("Slice")], by.scope)
    if part.get("Length") or part.get("Width"):
        return ANY
    if part.get("Excl"):  # ${!x}: the variable that x names
        by.unsure = True
        named = look_up(by, name)
        if part.get("Names") or index is not None or not isinstance(named, str) or not named.isidentifier():
            return ANY
        name = named
    if name == "IFS" and not quoted and "IFS" not in by.scope.vars:
        return SPLIT
    value = look_up(by, name)
    held = by.scope.held.get("@" if name.isdigit() or name == "*" else name)
    if held:
        by.flows.append(Flow(None, held | {HELD}))
    if value == "~" and ("Slice" in part or "Repl" in part or part.get("Exp", {}).get("Op") in ("#", "##", "%", "%%")):
        value = "/home/agent"
    if name not in ("@", "*"):
        value = _indexed(value, index)
    if "Exp" in part:
        value = _operated(by, name, value, part["Exp"])
    if "Repl" in part:
        value = _replaced(by, value, part["Repl"])
    if "Slice" in part:
        cut = part["Slice"]
        value = "/" if name in _PATHS and _first(cut) else _sliced(value, cut, positional=name in ("@", "*"))
    if UNSET in value:
        by.unsure = True
    star = name == "*" or (index is not None and _literal(index) == "*")
    if isinstance(value, list) and quoted and star:
        ifs = by.scope.vars.get("IFS", " ")
        return quote((ifs[:1] if isinstance(ifs, str) else ANY).join(value))
    if isinstance(value, list):
        joined = SPLIT.join(quote(v) if quoted else by.split(v) for v in value)
        return joined or (NOTHING if quoted and name != "@" else "")
    if quoted:
        return quote(value)
    return by.split(value)


def look_up(by: Expander, name: str) -> Value:
    """The value of a variable, positional or special parameter."""
    scope = by.scope
    found = scope.vars.get(name)
    if found is not None:
        return found
    if name in ("@", "*"):
        return list(scope.positionals) if scope.positionals is not None else ANY
    if name.isdigit():
        if name == "0":
            return scope.zero
        if scope.positionals is None:
            return ANY
        return scope.positionals[int(name) - 1] if len(name) < 6 and int(name) <= len(scope.positionals) else ""
    if name in _NUMBERS:
        return ANY
    if name == "PWD" and scope.cwd:
        return scope.cwd
    return "." if name == "PWD" else KNOWN.get(name, UNSET)


def _indexed(value: Value, index: dict[str, Any] | None) -> Value:
    if not isinstance(value, list):
        return value
    if index is None:
        return value[0] if value else ""
    text = _literal(index)
    if text in ("@", "*"):
        return value
    if text.isdigit() and len(text) < 6:
        return value[int(text)] if int(text) < len(value) else ""
    return ANY


def _literal(index: dict[str, Any]) -> str:
    return "".join(p.get("Value", "") for p in index.get("Parts") or [] if p.get("Type") == "Lit")


def _first(cut: dict[str, Any]) -> bool:
    """${PATH:0:1} is a slash."""
    return arithmetic(cut.get("Offset")) == 0 and arithmetic(cut.get("Length")) == 1


def _operated(by: Expander, name: str, value: Value, exp: dict[str, Any]) -> Value:
    """`${x:-y}` and its kin. The operand is always looked through: it may run something."""
    op = exp.get("Op", "")
    if op == "%%" and name in _PATHS and "".join(p.get("Value", "") for p in exp["Word"]["Parts"]) == "/*":
        return ""  # a path begins with a slash, and all behind the first one goes
    unsure = by.unsure
    operand = by.text(exp["Word"]) if exp.get("Word") else ""
    by.unsure = unsure
    if op in ("-", ":-", "=", ":=", "?", ":?"):
        empty = value in ("", []) and op.startswith(":")
        if value != UNSET and not empty:
            return value
        if op in ("=", ":="):
            by.scope.vars[name] = operand if empty else ANY
        if not empty:
            by.unsure = True
        return UNSET if op in ("?", ":?") else operand
    if op in ("+", ":+"):
        if value == UNSET or (isinstance(value, str) and unknown(value)):
            by.unsure = True
        return operand if value != "" else ""
    if not isinstance(value, str) or unknown(value):
        return UNSET if value == UNSET else ANY
    if op in ("^^", ",,", "^", ",") and not operand:
        changed = value.upper() if "^" in op else value.lower()
        return changed if len(op) == 2 else changed[:1] + value[1:]
    if op in ("#", "##", "%", "%%") and operand and not globs(operand) and not unknown(operand):
        return value.removeprefix(operand) if "#" in op else value.removesuffix(operand)
    if op == "@" and operand == "P" and ("$(" in value or "`" in value):
        by.walk.script(f'echo "{value}"', by.scope.copy(), by.scope.span or (0, 0), "prompt", guess=True)
    if op == "@" and operand in ("Q", "E", "P"):
        return value
    by.unsure = True
    return ANY


def _replaced(by: Expander, value: Value, repl: dict[str, Any]) -> Value:
    unsure = by.unsure
    old = by.text(repl.get("Orig"))
    new = by.text(repl.get("With"))
    by.unsure = unsure
    if not isinstance(value, str) or any(unknown(t) for t in (value, old, new)) or globs(old) or old[:1] in "#%":
        by.unsure = True
        return UNSET if value == UNSET else ANY
    return value.replace(old, new, -1 if repl.get("All") else 1)


def _some(items: list[str], start: int, length: int | None, *, positional: bool) -> list[str]:
    """Elements of an array, or of the positionals, which count from one: $0 is none of them here."""
    if positional:
        start = max(start - 1, 0) if start >= 0 else start
    start = max(start + len(items), 0) if start < 0 else start
    return items[start:] if length is None else items[start : start + max(length, 0)]


def _sliced(value: Value, cut: dict[str, Any], *, positional: bool = False) -> Value:
    if value == UNSET:
        return UNSET
    numbers = [arithmetic(cut.get(part)) for part in ("Offset", "Length")]
    if isinstance(value, list) and numbers[0] is not None and (not cut.get("Length") or numbers[1] is not None):
        return _some(value, numbers[0], numbers[1], positional=positional)
    if not isinstance(value, str) or unknown(value) or numbers[0] is None or (cut.get("Length") and numbers[1] is None):
        return value if isinstance(value, list) else ANY
    start, length = numbers[0], numbers[1]
    start = max(start + len(value), 0) if start < 0 else start
    if length is None:
        return value[start:]
    return value[start : start + length] if length >= 0 else value[start:length]


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "|": operator.or_, "&": operator.and_, "^": operator.xor,
}  # fmt: skip


def arithmetic(node: dict[str, Any] | None, depth: int = 0) -> int | None:
    """What an arithmetic expression of written numbers comes to; None for any other."""
    if node is None or depth > 16:
        return None
    kind = node.get("Type")
    if kind == "ParenArithm":
        return arithmetic(node.get("X"), depth + 1)
    if kind == "UnaryArithm" and node.get("Op") == "-":
        inner = arithmetic(node.get("X"), depth + 1)
        return None if inner is None else -inner
    if kind == "BinaryArithm":
        left, right = arithmetic(node.get("X"), depth + 1), arithmetic(node.get("Y"), depth + 1)
        operation = _OPERATIONS.get(node.get("Op", ""))
        if left is None or right is None or operation is None:
            return None
        found = operation(left, right)
        return found if abs(found) < 1 << 31 else None
    parts = node.get("Parts") or []
    text = parts[0].get("Value", "") if len(parts) == 1 and parts[0].get("Type") == "Lit" else ""
    if not text.isdigit() or len(text) > 8:
        return None
    return int(text, 8) if text[0] == "0" and len(text) > 1 and not set(text) - set("01234567") else int(text)
