"""A question is shown as it is, however an agent words it: nothing hidden, nothing that looks like something else."""

from __future__ import annotations

import sys
import unicodedata
from typing import Any

import pytest

from supervisor.approvals.gate import what_of
from supervisor.approvals.model import pack
from supervisor.cli import question, show
from tests.unit.approvals.world import REASON, TARGET
from tests.unit.cli.test_cli_approvals import page

MARKER: dict[str, Any] = {"truncated": True, "bytes": 70000, "sha256": "cd" * 32}
# Format characters that are seen: signs that enclose digits or stand before a text.
SEEN = {0x0600, 0x0601, 0x0602, 0x0603, 0x0604, 0x0605, 0x06DD, 0x070F, 0x0890, 0x0891, 0x08E2, 0x110BD, 0x110CD}


def test_every_character_that_is_not_seen_is_spelt_out() -> None:
    """Also variation selectors, tags and fillers, which are no control characters; and no escape stands for two."""
    unseen = {chr(c) for c in (0x034F, 0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800, 0xFE0F, 0xE0041, 0xE0100)}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs") and code != 32 and code not in SEEN:
            unseen.add(character)
    written = {show.safe(character) for character in unseen}
    assert all(text.isascii() and text.startswith("\\") for text in written)
    assert len(written) == len(unseen)


def test_a_label_cannot_look_like_who_asks() -> None:
    labels = {"agent": 'x), uid 0, pid 1 (agent="y', "channel": "#ops", "user": "anna@example.com"}
    shown = page(labels=labels)
    who = next(line for line in shown.split("\n") if line.startswith("who asks: "))
    said = r'agent="x), uid 0, pid 1 (agent=\"y" channel="#ops" user=anna@example.com'
    assert who == f"who asks: zeroclaw.service ({said}), uid 424242, pid 7"


def test_what_a_shell_is_fed_is_shown_as_what_will_run() -> None:
    what = {"tool": "shell", "argv": ["sh"], "stdin": "cd" * 32, "input": "echo a\n\x1b[2Kecho b\n"}
    shown = page(what=what, reasons=[])
    assert f"input: SHA-256 {'cd' * 32}\n  | echo a\n  | \\x1b[2Kecho b\nin: " in shown
    assert "cut:" not in shown
    cut = page(what={**what, "input": {**MARKER, "head": "echo a"}}, reasons=[])
    assert "  | echo a\ncut: this is only its head; 70000 bytes in all" in cut
    assert "input: sent while it runs, so nobody knows it yet" in page(what={**what, "stdin": "stream"}, reasons=[])
    assert "input:" not in page(what={"tool": "shell", "argv": ["sh"], "stdin": ""}, reasons=[])


def test_variables_stand_alone_and_what_is_cut_of_them_is_said() -> None:
    what = {"tool": "shell", "argv": ["git"], "env_names": ["A", "B"], "env": ["PATH=/usr/bin, BASH_ENV=x", "IFS=\n"]}
    assert "variables: A, B\nset to:\n  PATH=/usr/bin, BASH_ENV=x\n  IFS=\\x0a\n" in page(what=what, reasons=[])
    many = {**what, "env_names": {**MARKER, "head": ["A"]}, "env": {**MARKER, "head": ["PATH=/usr"]}}
    cut = f"cut: this is only its head; 70000 bytes in all, SHA-256 {'cd' * 32}"
    assert f"variables: A\n{cut}\nset to:\n  PATH=/usr\n{cut}\n" in page(what=many, reasons=[])


@pytest.mark.parametrize(
    ("head", "size", "why"),
    [
        ("echo a\n", 7, None),
        ("écho a\n", 8, None),
        ("echo a\n", 8, "only its head is shown"),
        ("#\ufffd\ufffd\n", 4, None),
        # 4 bytes of the file take 8 as they are shown: the end of it is no longer than what is missing.
        ("#\ufffd\ufffd\n", 8, "not all of it is text, or only its head is shown; 8 bytes in all"),
        ("", 0, None),
    ],
)
def test_a_file_of_which_more_is_executed_than_is_shown_says_so(head: str, size: int, why: str | None) -> None:
    file = {"path": "x.sh", "sha256": "ab" * 32, "size": size, "head": head}
    shown = page(what={"tool": "shell", "argv": ["sh", "x.sh"], "files": [file]}, reasons=[])
    assert ("| …" in shown) == (why is not None)
    assert why is None or f"  | … ({why})\n" in shown


def test_a_line_of_a_file_is_a_line_for_the_shell() -> None:
    file = {"path": "x.sh", "sha256": "ab" * 32, "size": 11, "head": "echo \x0c# a\n\n"}
    shown = page(what={"tool": "shell", "argv": ["sh", "x.sh"], "files": [file]}, reasons=[])
    assert "  | echo \\x0c# a\n  | \n" in shown


def test_as_many_files_as_can_be_named_are_all_shown() -> None:
    """Heads that fill what there is to show do not take the names and digests of the others away."""
    head = "\x01" * 2700  # as much as the launcher sends of one file
    files = [{"path": f"{n}.sh", "sha256": f"{n}" * 64, "size": 9000, "head": head} for n in range(8)]
    what = what_of(TARGET, session=None, marks=[], files=files)
    asked = {"id": "apr-a", "kind": "run", "state": "pending", **_kept(what)}
    shown = "\n".join(question._lines(asked, 0.0, colour=False, uid=0))
    for n in range(8):
        assert f"file: {n}.sh, 8.8K\n  SHA-256 {str(n) * 64}\n  | \\x01" in shown
    assert shown.count("only its head is shown") == 8
    assert "files: 70000 bytes" in page(what={"tool": "shell", "argv": ["sh"], "files": MARKER}, reasons=[])


def _kept(what: dict[str, Any]) -> dict[str, Any]:
    import json
    import zlib

    found: dict[str, Any] = json.loads(zlib.decompress(pack(what, [REASON])))
    return found
