"""The types of policy's fields: what each accepts, and the sentence when it does not. Used by the tables of keys."""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from supervisor.policy import paths, units

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}", re.ASCII)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,255}", re.ASCII)
_UNIT_TYPES = (".service", ".scope", ".slice")
_MAX_LIST = 256
_MAX_ENV = 32 * 1024  # bytes of one value


class Table(BaseModel):
    """A table of policy: strict, frozen, no unknown key."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True)


def refuse(message: str, expected: str | None = None, nearest: str | None = None) -> PydanticCustomError:
    """An error that findings.py shows as it stands."""
    # The sentence is given as a value: a brace in what an operator wrote is no placeholder.
    return PydanticCustomError("policy", "{said}", {"said": message, "expected": expected, "nearest": nearest})


def shown(value: object) -> str:
    """A value of a policy file for a message: short, and safe for any value that TOML can hold."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else repr(value[:80]) + "…"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return str(value)[:80]


def close(word: str, known: list[str] | tuple[str, ...]) -> str | None:
    """The known word nearest to what was written."""
    return next(iter(difflib.get_close_matches(word[:80].lower(), known, n=1, cutoff=0.6)), None)


def named(name: object) -> str:
    """A key that profiles and requests are called by."""
    if type(name) is not str or NAME.fullmatch(name) is None:
        raise refuse(
            f"{shown(name)} is not a usable name",
            "a letter, then at most 63 letters, digits, underscores, dots, dashes",
        )
    return name


def one_of(*values: str) -> Any:
    """Text out of a fixed list."""

    def check(value: object) -> str:
        if type(value) is not str or value not in values:
            nearest = close(value, values) if isinstance(value, str) else None
            raise refuse(f"{shown(value)} is none of the values", ", ".join(values), nearest)
        return value

    return PlainValidator(check)


def limit(wire: str) -> Any:
    """One limit of units.LIMITS, as an integer in its wire unit."""
    name, unit, least, most = units.LIMITS[wire]

    def check(value: object) -> int:
        if wire == "idle_timeout_ms" and value == "none":
            return 0
        try:
            number = units.parse(unit, value)
        except ValueError as e:
            raise refuse(f"{shown(value)}: {e}", units.EXPECTED[unit], _suffix(unit, value)) from None
        if not max(least, 1) <= number <= most:
            bounds = f"{units.show(unit, max(least, 1))} to {units.show(unit, most)}"
            raise refuse(f"{shown(value)} is not a possible {name}", bounds)
        return number

    return PlainValidator(check)


def _suffix(unit: units.Unit, value: object) -> str | None:
    """What was probably meant by 512MB, 512m, 60sec."""
    found = re.fullmatch(r"([0-9]{1,15})\s*([A-Za-z]*)", value, re.ASCII) if isinstance(value, str) else None
    if found is None:
        return None
    written = found[2].lower()
    likely = {
        "bytes": {s + tail: s.upper() for s in "kmgt" for tail in ("", "b", "ib")} | {"b": ""},
        "time": {"sec": "s", "secs": "s", "seconds": "s", "second": "s", "min": "m", "mins": "m", "minutes": "m"}
        | {"minute": "m", "hour": "h", "hours": "h", "msec": "ms", "h": "h", "s": "s", "m": "m", "ms": "ms"},
        "percent": {"": "%"},
        "count": {},
    }[unit]
    return found[1] + likely[written] if written in likely else None


def session_idle(value: object) -> int:
    """A time of at least one second, in milliseconds."""
    try:
        number = units.parse("time", value)
    except ValueError as e:
        raise refuse(f"{shown(value)}: {e}", units.EXPECTED["time"], _suffix("time", value)) from None
    if not 1_000 <= number <= 30 * 86_400_000:
        raise refuse(f"{shown(value)} is not a possible time", "1s to 720h")
    return number


