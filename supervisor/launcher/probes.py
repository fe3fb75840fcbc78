"""What a confined child tries in order to prove its confinement. Runs in the child, after every layer, instead of exec.

Each function tries the forbidden act for real and tells what came of it: {attempt: "" when it was denied, else what
succeeded}. Everything is imported above, because the child can no longer read this program's files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import mmap
import os
import resource
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from supervisor.kernel.syscalls import NR, call

if TYPE_CHECKING:
    from collections.abc import Callable

ARGV0 = "stockade:probe"  # what the prover writes for argv[0]; only its own children know it

# Calls that no profile has, with arguments that the kernel would look at only after the permission.
FORBIDDEN_CALLS = (
    "mount", "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "mount_setattr", "unshare",
    "setns", "ptrace", "process_vm_readv", "process_vm_writev", "bpf", "perf_event_open", "add_key", "keyctl",
    "request_key", "io_uring_setup", "userfaultfd", "open_by_handle_at", "name_to_handle_at", "kcmp", "pidfd_getfd",
    "memfd_secret", "clone3", "openat2", "quotactl_fd",
)  # fmt: skip

_CLONE_NEWUSER = 0x10000000
_CHUNK = 1 << 20


def _denied(what: Callable[[], Any]) -> str:
    try:
        what()
    except (OSError, ValueError):
        return ""
    return "succeeded"


def _open(path: str, flags: int = os.O_RDONLY) -> None:
    os.close(os.open(path, flags | os.O_CLOEXEC, 0o600))


def read_outside(question: dict[str, Any]) -> dict[str, str]:
    paths = [*question["unreadable"], "/etc/shadow", "/proc/1/environ", "/proc/1/mem", "/proc/kcore"]
    found = {p: _denied(lambda p=p: _read(p)) for p in paths}  # type: ignore[misc]
    found["list /"] = _denied(lambda: os.listdir("/"))
    return found


def _read(path: str) -> None:
    with open(path, "rb", buffering=0) as f:
        if not f.read(1):
            raise OSError(errno.ENODATA, "opened, but empty")


def write_outside(question: dict[str, Any]) -> dict[str, str]:
    flags = os.O_WRONLY | os.O_CREAT
    return {p: _denied(lambda p=p: _open(os.path.join(p, ".probe"), flags)) for p in question["unwritable"]}  # type: ignore[misc]


def _exec_verdict(path: str) -> str:
    """Whether a file without a program format may be executed: EACCES is no, ENOEXEC is yes (execve(2))."""
    pid = os.fork()
    if pid == 0:
        try:
            os.execve(path, ["probe"], {})  # noqa: S606
        except OSError as e:
            os._exit(e.errno or 1)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if status in (errno.EACCES, errno.EPERM) else f"exec answered {errno.errorcode.get(status, status)}"


def exec_outside(question: dict[str, Any]) -> dict[str, str]:
    found = {}
    for place in question["not_executable"]:
        path = os.path.join(place, ".probe-exec")
        with contextlib.suppress(OSError):
            # Empty, because another child may be filling this file system; execve(2) answers ENOEXEC to that as well.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o755))
            found[place] = _exec_verdict(path)
            os.unlink(path)
    with contextlib.suppress(OSError):
        fd = os.memfd_create("probe")
        found["memfd"] = _exec_verdict(f"/proc/self/fd/{fd}")
        os.close(fd)
        if not question["executes_own"]:
            found["memfd for a loader"] = "succeeded"
    return found


def shell(question: dict[str, Any]) -> dict[str, str]:
    pid = os.fork()
    if pid == 0:
        try:
            os.execve(question["shell"], [question["shell"], "-c", "exit 7"], {})  # noqa: S606
        except OSError as e:
            os._exit(e.errno or 1)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if question["shell_allowed"]:
        return {question["shell"]: "" if status == 7 else f"`exit 7` ended with {status}"}
    return {question["shell"]: "" if status == errno.EACCES else f"is not allowed, but ended with {status}"}


def _become(*argv: str) -> None:
    """Execute a program of the host that nobody should hear: the answer to the prover is on descriptor 1."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.execve(argv[0], list(argv), {})  # noqa: S606


def _starts(path: str) -> int | None:
    """None when the kernel executes a program, which is ended at once; else the errno."""
    told, tells = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            _become(path)
        except OSError as e:
            os.write(tells, b"%d" % (e.errno or 0))
        os._exit(1)
    os.close(tells)
    said = os.read(told, 16)  # its end is that of the successful exec
    os.close(told)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return int(said) if said else None


