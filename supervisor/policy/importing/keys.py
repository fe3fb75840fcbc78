"""The keys of other products and what they are here. One table: docs/policy.md shows it, convert.py goes by it.

An old key is a pattern over dotted paths (`*` is any number of components); the first row that matches counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Format = Literal["zeroclaw", "clawdbot"]
FORMATS: tuple[Format, ...] = ("zeroclaw", "clawdbot")

# What will have a key that Stockade has no counterpart for yet, or that is another's to have.
EGRESS = "comes with the egress part; until then no profile has more than a loopback of its own"
GATEWAY = "comes with the front door (gateway) part; Stockade listens on a Unix socket alone"
SECRETS = "comes with the secrets part"
AUDIT = "comes with the audit part; every run and decision is logged already, and that cannot be switched off"
BROWSER = "comes with the browser tool"
FILES = "comes with the file tool"
DOCKER = "comes with the container runtime; runs are confined natively"
AGENT = "is the agent's or gateway's own and nothing that a supervisor decides"
ONE_AGENT = "is of one agent: what it forbids is for an entry of [[contexts]] that matches the label agent"
OUTSIDE = "nothing runs outside of the confinement here"
UNKNOWN = "is not known here; what it forbids, if it forbids anything, has to be written by hand"


@dataclass(frozen=True, slots=True)
class Key:
    """`carry` names a function of carry.py or amounts.py, "" where there is nothing to do.

    `note` says what a reader should know. `missing` is why a key is not carried over; empty for one that is.
    """

    old: str
    ours: str
    carry: str = ""
    note: str = ""
    missing: str = ""


def _none(missing: str, *olds: str) -> tuple[Key, ...]:
    return tuple(Key(old, "", missing=missing) for old in olds)


ZEROCLAW: tuple[Key, ...] = (
    Key("autonomy.level", "autonomy.level", "level"),
    Key("autonomy.workspace_only", "autonomy.workspace_only", "workspace_only"),
    Key("*workspace_only", "autonomy.workspace_only", "workspace_only"),
    Key("autonomy.allowed_commands", "profiles.shell.allowed_commands", "allowed_commands",
        "the kernel enforces it; an empty list switches the shell off"),
    Key("autonomy.forbidden_paths", "autonomy.forbidden_paths", "forbidden_paths"),
    Key("*blocked_paths", "autonomy.forbidden_paths", "forbidden_paths"),
    Key("*forbidden_paths", "autonomy.forbidden_paths", "forbidden_paths"),
    Key("autonomy.require_approval_for_medium_risk", "autonomy.approval_patterns", "medium_risk",
        "git commit, npm install, mkdir and so on, as there, and two risks"),
    Key("autonomy.block_high_risk_commands", "autonomy.blocked_commands", "high_risk",
        "rm, sudo, curl and so on, as there; with false they are asked about"),
    Key("autonomy.always_ask", "an entry of [[rules]]", "always_ask", "for shell: it asks about every command"),
    Key("autonomy.allowed_roots", "", missing="only widens; see read and write of a profile"),
    Key("autonomy.shell_env_passthrough", "", missing="only widens; variables are env of a profile, or of a request"),
    Key("autonomy.non_cli_excluded_tools", "", missing="is for an entry of [[contexts]] that matches channel"),
    Key("autonomy.max_cost_per_day_cents", "", missing=AGENT),
    Key("*max_actions_per_hour", "rates.per_hour", "per_hour", "of each agent"),
    Key("*max_actions_per_day", "rates.per_day", "per_day", "of each agent"),
    Key("*.pair_rate_limit_per_minute", "", missing=GATEWAY),
    Key("*.webhook_rate_limit_per_minute", "", missing=GATEWAY),
    Key("*rate_limit_per_minute", "rates.per_minute", "per_minute", "of each agent"),
    Key("*shell_enabled", "tools.shell_enabled", "shell_enabled"),
    Key("*file_write_enabled", "tools.file_write_enabled", "file_write_enabled", "the kernel enforces it"),
    Key("*browser_enabled", "tools.browser_enabled", "browser_enabled"),
    Key("*blocked_commands", "autonomy.blocked_commands", "blocked_commands", "compared with parsed words"),
    Key("*landlock_enabled", "profiles.shell.required", "landlock", "always required"),
    Key("*allowed_read_paths", "profiles.shell.read", "read_paths", "added to what programs need in order to run"),
    Key("*allowed_write_paths", "profiles.shell.write", "write_paths"),
    Key("*max_memory_mb", "profiles.shell.limits.memory", "memory_mb"),
    Key("runtime.docker.memory_limit_mb", "profiles.shell.limits.memory", "memory_mb"),
    Key("*max_cpu_percent", "profiles.shell.limits.cpu", "cpu_percent"),
    Key("runtime.docker.cpu_limit", "profiles.shell.limits.cpu", "cpus", "1.0 is 100%"),
    Key("*max_processes", "profiles.shell.limits.processes", "processes", "with threads; at least 16"),
    Key("*max_subprocesses", "profiles.shell.limits.processes", "processes", "with threads; at least 16"),
    Key("*max_cpu_time_seconds", "", missing="CPU time is bounded by cpu of [[budgets]], of a session or a day"),
    Key("*memory_monitoring", "", "nothing", "the kernel counts the memory of each run"),
    Key("*max_file_descriptors", "profiles.shell.limits.files", "files"),
    Key("*shell_timeout*", "profiles.shell.limits.timeout", "timeout_s", "in seconds there"),
    Key("*file_timeout*", "", missing=FILES),
    Key("*browser_timeout*", "", missing=BROWSER),
    Key("runtime.kind", "", "runtime_kind", "native is what Stockade does"),
    Key("runtime.docker.network", "profiles.shell.network", "docker_network"),
    Key("runtime.docker.read_only_rootfs", "", "always_true", "system directories are never writable"),
    Key("runtime.docker.mount_workspace", "", "always_true", "the workspace is mounted at its own path"),
    *_none(DOCKER, "runtime.docker.*"),
    Key("*workspace_path", "callers.workspaces", "workspace"),
    Key("*workspace_dir", "callers.workspaces", "workspace"),
    Key("security.audit.enabled", "", "audit_on", "always on, and nothing runs without it"),
    Key("security.audit.log_tool_calls", "", "audit_on", "always on"),
    Key("security.audit.log_security_events", "", "audit_on", "always on"),
    Key("security.audit.log_path", "", missing="is /var/log/stockade/audit.jsonl; the unit file says where"),
    *_none(AUDIT, "security.audit.*", "*log_retention_days"),
    *_none(EGRESS, "*allowed_domains", "*blocked_ips", "*blocked_domains", "http_request.*", "proxy.*"),
    Key("*max_failed_commands_per_hour", "alerts.failed_per_hour", "failed_per_hour", "of each agent"),
    Key("*max_sensitive_file_access_per_hour", "alerts.sensitive_per_hour", "sensitive_per_hour",
        "of each agent: requests, by what their commands look like"),
    Key("*baseline_period", "alerts.unusual_period", "baseline", "and `unusual` names what is compared"),
    Key("*anomaly_threshold", "alerts.unusual_threshold", "threshold", "in standard deviations"),
    Key("*alert_on_blocked_command", "alerts.blocked_command", "blocked_command"),
    *_none(SECRETS, "secrets.*", "*redact_pii", "*pii_patterns", "*api_key", "reliability.api_keys"),
    *_none(GATEWAY, "gateway.*", "tunnel.*", "channels.*", "channels_config.*", "*tls_*", "*require_pairing",
           "*pairing_*"),
    Key("security.otp.enabled", "roles.NAME.mfa_required", "otp", "per role; `stockade mfa enroll`"),
    *_none("is per role here and not per tool; a rule of [[rules]] can ask about each command", "security.otp.*"),
    Key("security.estop.*", "", "nothing", "`stockade stop`, always there"),
    Key("security.sandbox.enabled", "", "always_true", "there are no runs without"),
    Key("security.sandbox.backend", "", "nothing", "Landlock, seccomp, namespaces and cgroups, proved at each start"),
    *_none(BROWSER, "browser.*"),
    Key("autonomy.auto_approve", "", missing="names tools of the agent, not commands; use approval_patterns"),
    *_none(ONE_AGENT, "agents.*"),
    *_none(AGENT, "default_*", "agent.*", "memory.*", "identity.*", "observability.*", "model_*", "embedding_*",
           "cost.*", "query_classification.*", "multimodal.*", "reliability.*", "pacing.*", "heartbeat.*",
           "scheduler.*", "cron.*", "skills.*", "composio.*"),
    *_none(UNKNOWN, "*"),
)  # fmt: skip

CLAWDBOT: tuple[Key, ...] = (
    *_none("is another file; import that one too", "*$include"),
    Key("sandbox.enabled", "", "always_true", "there are no runs without"),
    Key("sandbox.mode", "a preset: strict, moderate or permissive", "mode",
        "the page that the others change; strict without allowedCommands switches the shell off"),
    Key("sandbox.allowedCommands", "profiles.shell.allowed_commands", "sandbox_commands", "the kernel enforces it"),
    Key("sandbox.*", "", missing="has no counterpart; see profiles in this page"),
    Key("tools.policy", "tools.policy", "tool_policy"),
    Key("tools.allowList", "tools.allow_list", "tool_list", "exec is shell, read and write are file"),
    Key("tools.allow", "tools.allow_list", "tools_allow", "exec is shell, read and write are file"),
    Key("tools.deny", "tools.allow_list", "tools_deny", "the list without them"),
    Key("tools.sandbox.tools.allow", "tools.allow_list", "tools_allow", "every run is confined here"),
    Key("tools.sandbox.tools.deny", "tools.allow_list", "tools_deny", "every run is confined here"),
    Key("tools.profile", "tools.allow_list", "tools_profile", "minimal and messaging have no shell"),
    Key("tools.elevated.enabled", "", "elevated", OUTSIDE),
    *_none(OUTSIDE, "tools.elevated.*", "tools.exec.host", "tools.exec.node"),
    Key("tools.exec.security", "tools.shell_enabled", "exec_security",
        '"deny" switches the shell off; "allowlist" asks about every command, or with ask = "off" is "deny"'),
    Key("tools.exec.ask", "autonomy.level", "exec_ask",
        '"on-miss" is supervised, "off" is full, "always" a rule that asks about every command'),
    Key("defaults.security", "tools.shell_enabled", "exec_security", "as tools.exec.security; of exec-approvals.json"),
    Key("defaults.ask", "autonomy.level", "exec_ask", "as tools.exec.ask; of exec-approvals.json"),
    Key("defaults.askFallback", "", missing="a question that nobody answers in time is denied"),
    Key("tools.exec.approval", "autonomy.level", "exec_approval",
        '"ask" is supervised, "never" is full, "always" a rule that asks about every command'),
    Key("tools.exec.approvalPatterns", "autonomy.approval_patterns", "approval_patterns"),
    Key("tools.exec.allowlist", "profiles.shell.allowed_commands", "allowed_commands"),
    Key("tools.exec.timeout*", "profiles.shell.limits.timeout", "timeout_s", "in seconds there"),
    Key("*approvalPatterns", "autonomy.approval_patterns", "approval_patterns"),
    Key("*blockedCommands", "autonomy.blocked_commands", "blocked_commands"),
    Key("*denylist", "autonomy.blocked_commands", "blocked_commands"),
    Key("*maxExecutionsPerMinute", "rates.per_minute", "per_minute", "of each agent"),
    Key("*maxAPICallsPerHour", "", missing=GATEWAY),
    Key("rateLimit.enabled", "rates", "rate_on"),
    Key("rateLimit.maxRequests", "rates.per_minute", "rate_limit", "with windowMs; of each caller"),
    Key("rateLimit.windowMs", "rates.per_minute", "rate_window", "with maxRequests"),
    Key("gateway.rateLimit.*", "", missing=GATEWAY),
    Key("audit.enabled", "", "audit_on", "always on, and nothing runs without it"),
    Key("audit.logTools", "", "audit_on", "always on"),
    Key("audit.logRequests", "", "audit_on", "always on"),
    *_none(AUDIT, "audit.*", "logging.maxLogSize", "logging.maxLogFiles", "*maxLogSize", "*maxLogFiles"),
    *_none(SECRETS, "logging.redact*", "secrets.*", "vault.*", "env.*"),
    Key("logging.*", "", missing="is the journal's to say"),
    *_none(EGRESS, "network.*", "*allowedDomains", "*allowOutbound"),
    *_none(GATEWAY, "gateway.*", "cors.*", "channels.*", "models.auth.*", "session.*", "promptInjection.*",
           "security.*"),
    *_none(BROWSER, "browser.*"),
    *_none("comes with signed skills; give each skill a profile and a context of its own", "skills.*"),
    Key("agents.defaults.workspace", "callers.workspaces", "workspace"),
    Key("agent.workspace", "callers.workspaces", "workspace"),
    Key("agents.defaults.sandbox.mode", "", "sandbox_when", "every run is confined here"),
    Key("agents.defaults.sandbox.workspaceAccess", "profiles.shell.write", "workspace_access",
        "ro: the workspace is in read alone"),
    Key("agents.defaults.sandbox.docker.network", "profiles.shell.network", "docker_network"),
    Key("agents.defaults.sandbox.docker.memory", "profiles.shell.limits.memory", "docker_memory"),
    Key("agents.defaults.sandbox.docker.cpus", "profiles.shell.limits.cpu", "cpus", "1 is 100%"),
    Key("agents.defaults.sandbox.docker.pidsLimit", "profiles.shell.limits.processes", "processes", "at least 16"),
    Key("agents.defaults.sandbox.docker.ulimits.nofile.soft", "profiles.shell.limits.files", "files"),
    Key("agents.defaults.sandbox.docker.ulimits.nofile", "profiles.shell.limits.files", "files"),
    Key("agents.defaults.sandbox.docker.readOnlyRoot", "", "always_true", "system directories are never writable"),
    *_none(DOCKER, "agents.defaults.sandbox.*"),
    *_none(AGENT, "agents.defaults.*", "models.*", "messages.*", "identity.*", "auth.*", "routing.*", "hooks.*",
           "cron.*", "ui.*", "meta.*", "wizard.*", "plugins.*", "web.*", "commands.*"),
    *_none(ONE_AGENT, "agents.*"),
    *_none(UNKNOWN, "*"),
)  # fmt: skip

TABLES: dict[Format, tuple[Key, ...]] = {"zeroclaw": ZEROCLAW, "clawdbot": CLAWDBOT}


def find(product: Format, path: str) -> Key:
    """The row of a dotted key; the last one of each table matches everything."""
    return next(key for key in TABLES[product] if fnmatchcase(path, key.old))
