"""What expressions of Python come to: names, attributes, texts, lists; pycode.py goes through statements. Pure."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from supervisor.decide.shell import pyeffects as e
from supervisor.decide.shell import pyvalues as v
from supervisor.decide.shell.flow import DECODED, SETTINGS
from supervisor.decide.shell.inline import CODE_TEXT
from supervisor.decide.shell.limits import TooMuch
from supervisor.decide.shell.pyvalues import UNKNOWN, Method, PathText, Ref, Val

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.decide.shell.inline import Found

_STEPS = 20_000
_UNROLLED, _EACH = 256, 64  # rounds of loops over written lists: of all together, of one
_NESTED = 150  # expressions inside of expressions


class Evaluator:
    """The values of expressions, and what is bound to names meanwhile. What a call does is pycode.py's."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.env: dict[str, Val] = {}
        self.stars: list[str] = []
        self.steps = self.unrolled = self.nested = 0
        self.named_starts = 0  # how often a function that starts programs is named and not called there and then

    def call(self, node: Any) -> Val:
        raise NotImplementedError

    def bind(self, target: ast.expr, found: Val) -> None:
        if isinstance(target, ast.Name):
            self.env[target.id] = found
        elif isinstance(target, ast.Starred):
            self.bind(target.value, UNKNOWN)
        elif isinstance(target, (ast.Tuple, ast.List)):
            items = found.it if isinstance(found.it, list) and len(found.it) == len(target.elts) else None
            for n, one in enumerate(target.elts):
                self.bind(one, items[n] if items is not None else Val(None, found.traits))

    def over(self, target: ast.expr, of: Val, body: Callable[[], object]) -> None:
        """Once for each of a list that is written out, as long as it is short; else once for whatever it is."""
        for item in self.items(of):
            self.bind(target, item)
            body()

    def items(self, of: Val) -> Iterator[Val]:
        listed = of.it if isinstance(of.it, list) else []
        if not listed:
            yield Val(None, of.traits)
        before = self.found.size()
        for n, item in enumerate(listed):
            if n and (n >= _EACH or self.unrolled >= _UNROLLED):
                if self.found.size() > before:  # those that are left would do as much, and nobody has looked
                    raise TooMuch
                return
            self.unrolled += len(listed) > 1
            yield Val(item.it, item.traits | of.traits)

    # --- expressions ----------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.steps += 1
        if self.steps > _STEPS:
            raise TooMuch

    def value(self, node: ast.expr) -> Val:
        self.step()
        self.nested += 1
        if self.nested > _NESTED:
            raise TooMuch
        try:
            handler = _EXPRESSIONS.get(type(node).__name__)
            if handler is not None:
                return handler(self, node)
            parts = [self.value(part) for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
            return Val(None, v.traits(parts))
        finally:
            self.nested -= 1

    def name(self, node: Any) -> Val:
        found = self.env.get(node.id)
        if found is not None:
            self.names(found)
            return found
        for module in self.stars:
            if f"{module}.{node.id}" in e.RUNS_TEXT | e.RUNS_LIST or module in ("os", "shutil"):
                return Val(Ref(f"{module}.{node.id}"))
        return Val(Ref(node.id))

    def constant(self, node: Any) -> Val:
        if isinstance(node.value, (str, bytes)):  # code in a text: whoever is handed it may run it
            said = node.value if isinstance(node.value, str) else node.value.decode(errors="replace")
            self.found.opaque |= CODE_TEXT.search(said[: v.MAX_TEXT]) is not None
        return v.constant(node.value)

    def attribute(self, node: Any) -> Val:
        of = self.value(node.value)
        if isinstance(of.it, Ref):
            name = f"{of.it.name}.{node.attr}"
            if name == "os.environ":
                return Val(Ref(name), frozenset((SETTINGS,)))
            got = Val("/") if name in ("os.sep", "os.path.sep") else Val(Ref(name), of.traits)
            self.names(got)
            return got
        if isinstance(of.it, PathText) and node.attr == "parent":
            return Val(PathText(v.join([Val(of.it.text), Val("..")])))
        return Val(Method(of, node.attr), of.traits)

    def names(self, found: Val) -> None:
        if isinstance(found.it, Ref) and (found.it.name in e.RUNS_TEXT or found.it.name in e.RUNS_LIST):
            self.named_starts += 1

    def binop(self, node: Any) -> Val:
        return v.binary(node.op, self.value(node.left), self.value(node.right))

    def joined(self, node: Any) -> Val:
        parts = [self.value(part.value if isinstance(part, ast.FormattedValue) else part) for part in node.values]
        return Val(v.cut("".join(map(v.marked, parts))), v.traits(parts))

    def listed(self, node: Any) -> Val:
        items: list[Val] = []
        for one in node.elts:
            found = self.value(one.value if isinstance(one, ast.Starred) else one)
            items += found.it if isinstance(one, ast.Starred) and isinstance(found.it, list) else [found]
        return Val(v.several(items), v.traits(items))

    def comprehension(self, node: Any) -> Val:
        out: list[Val] = []
        kept = dict(self.env)

        def go(n: int) -> None:
            if n == len(node.generators):
                out.append(self.value(node.elt if hasattr(node, "elt") else node.value))
                return
            of = self.value(node.generators[n].iter)
            listed = of.it if n == 0 and len(node.generators) == 1 and isinstance(of.it, list) else None
            if listed is not None and len(listed) > _EACH and not any(isinstance(i.it, list) for i in listed):
                for item in listed[:512]:  # characters that are put together
                    self.bind(node.generators[n].target, item)
                    go(n + 1)
                return
            for item in self.items(of):
                self.bind(node.generators[n].target, item)
                for test in node.generators[n].ifs:
                    self.value(test)
                go(n + 1)

        go(0)
        self.env = kept
        return Val(out, v.traits(out))

    def lambda_(self, node: Any) -> Val:
        kept = dict(self.env)
        for one in (*node.args.args, *node.args.kwonlyargs):
            self.env[one.arg] = UNKNOWN
        self.value(node.body)
        self.env = kept
        return UNKNOWN

    def walrus(self, node: Any) -> Val:
        found = self.value(node.value)
        self.bind(node.target, found)
        return found

    def either(self, node: Any) -> Val:
        self.value(node.test)
        body, other = self.value(node.body), self.value(node.orelse)
        return body if body.it is not None else other

    def subscript(self, node: Any) -> Val:
        of = self.value(node.value)
        if isinstance(node.slice, ast.Slice):
            step = node.slice.step
            back = isinstance(step, ast.UnaryOp) and isinstance(step.op, ast.USub)
            turned = of.it[::-1] if back and isinstance(of.it, str) else None
            return Val(turned, of.traits | ({DECODED} if back else set()))
        at = self.value(node.slice)
        if isinstance(of.it, Ref) and of.it.name == "os.environ":
            return Val(v.HOME) if at.it == "HOME" else UNKNOWN
        if isinstance(of.it, list) and isinstance(at.it, int) and -len(of.it) <= at.it < len(of.it):
            found: Val = of.it[at.it]
            return found
        return Val(None, of.traits)


_EXPRESSIONS: dict[str, Callable[[Evaluator, Any], Val]] = {
    **dict.fromkeys(("List", "Tuple", "Set"), Evaluator.listed),
    **dict.fromkeys(("ListComp", "GeneratorExp", "SetComp", "DictComp"), Evaluator.comprehension),
    "Constant": Evaluator.constant,
    "Name": Evaluator.name,
    "Attribute": Evaluator.attribute,
    "BinOp": Evaluator.binop,
    "JoinedStr": Evaluator.joined,
    "Lambda": Evaluator.lambda_,
    "UnaryOp": lambda reader, node: v.unary(node.op, reader.value(node.operand)),
    "NamedExpr": Evaluator.walrus,
    "IfExp": Evaluator.either,
    "Subscript": Evaluator.subscript,
    "Call": lambda reader, node: reader.call(node),
    "Await": lambda reader, node: reader.value(node.value),
}
