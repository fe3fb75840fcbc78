"""What the values of a request look like: text, paths, quantities with units, signals; each with its JSON Schema."""

from __future__ import annotations

import base64
import binascii
import re
import signal as signals
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from supervisor.policy import units
from supervisor.wire.messages import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

NO_NUL: Final = r"^[^\x00]*$"
NAME: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
LABEL: Final = r"^[a-z][a-z0-9_.-]{0,63}$"
SESSION: Final = r"^ses-[0-9a-z]{8,32}$"
KEY: Final = r"^[^\x00-\x1f\x7f-\x9f]{1,600}$"


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError(f"a NUL character at offset {text.index(chr(0))}")
    return text


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as e:
        raise ValueError(f"not base64 (RFC 4648, section 4): {e}") from None
    return text


def _whole(value: Any) -> Any:
    # JSON has one kind of number: 64.0 is the integer 64 (JSON Schema, "integer").
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read(unit: units.Unit) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        try:
            number = units.parse(unit, _whole(value))
        except ValueError as e:
            raise ValueError(f"{e}; expected {units.EXPECTED[unit]}") from None
        if number < 0:
            raise ValueError(f"negative; expected {units.EXPECTED[unit]}")
        return number

    return read


_WRITTEN: dict[units.Unit, str] = {
    "bytes": r"^[0-9]{1,15}[KMGT]?$",
    "percent": r"^[0-9]{1,15}%$",
    "time": r"^[0-9]{1,15}(?:ms|s|m|h)$",
}


def _quantity_schema(unit: units.Unit) -> WithJsonSchema:
    kinds: list[dict[str, Any]] = []
    if unit in _WRITTEN:
        kinds.append({"type": "string", "pattern": _WRITTEN[unit]})
    if unit in ("bytes", "count"):
        kinds.append({"type": "integer", "minimum": 0})
    schema = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    return WithJsonSchema({**schema, "description": units.EXPECTED[unit]})


def _signal_number(value: Any) -> int:
    number = _whole(value)
    if type(number) is int and 1 <= number <= 64:
        return number
    if type(value) is str:
        name = value if value.startswith("SIG") else f"SIG{value}"
        if name in signals.Signals.__members__:
            return int(signals.Signals[name])
    raise ValueError('neither a name of signal(7), "TERM" or "SIGTERM", nor a number from 1 to 64')


_SIGNALS = sorted(signals.Signals.__members__)

# Text of what will be executed: these only bound it. That it can be executed is decide/command.py's to say, so that
# the refusal is recorded; the patterns tell clients beforehand.
Text = Annotated[str, Field(max_length=MAX_TEXT, json_schema_extra={"pattern": NO_NUL, "minLength": 1})]
Argument = Annotated[str, Field(max_length=MAX_TEXT, json_schema_extra={"pattern": NO_NUL})]
EnvName = Annotated[str, Field(max_length=256, json_schema_extra={"pattern": r"^[^=\x00]+$"})]
Label = Annotated[str, Field(max_length=256, json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"})]
LabelName = Annotated[str, Field(pattern=LABEL)]
Path = Annotated[str, Field(max_length=4095, json_schema_extra={"pattern": NO_NUL, "minLength": 1})]
AbsolutePath = Annotated[str, Field(max_length=4095, json_schema_extra={"pattern": r"^/[^\x00]*$"})]
Reason = Annotated[str, AfterValidator(_no_nul), Field(max_length=1024, json_schema_extra={"pattern": NO_NUL})]
Purpose = Annotated[
    str, AfterValidator(_no_nul), Field(min_length=1, max_length=1024, json_schema_extra={"pattern": NO_NUL})
]
Key = Annotated[str, Field(pattern=KEY)]
Name = Annotated[str, Field(pattern=NAME)]
SessionId = Annotated[str, Field(pattern=SESSION)]
Base64 = Annotated[str, AfterValidator(_base64), Field(json_schema_extra={"contentEncoding": "base64"})]

# Limits: what the wire carries is an integer (bytes, percent, a count, milliseconds).
Bytes = Annotated[int, BeforeValidator(_read("bytes")), _quantity_schema("bytes")]
Percent = Annotated[int, BeforeValidator(_read("percent")), _quantity_schema("percent")]
Count = Annotated[int, BeforeValidator(_read("count")), _quantity_schema("count")]
Times = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=1, le=10_000),
    WithJsonSchema({"type": "integer", "minimum": 1, "maximum": 10_000}),
]
Time = Annotated[int, BeforeValidator(_read("time")), _quantity_schema("time")]

Signal = Annotated[
    int,
    BeforeValidator(_signal_number),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 64},
                {"enum": [*(name.removeprefix("SIG") for name in _SIGNALS), *_SIGNALS]},
            ],
            "description": 'a name of signal(7), "TERM" or "SIGTERM", or a number',
        }
    ),
]

Uid = Annotated[
    int,
    BeforeValidator(_whole),
    Field(ge=0, le=2**32 - 2),
    WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 2**32 - 2}),
]


# --- in a query every value is text ----------------------------------------------------------------------------


def _natural(text: Any) -> Any:
    if isinstance(text, str) and re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        return int(text)
    raise ValueError("not a whole number")


def _flag(text: Any) -> bool:
    if text in ("", "1", "true"):
        return True
    if text in ("0", "false"):
        return False
    raise ValueError('neither "true" nor "false"')


def _natural_schema(low: int, high: int) -> WithJsonSchema:
    return WithJsonSchema({"type": "integer", "minimum": low, "maximum": high})


Offset = Annotated[int, BeforeValidator(_natural), _natural_schema(0, 10**15 - 1)]
Length = Annotated[int, BeforeValidator(_natural), Field(ge=1, le=16 << 20), _natural_schema(1, 16 << 20)]
Days = Annotated[int, BeforeValidator(_natural), Field(ge=1, le=3660), _natural_schema(1, 3660)]
Rows = Annotated[int, BeforeValidator(_natural), Field(ge=1, le=1000), _natural_schema(1, 1000)]
Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"enum": ["true", "false", "1", "0", ""]})]
