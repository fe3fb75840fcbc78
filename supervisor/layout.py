"""Where everything lives. `stockade serve --root DIR` moves the whole layout below DIR."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    etc: str  # policy.toml, policy.d/
    run: str  # api.sock
    state: str  # spool/, what survives a restart
    log: str  # audit.jsonl
    instance: str  # names this instance's cgroups; "stockade" for the installed service

    @property
    def policy(self) -> str:
        return os.path.join(self.etc, "policy.toml")

    @property
    def policy_d(self) -> str:
        return os.path.join(self.etc, "policy.d")

    @property
    def socket(self) -> str:
        return os.path.join(self.run, "api.sock")

    @property
    def audit(self) -> str:
        return os.path.join(self.log, "audit.jsonl")

    @property
    def spool(self) -> str:
        return os.path.join(self.state, "spool")


def layout(root: str | None = None) -> Layout:
    """The installed layout, or with `root` everything below that directory: etc, run, state, log."""
    if root is None:
        return Layout("/etc/stockade", "/run/stockade", "/var/lib/stockade", "/var/log/stockade", "stockade")
    base = os.path.abspath(root)
    # Two instances may live side by side in tests: the name is derived from the root, so that each
    # sweeps only its own cgroups after a crash.
    tag = f"{zlib.crc32(os.fsencode(base)):08x}"
    etc, run, state, log = (os.path.join(base, d) for d in ("etc", "run", "state", "log"))
    return Layout(etc, run, state, log, f"stockade-{tag}")
