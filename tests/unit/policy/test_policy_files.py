"""Files: only what root alone can have written is policy, and no bytes whatsoever are more than a finding."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from supervisor.errors import PolicyInvalid
from supervisor.layout import layout
from supervisor.policy.load import load

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import PolicyFiles

GOOD = '[profiles.shell]\nread = ["/usr"]\nexecute = ["/usr"]\n'


@pytest.mark.parametrize(("mode", "who"), [(0o664, "its group"), (0o646, "everybody")])
def test_a_file_that_others_can_write_is_refused(policy: PolicyFiles, mode: int, who: str) -> None:
    policy.write(GOOD).chmod(mode)
    found = policy.finding()
    assert who in found["message"]
    assert found["expected"] == f"chmod go-w {policy.main}"


def test_a_drop_in_that_others_can_write_is_refused(policy: PolicyFiles) -> None:
    policy.write(GOOD)
    drop = policy.write(GOOD.replace("shell", "x"), "x.toml")
    drop.chmod(0o666)
    assert policy.finding()["file"] == str(drop)


def test_a_byte_order_mark_is_named(policy: PolicyFiles) -> None:
    policy.write(b"\xef\xbb\xbf" + GOOD.encode())
    found = policy.finding()
    assert (found["line"], found["message"]) == (1, "it begins with a byte order mark")


def test_one_directory_is_one_finding(policy: PolicyFiles) -> None:
    policy.write(GOOD)
    policy.main.parent.chmod(0o777)
    assert policy.finding()["file"] == str(policy.main.parent)


@pytest.mark.parametrize("which", ["main", "drop_ins"])
def test_a_directory_that_others_can_write_is_refused(policy: PolicyFiles, which: str) -> None:
    policy.write(GOOD)
    directory = policy.main.parent if which == "main" else policy.drop_ins
    directory.chmod(0o775)
    assert {f["file"] for f in policy.findings()} == {str(directory)}


def test_a_parent_that_others_can_write_is_refused_unless_it_is_sticky(policy: PolicyFiles) -> None:
    policy.write(GOOD)
    parent = policy.main.parent.parent
    parent.chmod(0o1777)
    policy.load()
    parent.chmod(0o777)
    assert {f["file"] for f in policy.findings()} == {str(parent)}


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file away, which takes root")
@pytest.mark.parametrize("which", ["file", "directory", "parent"])
def test_what_belongs_to_somebody_else_is_refused(policy: PolicyFiles, which: str) -> None:
    main = policy.write(GOOD)
    given_away = {"file": main, "directory": main.parent, "parent": main.parent.parent}[which]
    os.chown(given_away, 12345, -1)
    assert {(f["file"], f["message"]) for f in policy.findings()} == {(str(given_away), "belongs to uid 12345")}


@pytest.mark.skipif(os.getuid() == 0, reason="root is always trusted")
def test_an_ordinary_users_file_is_no_policy(policy: PolicyFiles) -> None:
    policy.write(GOOD)
    with pytest.raises(PolicyInvalid):
        load(policy.layout)


@pytest.mark.parametrize("which", ["file", "directory"])
def test_symbolic_links_are_not_followed(policy: PolicyFiles, which: str) -> None:
    policy.write(GOOD)
    link = policy.main if which == "file" else policy.main.parent
    link.rename(link.with_name("elsewhere"))
    link.symlink_to("elsewhere")
    assert {(f["file"], f["message"]) for f in policy.findings()} == {
        (str(link), "symbolic links are not followed"),
    }


def test_a_fifo_is_refused_and_does_not_block(policy: PolicyFiles) -> None:
    os.mkfifo(policy.main, 0o600)
    assert policy.finding()["message"] == "is not a regular file"


def test_a_directory_in_place_of_the_file_is_refused(policy: PolicyFiles) -> None:
    policy.main.mkdir(mode=0o755)
    assert policy.finding()["message"] == "is not a regular file"


def test_a_missing_policy_is_told_with_where_to_start(policy: PolicyFiles) -> None:
    found = policy.finding()
    assert found["file"] == str(policy.main)
    assert "presets" in found["expected"]


def test_missing_directories_are_findings(tmp_path: Path) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        load(layout(str(tmp_path / "nowhere")), trusted_uid=os.getuid())
    assert len(refused.value.extra["findings"]) == 1


def test_the_directory_of_drop_ins_is_optional(policy: PolicyFiles) -> None:
    policy.write(GOOD)
    policy.drop_ins.rmdir()
    assert len(policy.load().files) == 1


def test_an_empty_file_is_refused(policy: PolicyFiles) -> None:
    policy.write(b"")
    assert policy.finding()["message"] == "is empty"


def test_a_file_of_10_mebibytes_is_refused(policy: PolicyFiles) -> None:
    policy.write(GOOD)
    os.truncate(policy.main, 10 << 20)
    assert "larger" in policy.finding()["message"]


def test_no_descriptor_stays_open(policy: PolicyFiles) -> None:
    policy.write(GOOD)
    policy.write("broken", "x.toml")
    (policy.drop_ins / "y.toml").symlink_to("x.toml")
    before = os.listdir("/proc/self/fd")
    assert len(policy.findings()) == 2
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"\n\n\xff\n", 3),
        (b"\na = '\x00'\n", 2),
        (b"\xef\xbb\xbf" + GOOD.encode(), 1),
        (b"a = " + b"[" * 100_000, 1),
        (b"a = " + b"{b=" * 50_000, 1),
        (b"a." * 400 + b"a = 1", 1),
        (b"[service]\nruns = " + b"9" * 5000, 1),
        (b"[service]\nruns = 0x" + b"f" * 100_000, 2),
        (b"[service]\nruns = nan", 2),
        (b"[service]\nruns = 1979-05-27", 2),
        (b"profiles = 3", 1),
        (b"profiles = [3]", 1),
        (b"callers = 3", 1),
        (b"callers = [[[3]]]", 1),
        (b"[callers]\nuid = 3", 1),
        (b"[profiles]\nshell = 3", 2),
        (b"[profiles.shell]\nlimits = 3\nread=[]\nexecute=[]", 2),
        (b"service = true", 1),
        (b'[profiles."{said}"]\nread=[]\nexecute=[]', 1),
        (b'"\\n{}%s" = 1', 1),
    ],
)
def test_strange_bytes_are_findings(policy: PolicyFiles, data: bytes, line: int) -> None:
    policy.write(data)
    assert policy.findings()[0]["line"] == line


def test_fifty_thousand_errors_are_cut_to_a_hundred(policy: PolicyFiles) -> None:
    policy.write("".join(f"k{n} = 1\n" for n in range(50_000)))
    assert len(policy.findings()) == 100


WORDS = [
    *(
        "[profiles.shell]",
        "[[callers]]",
        "[ceiling]",
        "[service]",
        "[profiles]",
        "read",
        "limits",
        "memory",
        "uid",
        "unit",
    ),
    *(
        "workspaces",
        "uid_range",
        "=",
        ".",
        "\n",
        "[",
        "]",
        "{",
        "}",
        ",",
        '"',
        "'",
        '"""',
        "#",
        '"512M"',
        '"/usr"',
        "0",
    ),
    *("1e400", "inf", "true", "-1", "0x" + "f" * 40, '"$WORKSPACE"', '"**"', "\\u0000", "\r\n", "\t", "1979-05-27"),
]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(min_size=1, max_size=60),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=25).map(lambda w: " ".join(w).encode()),
        st.recursive(
            st.sampled_from(["1", "true", '"x"', "[]", "{}", '"/usr"', "1.0"]),
            lambda v: (
                st.dictionaries(st.sampled_from(["read", "limits", "memory", "uid", "x"]), v, max_size=2).map(
                    lambda d: "{" + ", ".join(f"{k} = {x}" for k, x in d.items()) + "}"
                )
                | st.lists(v, max_size=2).map(lambda items: "[" + ", ".join(items) + "]")
            ),
            max_leaves=5,
        ).flatmap(
            lambda v: st.sampled_from(["profiles", "profiles.shell", "callers", "service", "ceiling", "x"]).map(
                lambda k: f"{k} = {v}".encode()
            )
        ),
    )
)
@example(b"callers = [{uid = 1, role = 'viewer'}, {uid = 1, role = 'viewer'}]")
def test_no_bytes_are_more_than_a_finding(policy: PolicyFiles, data: bytes) -> None:
    policy.write(data)
    found: list[dict[str, object]] = [{"line": 1, "message": "loaded"}]
    try:
        policy.load()
    except PolicyInvalid as e:
        found = e.extra["findings"]
    assert found
    assert all(type(f["line"]) is int and f["line"] >= 1 and f["message"] for f in found)
