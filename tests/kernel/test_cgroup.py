"""Limits are proved by breaking them and kills by what survives, in real groups of this host."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.kernel import cgroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.kernel.cgroup import Group, Tree

pytestmark = pytest.mark.root

ALL = frozenset(("v2", "hybrid", "v1"))
MIB = 1 << 20
DEADLINE_MS = 60_000


def _names() -> list[str]:
    """Every cgroup of this host, for a comparison of before and after."""
    mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup" in line]
    return sorted(d for fields in mounts for d, _, _ in os.walk(fields[4]) if "stockade-test-" in d)


@pytest.fixture(params=["found", "v1"])
def tree(request: pytest.FixtureRequest) -> Iterator[Tree]:
    """The layout of this host, and what a host without a cgroup2 mount would have; both swept afterwards."""
    allow = ALL if request.param == "found" else frozenset(("v1",))
    try:
        made = cgroup.detect(f"stockade-test-{uuid.uuid4().hex[:8]}", allow=allow)
    except OSError:
        if request.param == "found":
            raise
        pytest.skip("no v1 hierarchies here")
    made.prepare()
    try:
        yield made
    finally:
        made.sweep()
        assert made.remove()
        made.close()
        assert not [d for d in _names() if made.bases()[0] in d]


def _start(group: Group, program: str, *args: str) -> subprocess.Popen[bytes]:
    """A Python program that is inside the group before its first line runs."""
    return subprocess.Popen(
        [sys.executable, "-S", "-c", program, *args],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=group.join,
    )  # fmt: skip


def _finish(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    return process.communicate(timeout=DEADLINE_MS / 1000)


def _pidfds(pids: list[int]) -> list[int]:
    return [os.pidfd_open(pid) for pid in pids]


def _all_end(pidfds: list[int], act: Callable[[], None]) -> bool:
    """Whether every process ends while `act` is repeated."""
    try:
        for _ in range(2000):
            act()
            if all(select.select([fd], [], [], 0.01)[0] for fd in pidfds):
                return True
        return False
    finally:
        for fd in pidfds:
            os.close(fd)


def _until_empty(group: Group) -> None:
    """Kill as the launcher does: until the group says that it is empty."""
    poll = select.poll()
    if group.events_fd is not None:
        poll.register(group.events_fd, select.POLLPRI)
    for _ in range(2000):
        if not group.populated():
            return
        group.kill()
        poll.poll(10)
    raise AssertionError("still populated")


# A tree made to survive: a new session, its parent gone, every signal that can be ignored is.
STUBBORN = """
import os, signal, sys
for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)
out = os.dup(1)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(out, b"%d\\n" % os.getpid())
        while True: signal.pause()
os.write(out, b"%d\\n" % os.getpid())
while True: signal.pause()
"""


def _stubborn(group: Group) -> tuple[subprocess.Popen[bytes], list[int]]:
    process = _start(group, STUBBORN)
    assert process.stdout is not None
    return process, [int(process.stdout.readline()) for _ in range(4)]


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait(DEADLINE_MS / 1000)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def test_a_limit_is_read_back_from_the_kernel_as_it_was_written(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    assert run.read_limits()["memory"] is None
    run.limit(memory=64 * MIB, cpu_percent=50, pids=20)
    limits = run.read_limits()
    assert limits.pop("swap", 0) == 0
    assert limits == {"memory": 64 * MIB, "cpu_percent": 50, "pids": 20}


def test_a_limit_can_be_narrowed_and_widened_again(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    for size in (64 * MIB, 32 * MIB, 128 * MIB):
        run.limit(memory=size)
        assert run.read_limits()["memory"] == size


def test_a_run_may_be_given_more_cpu_than_its_session_and_gets_no_more(tree: Tree) -> None:
    session = tree.session("ses-a")
    session.limit(cpu_percent=20)
    run = session.child("run-a")
    run.limit(cpu_percent=80)
    assert session.read_limits()["cpu_percent"] == 20


def test_a_memory_hog_is_killed_at_its_limit_and_counted(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    run.limit(memory=48 * MIB)
    process = _start(run, "b = bytearray(200 << 20); b[::4096] = b'x' * len(b[::4096]); print('survived')")
    out, _ = _finish(process)
    assert process.returncode == -signal.SIGKILL
    assert b"survived" not in out
    counters = run.counters()
    assert counters["memory_oom"] == 1
    assert 16 * MIB < counters["memory_peak"] <= 48 * MIB


def test_a_session_bounds_the_memory_of_its_runs_in_sum(tree: Tree) -> None:
    session = tree.session("ses-a")
    session.limit(memory=48 * MIB)
    run = session.child("run-a")
    run.limit(memory=1024 * MIB)
    process = _start(run, "b = bytearray(200 << 20); b[::4096] = b'x' * len(b[::4096]); print('survived')")
    _finish(process)
    assert process.returncode == -signal.SIGKILL
    assert run.counters()["memory_oom"] == 1


BOMB = """
import os, signal
made = refused = 0
for _ in range(200):
    try:
        if os.fork() == 0:
            while True: signal.pause()
        made += 1
    except BlockingIOError:
        refused += 1
