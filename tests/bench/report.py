"""Rows with their targets, as Markdown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_HEAD = ("what", "under what", "p50", "p95", "unit", "of bubblewrap's", "target", "reached")


@dataclass(frozen=True)
class Row:
    what: str
    under: str
    p50: float | None  # or the one value that there is
    p95: float | None
    unit: str
    ratio: float | None = None  # to bubblewrap's p50 under the same conditions
    target: str = ""
    misses: tuple[str, ...] | None = None  # what of the target was not reached; None without a target

    def cells(self) -> tuple[str, ...]:
        if self.misses is None or self.p50 is None:
            reached = ""
        else:
            reached = "**not reached**: " + ", ".join(self.misses) if self.misses else "ok"
        return (
            self.what, self.under, number(self.p50), number(self.p95) if self.p95 is not None else "", self.unit,
            number(self.ratio) if self.ratio is not None else "", self.target, reached,
        )  # fmt: skip

    def raw(self) -> dict[str, Any]:
        return asdict(self)


def at_most(value: float | None, most: float) -> tuple[str, ...]:
    return () if value is None or value <= most else (f"{number(value)} > {number(most)}",)


def at_least(value: float, least: float) -> tuple[str, ...]:
    return () if value >= least else (f"{number(value)} < {number(least)}",)


def quantile(values: list[float], share: float) -> float | None:
    """The value at that share of the sorted ones; None of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else None


def number(value: float | None) -> str:
    """Three figures that mean something; "not measured" for None."""
    if value is None:
        return "not measured"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def markdown(rows: list[tuple[str, ...]], head: tuple[str, ...] = _HEAD) -> str:
    """One table; a bar inside a cell is escaped."""
    cells = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)


def table(rows: list[Row]) -> str:
    return markdown([row.cells() for row in rows])
