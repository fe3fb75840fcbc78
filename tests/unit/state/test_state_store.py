"""The store on a real file: group commit, failures that stay with their job, damage, a full disk, main's sandbox."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.errors import LimitReached, Unavailable
from supervisor.state import schema
from supervisor.state import store as stores
from supervisor.state.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).resolve().parents[3]
NOTES = ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE)",)


@asynccontextmanager
async def opened(path: Path, **more: int) -> AsyncIterator[Store]:
    store = Store(str(path), **more)
    await store.open()
    try:
        await store.migrate("notes", NOTES)
        yield store
    finally:
        await store.close()


def note(text: str):  # type: ignore[no-untyped-def]
    return lambda c: c.execute("INSERT INTO notes (text) VALUES (?)", (text,)).lastrowid


async def notes(store: Store) -> list[str]:
    return await store.read(lambda c: [row[0] for row in c.execute("SELECT text FROM notes ORDER BY id")])


async def test_what_was_written_is_there_after_a_restart_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "decisions.db"
    async with opened(path) as store:
        assert await store.write(note("one")) == 1
        for name in os.listdir(tmp_path):
            assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == 0o600, name
        assert sorted(os.listdir(tmp_path)) == ["decisions.db", "decisions.db-wal"], "no shared memory, no journal"
    assert os.listdir(tmp_path) == ["decisions.db"]
    async with opened(path) as store:
        assert await notes(store) == ["one"]


async def test_jobs_are_done_in_order_and_a_read_sees_all_before_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        writes = [store.post(note(str(i))) for i in range(3000)]
        assert await notes(store) == [str(i) for i in range(3000)]
        assert [w.result() for w in writes] == list(range(1, 3001))


async def test_what_waits_is_one_commit(tmp_path: Path) -> None:
    commits = []

    async with opened(tmp_path / "d") as store:
        await store.write(lambda c: c.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None))
        writes = [store.post(note(str(i))) for i in range(2000)]
        await asyncio.gather(*writes)
        assert len(commits) < 100


async def test_a_job_that_fails_takes_nothing_else_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        await store.write(note("taken"))

        def half(c: sqlite3.Connection) -> None:
            c.execute("INSERT INTO notes (text) VALUES ('half')")
            raise LimitReached("enough")

        first, twice, refused, wrong, last = (
            store.post(note("first")),
            store.post(note("taken")),
            store.post(half),
            store.post(lambda c: c.execute("SELECT * FROM nothing")),
            store.post(note("last")),
        )
        done = await asyncio.gather(first, twice, refused, wrong, last, return_exceptions=True)
        assert isinstance(done[1], sqlite3.IntegrityError)
        assert isinstance(done[2], LimitReached)
        assert isinstance(done[3], Unavailable)
        assert await notes(store) == ["taken", "first", "last"]


async def test_a_read_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        await store.read(note("never"))
        assert await notes(store) == []


async def test_whoever_gives_up_waiting_stops_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        waiter = asyncio.ensure_future(store.write(note("one")))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert await notes(store) == ["one"]


async def test_too_many_waiting_jobs_are_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d", waiting=5) as store:
        loop, begun, gate = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def slow(_: sqlite3.Connection) -> None:
            loop.call_soon_threadsafe(begun.set)
            gate.wait()

        going = store.post(slow)
        await begun.wait()
        waiting = [store.post(note(str(i))) for i in range(5)]
        with pytest.raises(Unavailable, match="5 changes wait for the disk"):
            store.post(note("one too many"))
        gate.set()
        await asyncio.gather(going, *waiting)
        assert len(await notes(store)) == 5


async def test_close_does_what_was_posted_and_takes_nothing_more(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        last = store.post(note("last words"))
    assert last.done()
    with pytest.raises(Unavailable, match="closed"):
        store.post(note("too late"))
    async with opened(tmp_path / "d") as store:
        assert await notes(store) == ["last words"]


async def test_the_log_does_not_grow_with_what_is_written(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        await store.write(note("x"))
        most = 0
        for i in range(60):
            text = f"{i} " * 20_000
            await store.write(lambda c, text=text: c.execute("UPDATE notes SET text = ?", (text,)))  # type: ignore[misc]
            most = max(most, (tmp_path / "d-wal").stat().st_size)
        assert most < stores.LOG_BYTES


# --- migrations -----------------------------------------------------------------------------------------------------


async def test_steps_are_taken_once_and_later_ones_afterwards(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        await store.write(note("kept"))
    async with opened(tmp_path / "d") as store:
        assert await store.migrate("notes", NOTES) == 0
        more = (*NOTES, "ALTER TABLE notes ADD COLUMN by INTEGER; CREATE TABLE others (id INTEGER)")
        assert await store.migrate("notes", more) == 1
        assert await store.read(lambda c: c.execute("SELECT text, by FROM notes").fetchall()) == [("kept", None)]


async def test_a_step_that_fails_is_not_taken_by_half(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        with pytest.raises(Unavailable):
            await store.migrate("notes", (*NOTES, "CREATE TABLE others (id INTEGER); CREATE TABLE others (id INTEGER)"))
        tables = await store.read(lambda c: [r[0] for r in c.execute("SELECT name FROM sqlite_master")])
        assert "others" not in tables
        assert await store.migrate("notes", (*NOTES, "CREATE TABLE others (id INTEGER)")) == 1


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "d") as store:
        with pytest.raises(Unavailable, match="at step 1, and this version knows 0") as refusal:
            await store.migrate("notes", ())
        assert refusal.value.hint is not None
        await store.write(lambda c: c.execute(f"PRAGMA user_version = {schema.FORMAT + 1}"))
    with pytest.raises(Unavailable, match="format"):
        await Store(str(tmp_path / "d")).open()


# --- what is wrong with a file --------------------------------------------------------------------------------------


async def refused(path: Path) -> Unavailable:
    store = Store(str(path))
    with pytest.raises(Unavailable) as refusal:
        await store.open()
    await store.close()
    assert refusal.value.hint
    return refusal.value


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.write_bytes(b"my diary\n" * 1000)
    assert "backup" in str((await refused(path)).hint)
    assert path.read_bytes() == b"my diary\n" * 1000


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()
    assert "something else" in (await refused(path)).detail


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d"
    async with opened(path) as store:
        for i in range(2000):
            store.post(note(f"{i} " * 20))
    whole = bytearray(path.read_bytes())
    for page in range(2, len(whole) // 4096):
        whole[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(whole)
    assert "damaged" in (await refused(path)).detail


@pytest.mark.parametrize("gone", [True, False])
async def test_a_log_whose_file_is_gone_or_empty_is_refused_and_left_alone(tmp_path: Path, gone: bool) -> None:
    """SQLite would begin a new file, and remove the log: everything forgotten, and nobody told."""
    async with opened(tmp_path / "whole") as store:
        await store.write(note("acknowledged"))
        log = (tmp_path / "whole-wal").read_bytes()  # as kill -9 leaves it
    path = tmp_path / "d"
    (tmp_path / "d-wal").write_bytes(log)
    if not gone:
        path.write_bytes(b"")
    for _ in range(2):
        assert "its log is there" in (await refused(path)).detail
        assert (tmp_path / "d-wal").read_bytes() == log
    (tmp_path / "d-wal").unlink()
    async with opened(path) as store:
        assert await notes(store) == []


async def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"")
    (tmp_path / "d").symlink_to("target")
    await refused(tmp_path / "d")
    assert (tmp_path / "target").read_bytes() == b""


async def test_a_directory_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert "cannot be opened" in (await refused(tmp_path / "nowhere" / "d")).detail


async def test_two_services_never_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "BUSY_SECONDS", 0.05)
    async with opened(tmp_path / "d") as store:
        assert "another service" in str((await refused(tmp_path / "d")).hint)
        assert await store.write(note("still works")) == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small real file system."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(where)], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", str(where)], check=True)


@pytest.mark.root
async def test_a_full_disk_fails_the_write_and_says_so(disk: Path) -> None:
    """What was durable stays, what failed left nothing, and with room it goes on."""
    async with opened(disk / "d") as store:
        await store.write(note("before"))
        room = os.statvfs(disk)
        (disk / "ballast").write_bytes(b"x" * (room.f_bavail * room.f_frsize - 16384))
        failures = []
        for i in range(20):
            try:
                await store.write(note(f"{i} " * 4000))
            except Unavailable as e:
                failures.append(e)
        assert failures
        assert "full" in failures[0].detail
        assert "make room" in str(failures[0].hint)
        (disk / "ballast").unlink()
        await store.write(note("after"))
        kept = await notes(store)
    assert (kept[0], kept[-1]) == ("before", "after")
    assert len(kept) == 22 - len(failures)
    async with opened(disk / "d") as store:
        assert await notes(store) == kept


CONFINED = """
import asyncio, os, sys
from supervisor import daemon
from supervisor.kernel import seccomp
from supervisor.state.store import Store

async def life(path):
    store = Store(path)
    await store.open()
    await store.migrate("notes", ("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)",))
    for i in range(50):
        await asyncio.gather(*(
            store.write(lambda c: c.execute("INSERT INTO notes (text) VALUES (?)", ("x" * 3000,))) for _ in range(20)
        ))
    await store.write(lambda c: c.execute("DELETE FROM notes WHERE id % 2"))
    await store.read(lambda c: c.execute("SELECT text, count(*) FROM notes GROUP BY text ORDER BY 1 DESC").fetchall())
    await store.close()

where = sys.argv[1]
os.chown(where, 65534, 65534)
filters = seccomp.compile_filter("main")
daemon.give_up_root(65534, 65534)
daemon.confine([*daemon.programs(), "/proc", "/etc"], [where], filters)
for _ in range(2):
    asyncio.run(life(where + "/decisions.db"))
print("done")
"""


@pytest.mark.root
def test_it_works_inside_the_sandbox_of_the_main_process(tmp_path: Path) -> None:
    """Main's own Landlock rules and seccomp filter: what is missing there would end every start of the service."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    state = tmp_path / "state"
    state.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(state)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert os.listdir(state) == ["decisions.db"]
