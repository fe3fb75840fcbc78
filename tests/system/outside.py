"""What the tests see of runs from outside: the kernel's view of processes and files, and frames as they come."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.harness import REPOSITORY

if TYPE_CHECKING:
    import http.client
    from collections.abc import Iterator

    from tests.harness import Daemon

JSON = {"Content-Type": "application/json"}
NDJSON = {"Accept": "application/x-ndjson"}


def policy(*changes: tuple[str, str]) -> str:
    """The default policy with parts of its text replaced, and session uids that no other service here uses."""
    text = (REPOSITORY / "policies" / "default.toml").read_text()
    first = 1_500_000_000 + os.getpid() % 5000 * 65536
    for old, new in (("[1900000000, 65536]", f"[{first}, 65536]"), *changes):
        assert old in text
        text = text.replace(old, new)
    return text


def alive_with(marker: str) -> list[int]:
    """Processes, zombies left out, that have a word on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes()
                if marker.encode() in words and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
    return found


def of_uid(uid: int, daemon: Daemon) -> list[int]:
    """Processes that run under a session's uid, but for those that wait for a command: forks of the launcher."""
    launcher = Path(f"/proc/{daemon.children()['launcher']}/cmdline").read_bytes()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid or f"\nUid:\t{uid}\t" in (entry / "status").read_text():
                    words = (entry / "cmdline").read_bytes()
                    if words != launcher and words != b"":
                        found.append(int(entry.name))
    return found


def memory_of(pid: int, what: str) -> int:
    """VmRSS or VmHWM of a process in bytes, proc_pid_status(5)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(what)


def reset_peak(pid: int) -> None:
    """VmHWM begins again at what is resident now, proc_pid_clear_refs(5)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def listing(top: Path) -> dict[str, tuple[Any, ...]]:
    """Everything below a directory and the directory itself, as lstat(2) and extended attributes tell."""
    found: dict[str, tuple[Any, ...]] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        seen = path.lstat()
        attributes = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
        found[str(path.relative_to(top))] = (
            seen.st_mode,
            seen.st_uid,
            seen.st_gid,
            seen.st_nlink,
            seen.st_size,
            seen.st_mtime_ns,
            seen.st_ctime_ns,
            attributes,
        )
    return found


class Frames:
    """A run of which frames are read; closing it before its end is a client that vanishes."""

    def __init__(self, daemon: Daemon, method: str, path: str, body: dict[str, Any] | None) -> None:
        self._connection = daemon.connect()
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {**NDJSON, **(JSON if data else {})})
        self._response: http.client.HTTPResponse = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()
        started = self.next()
        assert started["type"] == "started"
        self.run: dict[str, Any] = started["run"]
        self.id: str = self.run["id"]

    def next(self) -> dict[str, Any]:
        return json.loads(self._response.readline())

    def rest(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._response]

    def until(self, text: str) -> None:
        """Read until a frame holds a text."""
        while text not in str(self.next().get("data")):
            pass

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@contextlib.contextmanager
def streamed(daemon: Daemon, body: dict[str, Any]) -> Iterator[Frames]:
    """Start a run and read its frames as they come."""
    frames = Frames(daemon, "POST", "/v1/runs", body)
    try:
        yield frames
    finally:
        frames.close()


@contextlib.contextmanager
def events(daemon: Daemon) -> Iterator[Iterator[dict[str, Any]]]:
    """Server-sent events from now on."""
    connection = daemon.connect()
    connection.request("GET", "/v1/events")
    response = connection.getresponse()
    assert response.readline() == b": stockade\n"  # subscribed
    try:
        yield (json.loads(line[5:]) for line in response if line.startswith(b"data:"))
    finally:
        response.close()
        connection.close()


def outcomes(daemon: Daemon, run: str) -> list[dict[str, Any]]:
    """What the audit log has of a run's end; durable before the run is answered."""
    return [r for r in daemon.audit() if r["event_type"] == "outcome" and r["run"] == run]
