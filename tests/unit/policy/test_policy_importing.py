"""Configurations of other gateways: what each key becomes, and that nothing is dropped in silence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.decide.admission import Counters, admit_run
from supervisor.decide.request import Peer, RunRequest
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.errors import Denied, InvalidRequest
from supervisor.policy.importing import keys
from supervisor.policy.importing.convert import Imported, carrier, convert
from supervisor.policy.importing.read import read
from supervisor.policy.lint import lint
from supervisor.policy.load import loads

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Snapshot

SAMPLES = Path(__file__).parent / "samples"


def loaded(found: Imported) -> Snapshot:
    return loads(found.text, resolve=lambda kind, _: 990 if kind == "group" else 0)


def sample(name: str) -> tuple[Imported, Snapshot]:
    found = convert((SAMPLES / name).read_bytes(), name)
    return found, loaded(found)


def zeroclaw(text: str) -> tuple[Imported, Snapshot]:
    found = convert(text.encode(), "config.toml", "zeroclaw")
    return found, loaded(found)


def clawdbot(text: str) -> tuple[Imported, Snapshot]:
    found = convert(text.encode(), "clawdbot.json", "clawdbot")
    return found, loaded(found)


@pytest.mark.parametrize("name", ["zeroclaw.toml", "clawdbot.json", "openclaw.json"])
def test_what_comes_out_loads_and_the_linter_has_nothing_against_it(name: str) -> None:
    _, snapshot = sample(name)
    assert [f for f in lint(snapshot) if f["severity"] == "warning"] == []


@pytest.mark.parametrize("name", ["zeroclaw.toml", "clawdbot.json", "openclaw.json"])
def test_every_key_is_reported_and_what_is_missing_stands_in_the_file(name: str) -> None:
    found, _ = sample(name)
    _, values = read((SAMPLES / name).read_bytes(), name, None)
    assert [row.key for row in found.rows] == list(values)
    head = found.text.partition("\n\n")[0]
    missing = [row for row in found.rows if not row.carried]
    assert missing
    assert not found.complete
    assert all(row.why for row in missing)
    assert all(f"#   {row.key}: " in head for row in missing)


def test_the_zeroclaw_sample_means_what_it_said() -> None:
    found, s = sample("zeroclaw.toml")
    profile = s.profile("shell")
    assert profile is not None
    assert (s.autonomy.level, s.autonomy.workspace_only) == ("supervised", True)
    assert {"nmap", "chmod 777", "sudo", "curl"} < set(s.autonomy.blocked_commands)
    assert {"git commit", "npm install", "mkdir"} < set(s.autonomy.approval_patterns)
    assert s.autonomy.forbidden_paths == ("~/.kube", "/data/secret")
    assert {"persistence", "dynamic"} < set(s.autonomy.approval_risks)
    assert set(profile.allowed_commands) == {"git", "ls", "cat", "grep"} - _absent("git")
    assert (profile.limits.memory, profile.limits.cpu, profile.limits.files) == (512 << 20, 80, 1024)
    assert profile.limits.processes == 16
    assert profile.limits.timeout_ms == 60_000
    assert profile.write == ("$WORKSPACE", "/tmp")
    (rate,) = s.rates
    assert (rate.scope, rate.per_minute, rate.per_hour, rate.per_day) == ("agent", 20, 100, 1000)
    assert (s.alerts.failed_per_hour, s.alerts.sensitive_per_hour) == (10, 5)
    assert s.alerts.unusual == ("runs", "failed", "sensitive")
    assert (s.alerts.unusual_period, s.alerts.unusual_threshold) == (14 * 86_400_000, 3)
    assert (s.alerts.blocked_command, s.alerts.action) == (True, "tell")
    assert s.callers[0].workspaces == ("/srv/agents/zeroclaw",)
    why = {row.key: row.why for row in found.rows if not row.carried}
    assert "no-such-program-here" in why["autonomy.allowed_commands"]
    assert why["security.allowed_domains"] == keys.EGRESS
    assert why["gateway.paired_tokens"] == keys.GATEWAY
    assert "security.audit.enabled" not in why


def _absent(*names: str) -> set[str]:
    return {n for n in names if not Path(f"/usr/bin/{n}").exists()}


def test_a_list_without_a_shell_is_told_in_the_file() -> None:
    found, _ = zeroclaw('[autonomy]\nallowed_commands = ["ls"]\n')
    assert "# allowed_commands has no shell" in found.text
    found, _ = zeroclaw('[autonomy]\nallowed_commands = ["ls", "sh"]\n')
    assert "# allowed_commands has no shell" not in found.text


def test_the_clawdbot_sample_means_what_it_said() -> None:
    found, s = sample("clawdbot.json")
    assert (found.product, found.preset) == ("clawdbot", "moderate")
    assert (s.tools.policy, s.tools.allow_list) == ("whitelist", ("shell", "file"))
    assert s.autonomy.approval_patterns == ("rm -rf", "DROP TABLE", "kubectl delete", "git push --force")
    assert [(r.scope, r.per_minute) for r in s.rates] == [("agent", 10), ("caller", 100)]
    assert s.profiles[0].allowed_commands == ("ls", "cat", "grep")
    assert "web_search" in next(row.why for row in found.rows if row.key == "tools.allowList")


@pytest.mark.parametrize(
    ("written", "level"),
    [("readonly", "readonly"), ("read_only", "readonly"), ("Supervised", "supervised"), ("full", "full")],
)
def test_autonomy_keeps_its_meaning(written: str, level: str) -> None:
    found, s = zeroclaw(f'[autonomy]\nlevel = "{written}"\n')
    assert (s.autonomy.level, found.complete) == (level, True)


def test_the_openclaw_sample_means_what_it_said() -> None:
    found, s = sample("openclaw.json")
    profile = s.profile("shell")
    assert profile is not None
    assert (found.product, s.tools.policy, s.tools.allow_list) == ("clawdbot", "whitelist", ("shell", "file"))
    limits = profile.limits
    assert (limits.memory, limits.cpu, limits.processes, limits.files) == (512 << 20, 100, 64, 512)
    assert limits.timeout_ms == 30_000
    assert (profile.write, "$WORKSPACE" in profile.read) == (("/tmp",), True)
    assert s.callers[0].workspaces == ("/srv/agents/claw",)
    assert [(r.match, r.effect) for r in s.rules] == [((("tool", ("shell",)),), "ask")]
    why = {row.key: row.why for row in found.rows if not row.carried}
    assert why["agents.list[1].tools.deny"] == keys.ONE_AGENT
    assert why["tools.exec.safeBins"] == keys.UNKNOWN
    assert why["$include"] == why["agents.$include"] == "is another file; import that one too"
    assert "exec-approvals.json" in why["tools.exec.security"]
    assert "agents.defaults.sandbox.mode" not in why


def test_a_strict_sandbox_runs_nothing_until_commands_are_named() -> None:
    _, s = clawdbot('{"sandbox": {"enabled": true, "mode": "strict", "allowedCommands": []}}')
    assert s.tools.shell_enabled is False
    _, s = clawdbot('{"sandbox": {"mode": "strict", "allowedCommands": ["ls"]}}')
    assert (s.tools.shell_enabled, s.profiles[0].allowed_commands) == (True, ("ls",))
    assert s.profiles[0].autonomy == "readonly"


def test_no_tool_is_no_tool() -> None:
    _, s = clawdbot('{"tools": {"policy": "restrictive", "allowList": []}}')
    assert (s.tools.policy, s.tools.allow_list) == ("restrictive", ())


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[autonomy]\nlevel = "wild"\n', "autonomy.level"),
        ("[autonomy]\nallowed_commands = 3\n", "autonomy.allowed_commands"),
        ('[autonomy]\nforbidden_paths = ["relative"]\n', "autonomy.forbidden_paths"),
        ('[autonomy]\nforbidden_paths = ["/usr/share"]\n', "autonomy.forbidden_paths"),
        ("[security]\nmax_memory_mb = -1\n", "security.max_memory_mb"),
        ("[security]\nmax_memory_mb = 999999\n", "security.max_memory_mb"),
        ('[security]\nallowed_write_paths = ["/etc"]\n', "security.allowed_write_paths"),
        ('[security]\nworkspace_path = "/var/zeroclaw/workspace"\n', "security.workspace_path"),
        ("[security.landlock]\nlandlock_enabled = false\n", "security.landlock.landlock_enabled"),
        ("[security.audit]\nenabled = false\n", "security.audit.enabled"),
        ('[runtime]\nkind = "docker"\n', "runtime.kind"),
        ('[runtime.docker]\nnetwork = "bridge"\n', "runtime.docker.network"),
        ("[autonomy]\nmax_actions_per_hour = 0\n", "autonomy.max_actions_per_hour"),
        ("[security]\nmax_failed_commands_per_hour = 0\n", "security.max_failed_commands_per_hour"),
        ('[x]\nmax_sensitive_file_access_per_hour = "5"\n', "x.max_sensitive_file_access_per_hour"),
        ("[security]\nalert_on_blocked_command = 1\n", "security.alert_on_blocked_command"),
        ('[security]\nbaseline_period = "forever"\n', "security.baseline_period"),
        ("[security]\nanomaly_threshold = 2.5\n", "security.anomaly_threshold"),
        ("[unheard]\nof = 1\n", "unheard.of"),
    ],
)
def test_what_cannot_be_meant_here_is_said_and_never_widens(text: str, key: str) -> None:
    found, _ = zeroclaw(text)
    (row,) = found.rows
    assert (row.key, row.carried) == (key, False)
    assert len(row.why) > 10


# --- what was denied is denied ----------------------------------------------------------------------------------------


def verdict(s: Snapshot, *argv: str, profile: str | None = None) -> str:
    """What is decided about a command of a client in a workspace that it is granted."""
    where = s.callers[0].workspaces[0].replace("**", "x").replace("*", "x")
    asked = RunRequest(workspace=where, profile=profile, argv=argv)
    try:
        who = Peer(0, 1000, 1000, (1000, 990), "", inside=False)
        return admit_run(s, {}, who, None, asked, Counters(), analyse_argv(argv)).verdict
    except Denied:
        return "deny"


RANK = ("allow", "ask", "deny")


@pytest.mark.parametrize(
    ("text", "argv", "least"),
    [
        ("[autonomy]\nallowed_commands = []\n", ["ls"], "deny"),
        ('[autonomy]\nallowed_commands = ["no-such-program-here"]\n', ["ls"], "deny"),
        ("[autonomy]\nblock_high_risk_commands = true\n", ["curl", "https://example.org"], "deny"),
        ('[autonomy]\nlevel = "full"\nblock_high_risk_commands = true\n', ["rm", "x"], "deny"),
        ('[autonomy]\nblock_high_risk_commands = true\n[security]\nblocked_commands = ["nmap"]\n', ["rm", "x"], "deny"),
        ('[security]\nblocked_commands = ["nmap"]\n[x]\nblocked_commands = ["rm x"]\n', ["nmap"], "deny"),
        ("[autonomy]\nblock_high_risk_commands = false\n", ["chmod", "600", "x"], "ask"),
        ("[autonomy]\nrequire_approval_for_medium_risk = true\n", ["git", "commit", "-m", "x"], "ask"),
        ('[autonomy]\nlevel = "full"\nalways_ask = ["shell"]\n', ["ls"], "ask"),
        ("[security]\nshell_enabled = false\n", ["ls"], "deny"),
        ("[security]\nshell_enabled = true\n[autonomy]\nallowed_commands = []\n", ["ls"], "deny"),
    ],
)
def test_what_zeroclaw_denied_is_denied(text: str, argv: list[str], least: str) -> None:
    assert RANK.index(verdict(zeroclaw(text)[1], *argv)) >= RANK.index(least)


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ('{"tools": {"exec": {"security": "deny"}}}', "deny"),
        ('{"sandbox": {"allowedCommands": ["ls"]}, "tools": {"exec": {"security": "deny"}}}', "deny"),
        ('{"sandbox": {"mode": "moderate", "allowedCommands": []}}', "deny"),
        ('{"sandbox": {"allowedCommands": ["cat"]}, "tools": {"exec": {"allowlist": ["ls"]}}}', "deny"),
        ('{"tools": {"exec": {"security": "allowlist", "ask": "on-miss"}}}', "ask"),
        ('{"tools": {"exec": {"security": "allowlist", "ask": "off"}}}', "deny"),
        ('{"tools": {"exec": {"ask": "always"}}}', "ask"),
        ('{"tools": {"exec": {"approval": "always"}}}', "ask"),
        ('{"tools": {"exec": {"approval": "never", "ask": "always"}}}', "ask"),
        ('{"defaults": {"security": "deny"}}', "deny"),
        ('{"tools": {"deny": ["exec"]}}', "deny"),
        ('{"tools": {"deny": ["group:runtime"], "allow": ["exec"]}}', "deny"),
        ('{"tools": {"deny": ["*"]}}', "deny"),
        ('{"tools": {"allow": ["read", "web_search"]}}', "deny"),
        ('{"tools": {"allow": ["web_search"]}}', "deny"),
        ('{"tools": {"sandbox": {"tools": {"deny": ["bash"]}}}}', "deny"),
        ('{"tools": {"profile": "messaging"}}', "deny"),
        ('{"tools": {"deny": ["exec"], "allowList": ["exec"]}}', "deny"),
        ('{"tools": {"profile": "minimal", "allow": ["exec"]}}', "deny"),
    ],
)
def test_what_openclaw_denied_is_denied(text: str, least: str) -> None:
    assert RANK.index(verdict(clawdbot(text)[1], "ls")) >= RANK.index(least)


@pytest.mark.parametrize(
    "text",
    [
        '{"tools": {"allow": []}}',
        '{"tools": {"allow": ["*"], "deny": ["browser"]}}',
        '{"tools": {"profile": "coding"}}',
        '{"tools": {"exec": {"security": "full", "ask": "off"}}}',
        '{"sandbox": {"allowedCommands": ["ls"]}}',
    ],
)
def test_and_what_it_did_not_deny_is_not(text: str) -> None:
    assert verdict(clawdbot(text)[1], "ls") == "allow"
    assert verdict(zeroclaw('[autonomy]\nallowed_commands = ["*"]\n')[1], "ls") == "allow"


def test_a_list_of_commands_holds_in_every_profile() -> None:
    _, s = clawdbot('{"sandbox": {"mode": "strict", "allowedCommands": ["ls"]}}')
    assert {p.name: p.allowed_commands for p in s.profiles} == {"shell": ("ls",), "edit": ("ls",)}


@pytest.mark.parametrize("turn", [1, -1])
def test_of_two_keys_that_say_how_much_the_lesser_counts(turn: int) -> None:
    tables = ["[security.resources]\nmax_memory_mb = 256\n", "[runtime.docker]\nmemory_limit_mb = 512\n"]
    rates = ["[autonomy]\nmax_actions_per_hour = 5\n", "[security]\nmax_actions_per_hour = 50\n"]
    _, s = zeroclaw("".join([*tables, *rates][::turn]))
    assert (s.profiles[0].limits.memory, s.rates[0].per_hour) == (256 << 20, 5)


def test_json_as_people_write_it_is_read() -> None:
    text = '// c\n{ a: \'it\\\'s "x"\', /* b */ "u": "http://example.com/*no*/", list: [1, 2,], deep: { x: true, }, }\n'
    assert read(text.encode(), "x", None) == (
        "clawdbot", {"a": 'it\'s "x"', "u": "http://example.com/*no*/", "list": [1, 2], "deep.x": True},
    )  # fmt: skip


@pytest.mark.parametrize("data", [b"a: 1\nb:\n  - c\n", b"\xff", b"[1, 2]", b"{", b"{" * 5000, b""], ids=repr)
def test_a_file_that_is_neither_is_told_what_would_be(data: bytes) -> None:
    if data == b"":
        assert convert(data, "empty").complete
        return
    with pytest.raises(InvalidRequest):
        convert(data, "x")


def test_every_row_of_the_table_names_a_function_that_is_there() -> None:
    named = {key.carry for table in keys.TABLES.values() for key in table if key.carry}
    assert all(callable(carrier(name)) for name in named)
    for table in keys.TABLES.values():
        assert all(bool(key.missing) != bool(key.carry) for key in table)
        assert table[-1].old == "*"


_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(keys.FORMATS), st.data())
def test_no_value_of_any_key_makes_a_policy_that_does_not_load(product: keys.Format, data: Any) -> None:
    import json

    olds = [
        key.old.replace("*", "x") for key in keys.TABLES[product] if key.old != "*" and key.carry != "allowed_commands"
    ]
    flat = data.draw(st.dictionaries(st.sampled_from(olds), _values, max_size=4))
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        at = nested
        *above, last = path.split(".")
        for part in above:
            found = at.setdefault(part, {})
            at = found if isinstance(found, dict) else {}
        at[last] = value
    found = convert(json.dumps(nested).encode(), "x.json", product)
    loaded(found)
    tomllib.loads(found.text)
