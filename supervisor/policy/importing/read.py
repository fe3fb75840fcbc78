"""The configuration file of another product as one flat table: TOML, JSON, or JSON as people write it (JSON5).

JSON5's comments, trailing commas, bare keys and single quotes are understood; YAML is told what to do with it.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

from supervisor import errors
from supervisor.policy.importing.keys import FORMATS, Format

MAX_BYTES = 1 << 20

_TOKEN = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<comment>//[^\n]*|/\*.*?\*/|\#[^\n]*)|(?P<name>[A-Za-z_$][\w$]*)"""
    r"""|(?P<comma>,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]]))""",
    re.DOTALL | re.ASCII,
)


def read(data: bytes, name: str, product: Format | None) -> tuple[Format, dict[str, Any]]:
    """(format, dotted key -> value). Lists and empty tables are values. Raises InvalidRequest."""
    if len(data) > MAX_BYTES:
        raise errors.InvalidRequest(f"{name} is larger than {MAX_BYTES} bytes", field="file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise errors.InvalidRequest(f"{name} is not UTF-8", field="file") from e
    looks_json = text.lstrip()[:1] in ("{", "/")
    tried: dict[str, str] = {}
    for kind in ("json", "toml") if looks_json else ("toml", "json"):
        try:
            raw = _json(text) if kind == "json" else tomllib.loads(text)
        except (ValueError, RecursionError) as e:
            tried[kind] = str(e)[:200] or type(e).__name__
            continue
        if not isinstance(raw, dict):
            tried[kind] = "not a table"
            continue
        chosen = product or ("clawdbot" if kind == "json" else "zeroclaw")
        return chosen, dict(_flat(raw, ""))
    said = "; ".join(f"as {kind.upper()}: {why}" for kind, why in tried.items())
    raise errors.InvalidRequest(
        f"{name} cannot be read: {said}",
        field="file",
        allowed=f"the TOML or JSON of {' or '.join(FORMATS)}",
        hint="a YAML file is turned into JSON first: `yq -o json FILE`",
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(_TOKEN.sub(_strict, text))


def _strict(found: re.Match[str]) -> str:
    """One part of JSON5 as JSON."""
    if found["comment"] is not None or found["comma"] is not None:
        return ""
    if found["name"] is not None:
        return found[0] if found[0] in ("true", "false", "null") else json.dumps(found[0])
    text = found[0]
    if text.startswith("'"):
        text = '"' + text[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    return text


def _flat(table: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """A list of tables too has keys, each of which is reported: agents.list[0].id."""
    out: list[tuple[str, Any]] = []
    for name, value in table.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            out += _flat(value, f"{path}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) and item for item in value):
            for n, item in enumerate(value):
                out += _flat(item, f"{path}[{n}].")
        else:
            out.append((path, value))
    return out
