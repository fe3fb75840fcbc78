"""Every door of the kernel that confinement depends on is shut, by whichever name it is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.escapes.running import assert_all_denied, assert_noticed, confined, unconfined

if TYPE_CHECKING:
    from tests.harness import Daemon

pytestmark = pytest.mark.root

# What a root without every capability, or a kernel without every module, cannot show.
_FAMILIES = (
    "vsock", "vsock_high_bits", "alg", "bluetooth", "can", "tipc", "key", "rds", "xdp", "kcm", "sctp", "mptcp", "dccp",
    "smc", "ping", "ping6", "netlink_audit", "netlink_netfilter", "tcp_high_protocol", "udplite",
)  # fmt: skip
HOST = frozenset({
    *(f"socket_{family}" for family in _FAMILIES),
    "raise_nofile", "raise_core", "raise_nproc", "raise_fsize", "real_time", "lower_oom_score", "x32", "int80",
    "memfd_secret", "host_kexec", "host_kexec_file", "host_reboot", "host_iopl", "host_ioperm", "host_quotactl",
    "host_acct", "modules_init", "modules_finit", "modules_delete", "terminal_console", "prctl_regain_a_capability",
    "keyctl", "add_key", "request_key", "fanotify", "modify_ldt", "io_uring_setup", "io_uring_register",
    "io_uring_enter", "prctl_forge_proc", "execute_from_shared_memory",
})  # fmt: skip
ABSENT = frozenset({"x32", "int80", "host_iopl", "host_ioperm", "modify_ldt"})  # not on arm64


def state() -> dict[str, str]:
    """What the attempts would change for the host."""
    paths = ("/proc/self/mountinfo", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/swaps")
    return {p: Path(p).read_text() for p in paths}


def test_every_door_of_the_kernel_is_shut(daemon: Daemon, workspace: Path, control_workspace: Path) -> None:
    """Mounts, namespaces, bpf, perf, keys, io_uring, userfaultfd, modules, handles, terminals, sockets, x32, int80."""
    before = state()
    found = confined(daemon, workspace, "kernel.py", {})
    assert state() == before
    control = unconfined(
        control_workspace, "kernel.py", {}, 0, namespaces=("--mount", "--uts", "--ipc", "--net", "--fork")
    )
    assert_noticed(control, host=HOST)
    assert state() == before
    assert_all_denied(found, control, absent=ABSENT)
