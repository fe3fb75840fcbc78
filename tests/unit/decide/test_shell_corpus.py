"""The corpora of hostile and benign scripts under the default lists: what is caught, and what is left alone."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.decide.shell.analyse import analyse_script
from supervisor.decide.shell.match import first
from supervisor.parser.shfmt import Shfmt
from supervisor.policy.deciding import ASKED, BLOCKED, RISKS_ASKED
from supervisor.policy.words import RISKS
from tests.unit.decide.corpus import Entry, entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.decide.shell.model import Analysis

WITHOUT_RM = tuple(p for p in ASKED if p != "rm -rf")


@pytest.fixture(scope="module")
def shfmt() -> Iterator[Shfmt]:
    with Shfmt() as parser:
        yield parser


def verdict(analysis: Analysis, asked: tuple[str, ...] = tuple(ASKED)) -> str:
    """What the default lists make of an analysis, for somebody supervised."""
    if first(tuple(BLOCKED), analysis) is not None:
        return "block"
    risky = any(r.kind in RISKS_ASKED for r in analysis.risks)
    return "ask" if risky or not analysis.parsed or first(asked, analysis) is not None else "allow"


PAGE = tomllib.loads((Path(__file__).parents[3] / "policies" / "default.toml").read_text())["autonomy"]


def on_the_page(analysis: Analysis) -> str:
    """The same of the lists of policies/default.toml."""
    if first(tuple(PAGE["blocked_commands"]), analysis) is not None:
        return "block"
    risky = any(r.kind in PAGE["approval_risks"] for r in analysis.risks)
    asked = first(tuple(PAGE["approval_patterns"]), analysis) is not None
    return "ask" if risky or asked or not analysis.parsed else "allow"


def table(title: str, counts: Counter[tuple[str, str]]) -> str:
    """A confusion table: what a script is, by what it was taken for."""
    columns = ("block", "ask", "allow")
    lines = [title, f"{'is':>12} {'taken for:':>12} " + " ".join(f"{c:>6}" for c in columns)]
    for name in sorted({expected for expected, _ in counts}):
        row = [counts[name, c] for c in columns]
        lines.append(f"{name:>12} {sum(row):>12} " + " ".join(f"{n:>6}" for n in row))
    return "\n".join(lines)


def wrong(entry: Entry, analysis: Analysis, got: str) -> bool:
    taken = got == "block" if entry.expected == "block" else got in ("ask", "block") or entry.expected == "sign"
    return not taken or bool(entry.risk and entry.risk not in {r.kind for r in analysis.risks})


def test_nothing_hostile_is_missed(shfmt: Shfmt, capsys: pytest.CaptureFixture[str]) -> None:
    """Every hostile script is taken for what it is, with the kind of danger that it is there for."""
    counts: Counter[tuple[str, str]] = Counter()
    missed = []
    for entry in entries("hostile.txt"):
        analysis = analyse_script(entry.script, shfmt.parse)
        got = verdict(analysis)
        counts[entry.expected, got] += 1
        if wrong(entry, analysis, got):
            missed.append(
                f"hostile.txt:{entry.line}: {got}, {sorted({r.kind for r in analysis.risks})}: {entry.script}"
            )
    with capsys.disabled():
        print("\n" + table("hostile, under the default lists", counts))
    assert not missed, "\n".join(missed)
    assert sum(counts.values()) >= 1500
    assert sum(n for (expected, _), n in counts.items() if expected == "block") >= 800


@pytest.mark.parametrize(
    ("name", "asked", "least"), [("benign.txt", tuple(ASKED), 1400), ("deleting.txt", WITHOUT_RM, 40)]
)
def test_nothing_benign_is_stopped_or_asked_about(
    shfmt: Shfmt, capsys: pytest.CaptureFixture[str], name: str, asked: tuple[str, ...], least: int
) -> None:
    """Ordinary work passes; deleting directories of one's own too, where `rm -rf` is no pattern."""
    counts: Counter[tuple[str, str]] = Counter()
    flagged = []
    for entry in entries(name):
        analysis = analyse_script(entry.script, shfmt.parse)
        got = verdict(analysis, asked)
        counts["benign", got] += 1
        if got != "allow":
            why = [r.detail for r in analysis.risks] or first((*BLOCKED, *asked), analysis) or analysis.error
            flagged.append(f"{name}:{entry.line}: {got}, {why}: {entry.script}")
    with capsys.disabled():
        print(
            "\n"
            + table(
                f"{name}, under {'the default lists' if len(asked) == len(ASKED) else 'them without rm -rf'}", counts
            )
        )
    assert not flagged, "\n".join(flagged)
    assert sum(counts.values()) >= least


def test_the_default_page_lets_ordinary_work_pass(shfmt: Shfmt) -> None:
    """policies/default.toml asks about less than the default lists do, so that nobody is asked for nothing."""
    flagged = []
    for name in ("benign.txt", "deleting.txt", "default.txt"):
        for entry in entries(name):
            got = on_the_page(analyse_script(entry.script, shfmt.parse))
            if got != "allow":
                flagged.append(f"{name}:{entry.line}: {got}: {entry.script}")
    assert not flagged, "\n".join(flagged)


def test_the_default_page_asks_about_what_is_hostile(shfmt: Shfmt, capsys: pytest.CaptureFixture[str]) -> None:
    """All but what it says it lets pass: what plants or names something at run time and shows nothing worse."""
    counts: Counter[tuple[str, str]] = Counter()
    missed = []
    for entry in entries("hostile.txt"):
        analysis = analyse_script(entry.script, shfmt.parse)
        got = on_the_page(analysis)
        counts[entry.expected, got] += 1
        unasked = {r.kind for r in analysis.risks} & {"persistence", "dynamic", "exfiltration", "scanning", "mining"}
        by_list = first(("rm -rf", "dd if="), analysis) is not None
        if got == "allow" and not unasked and not by_list:
            missed.append(f"hostile.txt:{entry.line}: {got}: {entry.script}")
    with capsys.disabled():
        print("\n" + table("hostile, under the default page", counts))
    assert not missed, "\n".join(missed)


def test_the_default_pattern_asks_about_deleting(shfmt: Shfmt) -> None:
    """The second table is there for a reason: with the default list most of it is asked about."""
    got = Counter(verdict(analyse_script(e.script, shfmt.parse)) for e in entries("deleting.txt"))
    assert got["ask"] >= 20
    assert got["block"] == 0


def test_every_kind_of_risk_is_in_the_corpus(shfmt: Shfmt) -> None:
    """But for `outside`, which is told from the paths and the workspace."""
    named = {e.risk for e in entries("hostile.txt")} - {""}
    assert named == set(RISKS) - {"outside"}


def test_no_script_of_the_corpora_is_in_two_of_them() -> None:
    seen = Counter(
        e.script for name in ("hostile.txt", "benign.txt", "deleting.txt", "default.txt") for e in entries(name)
    )
    assert [s for s, n in seen.items() if n > 1] == []
