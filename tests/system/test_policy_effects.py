"""Keys of policy are set to a value, and a running service is seen to do it; test_policy_seen.py has the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Daemon
from tests.kernel.hostile import uid_range
from tests.system.deciding import Later, answer, asked, post_run
from tests.system.test_deciding_limits import limited, wait_for_queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Agent, Reply

pytestmark = pytest.mark.root

PROFILE = """
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE", "/tmp"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
network = "loopback"
limits = { memory = "256M", processes = 32, files = 64, output = "1M", disk = "16M", tmp = "16M", timeout = "30s" }
"""
CALLERS = """
[[callers]]
uid = AGENT
role = "operator"
workspaces = ["GROUND/*"]
profiles = ["shell"]
labels = { "*" = ["*"] }
may_request = ["worker"]

[[callers]]
user = "root"
role = "administrator"

[roles.worker]
permissions = ["agent:*"]
"""
SERVICE = """
[service]
uid_range = UIDS
sessions = 8
"""
BACKGROUND = {"script": "mkfifo go; read x < go", "background": True}


class Pages:
    """One service, and policies that it is made to serve one after the other."""

    def __init__(self, daemon: Daemon, fill: Callable[[str], str]) -> None:
        self.daemon, self._fill = daemon, fill

    def reload(self, more: str = "", callers: str = CALLERS, service: str = SERVICE, profiles: str = "") -> Reply:
        text = f"{service}\n[profiles.shell]{PROFILE}{profiles}\n{callers}\n{more}"
        self.daemon.write_policy(self._fill(text))
        return self.daemon.request("POST", "/v1/policy/reload", root=True)

    def serve(self, *more: str, **parts: str) -> Daemon:
        reply = self.reload("\n".join(more), **parts)
        assert (reply.status, reply.json.get("refused")) == (200, {}), reply.body
        return self.daemon


@pytest.fixture(scope="module")
def pages(ground: Path, agent: Agent) -> Iterator[Pages]:
    uids = uid_range()
    words = {"AGENT": str(agent.uid), "GROUND": str(ground), "UIDS": f"[{uids[0]}, {uids[1]}]"}

    def fill(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    with Daemon(ground, agent, sys.executable, fill(f"{SERVICE}\n[profiles.shell]{PROFILE}\n{CALLERS}")) as running:
        yield Pages(running, fill)


def rule(reply: Reply, status: int = 403) -> str:
    """The key of policy by which it was refused or asked about."""
    assert reply.status == status, reply.body
    return str(reply.json["rule"])


def explained(daemon: Daemon, workspace: Path, *argv: str, **more: Any) -> dict[str, Any]:
    body = {"workspace": str(workspace), "argv": list(argv) or ["true"], **more}
    found: dict[str, Any] = daemon.request("POST", "/v1/policy/explain", body).json
    return found


# --- the service, its ceiling, its callers ---------------------------------------------------------------------------


def test_sessions_and_runs_of_the_service(pages: Pages, workspace: Path) -> None:
    one = SERVICE.replace("sessions = 8", "sessions = 1\nruns = 8")
    daemon = pages.serve(service=one)
    body = {"workspace": str(workspace)}
    session = daemon.request("POST", "/v1/sessions", body).json["id"]
    assert rule(daemon.request("POST", "/v1/sessions", body), 429) == "service.sessions"
    daemon.request("DELETE", f"/v1/sessions/{session}")
    daemon = pages.serve(service=SERVICE + "runs = 1\n")
    first = post_run(daemon, workspace, **BACKGROUND).json["id"]
    assert rule(post_run(daemon, workspace, "true"), 429) == "service.runs"
    assert daemon.request("POST", f"/v1/runs/{first}/cancel", {}).status == 200


def test_no_profile_and_no_caller_of_a_drop_in_is_wider_than_the_ceiling(pages: Pages) -> None:
    ceiling = """
