"""The types of the fields that decisions are made by: patterns, labels, spans, permissions. Used as fields.py is."""

from __future__ import annotations

import ipaddress
import re
import zoneinfo
from typing import TYPE_CHECKING

from supervisor.policy import units
from supervisor.policy.fields import close, named, refuse, shown
from supervisor.policy.narrow import AUTONOMY, NETWORKS
from supervisor.policy.words import (
    ALERT_ACTIONS,
    COMPARED,
    MAX_SCRIPT,
    PERMISSIONS,
    SPECIAL,
    permission_matches,
)

if TYPE_CHECKING:
    from collections.abc import Iterable


_LABEL = re.compile(r"[a-z][a-z0-9_.-]{0,63}", re.ASCII)
_SPAN = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:(?:([01][0-9]|2[0-3]):([0-5][0-9]))|24:00)", re.ASCII)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOST_BYTES = 1 << 60  # in sum, of a budget; what counts it and JSON have 64 bits
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def _texts(value: object, what: str, most: int = 256) -> list[str]:
    if type(value) is not list or not all(type(item) is str for item in value):
        raise refuse(f"{shown(value)} is not {what}", f"a list of text, at most {most}")
    if len(value) > most:
        raise refuse(f"{len(value)} entries", f"at most {most} entries")
    return value


def label_name(name: object, also: Iterable[str] = ()) -> str:
    if type(name) is not str or (name not in also and _LABEL.fullmatch(name) is None):
        raise refuse(f"{shown(name)} is not the name of a label", "a name of [a-z][a-z0-9_.-]*")
    return name


def patterns(value: object, also: Iterable[str] = ()) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """{name: [pattern, …]} in the order of names; one pattern may stand without its list."""
    if type(value) is not dict or len(value) > 32:
        raise refuse(f"{shown(value)} is not a table of patterns", 'such as { channel = ["discord", "irc-*"] }')
    found = []
    for name, given in value.items():
        each = _texts([given] if type(given) is str else given, "a list of patterns", 64)
        if not each or any(len(p) > 256 or _CONTROL.search(p) for p in each):
            raise refuse(f"{name}: {shown(given)}", "at least one pattern of printable characters")
        found.append((label_name(name, also), tuple(each)))
    return tuple(sorted(found))


