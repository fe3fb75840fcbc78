"""The numbers, names and lists that the requirements give, as defaults or in the preset that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.policy import words
from supervisor.policy.presets import preset_text

if TYPE_CHECKING:
    from conftest import PolicyFiles

    from supervisor.policy.snapshot import Snapshot

BLOCKED = "rm -rf /, mkfs, dd if=, format, chmod 777, chown root, nmap, tcpdump, xmrig, cgminer"
BARE = '[profiles.shell]\nread = ["/usr"]\nexecute = ["/usr"]\n'
ASKED = "rm -rf, DROP TABLE, kubectl delete, git push --force"


def loaded(policy: PolicyFiles, text: str) -> Snapshot:
    policy.write(text)
    return policy.load()


def test_a_page_without_tables_has_the_defaults_of_the_sources(policy: PolicyFiles) -> None:
    """R47 supervised, R49 switches, R55 and R57 lists, R70 workspace_only; nothing that counts (decisions.md)."""
    bare = loaded(policy, BARE)
    tools, autonomy = bare.tools, bare.autonomy
    assert (tools.shell_enabled, tools.file_write_enabled, tools.browser_enabled) == (True, True, False)
    assert (tools.policy, tools.allow_list) == ("enabled", ())
    assert (autonomy.level, autonomy.workspace_only, autonomy.unparsed) == ("supervised", True, "ask")
    assert autonomy.blocked_commands == tuple(BLOCKED.split(", "))
    assert autonomy.approval_patterns == tuple(ASKED.split(", "))
    assert (autonomy.forbidden_paths, autonomy.granted_paths) == ((), ())
    assert (bare.rates, bare.budgets, bare.breaker.failures, bare.breaker.repeats) == ((), (), 0, 0)
    assert (bare.alerts.unusual_period, bare.alerts.unusual_threshold) == (7 * 86_400_000, 3)  # R101
    assert bare.approvals.access_ms >= 3_600_000  # R64: --duration 1h


def test_moderate_counts_as_the_sources_do(policy: PolicyFiles) -> None:
    """R96, R100."""
    page = loaded(policy, preset_text("moderate"))
    (rate,) = page.rates
    assert (rate.scope, rate.per_minute, rate.per_hour, rate.per_day) == ("agent", 20, 100, 1000)
    assert page.autonomy.blocked_commands == tuple(BLOCKED.split(", "))
    assert page.autonomy.approval_patterns == tuple(ASKED.split(", "))
    alerts = page.alerts
    assert (alerts.failed_per_hour, alerts.sensitive_per_hour, alerts.blocked_command) == (10, 5, True)
    assert set(alerts.unusual) == set(words.COMPARED)


def test_strict_counts_as_the_stricter_source_does(policy: PolicyFiles) -> None:
    """R97: ten a minute; R98's bound of a caller; R65: what is done to the service takes a code and a yes."""
    page = loaded(policy, preset_text("strict"))
    assert [(r.scope, r.per_minute) for r in page.rates] == [("agent", 10), ("caller", 60)]
    (responder,) = page.roles
    assert (responder.requires_approval, responder.mfa_required) == (True, True)
    assert [r.audit for r in page.rules if words.grants(r.permissions, "config:write")] == [True]  # R63
    assert page.tools.policy == "whitelist"


def test_the_built_in_roles_are_those_of_the_sources() -> None:
    """R60: viewer looks, operator executes too, administrator may do all."""
    assert {"agent:read", "logs:read"} <= set(words.BUILT_IN["viewer"].permissions)
    operator, viewer = (set(words.BUILT_IN[name].permissions) for name in ("operator", "viewer"))
    assert operator - viewer == {"agent:execute"}
    assert words.BUILT_IN["administrator"].permissions == ("*",)
    assert {"config:write", "credentials:rotate"} <= set(words.PRIVILEGED)  # R65
    assert set(words.TOOLS) == {"shell", "file", "browser"}
