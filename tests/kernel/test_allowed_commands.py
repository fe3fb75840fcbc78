"""allowed_commands against everything that starts programs: by the kernel, whatever the command is dressed as."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.hostile import Launcher
from tests.kernel.sessions import Said, opened, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.wire import messages as w
    from tests.harness import Agent

pytestmark = pytest.mark.root

ATTACK = Path(__file__).parent / "attack_commands.py"
PYTHON = "/usr/bin/python3"
GRANTED = '["git", "python3", "sort", "uniq", "env", "find", "xargs", "awk", "cat", "ls", "test-script"]'
MORE = """
[profiles.few]
read = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/etc/alternatives", "/etc/ld.so.cache"]
write = ["$WORKSPACE", "/tmp"]
execute = [
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "TOOLS", "$WORKSPACE", "/tmp", "/home/agent",
]
network = "none"
required = ["landlock", "seccomp", "namespaces"]
env = { PATH = "/usr/local/bin:/usr/bin:/bin:TOOLS" }
shell = "/bin/sh"
allowed_commands = COMMANDS
limits = { memory = "512M", cpu = "200%", processes = 128, files = 256, output = "8M", disk = "64M", timeout = "60s" }

[[callers]]
user = "AGENT"
role = "operator"
workspaces = ["GROUND/*"]
profiles = ["shell", "few"]
"""
CALLER = 2
ABSENT = set() if os.path.exists("/usr/bin/busybox") else {"busybox"}
# What no profile permits: a program in memory or in /dev/shm, which is not in `execute`, a link out of the mount.
NEVER = {"memfd", "hard link", "copy in shm", "script in shm", "loader with a copy in shm"}


@pytest.fixture(scope="module")
def tools() -> Iterator[Path]:
    """A directory of programs with a script in it; below /opt, because what is below /tmp each session has anew."""
    made = Path(tempfile.mkdtemp(prefix="stk-", dir="/opt"))
    made.chmod(0o755)
    script = made / "test-script"
    script.write_text("#!/usr/bin/env python3\nimport sys; print('script', sys.argv[1])\n")
    script.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def launcher(ground: Path, agent: Agent, tools: Path) -> Iterator[Launcher]:
    more = MORE
    for word, value in {"TOOLS": str(tools), "GROUND": str(ground), "AGENT": agent.name, "COMMANDS": GRANTED}.items():
        more = more.replace(word, value)
    with Launcher(ground, agent, more=more) as made:
        made.reload()
        yield made


@pytest.fixture
def few(launcher: Launcher, workspace: Path) -> Iterator[w.SessionOpened]:
    with opened(launcher, workspace, launcher.snapshot.digest(), profile="few", caller=CALLER) as session:
        yield session


def attack(launcher: Launcher, session: str, workspace: Path) -> dict[str, str]:
    shutil.copy(ATTACK, workspace / ATTACK.name)
    said = run(launcher, session, workspace, PYTHON, "-B", f"{workspace}/{ATTACK.name}")
    assert (said.ended.cause, said.ended.exit_code, said.err) == ("exited", 0, ""), said
    return {line["attempt"]: line["outcome"] for line in map(json.loads, said.out.splitlines())}


@pytest.mark.parametrize("profile", ["shell", "few"])
def test_the_profile_is_proved_with_and_without_a_list(launcher: Launcher, profile: str) -> None:
    proofs = launcher.proofs(profile)
    assert {probe: seen for probe, (ok, seen) in proofs.items() if not ok} == {}
    assert ("no list" in proofs["allowed_commands"][1]) == (profile == "shell")
    assert "attempts denied" in proofs["readonly"][1]


def test_no_way_leads_to_another_program(launcher: Launcher, few: w.SessionOpened, workspace: Path) -> None:
    found = attack(launcher, few.session, workspace)
    assert {name for name, outcome in found.items() if outcome != "denied"} == set()
    assert len(found) > 40


def test_without_a_list_the_same_ways_lead_there(launcher: Launcher, workspace: Path) -> None:
    with opened(launcher, workspace, launcher.snapshot.digest(), caller=CALLER) as session:
        found = attack(launcher, session.session, workspace)
    assert {name for name, outcome in found.items() if outcome != "succeeded"} == NEVER | ABSENT


PIPE = """
import subprocess
with subprocess.Popen(["sort", "/etc/passwd"], stdout=subprocess.PIPE) as first:
    print(subprocess.run(["uniq"], stdin=first.stdout, stdout=subprocess.PIPE, check=True).stdout.decode())
assert first.returncode == 0
"""
WORKS: dict[str, tuple[str, ...]] = {
    "by name": ("sort", "--version"),
    "by path": ("/usr/bin/sort", "--version"),
    "by the old path": ("/bin/sort", "--version"),
    "by a link": (PYTHON, "-c", "print('fine')"),
    "by the file of a link": ("python3", "-c", "import os; os.execv(os.path.realpath('/bin/python3'), 'p -V'.split())"),
    "extension modules": (PYTHON, "-c", "import ctypes, decimal, ssl, sqlite3, zlib; print(decimal.Decimal(1))"),
    "one allowed starts another": ("env", "sort", "--version"),
    "a pipe": (PYTHON, "-c", PIPE),
    "an alternative": ("awk", "BEGIN { print 1 }"),
    "a script with its interpreter": ("test-script", "says"),
    "git": ("git", "init", "-q", "."),
    "git status": ("git", "status"),
    "git add": ("git", "add", "-A"),
    "git commit": ("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x"),
    "git log": ("git", "log", "--oneline"),
    "git gc": ("git", "gc", "-q"),
}  # fmt: skip


def test_what_is_allowed_works_as_ever(launcher: Launcher, few: w.SessionOpened, workspace: Path) -> None:
    env = dict(next(p for p in launcher.snapshot.profiles if p.name == "few").env) | {"HOME": "/home/agent"}
    for name, argv in WORKS.items():
        said = run(launcher, few.session, workspace, *argv, env=env)
        assert (said.ended.cause, said.ended.exit_code) == ("exited", 0), (name, said)


def test_a_shell_that_is_not_named_is_no_program_either(
    launcher: Launcher, few: w.SessionOpened, workspace: Path
) -> None:
    said: Said = run(launcher, few.session, workspace, "/bin/sh", "-c", "true")
    assert said.ended.cause == "not_started"
    assert "Permission denied" in said.ended.detail
    assert "allowed_commands of profile few" in said.ended.detail
    assert "git, python3, sort" in said.ended.detail
