"""Through the syntax tree of a script, statement by statement, in the order in which the shell would. Pure.

Loops over a few known words are gone through once for each, functions where they are called, with what they are
called with. Everything is bounded: past a bound the walk stops with TooMuch, and what was found until then stands.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from supervisor.decide.shell import calls, compound, places
from supervisor.decide.shell.flow import EMPTY, HOLDS, NOTHING_AT_ALL, UNKNOWN, Flow, joined
from supervisor.decide.shell.limits import (
    MAX_COMMANDS,
    MAX_DEPTH,
    MAX_NESTING,
    MAX_PARSED,
    MAX_REFUSED,
    MAX_STEPS,
    MAX_TEXTS,
    TooMuch,
)
from supervisor.decide.shell.marks import ANY, SUBST, globs, known, unknown
from supervisor.decide.shell.model import LIKELY, Command, Named, Parse, Risk, ShellSyntaxError
from supervisor.decide.shell.scope import Scope
from supervisor.decide.shell.words import Expander

if TYPE_CHECKING:
    from collections.abc import Sequence

    from supervisor.decide.shell.scope import Value

# A text of one command without anything that the shell would read otherwise than as words with blanks between.
_PLAIN = re.compile(r"[A-Za-z0-9_./:,@%+-]+(?:[ \t]+[A-Za-z0-9_./:,@%+=-]+)*")
_SUBSTITUTION = re.compile(r"\[[^\[\]]*(?:\$\(|`)")  # in an index
_RESERVED = frozenset(
    ["if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "in", "select",
     "function", "time", "coproc", "let", "declare", "typeset", "local", "export", "readonly", "nameref"]
)  # fmt: skip


def _answered(word: dict[str, Any] | None) -> bool:
    """Whether nothing of a word is in doubt but what its substitutions answer."""
    return word is not None and all(
        p["Type"] in ("Lit", "SglQuoted", "CmdSubst") or (p["Type"] == "DblQuoted" and _answered(p))
        for p in word.get("Parts") or []
    )


class Walk:
    """One analysis in the making."""

    __slots__ = (
        "_chars",
        "called",
        "commands",
        "connected",
        "decoded",
        "downloaded",
        "fetched",
        "functions",
        "inside",
        "nesting",
        "parse",
        "paths",
        "problem",
        "refused",
        "renamed",
        "risks",
        "scripts",
        "size",
        "steps",
        "texts",
        "trees",
        "waiting",
        "written",
    )  # fmt: skip

    def __init__(self, parse: Parse | None) -> None:
        self.parse = parse
        self.commands: dict[Command, None] = {}
        self.risks: dict[Risk, None] = {}
        self.paths: dict[Named, None] = {}
        self.scripts: dict[str, None] = {}
        self.problem = ""
        self.steps = self.nesting = self.size = self.refused = 0
        self.texts: dict[str, dict[str, Any]] = {}
        self.functions: dict[int, tuple[dict[str, Any], Scope]] = {}
        self.called: set[int] = set()
        self.downloaded: set[str] = set()  # files that came over the network
        self.decoded: set[str] = set()  # files whose text was decoded
        self.trees: set[str] = set()  # directories whose files came over the network
        self.written: dict[str, str | None] = {}  # files that the script itself wrote, with their text
        self.renamed: dict[str, str] = {}  # copies of programs and links to them, and what they are
        self.waiting: list[tuple[str, Scope, tuple[int, int]]] = []  # what a shell reads that is not written yet
        self.fetched = False  # something came over the network into a file of which the name is not known
        self.connected = False  # something holds a connection to the network
        self._chars: list[int] | None = None
        self.inside = 0  # pipes and background around

    # What is found ------------------------------------------------------------------------------------------------

    def command(
        self, words: Sequence[str], scope: Scope, span: tuple[int, int], redirects: list[tuple[str, str]], stdin: Flow
    ) -> None:
        if len(self.commands) >= MAX_COMMANDS:
            raise TooMuch
        shown = tuple([known(w) for w in words])
        text = stdin.text if stdin is not EMPTY else None
        to = tuple([(op, known(r) if r else r) for op, r in redirects]) if redirects else ()
        self.commands[Command(shown, scope.via, span[0], span[1], to, text)] = None

    def risk(self, kind: str, detail: str, span: tuple[int, int]) -> None:
        self.risks[Risk(kind, detail[:200], span[0], span[1])] = None

    def path(self, path: str, span: tuple[int, int], *, writes: bool) -> None:
        self.paths[Named(path, writes, span[0], span[1])] = None

    # Texts --------------------------------------------------------------------------------------------------------

    def positions(self, text: str) -> None:
        """Positions of the tree are bytes of UTF-8; ours are characters."""
        if not text.isascii():
            table: list[int] = []
            for i, c in enumerate(text):
                table += [i] * len(c.encode(errors="replace"))
            self._chars = [*table, len(text)]

    def span(self, node: dict[str, Any], scope: Scope) -> tuple[int, int]:
        if scope.span is not None:
            return scope.span
        start, end = node["Pos"]["Offset"], node["End"]["Offset"]
        if self._chars is not None:
            last = len(self._chars) - 1
            return self._chars[min(start, last)], self._chars[min(end, last)]
        return start, end

    def script(
        self, text: str, scope: Scope, span: tuple[int, int], via: str, stdin: Flow = EMPTY, *, guess: bool = False
    ) -> Flow:
        """Another shell text, which a command hands to a shell. `scope` is that of the shell that reads it.

        With `guess` it may be something else as well, and is nothing when it does not parse.
        """
        if not text.strip():
            return EMPTY
        scope.via, scope.span, scope.depth = via, scope.span or span, scope.depth + 1
        if scope.depth > MAX_DEPTH:
            raise TooMuch
        if _PLAIN.fullmatch(text) and (words := text.split())[0] not in _RESERVED and "=" not in words[0]:
            return calls.simple(self, words, scope, scope.span, [], stdin)
        tree = self.tree(text, guess=guess)
        return EMPTY if tree is None else self.statements(tree, scope, stdin)

    def tree(self, text: str, *, guess: bool = False) -> list[dict[str, Any]] | None:
        found = self.texts.get(text)
        if found is None:
            self.size += len(text)
            if len(self.texts) >= MAX_TEXTS or self.size > MAX_PARSED or self.refused >= MAX_REFUSED:
                raise TooMuch
            if self.parse is None:
                self.problem = self.problem or "a text for a shell that was not parsed"
                return None
            try:
                found = self.parse(text)
            except ShellSyntaxError as e:
                self.problem = self.problem or ("" if guess else f"in a text for a shell: {e}")
                found = {}
                self.refused += 1
            self.texts[text] = found
        statements: list[dict[str, Any]] = found.get("Stmts") or []
        return statements + (found.get("Otherwise") or [])

    def substituted(self, statements: list[dict[str, Any]], scope: Scope, stdin: Flow = EMPTY) -> Flow:
        return self.statements(statements, scope.copy(), stdin)

    def hidden(self, text: str, scope: Scope) -> None:
        """Where the shell reads a text as arithmetic or as a prompt, it runs the substitutions that are in it."""
        if _SUBSTITUTION.search(text) and len(text) < 4096:
            self.script(f'echo "{text}"', scope.copy(), scope.span or (0, 0), "substitution", guess=True)

    def scan(self, node: Any, scope: Scope) -> None:
        """Everything that is run somewhere inside of arithmetic, tests, indices, patterns."""
        stack = [node]
        while stack:
            one = stack.pop()
            if isinstance(one, list):
                stack += one
            elif isinstance(one, dict):
                kind = one.get("Type")
                if kind in ("CmdSubst", "ProcSubst"):
                    self.substituted(one.get("Stmts") or [], scope)
                elif kind == "ParamExp" or "Parts" in one:
                    self.hidden(Expander(self, scope).text(one if "Parts" in one else {"Parts": [one]}), scope)
                else:
                    stack += [v for v in one.values() if isinstance(v, (dict, list))]

    # Statements ---------------------------------------------------------------------------------------------------

    def statements(self, statements: list[dict[str, Any]], scope: Scope, stdin: Flow = EMPTY) -> Flow:
        return joined([self.statement(s, scope, stdin) for s in statements])

    def statement(self, node: dict[str, Any], scope: Scope, stdin: Flow) -> Flow:
        self.steps += 1
        self.nesting += 1
        if self.steps > MAX_STEPS or self.nesting > MAX_NESTING:
            raise TooMuch
        background = node.get("Background", False) or node.get("Coprocess", False)
        self.inside += background
        command = node.get("Cmd")
        redirects: list[dict[str, Any]] = node.get("Redirs") or []
        if command is not None and command["Type"] == "CallExpr":
            flow = self._call(command, redirects, scope, stdin)
        else:
            if redirects:
                by = Expander(self, scope)
                words, stdin = calls.redirected(self, by, redirects, stdin)
                calls.opened(self, words, scope, self.span(node, scope))
            flow = EMPTY
            if command is not None:
                handler = compound.HANDLERS.get(command["Type"])
                flow = handler(self, command, scope, stdin) if handler else self._other(command, scope)
                if redirects:
                    flow = calls.captured(self, flow, words)
        self.inside -= background
        self.nesting -= 1
        return flow

    def _other(self, node: dict[str, Any], scope: Scope) -> Flow:
        self.scan(node, scope)
        return UNKNOWN

    def _call(self, node: dict[str, Any], redirects: list[dict[str, Any]], scope: Scope, stdin: Flow) -> Flow:
        by = Expander(self, scope)
        words = by.fields(node.get("Args") or [])
        first_unsure = by.first_unsure
        assigned: list[calls.Assigned] = []
        for one in node.get("Assigns") or []:
            seen = len(by.flows)
            name, value = one["Name"]["Value"], self.value(by, one)
            assigned.append((name, value, one))
            if not words:  # one after the other: the next may use it
                self.assign(scope, name, value, one, joined(by.flows[seen:]))
        to, stdin = calls.redirected(self, by, redirects, stdin) if redirects else ([], stdin)
        span = self.span(node, scope)
        if not words:
            calls.assigned(self, assigned, scope, span, alone=True)
            calls.opened(self, to, scope, span)
            # `> file` alone empties it; `$(...)` alone runs what came out of it.
            return joined(by.flows) if by.flows else EMPTY
        if assigned:
            calls.assigned(self, assigned, scope, span, alone=False)
        if first_unsure and not unknown(words[0]):
            if not globs(words[0]):  # most likely it is what it says: beside the question, that is looked at too
                likely = scope.copy()
                likely.via = LIKELY
                calls.simple(self, list(words), likely, span, to, stdin, by.flows, assigned)
            words[0] += SUBST if by.flows else ANY
        return calls.simple(self, words, scope, span, to, stdin, by.flows, assigned)

    def value(self, by: Expander, assign: dict[str, Any]) -> Value:
        array = assign.get("Array")
        if array is not None:
            elements = [e.get("Value") for e in array.get("Elems") or []]
            indices = [
                by.text(e["Index"]) if "Parts" in (e.get("Index") or {}) else "" for e in array.get("Elems") or []
            ]
            if any(e.get("Index") for e in array.get("Elems") or []) and indices != [
                str(i) for i in range(len(elements))
            ]:
                self.scan(array, by.scope)
                return ANY
            return [f for e in elements if e for f in by.word(e)]
        if assign.get("Index"):
            self.scan(assign["Index"], by.scope)
        text = by.text(assign.get("Value"))
        self.hidden(text, by.scope)
        unsure = by.unsure and ("\n" in text or unknown(text) or not _answered(assign.get("Value")))
        return ANY if unsure or assign.get("Index") else text

    def assign(self, scope: Scope, name: str, value: Value, assign: dict[str, Any], flow: Flow) -> None:
        kept = scope.held.get(name, NOTHING_AT_ALL) if assign.get("Append") or assign.get("Index") else NOTHING_AT_ALL
        scope.hold(name, flow.traits | kept)
        if assign.get("Append") or assign.get("Index"):
            old = scope.vars.get(name)
            if assign.get("Index") or old is None:
                value = ANY
            elif isinstance(old, list) or isinstance(value, list):
                value = [*(old if isinstance(old, list) else [old]), *(value if isinstance(value, list) else [value])]
            else:
                value = old + value
        if sum(map(len, value)) > 65536:
            value = ANY
        scope.vars[name] = value

    def call_function(
        self, name: str, words: list[str], scope: Scope, span: tuple[int, int], stdin: Flow, flows: Sequence[Flow]
    ) -> Flow:
        body, _ = scope.functions[name]
        if name in scope.calling:
            if self.inside:
                self.risk("destructive", f"the function {name} starts itself again and again", span)
            return UNKNOWN
        self.called.add(id(body))
        saved, held = (scope.positionals, scope.span, scope.calling), scope.held
        scope.held = {**held, "@": joined(list(flows)).traits & HOLDS}
        scope.positionals, scope.calling = words[1:], (*scope.calling, name)
        flow = self.statement(body, scope, stdin)
        scope.positionals, scope.span, scope.calling = saved
        scope.held = {**scope.held, "@": held.get("@", NOTHING_AT_ALL)}
        return flow

    def uncalled(self) -> None:
        """Functions that nothing here calls: something may, with whatever arguments."""
        for key in list(self.functions):
            if key not in self.called:
                body, scope = self.functions[key]
                scope.positionals, scope.sure = None, False
                self.statement(body, scope, EMPTY)

    def planted(self) -> None:
        """What the script wrote where it is run later. Files that it names there are not this command's."""
        scripts = dict(self.scripts)
        for path, scope, span in self.waiting[:16]:
            if text := self.written.get(path):
                self.script(text, scope, span, scope.via, guess=True)
        for path, text in list(self.written.items()) if self.parse is not None else ():
            if text and places.run_later(path):
                self.script(text, Scope(positionals=[]), (0, 0), path, guess=True)
        self.scripts = scripts
