"""One SQLite file, written by one thread: whatever waits is one transaction, and what is awaited is on the disk.

WAL with synchronous=FULL: a commit returns once the log is synced (SQLite, "Write-Ahead Logging"; fdatasync(2)). The
lock is exclusive, so no shared memory is mapped and no second service can write. A job is a function of the
connection; it runs in the writer's thread, inside a savepoint of the common transaction, so one that fails takes
nothing else with it. When the commit itself fails, every job in it has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, cast

from supervisor.errors import StockadeError, Unavailable
from supervisor.state import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")

MAX_WAITING = 20_000  # jobs; one more is refused: the disk does not keep up
BATCH = 1000  # jobs of one transaction
BUSY_SECONDS = 5.0  # for a process that ends and still holds the lock
CHECKPOINT_PAGES = 1000  # of 4 KiB in the log until its content is copied into the file
LOG_BYTES = 8 << 20  # what the log is cut to after a checkpoint

_DAMAGED = (
    "restore the file from a backup, or move it away together with its -wal file: then counters, grants and pending "
    "questions begin anew"
)


class Store:
    """Make it inside the running loop, then `await open()`; every other call needs an open store."""

    def __init__(self, path: str, *, waiting: int = MAX_WAITING) -> None:
        self.path = path
        self._most = waiting
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Open or make the file (0600) and check it. Raises Unavailable: missing rights, damage, not ours, in use."""
        opened: asyncio.Future[None] = self._loop.create_future()
        self._ended = self._loop.create_future()
        # A daemon: whatever ends the process must not wait for it. What was acknowledged is on the disk.
        self._thread = threading.Thread(target=self._life, args=(opened, self._ended), name="store", daemon=True)
        self._thread.start()
        try:
            await opened
        except BaseException:
            self._closing = True
            raise

    async def migrate(self, part: str, steps: Sequence[str]) -> int:
        """Bring the tables of one room up to date; how many steps that took. Raises Unavailable."""
        return await self.write(lambda connection: schema.migrate(connection, part, steps))

    async def write(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What `job` returns, once its changes are durable. Raises what it raises, or Unavailable."""
        return await self.post(job)

    async def read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """What `job` returns; it sees everything posted before. What it changes is lost. Raises as write()."""
        return await self._put(job, reads=True)

    async def restore(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """As write(), of a job that reads what the last process left; Unavailable too for rows that it cannot read."""
        try:
            return await self.write(job)
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise Unavailable(f"{self.path} is damaged: a row is none of ours: {e}"[:500], hint=_DAMAGED) from e

    def post(self, job: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Have `job` done; the future is done when its changes are durable. Jobs are done in the order of posting.

        Raises Unavailable when too many wait, or the store is closed. A future that is cancelled stops nothing.
        """
        return self._put(job, reads=False)

    async def close(self) -> None:
        """Everything that was posted is done, then the file is whole without its log."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._ended is not None and self._thread is not None:
            await asyncio.shield(self._ended)
            self._thread.join()

    def _put(self, job: Callable[[sqlite3.Connection], T], *, reads: bool) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        with self._wake:
            if self._closing or self._thread is None:
                raise Unavailable("the state is closed", hint="the service is ending; try again once it is back")
            if len(self._jobs) >= self._most:
                raise Unavailable(
                    f"{len(self._jobs)} changes wait for the disk",
                    allowed=f"{self._most} changes",
                    hint=f"the disk of {self.path} does not keep up; try again later",
                )
            self._jobs.append(_Job(cast("Callable[[sqlite3.Connection], Any]", job), future, reads))
            self._wake.notify()
        return future

    # --- the writer's thread --------------------------------------------------------------------------------------

    def _life(self, opened: asyncio.Future[None], ended: asyncio.Future[None]) -> None:
        connection: sqlite3.Connection | None = None
        try:
            connection = connect(self.path)
        except StockadeError as e:
            self._answer([(opened, None, e)])
        except (sqlite3.Error, OSError) as e:
            self._answer([(opened, None, _unavailable(self.path, e))])
        else:
            self._answer([(opened, None, None)])
            self._serve(connection)
        finally:
            if connection is not None:
                _finish(connection)
            self._answer([(ended, None, None)])

    def _serve(self, connection: sqlite3.Connection) -> None:
        while True:
            with self._wake:
                while not self._jobs and not self._closing:
                    self._wake.wait()
                if not self._jobs:
                    return
                batch = [self._jobs.popleft() for _ in range(min(len(self._jobs), BATCH))]
            self._answer(self._batch(connection, batch))

    def _batch(self, connection: sqlite3.Connection, batch: list[_Job]) -> list[_Answer]:
        answers: list[_Answer] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in batch:
                answers.append(_do(connection, job))
                if not connection.in_transaction:  # SQLite gave all of it up: disk full, input/output error
                    raise answers[-1][2] or sqlite3.OperationalError("a job ended the transaction")
            connection.execute("COMMIT")
        except Exception as e:  # noqa: BLE001 - the thread outlives every failure, and each is told
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            # A job's own error stays what it was; all that would have been durable is not.
            own = {id(future): error for future, _, error in answers}
            return [(job.future, None, self._told(own.get(id(job.future)) or e)) for job in batch]
        return [(future, result, error and self._told(error)) for future, result, error in answers]

    def _told(self, error: Exception) -> Exception:
        """An error as the caller gets it: a breach of a constraint is the job's own, the rest is the disk's."""
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            return _unavailable(self.path, error)
        return error

    def _answer(self, answers: list[_Answer]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(_settle, answers)


class _Job:
    __slots__ = ("future", "reads", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any], future: asyncio.Future[Any], reads: bool) -> None:
        self.work, self.future, self.reads = work, future, reads


_Answer = tuple["asyncio.Future[Any]", Any, "Exception | None"]


def _do(connection: sqlite3.Connection, job: _Job) -> _Answer:
    connection.execute("SAVEPOINT job")
    result, error = None, None
    try:
        result = job.work(connection)
    except Exception as e:  # noqa: BLE001 - whatever it is, it is the job's answer and nobody else's
        error = e
    if connection.in_transaction:
        if error is not None or job.reads:
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
    return job.future, result, error


def _settle(answers: list[_Answer]) -> None:
    for future, result, error in answers:
        if future.done():  # cancelled: whoever asked is gone
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def connect(path: str) -> sqlite3.Connection:
    """The file, made with 0600 when there is none, checked, its journal as it has to be. Raises as Store.open()."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Unavailable(f"{path} is no regular file", hint="move it away, then start again")
        # There is no log before the file's first page; SQLite would remove it (pager.c, pagerOpenWalIfPresent).
        if not status.st_size and os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
            raise Unavailable(f"{path} is damaged: it is empty, and its log is there", hint=_DAMAGED)
        os.fchmod(fd, 0o600)  # its log gets the same mode (SQLite, findCreateFileMode)
    finally:
        os.close(fd)
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=256)
    try:
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "temp_store = MEMORY",  # no file anywhere else
            "trusted_schema = OFF",
            "cell_size_check = ON",
            f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
            f"journal_size_limit = {LOG_BYTES}",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        found = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise Unavailable(f"{path} is damaged: {'; '.join(map(str, found))[:500]}", hint=_DAMAGED)
        connection.execute("BEGIN IMMEDIATE")
        schema.prepare(connection, path)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _finish(connection: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with contextlib.suppress(sqlite3.Error):
        connection.close()


_HINTS = {
    "SQLITE_FULL": "make room on the disk of {path}; nothing of this change was kept",
    "SQLITE_NOTADB": _DAMAGED,
    "SQLITE_CORRUPT": _DAMAGED,
    "SQLITE_BUSY": "another service has {path} open; end it first",
    "SQLITE_READONLY": "make {path} and its directory writable for the service's user",
    "SQLITE_CANTOPEN": "make {path} and its directory writable for the service's user",
    "SQLITE_IOERR": "look at the disk of {path} and at the kernel's log",
}


def _unavailable(path: str, error: Exception) -> Unavailable:
    if isinstance(error, OSError):
        said = error.strerror or str(error)
        return Unavailable(f"{path} cannot be opened: {said}", hint=_HINTS["SQLITE_CANTOPEN"].format(path=path))
    name = getattr(error, "sqlite_errorname", None) or ""
    hint = next((h for prefix, h in _HINTS.items() if name.startswith(prefix)), "see the service's log")
    return Unavailable(f"the state cannot be kept: {error}", hint=hint.format(path=path), sqlite=name or None)
