"""Which cgroups are ours: decided from texts of many hosts, with directories that stand for their cgroup2 mounts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor.kernel import cgroup_files as files
from supervisor.kernel.cgroup import Tree
from supervisor.kernel.cgroup_find import find, memberships

if TYPE_CHECKING:
    from pathlib import Path

ALL = frozenset(("v2", "hybrid", "v1"))


def _mount(point: object, kind: str, options: str = "", root: str = "/", flags: str = "rw,nosuid") -> str:
    return f"40 31 0:37 {root} {point} {flags} shared:9 - {kind} {kind} rw{options}\n"


def _cgroup2(directory: Path, controllers: str, *procs: int, root: bool = False) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "cgroup.controllers").write_text(controllers + "\n")
    (directory / "cgroup.procs").write_text("".join(f"{p}\n" for p in procs))
    (directory / "cgroup.subtree_control").write_text("")
    if not root:
        (directory / "cgroup.events").write_text("populated 1\n")


V1 = "".join(_mount(f"/cg/{c}", "cgroup", f",{c}") for c in ("memory", "pids", "cpu,cpuacct", "freezer", "devices"))
OWN_V1 = "9:memory:/docker/abc\n8:pids:/docker/abc\n7:cpu,cpuacct:/\n6:freezer:/x\n5:devices:/\n1:name=systemd:/\n"


def test_a_unit_with_delegation_gets_its_base_in_its_own_cgroup(tmp_path: Path) -> None:
    _cgroup2(tmp_path, "cpuset cpu io memory pids", root=True)
    _cgroup2(tmp_path / "system.slice/stockade.service", "cpu io memory pids", os.getpid())
    kind, [h] = find(_mount(tmp_path, "cgroup2"), "0::/system.slice/stockade.service\n", "stockade", ALL)
    assert kind == "v2"
    assert h.base == f"{tmp_path}/system.slice/stockade.service/stockade"
    assert h.path == "/system.slice/stockade.service/stockade"
    assert h.carries == ("cpu", "io", "memory", "pids")
    assert h.move


def test_from_inside_the_leaf_the_same_base_is_found(tmp_path: Path) -> None:
    unit = tmp_path / "system.slice/stockade.service"
    _cgroup2(tmp_path, "cpu io memory pids", root=True)
    _cgroup2(unit, "cpu io memory pids")
    _cgroup2(unit / "supervisor", "", os.getpid(), 1)
    _, [h] = find(_mount(tmp_path, "cgroup2"), "0::/system.slice/stockade.service/supervisor\n", "stockade", ALL)
    assert h.path == "/system.slice/stockade.service/stockade"


def test_processes_of_others_are_not_moved_the_base_goes_to_the_top(tmp_path: Path) -> None:
    _cgroup2(tmp_path, "cpu io memory pids", root=True)
    _cgroup2(tmp_path / "user.slice/session-3.scope", "memory pids", os.getpid(), 1)
    _, [h] = find(_mount(tmp_path, "cgroup2"), "0::/user.slice/session-3.scope\n", "stockade-1", ALL)
    assert (h.base, h.path, h.move) == (f"{tmp_path}/stockade-1", "/stockade-1", False)
    assert h.carries == ("cpu", "io", "memory", "pids")


def test_the_real_root_may_keep_its_processes(tmp_path: Path) -> None:
    _cgroup2(tmp_path, "cpu io memory pids", 1, os.getpid(), root=True)
    _, [h] = find(_mount(tmp_path, "cgroup2"), "0::/\n", "stockade", ALL)
    assert (h.path, h.move) == ("/stockade", False)


def test_preparing_moves_ourselves_to_the_leaf_and_enables_controllers_on_two_levels(tmp_path: Path) -> None:
    unit = tmp_path / "unit"
    _cgroup2(tmp_path, "memory pids", root=True)
    _cgroup2(unit, "memory pids", os.getpid())
    _cgroup2(unit / "supervisor", "")
    _cgroup2(unit / "stockade", "memory pids")
    tree = Tree(*find(_mount(tmp_path, "cgroup2"), "0::/unit\n", "stockade", ALL))
    assert not any(tree.layers().values())
    tree.prepare()
    assert (unit / "supervisor/cgroup.procs").read_text().split() == [str(os.getpid())]
    # A plain file keeps the last write, where the kernel would keep both.
    assert (unit / "cgroup.subtree_control").read_text().strip().startswith("+pids")


def test_cgroup2_without_controllers_beside_v1_is_hybrid_and_needs_no_cpuacct(tmp_path: Path) -> None:
    _cgroup2(tmp_path, "", root=True)
    kind, found = find(V1 + _mount(tmp_path, "cgroup2"), OWN_V1 + "0::/\n", "s", ALL)
    assert kind == "hybrid"
    assert [(h.version, h.path, h.carries) for h in found] == [
        (1, "/docker/abc/s", ("memory",)),
        (1, "/docker/abc/s", ("pids",)),
        (1, "/s", ("cpu",)),
        (2, "/s", ()),
    ]


def test_a_host_without_cgroup2_uses_the_freezer_and_joins_controllers_that_are_mounted_together() -> None:
    kind, found = find(V1, OWN_V1, "s", ALL)
    assert kind == "v1"
    carried = {h.base: h.carries for h in found}
    assert carried["/cg/cpu,cpuacct/s"] == ("cpu", "cpuacct")
    assert carried["/cg/freezer/x/s"] == ("freezer",)
    assert not [base for base in carried if "devices" in base]


def test_a_container_that_sees_only_its_part_of_a_hierarchy_finds_its_place() -> None:
    mount = _mount("/cg/freezer", "cgroup", ",freezer", root="/docker/abc")
    _, [h] = find(mount, "6:freezer:/docker/abc/in\n", "s", ALL)
    assert (h.base, h.path) == ("/cg/freezer/in/s", "/docker/abc/in/s")


@pytest.mark.parametrize(
    ("mount", "own"),
    [
        pytest.param(_mount("/cg/freezer", "cgroup", ",freezer", root="/docker/abc"), "/docker/abcd", id="sibling"),
        pytest.param(_mount("/cg/freezer", "cgroup", ",freezer"), "/../other", id="outside the namespace"),
        pytest.param(_mount("/cg/freezer", "cgroup", ",freezer", flags="ro,nosuid"), "/", id="read-only"),
        pytest.param(_mount("/proc", "proc"), "/", id="none mounted"),
    ],
)
def test_a_hierarchy_that_does_not_show_our_group_writable_is_refused(mount: str, own: str) -> None:
    with pytest.raises(OSError, match="cgroup layout none"):
        find(mount, f"6:freezer:{own}\n", "s", ALL)


def test_a_layout_that_is_not_allowed_is_refused(tmp_path: Path) -> None:
    _cgroup2(tmp_path, "", root=True)
    with pytest.raises(OSError, match="cgroup layout hybrid"):
        find(V1 + _mount(tmp_path, "cgroup2"), OWN_V1 + "0::/\n", "s", frozenset(("v2",)))
    kind, _ = find(V1 + _mount(tmp_path, "cgroup2"), OWN_V1 + "0::/\n", "s", frozenset(("v1",)))
    assert kind == "v1"


def test_a_mount_point_with_a_space_is_read_as_the_kernel_escapes_it() -> None:
    _, [h] = find(_mount(r"/cg\040x\134y", "cgroup", ",freezer"), "6:freezer:/\n", "s", ALL)
    assert h.base == "/cg x\\y/s"


def test_a_path_with_a_colon_is_kept_whole() -> None:
    assert memberships("4:memory:/a:b\n0::/c:d\n") == {"memory": "/a:b", "": "/c:d"}


def test_cgroup2_limits_go_to_its_files_and_come_back(tmp_path: Path) -> None:
    for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"):
        (tmp_path / name).write_text("")
    d = str(tmp_path)
    files.limit_memory(d, 2, 4096, swap0=True, leaf=True)
    files.limit_cpu(d, 2, 150)
    files.limit_pids(d, 7)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "memory.max": "4096",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "150000 100000",
        "pids.max": "7",
    }
    assert files.read_memory(d, 2) == {"memory": 4096, "swap": 0}
    assert (files.read_cpu(d, 2), files.read_pids(d)) == (150, 7)


def test_a_session_is_not_killed_with_its_first_greedy_run(tmp_path: Path) -> None:
    for name in ("memory.max", "memory.oom.group"):
        (tmp_path / name).write_text("")
    files.limit_memory(str(tmp_path), 2, 4096, swap0=True, leaf=False)
    assert (tmp_path / "memory.oom.group").read_text() == ""
    assert files.read_memory(str(tmp_path), 2) == {"memory": 4096}


def test_unlimited_reads_as_none_in_every_dialect(tmp_path: Path) -> None:
    texts = {"memory.max": "max\n", "cpu.max": "max 100000\n", "pids.max": "max\n"}
    texts |= {"memory.limit_in_bytes": "9223372036854771712\n", "cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "1\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    d = str(tmp_path)
    assert files.read_memory(d, 2) == files.read_memory(d, 1) == {"memory": None}
    assert files.read_cpu(d, 2) is files.read_cpu(d, 1) is files.read_pids(d) is None


def test_cgroup2_counters_are_read_and_missing_files_are_left_out(tmp_path: Path) -> None:
    d = str(tmp_path)
    assert files.memory_counters(d, 2) == {"memory_peak": None, "memory_oom": None}
    assert files.io_counters(d) == {}
    (tmp_path / "memory.peak").write_text("12288\n")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n")
    (tmp_path / "io.stat").write_text("8:0 rbytes=10 wbytes=1 rios=1 wios=1\n8:16 rbytes=5 wbytes=2 dbytes=0\n7:1 \n")
    assert files.memory_counters(d, 2) == {"memory_peak": 12288, "memory_oom": 1}
    assert files.io_counters(d) == {"read_bytes": 15, "written_bytes": 3}
