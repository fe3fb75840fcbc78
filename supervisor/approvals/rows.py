"""The tables questions, answers and grants, and how they are read and written.

Every function here runs inside a transaction of the store.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from supervisor.approvals.model import STATES, Answer, Grant, Question

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

# Steps of state.schema.migrate: only ever added to.
STEPS = (
    """
CREATE TABLE questions (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, asker TEXT NOT NULL, labels TEXT NOT NULL,
    session TEXT, target TEXT NOT NULL, policy_digest TEXT NOT NULL, created REAL NOT NULL, expires REAL NOT NULL,
    needed INTEGER NOT NULL, shown BLOB NOT NULL, ended REAL
) STRICT;
CREATE TABLE answers (
    question TEXT NOT NULL, uid INTEGER NOT NULL, approve INTEGER NOT NULL, scope TEXT NOT NULL, times INTEGER,
    duration_ms INTEGER, note TEXT NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (question, uid)
) STRICT, WITHOUT ROWID;
CREATE TABLE grants (
    id TEXT PRIMARY KEY, question TEXT NOT NULL, kind TEXT NOT NULL, scope TEXT NOT NULL, uid INTEGER NOT NULL,
    unit TEXT NOT NULL, target TEXT NOT NULL, session TEXT, subjects TEXT NOT NULL, role TEXT,
    policy_digest TEXT NOT NULL, granted_by TEXT NOT NULL, created REAL NOT NULL, until REAL NOT NULL, uses INTEGER,
    used INTEGER NOT NULL, last_used REAL, ended TEXT, ended_at REAL
) STRICT, WITHOUT ROWID;
""",
)

_QUESTION = (
    "id", "kind", "state", "asker", "labels", "session", "target", "policy_digest", "created", "expires", "needed",
    "shown", "ended",
)  # fmt: skip
_ANSWER = ("uid", "approve", "scope", "times", "duration_ms", "note", "time")
_GRANT = (
    "id", "question", "kind", "scope", "uid", "unit", "target", "session", "subjects", "role", "policy_digest",
    "granted_by", "created", "until", "uses", "used", "last_used", "ended", "ended_at",
)  # fmt: skip


def _insert(conn: sqlite3.Connection, table: str, columns: Iterable[str], values: list[Any]) -> None:
    # The names of tables and columns are the constants above; no value of a request is part of the text.
    text = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(values))})"  # noqa: S608
    conn.execute(text, values)


def add_question(conn: sqlite3.Connection, q: Question) -> None:
    values = [getattr(q, name) for name in _QUESTION]
    values[3], values[4] = json.dumps(q.asker), json.dumps(q.labels)
    _insert(conn, "questions", _QUESTION, values)


def end_questions(conn: sqlite3.Connection, questions: Iterable[Question]) -> None:
    conn.executemany(
        "UPDATE questions SET state = ?, ended = ? WHERE id = ? AND state = 'pending'",
        [(q.state, q.ended, q.id) for q in questions],
    )


def add_answer(conn: sqlite3.Connection, question: str, answer: Answer) -> None:
    _insert(conn, "answers", ("question", *_ANSWER), [question, *(getattr(answer, name) for name in _ANSWER)])


def add_grant(conn: sqlite3.Connection, grant: Grant) -> None:
    values = [getattr(grant, "by" if name == "granted_by" else name) for name in _GRANT]
    values[8], values[11] = json.dumps(grant.subjects), json.dumps(grant.by)
    _insert(conn, "grants", _GRANT, values)


def spend(conn: sqlite3.Connection, grant: Grant) -> bool:
    """Write down one use, as `grant` is after it; False when the disk knows that there is none left."""
    done = conn.execute(
        "UPDATE grants SET used = used + 1, last_used = ?, ended = ?, ended_at = ? "
        "WHERE id = ? AND ended IS NULL AND (uses IS NULL OR used < uses)",
        (grant.last_used, grant.ended, grant.ended_at, grant.id),
    )
    return done.rowcount == 1


def end_grants(conn: sqlite3.Connection, grants: Iterable[Grant]) -> None:
    conn.executemany(
        "UPDATE grants SET ended = ?, ended_at = ? WHERE id = ? AND ended IS NULL",
        [(g.ended, g.ended_at, g.id) for g in grants],
    )


def forget(conn: sqlite3.Connection, questions: Iterable[str], grants: Iterable[str]) -> None:
    gone = [(ident,) for ident in questions]
    conn.executemany("DELETE FROM questions WHERE id = ?", gone)
    conn.executemany("DELETE FROM answers WHERE question = ?", gone)
    conn.executemany("DELETE FROM grants WHERE id = ?", [(ident,) for ident in grants])


def everything(conn: sqlite3.Connection) -> tuple[list[Question], list[Grant]]:
    """All that is kept: questions in the order in which they ended (pending ones last), grants likewise.

    Raises ValueError for a row that add_question() or add_grant() did not write.
    """
    answers: dict[str, list[Answer]] = {}
    for question, uid, approve, *rest in conn.execute(
        f"SELECT question, {', '.join(_ANSWER)} FROM answers ORDER BY time"  # noqa: S608
    ):
        answers.setdefault(question, []).append(Answer(uid, bool(approve), *rest))
    questions = []
    for row in conn.execute(
        f"SELECT {', '.join(_QUESTION)} FROM questions ORDER BY ended IS NULL, ended, created"  # noqa: S608
    ):
        raw = dict(zip(_QUESTION, row, strict=True))
        raw["asker"], raw["labels"] = _json(raw, "asker", dict), _json(raw, "labels", dict)
        if raw["state"] not in STATES:
            raise ValueError(f"{raw['id']}: state {raw['state']!r}")
        questions.append(Question(**raw, answers=tuple(answers.get(raw["id"], ()))))
    grants = []
    for row in conn.execute(
        f"SELECT {', '.join(_GRANT)} FROM grants ORDER BY ended_at IS NULL, ended_at, created"  # noqa: S608
    ):
        raw = dict(zip(_GRANT, row, strict=True))
        raw["subjects"], raw["by"] = tuple(_json(raw, "subjects", list)), tuple(_json(raw, "granted_by", list))
        del raw["granted_by"]
        grants.append(Grant(**raw))
    return questions, grants


def _json(row: dict[str, Any], column: str, kind: type) -> Any:
    value = json.loads(row[column])
    if not isinstance(value, kind):
        raise ValueError(f"{row['id']}: {column} is no {kind.__name__}")  # noqa: TRY004 - one error for a bad row
    return value
