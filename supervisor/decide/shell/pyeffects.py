"""What calls of Python's library do that matters here: programs, files, secrets sent away. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.decide.shell import pyvalues as v
from supervisor.decide.shell.flow import FILE, NET
from supervisor.decide.shell.marks import ANY
from supervisor.decide.shell.programs import base, is_interpreter
from supervisor.decide.shell.pyvalues import UNKNOWN, PathText, Val

if TYPE_CHECKING:
    from supervisor.decide.shell.inline import Found

RUNS_TEXT = frozenset(
    ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput",
     "asyncio.create_subprocess_shell", "popen2.popen2", "pexpect.run", "pexpect.spawn", "pty.spawn")
)  # fmt: skip
RUNS_LIST = frozenset(
    f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output", "Popen")
) | {"asyncio.create_subprocess_exec", "sh.Command"}  # fmt: skip
OS_OF_PATH = frozenset(("chmod", "rename", "replace"))  # methods of a Path that functions of os have the names of
SYSTEM = ("system", "popen")  # of whatever module
STARTS = frozenset(("system", "popen", "spawn", "run", "call", "check_call", "check_output", "Popen", "getoutput"))
OPENS = frozenset(("open", "io.open", "codecs.open", "os.open"))
CODE = frozenset(("exec", "eval", "compile", "runpy.run_path"))
SENDS = frozenset(
    f"{module}.{name}" for module in ("requests", "httpx") for name in ("post", "put", "patch", "request")
) | {"urllib.request.Request", "urllib.request.urlopen"}  # fmt: skip


def started(found: Found, name: str, first: Val, args: list[Val]) -> None:
    words = v.texts(first)
    if name == "asyncio.create_subprocess_exec":
        words = [v.marked(a) for a in args]
    given = v.text(first)
    if words and words[0] != ANY:
        found.starts.append(words)
    elif not words and given is not None and given.strip(f" {ANY}"):
        found.starts.append(given)
    else:
        found.opaque = True
    found.opaque |= "$" in "".join(words or [given or ""])  # a variable that it may have set
    if NET in first.traits:
        found.signs.append(("remote_code", "code that starts what it fetched"))


def reads_commands(first: Val) -> bool:
    """Whether a program that is started reads commands, or starts others, from what it is fed."""
    words = v.texts(first) or (v.text(first) or "").split()
    return any(is_interpreter(word) or base(word) in ("xargs", "parallel", "at", "batch") for word in words)


def runs_own(found: Found) -> bool:
    """Whether code starts something with a file that it wrote: what it wrote may be what runs."""
    written = {path.removeprefix("./") for path, writes in found.paths if writes}
    for start in found.starts if written else ():
        words = start.split() if isinstance(start, str) else start
        if "-n" not in words and any(word.removeprefix("./") in written for word in words):
            return True
    return False


def replaced(found: Found, how: str, args: list[Val]) -> None:
    """os.execv("rm", ["rm", …]), os.execl("rm", "rm", …), os.spawnv(mode, …): the program repeats its name."""
    rest = args[1:] if how.startswith("spawn") else args
    if not rest:
        return
    words = v.texts(rest[1]) if len(rest) > 1 and isinstance(rest[1].it, list) else [v.marked(a) for a in rest[1:]]
    program = v.text(rest[0])
    if program is None:
        found.opaque = True
    else:
        found.starts.append([program, *(words or [])[1:]])


def of_path(found: Found, of: Val, name: str, args: list[Val], named: dict[str, Val]) -> Val | None:
    """What a method of a pathlib.Path does; None for one that does nothing."""
    if not isinstance(of.it, PathText):
        return None
    path = of.it.text
    if name in ("unlink", "rmdir"):
        found.deletes.append(path)
    elif name in ("write_text", "write_bytes", "touch", "mkdir"):
        found.paths.append((path, True))
    elif name in ("read_text", "read_bytes"):
        found.paths.append((path, False))
        return Val(None, frozenset((FILE,)))
    elif name == "open":
        return opened(found, [of, *args], named)
    return None


def opened(found: Found, args: list[Val], named: dict[str, Val]) -> Val:
    path = v.text(args[0] if args else named.get("file", UNKNOWN))
    mode = v.text(args[1] if len(args) > 1 else named.get("mode", Val("r"))) or "r"
    if path is not None:
        found.paths.append((path, bool(set(mode) & set("wax+"))))
    return Val(None, frozenset((FILE,)))


def files(found: Found, name: str, args: list[Val]) -> None:
    given = [v.text(a) for a in args]
    first = given[0] if given else None
    if name in ("os.setuid", "os.setgid", "os.setreuid", "os.setresuid") and 0 in [a.it for a in args]:
        found.signs.append(("privilege", "code that becomes root"))
    if first is None:
        return
    if name in ("shutil.rmtree", "os.removedirs", "os.rmdir", "os.remove", "os.unlink", "send2trash.send2trash"):
        found.deletes.append(first)
    elif name in ("shutil.move", "os.rename", "os.replace", "os.renames") and len(given) > 1:
        found.starts.append(["mv", first, given[1] or ANY])
    elif name.startswith("shutil.copy") and len(given) > 1:
        found.starts.append(["cp", first, given[1] or ANY])
    elif name in ("os.symlink", "os.link") and len(given) > 1:
        found.starts.append(["ln", "-s", first, given[1] or ANY])
    elif name == "os.chmod" and len(args) > 1 and isinstance(args[1].it, int):
        found.starts.append(["chmod", f"{args[1].it:o}", first])
    elif name in ("os.chown", "shutil.chown") and len(given) > 1:
        found.starts.append(["chown", given[1] or ANY, first])
    elif name == "os.kill" and first == "-1":
        found.starts.append(["kill", "-9", "-1"])
    elif name == "os.truncate":
        found.paths.append((first, True))
