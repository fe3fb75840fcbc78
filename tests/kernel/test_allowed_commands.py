"""allowed_commands against everything that starts programs: by the kernel, whatever the command is dressed as."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kernel.attack_commands import loader
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

[profiles.single]
read = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
write = ["$WORKSPACE"]
execute = ["/usr/bin/id", "/usr/bin/sort", "/usr/lib", "/usr/lib64", "/lib", "/lib64"]
required = ["landlock", "seccomp", "namespaces"]
shell = "/usr/bin/id"
allowed_commands = ["sort"]
limits = { memory = "512M", cpu = "200%", processes = 128, files = 256, output = "8M", disk = "64M", timeout = "60s" }

[profiles.shared]
read = ["/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache"]
write = ["$WORKSPACE", "SHARED"]
execute = ["/usr", "/bin", "/lib", "/lib64", "SHARED"]
required = ["landlock", "seccomp", "namespaces"]
allowed_commands = ["cp", "sort"]
limits = { memory = "512M", cpu = "200%", processes = 128, files = 256, output = "8M", disk = "64M", timeout = "60s" }

[[callers]]
user = "AGENT"
role = "operator"
workspaces = ["GROUND/*"]
profiles = ["shell", "few", "single", "shared"]
"""
CALLER = 2
COPIES = ("copied", "programs/copied")
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
def shared() -> Iterator[Path]:
    """A directory of the host that sessions may write: a library lies there, and below it are programs alone."""
    made = Path(tempfile.mkdtemp(prefix="stk-", dir="/srv"))
    (made / "libx.so").touch()
    (made / "programs").mkdir()
    shutil.copy("/usr/bin/id", made / "programs" / "id")
    for path in (made, made / "programs"):
        path.chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def launcher(ground: Path, agent: Agent, tools: Path, shared: Path) -> Iterator[Launcher]:
    more = MORE.replace("SHARED", str(shared))
    for word, value in {"TOOLS": str(tools), "GROUND": str(ground), "AGENT": agent.name, "COMMANDS": GRANTED}.items():
        more = more.replace(word, value)
    made = Launcher(ground, agent, more=more)
    policy = Path(made.layout.policy)
    own = '"$WORKSPACE", "/tmp", "/home/agent"'
    execute = f'"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "{shared}"'
    ceiling = f'\n[ceiling]\nwrite = [{own}, "{shared}"]\nexecute = [{execute}, {own}]\n#'
    policy.write_text(policy.read_text().replace("\n[ceiling]", ceiling, 1))
    with made:
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


def test_a_file_that_policy_names_to_be_executed_is_no_program_unless_it_is_allowed(
    launcher: Launcher, workspace: Path
) -> None:
    assert {probe: seen for probe, (ok, seen) in launcher.proofs("single").items() if not ok} == {}
    with opened(launcher, workspace, launcher.snapshot.digest(), profile="single", caller=CALLER) as session:
        assert run(launcher, session.session, workspace, "/usr/bin/sort", "--version").ended.exit_code == 0
        assert run(launcher, session.session, workspace, loader(), "/usr/bin/sort", "--version").ended.exit_code == 0
        said = run(launcher, session.session, workspace, loader(), "/usr/bin/id")
    assert (said.ended.exit_code, said.out) == (127, ""), said
    assert "failed to map segment" in said.err


def test_what_a_wider_session_wrote_is_no_program_in_one_that_only_reads(
    launcher: Launcher, workspace: Path, shared: Path
) -> None:
    digest = launcher.snapshot.digest()
    with opened(launcher, workspace, digest, profile="shared", caller=CALLER) as session:
        for name in COPIES:
            copied = run(launcher, session.session, workspace, "/usr/bin/cp", "/usr/bin/id", f"{shared}/{name}")
            assert copied.ended.exit_code == 0, copied
        said = {name: run(launcher, session.session, workspace, loader(), f"{shared}/{name}") for name in COPIES}
    with opened(launcher, workspace, digest, profile="shared", caller=CALLER, readonly=True) as session:
        assert run(launcher, session.session, workspace, "/usr/bin/sort", f"{shared}/copied").ended.exit_code == 0
        said |= {f"{n}, reading": run(launcher, session.session, workspace, loader(), f"{shared}/{n}") for n in COPIES}
    for name in COPIES:  # the next look at the host would cover these too: another policy
        (shared / name).unlink()
    assert {name: (one.ended.exit_code, one.out) for name, one in said.items()} == dict.fromkeys(said, (127, ""))


def test_a_shell_that_is_not_named_is_no_program_either(
    launcher: Launcher, few: w.SessionOpened, workspace: Path
) -> None:
    said: Said = run(launcher, few.session, workspace, "/bin/sh", "-c", "true")
    assert said.ended.cause == "not_started"
    assert "Permission denied" in said.ended.detail
    assert "allowed_commands of profile few" in said.ended.detail
    assert "git, python3, sort" in said.ended.detail
