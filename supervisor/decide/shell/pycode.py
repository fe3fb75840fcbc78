"""Python that a command hands to python: what it would start, delete, open; read by ast, not run. Pure.

Statement by statement names are followed through imports, assignments, loops over written lists and calls of functions
of its own; what cannot be told stays unknown, and an unknown program is none. Patterns (inline.py) look at the same
text, and alone at what ast cannot parse.
"""

from __future__ import annotations

import ast
import warnings
from typing import TYPE_CHECKING, Any

from supervisor.decide.shell import pyeffects as e
from supervisor.decide.shell import pyvalues as v
from supervisor.decide.shell.flow import DECODED, FILE, NET, SETTINGS
from supervisor.decide.shell.inline import Found
from supervisor.decide.shell.limits import TooMuch
from supervisor.decide.shell.marks import ANY
from supervisor.decide.shell.pyeval import Evaluator
from supervisor.decide.shell.pyvalues import UNKNOWN, Func, Method, PathText, Ref, Val

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CALLS = 200  # of its own functions
_DEPTH, _INNER = 4, 16_384  # code inside of code: how deep, and how many characters of it


def read(text: str) -> Found | None:
    """What Python code does, as far as it tells; None when it is no Python. Raises TooMuch."""
    reader = _Reader(Found())
    if not reader.code(text):
        return None
    reader.found.opaque |= reader.named_starts > 0 or e.runs_own(reader.found)
    return reader.found


