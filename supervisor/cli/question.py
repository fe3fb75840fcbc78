"""A question as a person reads it before answering: exactly what will run, the risky parts marked, what a yes means.

Everything in it was chosen by an agent, so nothing reaches the terminal as it came. Pure.
"""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import show
from supervisor.cli.service import flat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_SHOWN = (
    "argv", "script", "stdin", "input", "marks", "files", "cwd", "workspace", "profile", "env_names", "env", "tool",
    "session",
)  # fmt: skip
_PLAIN = re.compile(r"[\w.:/@+-]+")
_INDENT = "  "


def who(question: Mapping[str, Any]) -> str:
    """Who asks: unit or uid, and the labels that it states."""
    asker, labels = question.get("asker") or {}, question.get("labels") or {}
    name = asker.get("unit") or f"uid {asker.get('uid', '?')}"
    said = " ".join(f"{key}={_quoted(str(value))}" for key, value in sorted(labels.items()))
    return show.safe(f"{name} ({said})" if said else name)


def _quoted(value: str) -> str:
    """A label's value, so that no value can look like what stands around it."""
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def what(question: Mapping[str, Any]) -> str:
    """What is asked for, on one line."""
    asked = question.get("what") or {}
    if question.get("kind") == "access":
        return show.safe(f"role {asked.get('role')} for {show.duration(asked.get('duration_ms') or 0)}")
    if question.get("kind") == "operation":
        parameters = asked.get("parameters") or {}
        return show.safe(" ".join([str(asked.get("permission")), *(f"{k}={v}" for k, v in parameters.items())]))
    text = _text(asked)
    return show.safe(text if text is not None else " ".join(f"{k}={v}" for k, v in asked.items()))


def why(question: Mapping[str, Any]) -> str | None:
    reasons = question.get("reasons") or ()
    more = f" (+{len(reasons) - 1})" if len(reasons) > 1 else ""
    return show.safe(reasons[0].get("detail")) + more if reasons else None


def page(question: Mapping[str, Any], now: float, *, colour: bool, uid: int) -> str:
    """Everything about a question for the user `uid` at the Unix time `now`."""
    return "\n".join(_lines(question, now, colour=colour, uid=uid))


def _lines(question: Mapping[str, Any], now: float, *, colour: bool, uid: int) -> Iterator[str]:
    asked: Mapping[str, Any] = question.get("what") or {}
    asker = question.get("asker") or {}
    state = show.safe(question["state"])
    if question["state"] == "pending":
        state += f", {show.remaining(question.get('expires'), now) or '?'} left"
    yield f"{show.safe(question['id'])}: {state}"
    uid_too = f", uid {asker.get('uid')}" if asker.get("unit") else ""
    yield f"who asks: {who(question)}{uid_too}, pid {asker.get('pid')}"
    yield f"asked: {show.age(question.get('created'), now) or '?'} ago"
    yield from _command(asked, question.get("reasons") or (), colour=colour)
    if question.get("kind") == "run":
        yield from _input(asked)
        yield from _place(question, asked)
    rest = {key: value for key, value in asked.items() if key not in _SHOWN and value not in ("", None, [], {})}
    yield from flat(rest)
    yield from _files(asked.get("files"))
    yield from _reasons(question.get("reasons") or (), colour=colour)
    yield from _answers(question)
    if question["state"] == "pending":
        yield ""
        yield from meanings(question, uid)


def _text(asked: Mapping[str, Any]) -> str | None:
    """The command as the offsets of the reasons count it: the script, or the words with spaces between."""
    given = asked.get("script") if asked.get("script") is not None else asked.get("argv")
    if isinstance(given, dict):  # too long to be shown whole
        given = given.get("head")
    if isinstance(given, list):
        return " ".join(map(str, given))
    return given if isinstance(given, str) else None