[ceiling]
read = ["/bin", "/lib", "/lib64"]
write = ["/tmp"]
execute = ["/bin", "/lib", "/lib64"]
network = "none"
limits = { memory = "64M" }
roles = ["viewer"]
workspaces = ["/srv/nowhere/*"]
"""
    drop_in = pages.daemon.root / "etc" / "policy.d" / "10-more.toml"
    drop_in.parent.mkdir(mode=0o755)
    try:
        drop_in.write_text('[[callers]]\nuser = "daemon"\nrole = "operator"\n')
        reply = pages.reload(ceiling)
    finally:
        drop_in.unlink()
        drop_in.parent.rmdir()
    assert reply.status == 422
    found = {f["key"].partition("[0]")[0] for f in reply.json["findings"] if "ceiling" in f["message"]}
    places = {f"profiles.shell.{key}" for key in ("read", "write", "execute", "network", "limits.memory")}
    assert found >= {*places, "callers"}, reply.body
    said = " ".join(f["message"] for f in reply.json["findings"])
    assert "/srv/nowhere" in said or "workspaces" in str(reply.json["findings"])
    assert "operator" in said


def test_what_an_entry_of_callers_grants(pages: Pages, workspace: Path) -> None:
    entry = CALLERS.replace('labels = { "*" = ["*"] }', 'labels = { channel = ["ops-*"], agent = ["*"] }\nzone = 2\n'
                            'must_state = ["agent"]')  # fmt: skip
    zones = """
[[contexts]]
match = { zone = ["2"] }
approval_patterns = ["touch zone-two"]

[[contexts]]
match = { zone = ["1"] }
approval_patterns = ["touch zone-one"]

[[contexts]]
match = { agent = ["stranger"] }
zone = 1
"""
    daemon = pages.serve(zones, callers=entry, profiles=f"\n[profiles.other]{PROFILE}")

    def said(*argv: str, **more: Any) -> Reply:
        return post_run(daemon, workspace, *argv, **more)

    known = {"labels": {"agent": "a"}}
    assert rule(said("true", profile="other", **known)) == "callers.profiles"
    assert rule(said("true")) == "callers.must_state"
    assert rule(said("true", labels={"agent": "a", "channel": "discord"})) == "callers.labels"
    assert rule(said("true", labels={"agent": "a", "team": "x"})) == "callers.labels"
    assert said("true", labels={"agent": "a", "channel": "ops-1"}).status == 200
    assert rule(said("touch", "zone-two", **known), 202) == "contexts[0].approval_patterns[0]"
    assert said("touch", "zone-one", **known).status == 200
    lower = {"labels": {"agent": "stranger"}}
    assert rule(said("touch", "zone-one", **lower), 202) == "contexts[1].approval_patterns[0]"
    assert rule(said("touch", "zone-two", **lower), 202) == "contexts[0].approval_patterns[0]"


IN_A_UNIT = """
import http.client, os, socket, sys
path, uid, gid, groups, *cgroups = sys.argv[1:]
for cgroup in cgroups:
    with open(os.path.join(cgroup, "cgroup.procs"), "w") as f:
        f.write("0")
