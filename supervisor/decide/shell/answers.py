"""What a few small programs answer that is told by their words alone: pwd, dirname, which and so on. Pure.

So `$(which nmap)` is nmap, and `$(dirname /etc)` the root, for whoever looks at what is made of it.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING

from supervisor.decide.shell import flow as f
from supervisor.decide.shell import places
from supervisor.decide.shell.flow import Flow
from supervisor.decide.shell.marks import unknown
from supervisor.decide.shell.options import operands
from supervisor.decide.shell.programs import base

if TYPE_CHECKING:
    from supervisor.decide.shell.calls import Call


_ANSWER = frozenset(
    ["pwd", "ls", "dir", "command", "which", "type", "dirname", "basename", "realpath", "readlink", "id", "whoami"]
)


def answer(call: Call) -> Flow | None:
    """The answer, or None where it is not known."""
    if call.name not in _ANSWER:
        return None
    words = operands(call.words)
    if call.name == "pwd":
        return Flow(call.scope.cwd or ".") if call.scope.cwd or not call.scope.below else None
    if call.name == "whoami" or (call.name == "id" and len(words) == 0 and len(call.words) > 1):
        return Flow("agent\n", frozenset([f.ENVIRON]))  # for a number too: what matters is whose it is
    if call.name in ("ls", "dir"):
        # With -d what is listed is what is named; else what is in it, which stands for all of it.
        return Flow("".join(w + "\n" for w in words or ["."]), frozenset([f.TREE]))
    if not words or any(unknown(w) for w in words):
        return None
    if call.name == "command" and any(re.fullmatch(r"-[vVp]*[vV][vVp]*", w) for w in call.words):
        return Flow("".join(_where(w) for w in words))
    if call.name in ("which", "type"):
        return Flow("".join(_where(w) for w in words))
    if call.name == "dirname" and "/" in words[0]:
        return Flow(posixpath.dirname(words[0].rstrip("/") or "/") or "/")
    if call.name == "basename":
        return Flow(base(words[0].rstrip("/")).removesuffix(words[1] if len(words) > 1 else ""))
    if call.name in ("realpath", "readlink") and words[0][:1] == "/":
        return Flow(places.normal(words[0]))
    return None


def _where(name: str) -> str:
    return f"{name}\n" if "/" in name else f"/usr/bin/{name}\n"
