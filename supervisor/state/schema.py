"""Bringing a database file to the shape that this version of the service knows, step by step.

Each room names itself and lists its steps: SQL that is only ever added to, never changed. How many of them were taken
stands in the table `migrations`; the format of that table itself is SQLite's user_version.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from supervisor.errors import Unavailable

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

FORMAT = 1
APPLICATION = 0x53544F43  # "STOC": what file(1) and SQLite call the application id
_NEWER = "install the version of the service that made it, or move the file away: counters and grants begin anew"


def prepare(connection: sqlite3.Connection, path: str) -> None:
    """The table of migrations, in the transaction that is open. Raises Unavailable for a file that is not ours."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    if found == 0 and application == 0:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise Unavailable(f"{path} is a database of something else", hint="move it away, then start again")
        connection.execute(
            "CREATE TABLE migrations (part TEXT NOT NULL, step INTEGER NOT NULL, applied INTEGER NOT NULL,"
            " PRIMARY KEY (part, step)) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    elif application != APPLICATION:
        raise Unavailable(f"{path} is a database of something else", hint="move it away, then start again")
    elif found > FORMAT:
        raise Unavailable(f"{path} has format {found}, and this version knows {FORMAT}", hint=_NEWER)


def migrate(connection: sqlite3.Connection, part: str, steps: Sequence[str]) -> int:
    """Take the steps of `part` that were not taken yet, in the transaction that is open; how many those were.

    A step is one or several statements with `;` between them. Raises Unavailable for a file that is ahead of `steps`.
    """
    row = connection.execute("SELECT max(step) FROM migrations WHERE part = ?", (part,)).fetchone()
    taken = int(row[0] or 0)
    if taken > len(steps):
        raise Unavailable(f"the tables of {part} are at step {taken}, and this version knows {len(steps)}", hint=_NEWER)
    for number, step in enumerate(steps[taken:], taken + 1):
        for statement in step.split(";"):  # executescript() would commit
            if statement.strip():
                connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (?, ?, ?)", (part, number, int(time.time())))
    return len(steps) - taken