os.setgroups([int(g) for g in groups.split(",")])
os.setgid(int(gid))
os.setuid(int(uid))
c = http.client.HTTPConnection("localhost")
c.sock = socket.socket(socket.AF_UNIX)
c.sock.connect(path)
c.request("GET", "/v1/status")
sys.stdout.buffer.write(c.getresponse().read())
"""


def test_an_entry_by_unit_is_that_units(pages: Pages, agent: Agent) -> None:
    """A process in a cgroup of that name, as systemd would have made it; it has the uid of another entry besides."""
    unit = f"stk-test-{os.getpid()}.service"
    daemon = pages.serve(f'[[callers]]\nunit = "{unit}"\nrole = "viewer"\n')
    mounts = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    cgroups = [
        Path(where.split()[4]) / unit
        for where, what in mounts
        if what.startswith("cgroup2 ") or "name=systemd" in what.split()[-1].split(",")
    ]
    for made in cgroups:
        made.mkdir()
    try:
        ids = [str(agent.uid), str(agent.gid), ",".join(map(str, agent.groups))]
        command = [sys.executable, "-I", "-c", IN_A_UNIT, daemon.socket, *ids, *map(str, cgroups)]
        you = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["you"]
    finally:
        for made in cgroups:
            made.rmdir()
    assert (you["uid"], you["unit"], you["entry"], you["role"]) == (agent.uid, unit, 2, "viewer")
    assert daemon.request("GET", "/v1/status").json["you"]["role"] == "operator"


# --- tools and autonomy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "by"),
    [
        ("shell_enabled = false", "tools.shell_enabled"),
        ('policy = "whitelist"\nallow_list = ["file"]', "tools.allow_list"),
        ('policy = "restrictive"', "tools.allow_list"),
        ('policy = "whitelist"\nallow_list = ["shell"]', ""),
    ],
)
def test_tools_that_are_off_run_nothing(pages: Pages, workspace: Path, table: str, by: str) -> None:
    daemon = pages.serve(f"[tools]\n{table}\n")
    reply = post_run(daemon, workspace, "true")
    assert (reply.status, reply.json.get("rule")) == ((403, by) if by else (200, None)), reply.body
    shown = daemon.request("GET", "/v1/tools/shell").json
    assert (shown["allowed"], shown["rule"]) == (not by, by or "tools.shell_enabled")


def test_what_policy_asks_about_by_risk_and_by_path(pages: Pages, workspace: Path) -> None:
    table = """
[autonomy]
blocked_commands = []
approval_patterns = []
approval_risks = ["outside"]
forbidden_paths = ["~/.kube"]
granted_paths = ["/etc/hosts"]
workspace_only = WORKSPACE_ONLY
unparsed = "readonly"
"""
    daemon = pages.serve(table.replace("WORKSPACE_ONLY", "true"))

    def reasons(*argv: str) -> list[str]:
        return [step["detail"] for step in explained(daemon, workspace, *argv)["steps"] if step["effect"] == "ask"]

    assert ["Outside workspace" in said for said in reasons("cat", "/srv/notes")] == [True]
    assert ["Forbidden directory" in said for said in reasons("cat", f"{workspace}/../.kube/config")] == [False]
    assert reasons("cat", "/etc/hosts") == []
    assert len(reasons("cat", "/etc/passwd")) == 1
    assert reasons("cat", ".ssh/id_ed25519") != [], "a directory of secrets is off limits in the workspace too"
    assert rule(post_run(daemon, workspace, "cat", "/etc/passwd"), 202) == "autonomy.approval_risks[0]"
    assert post_run(daemon, workspace, "cat", "/etc/hosts").status == 200
    broken = daemon.run(workspace, script="touch new\necho 'never closed")
    assert (broken["decision"]["readonly"], list(workspace.iterdir())) == (True, [])

    pages.serve(table.replace("WORKSPACE_ONLY", "false").replace('unparsed = "readonly"', 'unparsed = "ask"'))
    assert reasons("cat", "/srv/notes") == []
    assert ["Forbidden directory" in said for said in reasons("cat", "/home/agent/.kube/config")] == [True]
    assert len(reasons("cat", "/etc/passwd")) == 1, "what is forbidden is so outside of the workspace as well"
    assert rule(post_run(daemon, workspace, script="touch new\necho 'never closed"), 202) == "autonomy.unparsed"


def test_full_autonomy_asks_about_nothing_and_denies_what_is_blocked(pages: Pages, workspace: Path) -> None:
    lists = 'blocked_commands = ["touch blocked"]\napproval_patterns = ["touch asked"]\n'
    daemon = pages.serve(f'[autonomy]\nlevel = "supervised"\n{lists}')
    assert rule(post_run(daemon, workspace, "touch", "asked"), 202) == "autonomy.approval_patterns[0]"
    daemon = pages.serve(f'[autonomy]\nlevel = "full"\n{lists}')
    assert post_run(daemon, workspace, "touch", "asked").status == 200
    assert rule(post_run(daemon, workspace, "touch", "blocked")) == "autonomy.blocked_commands[0]"
    assert [path.name for path in workspace.iterdir()] == ["asked"]


# --- contexts and rules --------------------------------------------------------------------------------------------

CONTEXTS = """
[roles.looker]
permissions = ["agent:read"]

