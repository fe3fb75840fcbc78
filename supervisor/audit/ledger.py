"""Which runs are open: each has exactly one decision to allow it and exactly one outcome. Pure."""

from __future__ import annotations

from typing import Any, Literal

Sender = Literal["main", "launcher"]

# Decisions without an outcome; far above what the service's own bounds admit, so that only a broken or
# taken-over main meets it.
MAX_OPEN = 10_000
# Ended runs that are remembered to refuse a second decision. At some 100 bytes each the auditor stays small.
MAX_ENDED = 200_000


class Ledger:
    def __init__(self) -> None:
        self.open: dict[str, tuple[str | None, int]] = {}  # run -> (session, seq of its decision)
        self._ended: dict[str, None] = {}

    def refusal(self, event: dict[str, Any], sender: Sender) -> str | None:
        """Why this event may not be recorded for this sender now, or None."""
        kind, run = event["event_type"], event["run"]
        if kind == "decision":
            if sender != "main":
                return "only main records decisions"
            if event["outcome"] != "allow":
                return None
            if run in self.open or run in self._ended:
                return "duplicate: this run has its decision"
            if len(self.open) >= MAX_OPEN:
                return f"{MAX_OPEN} runs have a decision and no outcome"
        if kind == "approval" and sender != "main":
            return "only main records approvals"
        if kind == "outcome":
            if sender != "launcher":
                return "only the launcher records outcomes"
            if run in self._ended:
                return "duplicate: this run has its outcome"
            if run not in self.open:
                return "no decision allows this run"
        return None

    def apply(self, event: dict[str, Any], seq: int) -> None:
        """Take note of a record that is in the log."""
        run = event.get("run")
        if run is None:
            return
        if event["event_type"] == "decision" and event.get("outcome") == "allow":
            self.open[run] = (event.get("session_id"), seq)
        elif event["event_type"] == "outcome":
            self.open.pop(run, None)
            self._ended[run] = None
            if len(self._ended) > MAX_ENDED:
                del self._ended[next(iter(self._ended))]
