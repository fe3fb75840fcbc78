"""The composition root: `stockade serve`. The only file that knows every room.

As root it makes directories and the listening socket, forks launcher, auditor and parser before anything large is
imported, and becomes user `stockade`. What follows runs without any privilege, under its own Landlock and seccomp.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import pwd
import socket
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from supervisor import __version__, systemd
from supervisor.kernel import process
from supervisor.layout import Layout, layout
from supervisor.wire import framing

if TYPE_CHECKING:
    from collections.abc import Callable

# What the service manager says to the service (sd_notify(3), sd_listen_fds(3)), and what programs need to run.
KEPT_ENVIRONMENT = (
    "PATH", "LANG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES",
    "INVOCATION_ID", "JOURNAL_STREAM",
)  # fmt: skip
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.daemon import entry; entry()"

EX_CONFIG = 78  # sysexits.h: systemd does not restart on it (RestartPreventExitStatus=)
EX_NOPERM = 77
EX_TEMPFAIL = 75


class StartError(Exception):
    """Why the service cannot start; carries the exit status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Accounts:
    uid: int
    gid: int
    audit_uid: int
    audit_gid: int
    clients: int


def accounts() -> Accounts:
    """The users and the group that the service needs. Raises StartError naming what is missing."""
    try:
        main, audit = pwd.getpwnam("stockade"), pwd.getpwnam("stockade-audit")
        clients = grp.getgrnam("stockade-clients")
    except KeyError as e:
        raise StartError(EX_CONFIG, f"{e.args[0]}; scripts/install makes it, or systemd-sysusers does") from e
    return Accounts(main.pw_uid, main.pw_gid, audit.pw_uid, audit.pw_gid, clients.gr_gid)


