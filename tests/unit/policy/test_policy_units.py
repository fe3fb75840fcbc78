"""Units: text and integers mean the same in both directions, and nothing else is a value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.policy import units


@pytest.mark.parametrize(
    ("unit", "written", "meant"),
    [
        ("bytes", "512M", 512 << 20),
        ("bytes", "1G", 1 << 30),
        ("bytes", "3K", 3072),
        ("bytes", "2T", 2 << 40),
        ("bytes", 4096, 4096),
        ("percent", "80%", 80),
        ("percent", "250%", 250),
        ("count", 64, 64),
        ("time", "500ms", 500),
        ("time", "60s", 60_000),
        ("time", "5m", 300_000),
        ("time", "1h", 3_600_000),
    ],
)
def test_a_value_with_its_unit_is_understood(unit: units.Unit, written: object, meant: int) -> None:
    assert units.parse(unit, written) == meant


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        ("bytes", "512X"),
        ("bytes", "512MB"),
        ("bytes", "-1M"),
        ("bytes", "1.5G"),
        ("bytes", ""),
        ("bytes", " 1M"),
        ("bytes", "1M\n"),
        ("bytes", True),
        ("bytes", "٣M"),
        ("percent", 80),
        ("percent", "80"),
        ("count", "64"),
        ("count", 1.0),
        ("time", 60),
        ("time", "60"),
        ("time", "1d"),
        ("time", None),
    ],
)
def test_anything_else_is_no_value(unit: units.Unit, written: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        units.parse(unit, written)


@given(st.sampled_from(list(units.LIMITS)), st.integers(1, 1 << 50))
def test_what_is_shown_parses_back_to_the_same(limit: str, value: int) -> None:
    unit = units.LIMITS[limit][1]
    shown = units.show_limit(limit, value)
    assert units.parse(unit, int(shown) if unit == "count" else shown) == value


def test_no_idle_timeout_is_shown_as_none() -> None:
    assert units.show_limit("idle_timeout_ms", 0) == "none"
