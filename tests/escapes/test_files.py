"""No secret of the host is read, nothing of it is changed, and nothing that acts for its owner is left behind."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.escapes.running import assert_all_denied, assert_noticed, confined, unconfined

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness import Daemon

pytestmark = pytest.mark.root

# What the control cannot show: it would harm the host, needs a capability or device that not every root has, or is
# about a process that is not there (PID 1 of a container need not be readable).
HOST = frozenset({
    *(f"change_system_{n}" for n in ("usr", "etc", "top", "program", "own_program")),
    *(f"open_{n}" for n in ("mem", "kcore", "kmsg", "disk", "console", "sysrq", "cgroups", "cgroups_v1")),
    "open_memfd_noexec", "open_modprobe",
    "gain_by_setid_program", "inherit_descriptors", "standard_descriptors_lead_somewhere",
    "list_run", "list_boot", "list_etc", "list_sys",
})  # fmt: skip
ABSENT = frozenset(n for n in HOST if n.startswith("open_")) | {"open_oom_score_adj_of_1", "open_core_pattern"}


class Canaries:
    """Files of the host: one that everybody may read, one that root alone may, one that everybody may write."""

    def __init__(self, area: Path, workspace: Path, daemon: Daemon) -> None:
        self.token = uuid.uuid4().hex
        self.directory = area / uuid.uuid4().hex
        self.directory.mkdir(mode=0o755)
        self.open = self.directory / "open"
        self.open.mkdir()
        self.open.chmod(0o777)
        self.tmp = Path(tempfile.mkdtemp(dir="/tmp"))
        self.tmp.chmod(0o755)
        for path, mode in (
            (self.directory / "world", 0o644), (self.directory / "hidden", 0o600), (self.tmp / "secret", 0o644),
            (self.directory / "writable", 0o666), (self.open / "expendable", 0o666),
        ):  # fmt: skip
            path.write_text(self.token)
            path.chmod(mode)
            os.utime(path, (1000, 1000))
        self.before = self.seen()
        for name, where in (
            ("planted", "world"),
            ("planted-writable", "writable"),
            ("planted-dir", "."),
            ("planted-open", "open"),
        ):
            (workspace / name).symlink_to(self.directory / where)
        self.setuid = workspace / "planted-setuid"
        shutil.copy("/usr/bin/id", self.setuid)
        self.setuid.chmod(0o4755)
        d = str(self.directory)
        self.target: dict[str, Any] = {
            "tokens": [self.token, "[profiles.", '"policy_digest"'], "world": f"{d}/world", "hidden": f"{d}/hidden",
            "in_tmp": str(self.tmp / "secret"), "policy": str(daemon.root / "etc" / "policy.toml"),
            "audit": str(daemon.root / "log" / "audit.jsonl"), "writable": f"{d}/writable", "open": f"{d}/open",
            "planted": f"{workspace}/planted", "planted_writable": f"{workspace}/planted-writable",
            "planted_directory": f"{workspace}/planted-dir", "planted_open": f"{workspace}/planted-open",
            "pids": [daemon.pid, *daemon.children().values()], "root": str(daemon.root), "account": daemon.agent.name,
            "setuid_program": str(self.setuid),
        }  # fmt: skip

    def seen(self) -> dict[str, Any]:
        """Every file with its content, mode, times and attributes."""
        found = {}
        for top in (self.directory, self.tmp):
            for path in sorted(top.rglob("*")):
                info = path.lstat()
                content = path.read_text() if stat.S_ISREG(info.st_mode) else ""
                found[str(path)] = (
                    content,
                    info.st_mode,
                    info.st_mtime_ns * stat.S_ISREG(info.st_mode),
                    info.st_nlink,
                    os.listxattr(path, follow_symlinks=False),
                )
        return found

    def remove(self) -> None:
        shutil.rmtree(self.tmp)


def strange(workspace: Path, but: Path) -> list[str]:
    """Set-id files, device nodes, file capabilities: what acts for more than the one who made it."""
    found = []
    for path in workspace.rglob("*"):
        info = path.lstat()
        special = (
            info.st_mode & (stat.S_ISUID | stat.S_ISGID) or stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode)
        )
        capable = not stat.S_ISLNK(info.st_mode) and "security.capability" in os.listxattr(path)
        if path != but and (special or capable):
            found.append(f"{path.name} {info.st_mode:o}")
    return found


@pytest.fixture
def canaries(
    area: Path, workspace: Path, control_workspace: Path, daemon: Daemon
) -> Iterator[tuple[Canaries, Canaries]]:
    made = Canaries(area, workspace, daemon), Canaries(area, control_workspace, daemon)
    try:
        yield made
    finally:
        for one in made:
            one.remove()


def test_no_file_of_the_host_is_read_changed_or_left_dangerous(
    daemon: Daemon, workspace: Path, control_workspace: Path, canaries: tuple[Canaries, Canaries]
) -> None:
    """Host secrets and writes outside by path, links, `..`, /proc and inherited descriptors; set-id and devices."""
    inside, outside = canaries
    daemon.run(workspace, "true")  # so that there is an audit record to be read
    control = unconfined(control_workspace, "files.py", {**outside.target, "stand_in": os.getpid()}, 0)
    assert_noticed(control, host=HOST | {"gain_by_setid_program"})
    assert outside.token in control.text
    assert outside.seen() != outside.before
    assert strange(control_workspace, outside.setuid)

    found = confined(daemon, workspace, "files.py", inside.target)
    assert inside.token not in found.text
    assert inside.seen() == inside.before
    assert strange(workspace, inside.setuid) == []
    assert not [p for p in ("/usr", "/etc", "/") if os.path.lexists(f"{p}/stockade-attack")]
    assert_all_denied(found, control, absent=ABSENT)


def test_a_set_uid_program_of_root_gives_nothing_inside_and_everything_outside(
    daemon: Daemon, workspace: Path, area: Path, control_workspace: Path, canaries: tuple[Canaries, Canaries]
) -> None:
    inside, outside = canaries
    ordinary = unconfined(control_workspace, "files.py", outside.target, daemon.agent.uid)
    assert ordinary.attempts["gain_by_setid_program"] == ("succeeded", "0")
    run = daemon.run(workspace, str(inside.setuid), "-u")
    assert run["stdout"].strip() not in ("", "0")


def test_files_made_inside_belong_to_the_owner_of_the_workspace(daemon: Daemon, workspace: Path) -> None:
    daemon.run(
        workspace, script="touch plain; mkdir -p a/b; ln -s plain link; ln plain hard; mkfifo fifo; chmod 0777 plain"
    )
    owners = {(p.lstat().st_uid, p.lstat().st_gid) for p in workspace.rglob("*")}
    assert owners == {(daemon.agent.uid, daemon.agent.gid)}