class _Reader(Evaluator):
    def __init__(self, found: Found) -> None:
        super().__init__(found)
        self.defined: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
        self.entered: set[int] = set()
        self.acting: set[int] = set()  # functions that start, delete or open something
        self.active: list[int] = []
        self.returned: list[Val] = []
        self.calls = self.depth = self.inner = 0

    def code(self, text: str) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that are none
                tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
        self.block(tree.body)
        for node in self.defined:
            if id(node) not in self.entered:
                self.enter(node, [], {})
        return True

    # --- statements -----------------------------------------------------------------------------------------------

    def block(self, body: Sequence[ast.stmt]) -> None:
        for node in body:
            self.statement(node)

    def statement(self, node: ast.stmt) -> None:
        self.step()
        handler = _STATEMENTS.get(type(node).__name__)
        if handler is not None:
            handler(self, node)
            return
        for name, part in ast.iter_fields(node):
            if isinstance(part, ast.expr):
                self.value(part)
            elif isinstance(part, list) and name in ("body", "orelse", "finalbody"):
                self.block(part)
            elif isinstance(part, list):
                for one in part:
                    self.part(one)

    def part(self, node: Any) -> None:
        """An `except`, a `case`, an item of `with`."""
        if isinstance(node, ast.withitem):
            found = self.value(node.context_expr)
            if node.optional_vars is not None:
                self.bind(node.optional_vars, found)
        elif isinstance(node, ast.expr):
            self.value(node)
        else:
            self.block(getattr(node, "body", ()))

    def with_(self, node: Any) -> None:
        for item in node.items:
            self.part(item)
        self.block(node.body)

    def assign(self, node: Any) -> None:
        if node.value is None:
            return
        found = self.value(node.value)
        if isinstance(node, ast.AugAssign):
            found = v.binary(node.op, self.value(node.target), found)
        for target in getattr(node, "targets", None) or [node.target]:
            self.bind(target, found)

    def import_(self, node: Any) -> None:
        self.env.update(v.imported(node))
        if "*" in self.env:
            self.stars.append(self.env.pop("*").it.name.removesuffix(".*"))

    def loop(self, node: Any) -> None:
        self.over(node.target, self.value(node.iter), lambda: self.block(node.body))
        self.block(node.orelse)

    def define(self, node: Any) -> None:
        for one in node.decorator_list:
            self.value(one)
        self.defined.append(node)
        self.env[node.name] = Val(Func(node))

    def class_(self, node: Any) -> None:
        kept = dict(self.env)
        self.block(node.body)
        self.env = kept

    def return_(self, node: Any) -> None:
        if node.value is not None:
            self.returned.append(self.value(node.value))

    def enter(self, node: ast.FunctionDef | ast.AsyncFunctionDef, args: list[Val], named: dict[str, Val]) -> Val:
        """A call of a function of its own."""
        self.calls += 1
        self.entered.add(id(node))
        if self.calls > _CALLS or id(node) in self.active:
            if self.calls > _CALLS and id(node) in self.acting:
                raise TooMuch
            return UNKNOWN
        before = self.found.size()
        kept, returned = dict(self.env), self.returned
        self.returned = []
        self.active.append(id(node))
        parameters = [*node.args.posonlyargs, *node.args.args]
        defaults = node.args.defaults
        for n, parameter in enumerate(parameters):
            behind = n - (len(parameters) - len(defaults))
            given = args[n] if n < len(args) else named.get(parameter.arg)
            self.env[parameter.arg] = given or (self.value(defaults[behind]) if behind >= 0 else UNKNOWN)
        for one in (*node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
            if one is not None:
                self.env[one.arg] = named.get(one.arg, UNKNOWN)
        self.block(node.body)
        self.active.pop()
        if self.found.size() > before:
            self.acting.add(id(node))
        found = self.returned[0] if self.returned else UNKNOWN
        self.env, self.returned = kept, returned
        return found

    # --- calls ----------------------------------------------------------------------------------------------------

    def call(self, node: Any) -> Val:
        func = self.value(node.func)
        args: list[Val] = []
        for one in node.args:
            found = self.value(one.value if isinstance(one, ast.Starred) else one)
            args += found.it if isinstance(one, ast.Starred) and isinstance(found.it, list) else [found]
        named = {keyword.arg or "**": self.value(keyword.value) for keyword in node.keywords}
        it = func.it
        if isinstance(it, Func):
            return self.enter(it.node, args, named)
        if isinstance(it, Method):
            if isinstance(it.of.it, PathText) and it.name in e.OS_OF_PATH:
                return self.named(f"os.{it.name}", [it.of, *args], named, func)
            if it.name in e.SYSTEM and args:  # of the C library
                e.started(self.found, it.name, args[0], args)
            self.found.opaque |= it.of.it is None and it.name in e.STARTS and bool(args)
            return e.of_path(self.found, it.of, it.name, args, named) or v.method(it.of, it.name, args)
        if it is None:
            self.found.opaque = True
        if isinstance(it, Ref):
            self.named_starts -= it.name in e.RUNS_TEXT or it.name in e.RUNS_LIST
            return self.named(it.name.removeprefix("builtins."), args, named, func)
        return Val(None, func.traits | v.traits(args))

    def named(self, name: str, args: list[Val], named: dict[str, Val], func: Val) -> Val:
        first = args[0] if args else named.get("args", named.get("cmd", UNKNOWN))
        module, _, last = name.rpartition(".")
        if name == "getattr" and len(args) > 1 and isinstance(first.it, Ref) and (attr := v.text(args[1])):
            self.found.opaque |= ANY in attr
            return Val(Ref(f"{first.it.name}.{attr}"))
        if name in ("__import__", "importlib.import_module"):
            return Val(Ref(v.text(first) or ANY))
        if name == "map" and len(args) > 1:
            mapped = [self.apply(args[0], item) for item in v.each(args[1])]
            return Val(mapped, v.traits(mapped))
        if name in e.CODE:
            return self.coded(name, first)
        if name in e.RUNS_TEXT or name in e.RUNS_LIST or (last in e.SYSTEM and module not in ("", "platform")):
            e.started(self.found, name, first, args)
            self.found.opaque |= bool({"input", "stdin"} & named.keys()) and e.reads_commands(first)
        elif module == "os" and (last.startswith(("exec", "spawn", "posix_spawn"))):
            e.replaced(self.found, last, args)
        elif name in e.OPENS:
            return e.opened(self.found, args, named)
        elif name == "urllib.request.urlretrieve" and len(args) > 1:
            self.found.starts.append(["curl", "-o", v.marked(args[1]), v.marked(first)])
        else:
            e.files(self.found, name, args)
        sent = v.traits([*args[1:], *named.values()])
        if name in e.SENDS and sent & {FILE, SETTINGS}:
            self.found.signs.append(("exfiltration", f"{name} sends what is in a file or in the environment"))
            if SETTINGS in sent:
                self.found.signs.append(("secrets", f"{name} sends the environment, where keys are"))
        found = v.known(name, args)
        return found if found is not None else Val(None, func.traits | v.traits(args))

    def apply(self, func: Val, item: Val) -> Val:
        self.step()
        if isinstance(func.it, Func):
            return self.enter(func.it.node, [item], {})
        return self.named(func.it.name, [item], {}, func) if isinstance(func.it, Ref) else UNKNOWN

    def coded(self, name: str, first: Val) -> Val:
        """exec, eval and compile; what is compiled is run as well."""
        if NET in first.traits:
            self.found.signs.append(("remote_code", "code that runs what it fetched"))
        if DECODED in first.traits:
            self.found.signs.append(("evasion", "code that runs decoded text"))
        if isinstance(first.it, str) and ANY not in first.it:
            self.inner += len(first.it)
            if self.depth >= _DEPTH or self.inner > _INNER:
                raise TooMuch
            self.depth += 1
            self.found.opaque |= not self.code(first.it)
            self.depth -= 1
        else:
            self.found.opaque = True
        return Val(None, first.traits) if name == "compile" else UNKNOWN


_STATEMENTS: dict[str, Callable[[_Reader, Any], None]] = {
    **dict.fromkeys(("Assign", "AnnAssign", "AugAssign"), _Reader.assign),
    **dict.fromkeys(("For", "AsyncFor"), _Reader.loop),
    **dict.fromkeys(("With", "AsyncWith"), _Reader.with_),
    **dict.fromkeys(("FunctionDef", "AsyncFunctionDef"), _Reader.define),
    "Import": _Reader.import_,
    "ImportFrom": _Reader.import_,
    "ClassDef": _Reader.class_,
    "Return": _Reader.return_,
}
