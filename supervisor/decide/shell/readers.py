"""Programs that run text: shells and interpreters, from an argument, a file, or what comes in. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.decide.shell import flow as f
from supervisor.decide.shell import inline, places, pycode, risks
from supervisor.decide.shell.calls import output
from supervisor.decide.shell.flow import EMPTY, UNKNOWN, Flow
from supervisor.decide.shell.marks import ANY, SUBST, collapsed, shown
from supervisor.decide.shell.options import operand

if TYPE_CHECKING:
    from supervisor.decide.shell.calls import Call
    from supervisor.decide.shell.inline import Found

STDIN = re.compile(r"-|/dev/stdin|(?:/dev|/proc/self)/fd/\d+")


def shell(call: Call) -> Flow | None:
    """sh(1) and kin: a text, a file, or what comes in."""
    words, at, text, reads = call.words, 1, False, False
    while at < len(words):
        w = words[at]
        if w in ("--", "-") and not (w == "-" and at + 1 == len(words)):
            at += 1
            break
        if w[:1] not in ("-", "+") or w == "-":
            break
        at += 1
        if w[:2] == "--":
            if w in ("--rcfile", "--init-file", "--init-command") and at < len(words):
                _first_read(call, words[at])
                at += 1
            text = text or w in ("--command", "--commands")
        else:
            text = text or ("c" in w and w[0] == "-") or w.lower() in ("-command", "-commandwithargs")
            reads = reads or "s" in w
            at += ("o" in w or "O" in w) and w[1:].lower() not in ("command", "login")
    name = call.name
    if text:
        if at >= len(words):
            return None
        given = words[at]
        traits = call.traits()
        risks.code(call, Flow(given, traits), f"{name} -c")
        return call.shell(
            given, f"{name} -c", positionals=words[at + 2 :], zero=words[at + 1] if at + 1 < len(words) else "sh"
        )
    if at < len(words) and not reads and (not STDIN.fullmatch(words[at]) or words[at] in call.walk.written):
        file = words[at]
        if SUBST in file:
            given_flow = f.joined(list(call.flows))
            risks.code(call, given_flow, name)
            given_text = given_flow.text
            return call.shell(given_text, name, positionals=words[at + 1 :]) if given_text else UNKNOWN
        return script(call, file, words[at + 1 :], name)
    if any(target.startswith(("/dev/tcp/", "/dev/udp/")) for _, target in call.redirects) or call.walk.connected:
        call.risk("remote_code", f"{name} is tied to the network")
    if call.stdin is EMPTY:
        return Flow(None, frozenset([f.SHELL]))
    given_stdin = Flow(None, call.stdin.traits - {f.TREE}) if f.TREE in call.stdin.traits else call.stdin
    risks.code(call, given_stdin, name)
    for maybe in given_stdin.perhaps:
        call.walk.script(maybe, call.inner(f"{name} <stdin"), call.span, f"{name} <stdin", guess=True)
    if given_stdin.text is None:
        for name in given_stdin.files:
            call.walk.waiting.append((name.removeprefix("./"), call.inner(f"{call.name} <stdin"), call.span))
        return Flow(None, frozenset([f.SHELL]))
    return call.shell(given_stdin.text, f"{name} <stdin", positionals=words[at:], stdin=EMPTY)


def _first_read(call: Call, file: str) -> None:
    """--rcfile: what a shell reads before anything else."""
    given = f.joined(list(call.flows)) if SUBST in file else Flow(None, frozenset([f.FILE]), (file,))
    risks.code(call, given, call.name)
    if given.text:
        call.shell(given.text, f"{call.name} --rcfile")


def script(call: Call, file: str, args: list[str], name: str) -> Flow:
    """A file that a shell runs: named, and looked into where the script itself wrote it."""
    call.walk.scripts[shown(file)] = None
    risks.ran_script(call, file)
    text = call.walk.written.get(file.removeprefix("./"))
    if text:
        call.shell(text, f"{name} {file}", positionals=args)
    return Flow(None, frozenset([f.FILE]))


_CODE = {"python": "c", "pypy": "c", "ipython": "c", "perl": "eE", "ruby": "e", "node": "ep", "nodejs": "ep",
    "bun": "ep",
         "php": "rBER", "lua": "e", "luajit": "e", "julia": "eE", "Rscript": "e", "osascript": "e", "groovy": "e",
         "scala": "e", "elixir": "e", "guile": "c", "jruby": "e", "ocaml": "e", "ghci": "e", "expect": "c",
         "tsx": "e", "ts-node": "e", "R": "e"}  # fmt: skip

_PYTHONS = frozenset(("python", "pypy", "ipython"))
_MODULES = frozenset(["pip", "pytest", "tox", "nox", "uv", "poetry", "pipx", "alembic"])  # programs by these names too
_LONG_CODE = frozenset(["--eval", "--print", "--run", "--command", "eval"])


def interpreter(call: Call) -> Flow | None:
    """Interpreters of languages: code in an argument, a file, or what comes in."""
    words, letters = call.words, _CODE.get(call.name, "e")
    codes, at = [], 1
    while at < len(words):
        w = words[at]
        if w in _LONG_CODE:
            codes.append(words[at + 1] if at + 1 < len(words) else "")
            at += 2
            continue
        if w.startswith(("--eval=", "--print=")):
            codes.append(w.split("=", 1)[1])
        elif (
            w[:1] == "-"
            and (w[1:2] in letters or w[1:2] not in ("-mWX" if call.name in _PYTHONS else "-MmIirWXd"))
            and (found := next((i for i, c in enumerate(w) if i and c in letters), 0))
        ):
            if call.name in ("python", "pypy") and "m" in w[1:found]:
                break
            rest = w[found + 1 :]
            if (call.name not in ("perl", "ruby") and rest) or (rest and rest[0] not in letters):
                codes.append(rest)
            else:
                at += 1
                codes.append(words[at] if at < len(words) else "")
        elif w[:1] == "-" and w != "-" and w != "--":
            if w in ("-m", "-W", "-X", "-I", "-r", "-l", "--require", "--import", "-C"):
                at += w not in ("-I",) or call.name != "python"
                if w == "-m" and call.name in ("python", "pypy"):
                    if words[at : at + 1] and words[at] in _MODULES:
                        return call.run(words[at:], "python -m")
                    for text in words[at + 1 :]:
                        if "(" in text:
                            code(call, text, f"{call.name} -m")
                    return None
        else:
            break
        at += 1
    if codes:
        for text in codes:
            code(call, text, f"{call.name} -{letters[0]}")
        for given in words[at:][:8] if any(inline.runs_arguments(text) for text in codes) else ():
            call.walk.script(given, call.inner(call.name), call.span, call.name, guess=True)
        texts = tuple(one for text in codes for one in inline.strings(text) if " " in one)[:8]
        return Flow(None, call.stdin.traits - {f.TREE}, (), texts)
    if at < len(words) and not STDIN.fullmatch(words[at]):
        return file(call, words[at])
    if call.stdin is not EMPTY:
        risks.code(call, call.stdin, call.name)
        if call.stdin.text:
            code(call, call.stdin.text, f"{call.name} <stdin")
    return UNKNOWN


def file(call: Call, path: str) -> Flow | None:
    if call.name in ("deno", "bun") and path in ("run", "test", "x", "install", "add", "build", "fmt", "lint"):
        if path == "run" and any(w.startswith(("http://", "https://")) for w in call.words[2:]):
            call.risk("remote_code", f"{call.name} runs what came over the network")
        return None
    if SUBST in path:
        given = f.joined(list(call.flows))
        risks.code(call, given, call.name)
        if given.text:
            code(call, given.text, call.name)
        return UNKNOWN
    if call.name in ("vim", "vi", "nvim", "ed", "ex", "java", "sqlite3", "gdb", "emacs", "m4"):
        return None
    own = path.removeprefix("./")
    if "." in path or "/" in path or own in call.walk.written:
        call.walk.scripts[shown(path)] = None
        risks.ran_script(call, path)
        text = call.walk.written.get(own)
        if text:
            code(call, text, f"{call.name} {path}")
    return None


def code(call: Call, text: str, via: str) -> None:
    """Code of a language that is no shell."""
    traits = call.traits()
    whole = bool(text) and not collapsed(text).strip(ANY + SUBST + " \n;")
    if traits and (whole or f.HELD not in traits):
        risks.code(call, Flow(text, traits), via)
    if whole:
        call.risk("dynamic", f"what {via} runs is only known at run time")
    if f.NET in call.stdin.traits and re.search(r"\b(?:exec|eval)\b[\s\S]*(?:stdin|STDIN|<>|read)", text):
        call.risk("remote_code", f"{via} runs what came over the network")
    parsed = pycode.read(text) if call.name in _PYTHONS else None
    guess = parsed is None or parsed.opaque  # else it tells itself what it starts
    looked = [inline.read(one, guess=guess) for one in dict.fromkeys((text, inline.expanded(text)))]
    if parsed is not None:
        looked.append(parsed)
    for one in looked:
        _did(call, one, via, fetches=inline.FETCHES.search(text) is not None)
    for said in inline.strings(text):
        if said[:1] in "/~" and places.SECRET.search(said):
            places.note(call, said, writes=False)
    for said in inline.statements(text):
        call.run(["sqlite3" if "sqlite" in text else "sql", "-c", said], via, EMPTY)


def _did(call: Call, found: Found, via: str, *, fetches: bool) -> None:
    for kind, detail in found.signs:
        call.risk(kind, detail)
    for path in found.deletes:
        if places.vast(path):
            call.risk("destructive", f"deletes all of {path}")
            call.walk.command(["rm", "-rf", path], call.inner(via), call.span, [], EMPTY)
    for path, writes in found.paths:
        places.note(call, path, writes=writes)
        if writes and fetches:
            call.walk.downloaded.add(path.removeprefix("./"))
    for one in found.starts:
        if isinstance(one, list):
            call.run(one, via, EMPTY)
        elif one.strip():
            scope = call.inner(via)
            call.walk.script(one, scope, call.span, via, guess=True)


def awk(call: Call) -> Flow | None:
    at = operand(call.words, 1, "Fvfi", frozenset(["field-separator", "assign", "file", "include"]))
    if any(SUBST in w for w in call.words[1:at]):
        given = f.joined(list(call.flows))
        risks.code(call, given, call.name)
        code(call, given.text or "", call.name)
    if "-f" not in call.words[:at] and at < len(call.words):
        code(call, call.words[at], call.name)
        return output(call)._replace(perhaps=tuple(s for s in inline.strings(call.words[at]) if " " in s)[:8])
    return None
