"""`stockade policy test|explain|unused|import` as programs see them."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICY = """\
[profiles.shell]
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE"]
execute = ["/usr", "/bin"]
[[callers]]
uid = 5
role = "operator"
profiles = ["shell"]
workspaces = ["/srv/a"]
[[callers]]
uid = 0
role = "administrator"
[[tests]]
argv = ["git", "status"]
expect = "allow"
[[tests]]
command = "true; git push --force"
expect = "ask"
"""
SAMPLES = Path(__file__).parents[1] / "policy" / "samples"


@pytest.fixture
def private() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="stockade-cli-", dir="/var/tmp"))
    yield directory
    shutil.rmtree(directory)


def test_tests_that_hold_are_status_0(stockade: Any, private: Path) -> None:
    (private / "policy.toml").write_text(POLICY)
    ended = stockade("policy", "test", str(private))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.decode().splitlines()[-1] == "2 tests hold"


def test_a_test_that_comes_out_otherwise_fails_test_and_check_with_its_line(stockade: Any, private: Path) -> None:
    (private / "policy.toml").write_text(POLICY.replace('expect = "ask"', 'expect = "allow"'))
    ended = stockade("policy", "test", str(private), "--json")
    rows = json.loads(ended.stdout)["tests"]
    assert ended.returncode == 1
    assert [row["ok"] for row in rows] == [True, False]
    assert rows[1]["verdict"] == "ask"
    checked = stockade("policy", "check", str(private))
    assert checked.returncode == 1
    assert f"{private}/policy.toml:16: tests: " in checked.stdout.decode()


def test_a_policy_that_does_not_load_has_no_tests(stockade: Any, private: Path) -> None:
    (private / "policy.toml").write_text(POLICY + "x = 1\n")
    ended = stockade("policy", "test", str(private))
    assert ended.returncode == 1
    assert b"tests[1].x" in ended.stderr


EXPLAINED = {
    "verdict": "ask",
    "profile": "shell",
    "autonomy": "supervised",
    "network": "none",
    "readonly": True,
    "reasons": [{"rule": "autonomy.approval_patterns[0]", "source": "/p:3", "detail": "is \x1b[31m'git push'"}],
    "risks": [{"kind": "dynamic", "detail": "d", "start": 0, "end": 1}],
    "steps": [{"rule": "callers[0]", "source": "/p:9", "effect": "note", "detail": "names the caller"}],
    "parsed": True,
    "change": "# /p:3\n[autonomy]\napproval_patterns = []\n",
}


def test_explain_says_why_and_what_would_change_it(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/policy/explain"] = EXPLAINED
    ended = stockade("policy", "explain", "--label", "channel=x", "-w", "/", "--", "git", "push", "--force")
    text = ended.stdout.decode()
    assert ended.returncode == 1
    assert service.bodies("POST", "/v1/policy/explain") == [
        {"tool": "shell", "argv": ["git", "push", "--force"], "workspace": "/", "labels": {"channel": "x"}}
    ]
    assert text.startswith("verdict: ask\n")
    assert "\x1b" not in text
    assert "workspace: read-only\n" in text
    assert "/p:9" in text
    assert text.endswith("  [autonomy]\n  approval_patterns = []\n")


def test_explain_of_what_would_run_is_status_0(service: Any, stockade: Any) -> None:
    service.routes["POST", "/v1/policy/explain"] = {**EXPLAINED, "verdict": "allow", "reasons": [], "change": None}
    assert stockade("policy", "explain", "-c", "ls | wc").returncode == 0
    assert stockade("policy", "explain").returncode == 2


def test_unused_asks_for_days(service: Any, stockade: Any) -> None:
    rule = {"rule": "rules.x", "source": "/p:1", "count": 0, "last_used": None, "known_since": "2026-01-01T00:00:00Z"}
    service.routes["GET", "/v1/policy/unused"] = {"days": 30, "rules": [rule]}
    ended = stockade("policy", "unused", "--days", "30")
    assert service.requests == [("GET", "/v1/policy/unused?days=30", None)]
    assert "rules.x  /p:1    0     never" in ended.stdout.decode()
    assert stockade("policy", "unused", "--days", "0").returncode == 2


@pytest.mark.parametrize("name", ["zeroclaw.toml", "clawdbot.json"])
def test_an_import_writes_a_policy_that_checks_and_reports_what_is_missing(
    stockade: Any, private: Path, name: str
) -> None:
    out = private / "new.toml"
    ended = stockade("policy", "import", str(SAMPLES / name), "-o", str(out))
    assert ended.returncode == 1  # written, and not everything was carried over
    assert b"NOT CARRIED OVER" in ended.stderr
    assert ended.stdout == b""
    # The accounts that presets name need not be on this host.
    out.write_text(out.read_text().replace('group = "stockade-clients"', "uid = 5"))
    checked = stockade("policy", "check", str(out))
    assert checked.returncode == 0, checked.stdout
    assert b"warning" not in checked.stdout


def test_an_import_that_is_complete_is_status_0_and_goes_to_stdout(stockade: Any, private: Path) -> None:
    file = private / "c.toml"
    file.write_text('[autonomy]\nlevel = "full"\n')
    ended = stockade("policy", "import", str(file))
    assert (ended.returncode, ended.stderr) == (0, b"1 of 1 keys carried over, on the page of the preset default\n")
    assert b'level = "full"' in ended.stdout
    report = json.loads(stockade("policy", "import", str(file), "--json").stdout)
    assert (report["complete"], report["keys"][0]["ours"]) == (True, "autonomy.level")
    assert "[autonomy]" in report["text"]


def test_an_import_never_replaces_unasked_and_never_writes_a_part(stockade: Any, private: Path) -> None:
    file, out = private / "c.toml", private / "out.toml"
    file.write_text('[autonomy]\nlevel = "full"\n')
    out.write_text("mine\n")
    assert stockade("policy", "import", str(file), "-o", str(out)).returncode == 1
    assert out.read_text() == "mine\n"
    assert stockade("policy", "import", str(file), "-o", str(out), "--force").returncode == 0
    assert "[autonomy]" in out.read_text()
    file.write_text("a: [1\n")
    refused = stockade("policy", "import", str(file), "-o", str(private / "none.toml"))
    assert refused.returncode == 1
    assert b"YAML" in refused.stderr
    assert sorted(p.name for p in private.iterdir()) == ["c.toml", "out.toml"]
    assert stockade("policy", "import", str(file), "--format", "other").returncode == 2
