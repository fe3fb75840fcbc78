"""scripts/install: a service that runs, files with the right owners, and a second time that changes nothing."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from tests.vm.guest.tools import POLICY, PROJECT, SOCKET, UNIT, WHEELS, is_active, must, sh, shown, stockade

_OWNERS = {
    "/etc/stockade": ("root", "root", 0o755),
    "/etc/stockade/policy.toml": ("root", "root", 0o644),
    "/run/stockade": ("root", "root", 0o755),
    SOCKET: ("root", "stockade-clients", 0o660),
    "/var/lib/stockade": ("stockade", "stockade", 0o700),
    "/var/log/stockade": ("stockade-audit", "stockade", 0o750),
}


def install_from_wheels_alone() -> str:
    """scripts/install --offline makes a running, enabled service that says itself when it is ready."""
    done = sh(f"{PROJECT}/scripts/install", "--offline", str(WHEELS), timeout=900)
    must(is_active())
    must(is_active("stockade.socket"))
    for unit in (UNIT, "stockade.socket"):
        must(sh("systemctl", "is-enabled", unit).stdout.strip() == "enabled", unit)
    found = shown("Type", "Delegate", "Restart", "WatchdogUSec", "NRestarts")
    must(found["Type"] == "notify", found)
    must(found["NRestarts"] == "0", found)
    return done.stdout


def files_belong_to_whom_they_should() -> None:
    """Each directory and file has the owner, group and mode of the documentation."""
    for path, wanted in _OWNERS.items():
        info = os.stat(path)
        found = (pwd.getpwuid(info.st_uid).pw_name, grp.getgrgid(info.st_gid).gr_name, stat.S_IMODE(info.st_mode))
        must(found == wanted, f"{path}: {found[0]}:{found[1]} {found[2]:o}, not {wanted[0]}:{wanted[1]} {wanted[2]:o}")


def units_verify() -> None:
    """systemd finds nothing to say about the units."""
    done = sh(
        "systemd-analyze", "verify", "/etc/systemd/system/stockade.service", "/etc/systemd/system/stockade.socket"
    )
    must(not (done.stdout + done.stderr).strip(), done.stdout + done.stderr)


def exposure_is_scored() -> str:
    """`systemd-analyze security` rates the unit; the lines that are off say why in the unit."""
    report = sh("systemd-analyze", "security", "--no-pager", UNIT).stdout
    score = float(report.rsplit("level for", 1)[1].split(":", 1)[1].split()[0])
    must(score < 5.5, report)
    return report


def a_second_installation_keeps_the_policy() -> None:
    """Run again it repairs: a unit that was changed is as before, the operator's policy stays, one venv is left."""
    POLICY.write_text(POLICY.read_text() + "\n# the operator's own line\n")
    Path("/etc/systemd/system/stockade.socket").write_text("damaged")
    sh(f"{PROJECT}/scripts/install", "--offline", str(WHEELS), timeout=900)
    must("the operator's own line" in POLICY.read_text())
    must(is_active())
    must(len(list(Path("/opt/stockade").glob("venv-*"))) == 1, os.listdir("/opt/stockade"))
    units_verify()


def doctor_finds_nothing_to_mend() -> str:
    """`stockade doctor` is content with the fresh machine and names its layers."""
    return stockade("doctor", user="root").stdout


CHECKS = (
    install_from_wheels_alone,
    files_belong_to_whom_they_should,
    units_verify,
    exposure_is_scored,
    a_second_installation_keeps_the_policy,
    doctor_finds_nothing_to_mend,
)
