"""The book of meters as rows of the store: how it is read at the start, and what one change writes.

Every row holds absolute values, so writing it again changes nothing. A run that is charged to a day has a row while it
goes on; its end removes the row and writes the sums in one transaction. So after a crash each run is either charged
already or still has its row, never both and never neither.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from supervisor.decide.book import Book
from supervisor.decide.breaker import State
from supervisor.decide.owned import Owned
from supervisor.decide.usual import Usual
from supervisor.decide.windows import DAY, NOTHING, Spent, unmeasured

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from supervisor.decide.book import Row

PART = "meters"
SCHEMA = (
    """
    CREATE TABLE rates (span INTEGER NOT NULL, at INTEGER NOT NULL, key TEXT NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (span, at, key)) WITHOUT ROWID;
    CREATE TABLE days (at INTEGER NOT NULL, key TEXT NOT NULL, cpu_us INTEGER NOT NULL, wall_us INTEGER NOT NULL,
        written INTEGER NOT NULL, processes INTEGER NOT NULL, PRIMARY KEY (at, key)) WITHOUT ROWID;
    CREATE TABLE breakers (agent TEXT PRIMARY KEY, failures INTEGER NOT NULL, since INTEGER NOT NULL,
        until INTEGER NOT NULL, why TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE repeats (agent TEXT NOT NULL, command TEXT NOT NULL, start INTEGER NOT NULL, before INTEGER NOT NULL,
        count INTEGER NOT NULL, PRIMARY KEY (agent, command)) WITHOUT ROWID;
    CREATE TABLE live_runs (run TEXT PRIMARY KEY, charged TEXT NOT NULL, began INTEGER NOT NULL,
        timeout_ms INTEGER NOT NULL, cpu INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE rules (rule TEXT PRIMARY KEY, count INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL)
        WITHOUT ROWID
    """,
    """
    CREATE TABLE usual (key TEXT PRIMARY KEY, hour INTEGER NOT NULL, count INTEGER NOT NULL, hours INTEGER NOT NULL,
        mean REAL NOT NULL, variance REAL NOT NULL, told INTEGER NOT NULL) WITHOUT ROWID
    """,
)
PURGED = 2000  # rows that one job removes, so that no commit waits long for it

Statement = tuple[str, tuple[Any, ...]]
Rule = tuple[int, int, int]  # how often, first known, last used (0: never); milliseconds

_RATE = "INSERT OR REPLACE INTO rates VALUES (?, ?, ?, ?)"
_NO_RATE = "DELETE FROM rates WHERE span = ? AND at = ? AND key = ?"
_DAY = "INSERT OR REPLACE INTO days VALUES (?, ?, ?, ?, ?, ?)"
_BREAKER = "INSERT OR REPLACE INTO breakers VALUES (?, ?, ?, ?, ?)"
_NO_BREAKER = "DELETE FROM breakers WHERE agent = ?"
_REPEAT = "INSERT OR REPLACE INTO repeats VALUES (?, ?, ?, ?, ?)"
_NO_REPEAT = "DELETE FROM repeats WHERE agent = ? AND command = ?"
_RUN = "INSERT OR REPLACE INTO live_runs VALUES (?, ?, ?, ?, ?)"
_USUAL = "INSERT OR REPLACE INTO usual VALUES (?, ?, ?, ?, ?, ?, ?)"
_NO_USUAL = "DELETE FROM usual WHERE key = ?"
_NO_RUN = "DELETE FROM live_runs WHERE run = ?"
RULE = "INSERT OR REPLACE INTO rules VALUES (?, ?, ?, ?)"
NO_RULE = "DELETE FROM rules WHERE rule = ?"


def rendered(book: Book, rows: Iterable[Row]) -> list[Statement]:
    """What makes these rows as they are in the book now. What is over needs no row."""
    return [statement for row in rows if (statement := _one(book, row)) is not None]


def _one(book: Book, row: Row) -> Statement | None:
    kind, *of = row
    if kind == "rate":
        span, at, key = of
        window = book.windows[span]
        if not window.at - 1 <= at <= window.at:
            return None
        count = (window.counts if at == window.at else window.before).get(key)
        return (_NO_RATE, (span, at, key)) if count is None else (_RATE, (span, at, key, count))
    if kind == "day":
        spent = book.day.spent.get(of[0])
        return None if spent is None else (_DAY, (book.day.at, of[0], *spent))
    if kind == "breaker":
        state = book.breakers.get(of[0])
        if state is None:
            return _NO_BREAKER, (of[0],)
        return _BREAKER, (of[0], state.failures, state.since, state.until, state.why)
    if kind == "repeat":
        repeat = book.repeats.get(of[0], {}).get(of[1])
        return (_NO_REPEAT, (*of,)) if repeat is None else (_REPEAT, (*of, *repeat))
    if kind == "usual":
        usual = book.usual.get(of[0])
        return (_NO_USUAL, (of[0],)) if usual is None else (_USUAL, (of[0], *usual))
    live = book.live.get(of[0])
    if live is None:
        return _NO_RUN, (of[0],)
    return _RUN, (of[0], json.dumps(live.charged), live.began, live.timeout_ms, live.cpu)


def carry_out(connection: sqlite3.Connection, statements: Iterable[Statement]) -> None:
    for sql, values in statements:
        connection.execute(sql, values)


def load(connection: sqlite3.Connection, now: int, bound: int) -> tuple[Book, dict[str, Rule], int]:
    """The book as the last process left it, the rules, and how many runs were open and are charged by this.

    What such a run used nobody measured (windows.unmeasured).
    """
    book = Book(bound)
    # What is of a later time was counted before the clock was set back: it counts as of now.
    for span, window in book.windows.items():
        window.at = now // span
        last = connection.execute("SELECT max(at) FROM rates WHERE span = ?", (span,)).fetchone()[0] or 0
        if last == window.at + 1:  # as Windows.roll(): the clock is soon as late again
            window.at = last
        elif last > window.at:
            moved(connection, span, last, window.at)
            connection.execute("DELETE FROM rates WHERE span = ? AND at > ?", (span, window.at))  # over already
        window.counts = Owned(_counts(connection, span, window.at))
        window.before = Owned(_counts(connection, span, window.at - 1))
    book.day.at = now // DAY
    connection.execute("UPDATE OR REPLACE days SET at = ? WHERE at > ?", (book.day.at, book.day.at))
    days = connection.execute("SELECT key, cpu_us, wall_us, written, processes FROM days WHERE at = ?", (book.day.at,))
    book.day.spent = Owned((key, Spent(*spent)) for key, *spent in days)
    for agent, *values in connection.execute("SELECT agent, failures, since, until, why FROM breakers"):
        book.breakers[agent] = State(*values)
    for agent, command, *repeat in connection.execute(
        "SELECT agent, command, start, before, count FROM repeats ORDER BY start"
    ):
        book.watch(agent, command, (repeat[0], repeat[1], repeat[2]))
    for key, hour, count, hours, mean, variance, told in connection.execute(
        "SELECT key, hour, count, hours, mean, variance, told FROM usual"
    ):
        book.usual[key] = Usual(hour, count, hours, mean, variance, bool(told))
    book.set_back(now)
    open_runs = connection.execute("SELECT run, charged, began, timeout_ms, cpu FROM live_runs").fetchall()
    for run, charged, began, timeout, cpu in open_runs:
        for key in json.loads(charged):
            book.day.spent[key] = book.day.spent.get(key, NOTHING).plus(unmeasured(now - began, timeout, cpu))
            book.dirty.add(("day", key))
        book.dirty.add(("run", run))
    carry_out(connection, rendered(book, book.dirty))
    book.dirty.clear()
    rules = {
        rule: (count, first, last)
        for rule, count, first, last in connection.execute("SELECT rule, count, first, last FROM rules")
    }
    return book, rules, len(open_runs)


def _counts(connection: sqlite3.Connection, span: int, at: int) -> Iterable[tuple[str, int]]:
    return connection.execute("SELECT key, count FROM rates WHERE span = ? AND at = ?", (span, at))


def moved(connection: sqlite3.Connection, span: int, old: int, new: int) -> None:
    """The clock was set back by more than a window: Windows.roll() took the counts along, so their rows go too."""
    for back in (1, 0):
        connection.execute(
            "UPDATE OR REPLACE rates SET at = ? WHERE span = ? AND at = ?", (new - back, span, old - back)
        )


def moved_day(connection: sqlite3.Connection, old: int, new: int) -> None:
    connection.execute("UPDATE OR REPLACE days SET at = ? WHERE at = ?", (new, old))


def purge(connection: sqlite3.Connection, span: int, at: int) -> bool:
    """Remove rows of windows before `at`; whether there may be more. `span` 0 is the days."""
    if span:
        done = connection.execute(
            "DELETE FROM rates WHERE (span, at, key) IN"
            " (SELECT span, at, key FROM rates WHERE span = ? AND at < ? LIMIT ?)",
            (span, at, PURGED),
        )
    else:
        done = connection.execute(
            "DELETE FROM days WHERE (at, key) IN (SELECT at, key FROM days WHERE at < ? LIMIT ?)", (at, PURGED)
        )
    return done.rowcount >= PURGED