def _maps_as_code(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        mmap.mmap(fd, 1, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
    finally:
        os.close(fd)


def _loaded(loader: str, path: str) -> str:
    """Whether a dynamic loader that may run starts a program that may not: it ends with 127 when it cannot map it."""
    pid = os.fork()
    if pid == 0:
        try:
            _become(loader, path)
        finally:
            os._exit(126)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if status in (126, 127) else f"ended with {status}"


def allowed_commands(question: dict[str, Any]) -> dict[str, str]:
    """Of `others` none may be executed or mapped as code, of `allowed` each must start, `loaded` is harmless."""
    found = {}
    for path in question["others"]:
        code = _starts(path)
        found[path] = (
            "" if code == errno.EACCES else f"exec answered {errno.errorcode.get(code, code) if code else 'yes'}"
        )
        found[f"{path} as code"] = _denied(lambda p=path: _maps_as_code(p))  # type: ignore[misc]
    for loader, path in question["loaded"]:
        found[f"{loader} {path}"] = _loaded(loader, path)
    for path in question["allowed"]:
        code = _starts(path)
        found[f"{path} itself"] = "" if code is None else f"does not start: {errno.errorcode.get(code, code)}"
    return found


def readonly(question: dict[str, Any]) -> dict[str, str]:
    """Every way of changing a workspace that holds the file `kept` and the directory `place`, both open to all."""
    kept, place = (os.path.join(question["workspace"], name) for name in ("kept", "place"))
    new = os.path.join(place, "new")
    tries: dict[str, Callable[[], Any]] = {
        "write": lambda: _open(kept, os.O_WRONLY),
        "append": lambda: _open(kept, os.O_WRONLY | os.O_APPEND),
        "truncate": lambda: os.truncate(kept, 0),
        "create": lambda: _open(new, os.O_WRONLY | os.O_CREAT),
        "create at the top": lambda: _open(kept + ".new", os.O_WRONLY | os.O_CREAT),
        "create without a name": lambda: _open(place, os.O_WRONLY | os.O_TMPFILE),
        "make a directory": lambda: os.mkdir(new),
        "make a pipe": lambda: os.mkfifo(new),
        "make a socket": lambda: _bound(new),
        "link": lambda: os.link(kept, new),
        "symlink": lambda: os.symlink(kept, new),
        "rename": lambda: os.rename(kept, new),
        "replace": lambda: os.replace(place, new),
        "remove": lambda: os.unlink(kept),
        "remove a directory": lambda: os.rmdir(place),
        "chmod": lambda: os.chmod(kept, 0o600),
        "chown": lambda: os.chown(kept, os.getuid(), os.getgid()),
        "utime": lambda: os.utime(kept),
        "attribute": lambda: os.setxattr(kept, "user.probe", b"x"),
    }
    found = {name: _denied(attempt) for name, attempt in tries.items()}
    try:
        _open(os.path.join(question["private"], ".probe"), os.O_WRONLY | os.O_CREAT)
        os.listdir(question["workspace"])
        _read(kept)
    except OSError as e:
        found["what stays"] = f"{e}"
    return found


def _bound(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.bind(path)


def network(question: dict[str, Any]) -> dict[str, str]:
    def reach(family: int, kind: int, address: Any) -> None:
        with socket.socket(family, kind) as s:
            s.settimeout(1)
            s.connect(address)
            s.send(b"probe")
            if kind == socket.SOCK_DGRAM:
                s.recv(1)  # an unconnected datagram proves nothing by being sent; the canary answers

    port = question["port"]
    found = {
        "tcp 127.0.0.1": _denied(lambda: reach(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port))),
        "tcp ::1": _denied(lambda: reach(socket.AF_INET6, socket.SOCK_STREAM, ("::1", port))),
        "abstract": _denied(lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, question["abstract"].encode())),
        "path": _denied(lambda: reach(socket.AF_UNIX, socket.SOCK_STREAM, question["socket"])),
    }
    kinds = {
        "netlink": (16, 3),
        "packet": (17, 3),
        "vsock": (40, 1),
        "raw": (2, 3),
        "alg": (38, 5),
        "bluetooth": (31, 3),
    }
    for name, (family, kind) in kinds.items():
        found[name] = _denied(lambda f=family, k=kind: socket.socket(f, k).close())  # type: ignore[misc]
    return found


def seccomp(_: dict[str, Any]) -> dict[str, str]:
    found = {}
    for name in FORBIDDEN_CALLS:
        number = NR.get(name)
        if number is not None:
            try:
                call(
                    number,
                    ctypes.c_void_p(),
                    ctypes.c_void_p(),
                    ctypes.c_void_p(),
                    ctypes.c_void_p(),
                    ctypes.c_void_p(),
                )
                found[name] = "succeeded"
            except OSError as e:  # another errno would mean that the kernel looked at the arguments
                found[name] = "" if e.errno in (errno.EPERM, errno.ENOSYS) else f"answered {e.strerror}"
    found["clone new user namespace"] = _denied(lambda: call("clone", _CLONE_NEWUSER | 17, 0, 0, 0, 0) or os._exit(0))
    found["signal"] = _denied(lambda: os.kill(1, signal.SIGKILL))
    return found


def identity(question: dict[str, Any]) -> dict[str, str]:
    with open("/proc/self/status", encoding="ascii") as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    expected = {
        "Uid": "\t".join([str(os.getuid() or "not root")] * 4),
        "Groups": "",
        "NoNewPrivs": "1",
        "Seccomp": "2",
        **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0" * 16),
    }
    found = {k: "" if status.get(k, "").strip() == v else f"is {status.get(k)!r}" for k, v in expected.items()}
    filters = int(status.get("Seccomp_filters", question["inherited"] + 1))
    found["filters"] = "" if filters > question["inherited"] else f"{filters}, no more than the launcher has"
    open_fds = sorted(int(n) for n in os.listdir("/proc/self/fd"))
    extra = [n for n in open_fds if n > 2 and _leads_somewhere(n)]
    found["descriptors"] = "" if not extra else f"open: {extra}"
    return found


def _leads_somewhere(fd: int) -> bool:
    try:
        return not os.readlink(f"/proc/self/fd/{fd}").startswith(("/proc/", "socket:"))
    except OSError:
        return False


def confinement(question: dict[str, Any]) -> dict[str, dict[str, str]]:
    tries = (read_outside, write_outside, exec_outside, shell, network, seccomp, identity)
    return {t.__name__: t(question) for t in tries}


def mark(question: dict[str, Any]) -> dict[str, str]:
    """Write a file into the workspace, whose owner is then looked at from outside."""
    path = os.path.join(question["workspace"], "mark")
    try:
        _open(path, os.O_WRONLY | os.O_CREAT)
    except OSError as e:
        return {"workspace": e.strerror or "?"}
    return {"workspace": ""}


def memory(question: dict[str, Any]) -> dict[str, Any]:
    area = mmap.mmap(-1, question["bytes"])
    for at in range(0, question["bytes"], 4096):
        area[at] = 1
    return {"touched": question["bytes"]}


def processes(question: dict[str, Any]) -> dict[str, Any]:
    children = []
    for _ in range(question["count"]):
        try:
            pid = os.fork()
        except OSError:
            break
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return {"forked": len(children)}


def cpu(question: dict[str, Any]) -> dict[str, Any]:
    end = time.monotonic() + question["seconds"]
    while time.monotonic() < end:
        pass
    return {"cpu": time.process_time()}


def files(_: dict[str, Any]) -> dict[str, Any]:
    opened: list[int] = []
    with contextlib.suppress(OSError):
        while len(opened) < 1 << 20:
            opened.append(os.dup(1))
    highest = max(opened, default=2)
    for fd in opened:
        os.close(fd)
    return {"highest": highest, "limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0]}


def _fill(path: str, most: int) -> tuple[int, int]:
    """(bytes written, errno at the end)."""
    written, stopped = 0, 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while written < most:
            written += os.write(fd, bytes(min(_CHUNK, most - written)))
    except OSError as e:
        stopped = e.errno or 0
    finally:
        os.close(fd)
        os.unlink(path)
    return written, stopped


def disk(question: dict[str, Any]) -> dict[str, Any]:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    written, stopped = _fill(os.path.join(question["place"], "fill"), question["most"])
    return {"written": written, "errno": stopped}


def timeout(_: dict[str, Any]) -> dict[str, Any]:
    """Do everything that survives a naive killer: ignore signals, leave the session, leave the parent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            while True:
                signal.pause()
        os._exit(0)
    while True:
        signal.pause()


_QUESTIONS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    f.__name__: f for f in (confinement, allowed_commands, readonly, mark, memory, processes, cpu, files, disk, timeout)
}


def attempt(text: str) -> bytes:
    """Answer one question of the prover, as JSON."""
    question = json.loads(text)
    return json.dumps(_QUESTIONS[question["what"]](question)).encode()
