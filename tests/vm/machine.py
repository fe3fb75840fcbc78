"""A real systemd machine for the tests: Debian 13 under QEMU's emulation, cgroup v2, no compiler, no network.

Three parts, each made once per change of what goes into it:

    base       mmdebstrap -> ext4 image, kernel, initrd; cached under .cache/vm by the digest of `BASE`
    wheels     what requirements.txt locks, for the guest's Python; cached by the digest of that file
    payload    a second, read-only disk: the project as it stands and the wheels; made for every boot

The guest runs tests.vm.guest as a unit of its own and powers off. Its findings come back as JSON lines on the second
serial port; the console is the first. The base image is never written: QEMU keeps the guest's writes to itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUITE = "trixie"
PYTHON = "3.13"  # the guest's; the wheels are chosen for it
PACKAGES = (
    "systemd,systemd-sysv,udev,dbus,linux-image-cloud-amd64,python3,python3-venv,libseccomp2,"
    "iproute2,procps,curl,ca-certificates"
)
FSTAB = """\
/dev/vda / ext4 rw,noatime 0 1
/dev/vdb /payload ext4 ro 0 0
"""
UNIT = """\
[Unit]
Description=The checks of tests/vm/guest
RequiresMountsFor=/payload
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force

[Service]
Type=exec
WorkingDirectory=/payload/project
ExecStart=/usr/bin/python3 -B -m tests.vm.guest
StandardOutput=journal+console
StandardError=journal+console

"""
# The checks begin when an ordinary boot is over, as on a machine that somebody logs in to.
TARGET = """\
[Unit]
Description=Everything, then the checks
Requires=multi-user.target
Wants=stockade-vm.service
After=multi-user.target
AllowIsolate=yes
"""
# `-cpu max` crashes this guest under QEMU 7.2; Haswell-noTSX does not.
QEMU = [
    "qemu-system-x86_64",
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    "Haswell-noTSX",
    "-smp",
    "2",
    "-m",
    "2048",
    "-nic",
    "none",
    "-no-reboot",
    "-display",
    "none",
]
CMDLINE = "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 lsm=landlock,yama,bpf,integrity"
BASE = f"{SUITE}\n{PACKAGES}\n{FSTAB}\n{UNIT}\n{TARGET}"
NOT_PAYLOAD = shutil.ignore_patterns(".git", ".cache", ".venv", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis")


@dataclass(frozen=True)
class Base:
    disk: Path
    kernel: Path
    initrd: Path


@dataclass(frozen=True)
class Boot:
    """What one boot brought: the guest's records by check, the console, and whether the guest powered itself off."""

    records: dict[str, dict[str, Any]]
    console: str
    ended: bool
    seconds: float

    def tail(self, lines: int = 60) -> str:
        return "\n".join(self.console.splitlines()[-lines:])


def missing_tools() -> list[str]:
    return [t for t in ("qemu-system-x86_64", "mmdebstrap", "mkfs.ext4") if shutil.which(t) is None]


