"""Reach processes that are not of this run: the canary of the host under our own uid, and whatever else is there."""

import ctypes
import fcntl
import os
import resource
import signal
import struct

from common import Absent, attempt, call, main, pack_iov, reach, read, several

SI_QUEUE = ctypes.create_string_buffer(struct.pack("iii", signal.SIGUSR1, 0, -1), 128)  # siginfo_t
OWN = {os.getpid()}  # and the attempt's own child
PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_TRACEME = 16, 0x4206, 0
PRIO_PROCESS, PRIO_PGRP, PRIO_USER = 0, 1, 2
if os.getuid() == 0:
    raise SystemExit("not as root: some attempts reach whatever they can")


def guesses(t):
    """Process numbers that may be something, without our own; in a namespace of its own most of them are nothing."""
    near = range(max(1, t["pid"] - 20), t["pid"] + 20)
    return [n for n in [*range(1, 600), *near] if n not in OWN and n != os.getpid()]


def first(t, act):
    for n in guesses(t):
        try:
            act(n)
        except OSError:
            continue
        return n
    return None


several("signal", [
    ("null", lambda p: os.kill(p, 0)),
    ("usr1", lambda p: os.kill(p, signal.SIGUSR1)),
    ("group", lambda p: os.killpg(p, signal.SIGUSR1)),
    ("tkill", lambda p: call("tkill", p, signal.SIGUSR1)),
    ("tgkill", lambda p: call("tgkill", p, p, signal.SIGUSR1)),
    ("queue", lambda p: call("rt_sigqueueinfo", p, signal.SIGUSR1, SI_QUEUE)),
    ("pidfd", lambda p: signal.pidfd_send_signal(os.pidfd_open(p), signal.SIGUSR1)),
    ("owner", lambda p: fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, p)),
], lambda t, act: (act(t["pid"]), "sent")[1])  # fmt: skip

several("steer", [
    ("limits", lambda p: resource.prlimit(p, resource.RLIMIT_CORE, (0, 0))),
    ("affinity", lambda p: os.sched_setaffinity(p, {0})),
    ("nice", lambda p: os.setpriority(PRIO_PROCESS, p, 17)),
    ("nice_group", lambda p: os.setpriority(PRIO_PGRP, p, 17)),
    ("scheduler", lambda p: os.sched_setscheduler(p, os.SCHED_BATCH, os.sched_param(0))),
    ("ioprio", lambda p: call("ioprio_set", 1, p, 2 << 13 | 7)),
    ("pgid", lambda p: os.getpgid(p)),
], lambda t, act: (act(t["pid"]), "steered")[1])  # fmt: skip


@attempt
def nice_of_every_process_of_our_uid(t):
    """Reaches the canary, which has our uid, if anything outside counts; seen from outside by its nice value."""
    os.setpriority(PRIO_USER, os.getuid(), 18)
    return "unseen" if t["control"] else None


several("memory", [
    ("open", lambda p: os.open(f"/proc/{p}/mem", os.O_RDWR)),
    ("maps", lambda p: read(f"/proc/{p}/maps")),
    ("environ", lambda p: read(f"/proc/{p}/environ")),
    ("cmdline", lambda p: read(f"/proc/{p}/cmdline")),
    ("fds", lambda p: os.listdir(f"/proc/{p}/fd")),
    ("root", lambda p: os.listdir(f"/proc/{p}/root")),
], lambda t, act: (act(t["pid"]), "reached")[1])  # fmt: skip


@attempt
def signal_anything_else(t):
    return first(t, lambda n: os.kill(n, 0))


@attempt
def open_memory_of_anything_else(t):
    return first(t, lambda n: os.open(f"/proc/{n}/mem", os.O_RDWR))


@attempt
def read_environment_of_anything_else(t):
    return first(t, lambda n: os.open(f"/proc/{n}/environ", os.O_RDONLY))


@attempt
def read_descriptors_of_anything_else(t):
    return first(t, lambda n: os.listdir(f"/proc/{n}/fd"))


@attempt
def ptrace_seize(t):
    return reach("ptrace", PTRACE_SEIZE, t["pid"], 0, 0)


@attempt
def ptrace_own_child(t):
    """Not an escape by itself; the filter takes the whole interface away."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        return reach("ptrace", PTRACE_SEIZE, pid, 0, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@attempt
def ptrace_traceme(t):
    return reach("ptrace", PTRACE_TRACEME, 0, 0, 0)


BUFFER = ctypes.create_string_buffer(b"attacked")
several("process_vm", [("readv", "process_vm_readv"), ("writev", "process_vm_writev")],
        lambda t, name: _vm(t, name))  # fmt: skip


def _vm(t, name):
    local = ctypes.create_string_buffer(pack_iov(BUFFER), 16)
    remote = ctypes.create_string_buffer(t["address"].to_bytes(8, "little") + (8).to_bytes(8, "little"), 16)
    return reach(name, t["pid"], local, 1, remote, 1, 0)


@attempt
def pidfd_getfd(t):
    own = os.pidfd_open(os.getpid())
    return reach("pidfd_getfd", own, 0, 0)


@attempt
def pidfd_getfd_of_the_canary(t):
    return call("pidfd_getfd", os.pidfd_open(t["pid"]), 0, 0)


@attempt
def kcmp(t):
    return reach("kcmp", os.getpid(), t["pid"], 0, 0, 0)


@attempt
def move_pages(t):
    return reach("move_pages", t["pid"], 0, None, None, None, 0)


@attempt
def process_madvise(t):
    iov = ctypes.create_string_buffer(pack_iov(BUFFER), 16)
    return reach("process_madvise", os.pidfd_open(os.getpid()), iov, 1, 20, 0)


several("leader", [
    ("kill", lambda: os.kill(1, signal.SIGKILL)),
    ("stop", lambda: os.kill(1, signal.SIGSTOP)),
    ("term", lambda: os.kill(1, signal.SIGTERM)),
    ("pidfd", lambda: signal.pidfd_send_signal(os.pidfd_open(1), signal.SIGKILL)),
    ("mem", lambda: os.open("/proc/1/mem", os.O_RDWR)),
    ("environ", lambda: read("/proc/1/environ")),
    ("root", lambda: os.listdir("/proc/1/root")),
    ("fds", lambda: os.listdir("/proc/1/fd")),
    ("limits", lambda: resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))),
], lambda t, act: _leader(t, act))  # fmt: skip


def _leader(t, act):
    if t["control"]:
        raise Absent("the host's own")
    act()
    return "reached"


main()
