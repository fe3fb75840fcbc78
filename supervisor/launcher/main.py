"""The launcher process from its fork to its end."""

from __future__ import annotations

import gc
import signal
import sys
from typing import TYPE_CHECKING

from supervisor.kernel import process as p
from supervisor.launcher import host
from supervisor.launcher.loop import Loop
from supervisor.launcher.monitor import Monitor

if TYPE_CHECKING:
    import socket

    from supervisor.layout import Layout

# What making sessions needs, and nothing that the host's other parts would miss. kill: run trees under other uids.
# sys_ptrace: setns(2) by the pidfd of a leader that gave up everything, and proc_pid_io(5) for the disk limit.
KEPT_CAPABILITIES = (
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "net_admin",
    "sys_chroot",
    "sys_ptrace",
    "sys_admin",
    "sys_resource",
    "mknod",
)


_GC_THRESHOLD = 10_000  # allocations


def run(main: socket.socket, auditor: socket.socket, layout: Layout) -> int:
    """Serve until main or the auditor ends; then nothing of ours lives on. The exit status of the process."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # its end is that of the socket to main, so that it is last
    p.prctl(p.PR_SET_DUMPABLE, 0)
    kept = tuple(p.CAPABILITIES[name] for name in KEPT_CAPABILITIES)
    p.bound_capabilities(kept, p.last_capability())
    mask = sum(1 << number for number in kept)
    p.set_capabilities(mask & permitted(), mask & permitted())
    tree = host.own_tree(layout)
    tree.prepare()
    tree.sweep()
    world = host.make_world(layout, tree)
    loop = Loop()
    monitor = Monitor(loop, main, auditor, world, layout)
    # What is there now will stay, so the collector need not look at it; what comes later is little and seldom a cycle.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    try:
        loop.run()
    finally:
        monitor.warden.end_now()
        monitor.copies.end()
        tree.sweep()
        tree.remove()
    sys.stderr.flush()
    return 0


def permitted() -> int:
    """The permitted set of this process (proc_pid_status(5), CapPrm)."""
    with open("/proc/self/status", encoding="ascii") as f:
        return next(int(line.split()[1], 16) for line in f if line.startswith("CapPrm:"))
