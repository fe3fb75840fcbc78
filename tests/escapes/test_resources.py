"""Whatever a run takes too much of ends that run, with its cause by name and its counters; the host does not notice."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Daemon

pytestmark = pytest.mark.root

MIB = 1 << 20
PYTHON = "/usr/bin/python3"


class Ground:
    """Runs attacks whose processes can be told from all others, and looks for survivors afterwards."""

    def __init__(self, daemon: Daemon, workspace: Path) -> None:
        self.daemon = daemon
        self.workspace = workspace
        self.token = f"attack-{uuid.uuid4().hex}"

    def sh(self, script: str, **more: Any) -> dict[str, Any]:
        return self.daemon.run(self.workspace, "/bin/sh", "-c", script, self.token, **self._bounded(more))

    def python(self, program: str, **more: Any) -> dict[str, Any]:
        return self.daemon.run(self.workspace, PYTHON, "-c", program, self.token, **self._bounded(more))

    def _bounded(self, more: dict[str, Any]) -> dict[str, Any]:
        limits = {"timeout": "40s", **more.pop("limits", {})}
        return {**more, "limits": limits, "env": {"TOKEN": self.token}}

    def survivors(self) -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self.token.encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def used(self) -> int:
        """Bytes of the workspace."""
        return sum(p.lstat().st_blocks * 512 for p in self.workspace.rglob("*"))


@pytest.fixture
def ground_zero(daemon: Daemon, workspace: Path) -> Iterator[Ground]:
    """After each attack: nothing of it lives, the service is the same processes as before, and serves."""
    ground = Ground(daemon, workspace)
    daemon.run(workspace, "true")
    before = (daemon.pid, daemon.children())
    yield ground
    assert ground.survivors() == []
    assert (daemon.pid, daemon.children()) == before
    assert daemon.run(workspace, "echo", "fine")["stdout"] == "fine\n"


def test_more_processes_than_the_limit_end_as_processes(ground_zero: Ground) -> None:
    run = ground_zero.sh("while :; do sleep 1000 & done", limits={"processes": 48})
    assert run["cause"] == "processes"
    assert run["usage"]["pids_refused"] > 0
    assert run["usage"].get("pids_peak", 48) <= 48
    assert run["usage"]["killed"] >= 40


BOMBS = {
    "shell": "bomb() { bomb | bomb; }; bomb",  # burns itself out when it can fork no more
    "python": f"exec {PYTHON} -c 'import os\nwhile True:\n  try: os.fork()\n  except OSError: pass'",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_fork_bomb_stays_within_its_limit_and_ends(ground_zero: Ground, kind: str) -> None:
    run = ground_zero.sh(BOMBS[kind], limits={"processes": 48, "timeout": "2s"})
    assert run["cause"] in {"shell": ("exited", "processes", "timeout"), "python": ("timeout",)}[kind]
    assert run["usage"]["pids_refused"] > 0
    assert run["usage"].get("pids_peak", 48) <= 48


def test_a_bomb_of_threads_is_bounded_too(ground_zero: Ground) -> None:
    program = "import threading\ne = threading.Event()\nfor _ in range(500): threading.Thread(target=e.wait).start()"
    run = ground_zero.python(program, limits={"processes": 48, "timeout": "3s"})
    assert run["usage"]["pids_refused"] > 0
    assert run["usage"].get("pids_peak", 48) <= 48
    assert run["cause"] in ("processes", "timeout")  # the threads that were made wait on


FILL = {
    "anonymous": "b = bytearray(256 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1",
    "tmpfs": "f = open('/tmp/fill', 'wb')\nfor _ in range(200): f.write(b'x' * (1 << 20))",
    "shared": "f = open('/dev/shm/fill', 'wb')\nfor _ in range(200): f.write(b'x' * (1 << 20))",
    "memfd": "import os\nfd = os.memfd_create('fill')\nfor _ in range(256): os.write(fd, b'x' * (1 << 20))",
    "mapping": "import mmap\nm = mmap.mmap(-1, 256 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1",
}


@pytest.mark.parametrize("kind", FILL)
def test_memory_of_every_kind_ends_as_memory(ground_zero: Ground, kind: str) -> None:
    run = ground_zero.python(FILL[kind] + "\nprint('survived')", limits={"memory": "64M"})
    assert (run["cause"], run["signal"]) == ("memory", 9)
    assert "survived" not in run["stdout"]
    assert run["usage"]["memory_oom"] >= 1
    assert run["usage"].get("memory_peak", 64 * MIB) <= 64 * MIB


def test_memory_shared_among_many_processes_counts_once_for_all(ground_zero: Ground) -> None:
    program = (
        "import os, signal\n"
        "for _ in range(8):\n"
        "  if os.fork() == 0:\n"
        "    b = bytearray(24 << 20)\n"
        "    for i in range(0, len(b), 4096): b[i] = 1\n"
        "    while True: signal.pause()\n"
        "while True: signal.pause()"
    )
    run = ground_zero.python(program, limits={"memory": "96M", "timeout": "4s"})
    assert run["usage"]["memory_oom"] >= 1
    assert run["usage"].get("memory_peak", 96 * MIB) <= 96 * MIB


def test_page_cache_is_bounded_and_harms_nobody(ground_zero: Ground) -> None:
    script = "dd if=/dev/zero of=big bs=1M count=160 2>/dev/null && cat big > /dev/null"
    run = ground_zero.sh(script, limits={"memory": "48M"})
    assert (run["cause"], run["exit_code"]) == ("exited", 0)
    assert run["usage"].get("memory_peak", 48 * MIB) <= 48 * MIB


def test_one_file_over_the_disk_limit_ends_as_disk(ground_zero: Ground) -> None:
    run = ground_zero.python("f = open('big', 'wb')\nwhile True: f.write(b'x' * (1 << 20))", limits={"disk": "8M"})
    # Python ignores SIGXFSZ and gets EFBIG: the file is bounded all the same.
    assert run["exit_code"] == 1
    assert "File too large" in run["stderr"]
    assert ground_zero.used() <= 9 * MIB
    run = ground_zero.sh("exec dd if=/dev/zero of=big2 bs=1M", limits={"disk": "8M"})
    assert (run["cause"], run["signal"]) == ("disk", 25)
    assert ground_zero.used() <= 18 * MIB


def test_many_files_over_the_disk_limit_end_as_disk(ground_zero: Ground) -> None:
    program = (
        "import os\n"
        "for n in range(300):\n"
        "  with open(f'f{n}', 'wb') as f: f.write(b'x' * (1 << 20)); f.flush(); os.fsync(f.fileno())\n"
        "while True: pass"
    )
    run = ground_zero.python(program, limits={"disk": "24M"})
    assert run["cause"] == "disk"


def test_files_without_content_over_the_limit_end_as_disk(ground_zero: Ground) -> None:
    program = "n = 0\nwhile n < 200000:\n  open(f'f{n}', 'w').close()\n  n += 1\nwhile True: pass"
    run = ground_zero.python(program, limits={"disk": "4M"})
    assert run["cause"] == "disk"


def test_what_is_deleted_does_not_count(ground_zero: Ground) -> None:
    """A build that writes and removes more than the limit is no attack."""
    script = "for n in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of=part bs=1M count=6 2>/dev/null; sync part; rm part; done"
    run = ground_zero.sh(script, limits={"disk": "24M"})
    assert (run["cause"], run["exit_code"]) == ("exited", 0)


def test_tmp_is_bounded_in_bytes_and_files(ground_zero: Ground) -> None:
    script = (
        "dd if=/dev/zero of=/tmp/a bs=1M 2>/dev/null; dd if=/dev/zero of=/dev/shm/b bs=1M 2>/dev/null;"
        " dd if=/dev/zero of=$HOME/c bs=1M 2>/dev/null; du -cm /tmp /dev/shm $HOME | tail -n 1 | cut -f 1"
    )
    run = ground_zero.sh(script, limits={"memory": "1G"})
    tmp = run["limits"]["tmp"] // MIB
    assert tmp - 8 <= int(run["stdout"]) <= tmp
    program = (
        "n = 0\n"
        "try:\n"
        "  while n < 200000:\n"
        "    open(f'/tmp/{n}', 'w').close()\n"
        "    n += 1\n"
        "except OSError as e: print(n, e.errno)"
    )
    made, number = map(int, ground_zero.python(program)["stdout"].split())
    assert number == 28
    assert made <= run["limits"]["tmp"] // 4096


def test_descriptors_are_bounded_for_each_process(ground_zero: Ground) -> None:
    program = (
        "import os, socket\n"
        "held = []\n"
        "try:\n"
        "  while True: held.append(os.open('/dev/null', os.O_RDONLY))\n"
        "except OSError as e: print(max(held), e.errno)\n"
        "try: socket.socketpair()\n"
        "except OSError as e: print(e.errno)"
    )
    assert ground_zero.python(program, limits={"files": 64})["stdout"].split() == ["63", "24", "24"]


def test_descriptors_in_flight_are_no_way_around_the_limit(ground_zero: Ground) -> None:
    """Descriptors in a socket's queue are in no process, and count against the user (unix(7), ETOOMANYREFS)."""
    program = (
        "import array, os, socket\n"
        "fd = os.open('/dev/null', os.O_RDONLY)\n"
        "sent = 0\n"
        "pairs = []\n"
        "try:\n"
        "  for _ in range(20):\n"
        "    a, b = socket.socketpair()\n"
        "    a.setblocking(False)\n"
        "    pairs.append((a, b))\n"
        "    try:\n"
        "      while True:\n"
        "        socket.send_fds(a, [b'x'], [fd] * 250)\n"
        "        sent += 250\n"
        "    except BlockingIOError: pass\n"
        "except OSError as e: print('stopped', e.errno)\n"
        "print(sent)"
    )
    out = ground_zero.python(program, limits={"files": 64})["stdout"].split()
    assert int(out[-1]) <= 1000