def a_count(least: int, most: int) -> Callable[[Any], int]:
    def check(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise refuse(f"{shown(value)} is not possible here", f"an integer from {least} to {most}")
        return value

    return check


def count(least: int, most: int) -> Any:
    return PlainValidator(a_count(least, most))


def path_item(refused: Callable[..., str | None], *, ceiling: bool = False) -> Any:
    """One path of a read, write or execute list."""

    def check(value: object) -> str:
        if type(value) is not str:
            raise refuse(f"{shown(value)} is not a path", "a path as text")
        wrong = paths.form(value)
        if wrong is not None:
            meant = paths.normal(value)
            raise refuse(
                f"{shown(value)}: {wrong}",
                "an absolute, normalised path or one that starts with $WORKSPACE",
                meant if paths.form(meant) is None else None,
            )
        never = refused(value, ceiling=ceiling)
        if never is not None:
            raise refuse(f"{shown(value)}: {never}", "a narrower path")
        return value

    return PlainValidator(check)


def workspace_pattern(value: object) -> str:
    if type(value) is not str:
        raise refuse(f"{shown(value)} is not a pattern", "a path pattern as text")
    wrong = paths.workspace_refused(value)
    if wrong is not None:
        raise refuse(f"{shown(value)}: {wrong}", 'a pattern outside system directories, such as "/srv/agents/*"')
    return value


def unit_name(value: object) -> str:
    """The name of a running systemd unit, as a peer's cgroup shows it."""
    form = "the full name of a system unit, ending in " + ", ".join(_UNIT_TYPES)
    if type(value) is not str or _UNIT.fullmatch(value) is None:
        raise refuse(f"{shown(value)} is not a unit name", form)
    if not value.endswith(_UNIT_TYPES) or value.startswith("."):
        raise refuse(f"{shown(value)} has no unit type", form, f"{value}.service" if "." not in value else None)
    if "@." in value:
        raise refuse(f"{shown(value)} is a template, which never runs itself", "an instance: name@instance.service")
    return value


def account(value: object) -> str:
    if type(value) is not str or not 0 < len(value) <= 256 or "\0" in value:
        raise refuse(f"{shown(value)} is not a name", "the name of a user or group of this host")
    return value


def shell_path(value: object) -> str:
    if type(value) is not str or paths.form(value) is not None or not value.startswith("/") or value == "/":
        raise refuse(f"{shown(value)} is not a program's path", 'an absolute path, such as "/bin/sh"')
    return value


def environment(value: object) -> tuple[tuple[str, str], ...]:
    """Variables that every run of the profile gets, sorted by name."""
    if type(value) is not dict:
        raise refuse(f"{shown(value)} is not a table", 'a table of text: { LANG = "C.UTF-8" }')
    if len(value) > _MAX_LIST:
        raise refuse(f"{len(value)} variables", f"at most {_MAX_LIST}")
    for name, text in value.items():
        if _VARIABLE.fullmatch(name) is None:
            raise refuse(f"{shown(name)} is not a variable's name", "letters, digits and underscores")
        if type(text) is not str or "\0" in text or len(os.fsencode(text)) > _MAX_ENV:
            raise refuse(f"{name} = {shown(text)}", f"text without NUL, at most {_MAX_ENV} bytes")
    return tuple(sorted(value.items()))


def uid_range(value: object) -> tuple[int, int]:
    expected = "[first, how many], below 4294967295 and above 65535"
    if type(value) is not list or len(value) != 2 or any(type(v) is not int for v in value):
        raise refuse(f"{shown(value)} is not a range", expected)
    first, several = value
    if not (first >= 65_536 and several >= 1 and first + several <= 2**32 - 1):
        raise refuse(f"[{shown(first)}, {shown(several)}] is not a possible range of uids", expected)
    return first, several


def listing(most: int) -> Any:
    """A list in TOML, a tuple in the model (the only sequence that strict mode takes for one); each text once."""

    def check(items: object) -> tuple[Any, ...]:
        if type(items) is not list:
            raise refuse(f"{shown(items)} is not a list", "a list")
        if len(items) > most:
            raise refuse(f"{len(items)} entries", f"at most {most} entries")
        texts = [i for i in items if isinstance(i, str)]
        twice = next((t for n, t in enumerate(texts) if t in texts[:n]), None)
        if twice is not None:
            raise refuse(f"{shown(twice)} stands twice in the list", "each entry once")
        return tuple(items)

    return BeforeValidator(check)


LIST = listing(_MAX_LIST)


def optional(check: Callable[[Any], Any]) -> Any:
    """TOML has no null: None is only the default."""
    return PlainValidator(lambda value: None if value is None else check(value))


def key(default: Any, description: str, *, unit: str, enforcer: str, probe: str) -> Any:
    """A key of policy, declared once: default as in TOML, unit, meaning, who enforces it, which probe proves that."""
    extra: dict[str, Any] = {"unit": unit, "enforcer": enforcer, "probe": probe}
    return Field(default=default, description=description, json_schema_extra=extra)
