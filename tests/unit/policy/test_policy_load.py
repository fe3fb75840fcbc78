"""Loading: what a policy says is what the snapshot has; what is wrong is told with its line, all of it at once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from supervisor.policy.snapshot import from_json

if TYPE_CHECKING:
    from conftest import PolicyFiles

SHELL = '[profiles.shell]\nread = ["/usr"]\nexecute = ["/usr"]\n'  # what a test adds starts at line 4
CALLER = '[[callers]]\nuser = "agent"\nrole = "operator"\nprofiles = ["shell"]\n'


def test_values_arrive_in_the_units_of_the_snapshot(policy: PolicyFiles) -> None:
    policy.write(
        SHELL + 'limits = { memory = "512M", cpu = "80%", timeout = "2m", idle_timeout = "1500ms", files = 64 }\n'
        '[service]\nsession_idle = "1h"\nuid_range = [2000000000, 1000]\n' + CALLER
    )
    snapshot = policy.load()
    limits = snapshot.profiles[0].limits
    assert (limits.memory, limits.cpu, limits.timeout_ms, limits.idle_timeout_ms) == (512 << 20, 80, 120_000, 1500)
    assert limits.files == 64
    assert snapshot.service.session_idle_ms == 3_600_000
    assert (snapshot.service.uid_base, snapshot.service.uid_count) == (2_000_000_000, 1000)


def test_profiles_and_callers_carry_their_file_and_line(policy: PolicyFiles) -> None:
    main = policy.write(SHELL + CALLER)
    snapshot = policy.load()
    assert snapshot.profiles[0].source == f"{main}:1"
    assert snapshot.callers[0].source == f"{main}:4"


def test_names_of_users_and_groups_are_looked_up(policy: PolicyFiles) -> None:
    policy.write(SHELL + CALLER + '[[callers]]\ngroup = "stockade-clients"\nrole = "viewer"\n')
    agent, group = policy.load().callers
    assert (agent.uid, agent.gid) == (1500, None)
    assert (group.uid, group.gid) == (None, 990)


def test_a_snapshot_survives_json_unchanged(policy: PolicyFiles) -> None:
    policy.write(SHELL + 'env = { LANG = "C.UTF-8" }\n' + CALLER)
    snapshot = policy.load()
    assert from_json(snapshot.to_json()) == snapshot


def test_an_unknown_key_is_told_with_line_and_nearest_name(policy: PolicyFiles) -> None:
    main = policy.write(SHELL + 'limits.memory = "1G"\nlimits.proceses = 5\n')
    found = policy.finding()
    assert (found["file"], found["line"]) == (str(main), 5)
    assert found["key"] == "profiles.shell.limits.proceses"
    assert found["nearest"] == "processes"
    assert "processes" in found["expected"]


def test_an_unknown_limit_of_the_ceiling_is_told_with_its_nearest_name(policy: PolicyFiles) -> None:
    policy.write(SHELL + '[ceiling.limits]\ntimeuot = "1h"\n')
    found = policy.finding()
    assert (found["line"], found["key"], found["nearest"]) == (5, "ceiling.limits.timeuot", "timeout")
    assert "idle_timeout" in found["expected"]


def test_an_unknown_table_is_told_with_its_nearest_name(policy: PolicyFiles) -> None:
    policy.write(SHELL + '\n[profile.file]\nread = ["/usr"]\n')
    found = policy.finding()
    assert (found["line"], found["key"], found["nearest"]) == (5, "profile", "profiles")


def test_a_missing_key_is_told_at_the_header_of_its_table(policy: PolicyFiles) -> None:
    policy.write('# a comment\n\n[profiles.shell]\nread = ["/usr"]\n')
    found = policy.finding()
    assert (found["line"], found["key"]) == (3, "profiles.shell.execute")
    assert found["expected"] == "list of paths"


def test_a_bad_unit_is_told_with_what_is_expected(policy: PolicyFiles) -> None:
    policy.write(SHELL + 'limits = { memory = "512X" }\n')
    found = policy.finding()
    assert (found["line"], found["key"]) == (4, "profiles.shell.limits.memory")
    assert "512X" in found["message"]
    assert '"512M"' in found["expected"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [('memory = "512MB"', "512M"), ('memory = "512m"', "512M"), ('timeout = "60sec"', "60s"), ('cpu = "80"', "80%")],
)
def test_a_unit_that_is_nearly_right_is_corrected(policy: PolicyFiles, written: str, meant: str) -> None:
    policy.write(SHELL + f"limits = {{ {written} }}\n")
    assert policy.finding()["nearest"] == meant


@pytest.mark.parametrize(
    "line",
    [
        'limits = { memory = "0" }',
        'limits = { memory = "4K" }',
        "limits = { memory = true }",
        "limits = { memory = -1 }",
        "limits = { processes = 0 }",
        'limits = { processes = "64" }',
        'limits = { timeout = "none" }',
        'limits = { timeout = "0s" }',
        "limits = { timeout = 60 }",
        'limits = { cpu = "0%" }',
        'network = "host"',
        'required = ["selinux"]',
        'required = ["seccomp", "seccomp"]',
        'env = { "A=B" = "x" }',
        'env = { A = "\\u0000" }',
        "env = { A = 1 }",
        'shell = "sh"',
        'workspace_owner = "root"',
        "write = 3",
        "write = [3]",
    ],
)
def test_an_impossible_value_is_refused_at_its_line(policy: PolicyFiles, line: str) -> None:
    policy.write(SHELL + line + "\n")
    assert policy.finding()["line"] == 4


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("write", "usr"),
        ("write", "/srv/../etc"),
        ("write", "/srv/"),
        ("write", "/srv//x"),
        ("write", "/srv/a\\u0000b"),
        ("write", "~/x"),
        ("write", "$HOME"),
        ("write", "$WORKSPACEX"),
        ("write", "$WORKSPACE/../x"),
        ("write", "/"),
        ("write", "/usr/local"),
        ("write", "/etc"),
        ("write", "/lib64"),
        ("write", "/var"),
        ("write", "/var/lib/x"),
        ("write", "/run/user/1000"),
        ("write", "/proc"),
        ("write", "/sys/fs/cgroup"),
        ("write", "/dev"),
        ("write", "/boot/x"),
        ("write", "/home/a/.ssh"),
        ("write", "/srv/*"),
        ("read", "/"),
        ("read", "/proc"),
        ("read", "/run"),
        ("read", "/home/a/.gnupg/x"),
        ("execute", "/"),
        ("execute", "/dev"),
    ],
)
def test_a_path_that_no_profile_may_name_is_refused(policy: PolicyFiles, key: str, path: str) -> None:
    policy.write(
        f'[ceiling]\nwrite = ["/srv", "$WORKSPACE"]\n{SHELL}[profiles.x]\nread = []\nexecute = []\nwrite = []\n'
    )
    policy.load()
    text = policy.main.read_text()
    policy.write(text.replace("[profiles.x]\nread = []\nexecute = []\nwrite = []", _profile_x(key, path)))
    found = policy.finding()
    assert found["key"] == f"profiles.x.{key}[0]"
    assert "[ceiling]" not in found["message"]


def _profile_x(key: str, path: str) -> str:
    values = {"read": "[]", "execute": "[]", "write": "[]", key: f'["{path}"]'}
    return "[profiles.x]\n" + "\n".join(f"{k} = {v}" for k, v in values.items())


def test_a_workspace_that_is_read_and_written_is_fine(policy: PolicyFiles) -> None:
    policy.write(SHELL.replace('"/usr"]', '"/usr", "$WORKSPACE/docs"]', 1) + 'write = ["$WORKSPACE", "/tmp"]\n')
    assert policy.load().profiles[0].write == ("$WORKSPACE", "/tmp")


@pytest.mark.parametrize(
    "pattern",
    ["/**", "/", "/*", "/usr/**", "/v*/lib/x", "/etc", "/var", "/home/*/.ssh", "srv/x", "/srv/../etc", "/?in"],
)
def test_a_workspace_pattern_over_system_directories_is_refused(policy: PolicyFiles, pattern: str) -> None:
    policy.write(SHELL + CALLER + f'workspaces = ["/srv/a", "{pattern}"]\n')
    found = policy.finding()
    assert (found["line"], found["key"]) == (8, "callers[0].workspaces[1]")


@pytest.mark.parametrize(
    ("caller", "key"),
    [
        ('role = "viewer"', "callers[0]"),
        ('uid = 5\nunit = "a.service"\nrole = "viewer"', "callers[0]"),
        ("uid = 5", "callers[0].role"),
        ('uid = -1\nrole = "viewer"', "callers[0].uid"),
        ('uid = 4294967295\nrole = "viewer"', "callers[0].uid"),
        ('uid = 1900000001\nrole = "viewer"', "callers[0]"),
        ('unit = "agent"\nrole = "viewer"', "callers[0].unit"),
        ('unit = "agent@.service"\nrole = "viewer"', "callers[0].unit"),
        ('unit = "a/b.service"\nrole = "viewer"', "callers[0].unit"),
        ('user = "nobody-here"\nrole = "viewer"', "callers[0].user"),
        ('group = "no-such"\nrole = "viewer"', "callers[0].group"),
        ('uid = 5\nrole = "admin"', "callers[0].role"),
        ('uid = 5\nrole = "viewer"\nany_owner = 1', "callers[0].any_owner"),
        ('uid = 5\nrole = "operator"\nprofiles = ["shel"]', "callers[0].profiles[0]"),
        ('uid = 0\nrole = "operator"\nprofiles = ["shell"]\nworkspaces = ["/srv/a"]', "callers[0].workspaces"),
        ('uid = 5\nrole = "operator"\nworkspaces = ["/data/x"]', "callers[0].workspaces[0]"),
    ],
)
def test_a_caller_that_cannot_be_is_refused(policy: PolicyFiles, caller: str, key: str) -> None:
    policy.write(f"{SHELL}[[callers]]\n{caller}\n")
    assert policy.finding()["key"] == key


def test_a_missing_group_is_told_with_its_remedy(policy: PolicyFiles) -> None:
    policy.write(SHELL + '[[callers]]\ngroup = "agents"\nrole = "viewer"\n')
    assert "groupadd --system agents" in policy.finding()["expected"]


def test_the_nearest_profile_is_offered_for_one_that_does_not_exist(policy: PolicyFiles) -> None:
    policy.write(SHELL + CALLER.replace('["shell"]', '["shel"]'))
    assert policy.finding()["nearest"] == "shell"


def test_the_same_caller_twice_is_refused(policy: PolicyFiles) -> None:
    policy.write(SHELL + CALLER + '[[callers]]\nuid = 1500\nrole = "administrator"\n')
    found = policy.finding()
    assert (found["line"], found["key"]) == (8, "callers[1]")


def test_more_sessions_than_uids_are_refused(policy: PolicyFiles) -> None:
    policy.write(SHELL + "[service]\nsessions = 100\nuid_range = [1900000000, 10]\n")
    assert policy.finding()["key"] == "service"


def test_a_policy_without_a_profile_is_refused(policy: PolicyFiles) -> None:
    policy.write("[service]\nruns = 3\n")
    assert "no profile" in policy.finding()["message"]


def test_every_error_is_told_at_once_in_the_order_of_files_and_lines(policy: PolicyFiles) -> None:
    main = policy.write(
        "[servise]\n"
        '[profiles.shell]\nread = ["/usr", "usr"]\nexecute = ["/usr"]\nlimits.memory = "512X"\n'
        '[profiles.file]\nread = ["/usr"]\nexecute = ["/usr"]\nlimits.memory = "1T"\n'
        '[[callers]]\nuid = 5\nrole = "viewer"\nprofiles = ["nothing"]\n'
        '[[callers]]\nunit = "x.service"\nuid = 5\n'
    )
    drop = policy.write('[profiles.x]\nexecute = ["/usr"]\n', "10-x.toml")
    broken = policy.write("a = \n", "20-y.toml")
    assert [(f["file"], f["line"], f["key"]) for f in policy.findings()] == [
        (str(main), 1, "servise"),
        (str(main), 3, "profiles.shell.read[1]"),
        (str(main), 5, "profiles.shell.limits.memory"),
        (str(main), 9, "profiles.file.limits.memory"),
        (str(main), 13, "callers[0].profiles[0]"),
        (str(main), 14, "callers[1].role"),
        (str(main), 14, "callers[1]"),
        (str(drop), 1, "profiles.x.read"),
        (str(broken), 1, ""),
    ]


def test_a_syntax_error_is_told_with_line_and_column(policy: PolicyFiles) -> None:
    policy.write(SHELL + "write = [\n  nonsense,\n]\n")
    found = policy.finding()
    assert (found["line"], found["column"]) == (5, 3)


def test_an_error_at_the_end_of_a_file_has_its_last_line(policy: PolicyFiles) -> None:
    policy.write(SHELL + 'write = ["/tmp"')
    assert policy.finding()["line"] == 4


def test_a_profile_wider_than_the_ceiling_is_refused_with_both_lines(policy: PolicyFiles) -> None:
    main = policy.write(SHELL + 'limits.memory = "2G"\n[ceiling]\nlimits = { memory = "1G" }\n')
    found = policy.finding()
    assert found["line"] == 4
    assert f"{main}:5" in found["message"]
    assert found["expected"] == "within 1G"


def test_a_default_above_the_ceiling_is_called_a_default(policy: PolicyFiles) -> None:
    policy.write(SHELL + '[ceiling]\nlimits = { memory = "512M" }\n')
    found = policy.finding()
    assert (found["line"], found["key"]) == (1, "profiles.shell.limits.memory")
    assert "(the default)" in found["message"]


def test_a_limit_that_the_ceiling_leaves_out_has_the_ceilings_default(policy: PolicyFiles) -> None:
    policy.write(SHELL + 'limits.memory = "64G"\n[ceiling]\nlimits = { cpu = "6400%" }\n')
    assert policy.load().profiles[0].limits.memory == 64 << 30


@pytest.mark.parametrize("table", ["service", "ceiling"])
def test_a_drop_in_cannot_have_the_tables_of_the_whole_service(policy: PolicyFiles, table: str) -> None:
    policy.write(SHELL)
    drop = policy.write(f"\n[{table}]\n", "10-x.toml")
    found = policy.finding()
    assert (found["file"], found["line"], found["key"]) == (str(drop), 2, table)


def test_a_drop_in_adds_profiles_and_callers(policy: PolicyFiles) -> None:
    policy.write(SHELL)
    drop = policy.write(SHELL.replace("shell", "file") + CALLER, "10-x.toml")
    snapshot = policy.load()
    assert [p.name for p in snapshot.profiles] == ["shell", "file"]
    assert snapshot.callers[0].source == f"{drop}:4"
    assert [path for path, _ in snapshot.files] == [str(policy.main), str(drop)]


def test_a_drop_in_makes_a_profile_narrower(policy: PolicyFiles) -> None:
    policy.write(SHELL)
    policy.write(SHELL + 'limits.memory = "64M"\n', "10-x.toml")
    assert policy.load().profiles[0].limits.memory == 64 << 20


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('limits.memory = "2G"', "limits.memory"),
        ('write = ["/tmp"]', "write[0]"),
        ('network = "loopback"', "network"),
        ('required = ["landlock"]', "required"),
    ],
)
def test_a_drop_in_cannot_make_a_profile_wider(policy: PolicyFiles, line: str, key: str) -> None:
    policy.write(SHELL)
    policy.write(SHELL + line + "\n", "10-x.toml")
    found = policy.finding()
    assert (found["line"], found["key"]) == (4, f"profiles.shell.{key}")


def test_no_order_of_drop_ins_ends_wider_than_any_of_them(policy: PolicyFiles) -> None:
    policy.write(SHELL)
    texts = [SHELL + f'limits.memory = "{m}"\n' for m in ("64M", "128M", "32M")]
    for order in itertools.permutations(texts):
        for n, text in enumerate(order):
            policy.write(text, f"{n}.toml")
        if order == (texts[1], texts[0], texts[2]):
            assert policy.load().profiles[0].limits.memory == 32 << 20
        else:
            assert all(f["key"] == "profiles.shell.limits.memory" for f in policy.findings())


def test_only_toml_files_that_are_not_hidden_are_drop_ins(policy: PolicyFiles) -> None:
    policy.write(SHELL)
    for name in ("10-x.toml~", ".10-x.toml", "README"):
        policy.write("nonsense", name)
    assert len(policy.load().files) == 1


def test_the_digest_changes_with_the_bytes_of_any_file(policy: PolicyFiles) -> None:
    policy.write(SHELL)
    policy.write(CALLER, "10-x.toml")
    before = policy.load().digest()
    policy.write(CALLER + "# a comment\n", "10-x.toml")
    assert policy.load().digest() != before
