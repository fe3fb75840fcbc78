"""The compiled filters in the real kernel: each forbidden call is really made, and each is made without the filter too.

The second half is the control: an attempt that fails in the same way without the filter proves nothing.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import pty
import signal
import socket
import stat
import struct
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyseccomp
import pytest

from supervisor.kernel import filters, seccomp
from supervisor.kernel.syscalls import MACHINE, NR, call
from tests.kernel.child import Died, cloned, in_child, no_new_privs, outcome

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.root
x86_only = pytest.mark.skipif(MACHINE != "x86_64", reason="machine code and call numbers of x86-64")

PROGRAMS = {name: seccomp.compile_filter(name, memfd=True) for name in filters.FILTERS}
AT_FDCWD = -100


def confined(attempt: Callable[[], Any], name: str = "tool") -> Any:
    def child() -> Any:
        no_new_privs()
        seccomp.load(PROGRAMS[name])
        return attempt()

    return in_child(child)


def number(name: str) -> int:
    nr = NR.get(name) or int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))
    assert nr >= 0, name
    return nr


# Arguments that do nothing, or fail harmlessly, where they are let through to a root process.
DENIED: dict[str, tuple[int | bytes | None, ...]] = {
    "mount": (None, b"/nonexistent", b"tmpfs", 0, None),
    "umount2": (b"/nonexistent", 0),
    "pivot_root": (b"/nonexistent", b"/nonexistent"),
    "chroot": (b"/nonexistent",),
    "fsopen": (b"nonesuch", 0),
    "fsconfig": (-1, 0, None, None, 0),
    "fsmount": (-1, 0, 0),
    "fspick": (-1, b"nonexistent", 0),
    "open_tree": (-1, b"nonexistent", 0),
    "open_tree_attr": (-1, b"nonexistent", 0, None, 0),
    "move_mount": (-1, b"nonexistent", -1, b"nonexistent", 0),
    "mount_setattr": (-1, b"nonexistent", 0, None, 0),
    "unshare": (0,),
    "setns": (-1, 0),
    "ptrace": (7, 0x3FFFFFFF, 0, 0),
    "process_vm_readv": (0x3FFFFFFF, None, 0, None, 0, 0),
    "process_vm_writev": (0x3FFFFFFF, None, 0, None, 0, 0),
    "process_madvise": (-1, None, 0, 0, 0),
    "pidfd_getfd": (-1, 0, 0),
    "kcmp": (0x3FFFFFFF, 0x3FFFFFFF, 0, 0, 0),
    "migrate_pages": (0x3FFFFFFF, 0, None, None),
    "move_pages": (0x3FFFFFFF, 0, None, None, None, 0),
    "bpf": (9999, None, 0),
    "perf_event_open": (None, 0, -1, -1, 0),
    "keyctl": (9999,),
    "add_key": (None, None, None, 0, 0),
    "request_key": (None, None, None, 0),
    "io_uring_setup": (0, None),
    "io_uring_enter": (-1, 0, 0, 0, None, 0),
    "io_uring_register": (-1, 0, None, 0),
    "userfaultfd": (0xFFFF,),
    "memfd_secret": (0xFFFF,),
    "fanotify_init": (0xFFFFFFFF, 0),
    "fanotify_mark": (-1, 0, 0, -1, None),
    "name_to_handle_at": (-1, b"nonexistent", None, None, 0),
    "open_by_handle_at": (-1, None, 0),
    "modify_ldt": (99, None, 0),
    "lookup_dcookie": (0, None, 0),
    "init_module": (None, 0, None),
    "finit_module": (-1, None, 0),
    "delete_module": (None, 0),
    "kexec_load": (0, 999, None, 0),
    "kexec_file_load": (-1, -1, 0, None, 0xFFFF),
    "reboot": (0, 0, 0, None),
    "swapon": (None, 0),
    "swapoff": (None,),
    "quotactl": (-1, None, 0, None),
    "quotactl_fd": (-1, -1, 0, None),
    "acct": (b"/nonexistent",),
    "syslog": (99, None, 0),
    "settimeofday": (None, None),
    "clock_settime": (999, None),
    "clock_adjtime": (999, None),
    "adjtimex": (None,),
    "iopl": (99,),
    "ioperm": (0xFFFFFFFF, 1, 1),
    "sethostname": (None, -1),
    "setdomainname": (None, -1),
    "lsm_set_self_attr": (0, None, 0, 0),
    "nfsservctl": (0, None, None),
    "create_module": (None, 0),
    "query_module": (None, 0, None, 0, None),
    "get_kernel_syms": (None,),
}
NOT_TRIED_UNFILTERED = {"vhangup"}  # takes no argument and does its work


def attempt_all() -> dict[str, int]:
    return {name: outcome(partial(call, number(name), *args)) for name, args in DENIED.items()}


@x86_only
def test_every_denied_call_is_denied_by_the_filter_and_not_by_chance() -> None:
    """EPERM for each with the filter; without it the kernel answers otherwise to a root process."""
    assert confined(attempt_all) == dict.fromkeys(DENIED, errno.EPERM)
    unfiltered = in_child(attempt_all)
    undecided = {name for name, got in unfiltered.items() if got == errno.EPERM}
    # What a container's root may not do by itself (modules, swap, clock) cannot be told apart; most can.
    assert len(undecided) <= 15, undecided
    for name in ("mount", "unshare", "setns", "ptrace", "process_vm_writev", "keyctl", "open_tree", "kcmp"):
        assert name not in undecided


@x86_only
def test_the_attempts_cover_every_denied_call() -> None:
    assert filters.TOOL.names("deny") - DENIED.keys() == NOT_TRIED_UNFILTERED
    assert confined(lambda: outcome(lambda: call(number("vhangup")))) == errno.EPERM


def test_calls_with_hidden_arguments_and_unknown_calls_do_not_exist() -> None:
    how = struct.pack("=QQQ", os.O_RDONLY, 0, 0)

    def openat2() -> int:
        return outcome(lambda: os.close(call("openat2", AT_FDCWD, b"/", how, len(how))))

    assert in_child(openat2) == 0
    assert confined(openat2) == errno.ENOSYS
    assert confined(lambda: outcome(lambda: call("clone3", None, 0))) == errno.ENOSYS
    assert in_child(lambda: outcome(lambda: call("clone3", None, 0))) == errno.EINVAL
    assert confined(lambda: outcome(lambda: call(999))) == errno.ENOSYS


@pytest.mark.parametrize("flag", filters.CLONE_NEW)
def test_clone_makes_no_namespace(flag: str) -> None:
    flags = filters.CLONE_NEW[flag] | signal.SIGCHLD
    assert in_child(lambda: cloned(flags)) == 0
    assert confined(lambda: cloned(flags)) == errno.EPERM
    assert confined(lambda: cloned(signal.SIGCHLD)) == 0


# --- set-id bits and device nodes --------------------------------------------------------------------------------


def made(way: str, where: Path, mode: int) -> int:
    """0 when a file with these mode bits could be had by this way; the umask is off."""
    name = os.fsencode(where / "new")
    os.umask(0)
    at = AT_FDCWD

    def existing() -> int:
        return os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    ways: dict[str, Callable[[], Any]] = {
        "open": lambda: call(number("open"), name, os.O_CREAT | os.O_WRONLY, mode),
        "openat": lambda: call(number("openat"), at, name, os.O_CREAT | os.O_WRONLY, mode),
        "openat with junk above": lambda: call(number("openat"), at, name, os.O_CREAT | os.O_WRONLY, mode | 1 << 40),
        "O_TMPFILE": lambda: call(number("openat"), at, os.fsencode(where), os.O_TMPFILE | os.O_RDWR, mode),
        "creat": lambda: call(number("creat"), name, mode),
        "mknod": lambda: call(number("mknod"), name, stat.S_IFREG | mode, 0),
        "mknodat": lambda: call(number("mknodat"), at, name, stat.S_IFREG | mode, 0),
        "chmod": lambda: (existing(), call(number("chmod"), name, mode)),
        "fchmod": lambda: call(number("fchmod"), existing(), mode),
        "fchmodat": lambda: (existing(), call(number("fchmodat"), at, name, mode)),
        "fchmodat2": lambda: (existing(), call(number("fchmodat2"), at, name, mode, 0)),
    }
    return outcome(ways[way])


WAYS = ["open", "openat", "openat with junk above", "O_TMPFILE", "creat", "mknod", "mknodat", "chmod", "fchmod",
        "fchmodat", "fchmodat2"]  # fmt: skip


@x86_only
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_to_a_set_id_file(way: str, mode: int, tmp_path: Path) -> None:
    free, boxed, plain = (tmp_path / d for d in ("free", "boxed", "plain"))
    for directory in (free, boxed, plain):
        directory.mkdir()
    assert in_child(lambda: made(way, free, mode)) == 0
    if way != "O_TMPFILE":
        assert (free / "new").stat().st_mode & 0o6000 == mode & 0o6000, "the control did not make one"
    assert confined(lambda: made(way, boxed, mode)) == errno.EPERM
    assert [p for p in boxed.iterdir() if p.stat().st_mode & 0o6000] == []
    assert confined(lambda: made(way, plain, mode & 0o777)) == 0


@x86_only
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize("way", ["mknod", "mknodat"])
def test_no_device_nodes(way: str, kind: int, tmp_path: Path) -> None:
    def node(name: str) -> int:
        where = os.fsencode(tmp_path / name)
        first: tuple[int, ...] = (AT_FDCWD,) if way == "mknodat" else ()
        return outcome(lambda: call(number(way), *first, where, kind | 0o600, os.makedev(1, 3)))

    assert in_child(lambda: node("free")) == 0
    assert confined(lambda: node("boxed")) == errno.EPERM
    assert not (tmp_path / "boxed").exists()


def test_directories_fifos_and_links_are_made_as_ever(tmp_path: Path) -> None:
    def make() -> None:
        (tmp_path / "d").mkdir(0o1777)
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "link").symlink_to("fifo")
        (tmp_path / "d" / "f").write_text("x")
        (tmp_path / "d" / "f").chmod(0o755)
        (tmp_path / "d" / "f").rename(tmp_path / "f")

    confined(make)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "f", "fifo", "link"]


# --- sockets, terminals, memory ------------------------------------------------------------------------------------

# Where family and type are both refused, or type and protocol, the answer is one of the two.
REFUSALS = {errno.EAFNOSUPPORT, errno.EPERM, errno.EPROTONOSUPPORT}
SOCKETS = {
    "netlink": (16, socket.SOCK_RAW, 0),
    "netlink, datagram": (16, socket.SOCK_DGRAM, 0),
    "packet": (17, socket.SOCK_RAW, 0),
    "packet, old": (socket.AF_INET, 10, 0),
    "raw": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "raw ipv6": (socket.AF_INET6, socket.SOCK_RAW, 58),
    "raw tcp": (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
    "vsock": (40, socket.SOCK_STREAM, 0),
    "alg": (38, socket.SOCK_SEQPACKET, 0),
    "bluetooth": (31, socket.SOCK_RAW, 1),
    "mptcp": (socket.AF_INET, socket.SOCK_STREAM, 262),
    "sctp": (socket.AF_INET, socket.SOCK_STREAM, 132),
    "ping": (socket.AF_INET, socket.SOCK_DGRAM, 1),
}


def opened(family: int, kind: int, protocol: int) -> int:
    return outcome(lambda: os.close(call(number("socket"), family, kind, protocol)))


@pytest.mark.parametrize("which", SOCKETS)
def test_other_sockets_cannot_be_opened(which: str) -> None:
    family, kind, protocol = SOCKETS[which]
    for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK):
        assert confined(partial(opened, family, kind | flags, protocol)) in REFUSALS


def test_those_sockets_can_be_opened_without_the_filter() -> None:
    """The control, in one: a kernel may lack a family or two, but not all of them."""
    free = {which for which, args in SOCKETS.items() if in_child(partial(opened, *args)) == 0}
    assert free >= {"netlink", "netlink, datagram", "raw", "raw tcp", "packet"}, free


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_ordinary_sockets_open(family: int, kind: int) -> None:
    assert confined(lambda: opened(family, kind | socket.SOCK_CLOEXEC, 0)) == 0


def test_no_character_is_pushed_into_a_terminal() -> None:
    """TIOCSTI on one's own controlling terminal; the high half of the command must not hide it."""

    def push(command: int) -> list[int]:
        os.setsid()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal goes away at the end
        controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, 0x540E, 0)  # TIOCSCTTY
        result = outcome(lambda: call("ioctl", terminal, command, b"x"))
        size = struct.pack("HHHH", 24, 80, 0, 0)
        works = outcome(lambda: fcntl.ioctl(terminal, 0x5414, size))  # TIOCSWINSZ
        os.close(controller)
        return [result, works]

    assert in_child(lambda: push(filters.TIOCSTI)) == [0, 0]
    assert in_child(lambda: push(filters.TIOCSTI | 1 << 32)) == [0, 0], "the kernel cuts the command at 32 bits"
    for high in (0, 1 << 32, 0xFFFFFFFF << 32):
        assert confined(partial(push, filters.TIOCSTI | high)) == [errno.EPERM, 0]


