"""From a file of another product to a policy of ours, and a report of what could not be carried over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from supervisor.policy.importing import amounts, carry, clawdbot
from supervisor.policy.importing.draft import Draft
from supervisor.policy.importing.keys import Format, find
from supervisor.policy.importing.read import read

if TYPE_CHECKING:
    from collections.abc import Callable

_PRESETS: dict[str, str] = {"strict": "strict", "moderate": "moderate", "permissive": "permissive"}


@dataclass(frozen=True, slots=True)
class Row:
    """One key of the old file. `carried` is False where anything of it is missing, and `why` says what."""

    key: str
    ours: str
    carried: bool
    why: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Imported:
    product: Format
    preset: str  # the page that was changed
    text: str  # the TOML of ours
    rows: tuple[Row, ...]

    @property
    def complete(self) -> bool:
        return all(row.carried for row in self.rows)


def convert(data: bytes, name: str, product: Format | None = None) -> Imported:
    """Raises InvalidRequest for a file that cannot be read."""
    chosen, values = read(data, name, product)
    draft = Draft(_PRESETS.get(str(values.get("sandbox.mode")), "default") if chosen == "clawdbot" else "default")
    # Tables and lists before what narrows them: the policy of tools before their list, rates before their windows.
    rows = tuple(_row(draft, chosen, path, value) for path, value in sorted(values.items(), key=_order))
    ordered = {path: n for n, path in enumerate(values)}
    rows = tuple(sorted(rows, key=lambda row: ordered[row.key]))
    return Imported(chosen, draft.preset, draft.text(_head(name, chosen, draft, rows)), rows)


def carrier(name: str) -> Callable[[Draft, Any], str | None]:
    """The function that carries a key over, by the name that keys.py gives it. Raises AttributeError."""
    module = next((m for m in (amounts, clawdbot) if hasattr(m, name)), carry)
    found: Callable[[Draft, Any], str | None] = getattr(module, name)
    return found


def _order(item: tuple[str, Any]) -> int:
    """What depends on others comes after them: lists after switches, what adds to a list after what replaces it."""
    narrowing = ("tools.allow", "tools.profile", "tools.deny")
    late = (
        "tools.allowList", "forbidden_paths", "blocked_paths", "allowed_commands", "allowedCommands", "exec.allowlist",
        "exec.security", "defaults.security", "_risk", "_risk_commands",
    )  # fmt: skip
    return 2 if item[0].endswith(narrowing) else 1 if item[0].endswith(late) else 0


def _row(draft: Draft, product: Format, path: str, value: Any) -> Row:
    key = find(product, path)
    if key.missing:
        return Row(path, key.ours, carried=False, why=key.missing)
    said = carrier(key.carry)(draft, value)
    return Row(path, key.ours, carried=said is None, why=said or key.note)


def _head(name: str, product: str, draft: Draft, rows: tuple[Row, ...]) -> list[str]:
    lines = [
        f"Imported from {name.rpartition('/')[2][:64]!a} ({product}), on the page of the preset {draft.preset}.",
        "",
        "What is here replaces the keys of that file. Read it once: who may call stands in [[callers]] at the end, and",
        "what programs can reach in [profiles]. `stockade policy check` tells what is wrong with a change.",
    ]
    named = draft.get("profiles", "shell", "allowed_commands")
    if named and "sh" not in named:
        lines += [
            "",
            'allowed_commands has no shell: requests that are a script do not run, argv does. With "sh" in the list',
            "they run too, and still start nothing else.",
        ]
    missing = [row for row in rows if not row.carried]
    if missing:
        lines += ["", "Not carried over, or not whole:"]
        lines += [_cut(f"  {row.key}: {row.why}") for row in missing[:200]]
    return lines


def _cut(text: str) -> str:
    safe = "".join(c if c.isprintable() else "?" for c in text)
    return safe if len(safe) <= 300 else safe[:299] + "…"