def _command(asked: Mapping[str, Any], reasons: Sequence[Mapping[str, Any]], *, colour: bool) -> Iterator[str]:
    text = _text(asked)
    if text is None:
        return
    is_script = asked.get("script") is not None
    yield "script:" if is_script else "command:"
    spans = [(r.get("start", -1), r.get("end", -1)) for r in reasons]
    for line in marked(text, [s for s in spans if s[0] >= 0], colour=colour):
        yield _INDENT + line
    whole = asked.get("script") if is_script else asked.get("argv")
    if isinstance(whole, dict):
        yield _cut(whole)
    elif not is_script and isinstance(whole, list) and shlex.join(map(str, whole)) != text:
        # Spaces and quotes inside of words cannot be told from those between them, so each word stands alone too.
        yield "words:"
        yield from (f"{_INDENT}{number}: {show.safe(shlex.quote(str(word)))}" for number, word in enumerate(whole))


def marked(text: str, spans: Iterable[tuple[int, int]], *, colour: bool) -> Iterator[str]:
    """The lines of `text` with what the spans (offsets in characters) cover marked: in colour, or by carets below."""
    risky: set[int] = set()
    for start, end in spans:
        risky.update(range(max(start, 0), min(end, len(text))))
    offset = 0
    for line in text.split("\n"):
        places = range(offset, offset + len(line))
        offset += len(line) + 1
        if colour:
            yield _painted(text, places, risky)
            continue
        yield show.safe(line)
        if not risky.isdisjoint(places):
            yield "".join(("^" if i in risky else " ") * _width(text[i]) for i in places).rstrip()


def _painted(text: str, places: range, risky: set[int]) -> str:
    parts, start = [], places.start
    for i in places:
        if i + 1 == places.stop or (i in risky) != (i + 1 in risky):
            piece = show.safe(text[start : i + 1])
            parts.append(click.style(piece, fg="red", bold=True, underline=True) if i in risky else piece)
            start = i + 1
    return "".join(parts)


