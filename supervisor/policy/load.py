"""From the policy files to one snapshot, or every finding at once.

read.py takes the bytes, parsed.py (with check.py) the tables of each file, compiling.py is where the files meet.
Imports pydantic, so a small process asks another one to load and takes the snapshot as JSON.
"""

from __future__ import annotations

import grp
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from supervisor.policy.compiling import Compiler
from supervisor.policy.findings import invalid
from supervisor.policy.parsed import parse
from supervisor.policy.read import Source, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from supervisor.layout import Layout
    from supervisor.policy.compiling import Resolve
    from supervisor.policy.findings import Finding
    from supervisor.policy.snapshot import Snapshot


def resolve(kind: Literal["user", "group"], name: str) -> int | None:
    """The uid or gid of a name on this host, or None."""
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError, OSError):
        return None


def load(
    layout: Layout, *, trusted_uid: int = 0, resolve: Resolve = resolve, instead: Mapping[str, bytes] | None = None
) -> Snapshot:
    """The snapshot of the policy files below `layout.etc`.

    `instead` has other bytes for some of these files, as they are before they are written. Raises PolicyInvalid with
    extra["findings"] (findings.py). Files must belong to root or `trusted_uid`.
    """
    sources, found = read(layout, trusted_uid)
    if instead:
        sources = [replace(s, data=instead.get(s.path, s.data)) for s in sources]
    return _compiled(sources, found, resolve)


def loads(text: str, *, path: str = "policy.toml", resolve: Resolve = resolve) -> Snapshot:
    """The snapshot of a policy.toml that stands nowhere yet. Raises PolicyInvalid."""
    return _compiled([Source(path, text.encode(), drop_in=False)], [], resolve)


def _compiled(sources: list[Source], found: list[Finding], resolve: Resolve) -> Snapshot:
    files = [parse(source, found) for source in sources]
    snapshot = Compiler(resolve, found).compile([f for f in files if f is not None])
    if found:
        order = {s.path: n for n, s in enumerate(sources)}
        raise invalid(sorted(found, key=lambda f: (order.get(f["file"], -1), f["line"])))
    return snapshot
