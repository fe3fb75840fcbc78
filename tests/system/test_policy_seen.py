"""Every key of policy is set to a value in some test, which sees a running service or the kernel do it.

What names a key here and does not see its effect is a lie that only a reader finds; a key without a test fails.
"""

from __future__ import annotations

import ast

from supervisor.policy.reference import keys
from tests.harness import REPOSITORY

HERE, ESCAPES = "system/test_policy_effects.py::test_", "escapes/test_resources.py::test_"
PEOPLE, LIMITS = "system/test_deciding_people.py::test_", "system/test_deciding_limits.py::test_"
DECIDING, ALERTS = "system/test_deciding.py::test_", "system/test_alerts.py::test_"
NARROWED, RELOAD = "kernel/test_narrowed_sessions.py::test_", "system/test_reload.py::test_"
SEEN = {
    f"{HERE}sessions_and_runs_of_the_service": "service.sessions service.runs",
    "system/test_sessions.py::test_a_session_without_runs_expires_and_tells": "service.session_idle",
    "system/test_processes.py::test_leader_and_child_have_a_uid_of_their_own_and_nothing_else": "service.uid_range",
    f"{HERE}no_profile_and_no_caller_of_a_drop_in_is_wider_than_the_ceiling": """
        ceiling.read ceiling.write ceiling.execute ceiling.network ceiling.limits ceiling.roles ceiling.workspaces""",
    "escapes/test_files.py::test_no_file_of_the_host_is_read_changed_or_left_dangerous": """
        profiles.*.read profiles.*.write""",
    "kernel/test_allowed_commands.py::test_without_a_list_the_same_ways_lead_there": "profiles.*.execute",
    "kernel/test_allowed_commands.py::test_no_way_leads_to_another_program": "profiles.*.allowed_commands",
    f"{NARROWED}a_session_may_have_less_network_than_its_profile": "profiles.*.network",
    f"{ESCAPES}memory_of_every_kind_ends_as_memory": "profiles.*.limits.memory",
    f"{ESCAPES}spinning_is_held_to_its_share_and_ends_as_timeout": "profiles.*.limits.cpu profiles.*.limits.timeout",
    f"{ESCAPES}more_processes_than_the_limit_end_as_processes": "profiles.*.limits.processes",
    f"{ESCAPES}descriptors_are_bounded_for_each_process": "profiles.*.limits.files",
    f"{ESCAPES}both_streams_count_against_one_output_limit": "profiles.*.limits.output",
    f"{ESCAPES}one_file_over_the_disk_limit_ends_as_disk": "profiles.*.limits.disk",
    f"{ESCAPES}tmp_is_bounded_in_bytes_and_files": "profiles.*.limits.tmp",
    f"{ESCAPES}silence_ends_as_idle_timeout": "profiles.*.limits.idle_timeout",
    "kernel/test_presets.py::test_a_profile_is_refused_for_the_layer_that_it_requires_and_the_host_lacks": """
        profiles.*.required""",
    f"{RELOAD}a_run_keeps_the_policy_it_began_under": "profiles.*.env",
    f"{RELOAD}a_profile_that_fails_its_proof_is_refused_by_name_and_others_serve": "profiles.*.shell",
    "system/test_proof_coverage.py::test_every_proof_holds_and_says_what_was_seen": "profiles.*.workspace_owner",
    f"{NARROWED}a_profile_that_only_reads_gives_no_other_session": "profiles.*.autonomy",
    f"{NARROWED}a_caller_that_only_reads_gets_no_other_session": "callers.*.autonomy",
    f"{NARROWED}where_policy_writes_nothing_no_session_does": "tools.file_write_enabled",
    f"{HERE}an_entry_by_unit_is_that_units": "callers.*.unit",
    f"{PEOPLE}what_two_people_have_to_allow_is_not_allowed_by_one": """
        callers.*.uid callers.*.role roles.*.second_person""",
    f"{RELOAD}only_an_administrator_reloads": "callers.*.user callers.*.group roles.*.permissions",
    "system/test_bad_workspace.py::test_a_place_outside_the_granted_roots": "callers.*.workspaces",
    "system/test_bad_workspace.py::test_a_directory_of_another_user": "callers.*.any_owner",
    f"{HERE}what_an_entry_of_callers_grants": """
        callers.*.profiles callers.*.zone callers.*.labels callers.*.must_state contexts.*.zone""",
    f"{PEOPLE}a_role_for_a_time_is_asked_for_given_used_with_a_second_factor_and_taken_back": """
        callers.*.may_request roles.*.requires_approval roles.*.mfa_required""",
    f"{HERE}tools_that_are_off_run_nothing": "tools.policy tools.allow_list tools.shell_enabled",
    f"{DECIDING}a_tool_that_is_not_served_is_refused_and_recorded": "tools.browser_enabled",
    f"{HERE}full_autonomy_asks_about_nothing_and_denies_what_is_blocked": """
        autonomy.level autonomy.blocked_commands autonomy.approval_patterns""",
    f"{HERE}what_policy_asks_about_by_risk_and_by_path": """
        autonomy.approval_risks autonomy.unparsed autonomy.workspace_only autonomy.forbidden_paths
        autonomy.granted_paths""",
    f"{DECIDING}a_channel_that_may_only_read_has_a_workspace_that_the_kernel_does_not_let_be_written": """
        contexts.*.match contexts.*.autonomy""",
    f"{HERE}what_contexts_take_away": """
        contexts.*.role contexts.*.profiles contexts.*.network contexts.*.tools contexts.*.blocked_commands
        contexts.*.approval_patterns""",
    f"{DECIDING}a_rule_denies_what_it_concerns": "rules.*.name rules.*.match",
    f"{DECIDING}a_rule_that_asks_is_asked_about": "rules.*.effect",
    f"{HERE}what_rules_require": """
        rules.*.permissions rules.*.require.time rules.*.require.days rules.*.require.timezone
        rules.*.require.source_ip rules.*.require.labels""",
    "system/test_faults.py::test_with_a_full_audit_disk_nothing_runs_until_there_is_space": """
        rules.*.require.audit""",
    f"{LIMITS}a_rate_is_reached_by_one_agent_and_says_when_to_come_again": "rates.*.per_hour",
    f"{HERE}rates_budgets_and_repeats": """
        rates.*.scope rates.*.per_minute rates.*.per_day budgets.*.wall budgets.*.written breaker.repeats
        breaker.repeat_window breaker.open""",
    f"{LIMITS}a_budget_of_a_session_ends_with_it": "budgets.*.period budgets.*.processes",
    f"{LIMITS}a_budget_of_a_day_is_what_the_kernel_counted": "budgets.*.scope budgets.*.cpu",
    f"{LIMITS}a_breaker_opens_is_shown_and_reset": "breaker.failures",
    f"{ALERTS}an_agent_that_is_told_of_goes_on": """
        alerts.failed_per_hour alerts.sensitive_per_hour alerts.blocked_command""",
    f"{ALERTS}an_hour_that_is_not_usual_for_an_agent_stops_it": """
        alerts.unusual alerts.unusual_period alerts.unusual_threshold alerts.unusual_least""",
    f"{ALERTS}an_agent_that_is_stopped_stays_so_over_kill_9": "alerts.action",
    f"{ALERTS}each_count_has_an_action_of_its_own": "alerts.actions",
    f"{LIMITS}a_run_over_the_bound_of_its_agent_waits_visibly_and_can_be_taken_out": """
        concurrency.runs_per_agent concurrency.queue""",
    f"{HERE}who_waits_for_a_place": "concurrency.queue_per_agent concurrency.queue_time",
    f"{HERE}how_long_questions_and_answers_hold": """
        approvals.timeout approvals.pending approvals.grant approvals.longest approvals.access""",
    f"{HERE}a_policy_that_does_not_decide_what_it_says_it_decides_does_not_serve": """
        tests.*.tool tests.*.command tests.*.argv tests.*.caller tests.*.profile tests.*.workspace tests.*.labels
        tests.*.expect""",
}


def test_every_key_is_seen_to_have_its_effect() -> None:
    named = [key for several in SEEN.values() for key in several.split()]
    assert sorted(named) == sorted(key.path for key in keys())
    for where in SEEN:
        file, _, name = where.partition("::")
        tree = ast.parse((REPOSITORY / "tests" / file).read_text())
        assert name in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)], where
