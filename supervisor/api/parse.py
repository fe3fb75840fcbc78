"""Bytes from a client to a typed request, or an InvalidRequest that names the field."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError

from supervisor.errors import InvalidRequest, Malformed, UnsupportedMedia

if TYPE_CHECKING:
    from collections.abc import Iterable

M = TypeVar("M", bound=BaseModel)

MAX_FINDINGS = 32  # how many errors of one body are reported


def json_body(data: bytes, content_type: str | None, content_encoding: str | None) -> Any:
    """The JSON value of a body: UTF-8, no duplicate names, no NaN or Infinity (RFC 8259, RFC 7493).

    Raises UnsupportedMedia for a body that is not declared as JSON, Malformed when it is not JSON, and
    InvalidRequest when it is nested deeper than Python's recursion limit lets a parser go.
    """
    if content_encoding not in (None, "", "identity"):
        raise UnsupportedMedia(f"Content-Encoding {content_encoding[:64]!r} is not taken", hint="send it uncompressed")
    essence, _, parameters = (content_type or "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if essence.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        given = f"Content-Type {content_type[:64]!r}" if content_type else "a body without Content-Type"
        raise UnsupportedMedia(f"{given} is not taken", hint='send the header "Content-Type: application/json"')
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    except UnicodeDecodeError as e:
        raise Malformed(f"the body is not UTF-8: byte 0x{data[e.start]:02x} at offset {e.start}") from e
    except json.JSONDecodeError as e:
        raise Malformed(f"the body is not JSON: {e.msg} at line {e.lineno} column {e.colno}") from e
    except RecursionError as e:
        raise InvalidRequest("the body is nested too deeply", hint="no request needs more than three levels") from e
    except ValueError as e:  # an integer of thousands of digits
        raise Malformed("the body holds a number that is too long") from e


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Malformed(f"the name {printable(twice)!r} stands twice in one object", field=printable(twice))
    return found


def _constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is not JSON", hint="numbers are finite")


def printable(text: str, limit: int = 128) -> str:
    """`text` as it can be sent back: lone surrogates escaped, shortened."""
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return safe if len(safe) <= limit else safe[:limit] + "…"


def typed(model: type[M], value: Any) -> M:
    """`value` as the model, or InvalidRequest with every finding; `field` is that of the first."""
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise invalid(e, model) from None


def invalid(error: ValidationError, model: type[BaseModel]) -> InvalidRequest:
    """One problem for everything that pydantic found wrong."""
    findings = [_finding(dict(item), model) for item in error.errors(include_url=False, include_input=False)]
    first = findings[0]
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return InvalidRequest(
        f"{first['field']}: {first['detail']}{more}" if first["field"] else first["detail"],
        field=first["field"] or None,
        hint=first.get("hint"),
        findings=findings[:MAX_FINDINGS] if len(findings) > 1 else None,
    )


def _finding(item: dict[str, Any], model: type[BaseModel]) -> dict[str, str]:
    place = [part for part in item["loc"] if part != "[key]"]  # how pydantic says that it is the name, not the value
    place += [item["ctx"]["field"]] if item["type"] == "refused" else []
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{printable(part)}" for part in place)[1:]
    detail = printable(item["msg"].removeprefix("Value error, "), 512)
    found = {"field": field, "detail": detail}
    if item["type"] == "extra_forbidden":
        found["detail"] = "there is no such field"
        known = list(model.model_fields) if len(place) == 1 else []
        near = nearest(str(place[-1]), known)
        if near:
            found["hint"] = f"did you mean {near[0]!r}?"
    elif item["type"] == "string_unicode":
        found["detail"] = "not Unicode text: a lone surrogate cannot be passed on as UTF-8"
    return found


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """The known names that `name` may have been meant to be, best first."""
    import difflib

    return difflib.get_close_matches(name[:128], list(known), n=count, cutoff=0.6)


def query_values(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The query as a dict; a name that stands twice is refused."""
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidRequest("the query parameter stands twice", field=printable(name))
        found[name] = value
    return found
