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
    Key("autonomy.allowed_commands", "profiles.shell.allowed_commands", "allowed_commands", "the kernel enforces it"),
    Key("autonomy.forbidden_paths", "autonomy.forbidden_paths", "forbidden_paths"),
    Key("*blocked_paths", "autonomy.forbidden_paths", "forbidden_paths"),
    Key("*forbidden_paths", "autonomy.forbidden_paths", "forbidden_paths"),
    Key("autonomy.require_approval_for_medium_risk", "autonomy.approval_risks", "medium_risk"),
    Key("autonomy.block_high_risk_commands", "autonomy.approval_risks", "high_risk",
        "high risks are asked about; what is to be denied stands in blocked_commands"),
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
    Key("security.estop.*", "", "nothing", "`stockade stop`, always there"),
    Key("security.sandbox.enabled", "", "always_true", "there are no runs without"),
    Key("security.sandbox.backend", "", "nothing", "Landlock, seccomp, namespaces and cgroups, proved at each start"),
    *_none(BROWSER, "browser.*"),
    Key("autonomy.auto_approve", "", missing="names tools of the agent, not commands; use approval_patterns"),
    Key("autonomy.always_ask", "", missing="names tools of the agent, not commands; use [[rules]]"),
    *_none(AGENT, "*"),
)  # fmt: skip

CLAWDBOT: tuple[Key, ...] = (
    Key("sandbox.enabled", "", "always_true", "there are no runs without"),
    Key("sandbox.mode", "a preset: strict, moderate or permissive", "mode",
        "the page that the others change; strict without allowedCommands switches the shell off"),
    Key("sandbox.allowedCommands", "profiles.shell.allowed_commands", "sandbox_commands", "the kernel enforces it"),
    Key("sandbox.*", "", missing="has no counterpart; see profiles in this page"),
    Key("tools.policy", "tools.policy", "tool_policy"),
    Key("tools.allowList", "tools.allow_list", "tool_list", "exec is shell, read and write are file"),
    Key("tools.exec.approval", "autonomy.level", "exec_approval", '"ask" is supervised, "never" is full'),
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
    *_none(AGENT, "*"),
)  # fmt: skip

TABLES: dict[Format, tuple[Key, ...]] = {"zeroclaw": ZEROCLAW, "clawdbot": CLAWDBOT}


def find(product: Format, path: str) -> Key:
    """The row of a dotted key; the last one of each table matches everything."""
    return next(key for key in TABLES[product] if fnmatchcase(path, key.old))
