"""Commands that hold others: lists, pipes, loops, conditions, functions, declarations. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.decide.shell import calls
from supervisor.decide.shell.flow import EMPTY, Flow, joined
from supervisor.decide.shell.marks import ANY
from supervisor.decide.shell.scope import filled
from supervisor.decide.shell.words import Expander

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.decide.shell.scope import Scope, Value
    from supervisor.decide.shell.walk import Walk

    Handler = Callable[[Walk, dict[str, Any], Scope, Flow], Flow]

_PIPES = ("|", "|&")
_UNROLLED = 16


def block(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    return walk.statements(node.get("Stmts") or [], scope, stdin)


def subshell(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    return walk.statements(node.get("Stmts") or [], scope.copy(), stdin)


def timed(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    inner = node.get("Stmt")
    return walk.statement(inner, scope, stdin) if inner else EMPTY


def binary(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    # Lists and pipes lean to the left, as long as the script is: a loop, not a recursion.
    chain = [node["Y"]]
    ops = [node["Op"]]
    left = node["X"]
    piped = ops[0] in _PIPES
    while (
        "Redirs" not in left
        and left.get("Cmd", {}).get("Type") == "BinaryCmd"
        and (left["Cmd"]["Op"] in _PIPES) == piped
    ):
        chain.append(left["Cmd"]["Y"])
        ops.append(left["Cmd"]["Op"])
        left = left["Cmd"]["X"]
    certain = True
    walk.inside += piped
    flow = walk.statement(left, scope.copy() if piped else scope, stdin)
    for op, right in zip(reversed(ops), reversed(chain), strict=True):
        if piped:
            flow = walk.statement(right, scope.copy(), flow)
        else:
            certain = certain and op == "&&" and _always(left)
            said = walk.statement(right, scope, stdin) if certain else _perhaps(walk, right, scope, stdin)
            flow = joined([flow, said])
            left = right
    walk.inside -= piped
    return flow


def _perhaps(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    """What may happen or not: what it changes is not known afterwards."""
    before, sure = dict(scope.vars), scope.sure
    scope.sure = False
    flow = walk.statement(node, scope, stdin)
    scope.sure = sure
    if scope.vars != before:
        scope.merge([before, scope.vars])
    return flow


def conditional(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    ends: list[dict[str, Value]] = []
    flows, sure = [], scope.sure
    branch: dict[str, Any] | None = node
    while branch is not None:
        walk.statements(branch.get("Cond") or [], scope, stdin)
        scope.sure = False
        before = dict(scope.vars)
        flows.append(walk.statements(branch.get("Then") or [], scope, stdin))
        ends.append(scope.vars)
        scope.vars = before
        closing = not branch.get("Cond")
        branch = branch.get("Else")
        if branch is None and not closing:
            ends.append(before)
    scope.merge(ends)
    scope.sure = sure
    return Flow(None, joined(flows).traits)


def case(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    Expander(walk, scope).text(node.get("Word"))
    before, sure = dict(scope.vars), scope.sure
    ends, flows = [before], []
    scope.sure = False
    for item in node.get("Items") or []:
        walk.scan(item.get("Patterns"), scope)
        scope.vars = dict(before)
        flows.append(walk.statements(item.get("Stmts") or [], scope, stdin))
        ends.append(scope.vars)
    scope.merge(ends)
    scope.sure = sure
    return Flow(None, joined(flows).traits)


def loop(walk: Walk, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
    header = node.get("Loop")
    changed = set(_assigned(node))
    before, sure = dict(scope.vars), scope.sure
    scope.sure = False
    name = None
    items: list[str] = [ANY]
    flows: list[Flow] = []
    if header is not None and header["Type"] == "WordIter":
        name = header["Name"]["Value"]
        by = Expander(walk, scope)
        items = by.fields(header["Items"]) if header.get("Items") else scope.positionals or [ANY]
        flows += [Flow(None, f.traits) for f in by.flows]
        if len(items) > _UNROLLED or node.get("Select"):
            items = [ANY, *[i for i in items if i[:1] in "/~"][:_UNROLLED]]
    elif header is not None:
        walk.scan(header, scope)
    scope.vars.update(dict.fromkeys(changed, ANY))
    if "Cond" in node:
        walk.statements(node["Cond"], scope, stdin)
    _bomb(walk, node, scope)
    came = joined(flows).traits
    reads = _reads(node, stdin)
    if reads:
        lines = (stdin.text or "").removesuffix("\n").split("\n")
        items = [*lines[:_UNROLLED], *([ANY] if len(lines) > _UNROLLED else [])]
    for item in items or [ANY]:
        if name is not None:
            scope.vars[name] = item
            scope.hold(name, came)
        elif reads:
            scope.vars.update(filled(reads, item, scope.vars.get("IFS", "")))
        flows.append(walk.statements(node.get("Do") or [], scope, stdin))
    scope.vars = {**scope.vars, **dict.fromkeys(changed | ({name} if name else set()), ANY)}
    scope.merge([scope.vars, {**before, **{n: ANY for n in scope.vars if n not in before}}])
    scope.sure = sure
    return Flow(None, joined(flows).traits)


def _reads(node: dict[str, Any], stdin: Flow) -> list[str]:
    """The words of the read(1) that such a loop goes on with, where it is known what there is to be read."""
    cond = node.get("Cond") or []
    if stdin.text is None or stdin is EMPTY or len(cond) != 1 or node.get("Until"):
        return []
    command = cond[0].get("Cmd", {})
    words = [w["Parts"][0].get("Value", "") if len(w["Parts"]) == 1 else "" for w in command.get("Args") or []]
    splits = any(a.get("Value") for a in command.get("Assigns") or [])  # IFS=X: left unknown
    return words if words[:1] == ["read"] and not splits else []


def _bomb(walk: Walk, node: dict[str, Any], scope: Scope) -> None:
    """An endless loop that only starts things in the background, and waits for nothing."""
    header, body, cond = node.get("Loop"), node.get("Do") or [], node.get("Cond") or []
    if header is not None:
        endless = header["Type"] == "CStyleLoop" and "Cond" not in header
    else:
        parts = [w["Parts"] for c in cond for w in c.get("Cmd", {}).get("Args") or []]
        said = parts[0][0].get("Value", "") if len(parts) == 1 and len(parts[0]) == 1 else ""
        endless = said in (("false",) if node.get("Until") else (":", "true"))
    if endless and body and all(s.get("Background") for s in body):
        walk.risk("destructive", "an endless loop that starts more and more in the background", walk.span(node, scope))


def function(walk: Walk, node: dict[str, Any], scope: Scope, _stdin: Flow) -> Flow:
    names = [node["Name"]] if node.get("Name") else node.get("Names") or []
    for name in names:
        scope.functions[name["Value"]] = (node["Body"], scope.sure)
    walk.functions[id(node["Body"])] = (node["Body"], scope.copy())
    return EMPTY


def declaration(walk: Walk, node: dict[str, Any], scope: Scope, _stdin: Flow) -> Flow:
    by = Expander(walk, scope)
    words, assigned = [node["Variant"]["Value"]], []
    for one in node.get("Args") or []:
        if one.get("Name") is None:
            words += by.word(one["Value"]) if one.get("Value") else []
        elif one.get("Naked"):
            words.append(one["Name"]["Value"])
        else:
            seen = len(by.flows)
            value = walk.value(by, one)
            assigned.append((one["Name"]["Value"], value, one))
            walk.assign(scope, one["Name"]["Value"], value, one, joined(by.flows[seen:]))
    if any(w.startswith("-") and "n" in w for w in words[1:]) and words[0] != "export":
        scope.vars.update({name: ANY for name, _, _ in assigned})  # a name for another variable
    for w in words[1:]:
        walk.hidden(w, scope)
        if "=" in w:  # export "$name=$value"
            scope.vars[w.split("=")[0]] = ANY
    calls.assigned(walk, assigned, scope, walk.span(node, scope), alone=True)
    return EMPTY


def arithmetic(walk: Walk, node: dict[str, Any], scope: Scope, _stdin: Flow) -> Flow:
    walk.scan(node, scope)
    scope.vars.update(dict.fromkeys(_assigned(node), ANY))
    return EMPTY


def _always(node: dict[str, Any]) -> bool:
    """Whether a statement certainly succeeds: assignments of known text and the like."""
    command = node.get("Cmd", {})
    if command.get("Type") == "DeclClause":
        return True
    if command.get("Type") != "CallExpr" or node.get("Redirs") or node.get("Negated"):
        return False
    args = command.get("Args") or []
    if not args:
        return True
    parts = args[0]["Parts"]
    return len(parts) == 1 and parts[0].get("Value") in ("true", ":", "set", "export")


def _assigned(node: Any) -> list[str]:
    """The names of variables that anything below assigns."""
    out: list[str] = []
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
        elif isinstance(one, dict):
            kind = one.get("Type")
            if kind == "CallExpr" and not one.get("Args"):
                out += [a["Name"]["Value"] for a in one.get("Assigns") or []]
            elif kind == "DeclClause":
                out += [a["Name"]["Value"] for a in one.get("Args") or [] if a.get("Name")]
            elif kind in ("BinaryArithm", "UnaryArithm"):
                name = (one.get("X") or {}).get("Parts") or [{}]
                out += [name[0]["Value"]] if isinstance(name[0].get("Value"), str) else []
            elif kind == "WordIter":
                out.append(one["Name"]["Value"])
            elif kind == "CallExpr":
                words = [w["Parts"][0].get("Value", "") for w in one["Args"] if len(w["Parts"]) == 1]
                if words and words[0] in ("read", "mapfile", "readarray", "getopts", "printf"):
                    out += [w for w in words[1:] if isinstance(w, str) and w.isidentifier()]
            stack += [v for v in one.values() if isinstance(v, (dict, list))]
    return out


HANDLERS: dict[str, Handler] = {
    "Block": block,
    "Subshell": subshell,
    "BinaryCmd": binary,
    "IfClause": conditional,
    "WhileClause": loop,
    "ForClause": loop,
    "CaseClause": case,
    "FuncDecl": function,
    "DeclClause": declaration,
    "TimeClause": timed,
    "CoprocClause": timed,
    "ArithmCmd": arithmetic,
    "LetClause": arithmetic,
}
