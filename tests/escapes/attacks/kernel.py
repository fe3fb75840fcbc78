"""Ask the kernel for what confinement depends on being refused."""

# ruff: noqa: ARG005 - every attempt is given the target, whether it looks at it or not

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import pty
import resource
import socket
import struct

from common import ARM, Absent, attempt, call, main, reach, several

AT_FDCWD = -100
NAMESPACES = {"mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
              "pid": 0x20000000, "net": 0x40000000, "time": 0x00000080}  # fmt: skip
HIGH = 1 << 32


def buffer(data, size=0):
    return ctypes.create_string_buffer(data, max(size, len(data)))


# --- mounts and namespaces ------------------------------------------------------------------------------------


@attempt
def mount_tmpfs(t):
    return reach("mount", b"none", b"/tmp", b"tmpfs", 0, None)


@attempt
def mount_proc(t):
    return reach("mount", b"none", b"/tmp", b"proc", 0, None)


@attempt
def mount_bind(t):
    return reach("mount", b"/", b"/tmp", None, 4096, None)


@attempt
def remount_writable(t):
    return reach("mount", None, b"/", None, 32 | 4096, None)


# MNT_EXPIRE, never 0: unmounting / without a flag makes the file system read-only where it is allowed.
several("umount", [("proc_mask", b"/proc/keys"), ("tmp", b"/tmp"), ("root", b"/")],
        lambda t, path: reach("umount2", path, 4))  # fmt: skip


@attempt
def pivot_root(t):
    return reach("pivot_root", b".", b".")


@attempt
def chroot(t):
    return reach("chroot", b".")


@attempt
def fsopen(t):
    return reach("fsopen", b"tmpfs", 0)


@attempt
def open_tree(t):
    return reach("open_tree", AT_FDCWD, b"/tmp", 1)


@attempt
def move_mount(t):
    return reach("move_mount", -1, b"", AT_FDCWD, b"/tmp", 4)


@attempt
def mount_setattr(t):
    return reach("mount_setattr", AT_FDCWD, b"/tmp", 0, buffer(struct.pack("QQQQ", 0, 1, 0, 0)), 32)


several("unshare", NAMESPACES.items(), lambda t, flag: reach("unshare", flag))
several("setns", NAMESPACES.items(), lambda t, flag: reach("setns", -1, flag))
several("clone", [(n, f) for n, f in NAMESPACES.items() if n != "time"], lambda t, flag: _clone(flag))
several("clone_high", [("user", NAMESPACES["user"] | HIGH)], lambda t, flag: _clone(flag))


def _clone(flag):
    pid = call("clone", flag | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return f"made {pid}"


@attempt
def clone3_user_namespace(t):
    args = buffer(struct.pack("QQQQQQQQ", NAMESPACES["user"], 0, 0, 0, 17, 0, 0, 0))
    pid = call("clone3", args, 64)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return f"made {pid}"


# --- wide interfaces ------------------------------------------------------------------------------------------


@attempt
def bpf_program(t):
    code = buffer(struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0))
    licence = buffer(b"GPL\0")
    attr = struct.pack("IIQQIIQ", 1, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0)
    return reach("bpf", 5, buffer(attr, 128), 128)


@attempt
def bpf_map(t):
    return reach("bpf", 0, buffer(struct.pack("IIIII", 2, 4, 4, 1, 0), 128), 128)


@attempt
def perf_event(t):
    attr = buffer(struct.pack("IIQ", 1, 112, 0), 112)  # PERF_TYPE_SOFTWARE, cpu clock
    return reach("perf_event_open", attr, 0, -1, -1, 0)


@attempt
def keyctl(t):
    return reach("keyctl", 0, -3, 1)


@attempt
def add_key(t):
    return reach("add_key", b"user", b"stockade-attack", b"x", 1, -2)


@attempt
def request_key(t):
    return reach("request_key", b"user", b"stockade-attack", None, 0)


@attempt
def io_uring_setup(t):
    return reach("io_uring_setup", 1, buffer(bytes(120)))


@attempt
def io_uring_register(t):
    return reach("io_uring_register", -1, 0, None, 0)


@attempt
def io_uring_enter(t):
    return reach("io_uring_enter", -1, 0, 0, 0, None, 0)


@attempt
def userfaultfd(t):
    return reach("userfaultfd", 0)


