"""What loads and is probably not what was meant: warnings, and notes (severity "info") about what is worth knowing.

Whatever must not be is refused by the loader. Every finding has the place of an entry, and what to do as `expected`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from supervisor.policy.linting import amounts, asking, confinement, matching
from supervisor.policy.linting.said import note, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from supervisor.policy.findings import Finding
    from supervisor.policy.snapshot import Snapshot

CHECKS: tuple[Callable[[Snapshot], Iterator[Finding]], ...] = (
    confinement.profiles,
    matching.unused_callers,
    asking.tools,
    asking.commands,
    asking.paths,
    asking.answers,
    asking.roles,
    matching.contexts,
    matching.rules,
    amounts.rates,
    amounts.budgets,
    amounts.breaker,
    amounts.alerts,
    amounts.concurrency,
)


def lint(snapshot: Snapshot) -> list[Finding]:
    """Findings with severity "warning" or "info", in the order of the checks."""
    found = [finding for check in CHECKS for finding in check(snapshot)]
    return [*found, *_files(snapshot)]


def _files(snapshot: Snapshot) -> Iterator[Finding]:
    main = snapshot.files[0][0] + ":1"
    if not snapshot.callers:
        yield warn(main, "callers", "nobody may use the service", "at least one [[callers]]")
    if not snapshot.tests:
        said = "there is no test, so nothing tells when a change turns a decision round"
        yield note(main, "tests", said, "[[tests]] for what must be allowed, asked and denied")
    entries: tuple[Any, ...] = (
        *snapshot.profiles, *snapshot.callers, *snapshot.contexts, *snapshot.rules, *snapshot.rates, *snapshot.budgets,
        *snapshot.tests,
    )  # fmt: skip
    in_force = {entry.source.rpartition(":")[0] for entry in entries}
    for path, _ in snapshot.files[1:]:
        if path not in in_force:
            yield warn(path + ":1", "", "nothing in force comes from this drop-in")