@pytest.mark.parametrize("command", [filters.TIOCLINUX, filters.TIOCCONS, filters.TIOCSETD])
def test_no_console_or_line_discipline_is_taken(command: int) -> None:
    def attempt() -> int:
        return outcome(lambda: call("ioctl", -1, command, None))

    assert in_child(attempt) == errno.EBADF
    assert confined(attempt) == errno.EPERM


def test_project_ids_are_not_changed(tmp_path: Path) -> None:
    def attempt() -> int:
        fd = os.open(tmp_path, os.O_RDONLY)
        return outcome(lambda: call("ioctl", fd, filters.FS_IOC_FSSETXATTR, None))

    assert in_child(attempt) != errno.EPERM
    assert confined(attempt) == errno.EPERM


def test_prctl_and_personality_keep_to_the_harmless() -> None:
    mm, name, persona = filters.PR_SET_MM, 15, number("personality")
    assert confined(lambda: outcome(lambda: call("prctl", mm, 99, 0, 0, 0))) == errno.EPERM
    assert confined(lambda: outcome(lambda: call("prctl", 9999, 0, 0, 0, 0))) == errno.ENOSYS
    assert in_child(lambda: outcome(lambda: call("prctl", 9999, 0, 0, 0, 0))) == errno.EINVAL
    assert confined(lambda: outcome(lambda: call("prctl", name, b"new name", 0, 0, 0))) == 0
    for value, verdict in ((0xFFFFFFFF, 0), (0, 0), (0x40000, 0), (0x400000, errno.ENOSYS), (8, errno.ENOSYS)):
        assert in_child(partial(outcome, partial(call, persona, value))) == 0
        assert confined(partial(outcome, partial(call, persona, value))) == verdict