[[contexts]]
match = { channel = ["no-role"] }
role = "looker"

[[contexts]]
match = { channel = ["other"] }
profiles = ["other"]

[[contexts]]
match = { channel = ["stranger"] }
network = "none"

[[contexts]]
match = { channel = ["no-tool"] }
tools = ["file"]

[[contexts]]                    # a tool policy of a skill of its own (R56)
match = { skill = ["notes"] }
profiles = ["few"]
blocked_commands = ["touch blocked"]
approval_patterns = ["touch asked"]
"""
SKILL = """
[profiles.few]PROFILE
allowed_commands = ["touch"]
""".replace("PROFILE", PROFILE)
LOOPBACK = "import socket as s; a = s.create_server(('127.0.0.1', 0)); s.create_connection(a.getsockname(), 2)"


def test_what_contexts_take_away(pages: Pages, workspace: Path) -> None:
    granted = CALLERS.replace('profiles = ["shell"]', 'profiles = ["shell", "other", "few"]')
    daemon = pages.serve(CONTEXTS, callers=granted, profiles=f"\n[profiles.other]{PROFILE}\n{SKILL}")

    def said(channel: str, *argv: str, **more: Any) -> Reply:
        return post_run(daemon, workspace, *argv, labels={"channel": channel}, **more)

    assert rule(said("no-role", "true")) == "contexts[0].role"
    assert said("other", "true").json["profile"] == "other"
    assert said("any", "true").json["profile"] == "shell"
    assert rule(said("other", "true", profile="shell")) == "contexts[1].profiles"
    inside = {channel: said(channel, "/usr/bin/python3", "-c", LOOPBACK).json for channel in ("any", "stranger")}
    assert {channel: run["exit_code"] == 0 for channel, run in inside.items()} == {"any": True, "stranger": False}
    assert rule(said("no-tool", "true")) == "contexts[3].tools"
    skill = {"labels": {"skill": "notes"}}
    assert rule(post_run(daemon, workspace, "touch", "blocked", **skill)) == "contexts[4].blocked_commands[0]"
    assert rule(post_run(daemon, workspace, "touch", "asked", **skill), 202) == "contexts[4].approval_patterns[0]"
    assert post_run(daemon, workspace, "touch", "free", **skill).status == 200
    assert post_run(daemon, workspace, "/usr/bin/cat", "free", **skill).status == 422, "the kernel starts nothing else"


RULES = """
[[rules]]
name = "mornings"
match = { agent = ["clock"] }
require = { time = ["00:00-12:00"], timezone = "Asia/Kolkata" }
effect = "ask"

[[rules]]
name = "afternoons"
match = { agent = ["clock"] }
require = { time = ["12:00-00:00"], timezone = "Asia/Kolkata" }
effect = "ask"

[[rules]]
name = "early"
match = { agent = ["clock"] }
require = { days = ["mon-wed"] }
effect = "ask"

[[rules]]
name = "late"
match = { agent = ["clock"] }
require = { days = ["thu-sun"] }
effect = "ask"

[[rules]]
name = "at-home"
match = { agent = ["placed"] }
require = { source_ip = ["10.0.0.0/8"], labels = { device_encrypted = ["yes"] } }

[[rules]]
name = "recorded"
match = { agent = ["recorded"] }
require = { audit = true }