def _width(character: str) -> int:
    """How many columns a terminal gives a character, as show.safe writes it (UAX 11)."""
    written = show.safe(character)
    if len(written) > 1:
        return len(written)
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _place(question: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    yield f"in: {show.safe(asked.get('cwd') or '-')}"
    yield f"workspace: {show.safe(asked.get('workspace') or '-')}"
    yield f"profile: {show.safe(asked.get('profile') or '-')}"
    yield f"session: {show.safe(question.get('session') or 'one for this run alone')}"
    names, cut = _whole(asked.get("env_names"))
    yield f"variables: {', '.join(map(show.safe, names)) or '-'}"
    yield from cut
    settings, cut = _whole(asked.get("env"))
    if settings:
        yield "set to:"
        yield from (f"{_INDENT}{show.safe(setting)}" for setting in settings)
    yield from cut


def _whole(given: Any) -> tuple[list[str], list[str]]:
    """The texts of a list, and what to say when it was too long to be kept whole."""
    if isinstance(given, dict):
        return [*map(str, given.get("head") or ())], [_cut(given)]
    return [*map(str, given or ())], []


def _cut(marker: Mapping[str, Any]) -> str:
    return f"cut: this is only its head; {marker.get('bytes')} bytes in all, SHA-256 {show.safe(marker.get('sha256'))}"


def _input(asked: Mapping[str, Any]) -> Iterator[str]:
    """What is fed to the command: to a shell or an interpreter that is what will run."""
    if not asked.get("stdin"):
        return
    if asked["stdin"] == "stream":
        yield "input: sent while it runs, so nobody knows it yet"
        return
    yield f"input: SHA-256 {show.safe(asked['stdin'])}"
    given = asked.get("input")
    text = given.get("head") if isinstance(given, dict) else given
    if text:
        yield from _quoting(str(text))
    if isinstance(given, dict):
        yield _cut(given)


def _files(files: Any) -> Iterator[str]:
    """The scripts that the command names, as they were when it was asked: what is approved is what executes."""
    if isinstance(files, dict):
        yield f"files: {files.get('bytes')} bytes of names and heads, which is too much to show"
    for file in files if isinstance(files, list) else ():
        if not isinstance(file, dict):
            continue
        size = file.get("size") or 0
        yield f"file: {show.safe(file.get('path'))}, {show.size(size)}"
        yield f"{_INDENT}SHA-256 {show.safe(file.get('sha256'))}"
        head = str(file.get("head") or "")
        if head:
            yield from _quoting(head)
        # A byte that is no text takes one byte in the file, and three as U+FFFD.
        strange = head.count("\ufffd")
        if len(head.encode("utf-8", "surrogateescape")) - 2 * strange < size:
            why = (
                f"not all of it is text, or only its head is shown; {size} bytes in all"
                if strange
                else "only its head is shown"
            )
            yield f"{_INDENT}| … ({why})"


def _quoting(text: str) -> Iterator[str]:
    yield from (f"{_INDENT}| {show.safe(line)}" for line in text.removesuffix("\n").split("\n"))


def _reasons(reasons: Sequence[Mapping[str, Any]], *, colour: bool) -> Iterator[str]:
    for reason in reasons:
        detail = show.safe(reason.get("detail"))
        said = click.style(detail, fg="red", bold=True) if colour else detail
        yield f"because: {said}"
        source = f" ({show.safe(reason['source'])})" if reason.get("source") else ""
        yield f"{_INDENT}rule: {show.safe(reason.get('rule'))}{source}"


def _answers(question: Mapping[str, Any]) -> Iterator[str]:
    needed = question.get("needed") or 1
    if needed > 1:
        yes = sum(bool(a.get("approve")) for a in question.get("answers") or ())
        yield f"people: {yes} of {needed} have said yes; each has to be another one"
    for answer in question.get("answers") or ():
        note = f": {show.safe(answer['note'])}" if answer.get("note") else ""
        yield f"answer: {'yes' if answer.get('approve') else 'no'} by uid {answer.get('uid')}{terms(answer)}{note}"


def terms(answer: Mapping[str, Any]) -> str:
    """What a yes is good for: ` (times 3, for 30m)`."""
    scope = answer.get("scope")
    if not answer.get("approve") or scope is None:
        return ""
    parts = [f"{answer['times']} times" if scope == "times" else show.safe(scope)]
    if answer.get("duration_ms"):
        parts.append(f"for {show.duration(answer['duration_ms'])}")
    return f" ({', '.join(parts)})"


def meanings(question: Mapping[str, Any], uid: int) -> Iterator[str]:
    """What each answer would mean."""
    if (question.get("asker") or {}).get("uid") == uid:
        yield f"You asked this yourself, so somebody else has to answer: stockade approvals approve {question['id']}"
        yield f"To take it back: stockade approvals withdraw {question['id']}"
        return
    ident = show.safe(question["id"])
    if question.get("kind") == "run":
        rows = [*_scopes(question)]
    elif question.get("kind") == "access":
        rows = [("(alone)", "the role, for the time that was asked for"), ("--for 30m", "the role, for less")]
    else:
        rows = [("(alone)", "the same order, given again, is carried out once")]
    width = max(len(option) for option, _ in rows)
    yield f"stockade approvals approve {ident}"
    yield from (f"{_INDENT}{option.ljust(width)}  {meaning}" for option, meaning in rows)
    yield f"stockade approvals deny {ident} --note TEXT"
    yield f"{_INDENT}it does not run, and whoever asks is told your note"


def _scopes(question: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    reasons = question.get("reasons") or ()
    exact = "exactly this: same command, input, directory, variables, files and policy"
    yield "(alone)", f"once, {exact}"
    yield "--times N", "the same, N times"
    yield "--for 30m", "the same, any number of times for so long"
    yield "--target", "the same, any number of times, for as long as policy lets a yes hold"
    closed = next((r for r in reasons if not r.get("blanket", True)), None)
    if question.get("session") is None:
        yield "--session", "not here: the request has no session that lives on"
    elif closed is not None:
        yield "--session", f"not here: nobody can say what else it would be ({show.safe(closed['detail'])})"
    else:
        subjects = "; ".join(dict.fromkeys(show.safe(r.get("subject")) for r in reasons))
        yield "--session", f"anything in this session that is asked about for: {subjects}"
