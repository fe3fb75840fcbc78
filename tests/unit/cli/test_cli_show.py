"""How values are written, and what the host's files mean to the doctor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli import ending, host, show
from supervisor.cli.forward import has_stdin


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1K"), (1536, "1.5K"), (512 << 20, "512M"), (1 << 40, "1T"), (1 << 60, "1024P")],
)
def test_bytes_are_written_with_powers_of_1024(count: int, text: str) -> None:
    assert show.size(count) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0ms"), (999, "999ms"), (1000, "1s"), (1500, "1.5s"), (120_000, "120s"), (5_400_000, "90m"), (10**7, "3h")],
)
def test_times_are_written_in_the_largest_fitting_unit(milliseconds: int, text: str) -> None:
    assert show.duration(milliseconds) == text


@given(st.text(st.characters()))
def test_no_text_can_control_a_terminal_or_break_a_line(text: str) -> None:
    written = show.safe(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or ord(c) in range(0x202A, 0x202F) for c in written)
    assert written.encode("utf-8").isascii() or any(ord(c) > 159 for c in text)


def test_a_place_without_a_rule_is_no_rule() -> None:
    both = {"detail": "no", "rule": "autonomy.level", "source": "p.toml:3"}
    assert show.error_lines(both)[1:] == ["rule: autonomy.level (p.toml:3)"]
    assert show.error_lines({**both, "rule": None})[1:] == ["source: p.toml:3"]
    assert show.error_lines({**both, "source": None})[1:] == ["rule: autonomy.level"]


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_a_table_has_one_line_for_each_row(rows: list[tuple[str, str]]) -> None:
    assert len(show.table(("A", "B"), rows).split("\n")) == len(rows) + 1


@given(st.dictionaries(st.sampled_from(["cause", "exit_code", "signal", "limits", "usage", "errno"]), st.none()))
def test_a_run_without_its_members_is_never_taken_for_success(run: dict[str, None]) -> None:
    assert ending.exit_status(run) != 0


@pytest.mark.parametrize(("release", "ok"), [("6.18.0", True), ("5.13.0-rc1", True), ("5.10.0-28-amd64", False)])
def test_a_kernel_without_landlock_is_too_old(release: str, ok: bool) -> None:
    assert host.kernel(release).ok is ok


@pytest.mark.parametrize(
    ("lsm", "ok"), [("lockdown,yama,landlock\n", True), ("yama,landlocked", False), ("", False), (None, None)]
)
def test_landlock_must_be_among_the_active_modules(lsm: str | None, ok: bool | None) -> None:
    assert host.landlock(lsm).ok is ok


@pytest.mark.parametrize(
    ("mounts", "controllers", "ok"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "cpuset cpu io memory pids", True),
        (
            "cgroup /c/m cgroup rw,memory 0 0\ncgroup /c/p cgroup rw,pids 0 0\ncgroup /c/c cgroup rw,cpu,cpuacct 0 0",
            "",
            True,
        ),
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "cpu pids", False),
        (None, None, False),
    ],
)
def test_memory_pids_and_cpu_may_come_from_either_version(
    mounts: str | None, controllers: str | None, ok: bool
) -> None:
    assert host.cgroups(mounts, controllers).ok is ok


def test_a_descriptor_that_is_not_open_is_no_input() -> None:
    assert has_stdin(1 << 20) is False