def make_directories(where: Layout, who: Accounts) -> None:
    """Every directory of the layout with the owner and mode it must have; what is there is set right, never widened."""
    for path, mode, uid, gid in (
        (where.etc, 0o755, 0, 0),
        (where.run, 0o755, 0, 0),
        (where.state, 0o700, who.uid, who.gid),
        (where.spool, 0o700, who.uid, who.gid),
        (where.log, 0o750, who.audit_uid, who.gid),
    ):
        os.makedirs(path, mode=0o755, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            # Only what is not so yet: the unit sees /etc read-only, where even a change to the same is refused.
            info = os.fstat(fd)
            if (info.st_uid, info.st_gid) != (uid, gid):
                os.fchown(fd, uid, gid)
            if stat.S_IMODE(info.st_mode) != mode:
                os.fchmod(fd, mode)
        finally:
            os.close(fd)


def only_instance(where: Layout) -> int:
    """A lock that is held as long as this process or one that it forked lives. Raises StartError."""
    fd = os.open(os.path.join(where.run, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        os.close(fd)
        raise StartError(EX_TEMPFAIL, f"another stockade serves {where.run}") from e
    return fd


def listen(where: Layout, who: Accounts) -> socket.socket:
    """The API's socket: from systemd, or made here with mode 0660 for the group of clients."""
    passed = systemd.listening_socket()
    if passed is not None:
        return passed
    with contextlib.suppress(FileNotFoundError):
        os.unlink(where.socket)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777)
    try:
        sock.bind(where.socket)
    except OSError as e:
        raise StartError(EX_CONFIG, f"{where.socket}: {e.strerror or e}") from e
    finally:
        os.umask(mask)
    os.chown(where.socket, 0, who.clients)
    os.chmod(where.socket, 0o660)
    sock.listen(512)
    return sock


def compiled_filters() -> dict[str, tuple[bytes, ...]]:
    """The seccomp programs of our processes, compiled in a child, so that this one never loads libseccomp."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            import pickle

            from supervisor.kernel import seccomp

            with open(into, "wb") as f:
                pickle.dump({name: seccomp.compile_filter(name) for name in ("main", "auditor", "parser")}, f)
            os._exit(0)
        except BaseException as e:  # noqa: BLE001 - told on stderr, and the parent sees the status
            sys.stderr.write(f"stockade: seccomp filters: {e}\n")
        finally:
            os._exit(1)
    os.close(into)
    import pickle

    with open(out, "rb") as f:
        data = f.read()
    if os.waitpid(pid, 0)[1] != 0:
        raise StartError(EX_CONFIG, "the seccomp filters cannot be compiled: install libseccomp2")
    found: dict[str, tuple[bytes, ...]] = pickle.loads(data)  # noqa: S301 - written by our own child above
    return found


def fork(life: Callable[[], int], keep: tuple[int, ...]) -> int:
    """Fork a process that lives `life` with only `keep` open beyond stdio, /dev/null as stdin."""
    pid = os.fork()
    if pid:
        return pid
    try:
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.close(null)
        process.close_from(3, keep)
        os._exit(life())
    except BaseException as e:  # noqa: BLE001 - the end of this process; the log must say why
        import traceback

        traceback.print_exc(file=sys.stderr)
        sys.stderr.write(f"stockade: {e}\n")
    finally:
        os._exit(70)


def give_up_root(uid: int, gid: int) -> None:
    process.lock_down(process.last_capability())
    process.give_up(uid, gid)
    process.prctl(process.PR_SET_DUMPABLE, 0)


def confine(read: list[str], write: list[str], filters: tuple[bytes, ...], execute: tuple[str, ...] = ()) -> None:
    """Landlock and seccomp for a process of our own. Without Landlock in the kernel only the filter remains, and
    every profile that requires Landlock is refused anyway."""
    from supervisor.kernel import landlock, seccomp

    if landlock.abi():
        ruleset, _ = landlock.build(
            read=read, write=write, execute=list(execute), devices=["/dev/null", "/dev/urandom"], tcp=False
        )
        landlock.restrict_self(ruleset)
        os.close(ruleset)
    seccomp.load(filters)


def programs() -> list[str]:
    """Where this interpreter and this package are read from."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [*{here, sys.prefix, sys.base_prefix, sys.exec_prefix, "/usr", "/lib", "/lib64"}]


def serve(root: str | None = None) -> NoReturn:
    """`stockade serve`: become the service. See docs/architecture.md for the processes.

    A fresh interpreter, because what this one imported for the command line would be copied into every child that
    the launcher forks; isolated (-I) and with a clean environment, because it is root.
    """
    kept = {k: v for k, v in os.environ.items() if k in KEPT_ENVIRONMENT}
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    os.execve(sys.executable, [sys.executable, "-I", "-c", _BOOT, here, *([root] if root else [])], kept)  # noqa: S606


def run(root: str | None) -> int:
    """The life of the service; its exit status."""
    try:
        if os.geteuid() != 0:
            raise StartError(EX_NOPERM, "the service starts as root (it drops it at once); use systemctl or sudo")
        where = layout(root)
        who = accounts()
        make_directories(where, who)
        lock = only_instance(where)
        listener = listen(where, who)
        filters = compiled_filters()
    except (StartError, ValueError, OSError) as e:
        sys.stderr.write(f"stockade: {e}\n")
        return e.status if isinstance(e, StartError) else EX_CONFIG

    launcher, launcher_end = framing.pair()
    auditor, auditor_end = framing.pair()
    between, between_end = framing.pair()  # launcher and auditor speak without main
    parser, parser_end = framing.pair()

    def live_launcher() -> int:
        from supervisor.launcher import main as launcher_main

        return launcher_main.run(launcher_end, between, where)

    def live_auditor() -> int:
        from supervisor.audit import auditor as audit_process

        read = [*programs(), "/proc/self"]
        give_up_root(who.audit_uid, who.audit_gid)
        return audit_process.run(
            auditor_end, between_end, where.audit, confine=lambda: confine(read, [where.log], filters["auditor"])
        )

    def live_parser() -> int:
        from supervisor.parser import process as parser_process
        from supervisor.parser.shfmt import binary

        give_up_root(who.uid, who.gid)
        return parser_process.run(
            parser_end, confine=lambda: confine([*programs(), "/proc/self"], [], filters["parser"], (str(binary()),))
        )

    from supervisor.kernel import cgroup

    bases = cgroup.detect(where.instance).bases()
    fork(live_launcher, (launcher_end.fileno(), between.fileno(), lock))
    fork(live_auditor, (auditor_end.fileno(), between_end.fileno()))
    fork(live_parser, (parser_end.fileno(),))
    for end in (launcher_end, auditor_end, between, between_end, parser_end):
        end.close()
    os.close(lock)
    give_up_root(who.uid, who.gid)
    return become_main(where, listener, (launcher, auditor, parser), bases, filters["main"])


def become_main(
    where: Layout,
    listener: socket.socket,
    peers: tuple[socket.socket, socket.socket, socket.socket],
    bases: list[str],
    filters: tuple[bytes, ...],
) -> int:
    """The unprivileged part: only here the large rooms are imported."""
    import asyncio

    from supervisor.main import Main

    read = [*programs(), "/proc", "/etc"]
    main = Main(where, listener, peers, bases, __version__)
    confine(read, [where.state], filters)
    with asyncio.Runner() as runner:
        return runner.run(main.run())


def entry() -> NoReturn:
    """Where the fresh interpreter begins: argv is PACKAGE_PARENT [ROOT]."""
    sys.exit(run(sys.argv[2] if len(sys.argv) > 2 else None))