def test_memory_files_are_not_executable_by_asking_and_huge_pages_are_out_of_reach() -> None:
    def memfd(flags: int) -> int:
        return outcome(lambda: os.close(call("memfd_create", b"m", flags)))

    assert in_child(lambda: memfd(filters.MFD_EXEC)) == 0
    assert confined(lambda: memfd(filters.MFD_EXEC)) == errno.EPERM
    assert confined(lambda: memfd(filters.MFD_HUGETLB)) == errno.ENOMEM
    assert confined(lambda: memfd(1)) == 0

    def huge() -> int:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | filters.MAP_HUGETLB
        return outcome(lambda: mmap.mmap(-1, 2 << 20, flags=flags))

    assert confined(huge) == errno.ENOMEM


def test_no_bpf_program_is_attached_to_a_socket() -> None:
    def attach() -> int:
        code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
        fprog = struct.pack("=H6xQ", 1, ctypes.addressof(code))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            return outcome(lambda: s.setsockopt(1, filters.SO_ATTACH_FILTER, fprog))

    assert in_child(attach) == 0
    assert confined(attach) == errno.EPERM


# --- other architectures -----------------------------------------------------------------------------------------

INT80_GETPID = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
X32_GETPID = b"\xb8\x27\x00\x00\x40\x0f\x05\xc3"  # mov eax, 0x40000000 + 39; syscall; ret
X64_GETPID = b"\xb8\x27\x00\x00\x00\x0f\x05\xc3"  # mov eax, 39; syscall; ret


