"""Real work inside gives the same result as outside: status, both streams byte for byte, and every file left behind.

Each job runs twice in the same directory, first as the agent itself and then as the agent's run under the default
profile. What depends on the clock or on inode numbers is kept out of the comparison by the job itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.system import sources

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Agent, Daemon

pytestmark = pytest.mark.root

# Like the tests themselves this is a system Python, or a virtual environment on one.
PYTHON = os.path.realpath(sys.executable)
PAGE = 4 << 20
JOBS = Path(__file__).resolve().parent / "jobs"


@dataclass(frozen=True)
class Result:
    status: int | None
    stdout: bytes
    stderr: bytes
    tree: dict[str, tuple[Any, ...]]


class Bench:
    """A workspace in which a job is done outside and then inside."""

    def __init__(self, daemon: Daemon, agent: Agent, workspace: Path, home: Path) -> None:
        self.daemon, self.agent, self.workspace, self.home = daemon, agent, workspace, home

    def both(
        self, script: str, prepare: Callable[[Path], None] = lambda _: None, *, apart: tuple[str, ...] = (), **env: str
    ) -> Result:
        """Do it twice and compare; the result. `apart`: names whose contents differ from one time to the next."""
        results = []
        for do in (self._outside, self._inside):
            self._fresh(prepare)
            status, stdout, stderr = do(script, env)
            results.append(Result(status, stdout, stderr, tree(self.workspace, apart)))
        outside, inside = results
        assert outside.status == 0, f"the job fails without Stockade too: {outside.stdout!r} {outside.stderr!r}"
        assert (inside.status, inside.stdout, inside.stderr) == (outside.status, outside.stdout, outside.stderr)
        assert inside.tree == outside.tree
        return inside

    def _fresh(self, prepare: Callable[[Path], None]) -> None:
        for entry in self.workspace.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        prepare(self.workspace)
        subprocess.run(["chown", "-R", "-h", f"{self.agent.uid}:{self.agent.gid}", self.workspace], check=True)

    def _outside(self, script: str, env: dict[str, str]) -> tuple[int, bytes, bytes]:
        base = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        done = subprocess.run(
            ["/bin/sh", "-c", script],
            cwd=self.workspace,
            env={**base, "HOME": str(self.home), "USER": "agent", "LOGNAME": "agent", "TMPDIR": str(self.home), **env},
            preexec_fn=self._become_the_agent,
            umask=0o022,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=110,
        )
        return done.returncode, done.stdout, done.stderr

    def _become_the_agent(self) -> None:
        for fd in (1, 2):  # as if its own shell had made the pipes: so it may open /dev/stdout
            os.fchown(fd, self.agent.uid, self.agent.gid)
        os.setgroups(self.agent.groups)
        os.setgid(self.agent.gid)
        os.setuid(self.agent.uid)

    def _inside(self, script: str, env: dict[str, str]) -> tuple[int | None, bytes, bytes]:
        run = self.daemon.run(self.workspace, script=script, env=env)
        assert run["cause"] == "exited", run
        assert run["profile"] == "shell"
        return run["exit_code"], self.output(run["id"], "stdout"), self.output(run["id"], "stderr")

    def output(self, run: str, stream: str) -> bytes:
        """Everything that a run wrote, page by page."""
        data = b""
        while True:
            page = self.daemon.request("GET", f"/v1/runs/{run}/output?stream={stream}&offset={len(data)}&length={PAGE}")
            assert page.status == 200, page.body
            data += page.body
            if len(data) == int(page.headers["X-Output-Total"]):
                return data


def tree(top: Path, apart: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    """What is below a directory: type, mode, owner, and contents by hash, or where a link leads."""
    found: dict[str, tuple[Any, ...]] = {}
    for directory, names, files in os.walk(top):
        names[:] = [n for n in names if n not in apart]
        for name in [*names, *files]:
            if name in apart:
                continue
            path = os.path.join(directory, name)
            seen = os.lstat(path)
            what = ""
            if stat.S_ISLNK(seen.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(seen.st_mode):
                with open(path, "rb") as file:
                    what = hashlib.file_digest(file, "sha256").hexdigest()
            found[os.path.relpath(path, top)] = (stat.filemode(seen.st_mode), seen.st_uid, seen.st_gid, what)
    return found


@pytest.fixture
def bench(daemon: Daemon, agent: Agent, workspace: Path, ground: Path) -> Iterator[Bench]:
    home = ground / f"home-{os.getpid()}"
    home.mkdir()
    os.chown(home, agent.uid, agent.gid)
    yield Bench(daemon, agent, workspace, home)
    shutil.rmtree(home)


# --- whole projects ---------------------------------------------------------------------------------------------

OUTCOMES = """
def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        with open("outcomes", "a") as file:
            print(report.nodeid, report.when, report.outcome, file=file)
