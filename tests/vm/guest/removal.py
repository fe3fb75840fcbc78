"""scripts/uninstall leaves the data, and with --purge nothing."""

from __future__ import annotations

import pwd
from pathlib import Path

from tests.vm.guest.before import traces
from tests.vm.guest.tools import PROJECT, alive_with, background, must, sh

_DATA = ("/etc/stockade", "/var/lib/stockade", "/var/log/stockade")


def _of_the_service() -> list[str]:
    """Processes of the service's users or of its sessions."""
    users = {u.pw_uid for u in pwd.getpwall() if u.pw_name.startswith("stockade")}
    return [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and p.stat().st_uid in users]


def uninstall_keeps_nothing_but_data() -> None:
    """No process, cgroup, unit or program is left; policy, state, log and their users are."""
    background("exec sleep 4741", "4741")
    sh(f"{PROJECT}/scripts/uninstall")
    must(not alive_with("4741"), "a run outlived the uninstallation")
    must(not _of_the_service())
    left = [t for t in traces() if not t.startswith((*_DATA, "user ", "group "))]
    must(not left, left)
    must(Path("/etc/stockade/policy.toml").exists())
    must(Path("/var/log/stockade/audit.jsonl").stat().st_size > 0)


def purge_keeps_nothing() -> None:
    """With --purge data, users and groups go too; a second time there is nothing to do, and that is well."""
    sh(f"{PROJECT}/scripts/uninstall", "--purge")
    must(not traces(), traces())
    sh(f"{PROJECT}/scripts/uninstall", "--purge")


CHECKS = (uninstall_keeps_nothing_but_data, purge_keeps_nothing)
