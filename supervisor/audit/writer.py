"""The log file: lines are only ever appended, whole, and known to be on disk before anyone is told.

One writer holds the file (flock(2)). A batch is one write(2) and one fdatasync(2). What a failed write left
behind is cut off again; nothing that was acknowledged is ever touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from supervisor.audit import events
from supervisor.audit.recover import scan
from supervisor.errors import AuditUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

MODE = 0o640
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC


def open_log(path: str) -> int:
    """The descriptor of the log at `path`, locked; made with MODE when it is not there.

    Raises OSError, or AuditUnavailable when the file cannot be trusted or another auditor writes it.
    """
    try:
        fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, MODE)
        made = True
    except FileExistsError:
        fd = os.open(path, _FLAGS)
        made = False
    try:
        if made:
            os.fchmod(fd, MODE)  # whatever the umask took away
            _sync_directory(path)
        _trustworthy(fd, path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise AuditUnavailable(
                f"another auditor writes {path}", hint="stop the other instance, or give this one its own --root"
            ) from e
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync_directory(path: str) -> None:
    # open(2) of a new file is durable only when its directory is (fsync(2), NOTES).
    fd = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _trustworthy(fd: int, path: str) -> None:
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode):
        raise AuditUnavailable(f"{path} is not a regular file", hint="move it away; a new log will be made")
    if st.st_nlink != 1:
        raise AuditUnavailable(f"{path} has {st.st_nlink} names, expected 1", hint="remove the other hard links")
    if st.st_uid not in (0, os.geteuid()):
        raise AuditUnavailable(
            f"{path} belongs to uid {st.st_uid}, expected {os.geteuid()}", hint="move it away or chown it"
        )
    if st.st_mode & 0o022:
        mode = stat.S_IMODE(st.st_mode)
        raise AuditUnavailable(f"{path} has mode {mode:04o}: others may write it", hint=f"chmod {MODE:04o} {path}")


class Log:
    """Owns the descriptor of open_log(). `found` is what the file said at the start; `seq` is the last record's.

    `syncs` counts the batches that fdatasync(2) made durable. `stood` is how many of the last batch's events are
    in the file although append() failed: more than 0 only where the file cannot be cut (chattr +a).
    """

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self.syncs = 0
        self.stood = 0
        self._good = os.fstat(fd).st_size  # bytes that stay whatever happens
        self.found = scan(fd, self._good)
        self.seq = self.found.seq
        self.checkpoint = self.found.checkpoint
        self._dangling = self.found.torn > 0  # the file does not end with a newline
        self._owed: list[events.Event] = []  # what happened to the file itself, for the next batch

    def append(self, batch: Sequence[events.Event]) -> list[int]:
        """Make the batch durable, all or nothing, and give each event's seq.

        Raises OSError (ENOSPC, EDQUOT, EIO, EFBIG; ENOENT when the file has been removed) with nothing added
        but what `stood` counts.
        """
        self.stood = 0
        self._compare()
        records = [*self._owed, *batch]
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        lines = [
            json.dumps({"seq": seq, "timestamp": now, **event}, separators=(",", ":"), allow_nan=False)
            for seq, event in enumerate(records, self.seq + 1)
        ]
        data = ("\n" * self._dangling + "\n".join(lines) + "\n").encode("ascii")
        try:
            self._write(data)
            os.fdatasync(self.fd)
        except BaseException:
            self._undo(data)
            raise
        self.syncs += 1
        self._good += len(data)
        self._dangling = False
        first = self.seq + 1 + len(self._owed)
        self._owed = []
        for seq, event in enumerate(records, self.seq + 1):
            if event["event_type"] == "checkpoint":
                self.checkpoint = seq
        self.seq += len(records)
        return list(range(first, first + len(batch)))

    def close(self) -> None:
        os.close(self.fd)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        # A regular file takes all or fails; a short write is the last bytes before a limit, and the next
        # call says which limit it was.
        while rest:
            rest = rest[os.write(self.fd, rest) :]

    def _compare(self) -> None:
        """See that the file is still the one that was left after the last batch."""
        st = os.fstat(self.fd)
        if st.st_nlink == 0:
            raise OSError(errno.ENOENT, "the log was removed while in use", self.path)
        if st.st_size == self._good:
            return
        self._owed.append(
            events.security(
                action="audit_log_changed",
                outcome="detected",
                reason=f"the log has {st.st_size} bytes, expected {self._good}: another process changed it",
                result={"bytes": st.st_size, "expected": self._good},
            )
        )
        self._good = st.st_size
        self._dangling = st.st_size > 0 and os.pread(self.fd, 1, st.st_size - 1) != b"\n"

    def _undo(self, data: bytes) -> None:
        """Cut off what a failed append left. Where that is impossible (chattr +a), tell it apart from records."""
        try:
            os.ftruncate(self.fd, self._good)
        except OSError as e:
            size = os.fstat(self.fd).st_size
            left = data[: size - self._good]
            if not left:
                return
            # Whole lines among the rest keep their seq, so that none is given twice.
            whole = left[self._dangling :].count(b"\n")
            self.seq += whole
            self.stood = max(0, whole - len(self._owed))
            del self._owed[:whole]
            self._good = size
            self._dangling = not left.endswith(b"\n")
            self._owed.append(
                events.service(
                    action="audit_append",
                    outcome="torn",
                    reason=f"{len(left)} bytes of refused records could not be cut off ({e.strerror}); "
                    f"those up to seq {self.seq} stand in the log although they were not acknowledged",
                    result={"bytes": len(left), "last_refused_seq": self.seq},
                )
            )
        else:
            # Nobody was told of these bytes, so a failure here costs nothing but tidiness after a power cut.
            with contextlib.suppress(OSError):
                os.fdatasync(self.fd)
