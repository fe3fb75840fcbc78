"""The interface files of cgroup2 and of the v1 controllers: what a limit is written to and a counter read from.

cgroup2: Documentation/admin-guide/cgroup-v2.rst. v1: Documentation/admin-guide/cgroup-v1/{memory,pids,cpuacct}.rst
and Documentation/scheduler/sched-bwc.rst. Sizes are bytes, times microseconds, CPU percent of one CPU.
"""

from __future__ import annotations

import contextlib
import errno
import os

PERIOD = 100_000  # microseconds; the kernel's default cpu.cfs_period_us and cpu.max period


def write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The longest are io.stat and cgroup.procs; the callers of the latter use pids() below.
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def maybe(path: str) -> bytes | None:
    """The file's text, or None where this kernel (or a removed group) does not have it."""
    try:
        return read(path)
    except OSError:
        return None


def pids(directory: str) -> set[int]:
    """Every process in a group and below it, as far as this PID namespace can name them."""
    found: set[int] = set()
    for group in walk(directory):
        try:
            with open(group + "/cgroup.procs", "rb") as f:
                found.update(int(line) for line in f)
        except FileNotFoundError:
            continue
        except OSError as e:
            if e.errno != errno.ENODEV:  # removed while being read
                raise
    return found - {0}


def walk(directory: str) -> list[str]:
    """A group and all groups below it, deepest first; empty when there is none."""
    try:
        with os.scandir(directory) as entries:
            below = [e.path for e in entries if e.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    return [group for child in below for group in walk(child)] + [directory]


def _field(text: bytes | None, name: bytes) -> int | None:
    """The value of a flat keyed file, `NAME VALUE` a line."""
    for line in (text or b"").splitlines():
        key, _, value = line.partition(b" ")
        if key == name:
            return int(value)
    return None


def _number(text: bytes | None) -> int | None:
    """A single value; None for `max`, for v1's way to say unlimited, and for a missing file."""
    value = (text or b"").strip()
    if not value or value == b"max":
        return None
    number = int(value)
    return None if number < 0 or number >= 1 << 62 else number


# --- limits ---------------------------------------------------------------------------------------------------


def limit_memory(directory: str, version: int, size: int, *, swap0: bool, leaf: bool) -> None:
    """Bound anonymous memory, page cache, tmpfs and kernel memory together.

    No memory.high: it would only slow a run down until its deadline, and hide the cause. memory.oom.group on
    runs alone: on a session it would take the session's leader with the first run that goes over.
    """
    value = b"%d" % size
    if version == 2:
        write(directory + "/memory.max", value)
        if swap0:
            _where_present(directory + "/memory.swap.max", b"0")
        if leaf:
            _where_present(directory + "/memory.oom.group", b"1")
        return
    try:
        write(directory + "/memory.limit_in_bytes", value)
    except OSError as e:
        # EINVAL: a limit is being raised over memsw, which has to go first.
        if e.errno != errno.EINVAL or not swap0:
            raise
        write(directory + "/memory.memsw.limit_in_bytes", value)
        write(directory + "/memory.limit_in_bytes", value)
    if swap0:
        _where_present(directory + "/memory.memsw.limit_in_bytes", value)


def limit_cpu(directory: str, version: int, percent: int) -> None:
    quota = percent * PERIOD // 100
    if version == 2:
        write(directory + "/cpu.max", b"%d %d" % (quota, PERIOD))
        return
    try:
        write(directory + "/cpu.cfs_quota_us", b"%d" % quota)
    except OSError as e:
        # v1 refuses a quota above an ancestor's (sched-bwc.rst, "Hierarchical considerations"), which binds
        # already; every other reason for EINVAL is excluded by percent >= 1.
        if e.errno != errno.EINVAL or percent < 1:
            raise


def limit_pids(directory: str, count: int) -> None:
    write(directory + "/pids.max", b"%d" % count)


def _where_present(path: str, data: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):  # no swap accounting, or older than the file: read_limits() tells
        write(path, data)


def read_memory(directory: str, version: int) -> dict[str, int | None]:
    """{memory, swap}: bytes, None for unlimited; swap is absent where it is not accounted."""
    if version == 2:
        found = {"memory": _number(maybe(directory + "/memory.max"))}
        swap = maybe(directory + "/memory.swap.max")
        return found if swap is None else {**found, "swap": _number(swap)}
    memory = _number(maybe(directory + "/memory.limit_in_bytes"))
    both = maybe(directory + "/memory.memsw.limit_in_bytes")
    if both is None:
        return {"memory": memory}
    total = _number(both)
    return {"memory": memory, "swap": None if total is None or memory is None else total - memory}


def read_cpu(directory: str, version: int) -> int | None:
    """Percent of one CPU, None for unlimited."""
    if version == 2:
        quota, _, period = (maybe(directory + "/cpu.max") or b"max 1").partition(b" ")
    else:
        quota = maybe(directory + "/cpu.cfs_quota_us") or b"-1"
        period = maybe(directory + "/cpu.cfs_period_us") or b"1"
    number = _number(quota)
    return None if number is None else number * 100 // int(period)


def read_pids(directory: str) -> int | None:
    return _number(maybe(directory + "/pids.max"))


# --- counters -------------------------------------------------------------------------------------------------


def memory_counters(directory: str, version: int) -> dict[str, int | None]:
    if version == 2:
        return {
            "memory_peak": _number(maybe(directory + "/memory.peak")),
            "memory_oom": _field(maybe(directory + "/memory.events"), b"oom_kill"),
        }
    return {
        "memory_peak": _number(maybe(directory + "/memory.max_usage_in_bytes")),
        "memory_oom": _field(maybe(directory + "/memory.oom_control"), b"oom_kill"),
    }


def pids_counters(directory: str) -> dict[str, int | None]:
    return {
        "pids_peak": _number(maybe(directory + "/pids.peak")),
        "pids_refused": _field(maybe(directory + "/pids.events"), b"max"),
    }


def cpu_counters(directory: str) -> dict[str, int | None]:
    """From cgroup2's cpu.stat, which every group but the root has, with or without the cpu controller."""
    text = maybe(directory + "/cpu.stat")
    return {
        "cpu_us": _field(text, b"usage_usec"),
        "cpu_user_us": _field(text, b"user_usec"),
        "cpu_system_us": _field(text, b"system_usec"),
    }


def cpuacct_counters(directory: str) -> dict[str, int | None]:
    names = {"cpu_us": "usage", "cpu_user_us": "usage_user", "cpu_system_us": "usage_sys"}
    found = {key: _number(maybe(f"{directory}/cpuacct.{name}")) for key, name in names.items()}
    return {key: None if value is None else value // 1000 for key, value in found.items()}  # from nanoseconds


def io_counters(directory: str) -> dict[str, int | None]:
    """Bytes that reached block devices; on a group that never did any the file is empty and both are 0."""
    text = maybe(directory + "/io.stat")
    if text is None:
        return {}
    sums = {b"rbytes": 0, b"wbytes": 0}
    for line in text.splitlines():
        for item in line.split(b" ")[1:]:
            key, _, value = item.partition(b"=")
            if key in sums:
                sums[key] += int(value)
    return {"read_bytes": sums[b"rbytes"], "written_bytes": sums[b"wbytes"]}
