"""The policies that come with Stockade, as text: from the checkout, or from where the wheel put them."""

from __future__ import annotations

import sys
from pathlib import Path

from supervisor import errors

NAMES = ("default", "strict", "moderate", "permissive")

_PLACES = (Path(__file__).resolve().parents[2] / "policies", Path(sys.prefix) / "share" / "stockade" / "policies")


def preset_names() -> tuple[str, ...]:
    return NAMES


def preset_text(name: str) -> str:
    """The TOML of a preset. Raises NotFound."""
    if name in NAMES:
        for place in _PLACES:
            try:
                return (place / f"{name}.toml").read_text(encoding="utf-8")
            except FileNotFoundError:
                continue
    raise errors.NotFound(f"there is no preset {name[:64]!r}", allowed=", ".join(NAMES), field="preset")
