"""How values look on a terminal: tables, sizes, times, colours. Pure but for `emit`.

Much of what is shown was chosen by an agent (argv, labels, paths), so control characters never reach a terminal
as they are: `safe` spells them out.
"""

from __future__ import annotations

import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_UNITS = ("", "K", "M", "G", "T", "P")
# C0, DEL, C1, lone surrogates (bytes that were not UTF-8), and what is not seen, looks like a space or moves what is
# seen: bidirectional marks, spaces other than the one, fillers, variation selectors, tags, separators
# (Unicode 15.1: Default_Ignorable_Code_Point, White_Space; U+2800 is a braille pattern without dots).
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def safe(value: Any) -> str:
    r"""`value` as one line of text in which control characters are written `\x1b` or `\u202e`."""
    return _CONTROL.sub(_escape, str(value))


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(count: float) -> str:
    """Bytes with a power of 1024: 536870912 -> 512M, 1300 -> 1.3K."""
    power = 0
    while count >= 1024 and power < len(_UNITS) - 1:
        count /= 1024
        power += 1
    number = f"{count:.1f}".removesuffix(".0") if count < 100 else f"{count:.0f}"
    return number + _UNITS[power]


def duration(milliseconds: float) -> str:
    """Milliseconds in the largest fitting unit: 850 -> 850ms, 60000 -> 60s, 90 minutes -> 90m."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f}ms"
    seconds = milliseconds / 1000
    if seconds <= 120:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes = seconds / 60
    if minutes <= 120:
        return f"{minutes:.0f}m"
    return f"{minutes / 60:.0f}h" if minutes <= 48 * 60 else f"{minutes / 1440:.0f}d"


def age(created: Any, now: float) -> str | None:
    """How long before the Unix time `now` a moment was, given as RFC 3339 or as Unix time in seconds."""
    from datetime import datetime

    if not created:
        return None
    then = datetime.fromisoformat(created).timestamp() if isinstance(created, str) else created
    return duration(max(0.0, now - then) * 1000)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def command(run: Mapping[str, Any]) -> str:
    """What a run executes, quoted as a shell would need it."""
    import shlex

    if run.get("script") is not None:
        return safe(run["script"])
    return safe(shlex.join(map(str, run.get("argv") or ())))


def short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Columns wide enough for their longest cell, two spaces between; the last one is never padded."""
    cells = [list(head), *([safe("-" if c is None or c == "" else c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=True)


def emit(value: Any, text: str, *, as_object: bool) -> None:
    """Print `value` as JSON, or `text` for a person."""
    click.echo(as_json(value) if as_object else text)


def coloured() -> bool:
    """Whether standard output is a terminal that may be written to in colours (NO_COLOR, no-color.org)."""
    return os.isatty(1) and not os.environ.get("NO_COLOR")


def remaining(moment: Any, now: float) -> str | None:
    """How long from the Unix time `now` until a moment, given as RFC 3339; "over" when it is past."""
    from datetime import datetime

    if not moment:
        return None
    left = datetime.fromisoformat(moment).timestamp() - now
    return duration(left * 1000) if left > 0 else "over"


def mark(ok: bool | None) -> str:
    """The coloured word at the start of a line of findings; None is neither good nor bad."""
    if ok is None:
        return click.style("  - ", fg="yellow")
    return click.style(" ok ", fg="green") if ok else click.style("FAIL", fg="red")


def error_lines(document: Mapping[str, Any]) -> list[str]:
    """A problem document for a person: the sentence first, then where it comes from and what to do."""
    lines = [f"stockade: {safe(document['detail'])}"]
    lines += [f"{key}: {safe(document[key])}" for key in ("field", "layer") if document.get(key)]
    rule, source = document.get("rule"), document.get("source")
    if rule:
        lines.append(f"rule: {safe(rule)}{f' ({safe(source)})' if source else ''}")
    elif source:
        lines.append(f"source: {safe(source)}")
    lines += [f"{key}: {safe(document[key])}" for key in ("allowed", "hint") if document.get(key)]
    lines += [finding_line(f) for f in document.get("findings", ())]
    if document.get("code") == "approval_required":
        lines += approval_lines(document)
    meaning = _RETRY.get(str(document.get("retry")))
    if meaning:
        lines.append(f"retry: {document['retry']} ({meaning})")
    return lines


def approval_lines(document: Mapping[str, Any]) -> list[str]:
    """What to do about a request that waits for a person: who answers how, and what then."""
    ident = safe(document.get("approval") or "")
    lines = [f"because: {reason_line(reason)}" for reason in document.get("reasons") or ()]
    if ident:
        lines.append(f"approval: {ident}, until {safe(document.get('expires') or '-')}")
        lines.append(f"somebody else says: stockade approvals approve {ident}")
        lines.append(f"to wait for the answer: stockade approvals wait {ident}")
    return lines


def reason_line(reason: Mapping[str, Any]) -> str:
    """Why somebody is asked: the sentence, and the rule with FILE:LINE."""
    place = " ".join(safe(reason[key]) for key in ("rule", "source") if reason.get(key))
    return f"{safe(reason.get('detail'))}{f' ({place})' if place else ''}"


_RETRY = {
    "never": "the same request will always be refused",
    "after_approval": "the same request can succeed once it is approved",
    "after_change": "the same request is refused until the request, the policy or the host changes",
    "later": "the same request may succeed later",
}


def finding_line(finding: Any) -> str:
    """One finding as a line: of a policy FILE:LINE: KEY: MESSAGE, of a request FIELD: MESSAGE."""
    if not isinstance(finding, dict):
        return safe(finding)
    if "file" in finding:
        from supervisor.policy.findings import text

        return safe(text(finding))
    return safe(": ".join(str(finding[k]) for k in ("field", "detail") if finding.get(k)))
