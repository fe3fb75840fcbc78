"""What commands of the shell itself change for those that follow: directory, variables, names. Pure."""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from supervisor.decide.shell import flow as f
from supervisor.decide.shell import places, risks, variables
from supervisor.decide.shell.calls import contents, formatted
from supervisor.decide.shell.flow import EMPTY, UNKNOWN, Flow
from supervisor.decide.shell.marks import ANY, SUBST, collapsed, shown, unknown
from supervisor.decide.shell.readers import STDIN
from supervisor.decide.shell.scope import filled

if TYPE_CHECKING:
    from supervisor.decide.shell.calls import Call


def cd(call: Call) -> Flow | None:
    words = [w for w in call.words[1:] if w not in ("-P", "-L", "-e", "-@", "--")]
    where = words[0] if words else "~"
    before = call.scope.cwd
    if unknown(where) or where == "-":
        if collapsed(where):  # where the variable is not set, this is where it stays, or goes home
            call.scope.below = "…"
        return EMPTY
    entered = posixpath.normpath(f"{call.scope.below}/{where}" if call.scope.below else where)
    call.scope.below = "" if entered == "." else entered
    if where[:1] in ("/", "~"):
        now = places.normal(where)
    else:
        now = posixpath.normpath(f"{before}/{where}") if before else where if where.startswith("..") else ""
    # Where it is not certain that this is reached, the worse of the two stays.
    if call.scope.sure or not places.vast(before or "."):
        call.scope.cwd = now
    return EMPTY


def evaluate(call: Call) -> Flow | None:
    """eval: its words are a text for this very shell."""
    text = " ".join(call.words[1:] if call.words[1:2] != ["--"] else call.words[2:])
    traits = call.traits()
    risks.code(call, Flow(text, traits), "eval")
    if f.SETTINGS in traits and not text.strip(ANY + SUBST + " "):
        return UNKNOWN
    scope = call.scope
    kept = scope.via, scope.span, scope.depth
    flow = call.walk.script(text, scope, call.span, "eval", call.stdin)
    scope.via, scope.span, scope.depth = kept
    if unknown(text):
        scope.forget()
    return flow


def source(call: Call) -> Flow | None:
    if len(call.words) < 2:
        return None
    file = call.words[1]
    given = UNKNOWN
    if STDIN.fullmatch(file):
        given = call.stdin
    elif SUBST in file and call.flows:
        given = f.joined(list(call.flows))
    else:
        call.walk.scripts[shown(file)] = None
        risks.ran_script(call, file)
        given = contents(call.walk, file)
    risks.code(call, given, call.words[0])
    if given.text:
        scope = call.scope
        kept = scope.via, scope.span, scope.depth
        call.walk.script(given.text, scope, call.span, "source", call.stdin)
        scope.via, scope.span, scope.depth = kept
    call.scope.forget()
    return UNKNOWN


def trap(call: Call) -> Flow | None:
    words = [w for w in call.words[1:] if w != "--"]
    if len(words) > 1 and words[0] not in ("-", "", "-l", "-p"):
        scope = call.scope.copy()
        scope.sure = False
        call.walk.script(words[0], scope, call.span, "trap")
    return EMPTY


def alias(call: Call) -> Flow | None:
    for w in call.words[1:]:
        name, equals, text = w.partition("=")
        if equals and name:
            call.scope.aliases[name] = text
    return EMPTY


def unalias(_call: Call) -> Flow | None:
    return EMPTY  # an alias that may be gone may still be there


def unset(call: Call) -> Flow | None:
    for w in call.words[1:]:
        if w[:1] == "-":
            continue
        if "-f" in call.words:
            call.scope.functions.pop(w, None)
        else:
            call.scope.vars[w] = "" if call.scope.sure else ANY
            body = call.scope.functions.get(w)
            if body is not None:
                call.scope.functions[w] = (body[0], False)
    return EMPTY


def setting(call: Call) -> Flow | None:
    """set -- a b c"""
    words = call.words[1:]
    if not words:
        return Flow(None, frozenset([f.ENVIRON]))
    at = next((i for i, w in enumerate(words) if w in ("--", "-") or w[:1] not in ("-", "+")), len(words))
    if at < len(words):
        call.scope.positionals = words[at + 1 :] if words[at] in ("--", "-") else words[at:]
        if not call.scope.sure:
            call.scope.positionals = None
    return EMPTY


def shift(call: Call) -> Flow | None:
    scope = call.scope
    if scope.positionals is not None:
        by = call.words[1] if len(call.words) > 1 else "1"
        scope.positionals = scope.positionals[int(by) :] if by.isdigit() and len(by) < 5 and scope.sure else None
    return EMPTY


def reads(call: Call) -> Flow | None:
    """read, mapfile, getopts: what the variables hold then is not known; nearly always."""
    scope, given = call.scope, call.stdin.text
    for name in call.words[1:]:
        if re.fullmatch(r"[A-Za-z_]\w*", name):
            scope.vars[name] = ANY
            scope.hold(name, call.stdin.traits)
    if call.name == "read" and given is not None and call.stdin is not EMPTY and scope.sure:
        ifs = next((value for name, value, _ in call.assigns if name == "IFS"), scope.vars.get("IFS", ""))
        scope.vars.update(filled(call.words, given.split("\n")[0], ifs))
    return EMPTY


def declares(call: Call) -> Flow | None:
    """export, declare and so on where they are words like any: `"export" x=y`."""
    for w in call.words[1:]:
        name, equals, value = w.partition("=")
        if equals and name.isidentifier():
            call.scope.vars[name] = value if call.scope.sure else ANY
            variables.variable(call.walk, name, value, call.scope, call.span, alone=True)
    return EMPTY


def prints(call: Call) -> Flow | None:
    """printf -v NAME FORMAT"""
    words = call.words
    if len(words) > 3 and words[1] == "-v":
        text = formatted(words[3], words[4:])
        call.scope.vars[words[2]] = text if text is not None and call.scope.sure else ANY
        return EMPTY
    if len(words) > 2 and words[1].startswith("-v"):
        call.scope.vars[words[1][2:]] = ANY
    return None


def hashed(call: Call) -> Flow | None:
    """hash -p PATH NAME: from now on NAME is PATH."""
    words = call.words
    if len(words) > 3 and words[1] == "-p":
        call.scope.aliases[words[3]] = words[2]
        call.risk("evasion", f"{words[3]} becomes {words[2]}")
    return EMPTY


def enable(call: Call) -> Flow | None:
    if "-f" in call.words:
        call.risk("evasion", "loads code into the shell")
    return EMPTY


def bound(call: Call) -> Flow | None:
    """complete -C, compgen -C, mapfile -C, bind -x: a command given to be run later."""
    words = call.words
    for i, w in enumerate(words[:-1]):
        if w in ("-C", "-x"):
            call.shell(
                words[i + 1].split(":", 1)[-1].strip('" ') if call.name == "bind" else words[i + 1], f"{call.name} {w}"
            )
    if call.name not in ("mapfile", "readarray"):
        return EMPTY
    reads(call)
    names = [w for w in words[1:] if w.isidentifier()]
    if names and call.stdin.text is not None and call.stdin is not EMPTY and call.scope.sure and "-t" in words:
        call.scope.vars[names[-1]] = call.stdin.text.rstrip("\n").split("\n")[:512]
    return EMPTY