print(made, refused, flush=True)
while True: signal.pause()
"""


def test_a_fork_bomb_is_bounded_counted_and_ends(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    run.limit(pids=16)
    process = _start(run, BOMB)
    assert process.stdout is not None
    made, refused = map(int, process.stdout.readline().split())
    assert (made, refused) == (15, 185)
    counters = run.counters()
    assert counters["pids_refused"] == 185
    assert counters.get("pids_peak", 16) == 16
    _until_empty(run)
    _reap(process)
    assert run.remove()


def test_a_bomb_that_forks_while_it_is_killed_ends_too(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    run.limit(pids=60)
    program = "import os\nprint('go', flush=True)\nwhile True:\n  try: os.fork()\n  except OSError: pass\n"
    process = _start(run, program)
    assert process.stdout is not None
    process.stdout.readline()
    _until_empty(run)
    _reap(process)
    assert run.remove()


def test_a_cpu_quota_throttles(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    run.limit(cpu_percent=10)
    # CPU time, not wall time: at 10 % a tenth of a second cannot pass without many periods running dry.
    process = _start(run, "import time\nwhile time.process_time() < 0.1: pass")
    _finish(process)
    [stat] = [p for p in (Path(d) / "cpu.stat" for d in run._dirs.values()) if p.exists() and "nr_thr" in p.read_text()]
    throttled = dict(line.split() for line in stat.read_text().splitlines())
    assert int(throttled["nr_throttled"]) > 0
    counters = run.counters()
    assert counters["cpu_us"] >= 100_000
    assert counters["cpu_user_us"] + counters["cpu_system_us"] > 0


def test_a_stubborn_tree_dies_whole_and_the_group_says_empty(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    assert not run.populated()
    process, pids = _stubborn(run)
    pidfds = _pidfds(pids)
    assert run.populated()
    assert not run.remove()
    _until_empty(run)
    assert _all_end(pidfds, lambda: None)
    _reap(process)
    assert run.remove()
    assert run.remove()
    assert not run.populated()
    run.kill()


def test_frozen_tasks_die(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    process, pids = _stubborn(run)
    pidfds = _pidfds(pids)
    run.freeze(True)
    assert _all_end(pidfds, run.kill)
    _reap(process)
    _until_empty(run)
    assert run.remove()


def test_a_signal_reaches_every_process_inside_and_none_outside(tree: Tree) -> None:
    session = tree.session("ses-a")
    run, other = session.child("run-a"), session.child("run-b")
    process, pids = _stubborn(run)
    spared, _ = _stubborn(other)
    assert set(pids) <= set(run.pids())
    pidfds = _pidfds(pids)
    run.signal(signal.SIGTERM)
    run.signal(signal.SIGUSR1)
    assert _all_end(pidfds, lambda: None)
    assert process.wait(DEADLINE_MS / 1000) == -signal.SIGUSR1
    assert spared.poll() is None
    for group in (run, other):
        _until_empty(group)
    _reap(process)
    _reap(spared)


def test_killing_a_session_kills_its_runs_and_no_other_session(tree: Tree) -> None:
    session, other = tree.session("ses-a"), tree.session("ses-b")
    process, pids = _stubborn(session.child("run-a"))
    spared, _ = _stubborn(other.child("run-b"))
    pidfds = _pidfds(pids)
    assert _all_end(pidfds, session.kill)
    _until_empty(session)
    assert spared.poll() is None
    assert other.populated()
    _until_empty(other)
    _reap(process)
    _reap(spared)


def test_a_change_wakes_a_poller_where_there_is_a_descriptor_for_it(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    if tree.kind == "v1":
        assert run.events_fd is None
        return
    assert run.events_fd is not None
    poll = select.epoll()
    with poll:
        poll.register(run.events_fd, select.EPOLLPRI)
        process = _start(run, "input()")
        assert poll.poll(DEADLINE_MS / 1000)
        assert run.populated()
        run.kill()
        assert poll.poll(DEADLINE_MS / 1000)
        while run.populated():
            poll.poll(DEADLINE_MS / 1000)
    _reap(process)


def test_a_sweep_removes_what_a_killed_predecessor_left_with_living_processes(tree: Tree) -> None:
    session = tree.session("ses-a")
    run = session.child("run-a")
    process, pids = _stubborn(run)
    frozen = session.child("run-b")
    second, more = _stubborn(frozen)
    frozen.freeze(True)
    run.close()
    session.close()
    name = os.path.basename(tree.bases()[0])
    successor = cgroup.detect(name, allow=frozenset((tree.kind,)))
    successor.prepare()
    pidfds = _pidfds(pids + more)
    successor.sweep()
    assert _all_end(pidfds, lambda: None)
    _reap(process)
    _reap(second)
    assert not [d for d in _names() if name in d and "ses-a" in d]
    assert successor.session("ses-a").remove()


def test_a_sweep_leaves_other_instances_alone(tree: Tree) -> None:
    other = cgroup.detect(os.path.basename(tree.bases()[0]) + "x", allow=frozenset((tree.kind,)))
    other.prepare()
    run = other.session("ses-a").child("run-a")
    process, _ = _stubborn(run)
    tree.sweep()
    assert run.populated()
    assert process.poll() is None
    other.sweep()
    assert other.remove()
    _reap(process)


def test_a_process_that_joined_some_hierarchies_only_is_swept_too(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    first = run.join_fds()[0]
    process = subprocess.Popen(["sleep", "1000"], preexec_fn=lambda: os.write(first, b"0") and None)
    tree.sweep()
    assert process.wait(DEADLINE_MS / 1000) == -signal.SIGKILL
    run.close()


def test_the_paths_of_a_member_lie_below_the_bases(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    process = _start(run, "input()")
    paths = [line.split(":", 2)[2] for line in Path(f"/proc/{process.pid}/cgroup").read_text().splitlines()]
    below = [p for p in paths if any(p.startswith(base + "/ses-a/run-a") for base in tree.bases())]
    own = [line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    assert len(below) == len(run._dirs)
    assert not [p for p in own if any(p.startswith(base) for base in tree.bases())]
    _until_empty(run)
    _reap(process)


def test_no_descriptor_outlives_a_removed_group(tree: Tree) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    session = tree.session("ses-a")
    run = session.child("run-a")
    run.limit(memory=64 * MIB, pids=8)
    run.join_fds()
    _ = run.clone_fd, run.events_fd
    run.counters()
    assert not session.remove()
    assert run.remove()
    assert session.remove()
    assert run.clone_fd is None
    with pytest.raises(OSError, match="removed"):
        run.join_fds()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_name_that_is_taken_or_no_name_makes_nothing(tree: Tree) -> None:
    session = tree.session("ses-a")
    before = _names()
    for name in ("ses-a", "", "..", "a/b", "supervisor"):
        with pytest.raises(OSError, match=r"not a name|File exists"):
            tree.session(name)
    assert _names() == before
    assert session.remove()


def test_a_limit_without_its_controller_is_refused(tree: Tree) -> None:
    run = tree.session("ses-a").child("run-a")
    for h in run._dirs:
        h.carries = tuple(c for c in h.carries if c != "cpu")
    with pytest.raises(OSError, match="no cpu controller"):
        run.limit(cpu_percent=50)


def test_every_layer_that_this_host_has_is_named(tree: Tree) -> None:
    layers = tree.layers()
    assert layers["memory"]
    assert layers["pids"]
    assert layers["cpu"]
    assert layers["freeze"]
    assert layers["events"] == (tree.kind != "v1")
