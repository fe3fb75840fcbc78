"""Which tools there are for a request (R49, R50). Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from supervisor import errors
from supervisor.policy.words import TOOLS

if TYPE_CHECKING:
    from supervisor.decide.context import Context
    from supervisor.policy.snapshot import Snapshot

SERVED = ("shell",)  # what this version can carry out
_SWITCHES = {"shell": "shell_enabled", "browser": "browser_enabled"}


class Answer(NamedTuple):
    """Whether a tool may be used, and by which key of policy (at FILE:LINE) that is so."""

    tool: str
    allowed: bool
    rule: str
    source: str
    reason: str
    allowed_instead: str = ""


def check(snapshot: Snapshot, tool: str, context: Context | None = None) -> Answer:
    """The effective answer for one tool, with the rule behind it."""
    tools = snapshot.tools
    switch = _SWITCHES.get(tool)
    if switch is not None and not getattr(tools, switch):
        return Answer(tool, False, f"tools.{switch}", tools.source, f"{tool} is switched off", _enabled(snapshot))
    if tools.policy != "enabled" and tool not in tools.allow_list:
        said = f"{tool} is not in tools.allow_list"
        return Answer(tool, False, "tools.allow_list", tools.source, said, ", ".join(tools.allow_list) or "no tool")
    if context is not None and context.tools is not None and tool not in context.tools[0]:
        names, rule, source = context.tools
        return Answer(tool, False, rule, source, f"the labels do not have {tool}", ", ".join(names) or "no tool")
    if tool not in SERVED:
        return Answer(tool, False, "tools", tools.source, f"this version does not serve {tool}", ", ".join(SERVED))
    rule = f"tools.{switch}" if switch is not None else "tools.policy"
    return Answer(tool, True, rule, tools.source, f"{tool} is switched on")


def _enabled(snapshot: Snapshot) -> str:
    on = [t for t in SERVED if getattr(snapshot.tools, _SWITCHES.get(t, ""), True)]
    return ", ".join(on) or "no tool"


def require(snapshot: Snapshot, tool: str, context: Context) -> Answer:
    """Raises InvalidRequest for a tool that there is not, Denied for one that policy does not let be used."""
    if tool not in TOOLS:
        raise errors.InvalidRequest(f"there is no tool {tool[:64]!r}", field="tool", allowed=", ".join(TOOLS))
    found = check(snapshot, tool, context)
    if not found.allowed:
        raise errors.Denied(
            found.reason,
            field="tool",
            rule=found.rule,
            source=found.source,
            allowed=found.allowed_instead,
            hint="use another tool" + (", or have the operator allow this one" if tool in SERVED else ""),
        )
    return found