[[rules]]
name = "no-stop"
permissions = ["service:stop"]
"""


def test_what_rules_require(pages: Pages, workspace: Path) -> None:
    daemon = pages.serve(RULES)
    # All are of one request, so of one moment: of each pair exactly one holds, whenever this is.
    found = {s["rule"].split(" ")[1]: s for s in explained(daemon, workspace, labels={"agent": "clock"})["steps"]
             if s["rule"].startswith("rules[")}  # fmt: skip
    for one, other in (("mornings", "afternoons"), ("early", "late")):
        assert {found[one]["effect"], found[other]["effect"]} == {"note", "ask"}
    lacking = [step["detail"] for step in found.values() if step["effect"] == "ask"]
    assert ["Asia/Kolkata" in said for said in lacking] == [True, False]

    def placed(**labels: str) -> Reply:
        return post_run(daemon, workspace, "true", labels={"agent": "placed", **labels})

    assert (rule(reply := placed()), reply.json["field"]) == ("rules.at-home", "labels.source_ip")
    assert rule(placed(source_ip="192.0.2.1", device_encrypted="yes")) == "rules.at-home"
    reply = placed(source_ip="10.1.2.3")
    assert (rule(reply), reply.json["field"]) == ("rules.at-home", "labels.device_encrypted")
    assert rule(placed(source_ip="10.1.2.3", device_encrypted="no")) == "rules.at-home"
    assert placed(source_ip="10.1.2.3", device_encrypted="yes").status == 200
    assert post_run(daemon, workspace, "true", labels={"agent": "recorded"}).status == 200
    assert rule(daemon.request("POST", "/v1/stop", {}, root=True)) == "rules.no-stop"


# --- how much --------------------------------------------------------------------------------------------------------

METERS = """
[[rates]]
scope = "channel"
per_minute = 2

[[rates]]
scope = "user"
per_day = 2

[[budgets]]
scope = "agent"
wall = "20s"

[[budgets]]
scope = "caller"
written = "4K"

[breaker]
repeats = 3
repeat_window = "10m"
open = "90m"
"""


@pytest.mark.usefixtures("within_one_hour")
def test_rates_budgets_and_repeats(pages: Pages, workspace: Path) -> None:
    daemon = pages.serve(METERS)
    number = iter(range(1000))

    def said(*argv: str, **labels: str) -> Reply:
        """A command that is not the same as the one before, of a channel, user and agent of its own."""
        whole = {"channel": f"c{next(number)}", "user": f"u{next(number)}", "agent": f"a{next(number)}", **labels}
        return post_run(daemon, workspace, *(argv or ("true", str(next(number)))), labels=whole)

    # What falls into two minutes of the clock counts in the second in part: so several, of which one is refused.
    several = [said(channel="busy") for _ in range(8)]
    problem = limited(next(r for r in several if r.status != 200), "rates[0].per_minute")
    assert problem["allowed"] == "2 runs and sessions in one minute"
    assert [said(user="busy").status for _ in range(2)] == [200, 200]
    limited(said(user="busy"), "rates[1].per_day")

    dry = post_run(daemon, workspace, "true", dry_run=True, labels={"agent": "timed"}).json
    assert dry["limits"]["timeout_ms"] == 20_000, "the deadline is narrowed to what is left of the budget"

    assert [said("sh", "-c", "true same", agent="loop").status for _ in range(3)] == [200] * 3
    problem = limited(said("sh", "-c", "true same", agent="loop"), "breaker")
    assert "3 times within 600 s" in problem["detail"]
    assert problem["allowed"].startswith("nothing for 5400 s")
    limited(said("true", "something else", agent="loop"), "breaker")

    usage = said("sh", "-c", "head -c 300000 /dev/zero > kept && sync kept").json["usage"]
    after = said()
    if "written_bytes" in usage:  # only cgroup v2 counts them
        limited(after, "budgets[1].written")
    else:
        assert after.status == 200


def test_who_waits_for_a_place(pages: Pages, workspace: Path) -> None:
    daemon = pages.serve('[concurrency]\nruns_per_agent = 1\nqueue = 8\nqueue_per_agent = 1\nqueue_time = "20s"\n')
    first = post_run(daemon, workspace, **BACKGROUND).json["id"]
    waiting = Later(daemon, "/v1/runs", {"workspace": str(workspace), "argv": ["true"]})
    wait_for_queue(daemon, 1)
    limited(post_run(daemon, workspace, "true"), "concurrency.queue_per_agent")
    assert daemon.request("POST", f"/v1/runs/{first}/cancel", {}).status == 200
    assert waiting.result().status == 200

    daemon = pages.serve('[concurrency]\nruns_per_agent = 1\nqueue = 8\nqueue_time = "100ms"\n')
    first = post_run(daemon, workspace, **BACKGROUND).json["id"]
    limited(post_run(daemon, workspace, "true"), "concurrency.queue_time")
    assert daemon.request("POST", f"/v1/runs/{first}/cancel", {}).status == 200


# --- questions -------------------------------------------------------------------------------------------------------

ASKING = """
[autonomy]
approval_patterns = ["touch asked"]

