"""From one session, look for another one's files, processes, memory and sockets."""

import os
import socket

from common import Absent, attempt, call, libc, main, read, several

PLACES = ("/tmp", "/var/tmp", "/home/agent", "/dev/shm")

several(
    "file", [(p.strip("/").replace("/", "_"), p) for p in PLACES], lambda t, place: _seen(t, read(place + "/secret"))
)
several("workspace", [("path", ""), ("root", "/proc/1/root"), ("above", os.getcwd() + "/.." * 20)],
        lambda t, prefix: _seen(t, read(prefix + t["workspace"] + "/secret")))  # fmt: skip


def _seen(t, text):
    return text if t["token"] in text else None


@attempt
def write_workspace(t):
    with open(t["workspace"] + "/secret", "a") as f:
        f.write("attacked")
    return "written"


@attempt
def anywhere(t):
    for top in (*PLACES, "/"):
        for directory, _, names in os.walk(top):
            if directory.startswith(("/proc", "/usr", "/opt")):
                continue
            for name in names:
                try:
                    if t["token"] in read(os.path.join(directory, name)):
                        return os.path.join(directory, name)
                except (OSError, UnicodeDecodeError):
                    continue
    return None


several("process", [("environ", "environ"), ("cmdline", "cmdline")], lambda t, what: _process(t, what))


def _process(t, what):
    for n in [*range(1, 400), *t["pids"]]:
        if n in (os.getpid(), os.getppid()):
            continue
        try:
            if t["token"] in read(f"/proc/{n}/{what}"):
                return n
        except OSError:
            continue
    return None


@attempt
def signal_it(t):
    for pid in t["pids"]:
        try:
            os.kill(pid, 0)
        except OSError:
            continue
        return pid
    return None


@attempt
def abstract_socket(t):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(4)
        s.connect("\0" + t["abstract"])
        return "connected"


@attempt
def file_socket(t):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(4)
        s.connect("/tmp/listening")
        return "connected"


@attempt
def tcp_socket(t):
    with socket.socket(socket.AF_INET) as s:
        s.settimeout(4)
        s.connect(("127.0.0.1", t["port"]))
        return "connected"


@attempt
def shared_memory(t):
    import platform

    if platform.machine() != "x86_64":
        raise Absent("by number on x86-64 only")
    return f"segment {call(29, t['key'], 8, 0o600)}"


@attempt
def message_queue(t):
    import platform

    if platform.machine() != "x86_64":
        raise Absent("by number on x86-64 only")
    return f"queue {call(240, b'stockade-neighbour', os.O_RDWR, 0, None)}"


assert libc
main()
