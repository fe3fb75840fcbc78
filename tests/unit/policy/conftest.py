"""A policy directory on disk, since what is tested is what files do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.errors import PolicyInvalid
from supervisor.layout import layout
from supervisor.policy.load import load

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Snapshot

# Three lines on purpose: what a test adds starts at line 4.
SHELL = '[profiles.shell]\nread = ["/usr"]\nexecute = ["/usr"]\n'

ACCOUNTS = {("user", "root"): 0, ("user", "agent"): 1500, ("group", "stockade-clients"): 990}


class PolicyFiles:
    """An etc directory of a test's own."""

    def __init__(self, root: Path) -> None:
        self.layout = layout(str(root))
        self.main = Path(self.layout.policy)
        self.drop_ins = Path(self.layout.policy_d)
        self.drop_ins.mkdir(parents=True, mode=0o755)
        for directory in (root, self.main.parent, self.drop_ins):
            directory.chmod(0o755)

    def write(self, text: str | bytes, drop_in: str | None = None) -> Path:
        path = self.drop_ins / drop_in if drop_in else self.main
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o644)
        return path

    def load(self) -> Snapshot:
        return load(self.layout, trusted_uid=os.getuid(), resolve=lambda kind, name: ACCOUNTS.get((kind, name)))

    def findings(self) -> list[dict[str, Any]]:
        """What a load that must fail reports."""
        with pytest.raises(PolicyInvalid) as refused:
            self.load()
        found: list[dict[str, Any]] = refused.value.extra["findings"]
        assert found
        return found

    def finding(self) -> dict[str, Any]:
        """The same where there must be exactly one."""
        (one,) = self.findings()
        return one


@pytest.fixture
def policy(tmp_path: Path) -> PolicyFiles:
    return PolicyFiles(tmp_path)