[approvals]
timeout = "TIMEOUT"
pending = 1
grant = "7m"
longest = "2h"
access = "3h"
"""


def test_how_long_questions_and_answers_hold(pages: Pages, workspace: Path) -> None:
    daemon = pages.serve(ASKING.replace("TIMEOUT", "1h"))
    ident = asked(post_run(daemon, workspace, "touch", "asked"))
    assert rule(post_run(daemon, workspace, "touch", "asked", "more"), 429) == "approvals.pending"
    long = answer(daemon, ident, scope="until", duration="3h")
    assert (long.status, long.json["rule"]) == (422, "approvals.longest")
    assert answer(daemon, ident, scope="target").status == 200
    grant = next(g for g in daemon.request("GET", "/v1/grants").json["grants"] if g["question"] == ident)
    assert lasts(grant) == 7 * 60
    body = {"role": "worker", "reason": "to see"}
    long = daemon.request("POST", "/v1/access", {**body, "duration": "4h"})
    assert (long.status, long.json["rule"]) == (422, "approvals.access")
    ident = daemon.request("POST", "/v1/access", {**body, "duration": "3h"}).json["id"]
    assert answer(daemon, ident).status == 200
    role = next(g for g in daemon.request("GET", "/v1/grants").json["grants"] if g["role"] == "worker")
    assert lasts(role) == 3 * 3600

    daemon = pages.serve(ASKING.replace("TIMEOUT", "200ms"))
    late = post_run(daemon, workspace, "touch", "asked", "late", wait_approval="30s")
    assert (late.status, late.json["code"]) == (403, "approval_denied")
    assert not (workspace / "asked").exists()


def lasts(grant: dict[str, Any]) -> float:
    until, created = (datetime.fromisoformat(grant[key]) for key in ("until", "created"))
    return round((until - created).total_seconds())


# --- [[tests]] -------------------------------------------------------------------------------------------------------

TESTS = """
[[contexts]]
match = { channel = ["closed"] }
tools = []

[[tests]]
tool = "browser"
argv = ["browser-is-not-there"]
expect = "allow"

[[tests]]
argv = ["asked-of-words"]
expect = "deny"

[[tests]]
command = "asked-of-a-script | true"
expect = "deny"

[[tests]]
caller = "root"
command = "root-runs-nothing"
expect = "allow"

[[tests]]
profile = "other"
command = "not-granted"
expect = "allow"

[[tests]]
workspace = "/srv/elsewhere"
command = "not-there"
expect = "allow"

[[tests]]
labels = { channel = "closed" }
command = "not-by-this-channel"
expect = "allow"
"""


def test_a_policy_that_does_not_decide_what_it_says_it_decides_does_not_serve(pages: Pages) -> None:
    more = '[autonomy]\napproval_patterns = ["asked-of-words", "asked-of-a-script"]\n'
    reply = pages.reload(more + TESTS, profiles=f"\n[profiles.other]{PROFILE}")
    assert (reply.status, reply.json["code"]) == (422, "policy_invalid")
    found = reply.json["findings"]
    said = {finding["message"].split("'")[1]: finding["message"] for finding in found}
    why = {
        "browser-is-not-there": "tools.browser_enabled", "asked-of-words": "as ask",
        "asked-of-a-script | true": "as ask", "root-runs-nothing": "profile", "not-granted": "callers.profiles",
        "not-there": "callers.workspaces", "not-by-this-channel": "contexts[0].tools",
    }  # fmt: skip
    assert said.keys() == why.keys()
    assert [name for name, part in why.items() if part not in said[name]] == [], said
    assert [finding["expected"] for finding in found] == ["allow", "deny", "deny", *["allow"] * 4]
