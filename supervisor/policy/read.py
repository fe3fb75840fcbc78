"""The bytes of the policy files, from descriptors that nobody but root could have put there.

Every directory from / on is opened in turn without following symbolic links and looked at through its descriptor,
then the file likewise, once: what is checked is what is read.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from supervisor.policy.findings import Finding, finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.layout import Layout

MAX_BYTES = 1 << 20  # of one file
MAX_FILES = 256  # drop-ins

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC  # needs no right to list it
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not block, open(2)


@dataclass(frozen=True, slots=True)
class Source:
    """One policy file as it was read."""

    path: str
    data: bytes
    drop_in: bool

    @property
    def digest(self) -> str:
        """SHA-256, hex."""
        return hashlib.sha256(self.data).hexdigest()


class _Refused(Exception):
    """A file or directory that cannot be trusted: the path, what is wrong, what is expected."""


def read(layout: Layout, trusted_uid: int) -> tuple[list[Source], list[Finding]]:
    """policy.toml, then the drop-ins in the order of names; and a finding for each that cannot be used."""
    sources: list[Source] = []
    found: list[Finding] = []
    for path, drop_in in [(layout.policy, False), *((p, True) for p in _drop_ins(layout, trusted_uid, found))]:
        try:
            with _directory(os.path.dirname(path), trusted_uid) as at:
                sources.append(Source(path, _contents(path, at, trusted_uid), drop_in))
        except _Refused as e:
            found.append(_finding(*e.args))
    return sources, [f for n, f in enumerate(found) if f not in found[:n]]  # both may lie below the same directory


def _finding(path: str, message: str, expected: str | None = None) -> Finding:
    return finding(path, 1, "", message, expected=expected)


def _drop_ins(layout: Layout, trusted_uid: int, found: list[Finding]) -> list[str]:
    try:
        with _directory(layout.policy_d, trusted_uid) as fd:
            names = _names(fd)
    except FileNotFoundError:
        return []  # drop-ins are optional
    except _Refused as e:
        found.append(_finding(*e.args))
        return []
    except OSError as e:
        found.append(_finding(layout.policy_d, f"cannot be read: {os.strerror(e.errno or 0)}"))
        return []
    if len(names) > MAX_FILES:
        found.append(_finding(layout.policy_d, f"{len(names)} drop-ins", f"at most {MAX_FILES}"))
        return []
    unprintable = [n for n in names if not n.isprintable()]
    found += [_finding(layout.policy_d, f"{n!a} is not a usable file name") for n in unprintable]
    return [os.path.join(layout.policy_d, n) for n in names if n not in unprintable]


def _names(directory: int) -> list[str]:
    """The drop-ins in the order of their names; an editor's hidden files are none."""
    fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return sorted(n for n in os.listdir(fd) if n.endswith(".toml") and not n.startswith("."))
    finally:
        os.close(fd)


@contextmanager
def _directory(path: str, trusted_uid: int) -> Iterator[int]:
    """A descriptor of a directory that only trusted users can change. Raises FileNotFoundError, _Refused."""
    parts = [p for p in path.split("/") if p]
    fd = os.open("/", _DIRECTORY)
    try:
        for n, part in enumerate(parts):
            here = "/" + "/".join(parts[: n + 1])
            following = _open(part, here, _DIRECTORY, fd, missing_is_fine=path.endswith("/policy.d"))
            os.close(fd)
            fd = following
            # In a sticky directory of root's, such as /tmp, nobody can rename what belongs to root.
            _trusted(os.fstat(fd), here, trusted_uid, sticky=n + 1 < len(parts))
        yield fd
    finally:
        os.close(fd)


def _open(name: str, path: str, flags: int, at: int, *, missing_is_fine: bool = False) -> int:
    try:
        return os.open(name, flags, dir_fd=at)
    except FileNotFoundError:
        if missing_is_fine:
            raise
        raise _Refused(path, "there is no such file", "a policy; `policies/` has presets to start from") from None
    except OSError as e:
        try:
            link = stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
        except OSError:
            link = False
        said = "symbolic links are not followed" if link else f"cannot be opened: {os.strerror(e.errno or 0)}"
        raise _Refused(path, said, "a directory" if flags == _DIRECTORY else "a regular file") from None


def _trusted(seen: os.stat_result, path: str, trusted_uid: int, *, sticky: bool = False) -> None:
    if seen.st_uid not in (0, trusted_uid):
        raise _Refused(path, f"belongs to uid {seen.st_uid}", f"root as owner: chown root {path}")
    if seen.st_mode & 0o022 and not (sticky and seen.st_mode & stat.S_ISVTX):
        who = "its group" if seen.st_mode & 0o020 else "everybody"
        raise _Refused(path, f"is writable by {who} (mode {seen.st_mode & 0o7777:04o})", f"chmod go-w {path}")


def _contents(path: str, at: int, trusted_uid: int) -> bytes:
    fd = _open(os.path.basename(path), path, _FILE, at)
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise _Refused(path, "is not a regular file", "a regular file")
        _trusted(seen, path, trusted_uid)
        chunks: list[bytes] = []
        size = 0
        while size <= MAX_BYTES and (chunk := os.read(fd, MAX_BYTES + 1 - size)):
            chunks.append(chunk)
            size += len(chunk)
    except OSError as e:
        raise _Refused(path, f"cannot be read: {os.strerror(e.errno or 0)}") from None
    finally:
        os.close(fd)
    if size > MAX_BYTES:
        raise _Refused(path, f"is larger than {MAX_BYTES} bytes", "at most 1 MiB")
    if not size:
        raise _Refused(path, "is empty", "a policy; `policies/` has presets to start from")
    return b"".join(chunks)
