"""The policies that come with Stockade: beside the package in a checkout, beside the venv where it is installed."""

from __future__ import annotations

import sys
from pathlib import Path

from supervisor import errors

NAMES = ("default", "strict", "moderate", "permissive")

_PLACES = (Path(__file__).resolve().parents[2] / "policies", Path(sys.prefix).parent / "policies")


def preset_names() -> tuple[str, ...]:
    return NAMES


def preset_path(name: str) -> Path:
    """The file of a preset. Raises NotFound."""
    found = next((p for place in _PLACES if (p := place / f"{name}.toml").is_file()), None) if name in NAMES else None
    if found is None:
        raise errors.NotFound(f"there is no preset {name[:64]!r}", allowed=", ".join(NAMES), field="preset")
    return found


def preset_text(name: str) -> str:
    """The TOML of a preset. Raises NotFound."""
    return preset_path(name).read_text(encoding="utf-8")