@attempt
def userfaultfd_user_mode_only(t):
    return reach("userfaultfd", 1)


@attempt
def fanotify(t):
    return reach("fanotify_init", 0, 0)


@attempt
def name_to_handle(t):
    return reach("name_to_handle_at", AT_FDCWD, b".", buffer(struct.pack("Ii", 128, 0), 136), buffer(bytes(8)), 0)


@attempt
def open_by_handle(t):
    return reach("open_by_handle_at", AT_FDCWD, buffer(struct.pack("Ii", 8, 1), 136), 0)


@attempt
def memfd_secret(t):
    return reach("memfd_secret", 0)


@attempt
def modify_ldt(t):
    return reach("modify_ldt", 0, buffer(bytes(16)), 16)


# --- the machine ----------------------------------------------------------------------------------------------


several("modules", [
    ("init", lambda: reach("init_module", b"garbage", 7, b"")),
    ("finit", lambda: reach("finit_module", -1, b"", 0)),
    ("delete", lambda: reach("delete_module", b"stockade_no_such_module", 0)),
], lambda t, act: act())  # fmt: skip

several("host", [
    ("kexec", lambda: reach("kexec_load", 0, 0, None, 0xFFFF)),
    ("kexec_file", lambda: reach("kexec_file_load", -1, -1, 0, b"", 0xFFFF)),
    ("reboot", lambda: reach("reboot", 0, 0, 0, None)),
    ("swapon", lambda: reach("swapon", b"/nonexistent", 0)),
    ("swapoff", lambda: reach("swapoff", b"/nonexistent")),
    ("acct", lambda: reach("acct", b"/nonexistent")),
    ("quotactl", lambda: reach("quotactl", -1, b"/nonexistent", 0, None)),
    ("syslog", lambda: reach("syslog", 10, None, 0)),
    ("settimeofday", lambda: reach("settimeofday", buffer(struct.pack("qq", 0, 10**7)), None)),
    ("clock_settime", lambda: reach("clock_settime", 0, buffer(struct.pack("qq", 0, 10**10)))),
    ("sethostname", lambda: reach("sethostname", b"attacked", 8)),
    ("setdomainname", lambda: reach("setdomainname", b"attacked", 8)),
    ("iopl", lambda: reach("iopl", 3)),
    ("ioperm", lambda: reach("ioperm", 0x80, 1, 1)),
    ("vhangup", lambda: reach("vhangup")),
], lambda t, act: act())  # fmt: skip


several("raise", [
    ("nofile", resource.RLIMIT_NOFILE),
    ("core", resource.RLIMIT_CORE),
    ("nproc", resource.RLIMIT_NPROC),
    ("fsize", resource.RLIMIT_FSIZE),
], lambda t, kind: _raise_limit(t, kind))  # fmt: skip


def _raise_limit(t, kind):
    if t["control"]:
        resource.setrlimit(kind, (10, 10))
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        return "was never limited"
    try:
        resource.setrlimit(kind, (hard + 1, hard + 1))
    except ValueError as e:  # Python's word for EPERM here
        raise PermissionError(errno.EPERM, str(e)) from e
    return resource.getrlimit(kind)


@attempt
def lower_oom_score(t):
    """So that the kernel would take a service of the host in our place."""
    with open("/proc/self/oom_score_adj", "w") as f:
        f.write("-900")
    return "lowered"


@attempt
def real_time(t):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "real time"


@attempt
def nice_below_zero(t):
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return os.getpriority(os.PRIO_PROCESS, 0)


several("become_root", [
    ("setuid", lambda: os.setuid(0)),
    ("setresuid", lambda: os.setresuid(0, 0, 0)),
    ("setgid", lambda: os.setgid(0)),
    ("setgroups", lambda: os.setgroups([0])),
    ("setfsuid", lambda: _fsuid()),
], lambda t, act: (act(), "done")[1])  # fmt: skip


def _fsuid():
    """setfsuid(2) never fails; asked again with -1 it tells the one in force."""
    number = 151 if ARM else 122
    if os.getuid() != 0:
        call(number, 0)
        if call(number, -1 & 0xFFFFFFFF) != 0:
            raise PermissionError(1, "still ours")


@attempt
def personality_read_implies_exec(t):
    return reach("personality", 0x0400000)


