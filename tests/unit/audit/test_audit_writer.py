"""The log grows by whole durable lines or not at all."""

from __future__ import annotations

import json
import os
import resource
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.audit import events
from supervisor.audit.writer import Log, open_log
from supervisor.errors import AuditUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def log(path: Path) -> Iterator[Log]:
    opened = Log(open_log(str(path)), str(path))
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def event(n: int = 0) -> events.Event:
    return events.service(action=f"test-{n}", outcome="ok")


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in path.read_bytes().splitlines()]


def test_seq_goes_up_by_one_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with log(path) as a:
        assert a.append([event(1), event(2)]) == [1, 2]
        assert a.append([event(3)]) == [3]
        assert a.syncs == 2
    with log(path) as b:
        assert b.append([event(4)]) == [4]
    assert [(r["seq"], r["action"]) for r in records(path)] == [(n, f"test-{n}") for n in (1, 2, 3, 4)]


def test_a_new_log_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o777)
    try:
        os.close(open_log(str(tmp_path / "a")))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_two_auditors_never_write_one_log(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with log(path), pytest.raises(AuditUnavailable, match="another auditor"):
        open_log(str(path))
    os.close(open_log(str(path)))


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").touch()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(str(tmp_path / "link"))
    (tmp_path / "nowhere").symlink_to("missing")
    with pytest.raises(OSError, match="symbolic links"):
        open_log(str(tmp_path / "nowhere"))
    assert not (tmp_path / "missing").exists()


def test_a_file_that_others_could_change_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o660)
    (tmp_path / "linked").touch()
    (tmp_path / "linked2").hardlink_to(tmp_path / "linked")
    for name, why in {"fifo": "regular", "open": "others may write", "linked": "2 names"}.items():
        with pytest.raises(AuditUnavailable, match=why):
            open_log(str(tmp_path / name))


def test_a_batch_that_meets_a_limit_leaves_no_byte_and_uses_no_seq(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with log(path) as a:
        a.append([event(1)])
        before = path.read_bytes()
        with file_size_limit(len(before) + 900), pytest.raises(OSError, match="too large"):
            a.append([event(n) for n in range(10)])
        assert path.read_bytes() == before
        assert a.append([event(2)]) == [2]
        assert a.syncs == 2
    assert [r["seq"] for r in records(path)] == [1, 2]


def test_a_torn_last_line_stands_alone_and_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with log(path) as a:
        a.append([event(1)])
    with path.open("ab") as f:
        f.write(b'{"seq":2,"time')
    with log(path) as b:
        assert b.found.torn == 14
        assert b.append([event(2)]) == [2]
    lines = path.read_bytes().splitlines()
    assert lines[1] == b'{"seq":2,"time'
    assert [json.loads(x)["seq"] for x in (lines[0], lines[2])] == [1, 2]


def test_a_failed_append_after_a_torn_line_still_owes_the_newline(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"torn")
    with log(path) as a:
        with file_size_limit(6), pytest.raises(OSError, match="too large"):
            a.append([event(1)])
        assert path.read_bytes() == b"torn"
        a.append([event(1)])
    assert path.read_bytes().startswith(b'torn\n{"seq":1,')


def test_a_log_changed_by_someone_else_is_reported_in_the_log(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with log(path) as a:
        a.append([event(1)])
        with path.open("ab") as f:
            f.write(b"foreign")
        assert a.append([event(2)]) == [3]
        os.truncate(path, 0)
        assert a.append([event(3)]) == [5]
    assert [(r["seq"], r["action"]) for r in records(path)] == [(4, "audit_log_changed"), (5, "test-3")]


def test_nothing_is_acknowledged_into_a_removed_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with log(path) as a:
        path.unlink()
        with pytest.raises(FileNotFoundError, match="removed"):
            a.append([event(1)])


def test_a_value_that_is_not_json_never_reaches_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with log(path) as a:
        with pytest.raises(ValueError, match="Out of range float"):
            a.append([event(1), {"event_type": "service", "result": float("nan")}])
        assert a.append([event(1)]) == [1]
    assert len(records(path)) == 1
