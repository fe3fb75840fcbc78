"""What is wrong with a policy, as data: one dict per finding, the same for errors and for lint.

file, line, column   where (column only where known)
key                  the key path as TOML writes it
message              what is wrong, one sentence
expected, nearest    what would be right; the key or value that was probably meant (or None)
severity             error: the policy does not load; warning: it loads
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from supervisor import errors

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 100  # findings that are reported; more than that helps nobody

Finding = dict[str, Any]

_BARE = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def finding(
    file: str,
    line: int,
    key: str,
    message: str,
    *,
    expected: str | None = None,
    nearest: str | None = None,
    column: int | None = None,
    severity: str = "error",
) -> Finding:
    found: Finding = {"file": file, "line": line, "key": key, "message": message}
    found |= {"expected": expected, "nearest": nearest, "severity": severity}
    return found if column is None else found | {"column": column}


def dotted(loc: Sequence[str | int]) -> str:
    """A key path as TOML writes it, list items as [N] counted from 0; long parts are cut."""
    out = ""
    for part in loc:
        if isinstance(part, int):
            out += f"[{part}]"
        else:
            out += ("." if out else "") + (part if _BARE.fullmatch(part) else json.dumps(part[:64]))
    return out


def text(found: Finding) -> str:
    """One finding as one line for a terminal."""
    said = f"{found['file']}:{found['line']}: "
    said += f"{found['key']}: {found['message']}" if found["key"] else found["message"]
    if found["expected"]:
        said += f"; expected {found['expected']}"
    if found["nearest"]:
        said += f"; did you mean {found['nearest']}?"
    return said


def invalid(found: list[Finding]) -> errors.PolicyInvalid:
    """The error that carries every finding (at most MOST), in the order of files and lines."""
    shown = found[:MOST]
    number = "1 problem" if len(found) == 1 else f"{len(shown)}{'' if len(found) < MOST else ' or more'} problems"
    first = shown[0]
    return errors.PolicyInvalid(
        f"{number}: {text(first)}",
        field=first["key"] or None,
        source=f"{first['file']}:{first['line']}",
        hint="correct the files and load again; `stockade policy check` shows every finding",
        findings=shown,
    )
