"""`stockade config`: what is set is valid as a whole, or the file stays as it was; and only while audit works."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = """\
# The page of a test.
[profiles.shell]
read = ["/usr"]           # programs
execute = ["/usr"]

[autonomy]
level = "supervised"      # asks
"""


@pytest.fixture
def file() -> Iterator[Path]:
    """A policy whose every parent only its owner can write, as policy wants it."""
    directory = Path(tempfile.mkdtemp(prefix="stockade-cli-", dir="/var/tmp"))
    path = directory / "policy.toml"
    path.write_text(TEXT)
    path.chmod(0o640)
    yield path
    shutil.rmtree(directory)


@pytest.fixture
def audited(service: Any) -> Any:
    service.routes["GET", "/v1/status"] = {"audit": {"ok": True}}
    return service


def test_a_key_is_set_in_its_place_and_the_file_keeps_its_mode(audited: Any, stockade: Any, file: Path) -> None:
    ended = stockade("config", "set", "autonomy.level", "readonly", "--file", str(file))
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert file.read_text() == TEXT.replace('"supervised" ', '"readonly" ')
    assert file.stat().st_mode & 0o7777 == 0o640
    assert os.listdir(file.parent) == ["policy.toml"]
    assert audited.requests == [("GET", "/v1/status", None)]


def test_a_list_and_a_limit_are_set_as_json_and_as_text(audited: Any, stockade: Any, file: Path) -> None:
    for key, value in (
        ("autonomy.approval_patterns", '["git push"]'),
        ("profiles.shell.limits.memory", "512M"),
        ("callers.0", '{"uid": 0, "role": "administrator"}'),
    ):
        assert stockade("config", "set", key, value, "--file", str(file)).returncode == 0
    got = json.loads(stockade("config", "get", "autonomy.approval_patterns", "--json", "--file", str(file)).stdout)
    assert (got["value"], got["source"]) == (["git push"], str(file))
    assert stockade("config", "get", "profiles.shell.limits.memory", "--file", str(file)).stdout == b'"512M"\n'
    assert stockade("config", "get", "callers.0.role", "--file", str(file)).stdout == b'"administrator"\n'
    assert stockade("config", "validate", "--file", str(file)).returncode == 0


def test_what_would_not_load_is_refused_with_its_findings_and_nothing_is_written(
    audited: Any, stockade: Any, file: Path
) -> None:
    before = file.stat()
    for key, value, said in (
        ("autonomy.level", "careful", "careful"),
        ("profiles.shell.limits.memory", "512X", "512X"),
        ("profiles.shell.write", '["/etc"]', "/etc belongs to the system"),
        ("callers.0", '{"uid": 5, "role": "nobody"}', "there is no role 'nobody'"),
        ("autonomy.levl", "full", "did you mean level?"),
    ):
        ended = stockade("config", "set", key, value, "--file", str(file))
        assert ended.returncode == 1
        assert said in ended.stderr.decode()
    assert file.read_text() == TEXT
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert os.listdir(file.parent) == ["policy.toml"]


def test_a_drop_in_that_would_no_longer_be_narrower_refuses_the_change(audited: Any, stockade: Any, file: Path) -> None:
    drop_ins = file.parent / "policy.d"
    drop_ins.mkdir(mode=0o755)
    (drop_ins / "10.toml").write_text('[profiles.shell]\nread = ["/usr"]\nexecute = ["/usr"]\nlimits.memory = "512M"\n')
    ended = stockade("config", "set", "profiles.shell.limits.memory", "256M", "--file", str(file))
    assert ended.returncode == 1
    assert "10.toml:4: profiles.shell.limits.memory: 512M is wider" in ended.stderr.decode()
    assert file.read_text() == TEXT


def test_a_drop_in_is_changed_as_a_drop_in(audited: Any, stockade: Any, file: Path) -> None:
    drop_in = file.parent / "policy.d" / "10.toml"
    drop_in.parent.mkdir(mode=0o755)
    drop_in.write_text("[[rates]]\nper_minute = 5\n")
    assert stockade("config", "set", "rates.0.per_minute", "3", "--file", str(drop_in)).returncode == 0
    assert drop_in.read_text() == "[[rates]]\nper_minute = 3\n"
    ended = stockade("config", "set", "autonomy.level", "full", "--file", str(drop_in))
    assert ended.returncode == 1
    assert b"a drop-in cannot have this table" in ended.stderr
    hidden = drop_in.with_name(".x.toml")
    hidden.write_text("[[rates]]\nper_minute = 5\n")
    ended = stockade("config", "set", "rates.0.per_minute", "3", "--file", str(hidden))
    assert (ended.returncode, b"nothing would read it" in ended.stderr) == (1, True)
    assert hidden.read_text().endswith("5\n")


def test_a_change_that_turns_a_test_round_is_refused(audited: Any, stockade: Any, file: Path) -> None:
    text = TEXT + (
        '[[callers]]\nuid = 5\nrole = "operator"\nprofiles = ["shell"]\nworkspaces = ["/srv/a"]\n'
        '[[callers]]\nuid = 0\nrole = "administrator"\n'
        '[[tests]]\nargv = ["mkfs", "/dev/sda"]\nexpect = "deny"\n'
    )
    file.write_text(text)
    ended = stockade("config", "set", "autonomy.blocked_commands", "[]", "--file", str(file))
    assert ended.returncode == 1
    assert "tests: 'mkfs /dev/sda' is " in ended.stderr.decode()
    assert file.read_text() == text


@pytest.mark.parametrize("status", [{"audit": {"ok": False}}, {}])
def test_nothing_is_set_while_the_audit_log_does_not_work(
    service: Any, stockade: Any, file: Path, status: dict[str, Any]
) -> None:
    service.routes["GET", "/v1/status"] = status
    for extra in ((), ("--offline",)):
        ended = stockade("config", "set", "autonomy.level", "full", "--file", str(file), *extra)
        assert ended.returncode == 1
        assert b"only while the audit log works" in ended.stderr
    assert file.read_text() == TEXT


def test_without_a_service_it_takes_a_word(start: Any, stockade: Any, file: Path) -> None:
    nowhere = {"STOCKADE_SOCKET": str(file.parent / "none.sock")}
    ended = stockade("config", "set", "autonomy.level", "full", "--file", str(file), env=nowhere)
    assert ended.returncode == 1
    assert b"--offline" in ended.stderr
    assert file.read_text() == TEXT
    ended = stockade("config", "set", "autonomy.level", "full", "--file", str(file), "--offline", env=nowhere)
    assert ended.returncode == 0
    assert 'level = "full"' in file.read_text()


def test_a_link_is_not_replaced(audited: Any, stockade: Any, file: Path) -> None:
    real = file.with_name("real.toml")
    file.rename(real)
    file.symlink_to(real)
    ended = stockade("config", "set", "autonomy.level", "full", "--file", str(file))
    assert ended.returncode == 1
    assert file.is_symlink()
    assert real.read_text() == TEXT


def test_a_key_that_is_not_written_has_its_default_or_is_not_there(stockade: Any, file: Path) -> None:
    got = json.loads(stockade("config", "get", "autonomy.unparsed", "--json", "--file", str(file)).stdout)
    assert (got["value"], got["source"]) == ("ask", "the default")
    assert stockade("config", "get", "callers.3.zone", "--file", str(file)).returncode == 1
    assert stockade("config", "get", "callers.3.role", "--file", str(file)).returncode == 1
    assert stockade("config", "get", "no.such", "--file", str(file)).returncode == 1


def test_validate_tells_every_finding(stockade: Any, file: Path) -> None:
    file.write_text(TEXT + 'leve = "x"\n[tools]\npolicy = "some"\n')
    ended = stockade("config", "validate", "--file", str(file))
    assert ended.returncode == 1
    lines = ended.stdout.decode().splitlines()
    assert [line.split(": ")[1] for line in lines] == ["autonomy.leve", "tools.policy"]
