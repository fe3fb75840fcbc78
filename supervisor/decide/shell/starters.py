"""The programs that start others, or read code: each reads its arguments as its own manual page says. Pure.

A handler follows the call into what it starts and says what comes out of it; None is "as of any other program".
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from supervisor.decide.shell import flow as f
from supervisor.decide.shell import places, variables
from supervisor.decide.shell.calls import contents
from supervisor.decide.shell.flow import EMPTY, UNKNOWN, Flow
from supervisor.decide.shell.marks import ANY, SUBST, unknown
from supervisor.decide.shell.options import operand, operands, option
from supervisor.decide.shell.programs import RUNNERS, RUNNERS_LONG, STARTERS, base

if TYPE_CHECKING:
    from supervisor.decide.shell.calls import Call

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=", re.DOTALL)


def starter(call: Call) -> Flow | None:
    how = STARTERS[call.name]
    words = call.words
    at = operand(words, 1, how.short, how.long)
    if call.name == "command" and any(re.fullmatch(r"-[vVp]*[vV][vVp]*", w) for w in words[1:at]):
        return None
    if call.name == "taskset" and any(w.startswith("-") and "c" in w for w in words[1:at]):
        at += 1
        return call.run(words[at:], "taskset") if at < len(words) else None
    if call.name == "bwrap":
        at = _bwrap(words)
    if call.name == "nodemon" and (text := option(words[1:], "--exec", "-x")):
        return call.shell(text, "nodemon --exec")
    if how.dashes and "--" in words:
        at = words.index("--") + 1
    at += how.operands
    while how.assigns and at < len(words) and _ASSIGNMENT.match(words[at]):
        at += 1
    if at >= len(words) and call.stdin is not EMPTY and _starts_shell(call.name, words):
        return call.run(["sh"], call.name)
    if at >= len(words) or (call.name == "prlimit" and words[at][:1].isdigit()):
        return None
    if call.name == "exec":
        if any(w.startswith("-a") for w in words[1:at]):
            call.risk("evasion", "a program is started under another name")
        return call.run(words[at:], "exec")
    if call.name in ("busybox", "toybox"):
        return call.run(words[at:], call.name)
    if call.name == "direnv" and words[1] != "exec":
        return None
    return call.run(words[at:], call.name)


def _starts_shell(name: str, words: list[str]) -> bool:
    """Whether a program that is named no command starts a shell, which reads what comes in."""
    if name in ("sudo", "doas"):
        return any(re.fullmatch(r"-\w*[si]|--shell|--login", w) for w in words[1:])
    return name in ("chroot", "unshare", "nsenter", "run0", "fakeroot", "firejail")


_BWRAP = {
    **dict.fromkeys(
        ("bind", "dev-bind", "ro-bind", "bind-try", "dev-bind-try", "ro-bind-try", "symlink", "setenv", "file",
         "bind-data", "ro-bind-data", "chmod"), 2,
    ),
    **dict.fromkeys(
        ("proc", "dev", "tmpfs", "mqueue", "dir", "unsetenv", "chdir", "uid", "gid", "hostname", "seccomp", "args",
         "lock-file", "sync-fd", "remount-ro", "cap-add", "cap-drop", "perms", "size", "exec-label"), 1,
    ),
}  # fmt: skip


def _bwrap(words: list[str]) -> int:
    at = 1
    while at < len(words) and words[at].startswith("--") and words[at] != "--":
        at += 1 + _BWRAP.get(words[at][2:], 0)
    return at + (at < len(words) and words[at] == "--")


def runner(call: Call) -> Flow | None:
    subcommands, short = RUNNERS[call.name]
    text = option(call.words[1:], "-c", "--call") if call.name == "npm" else None
    if text:
        return call.shell(text, "npm exec -c")
    at = operand(call.words, 1)
    if at >= len(call.words) or call.words[at] not in subcommands:
        return None
    at = operand(call.words, at + 1, short, RUNNERS_LONG)
    return call.run(call.words[at:], f"{call.name} run") if at < len(call.words) else None


def fetched_runner(call: Call) -> Flow | None:
    """npx, bunx, uvx, shx: a program of a package, which is fetched if need be."""
    words = call.words
    text = option(words[1:], "-c", "--call") if call.name == "npx" else None
    if text:
        return call.shell(text, "npx -c")
    at = operand(words, 1, "p", RUNNERS_LONG)
    if any(re.match(r"https?://", w) for w in words[1 : at + 1]):
        call.risk("remote_code", f"{call.name} runs what came over the network")
    return call.run(words[at:], call.name) if at < len(words) else None


def removes(call: Call) -> Flow | None:
    """rimraf, Remove-Item -Recurse: rm by another name."""
    if call.name.lower() == "remove-item" and not any(re.match(r"(?i)-r", w) for w in call.words):
        return None
    return call.run(["rm", "-rf", *operands(call.words)], call.name)


def several(call: Call) -> Flow | None:
    """concurrently 'a' 'b', just --command a, dc -e '!a'."""
    words = call.words
    if call.name == "concurrently":
        for w in operands(words)[:16]:
            call.walk.script(w, call.inner(call.name), call.span, call.name, guess=True)
        return UNKNOWN
    if call.name == "just":
        at = next((i for i, w in enumerate(words) if w in ("--command", "-c")), 0)
        return call.run(words[at + 1 :], "just --command") if at and at + 1 < len(words) else None
    for text in (option(words[1:], "-e", "--expression") or "", call.stdin.text or ""):
        for line in text.split("\n")[:16]:
            if "!" in line:
                call.walk.script(line.partition("!")[2], call.inner("dc"), call.span, "dc", guess=True)
    return None


def loader(call: Call) -> Flow | None:
    """ld.so(8): a program given to the loader."""
    at = operand(call.words, 1, "", frozenset(["library-path", "preload", "audit", "argv0", "inhibit-rpath"]))
    return call.run(call.words[at:], "ld.so") if at < len(call.words) else None


def env(call: Call) -> Flow | None:
    words, at = call.words, 1
    assigns = list(call.assigns)
    while at < len(words):
        w = words[at]
        text = option(words[at : at + 2], "-S", "--split-string") if w.startswith(("-S", "--s")) else None
        if text is None and re.fullmatch(r"-[ivu0]*S.*", w, re.DOTALL):
            text = w[w.index("S") + 1 :] or (words[at + 1] if at + 1 < len(words) else "")
        if text is not None:
            rest = words[at + (1 if w != "-S" and w != "--split-string" and len(w) > 2 else 2) :]
            try:
                return call.run([*shlex.split(text), *rest], "env -S")
            except ValueError:
                return call.shell(text, "env -S")
        if "=" in w and w[:1] != "-":  # env(1) takes any name, also one that no shell would
            name, _, value = w.partition("=")
            assigns.append((name, value, {}))
            variables.variable(call.walk, name, value, call.scope, call.span, alone=False)
        elif w[:1] == "-" and w != "--":
            takes = w in ("--unset", "--chdir") or re.fullmatch(r"-[iv0]*[uC]", w) is not None
            if takes and w[-1] in "Cr" and at + 1 < len(words):
                call.scope = call.scope.copy()
                call.scope.cwd = places.normal(words[at + 1], call.scope.cwd)
            at += takes
        elif w != "--":
            break
        at += 1
    call.assigns = assigns
    if at >= len(words):
        return Flow(None, frozenset([f.ENVIRON]))
    return call.run(words[at:], "env")


def xargs(call: Call) -> Flow | None:
    words = call.words
    at = operand(
        words, 1, "aEIdLnPs", frozenset(["arg-file", "delimiter", "max-args", "max-procs", "max-chars", "replace"])
    )
    command = words[at:]
    if not command:
        return None
    marker = option(words[1:at], "-I", "--replace", "-i")
    if marker == "":
        marker = "{}"
    given, file = call.stdin, option(words[1:at], "-a", "--arg-file")
    if file is not None:
        given = f.joined(list(call.flows)) if SUBST in file else contents(call.walk, file)
    text = given.text
    call.flows = [*call.flows, Flow(None, given.traits)]
    whole = marker is not None or any(re.fullmatch(r"-\w*0|--null|-d.*|--delimiter.*", w) for w in words[1:at])
    items = re.split(r"[\n\0]+" if whole else r"[\s\0]+", text.strip()) if text is not None and text.strip() else []
    if f.TREE in given.traits:
        for item in items if base(command[0]) in ("rm", "unlink", "shred") else ():
            if places.vast(item, call.scope.cwd):
                call.run(["rm", "-rf", item], "find | xargs", EMPTY)
            elif places.here(item, call.scope):
                call.risk("destructive", "deletes all that is here")
        items = [*items, ANY]
    if len(items) > 64:
        items = [*items[:63], ANY]
    if marker:
        for item in items[:8] or [ANY]:
            call.run([w.replace(marker, item) for w in command], "xargs", EMPTY)
        return UNKNOWN
    return call.run([*command, *(items or [ANY])], "xargs", EMPTY)


_BEFORE = re.compile(r"-[HLP]+|-O\d|-D")  # options of find(1) that stand before its paths


def find(call: Call) -> Flow | None:
    words, at = call.words, 1
    while at < len(words) and _BEFORE.fullmatch(words[at]):
        at += 2 if words[at] == "-D" else 1
    first = at
    while at < len(words) and words[at][:1] not in ("-", "(", "!", ","):
        at += 1
    starts = words[first:at] or ["."]
    cwd = call.scope.cwd
    all_of = next((s for s in starts if places.vast(s, cwd) or places.vast_if_empty(s, cwd)), None)
    all_here = [s for s in starts if places.here(s, call.scope)]
    every = all_of is None and bool(all_here) and not _filters(words[at:])
    named = next((words[i + 1] for i in range(at, len(words) - 1) if words[i] in ("-name", "-iname")), "")
    while at < len(words):
        w = words[at]
        at += 1
        if w in ("-exec", "-execdir", "-ok", "-okdir"):
            end = next(
                (i for i in range(at, len(words)) if words[i] == ";" or (words[i] == "+" and i > at)), len(words)
            )
            command, at = words[at:end], end + 1
            what = all_of if all_of is not None else ANY
            if command:
                call.run([c.replace("{}", what) for c in command], f"find {w}", EMPTY)
                deletes = base(command[0]) in ("rm", "unlink", "shred", "rmdir")
                if all_of is not None and deletes:
                    call.run(["rm", "-rf", what], f"find {w}", EMPTY)
                elif every and deletes:
                    call.risk("destructive", "deletes all that is here")
                if base(command[0]) in places.READERS and places.secret_file(named.rstrip("*")):
                    call.risk("secrets", f"{named} holds secrets")
        elif w == "-delete" and all_of is not None:
            call.run(["rm", "-rf", all_of], "find -delete", EMPTY)
        elif w == "-delete" and every:
            call.risk("destructive", "deletes all that is here")
        elif w in ("-fprint", "-fprintf", "-fls", "-fprint0") and at < len(words):
            places.note(call, words[at], writes=True)
    if not every:  # what is here, and was not chosen by anything, is no more than some of it
        starts = [s for s in starts if s not in all_here]
    return Flow("\n".join(starts) + "\n", frozenset([f.TREE]))


# What find does, and where it looks, is no choice of files; nor is that they are files.
_NO_CHOICE = frozenset(
    ["-delete", "-exec", "-execdir", "-ok", "-okdir", "-print", "-print0", "-depth", "-mindepth", "-maxdepth", "-xdev",
     "-mount", "-follow", "-noleaf", "-type"]
)  # fmt: skip


def _filters(words: list[str]) -> bool:
    """Whether the expression of find(1) chooses some files among all."""
    while words and words[0] not in ("-exec", "-execdir", "-ok", "-okdir"):
        if words[0] in ("!", "-not", "(") or (words[0][:1] == "-" and words[0] not in _NO_CHOICE):
            return True
        if words[0] == "-type" and words[1:2] not in (["f"], ["f,d"], ["d,f"]):
            return True
        words = words[1:]
    return False


def fd(call: Call) -> Flow | None:
    words = call.words
    at = next((i for i, w in enumerate(words) if w in ("-x", "-X", "--exec", "--exec-batch")), len(words))
    if at + 1 < len(words):
        what = next((w for w in words[1:at] if places.vast(w, call.scope.cwd)), ANY)
        command = [what if re.fullmatch(r"\{.?.?\}", w) else w for w in words[at + 1 :]]
        if what not in command:
            command.append(what)
        return call.run(command, "fd -x", EMPTY)
    return None


def as_user(call: Call) -> Flow | None:
    """su, runuser, sg, flock, script: a text behind -c, or a command."""
    words = call.words
    text = option(words[1:], "-c", "--command", "--session-command")
    if text is None:
        text = next((words[i + 1] for i, w in enumerate(words[:-1]) if re.fullmatch(r"-[a-zA-Z]*c", w)), None)
    if text is not None:
        return call.shell(text, f"{call.name} -c")
    if call.name == "runuser" and any(w in ("-u", "--user") or w.startswith("--user=") for w in words):
        return call.run(words[operand(words, 1, "ugG", frozenset(["user", "group", "supp-group"])) :], "runuser")
    if call.name == "flock":
        at = operand(words, 1, "wE", frozenset(["timeout", "wait", "conflict-exit-code"])) + 1
        return call.run(words[at:], "flock") if at < len(words) else None
    if call.name == "su" and call.stdin.text:
        return call.shell(call.stdin.text, "su", stdin=EMPTY)
    if call.name == "sg" and len(words) > 2:
        return call.shell(" ".join(words[2:]), "sg")
    return None


_SSH = "BbcDEeFIiJLlmOopPQRSWw"  # options of ssh(1) with a value


def joined(call: Call) -> Flow | None:
    """watch and ssh: the words behind the operands are one text for a shell."""
    words = call.words
    if call.name == "watch":
        at = operand(words, 1, "nqs", frozenset(["interval", "equexit", "shotsdir"]))
        return call.shell(" ".join(words[at:]), "watch") if at < len(words) else None
    at = operand(words, 1, _SSH)
    behind = operand(words, at + 1, _SSH)  # options may stand behind the host too
    for w in words[1:behind]:
        found = re.match(r"(?i)(?:-o)?(?:ProxyCommand|LocalCommand|KnownHostsCommand)[= ](.+)", w, re.DOTALL)
        if found and found[1].lower() != "none":
            call.shell(found[1], "ssh ProxyCommand")
    if behind < len(words):
        call.shell(" ".join(words[behind:]), "ssh")
        return Flow(None, frozenset([f.NET]))
    if call.stdin.text and at < len(words):
        return call.shell(call.stdin.text, "ssh", stdin=EMPTY)
    return None


def parallel(call: Call) -> Flow | None:
    words = call.words
    at = operand(
        words, 1, "jISNnaLsP", frozenset(["jobs", "arg-file", "colsep", "delay", "timeout", "joblog", "results"])
    )
    end = next((i for i in range(at, len(words)) if re.fullmatch(r":::\+?|::::\+?", words[i])), len(words))
    template = " ".join(words[at:end])
    items = [w for w in words[end + 1 :] if not w.startswith(":::")] or (call.stdin.text or ANY).split("\n")
    for item in [i for i in items if i][:16]:
        text = item if not template else item.join(re.split(r"\{[./#%\d]*\}", template))
        call.shell(text if text != template or not template else f"{template} {item}", "parallel", stdin=EMPTY)
    return UNKNOWN


def sed(call: Call) -> Flow | None:
    """GNU sed runs commands: `e cmd`, and `s///e`; and writes files: `w file`."""
    for w in call.words[1:]:
        for found in re.finditer(r"(?:^|[;\n}/gpI])w\s+(\S+)", w):
            places.note(call, found[1], writes=True)
        for found in re.finditer(r"(?:^|[;\n}])[ \t]*(?:(?:\d+|\$|/[^/]*/)(?:,\S+)?[ \t]*)?e\s+([^\n]+)", w):
            call.shell(found[1], "sed e")
        if re.search(r"^(?:\d+|/[^/]*/)?s(.).*\1.*\1[gpiI0-9]*e[gpiI]*$", w, re.DOTALL) and w != "-E":
            by = w[w.index("s") + 1]
            parts = [p.replace("\\" + by, by) for p in re.split(rf"(?<!\\){re.escape(by)}", w)]
            if len(parts) > 2 and not unknown(parts[2]):
                call.walk.script(parts[2], call.inner("sed s///e"), call.span, "sed s///e", guess=True)
    return None
