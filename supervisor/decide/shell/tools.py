"""Tools of development that start commands which somebody wrote into an option, a setting or an alias. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from supervisor.decide.shell import flow as f
from supervisor.decide.shell import places, risks
from supervisor.decide.shell.calls import contents
from supervisor.decide.shell.flow import EMPTY, UNKNOWN, Flow
from supervisor.decide.shell.marks import SUBST, known, unknown
from supervisor.decide.shell.options import operand, option, split, subcommand
from supervisor.decide.shell.programs import SUBCOMMANDS, base

if TYPE_CHECKING:
    from supervisor.decide.shell.calls import Call

_DOCKER_VALUES = frozenset(
    ["-a", "-c", "-e", "-h", "-l", "-m", "-p", "-u", "-v", "-w", "--name", "--env", "--env-file", "--volume",
        "--publish",
     "--workdir", "--user", "--network", "--net", "--hostname", "--label", "--memory", "--cpus", "--mount",
     "--entrypoint",
     "--add-host", "--cap-add", "--cap-drop", "--device", "--dns", "--expose", "--gpus", "--ip", "--link",
     "--log-driver",
     "--log-opt", "--pid", "--platform", "--pull", "--restart", "--security-opt", "--shm-size", "--tmpfs", "--ulimit",
     "--userns", "--volumes-from", "--cidfile", "--cgroupns", "--ipc", "--runtime", "--stop-signal", "--uts", "--index"]
)  # fmt: skip


_COMPOSE_VALUES = frozenset(["-f", "--file", "-p", "--project-name", "--profile", "--env-file"])


def cmake(call: Call) -> Flow | None:
    """cmake -P FILE runs a script, cmake -E a few commands of its own."""
    file = option(call.words[1:], "-P")
    if file:
        call.walk.scripts[file] = None
        risks.ran_script(call, file)
    return None


def make(call: Call) -> Flow | None:
    for i, w in enumerate(call.words[1:], 1):
        if w.startswith(("SHELL=", ".SHELLFLAGS=")):
            call.run(split(w.split("=", 1)[1]) or ["sh"], "make SHELL")
        text = w[7:] if w.startswith("--eval=") else None
        if w in ("--eval", "-E") and i + 1 < len(call.words):
            text = call.words[i + 1]
        if text or "$(shell" in w:
            _recipes(call, text or w)
        if w in ("-", "/dev/stdin") and call.words[i - 1] in ("-f", "--file", "--makefile") and call.stdin.text:
            _recipes(call, call.stdin.text)
    named = option(call.words[1:], "-f", "--file", "--makefile") or "Makefile"
    if SUBST in named:
        _recipes(call, f.joined(list(call.flows)).text or "")
    for name in (named, "makefile", "GNUmakefile"):
        _recipes(call, call.walk.written.get(name) or "")
    return None


def _recipes(call: Call, text: str) -> None:
    """The commands in a text for make(1): after a tab, after `target:;`, in $(shell ...)."""
    for line in text.split("\n"):
        if line.startswith("\t"):
            call.walk.script(line.strip().lstrip("@-+"), call.inner("make"), call.span, "make", guess=True)
        elif ":" in line and ";" in line:
            call.walk.script(
                line.split(";", 1)[1].strip().lstrip("@-+"), call.inner("make"), call.span, "make", guess=True
            )
        for found in re.finditer(r"\$[({]shell ([^)}]*)[)}]", line):
            call.walk.script(found[1], call.inner("make"), call.span, "make", guess=True)


def tar(call: Call) -> Flow | None:
    words = call.words
    for i, w in enumerate(words[1:], 1):
        for name in ("--checkpoint-action", "--to-command", "--use-compress-program", "--info-script", "--rsh-command",
                     "--new-volume-script"):  # fmt: skip
            value = (
                w[len(name) + 1 :]
                if w.startswith(name + "=")
                else words[i + 1]
                if w == name and i + 1 < len(words)
                else ""
            )
            value = value.removeprefix("exec=")
            if value and not (name == "--checkpoint-action" and value in ("dot", "echo", "bell")):
                call.shell(value, f"tar {name}")
        if w in ("-I", "-F") and i + 1 < len(words):
            call.shell(words[i + 1], f"tar {w}")
    _unpacked(call)
    if any(re.fullmatch(r"-?[a-zA-Z]*c[a-zA-Z]*f?", w) for w in words[1:2]) and ("-" in words or "-f" not in words):
        return Flow(None, call.stdin.traits)
    return None


_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - what lies there came from anywhere


def _unpacked(call: Call) -> None:
    """Where the files of an archive go, and whether they came over the network."""
    words = call.words
    if not (re.match(r"-?[a-zA-Z]*x", words[1] if len(words) > 1 else "") or {"-x", "--extract", "--get"} & set(words)):
        return
    into = option(words[1:], "-C", "--directory")
    if into and not unknown(into) and places.vast(into, call.scope.cwd):
        call.risk("destructive", f"unpacks over {into}")
    _came(call, into)


def unzip(call: Call) -> Flow | None:
    _came(call, option(call.words[1:], "-d"))
    return None


def _came(call: Call, into: str | None) -> None:
    """Remembers what is unpacked of an archive that came over the network: as a rule a directory named as it is."""
    archive = next((w for w in call.words[1:] if w.removeprefix("./") in call.walk.downloaded), "")
    if archive or f.NET in call.stdin.traits:
        into = into or re.sub(r"\.(?:tar\.\w+|tar|t\w+|zip)$", "", base(archive))
        if into and not places.here(into, call.scope) and places.normal(into) not in _TEMPORARY:
            call.walk.trees.add(places.below(into, call.scope).rstrip("/"))


def remote_shell(call: Call) -> Flow | None:
    """rsync -e, scp -S: a program in between."""
    text = option(call.words[1:], "-e", "--rsh") if call.name == "rsync" else option(call.words[1:], "-S", "-D")
    if text:
        call.shell(text, f"{call.name} -e")
    for w in call.words[1:]:
        if w.startswith("--rsync-path="):
            call.shell(w[13:], "rsync --rsync-path")
    return None


def _entry(image: str) -> list[str]:
    """The program that an image starts by itself, where its name says so: some/nmap:7."""
    name = re.split("[:@]", base(image))[0]
    return [name] if name in risks.IMAGES else []


def container(call: Call) -> Flow | None:
    """docker, podman: what is run in the container."""
    words = call.words
    at = subcommand(words, SUBCOMMANDS.get(call.name, frozenset()))
    if at < len(words) and words[at] in ("compose", "container"):
        at = subcommand(words, _COMPOSE_VALUES, at + 1)
    if at >= len(words) or words[at] not in ("run", "exec", "create"):
        return None
    start, at = at, at + 1
    entry = None
    while at < len(words) and words[at][:1] == "-":
        w = words[at]
        entry = (
            w[13:]
            if w.startswith("--entrypoint=")
            else words[at + 1]
            if w == "--entrypoint" and at + 1 < len(words)
            else entry
        )
        at += 2 if w in _DOCKER_VALUES else 1
    command = words[at + 1 :]
    if entry:
        command = [entry, *command]
    elif at < len(words) and words[start] != "exec":
        command = [*_entry(words[at]), *command]
    return call.run(command, f"{call.name} {words[start]}") if command else None


def cluster(call: Call) -> Flow | None:
    """kubectl exec POD -- CMD, kubectl run NAME --image=X -- CMD"""
    words = call.words
    if ("exec" in words or "run" in words or "debug" in words) and "--" in words:
        command = words[words.index("--") + 1 :]
        return call.run([*_entry(option(words[1:], "--image") or ""), *command], "kubectl exec")
    return None


def texts(call: Call) -> Flow | None:
    """hyperfine, nix-shell, capsh, tmux, screen, zip and so on: texts for a shell in known places."""
    words = call.words
    name = call.name
    if name == "hyperfine":
        at = 1
        while at < len(words):
            if words[at] in (
                "-w",
                "-r",
                "-m",
                "-M",
                "-s",
                "-p",
                "-c",
                "--prepare",
                "--setup",
                "--cleanup",
                "--warmup",
                "--runs",
            ):
                if words[at] in ("-s", "-p", "-c", "--prepare", "--setup", "--cleanup") and at + 1 < len(words):
                    call.shell(words[at + 1], "hyperfine")
                at += 1
            elif words[at][:1] != "-":
                call.shell(words[at], "hyperfine")
            at += 1
        return None
    if name in ("nix-shell", "nix", "guix", "npm", "npx", "yarn", "pnpm"):
        text = option(words[1:], "--run", "--command", "--call") or (
            option(words[1:], "-c") if name in ("npm", "npx") else None
        )
        if text:
            call.shell(text, f"{name} --run")
        elif name == "nix" and "-c" in words:
            return call.run(words[words.index("-c") + 1 :], "nix -c")
        return None
    if name == "capsh" and "--" in words:
        return call.run(["sh", *words[words.index("--") + 1 :]], "capsh")
    if name in ("tmux", "screen"):
        for w in words[2:]:
            if " " in w:
                call.walk.script(w, call.inner(name), call.span, name, guess=True)
        if (
            name == "screen"
            or "new-session" in words
            or "new" in words
            or "split-window" in words
            or "new-window" in words
        ):
            at = operand(words, 1 if name == "screen" else 2, "ScnstxyeFDp" if name == "tmux" else "SceshtTp")
            if at < len(words):
                return call.run(words[at:], name)
        return None
    if name == "zip":
        text = option(words[1:], "-TT", "--unzip-command")
        return call.shell(text, "zip -TT") if text else None
    if name == "crontab":
        for line in _lines_of(call):
            text = re.sub(r"^\s*(?:@\w+|(?:\S+\s+){5})", "", line)
            call.walk.script(text, call.inner("crontab"), call.span, "crontab", guess=True)
    if name == "less":
        for w in words[1:]:
            if w.startswith(("+!", "++!")):
                call.shell(w.partition("!")[2], "less")
    if name in ("split", "sort", "man", "less", "crontab"):
        text = option(words[1:], "--filter", "--compress-program") or (
            option(words[1:], "-P") if name == "man" else None
        )
        return call.shell(text, f"{name} --filter") if text else None
    return None


def _lines_of(call: Call) -> list[str]:
    """What a program is fed, or finds in the file that it is told, as far as it is known: its first lines."""
    named = operand(call.words, 1, "u")
    given = contents(call.walk, call.words[named]) if call.words[named:][:1] not in ([], ["-"]) else call.stdin
    return [line for text in (given.text or "", *given.perhaps) for line in text.split("\n")][:16]


def editor(call: Call) -> Flow | None:
    """vim -c ':!cmd', ed and ex from what comes in."""
    words = call.words
    given = [
        words[i + 1]
        for i, w in enumerate(words[:-1])
        if w in ("-c", "-sc", "-esc", "-Esc", "--cmd", "-ex", "--eval-command", "-S", "--eval")
    ]
    given += [w[1:] for w in words[1:] if w.startswith("+")] + [w[4:] for w in words[1:] if w.startswith("-ex=")]
    given += (
        (call.stdin.text or "").split("\n")
        if call.name in ("ed", "ex", "sqlite3", "ftp", "mysql", "psql", "telnet")
        else []
    )
    for text in [one.lstrip(" \t\n:") for one in given[:200]]:
        found = re.match(
            r"(?:sil(?:ent)?!?\s+)?(?:!|shell\s+|\.shell\s+|\.system\s+|\\!|system\s+|r\s*!|py3?(?:thon3?)?\s+|lua\s+)(.*)",
            text,
            re.DOTALL,
        )
        if found and found[1].strip():
            code = found[1]
            if re.match(r"py|lua", text):
                call.run(["python" if "py" in text[:4] else "lua", "-c" if "py" in text[:4] else "-e", code], call.name)
            else:
                call.walk.script(code, call.inner(call.name), call.span, call.name, guess=True)
        if found := re.match(r"(?:r|read|e|edit|w|write|sp|vs|tabe)!?\s+([^\s!]+)", text):
            places.note(call, found[1], writes=text.strip(" :")[:1] == "w")
        if found := re.search(r"\bcall\s+(?:\([^)]*\)\s*)?system\s*\(\s*\"((?:[^\"\\]|\\.)*)\"", text):
            call.shell(found[1], call.name)
    if call.name == "gdb" and "--args" in words:
        return call.run(words[words.index("--args") + 1 :], "gdb")
    return None


def sql(call: Call) -> Flow | None:
    """Clients of databases that have a way out: psql's \\!, mysql's \\!, sqlite3's .shell."""
    for w in call.words[1:]:
        found = re.search(r"(?:\\!|\.shell|\.system|system)\s+([^\n]+)", w)
        if found and (w.lstrip().startswith(("\\!", ".shell", ".system", "system")) or "\\!" in w):
            call.walk.script(found[1], call.inner(call.name), call.span, call.name, guess=True)
    for text in (*call.words[1:], call.stdin.text or ""):
        for program in re.finditer(r"\bPROGRAM\s+'([^']+)'", text):
            call.walk.script(program[1], call.inner(call.name), call.span, call.name, guess=True)
    return editor(call)


