"""What was really enforced, read from the kernel and not from the plan (proc_pid_status(5))."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.launcher.plan import Identity

_LINES = (
    b"\nUid:\t",
    b"\nNoNewPrivs:\t",
    b"\nSeccomp:\t",
    b"\nSeccomp_filters:\t",
    b"\nCapPrm:\t",
    b"\nCapEff:\t",
    b"\nCapBnd:\t",
)


def read_status(pid: int) -> dict[str, str]:
    """What /proc/PID/status tells of confinement; also of a zombie, so of what really ran. Raises OSError."""
    with open(f"/proc/{pid}/status", "rb", buffering=0) as f:
        text = f.read(8192)
    found = {}
    for line in _LINES:
        at = text.find(line)
        if at >= 0:
            begin = at + len(line)
            found[line[1:-2].decode()] = text[begin : text.index(b"\n", begin)].decode()
    return found


def own_filters() -> int:
    """How many seccomp filters this process has: a service manager gives some, and they are not ours to count."""
    with open("/proc/self/status", encoding="ascii") as f:
        return next((int(line.split()[1]) for line in f if line.startswith("Seccomp_filters:")), 0)


def violations(status: dict[str, str], identity: Identity, inherited: int) -> list[str]:
    """In what a process that ran is not as every run must be; empty in a working Stockade.

    `inherited` is how many seccomp filters it had before ours (the line is new in Linux 5.9).
    """
    expected = {
        "Uid": "\t".join([str(identity.uid)] * 4),
        "NoNewPrivs": "1",
        "Seccomp": "2",
        **dict.fromkeys(("CapPrm", "CapEff", "CapBnd"), "0" * 16),
    }
    wrong = [f"{k}: {status.get(k)!r}, not {v!r}" for k, v in expected.items() if status.get(k) != v]
    filters = status.get("Seccomp_filters")
    if filters is not None and int(filters) <= inherited:
        wrong.append(f"Seccomp_filters: {filters}, not above the {inherited} of the launcher")
    return wrong


def receipt(status: dict[str, str], layers: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """The receipt of one run: the session's layers, what /proc said of the process, what the cgroup held as limits."""
    return {
        **layers,
        "uid": int(status["Uid"].split()[0]) if "Uid" in status else None,
        "no_new_privs": status.get("NoNewPrivs") == "1",
        "seccomp": {"0": "none", "1": "strict", "2": "filter"}.get(status.get("Seccomp", ""), "unknown"),
        "capabilities": status.get("CapEff"),
        "limits": limits,
    }
