"""Other people's sources for the tests of real work: fetched once into .cache/realwork, then unpacked from there."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "realwork"
CLICK = "click-8.1.8.tar.gz"
CLICK_SHA256 = "ed53c9d8990d83c2a27deae68e4ee337473f6330c040a31d4225c9574d16096a"
APT = "/etc/apt"


@contextmanager
def _fetching() -> Iterator[Path]:
    """A scratch directory on the cache's file system; one process at a time fetches."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            yield Path(scratch)


def _do(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=120)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"


def click_sdist() -> Path:
    """The source distribution of click, by its hash, from where pip is configured to look."""
    kept = CACHE / CLICK
    with _fetching() as scratch:
        if not kept.exists():
            name, version = CLICK.removesuffix(".tar.gz").split("-")
            _do(os.path.realpath(sys.executable), "-m", "venv", "pip", cwd=scratch)  # this environment may lack pip
            pip = [f"{scratch}/pip/bin/python", "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
            _do(*pip, "--quiet", "--no-deps", "--no-binary", name, f"{name}=={version}", cwd=scratch)
            assert hashlib.sha256((scratch / CLICK).read_bytes()).hexdigest() == CLICK_SHA256
            (scratch / CLICK).rename(kept)
    return kept


def distribution_source(package: str) -> Path:
    """The upstream archive of a Debian or Ubuntu source package, of the release that this host runs.

    apt-get is given its own lists, so that the host's configuration stays as it is; signatures are checked as ever.
    """
    with _fetching() as scratch:
        kept = sorted(CACHE.glob(f"{package}_*.orig.tar.*"))
        if not kept:
            for directory in ("sources", "lists/partial", "cache/archives/partial", "download"):
                (scratch / directory).mkdir(parents=True)
            _source_lists(scratch / "sources")
            options = {
                "Dir::Etc::SourceList": "/dev/null",
                "Dir::Etc::SourceParts": f"{scratch}/sources",
                "Dir::State::Lists": f"{scratch}/lists",
                "Dir::Cache": f"{scratch}/cache",
                "APT::Sandbox::User": "root",  # the scratch directory lies where only root may be able to go
            }
            apt = ["apt-get", "-qq", *(f"-o{k}={v}" for k, v in options.items())]
            _do(*apt, "update", cwd=scratch)
            _do(*apt, "source", "--download-only", package, cwd=scratch / "download")
            for archive in (scratch / "download").glob("*.orig.tar.*"):
                if not archive.name.endswith(".asc"):
                    archive.rename(CACHE / archive.name)
            kept = sorted(CACHE.glob(f"{package}_*.orig.tar.*"))
    return kept[0]


def _source_lists(into: Path) -> None:
    """The distribution's own sources with deb-src for deb. Those of third parties need not have any."""
    own = [Path(APT, "sources.list"), *(Path(APT, "sources.list.d", f"{n}.sources") for n in ("debian", "ubuntu"))]
    for file in filter(Path.exists, own):
        lines = file.read_text().splitlines()
        kept = ["Types: deb-src" if line.startswith("Types:") else line for line in lines]
        if file.suffix == ".list":
            kept = [f"deb-src {line.split(maxsplit=1)[1]}" for line in lines if line.startswith("deb ")]
        (into / file.name).write_text("\n".join(kept) + "\n")


def unpack(archive: Path, into: Path) -> None:
    """Its contents without the top directory."""
    with tarfile.open(archive) as tar:
        top = tar.getnames()[0].split("/")[0]
        with tempfile.TemporaryDirectory(dir=into) as scratch:
            filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since 3.11.4 and 3.12
            tar.extractall(scratch, **filters)  # type: ignore[arg-type]  # noqa: S202 - a distribution's own sources
            for entry in Path(scratch, top).iterdir():
                entry.rename(into / entry.name)


def copy_pytest(into: Path) -> None:
    """pytest and what it imports, out of this environment: pure Python, so any interpreter of its version runs it."""
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        for file in importlib.metadata.distribution(name).files or ():
            source = Path(str(file.locate()))
            if ".." not in file.parts and "__pycache__" not in file.parts and source.exists():
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, into / file)
