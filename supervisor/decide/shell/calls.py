"""One simple command: it is noted, looked at for danger, followed into what it starts, and its output is told. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from supervisor.decide.shell import answers, places, risks, variables
from supervisor.decide.shell import flow as f
from supervisor.decide.shell.flow import EMPTY, UNKNOWN, Flow, joined
from supervisor.decide.shell.limits import MAX_STEPS, TooMuch
from supervisor.decide.shell.marks import ANY, SUBST, UNSET, unknown
from supervisor.decide.shell.options import operands, option
from supervisor.decide.shell.programs import DOWNLOADERS, ENVIRONMENT_PRINTERS, SQL_CLIENTS, base, family
from supervisor.decide.shell.words import ansi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from supervisor.decide.shell.scope import Scope, Value
    from supervisor.decide.shell.walk import Walk
    from supervisor.decide.shell.words import Expander

Assigned = tuple[str, "Value", dict[str, Any]]


@dataclass(slots=True)
class Call:
    """A simple command that is being looked at."""

    walk: Walk
    name: str  # of the program, without directory and version
    words: list[str]
    scope: Scope
    span: tuple[int, int]
    redirects: list[tuple[str, str]]
    stdin: Flow
    flows: Sequence[Flow] = ()  # of substitutions in its words
    assigns: Sequence[Assigned] = field(default_factory=tuple)

    def inner(self, via: str) -> Scope:
        scope = self.scope.copy()
        scope.span = scope.span or self.span
        scope.via = via
        scope.depth += 1
        scope.functions, scope.aliases = {}, {}  # another program knows none
        return scope

    def run(self, words: list[str], via: str, stdin: Flow | None = None) -> Flow:
        """Another command that this one starts."""
        if not words:
            return UNKNOWN
        scope = self.inner(via)
        if scope.depth > 40:
            return UNKNOWN
        return simple(
            self.walk, words, scope, self.span, [], self.stdin if stdin is None else stdin, self.flows, self.assigns
        )

    def shell(
        self, text: str, via: str, *, positionals: list[str] | None = None, stdin: Flow | None = None, zero: str = "sh"
    ) -> Flow:
        """A text that a shell of its own reads."""
        scope = self.scope.copy()
        scope.positionals = positionals if positionals is not None else []
        scope.aliases = {}
        scope.held["@"] = self.traits() & f.HOLDS
        scope.zero = zero
        for name, value, _ in self.assigns:
            scope.vars[name] = value
        return self.walk.script(text, scope, self.span, via, self.stdin if stdin is None else stdin)

    def risk(self, kind: str, detail: str) -> None:
        self.walk.risk(kind, detail, self.span)

    def traits(self) -> frozenset[str]:
        """Of whatever is put into its words."""
        return frozenset().union(*(one.traits for one in self.flows)) if self.flows else f.NOTHING_AT_ALL


# Builtins that read a word as the name of a variable, with an index that is arithmetic.
_READ_NAMES = frozenset(
    ["test", "[", "printf", "read", "unset", "declare", "typeset", "local", "export", "readonly", "let"]
)


def simple(
    walk: Walk,
    words: list[str],
    scope: Scope,
    span: tuple[int, int],
    redirects: list[tuple[str, str]],
    stdin: Flow,
    flows: Sequence[Flow] = (),
    assigns: Sequence[Assigned] = (),
) -> Flow:
    """Looks at a command and at everything that it starts; what comes out of it."""
    walk.steps += 1
    if walk.steps > MAX_STEPS:
        raise TooMuch
    first = words[0]
    if unknown(first):
        walk.command(words, scope, span, redirects, stdin)
        call = Call(walk, "", words, scope, span, redirects, stdin, flows, assigns)
        risks.dynamic(call)
        places.look(call)
        opened(walk, redirects, scope, span)
        if first == UNSET and len(words) > 1:
            return simple(walk, words[1:], scope, span, redirects, stdin, flows, assigns)
        return captured(walk, Flow(None, call.traits()), redirects)
    if first in scope.functions:
        said = walk.call_function(first, words, scope, span, stdin, flows)
        if first in scope.functions and scope.functions[first][1]:
            opened(walk, redirects, scope, span)
            return captured(walk, said, redirects)
    if walk.written and base(first) in SQL_CLIENTS:
        stdin = _statements_of(walk, words, stdin)
    if first[:1] == "=" and len(first) > 1:  # zsh: the path of that program
        return simple(walk, [first[1:], *words[1:]], scope, span, redirects, stdin, flows, assigns)
    walk.command(words, scope, span, redirects, stdin)
    if walk.renamed and (old := walk.renamed.get(first.removeprefix("./"))) is not None:
        simple(walk, [old, *words[1:]], scope.copy(), span, redirects, stdin, flows, assigns)
    if first in scope.aliases:
        text = scope.aliases[first]
        inner = scope.copy()
        del inner.aliases[first]
        walk.script(" ".join([text, *map(_again, words[1:])]), inner, span, "alias", stdin)
    call = Call(walk, family(base(first)), words, scope, span, redirects, stdin, flows, assigns)
    places.look(call)
    if redirects:
        opened(walk, redirects, scope, span)
    risks.look(call)
    if call.name in _READ_NAMES:
        for w in words[1:]:
            walk.hidden(w, scope)
    started = STARTS.get(call.name)
    if started is None and call.name.startswith("git-"):
        call.run(["git", call.name[4:], *words[1:]], "git")
    followed = started(call) if started is not None else _own_program(call) if "/" in first else None
    flow = output(call) if followed is None else followed
    return captured(walk, flow, redirects) if redirects else flow


_READS_SQL = re.compile(r"\s*(?:\\ir?|\.read|source)\s+(\S+)\s*")


def _statements_of(walk: Walk, words: list[str], stdin: Flow) -> Flow:
    """What a client of a database reads: psql -f FILE, sqlite3 '.read FILE', beside what it is fed."""
    named = [option(words, "-f", "--file") or ""]
    named += [found[1] for w in words[1:] if (found := _READS_SQL.fullmatch(w))]
    given = [contents(walk, name) for name in named if name.removeprefix("./") in walk.written]
    return joined([*given, *([] if stdin is EMPTY else [stdin])]) if given else stdin


def _own_program(call: Call) -> Flow | None:
    """A program that the script itself wrote: execve(2) gives it to what its first line names, a shell else."""
    path = call.words[0]
    text = call.walk.written.get(path.removeprefix("./"))
    if not text:
        return None
    line = text.partition("\n")[0]
    named = line[2:].split(maxsplit=1) if line.startswith("#!") else []
    return call.run([*(named or ["sh"]), *call.words], path)


STARTS: dict[
    str, Callable[[Call], Flow | None]
] = {}  # program -> what follows it into what it starts; filled by analyse.py


def _again(word: str) -> str:
    """A word as shell text again."""
    return word if re.fullmatch(r"[\w./:=@%+,-]+", word) else "'" + word.replace("'", "'\\''") + "'"


# What a program writes ----------------------------------------------------------------------------------------------


def output(call: Call) -> Flow:
    """What a program writes, of which nothing more is known than its words and what comes in."""
    name, words = call.name, call.words
    traits = call.traits()
    if name == "echo":
        return Flow(_echoed(words), traits)
    if name == "printf" and len(words) > 1:
        return Flow(formatted(words[1], words[2:]), traits)
    if name in DOWNLOADERS:
        return Flow(None, traits | {f.NET})
    if f.decodes(name, words):
        how = {f.DECODED, f.ENCODED} if name in f.ENCODINGS else {f.DECODED}
        into = option(words, "-out")
        if into and f.ENCODED in how:
            call.walk.decoded.add(into.removeprefix("./"))
        files = operands(words)[-1:] if name not in ("tr", "openssl", "dd") else []
        source = contents(call.walk, files[0]) if files else call.stdin
        return Flow(f.decode(name, words, source.text), source.traits - {f.FILE} | traits | how)
    if name in ("cat", "tee", "pv", "sponge", "buffer", "bat"):
        return _copied(call)
    if name in ENVIRONMENT_PRINTERS:
        return Flow(None, frozenset([f.SETTINGS]))
    if name in ("env", "printenv", "set", "export", "declare") and len(words) == 1:
        return Flow(None, frozenset([f.ENVIRON]))
    if name == "openssl" and "s_client" in words:
        return Flow(None, traits | {f.NET})
    told = answers.answer(call)
    if told is not None:
        return told
    files = [w for w in words[1:] if w in call.walk.downloaded]
    net = frozenset([f.NET]) if files else f.NOTHING_AT_ALL
    if call.stdin is EMPTY and not traits and not net:
        return UNKNOWN
    # A text that stands in the script, and goes through a program before it is used: why, if not to hide it?
    given = None if f.TREE in call.stdin.traits else call.stdin.text  # names of files are no text of the script
    hidden = f.NOTHING_AT_ALL if given is None or not given.strip() or unknown(given) else frozenset([f.DECODED])
    return Flow(None, (call.stdin.traits - {f.TREE}) | traits | net | hidden)


def _copied(call: Call) -> Flow:
    files = [w for w in call.words[1:] if w == "-" or not w.startswith("-")]
    if call.name in ("tee", "sponge"):
        for w in files:
            _wrote(call.walk, w, call.stdin, append="-a" in call.words)
        return call.stdin
    if not files:
        return call.stdin
    parts = []
    for w in files:
        if w in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
            parts.append(call.stdin)
        elif SUBST in w:
            parts.append(f.joined(list(call.flows)))
        else:
            parts.append(contents(call.walk, w))
    return f.joined(parts)


def contents(walk: Walk, path: str) -> Flow:
    """What is in a file, if this very script wrote it."""
    name = path.removeprefix("./")
    traits = {f.FILE} | ({f.NET} if name in walk.downloaded else set())
    return Flow(walk.written.get(name), frozenset(traits), (path,))


def _echoed(words: list[str]) -> str:
    at, escapes, newline = 1, False, "\n"
    while at < len(words) and re.fullmatch(r"-[neE]+", words[at]):
        escapes = escapes or "e" in words[at]
        newline = "" if "n" in words[at] else newline
        at += 1
    text = " ".join(words[at:])
    # sh may read escapes without being asked to; ANSI-C escapes are written by nobody who wants them literally.
    return (ansi(_octal(text)) if escapes or "\\" in text else text) + newline


def formatted(form: str, args: list[str]) -> str | None:
    """What printf(1) writes."""
    text = ansi(form)
    pieces = re.split(r"%(%|[-+ #0]*\d*(?:\.\d+)?[a-zA-Z])", text)
    if len(pieces) == 1:
        return text
    out, left = "", list(args)
    for _ in range(64):
        for i, piece in enumerate(pieces):
            if i % 2 == 0:
                out += piece
            elif piece == "%":
                out += "%"
            elif piece[-1] == "c":
                out += (left.pop(0) if left else "")[:1]
            elif piece[-1] == "b":
                out += ansi(_octal(left.pop(0))) if left else ""
            elif piece[-1] == "x":
                out += ANY
                left[:1] = []
            else:
                out += left.pop(0) if left else ""
        if not left or len(pieces) == 1 or len(out) > 65536:
            return out[:65536]
    return None


def _octal(text: str) -> str:
    r"""echo -e and %b write octal as \0nnn."""
    return re.sub(r"\\0([0-7]{1,3})", r"\\\1", text)


# Redirections -------------------------------------------------------------------------------------------------------

_STREAMS = frozenset(["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/stdin", "/dev/tty", "/dev/full"])
_WRITES = frozenset([">", ">>", ">|", "&>", "&>>", "<>", ">&"])


def redirected(
    walk: Walk, by: Expander, redirects: list[dict[str, Any]], stdin: Flow
) -> tuple[list[tuple[str, str]], Flow]:
    """The redirections as (descriptor and operator, where), and what is fed to the command by them."""
    out: list[tuple[str, str]] = []
    for one in redirects:
        op: str = one["Op"]
        descriptor = one.get("N", {}).get("Value", "")
        seen = len(by.flows)
        if op in ("<<", "<<-"):
            text = by.document(one)
            stdin = _fed(walk, by, descriptor, Flow(text, f.joined(by.flows[seen:]).traits), stdin)
            continue
        target = by.text(one.get("Word"))
        flows = by.flows[seen:]
        if op == "<<<":
            stdin = _fed(walk, by, descriptor, Flow(target + "\n", f.joined(flows).traits), stdin)
            continue
        if op == "<&" and f"/dev/fd/{target}" in walk.written:
            stdin = contents(walk, f"/dev/fd/{target}")
        out.append((descriptor + op, target))
        if op == "<&" and walk.connected:
            stdin = Flow(None, frozenset([f.NET]))
        if op in ("<", "<>") and descriptor in ("", "0"):
            stdin = f.joined(flows) if SUBST in target and flows else contents(walk, target)
            if target.startswith(("/dev/tcp/", "/dev/udp/")):
                stdin = Flow(None, frozenset([f.NET]))
    return out, stdin


def _fed(walk: Walk, by: Expander, descriptor: str, given: Flow, stdin: Flow) -> Flow:
    """What the command is fed once a text stands on a descriptor. On another than its input, 3<<<text or {fd}<<<text,
    it is what /dev/fd/3 holds from then on.
    """
    if descriptor in ("", "0"):
        return given
    number = descriptor
    if not descriptor.isdigit():
        by.scope.vars[descriptor.strip("{}")] = number = str(10 + len(walk.written))
    walk.written[f"/dev/fd/{number}"] = given.text
    return stdin


def opened(walk: Walk, redirects: list[tuple[str, str]], scope: Scope, span: tuple[int, int]) -> None:
    """Notes the files that redirections open."""
    for op, target in redirects:
        plain = op.lstrip("0123456789")
        if plain in (">&", "<&") and re.fullmatch(r"\d+-?|-", target):
            continue
        if not target or target in _STREAMS or target.startswith("/dev/fd/"):
            continue
        places.opened(walk, target, scope, span, writes=plain in _WRITES)


def captured(walk: Walk, flow: Flow, redirects: list[tuple[str, str]]) -> Flow:
    """What goes on through the pipe after the redirections; files that were written are remembered."""
    for op, target in redirects:
        if op in (">", ">>", ">|", "1>", "1>>", "&>", "&>>"):
            if target in ("/dev/stdout", "/dev/fd/1", "/dev/stderr", "/proc/self/fd/1"):
                continue
            _wrote(walk, target, flow, append=op.endswith(">>"))
            flow = EMPTY
    return flow


def _wrote(walk: Walk, path: str, flow: Flow, *, append: bool) -> None:
    path = path.removeprefix("./")
    if unknown(path) and f.NET in flow.traits:
        walk.fetched = True
    if unknown(path) or path in _STREAMS or len(walk.written) > 1000:
        return
    text = flow.text
    if append:
        before = walk.written.get(path, "")
        text = None if text is None or before is None or len(before) > 65536 else before + text
    walk.written[path] = text
    if f.NET in flow.traits:
        walk.downloaded.add(path)
    if f.ENCODED in flow.traits:
        walk.decoded.add(path)


# Assignments --------------------------------------------------------------------------------------------------------


def assigned(walk: Walk, assigns: Sequence[Assigned], scope: Scope, span: tuple[int, int], *, alone: bool) -> None:
    """Variables that other programs run, load or obey."""
    for name, value, _ in assigns:
        if isinstance(value, str):
            variables.variable(walk, name, value, scope, span, alone=alone)
