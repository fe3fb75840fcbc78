"""What every attack program shares: each attempt in a child of its own, one JSON line about its outcome.

An attempt is a function of the target (a JSON object in argv[1]). What it returns says how it succeeded; None and
OSError mean that it was denied. Absent means that this host has nothing to attack there.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import signal
import struct
import sys

# Taken before anything is opened here: what was inherited. The directory that is listed has a number too.
INHERITED = [fd for fd in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{fd}")]

ARM = platform.machine() == "aarch64"
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long

# Answers by which a filter, a capability check or a missing family says no. Anything else came from further inside.
REFUSALS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT}
SECONDS = 8

# name: (x86-64, arm64)
NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "fchmodat2": (452, 452), "finit_module": (313, 273), "fsopen": (430, 430),
    "getpid": (39, 172), "init_module": (175, 105), "io_setup": (206, 0), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, -1), "iopl": (172, -1),
    "ioprio_set": (251, 30), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104),
    "keyctl": (250, 219), "linkat": (265, 37), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "mknodat": (259, 33), "renameat2": (316, 276),
    "modify_ldt": (154, -1), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "open_tree": (428, 428),
    "openat2": (437, 437), "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prctl": (157, 167),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "reboot": (169, 142),
    "request_key": (249, 218), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "setdomainname": (171, 162), "sethostname": (170, 161), "setns": (308, 268), "settimeofday": (164, 170),
    "socket": (41, 198), "swapoff": (168, 225), "swapon": (167, 224), "syslog": (103, 116), "tgkill": (234, 131),
    "tkill": (200, 130), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282), "vhangup": (153, 58),
}  # fmt: skip

TARGET = json.loads(sys.argv[1])
ATTEMPTS = []


class Absent(Exception):
    """Nothing of the kind on this host."""


def attempt(function):
    ATTEMPTS.append((function.__name__, function))
    return function


def several(name, cases, function):
    """One attempt for each case (label, arguments…)."""
    for label, *arguments in cases:
        ATTEMPTS.append((f"{name}_{label}", lambda t, a=tuple(arguments): function(t, *a)))


def call(name, *arguments):
    """A raw system call. Raises OSError."""
    number = NUMBERS[name][ARM] if isinstance(name, str) else name
    if number < 0:
        raise Absent("not on this architecture")
    ctypes.set_errno(0)
    # As C would pass them for `...`: without this ctypes hands over an int of 32 bits.
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def reach(name, *arguments):
    """Whether a system call gets past every check of permission; its arguments are such that it harms nothing."""
    try:
        return f"returned {call(name, *arguments)}"
    except OSError as e:
        if e.errno in REFUSALS:
            raise
        return f"got as far as {errno.errorcode.get(e.errno, e.errno)}"


def read(path):
    with open(path, "rb") as f:
        return f.read(4096).decode("latin-1")


def _in_child(function, target):
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        signal.alarm(SECONDS)
        try:
            detail = function(target)
            said = ("denied", "nothing happened") if detail is None else ("succeeded", str(detail)[:300])
        except Absent as e:
            said = ("absent", str(e))
        except OSError as e:
            said = ("denied", errno.errorcode.get(e.errno, str(e)))
        except BaseException as e:
            said = ("broken", repr(e)[:300])
        os.write(theirs, json.dumps(said).encode())
        os._exit(0)
    os.close(theirs)
    _, status = os.waitpid(pid, 0)
    # Not until its end: what an attempt left behind may hold the other end.
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_NONBLOCK)
    try:
        data = os.read(ours, 65536)
    except BlockingIOError:
        data = b""
    os.close(ours)
    if os.WIFSIGNALED(status):
        return "denied", signal.Signals(os.WTERMSIG(status)).name
    return json.loads(data) if data else ("broken", "said nothing")


def main():
    for name, function in ATTEMPTS:
        outcome, detail = _in_child(function, TARGET)
        print(json.dumps({"attempt": name, "outcome": outcome, "detail": detail}), flush=True)


def pack_iov(buffer):
    return struct.pack("QQ", ctypes.addressof(buffer), len(buffer))
