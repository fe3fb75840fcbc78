"""The emergency stop as it outlives this process: one file that is there or not."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

NAME = "stopped.json"


def read(state: str) -> dict[str, Any] | None:
    """Why everything is stopped, or None. A file that cannot be read means stopped: only resume ends a stop."""
    try:
        with open(os.path.join(state, NAME), "rb") as f:
            found = json.loads(f.read(64 * 1024))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        return {"reason": f"the file that says why cannot be read: {e}"}
    return found if isinstance(found, dict) else {"reason": "the file that says why is damaged"}


def write(state: str, why: dict[str, Any]) -> None:
    """Durable when it returns: file and directory are synced (rename(2), fsync(2)). Raises OSError."""
    path = os.path.join(state, NAME)
    draft = f"{path}.new"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as f:
        json.dump(why, f)
        f.flush()
        os.fsync(f.fileno())
    os.rename(draft, path)
    _sync(state)


def remove(state: str) -> None:
    """Durable when it returns. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(state, NAME))
    _sync(state)


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