@attempt
def prctl_forge_proc(t):
    return reach("prctl", 35, 8, 0, 0, 0)  # PR_SET_MM, PR_SET_MM_ARG_START


@attempt
def prctl_regain_a_capability(t):
    return reach("prctl", 47, 2, 7, 0, 0)  # PR_CAP_AMBIENT_RAISE CAP_SETUID


# --- terminals ------------------------------------------------------------------------------------------------


several("terminal", [
    ("tiocsti", 0x5412), ("tiocsti_high_bits", 0x5412 | HIGH), ("tioclinux", 0x541C), ("console", 0x541D),
    ("line_discipline", 0x5423),
], lambda t, command: _terminal(t, command))  # fmt: skip


def _terminal(t, command):
    if t["control"] and command == 0x541D:
        raise Absent("the host's console is left alone")
    _, slave = pty.openpty()
    os.setsid()
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    argument = ctypes.create_string_buffer(struct.pack("i", 0) if command == 0x5423 else b"x", 8)
    number = 29 if ARM else 16
    return reach(number, slave, command, argument)


# --- sockets that are roads into the kernel -------------------------------------------------------------------


several("socket", [
    ("packet", 17, 3, 0), ("packet_dgram", 17, 2, 0), ("netlink_route", 16, 3, 0), ("netlink_audit", 16, 3, 9),
    ("netlink_netfilter", 16, 3, 12), ("netlink_uevent", 16, 2, 15), ("netlink_high_bits", 16 | HIGH, 3, 0),
    ("vsock", 40, 1, 0), ("vsock_high_bits", 40 | HIGH, 1, 0), ("alg", 38, 5, 0), ("bluetooth", 31, 3, 0),
    ("can", 29, 3, 1), ("tipc", 30, 5, 0), ("key", 15, 3, 2), ("rds", 21, 5, 0), ("xdp", 44, 3, 0), ("kcm", 41, 5, 0),
    ("raw_icmp", 2, 3, 1), ("raw_icmp6", 10, 3, 58), ("raw_tcp", 2, 3, 6), ("raw_any", 2, 3, 255),
    ("ping", 2, 2, 1), ("ping6", 10, 2, 58), ("sctp", 2, 1, 132), ("mptcp", 2, 1, 262), ("udplite", 2, 2, 136),
    ("dccp", 2, 6, 33), ("smc", 43, 1, 0), ("raw_high_bits", 2, 3 | HIGH, 255), ("tcp_high_protocol", 2, 1, 262 | HIGH),
], lambda t, family, kind, protocol: _socket(family, kind, protocol))  # fmt: skip


def _socket(family, kind, protocol):
    return f"socket {call('socket', family, kind, protocol)}"


@attempt
def socket_filter(t):
    a, _ = socket.socketpair()
    code = buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
    a.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))
    return "attached"


# --- other doors to the same calls ----------------------------------------------------------------------------


@attempt
def x32(t):
    if ARM:
        raise Absent("not on this architecture")
    return f"pid {call(0x40000000 | 39)}"


@attempt
def int80(t):
    if platform.machine() != "x86_64":
        raise Absent("not on this architecture")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")  # mov $20 (getpid), %eax; int $0x80; ret
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return f"pid {function()}"


@attempt
def execute_memfd(t):
    with open("/usr/bin/true", "rb") as f:
        program = f.read()
    fd = os.memfd_create("program", 0)
    os.write(fd, program)
    return _execute(f"/proc/self/fd/{fd}")


@attempt
def execute_memfd_asked_executable(t):
    with open("/usr/bin/true", "rb") as f:
        program = f.read()
    fd = call("memfd_create", b"program", 0x10)
    os.write(fd, program)
    return _execute(f"/proc/self/fd/{fd}")


@attempt
def execute_from_shared_memory(t):
    with open("/usr/bin/true", "rb") as f:
        program = f.read()
    path = f"/dev/shm/program-{os.getpid()}"
    with open(path, "wb") as f:
        f.write(program)
    os.chmod(path, 0o755)  # noqa: S103
    try:
        return _execute(path)
    finally:
        os.unlink(path)


def _execute(path):
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(path, ["true"])  # noqa: S606
        except OSError as e:
            os._exit(e.errno)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        raise OSError(status, "not executed")
    return "executed"


main()