def namespace(call: Call) -> Flow | None:
    """ip netns exec NAME CMD, ip vrf exec NAME CMD"""
    words = call.words
    if "exec" in words[1:]:
        return call.run(words[words.index("exec") + 2 :], "ip netns exec")
    return None


def netcat(call: Call) -> Flow | None:
    if call.name == "socat":
        for w in call.words[1:]:
            found = re.match(r"(?:EXEC|SYSTEM):(.+?)(?:,\w+)*$", w, re.IGNORECASE)
            if found:
                call.walk.script(found[1].strip("'\""), call.inner("socat"), call.span, "socat", guess=True)
    else:
        text = option(call.words[1:], "-e", "-c", "--exec", "--sh-exec")
        if text and known(text):
            call.shell(text, f"{call.name} -e", stdin=EMPTY)
    return Flow(None, frozenset(["net"]))


def stdin_script(call: Call) -> Flow | None:
    """at, batch: the text that comes in is run later."""
    if call.stdin is not EMPTY:
        risks.code(call, call.stdin, call.name)
    if call.stdin.text:
        return call.shell(call.stdin.text, call.name, stdin=EMPTY)
    return UNKNOWN


def daemon(call: Call) -> Flow | None:
    program = option(call.words[1:], "--exec", "-x", "--startas", "-a")
    rest = call.words[call.words.index("--") + 1 :] if "--" in call.words else []
    return (
        call.run([program, *rest], "start-stop-daemon")
        if program and ("--start" in call.words or "-S" in call.words)
        else None
    )