"""


@pytest.mark.slow
def test_the_test_suite_of_a_python_package_has_the_same_outcomes(bench: Bench) -> None:
    """click from its source distribution, each of its tests by name."""
    archive = sources.click_sdist()

    def prepare(top: Path) -> None:
        sources.unpack(archive, top)
        (top / "lib").mkdir()
        sources.copy_pytest(top / "lib")
        (top / "lib" / "outcomes.py").write_text(OUTCOMES)

    # click's own settings make warnings errors, and pytest warns of more than it did when click was released.
    script = f"""
        {PYTHON} -m pytest -q -p outcomes -p no:cacheprovider -W ignore::pytest.PytestWarning tests > log 2>&1 && exit
        cat log
        exit 1
    """
    environment = {"PYTHONPATH": "src:lib", "PYTHONDONTWRITEBYTECODE": "1"}
    bench.both(script, prepare, apart=("log",), **environment)
    outcomes = (bench.workspace / "outcomes").read_text().splitlines()
    assert sum(line.endswith(" call passed") for line in outcomes) > 500


@pytest.mark.slow
def test_a_c_library_is_configured_compiled_and_passes_its_own_tests(bench: Bench) -> None:
    """zlib from the distribution's source package: a configure script, static and shared, its own tests."""
    archive = sources.distribution_source("zlib")
    script = """
        ./configure > configured 2>&1 && make -j2 > made 2>&1 && make test > tested 2>&1 && grep OK tested && exit
        tail -n 30 configured made tested
        exit 1
    """
    logs = ("configured", "made", "tested", "configure.log")
    found = bench.both(script, lambda top: sources.unpack(archive, top), apart=logs)
    assert found.stdout.count(b"test OK") >= 2
    assert "libz.a" in found.tree


@pytest.mark.slow
def test_a_c_program_is_compiled_with_two_jobs_and_runs(bench: Bench) -> None:
    """Lua from the distribution's source package: the interpreter and its compiler, byte for byte, and what it says."""
    archive = sources.distribution_source("lua5.4")

    def prepare(top: Path) -> None:
        sources.unpack(archive, top)
        (top / "queens.lua").write_text(LUA)

    script = """
        make -j2 posix > made 2>&1 || { tail -n 30 made; exit 1; }
        src/luac -o queens.luac queens.lua && src/lua queens.lua 7 && src/lua queens.luac 6
    """
    found = bench.both(script, prepare, apart=("made",))
    assert found.stdout == b"7 queens: 40 ways\n6 queens: 4 ways\n"


LUA = """
local size = tonumber(arg[1])
local function place(row, columns, up, down)
  if row > size then return 1 end
  local ways = 0
  for column = 1, size do
    if not (columns[column] or up[row + column] or down[row - column]) then
      columns[column], up[row + column], down[row - column] = true, true, true
      ways = ways + place(row + 1, columns, up, down)
      columns[column], up[row + column], down[row - column] = nil, nil, nil
    end
  end
  return ways
end
print(("%d queens: %d ways"):format(size, place(1, {}, {}, {})))
"""


# --- the tools of every day -------------------------------------------------------------------------------------


def remarks(text: str, name: str) -> tuple[str, ...]:
    """What a job says of itself in lines `# NAME: …`."""
    start = f"# {name}: "
    return tuple(line.removeprefix(start) for line in text.splitlines() if line.startswith(start))


@pytest.mark.parametrize("job", sorted(p.name for p in JOBS.iterdir() if not p.suffix))
def test_a_shell_job_does_the_same(bench: Bench, job: str) -> None:
    """`says` are lines that the job must have written; `apart` what it leaves that differs from time to time."""
    script = (JOBS / job).read_text()
    found = bench.both(script, apart=tuple(" ".join(remarks(script, "apart")).split()))
    expected = remarks(script, "says")
    assert expected
    for line in expected:
        assert line.encode() in found.stdout


def test_a_node_program_does_the_same(bench: Bench) -> None:
    found = bench.both("node job.js", lambda top: copy_job("job.js", top))
    assert b'"doubled":[2,4,6]' in found.stdout
    assert b"over a unix socket" in found.stdout


def test_a_python_program_runs_by_its_first_line(bench: Bench) -> None:
    found = bench.both("./job.py one 'two three'", lambda top: copy_job("job.py", top))
    assert b"[0, 1, 4, 9, 16]" in found.stdout
    assert b"over a unix socket" in found.stdout
    assert found.stdout.endswith(b"alarm\n4\n42\n")


def copy_job(name: str, top: Path) -> None:
    shutil.copy(JOBS / name, top)


def test_more_than_an_answer_holds_is_read_back_byte_for_byte(bench: Bench) -> None:
    program = "import sys; b = bytes(range(256)) * 16000; sys.stdout.buffer.write(b); sys.stderr.buffer.write(b[::-1])"
    found = bench.both(f"{PYTHON} -c '{program}'")
    assert found.stdout == bytes(range(256)) * 16000
    assert found.stderr == found.stdout[::-1]