def test_spinning_is_held_to_its_share_and_ends_as_timeout(ground_zero: Ground) -> None:
    script = "for n in 1 2 3; do while :; do :; done & done; while :; do :; done"
    run = ground_zero.sh(script, limits={"cpu": "20%", "timeout": "2s"})
    assert run["cause"] == "timeout"
    # The quota is a count of CPU time in each period, so this holds however busy the machine is.
    assert run["usage"]["cpu_ms"] <= run["usage"]["wall_ms"] * 0.5


def test_a_flood_ends_as_output_and_leaves_the_service_as_small_as_it_was(ground_zero: Ground) -> None:
    def resident() -> int:
        status = Path(f"/proc/{ground_zero.daemon.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    ground_zero.sh("head -c 4M /dev/zero")
    before = resident()
    run = ground_zero.sh("head -c 1G /dev/zero; echo survived >&2")
    assert run["cause"] == "output"
    assert "survived" not in run["stderr"]
    limit = run["limits"]["output"]
    assert run["output"]["stdout_kept"] <= limit
    assert run["output"]["truncated"]
    assert resident() - before < 48 * 1024


def test_both_streams_count_against_one_output_limit(ground_zero: Ground) -> None:
    run = ground_zero.sh("head -c 700K /dev/zero; head -c 700K /dev/zero >&2; sleep 1000", limits={"output": "1M"})
    assert run["cause"] == "output"
    assert run["output"]["stdout_kept"] + run["output"]["stderr_kept"] <= MIB


def test_silence_ends_as_idle_timeout(ground_zero: Ground) -> None:
    assert ground_zero.sh("echo word; sleep 1000", limits={"idle_timeout": "1s"})["cause"] == "idle_timeout"


STUBBORN = "trap '' TERM INT HUP QUIT USR1 USR2; while :; do sleep 1000; done"


def test_a_run_that_ignores_every_signal_ends_at_its_deadline(ground_zero: Ground) -> None:
    run = ground_zero.sh(STUBBORN, limits={"timeout": "1s"})
    assert run["cause"] == "timeout"


def test_what_double_forks_into_a_session_of_its_own_does_not_outlive_its_run(ground_zero: Ground) -> None:
    script = f"""
    ( ( setsid sh -c "{STUBBORN}" </dev/null >/dev/null 2>&1 & ) & )
    setsid sh -c "{STUBBORN}" </dev/null >/dev/null 2>&1 &
    nohup sh -c "{STUBBORN}" </dev/null >/dev/null 2>&1 &
    sleep 0.2; echo done
    """
    run = ground_zero.sh(script)
    assert (run["cause"], run["exit_code"], run["stdout"]) == ("exited", 0, "done\n")
    assert run["usage"]["killed"] >= 3


def test_a_stopped_tree_does_not_outlive_its_run(ground_zero: Ground) -> None:
    run = ground_zero.sh("sleep 1000 & kill -STOP $!; kill -STOP $$", limits={"timeout": "1s"})
    assert run["cause"] == "timeout"


def test_one_that_holds_the_output_open_does_not_keep_the_answer(ground_zero: Ground) -> None:
    run = ground_zero.sh("setsid sleep 1000 & echo done")
    assert (run["cause"], run["stdout"]) == ("exited", "done\n")


def test_thousands_of_zombies_are_reaped_or_refused(ground_zero: Ground) -> None:
    """Orphans go to the session's leader, which takes them at once; children whom nobody waits for are processes."""
    # The leader takes orphans as fast as it is scheduled, so a refused fork is tried again: were they never taken, the
    # program would not get to its end.
    program = (
        "import os\n"
        "made = kept = pid = 0\n"
        "while made < 3000:\n"
        "  try:\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os.fork(); os._exit(0)\n"
        "    made += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "  except OSError:\n"
        "    if pid == 0: os._exit(1)\n"
        "    os.sched_yield()\n"
        "while True:\n"
        "  try:\n"
        "    if os.fork() == 0: os._exit(0)\n"
        "    kept += 1\n"
        "  except OSError:\n"
        "    if kept >= 90: break\n"
        "    os.sched_yield()\n"
        "print(kept)"
    )
    run = ground_zero.python(program, limits={"processes": 100})
    assert run["exit_code"] == 0, run["stderr"]
    assert 90 <= int(run["stdout"]) <= 100
    uid = run["receipt"]["uid"]
    launcher = ground_zero.daemon.children()["launcher"]
    assert not [p for p in Path("/proc").glob("[0-9]*") if _zombie_of(p, uid, launcher)]


def _zombie_of(path: Path, uid: int, launcher: int) -> bool:
    """But for the launcher's own: children that waited for a run end with the session, and are taken in a moment."""
    try:
        fields = dict(line.split(":\t", 1) for line in (path / "status").read_text().splitlines() if ":\t" in line)
    except OSError:
        return False
    own = int(fields["PPid"]) == launcher
    return fields["State"].startswith("Z") and fields["Uid"].split()[0] == str(uid) and not own