def base(cache: Path) -> Base:
    """The base image, made (as root, about a minute) when it is not in the cache."""

    def make(room: Path) -> None:
        root = room / "root"
        run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(room / "base.tar"))
        root.mkdir()
        run("tar", "-C", str(root), "-xf", str(room / "base.tar"))
        (room / "base.tar").unlink()
        shutil.copy(next(root.glob("boot/vmlinuz-*")), room / "vmlinuz")
        shutil.copy(next(root.glob("boot/initrd.img-*")), room / "initrd")
        (root / "payload").mkdir()
        (root / "etc/fstab").write_text(FSTAB)
        (root / "etc/hostname").write_text("stockade-vm\n")
        units = root / "etc/systemd/system"
        (units / "stockade-vm.service").write_text(UNIT)
        (units / "default.target").write_text(TARGET)
        # Nothing of what runs by the calendar may start in the middle of a check.
        for timer in ("apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "e2scrub_all.timer"):
            (units / timer).symlink_to("/dev/null")
        disk_image(root, room / "disk.img", megabytes=3072)
        shutil.rmtree(root)

    room = cached(cache, "base", BASE.encode(), make)
    return Base(room / "disk.img", room / "vmlinuz", room / "initrd")


def wheels(project: Path, cache: Path) -> Path:
    """A directory with every wheel that requirements.txt locks, for the guest's Python and the host's architecture."""
    lock = project / "requirements.txt"

    def make(room: Path) -> None:
        with tempfile.TemporaryDirectory(dir=cache) as scratch:  # the environment of the tests may have no pip
            run(sys.executable, "-m", "venv", scratch)
            pip = [f"{scratch}/bin/python", "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            pip += ["--no-deps", "--only-binary", ":all:", "--python-version", PYTHON]
            run(*pip, "--require-hashes", "-r", str(lock), "-d", str(room))

    return cached(cache, "wheels", PYTHON.encode() + lock.read_bytes(), make)


def boot(project: Path, cache: Path, *, timeout: float) -> Boot:
    """Boot the machine once and collect what its checks say. `timeout` in seconds is for the whole boot."""
    image, wheelhouse = base(cache), wheels(project, cache)
    last = cache / "last"
    shutil.rmtree(last, ignore_errors=True)
    last.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        tree = Path(scratch) / "payload"
        shutil.copytree(project, tree / "project", symlinks=True, ignore=NOT_PAYLOAD)
        shutil.copytree(wheelhouse, tree / "wheels")
        disk_image(tree, Path(scratch) / "payload.img", megabytes=256)
        console, results = last / "console.log", last / "results.jsonl"
        command = [
            *QEMU,
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", CMDLINE),
            *("-drive", f"file={image.disk},if=virtio,format=raw,snapshot=on"),
            *("-drive", f"file={scratch}/payload.img,if=virtio,format=raw,readonly=on"),
            *("-serial", f"file:{console}", "-serial", f"file:{results}"),
        ]
        began = time.monotonic()
        try:
            # TMPDIR: where `snapshot=on` keeps the guest's writes.
            done = subprocess.run(
                command, env={**os.environ, "TMPDIR": scratch}, timeout=timeout, check=False, stdin=subprocess.DEVNULL
            )
            ended = done.returncode == 0
        except subprocess.TimeoutExpired:
            ended = False
        seconds = time.monotonic() - began
    records = {r["check"]: r for r in read_records(results)}
    return Boot(records, console.read_text(errors="replace"), ended and "end" in records, seconds)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # a line cut off by the time-out
        if isinstance(record, dict) and "check" in record:
            yield record


def cached(cache: Path, name: str, inputs: bytes, make: Callable[[Path], None]) -> Path:
    """The directory NAME-DIGEST below `cache`, made complete or not at all; older ones of that name go."""
    room = cache / f"{name}-{hashlib.sha256(inputs).hexdigest()[:12]}"
    if room.is_dir():
        return room
    with making(cache, name) as unfinished:
        make(unfinished)
        for old in cache.glob(f"{name}-*"):
            shutil.rmtree(old)
        unfinished.rename(room)
    return room


@contextmanager
def making(cache: Path, name: str) -> Iterator[Path]:
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache))
    try:
        # The guest's root directory takes its mode from here by way of mkfs -d.
        unfinished.chmod(0o755)
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def disk_image(tree: Path, image: Path, *, megabytes: int) -> None:
    with image.open("wb") as f:
        f.truncate(megabytes << 20)
    run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", str(tree), str(image))


def run(*argv: str) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}")


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2]
    outcome = boot(here, here / ".cache/vm", timeout=float(sys.argv[1]) if len(sys.argv) > 1 else 1800)
    for record in outcome.records.values():
        print(json.dumps(record))
    print(outcome.tail(20))
    print(f"ended: {outcome.ended}, {outcome.seconds:.0f} s")