def stated(value: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The labels that a caller may state: as patterns(), and "*" stands for every name."""
    found = patterns(value, ("*",))
    for name, _ in found:
        if name in SPECIAL:
            raise refuse(f"{name} is what Stockade itself says of a request", "another name")
    return found


def label_names(value: object) -> tuple[str, ...]:
    return tuple(label_name(name) for name in _texts(value, "a list of labels", 32))


def labels(value: object) -> tuple[tuple[str, str], ...]:
    if type(value) is not dict or len(value) > 32 or not all(type(text) is str for text in value.values()):
        raise refuse(f"{shown(value)} is not a table of text", 'such as { channel = "discord" }')
    return tuple(sorted((label_name(name), text) for name, text in value.items()))


def command_pattern(value: object) -> str:
    """The words of a command; what they mean is decide/shell's to say."""
    if type(value) is not str or not value.strip() or len(value) > 256 or _CONTROL.search(value):
        raise refuse(f"{shown(value)} is not a command pattern", 'words of a command, such as "git push --force"')
    return value


def command_name(value: object) -> str:
    """A program of allowed_commands: its name, or its absolute path."""
    if type(value) is not str or _CONTROL.search(value) or not value or len(value) > 255 or " " in value:
        raise refuse(f"{shown(value)} is not a program", "a name as in PATH, or an absolute path")
    if "/" in value and (not value.startswith("/") or ".." in value.split("/") or "//" in value or value.endswith("/")):
        raise refuse(f"{shown(value)} is not a program's path", "a name as in PATH, or an absolute path")
    return value


def permission(value: object) -> str:
    if type(value) is not str:
        raise refuse(f"{shown(value)} is not a permission", "one of " + ", ".join(PERMISSIONS))
    if value == "*" or any(permission_matches(value, known) for known in PERMISSIONS):
        return value
    raise refuse(f"{shown(value)} is no permission", "one of " + ", ".join(PERMISSIONS), close(value, PERMISSIONS))


def level(value: object) -> str:
    if type(value) is not str or value not in AUTONOMY:
        near = close(value, AUTONOMY) if isinstance(value, str) else None
        raise refuse(f"{shown(value)} is none of the values", ", ".join(AUTONOMY), near)
    return value


def network(value: object) -> str:
    if type(value) is not str or value not in NETWORKS:
        raise refuse(f"{shown(value)} is none of the values", ", ".join(NETWORKS))
    return value


def named_path(value: object) -> str:
    """A path that a tool may name: absolute or below the home directory, normalised."""
    form = "an absolute path, or one that starts with ~/"
    if type(value) is not str or not value.startswith(("/", "~/")) or _CONTROL.search(value) or len(value) > 4095:
        raise refuse(f"{shown(value)} is not a path", form)
    parts = value.removeprefix("~").split("/")[1:]
    if any(part in ("", ".", "..") for part in parts) and value != "/":
        raise refuse(f"{shown(value)} is not normalised", form)
    return value


def absolute(value: object) -> str:
    if type(value) is not str or not value.startswith("/"):
        raise refuse(f"{shown(value)} is not an absolute path", "an absolute path")
    return value


def spans(value: object) -> tuple[tuple[int, int], ...]:
    """Spans of the day in minutes."""
    found = []
    for text in _texts(value, "a list of spans", 16):
        match = _SPAN.fullmatch(text)
        if match is None:
            raise refuse(f"{shown(text)} is not a span of the day", '"HH:MM-HH:MM", such as "08:00-18:00"')
        begin, end = (
            int(match[1]) * 60 + int(match[2]),
            1440 if match[3] is None else int(match[3]) * 60 + int(match[4]),
        )
        if begin == end:
            raise refuse(f"{shown(text)} is empty", "two different times")
        found.append((begin, end))
    return tuple(found)


def days(value: object) -> tuple[int, ...]:
    """Days of the week, 0 is Monday."""
    found: set[int] = set()
    for text in _texts(value, "a list of days", 16):
        first, dash, last = text.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise refuse(f"{shown(text)} is not a day", '"mon", "tue", "wed", "thu", "fri", "sat", "sun" or "mon-fri"')
        begin = _DAYS.index(first)
        several = (_DAYS.index(last) - begin) % 7 if dash else 0
        found |= {(begin + n) % 7 for n in range(several + 1)}
    return tuple(sorted(found))


def timezone(value: object) -> str:
    if type(value) is not str:
        raise refuse(f"{shown(value)} is not a time zone", 'a name such as "Europe/Berlin"')
    if value != "UTC":
        try:
            zoneinfo.ZoneInfo(value)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            raise refuse(f"this host knows no time zone {shown(value)}", 'a name such as "Europe/Berlin"') from None
    return value


def ip_network(value: object) -> str:
    try:
        return str(ipaddress.ip_network(value))  # type: ignore[arg-type] # whatever it cannot take it refuses
    except ValueError:
        raise refuse(f"{shown(value)} is not a network", 'CIDR form without host bits, such as "10.0.0.0/8"') from None


def a_time(value: object) -> int:
    """A time above 0, in milliseconds."""
    try:
        number = units.parse("time", value)
    except ValueError as e:
        raise refuse(f"{shown(value)}: {e}", units.EXPECTED["time"]) from None
    if not 0 < number <= 366 * 86_400_000:
        raise refuse(f"{shown(value)} is not a possible time", "1ms to 8784h")
    return number


def days_of_time(value: object) -> int:
    """A time of one day to a quarter of a year, in milliseconds."""
    number = a_time(value)
    if not 86_400_000 <= number <= 90 * 86_400_000:
        raise refuse(f"{shown(value)} is not between one day and 90 days", "24h to 2160h")
    return number


def time_or_none(value: object) -> int:
    return 0 if value == "none" else a_time(value)


def bytes_or_none(value: object) -> int:
    if value == "none":
        return 0
    try:
        number = units.parse("bytes", value)
    except ValueError as e:
        raise refuse(f"{shown(value)}: {e}", units.EXPECTED["bytes"]) from None
    if not 1 <= number <= _MOST_BYTES:
        raise refuse(f"{shown(value)} is not a possible size", f'1 to {units.show("bytes", _MOST_BYTES)}, or "none"')
    return number


def actions(value: object) -> tuple[tuple[str, str], ...]:
    """{what alerts count: what is done}, in the order of names."""
    if type(value) is not dict:
        raise refuse(f"{shown(value)} is not a table", 'such as { sensitive = "stop" }')
    for name, action in value.items():
        for word, known in ((name, COMPARED), (action, ALERT_ACTIONS)):
            if word not in known:
                near = close(word, known) if isinstance(word, str) else None
                raise refuse(f"{shown(word)} is none of the values", ", ".join(known), near)
    return tuple(sorted(value.items()))


def script(value: object) -> str:
    if type(value) is not str or "\0" in value or not value or len(value.encode("utf-8", "replace")) > MAX_SCRIPT:
        raise refuse(f"{shown(value)} is not a script", f"text without NUL, at most {MAX_SCRIPT} bytes")
    return value


def arguments(value: object) -> tuple[str, ...]:
    found = _texts(value, "a command", 1024)
    if not found or not found[0] or any("\0" in word for word in found):
        raise refuse(f"{shown(value)} is not a command", "a program and its arguments")
    return tuple(found)


def role_names(value: object) -> tuple[str, ...]:
    return tuple(named(name) for name in _texts(value, "a list of roles", 64))
