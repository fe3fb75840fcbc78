"""The linters, as tests: what is committed is clean, on every machine, by the same command."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = {".py", ".md", ".toml", ".txt", ".sh", ".service", ".socket", ".conf", ".json", ""}

# Hosts that may be named: of documentation, licences and the protocols' own examples; never one to fetch from.
KNOWN_HOSTS = (
    "localhost",
    "stockade",
    "www.apache.org",
    "example.com",
    "example.org",
    "example.invalid",
    "127.0.0.1",
    "169.254.169.254",  # the metadata address of clouds, which attacks name, in all its forms
    "2852039166",
    "metadata.google.internal",
)
HOST = re.compile(r"https?://([A-Za-z0-9.\-_]+)")
# Directories of whoever wrote a file. "/home/agent" is what a sandboxed child sees, the other names are examples, and
# /root/.ssh is what attacks name.
MACHINE_PATH = re.compile(
    r"(?<![\w$}.])/(?:work|root/\.(?!ssh\b)\w+|root/venvs|tmp/b|home/(?!agent\b|user\b|alice\b|bob\b|USER\b|\w\b)\w+)/"
)


def tracked() -> list[Path]:
    """Every file of the project: git's list where there is git, else everything that is not made by a tool."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    if listed.returncode == 0:
        return [p for name in listed.stdout.split("\0") if name and (p := ROOT / name).is_file()]
    made = {".git", ".cache", ".venv", "__pycache__", "build", "dist"}
    return [p for p in ROOT.rglob("*") if p.is_file() and not made & set(p.relative_to(ROOT).parts)]


def scripts() -> list[str]:
    """Every file that a shell reads, by its first line."""
    found = []
    for path in tracked():
        with path.open("rb") as f:
            if re.match(rb"#!.*\b(ba|da)?sh\b|# shellcheck shell=", f.readline(200)):
                found.append(str(path.relative_to(ROOT)))
    return found


def clean(*argv: str) -> None:
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(argv[:4])} …\n{done.stdout}{done.stderr}"


def test_ruff_finds_nothing() -> None:
    clean(sys.executable, "-m", "ruff", "check", "--no-fix", ".")


def test_every_file_is_formatted() -> None:
    clean(sys.executable, "-m", "ruff", "format", "--check", ".")


@pytest.mark.slow
def test_types_hold_under_strict_mypy() -> None:
    clean(sys.executable, "-m", "mypy")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (scripts/test installs it)")
def test_shellcheck_finds_nothing() -> None:
    found = scripts()
    assert "scripts/install" in found
    assert "scripts/lib.sh" in found
    clean("shellcheck", "-x", *found)


def test_no_file_names_a_host_to_fetch_from() -> None:
    """A lock or a script that names a registry ties every user to it; pip's own configuration says from where."""
    named = [
        f"{path.relative_to(ROOT)}:{number}: {host}"
        for path, number, line in lines()
        for host in HOST.findall(line)
        if not host.removesuffix(".").endswith(KNOWN_HOSTS)
    ]
    assert not named, "\n".join(named)


def test_no_file_names_a_directory_of_its_author() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path, number, line in lines()
        if MACHINE_PATH.search(line)
    ]
    assert not named, "\n".join(named)


def test_the_locks_carry_a_hash_for_everything_and_no_address() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text()
        assert "://" not in text, name
        entries = re.split(r"\n(?=\S)", text.strip())
        assert entries
        for entry in entries:
            assert re.match(r"[a-z0-9._-]+==\S+", entry), f"{name}: {entry[:80]}"
            assert "--hash=sha256:" in entry, f"{name}: {entry[:80]}"


def test_the_locks_hold_what_pyproject_asks_for() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, wanted in (
        ("requirements.txt", project["dependencies"] + project["optional-dependencies"]["build"]),
        ("requirements-dev.txt", project["dependencies"] + project["optional-dependencies"]["dev"]),
    ):
        locked = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (ROOT / name).read_text(), re.MULTILINE))
        for requirement in wanted:
            package, _, version = requirement.partition("==")
            package = re.split(r"[\[<>=!~ ]", package)[0].lower()
            assert package in locked, f"{name} lacks {requirement}: run scripts/lock"
            assert not version or locked[package] == version, (
                f"{name} has {package} {locked[package]}: run scripts/lock"
            )


def lines() -> list[tuple[Path, int, str]]:
    return [
        (path, number, line)
        for path in tracked()
        if path.suffix in TEXT and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
    ]
