"""What main's state and the parser's shfmt need, each under the filter and the Landlock that the process really has."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sqlite3
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from supervisor import daemon
from supervisor.decide.shell.model import ShellSyntaxError
from supervisor.kernel import seccomp
from supervisor.parser import shfmt
from tests.kernel.child import in_child, no_new_privs, outcome

pytestmark = pytest.mark.root

MAIN = seccomp.compile_filter("main")
PARSER = seccomp.compile_filter("parser")
ROWS = 200


def confined_main(state: Path) -> None:
    no_new_privs()
    daemon.confine([*daemon.programs(), "/proc", "/etc"], [str(state)], MAIN)


def wal(state: Path) -> Any:
    """A database as the state keeps it: WAL, full sync, one thread that writes while others read."""
    confined_main(state)
    path = str(state / "decisions.db")
    failures: list[BaseException] = []

    def writing() -> None:
        try:
            db = sqlite3.connect(path)
            mode = db.execute("pragma journal_mode=wal").fetchone()[0]
            assert mode == "wal"
            db.execute("pragma synchronous=full")
            db.execute("pragma mmap_size=1048576")
            db.execute("create table t(n integer primary key, v blob)")
            for n in range(ROWS):
                db.execute("begin immediate")
                db.execute("insert into t values (?, ?)", (n, os.urandom(2000)))
                db.commit()
            db.execute("pragma wal_checkpoint(truncate)").fetchall()
            db.execute("delete from t where n % 2")
            db.commit()
            db.execute("vacuum")
            db.execute("pragma incremental_vacuum")
            db.close()  # the last one: it removes the -wal and -shm files
        except BaseException as e:
            failures.append(e)

    writer = threading.Thread(target=writing)
    writer.start()
    counts = []
    while writer.is_alive():
        reader = sqlite3.connect(path)
        try:
            counts.append(reader.execute("select count(*) from t").fetchone()[0])
        except sqlite3.OperationalError as e:
            if not any(said in str(e) for said in ("no such table", "locked")):  # before it is made, while it is packed
                failures.append(e)
        finally:
            reader.close()
    writer.join()
    assert failures == []
    db = sqlite3.connect(path)
    (left,) = db.execute("select count(*) from t").fetchone()
    (check,) = db.execute("pragma integrity_check").fetchone()
    db.close()
    return [left, check, 0 < max(counts) <= ROWS, sorted(os.listdir(state))]


def test_sqlite_works_as_main_uses_it(tmp_path: Path) -> None:
    assert in_child(lambda: wal(tmp_path)) == [ROWS // 2, "ok", True, ["decisions.db"]]


def test_sqlite_recovers_what_a_killed_main_left(tmp_path: Path) -> None:
    def killed() -> None:
        confined_main(tmp_path)
        db = sqlite3.connect(tmp_path / "decisions.db", isolation_level=None)
        db.execute("pragma journal_mode=wal")
        db.execute("create table t(n)")
        db.execute("insert into t values (1)")
        db.execute("begin")
        db.execute("insert into t values (2)")
        os._exit(9)

    pid = os.fork()
    if pid == 0:
        try:
            killed()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert (tmp_path / "decisions.db-wal").exists()

    def again() -> list[Any]:
        confined_main(tmp_path)
        with sqlite3.connect(tmp_path / "decisions.db") as db:
            return db.execute("select n from t").fetchall()

    assert in_child(again) == [[1]]


def bounded() -> None:
    for limit, most in shfmt.LIMITS.items():
        resource.setrlimit(limit, (most, most))


def confined_parser() -> None:
    bounded()
    no_new_privs()
    daemon.confine([*daemon.programs(), "/proc/self"], [], PARSER, (str(shfmt.binary()),))


def test_the_real_shfmt_parses_under_the_parsers_confinement() -> None:
    def parse() -> list[Any]:
        confined_parser()
        with shfmt.Shfmt() as one:
            kinds = [one.parse(text)["Type"] for text in ("echo a | sort", "if true; then $(b) & fi") * 3]
            try:
                one.parse("if then")
            except ShellSyntaxError:
                kinds.append("refused")
        return kinds

    assert in_child(parse) == ["File"] * 6 + ["refused"]


def test_what_the_parser_starts_has_the_parsers_limits() -> None:
    def limits() -> list[list[int]]:
        bounded()
        with shfmt.Shfmt() as one:
            assert one.parse("ls")
            waiting = one._waiting
            assert waiting is not None
            text = Path(f"/proc/{waiting.pid}/limits").read_text()
        shown = [line for line in text.splitlines() if line.startswith(("Max data", "Max core"))]
        return [list(map(int, line.split()[-3:-1])) for line in shown]

    assert sorted(in_child(limits)) == [[0, 0], [shfmt.MAX_MEMORY] * 2]


def test_shfmt_that_takes_too_long_or_writes_too_much_is_ended() -> None:
    def parse() -> str:
        confined_parser()
        with shfmt.Shfmt(seconds=0.0) as one:
            try:
                one.parse("echo a\n" * 9000)
            except ShellSyntaxError:
                return "refused"
        return "parsed"

    assert in_child(parse) == "refused"


def test_a_parser_that_is_taken_over_starts_changes_and_reaches_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    tmp_path.chmod(0o777)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def attempts() -> dict[str, int]:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            confined_parser()
            ours.send(b"what it holds still works")
            assert theirs.recv(100)
            return {
                "sh": outcome(lambda: os.execv("/bin/sh", ["sh", "-c", "exit 0"])),  # noqa: S606
                "python": outcome(lambda: os.execv("/usr/bin/python3", ["python3", "-c", "0"])),  # noqa: S606
                "popen": outcome(lambda: subprocess.run(["/bin/true"], check=True)),
                "write": outcome(lambda: os.open(tmp_path / "file", os.O_WRONLY)),
                "create": outcome(lambda: os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)),
                "device": outcome(lambda: os.open("/dev/null", os.O_RDWR)),
                "unlink": outcome(lambda: os.unlink(tmp_path / "file")),
                "chmod": outcome(lambda: os.chmod(tmp_path / "file", 0)),
                "read": outcome(lambda: os.open("/etc/passwd", os.O_RDONLY)),
                "socket": outcome(lambda: socket.create_connection(("127.0.0.1", port)).close()),
                "memfd": outcome(lambda: os.memfd_create("x")),
                "limits of others": outcome(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE)),
            }

        found = in_child(attempts)
    assert {name for name, code in found.items() if code not in (errno.EACCES, errno.EPERM)} == set(), found
    assert (tmp_path / "file").read_text() == "kept"
