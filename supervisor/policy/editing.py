"""Single keys of a policy file, read and set by their dotted path, with comments and layout kept. Pure.

A key is written as in the reference: `autonomy.level`, `profiles.shell.limits.memory`, `callers.0.role`; a part with a
dot in it is quoted as in TOML.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT

from supervisor import errors
from supervisor.policy.check import LISTS, TABLES, siblings
from supervisor.policy.fields import close
from supervisor.policy.reference import KeyInfo, keys

Path = tuple[str | int, ...]

_PART = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|([^."\[\]\s]+))(?:\.|$)')


def path_of(key: str) -> Path:
    """The parts of a dotted key; those that count the entries of a list of tables are integers.

    Raises InvalidRequest for one that no policy can have.
    """
    parts: list[str | int] = []
    pos = 0
    while pos < len(key):
        found = _PART.match(key, pos)
        if found is None or (found.end() == len(key) and key.endswith(".")):
            raise errors.InvalidRequest(f"{key[:128]!r} is not a key", field="key", allowed="parts with dots between")
        part = found[2] if found[1] is None else json.loads(f'"{found[1]}"')
        counts = (len(parts) == 1 and parts[0] in LISTS) or (len(parts) > 1 and part.isdecimal())
        parts.append(int(part) if counts and part.isdecimal() else part)
        pos = found.end()
    if not parts:
        raise errors.InvalidRequest("no key is given", field="key", allowed="a key such as autonomy.level")
    _known(tuple(parts), key)
    return tuple(parts)


def _known(path: Path, key: str) -> None:
    """Raises InvalidRequest for a key that the reference does not have, with the nearest name."""
    here: list[str] = []
    for n, part in enumerate(path):
        if isinstance(part, int) or (n == 1 and path[0] in (*TABLES, *LISTS)):
            if n == 1 and path[0] in LISTS and not isinstance(part, int):
                raise errors.InvalidRequest(
                    f"{key}: entries of {path[0]} have numbers", field="key", allowed=f"{path[0]}.0 and on"
                )
            here.append("*")
            continue
        if info(tuple(path[:n])) is not None:
            return  # below a key whose value is a table: its names are the operator's
        names = siblings(path[: n + 1])
        if part not in names:
            raise errors.InvalidRequest(
                f"there is no key {key[:128]}",
                field="key",
                allowed=", ".join(names) or None,
                hint=f"did you mean {near}?" if (near := close(part, names)) else "docs/policy.md has every key",
            )
        here.append(part)


def info(path: Path) -> KeyInfo | None:
    """What the reference says of a key, or None for a table of several."""
    nested = (*TABLES, *LISTS)
    pattern = ".".join("*" if n == 1 and path[0] in nested else str(part) for n, part in enumerate(path))
    return next((k for k in keys() if k.path == pattern), None)


def value_of(text: str) -> Any:
    """What is written on a command line, as a value of TOML: JSON, a value as in TOML, else plain text."""
    try:
        found = json.loads(text)
    except ValueError:
        pass
    else:
        if found is None:
            raise errors.InvalidRequest("TOML has no null", field="value", hint="take the key out of the file instead")
        return found
    try:
        found = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    # Only what a policy can hold; a date is text that somebody meant as text.
    return found["value"] if list(found) == ["value"] and isinstance(found["value"], str | list | dict) else text


def get(text: str, path: Path) -> Any:
    """The value in a file, or None where it is not written there. Raises InvalidRequest for a file that is no TOML."""
    return _at(_plain(text), path)


def _plain(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as e:
        raise errors.InvalidRequest(f"the file is not TOML: {e}", field="file") from e


def _at(value: Any, path: Path) -> Any:
    for part in path:
        if isinstance(part, int):
            value = value[part] if isinstance(value, list) and part < len(value) else None
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def set_value(text: str, path: Path, value: Any) -> str:
    """The file with one key set, everything else as it was.

    One more than the last number of a list adds an entry. Raises InvalidRequest for a place that there is not.
    """
    wanted = _plain(text)
    _put(wanted, path, value)
    try:
        document = tomlkit.parse(text)
        _edit(document, path, value)
        edited = tomlkit.dumps(document)
    except (TOMLKitError, ValueError, TypeError, KeyError) as e:
        raise errors.InvalidRequest(f"the file cannot be changed so: {e}", field="key") from e
    if _plain(edited) != wanted:
        raise errors.Internal("the changed file would not say what was asked", hint="please report it, with the file")
    return edited


def _put(table: Any, path: Path, value: Any) -> None:
    """The same change on plain data, which the edited text is compared with."""
    for n, part in enumerate(path[:-1]):
        if isinstance(part, int):
            if part > len(table):
                raise _nowhere(path[: n + 1], len(table))
            if part == len(table):
                table.append({})
            table = table[part]
        else:
            table = table.setdefault(part, [] if isinstance(path[n + 1], int) else {})
    last = path[-1]
    if isinstance(last, int):
        if last > len(table):
            raise _nowhere(path, len(table))
        table[last : last + 1] = [value]
    else:
        table[last] = value


def _nowhere(path: Path, there: int) -> errors.InvalidRequest:
    name = ".".join(map(str, path))
    return errors.InvalidRequest(
        f"there is no {name}", field="key", allowed=f"0 to {there - 1}" if there else "no entry is there yet"
    )


def _edit(table: Any, path: Path, value: Any) -> None:
    for n, part in enumerate(path[:-1]):
        if not isinstance(part, int) and part not in table:
            following = path[n + 1]
            table.append(part, tomlkit.aot() if isinstance(following, int) else tomlkit.table())
        elif isinstance(part, int) and part == len(table):
            table.append(tomlkit.table())
        table = table[part]
    last = path[-1]
    if isinstance(last, int) and last == len(table):
        entry = tomlkit.item(value) if not isinstance(table, AoT) else _table(value)
        table.append(entry)
    elif isinstance(last, int) and isinstance(table, AoT):
        table[last] = _table(value)
    else:
        table[last] = value


def _table(value: Any) -> Any:
    made = tomlkit.table()
    if not isinstance(value, dict):
        raise TypeError("an entry is a table")
    for name, each in value.items():
        made.add(name, tomlkit.item(each) if not isinstance(each, dict) else _inline(each))
    return made


def _inline(value: dict[str, Any]) -> Any:
    made = tomlkit.inline_table()
    made.update(value)
    return made
