"""Stockade on a real systemd machine: one boot, and a test for each thing that is checked inside (tests/vm/guest)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm import machine
from tests.vm.guest import CHECKS

if TYPE_CHECKING:
    from tests.vm.guest.tools import Check

ROOT = Path(__file__).resolve().parents[2]
BOOT_SECONDS = 2700  # measured: 18 to 28 minutes on two cores; a machine that hangs must not hang its caller

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(BOOT_SECONDS + 900)]


@pytest.fixture(scope="module")
def booted() -> machine.Boot:
    missing = machine.missing_tools()
    assert not missing, f"not installed: {', '.join(missing)} (scripts/test installs them)"
    return machine.boot(ROOT, ROOT / ".cache/vm", timeout=BOOT_SECONDS)


def test_the_machine_powers_itself_off_after_every_check(booted: machine.Boot) -> None:
    assert booted.ended, f"cut off after {booted.seconds:.0f} s; the console, in .cache/vm/last, ends:\n{booted.tail()}"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_in_the_machine(booted: machine.Boot, check: Check) -> None:
    record = booted.records.get(check.__name__)
    assert record is not None, f"never reached; the console ends:\n{booted.tail()}"
    print(record["detail"])
    assert record["ok"], f"{check.__doc__}\n{record['detail']}"
