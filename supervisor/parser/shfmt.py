"""The pinned shfmt(1) as a parser: a fresh process for each text, started before it is needed.

The program is given a text of at most 64 KiB and two seconds, an empty environment, three descriptors and no more
memory than a tree of such a text needs. It is started by its path, beside the Python that runs this. What it answers
is bounded before it is read as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import select
import subprocess
import sys
import sysconfig
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import errors
from supervisor.decide.shell.model import ShellSyntaxError

MAX_INPUT = 65_536  # bytes
MAX_OUTPUT = 16 * 1024 * 1024  # bytes of JSON; ordinary scripts make some 150 bytes of each of theirs
MAX_MEMORY = 512 * 1024 * 1024  # bytes of data
LIMITS = {resource.RLIMIT_DATA: MAX_MEMORY, resource.RLIMIT_CORE: 0}  # of whatever parses: getrlimit(2)
SECONDS = 2.0
DIALECTS = ("bash", "posix", "mksh", "zsh")
_CHUNK = 1 << 16
_GRACE = 200  # milliseconds from the end of its output to its own


class _Over(ShellSyntaxError):
    """A bound was reached; another dialect would reach it too."""


def binary() -> Path:
    """Where shfmt is. Raises Unavailable when it is not there."""
    beside = [Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))]
    for directory in beside:
        if os.access(directory / "shfmt", os.X_OK):
            return directory / "shfmt"
    raise errors.Unavailable(
        f"shfmt is not in {' or '.join(sorted({str(d) for d in beside}))}",
        hint="install shfmt-py in the version of the lock file, with the rest of Stockade",
    )


class Shfmt:
    """Parses shell text. Safe to call from several threads; each call has a process of its own."""

    def __init__(self, program: Path | None = None, *, seconds: float = SECONDS) -> None:
        """Raises Unavailable when the program is missing."""
        self._program = str(program or binary())
        self._seconds = seconds
        self._lock = threading.Lock()
        self._inherited = all(0 <= resource.getrlimit(limit)[1] <= most for limit, most in LIMITS.items())
        self._waiting: subprocess.Popen[bytes] | None = self._start("bash")
        self._closed = False

    def parse(self, text: str, within: float | None = None) -> dict[str, Any]:
        """The syntax tree of a text, as `shfmt --to-json` writes it. `within`: seconds, fewer than there are at most.

        The dialect is bash's, another one only if that makes valid what is not valid in bash. Where sh(1) would read
        a text otherwise than bash, the key `Otherwise` has its statements. Raises ShellSyntaxError for what is no
        shell text or takes too much, Unavailable when shfmt cannot be started.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError as e:
            raise ShellSyntaxError(f"half a surrogate pair at offset {e.start}") from e
        if len(data) > MAX_INPUT:
            raise ShellSyntaxError(f"{len(data)} bytes, more than the {MAX_INPUT} that are parsed")
        if b"\0" in data:
            raise ShellSyntaxError(f"a NUL character at offset {text.index(chr(0))}")
        deadline = time.monotonic() + min(self._seconds, self._seconds if within is None else within)
        problem = ShellSyntaxError("no shell text")
        for i, dialect in enumerate(DIALECTS):
            try:
                tree = self._parse(data, dialect, deadline)
            except _Over:
                raise
            except ShellSyntaxError as e:
                problem = problem if i else e
                continue
            if dialect == "bash" and "$'" in text and "\\'" in text:
                # To sh, $'\' is a dollar and a backslash, and what follows is no longer quoted.
                with suppress(ShellSyntaxError):
                    tree["Otherwise"] = self._parse(data, "posix", deadline).get("Stmts") or []
            return tree
        raise problem

    def close(self) -> None:
        """Ends the process that waits. Nothing is parsed afterwards."""
        with self._lock:
            self._closed, process, self._waiting = True, self._waiting, None
        if process is not None:
            _end(process)

    def __enter__(self) -> Shfmt:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, dialect: str) -> subprocess.Popen[bytes]:
        try:
            process = subprocess.Popen(
                [self._program, "-ln", dialect, "--to-json"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                close_fds=True,
                cwd="/",
                env={"GOMAXPROCS": "1", "GOTRACEBACK": "none"},
                start_new_session=True,
            )
        except OSError as e:
            raise errors.Unavailable(
                f"shfmt could not be started: {e.strerror or e}", hint="see that the program is in place and executable"
            ) from e
        if not self._inherited:
            with suppress(OSError):  # it may have ended already; what it says then is read
                for limit, most in LIMITS.items():
                    resource.prlimit(process.pid, limit, (most, most))
        return process

    def _take(self, dialect: str) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise errors.Unavailable("the parser is closed")
            process = self._waiting if dialect == "bash" else None
            if process is not None:
                self._waiting = None
        if process is not None:
            if process.poll() is None:
                return process
            _end(process)
        return self._start(dialect)

    def _prepare(self) -> None:
        """Starts the next one while this one works."""
        with self._lock:
            if self._waiting is None and not self._closed:
                with suppress(errors.Unavailable):  # then the next call says it
                    self._waiting = self._start("bash")

    def _parse(self, data: bytes, dialect: str, deadline: float) -> dict[str, Any]:
        process = self._take(dialect)
        answered = False
        try:
            out, err = self._exchange(process, data, deadline)
            answered = True
        finally:
            _end(process, at_once=not answered)
        if process.returncode != 0 or not out:
            raise ShellSyntaxError(_message(err, process.returncode))
        try:
            tree: dict[str, Any] = json.loads(out)
        except (ValueError, RecursionError) as e:
            raise ShellSyntaxError("nested deeper than can be followed") from e
        return tree

    def _exchange(self, process: subprocess.Popen[bytes], data: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Feeds the text and reads both outputs, each with its bound, until both are closed."""
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise errors.Internal("shfmt was started without pipes")
        to, out, err = process.stdin.fileno(), process.stdout.fileno(), process.stderr.fileno()
        read: dict[int, bytearray] = {out: bytearray(), err: bytearray()}
        poll = select.poll()
        for fd, wanted in ((to, select.POLLOUT), (out, select.POLLIN), (err, select.POLLIN)):
            os.set_blocking(fd, False)
            poll.register(fd, wanted)
        sent, open_fds = 0, {out, err}
        while open_fds:
            left = deadline - time.monotonic()
            events = poll.poll(max(0.0, left) * 1000) if left > 0 else []
            if not events:
                raise _Over(f"not parsed within {self._seconds:g} seconds")
            for fd, _ in events:
                if fd == to:
                    try:
                        sent += os.write(to, data[sent : sent + _CHUNK])
                    except BrokenPipeError:
                        sent = len(data)
                    if sent >= len(data):
                        poll.unregister(to)
                        process.stdin.close()
                        self._prepare()
                    continue
                chunk = os.read(fd, _CHUNK)
                read[fd] += chunk
                if not chunk:
                    poll.unregister(fd)
                    open_fds.discard(fd)
                elif len(read[fd]) > MAX_OUTPUT:
                    raise _Over("its syntax tree is larger than can be followed")
        return bytes(read[out]), bytes(read[err])


def _end(process: subprocess.Popen[bytes], *, at_once: bool = True) -> None:
    """Whatever it does, it is gone afterwards, with its pipes."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    if process.returncode is None and (at_once or not _exits(process)):
        process.kill()
    process.wait()


def _exits(process: subprocess.Popen[bytes]) -> bool:
    """Both outputs are closed: it is about to exit by itself, unless it hangs."""
    fd = os.pidfd_open(process.pid)
    try:
        waiting = select.poll()
        waiting.register(fd, select.POLLIN)
        return bool(waiting.poll(_GRACE))
    finally:
        os.close(fd)


def _message(err: bytes, status: int) -> str:
    text = err[:400].decode(errors="replace").strip().split("\n")[0].removeprefix("<standard input>:")
    return (
        text
        if text and status > 0 and "goroutine" not in text and "fatal error" not in text
        else "more than can be parsed"
    )