def in_machine_code(code: bytes) -> bool:
    """Whether getpid by this way answered with the process's own pid."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return bool(function() == os.getpid())


@x86_only
def test_the_machine_code_of_the_next_tests_works() -> None:
    assert in_child(lambda: in_machine_code(X64_GETPID)) is True
    assert confined(lambda: in_machine_code(X64_GETPID)) is True


@x86_only
@pytest.mark.parametrize("name", filters.FILTERS)
@pytest.mark.parametrize(("way", "code"), [("int80", INT80_GETPID), ("x32", X32_GETPID)])
def test_foreign_calls_kill_the_process(way: str, code: bytes, name: str) -> None:
    in_child(lambda: in_machine_code(code))  # without a filter the process survives, whatever the kernel answers
    with pytest.raises(Died) as caught:
        confined(lambda: in_machine_code(code), name)
    assert caught.value.signal == signal.SIGSYS


# --- loading -----------------------------------------------------------------------------------------------------


def test_loading_needs_no_new_privs_or_privilege_and_says_so() -> None:
    def without() -> int:
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        return outcome(lambda: seccomp.load(PROGRAMS["tool"]))

    assert in_child(without) == errno.EACCES


def test_the_kernel_counts_the_loaded_programs() -> None:
    def fields() -> dict[str, str]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return {k: v.strip() for k, v in (line.split(":", 1) for line in lines) if k.startswith(("Seccomp", "NoNew"))}

    before, after = in_child(fields), confined(fields)
    assert after["Seccomp"] == "2"
    assert after["NoNewPrivs"] == "1"
    count = int(after["Seccomp_filters"]) - int(before.get("Seccomp_filters", "0"))
    assert count == seccomp.receipt("tool", PROGRAMS["tool"])["programs"]


def test_a_loaded_filter_cannot_be_taken_off_and_is_inherited() -> None:
    def attempt() -> list[int]:
        off = outcome(lambda: call("seccomp", 0, 0, None))  # strict mode
        allow_all = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, seccomp.SECCOMP_RET_ALLOW))
        more = outcome(lambda: call("seccomp", 1, 0, struct.pack("=H6xQ", 1, ctypes.addressof(allow_all))))
        here = outcome(lambda: call("unshare", 0))
        pid = os.fork()
        if pid == 0:
            os._exit(outcome(lambda: call("unshare", 0)))
        return [off, more, here, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]

    assert confined(attempt) == [errno.EINVAL, 0, errno.EPERM, errno.EPERM]


def test_a_broken_program_is_refused_by_the_kernel() -> None:
    def attempt() -> int:
        no_new_privs()
        return outcome(lambda: seccomp.load((struct.pack("=HBBI", 0xFF, 0, 0, 0),)))

    assert in_child(attempt) == errno.EINVAL


# --- our own processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["main", "auditor"])
def test_our_own_processes_start_nothing_and_open_no_network(name: str) -> None:
    refusal = errno.EAFNOSUPPORT if name == "main" else errno.EPERM
    attempts: dict[str, Callable[[], int]] = {
        "fork": lambda: outcome(lambda: os._exit(0) if os.fork() == 0 else None),
        "execve": lambda: outcome(lambda: os.execv("/bin/true", ["true"])),  # noqa: S606
        "posix_spawn": lambda: outcome(lambda: os.posix_spawn("/bin/true", ["true"], {})),
        "clone": lambda: cloned(signal.SIGCHLD),
        "kill": lambda: outcome(lambda: os.kill(os.getppid(), 0)),
        "inet": lambda: opened(socket.AF_INET, socket.SOCK_STREAM, 0),
        "netlink": lambda: opened(16, 2, 0),
    }
    wanted = dict.fromkeys(attempts, errno.EPERM) | {"inet": refusal, "netlink": refusal}
    assert confined(lambda: {k: v() for k, v in attempts.items()}, name) == wanted


def test_main_may_have_threads_and_the_auditor_none() -> None:
    def thread() -> str:
        done: list[int] = []
        t = threading.Thread(target=lambda: done.append(1))
        try:
            t.start()
        except RuntimeError as e:
            return str(e)
        t.join()
        return f"{len(done)}"

    assert confined(thread, "main") == "1"
    assert confined(thread, "auditor") == "can't start new thread"


def test_the_auditor_appends_takes_back_and_rotates_but_removes_nothing(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"

    def attempt() -> dict[str, int]:
        fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(fd, b"{}\nhalf a rec")
        os.ftruncate(fd, 3)
        os.fdatasync(fd)
        log.rename(tmp_path / "audit.1.jsonl")
        return {
            "truncate": outcome(lambda: os.truncate(tmp_path / "audit.1.jsonl", 0)),
            "unlink": outcome(lambda: (tmp_path / "audit.1.jsonl").unlink()),
            "chmod": outcome(lambda: (tmp_path / "audit.1.jsonl").chmod(0o666)),
        }

    got = confined(attempt, "auditor")
    assert got == dict.fromkeys(got, errno.EPERM)
    assert (tmp_path / "audit.1.jsonl").read_text() == "{}\n"


def test_the_child_side_imports_nothing_heavy() -> None:
    """load() is for a child that shall not pay for libseccomp."""
    code = "import sys; from supervisor.kernel import seccomp; print('pyseccomp' in sys.modules)"
    r, w = os.pipe()
    with os.fdopen(r) as out:
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", code],
            {**os.environ, "PYTHONPATH": str(Path(seccomp.__file__).parents[2])},
            file_actions=[(os.POSIX_SPAWN_DUP2, w, 1)],
        )
        os.close(w)
        assert out.read().strip() == "False"
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
