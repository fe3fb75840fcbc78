"""The least change that a denial names, applied to the file as an operator would: it loads, and allows just this."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import tomlkit

from supervisor.decide.admission import Counters
from supervisor.decide.explain import explain
from supervisor.decide.request import Peer, RunRequest
from supervisor.decide.shell.analyse import analyse_argv
from supervisor.errors import PolicyInvalid
from supervisor.policy.lint import lint
from supervisor.policy.load import loads

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Snapshot

NOON = 1_767_614_400.0
PATH = "/etc/stockade/policy.toml"
POLICY = """
# Denies in as many ways as there are.
[ceiling]
workspaces = ["/srv/**"]
limits = { timeout = "10m", memory = "2G", idle_timeout = "1m" }

[profiles.shell]
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE", "/tmp"]
execute = ["/usr", "/bin", "/lib", "/lib64"]

[profiles.shell.limits]
timeout = "60s"
idle_timeout = "30s"
memory = "512M"

[profiles.other]
read = ["/usr", "/bin", "/lib", "/lib64", "$WORKSPACE"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
limits = { timeout = "1s", idle_timeout = "500ms" }

[tools]
policy = "whitelist"
allow_list = ["shell"]

[autonomy]
blocked_commands = ["nmap", "nmap -sS", "git push -f", "dd if="]
approval_patterns = ["rm -rf", "git push", "kubectl delete"]   # a comment that stays
approval_risks = ["privilege", "secrets", "destructive"]

[[callers]]
uid = 1000
role = "operator"
workspaces = ["/srv/agents/*"]
profiles = ["shell"]
labels = { channel = ["slack-*"], agent = ["a", "b"] }

[[callers]]
uid = 1001
role = "viewer"
workspaces = ["/srv/viewers/*"]
profiles = ["shell"]

[[callers]]
uid = 1002
role = "operator"
workspaces = ["/srv/all/*"]
profiles = ["shell", "other"]
labels = { "*" = ["*"] }

[[callers]]
user = "root"
role = "administrator"
"""
OFF = POLICY.replace('policy = "whitelist"', 'shell_enabled = false\npolicy = "whitelist"')
NO_TOOL = POLICY.replace('policy = "whitelist"\nallow_list = ["shell"]', 'policy = "restrictive"')
OWN_ROLE = POLICY + '\n[roles.operator]\npermissions = ["agent:read"]\n'
WORKSPACES = {1000: "/srv/agents/x", 1001: "/srv/viewers/x", 1002: "/srv/all/x"}


@dataclass
class Ask:
    """One request: of a uid, and what of it is not the usual."""

    argv: tuple[str, ...] = ("true",)
    uid: int = 1000
    unit: str = ""
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def request(self) -> RunRequest:
        return RunRequest(**{"workspace": WORKSPACES.get(self.uid, "/srv/new/x"), "argv": self.argv, **self.more})


def answer(snapshot: Snapshot, ask: Ask) -> dict[str, Any]:
    peer = Peer(0, ask.uid, ask.uid, (ask.uid,), ask.unit, inside=False)
    return explain(snapshot, {}, peer, None, ask.request, Counters(now=NOON), analyse_argv(ask.argv))


def load(text: str) -> Snapshot:
    return loads(text, path=PATH, resolve=lambda *_: 0)


def steps(change: str) -> list[tuple[int, str, str]]:
    """(line of the file, header or comment, key and value) for each key of a change."""
    found: list[tuple[int, str, str]] = []
    line, where = 0, ""
    for text in change.splitlines():
        if place := re.fullmatch(rf"# {re.escape(PATH)}(?::(\d+))?", text):
            line, where = int(place[1] or 0), ""
        elif text.startswith(("#", "[")):
            where = text
        else:
            found.append((line, where, text))
    return found


def applied(text: str, changes: list[tuple[int, str, str]]) -> str:
    """The file with each key set where its comment says that the table is."""
    doc = tomlkit.parse(text)
    lines = text.splitlines()
    new: dict[str, Any] = {}
    for line, where, written in changes:
        ((key, value),) = tomlkit.parse(written).items()
        if where == "[[callers]]":
            new[key] = value
            continue
        at: Any = doc
        if where.startswith("# in this entry"):
            assert lines[line - 1] == "[[callers]]"
            at = doc["callers"][lines[: line - 1].count("[[callers]]")]
        else:
            path = where.strip("[]").split(".")
            assert lines[line - 1] in (f"[{'.'.join(path)}]", f"[{'.'.join(path[:-1])}]")
            for part in path:
                at = at.setdefault(part, tomlkit.table())
        at[key] = value
    if new:
        doc["callers"].append(tomlkit.item(new))
    return tomlkit.dumps(doc)


BYSTANDERS = [
    *(Ask((*words,), uid) for uid in (1000, 1001, 1002) for words in (["nmap", "x"], ["dd", "if=x"], ["rm", "-rf", "a"],
      ["kubectl", "delete", "x"], ["sudo", "id"])),
    *(Ask(("id",), uid, more=more) for uid in (1000, 1001, 1002) for more in (
        {"workspace": "/srv/elsewhere"}, {"workspace": "/home/u/x"}, {"profile": "nope"}, {"labels": {"device": "z"}},
        {"limits": {"memory": 1 << 42}}, {"tool": "browser"}, {"limits": {"timeout_ms": 86_400_000}})),
    Ask(("id",), 77), Ask(("id",), 78, "no.service"), Ask(("id",), 0), Ask(("id",), 0, more={"profile": "shell"}),
]  # fmt: skip
DENIALS = [
    ("a blocked command", POLICY, Ask(("nmap", "-sS", "x"))),
    ("a blocked command, which two patterns and a question name", POLICY, Ask(("git", "push", "-f"))),
    ("what is asked about for a pattern", POLICY, Ask(("kubectl", "delete", "pod"), 1002)),
    ("what is asked about for a risk", POLICY, Ask(("cat", "/home/agent/.ssh/id_ed25519"))),
    ("a pattern and a risk", POLICY, Ask(("rm", "-rf", "/srv"), 1002)),
    ("more time", POLICY, Ask(more={"limits": {"timeout_ms": 90_000}})),
    ("more time and memory, in a profile with its limits in line", POLICY,
     Ask(uid=1002, more={"profile": "other", "limits": {"timeout_ms": 90_500, "memory": 1 << 30, "cpu": 201}})),
    ("more than the ceiling has", POLICY, Ask(more={"limits": {"timeout_ms": 601_000, "memory": (2 << 30) + 1}})),
    ("no idle timeout, against the ceiling", POLICY, Ask(more={"limits": {"idle_timeout_ms": 0}})),
    ("more of everything", POLICY, Ask(more={"limits": {
        "cpu": 6401, "processes": 70_000, "files": 2048, "output": 17 << 20, "disk": 2 << 40, "tmp": 65 << 30}})),
    ("another profile that there is", POLICY, Ask(more={"profile": "other"})),
    ("another workspace", POLICY, Ask(more={"workspace": "/srv/w"})),
    ("a workspace beyond the ceiling", POLICY, Ask(more={"workspace": "/home/w/x"})),
    ("a workspace with characters that TOML writes otherwise", POLICY, Ask(more={"workspace": '/srv/"x"\\ü'})),
    ("a value of a label", POLICY, Ask(more={"labels": {"channel": "irc", "agent": "c"}})),
    ("a label", POLICY, Ask(more={"labels": {"user": "u", "channel": "slack-1"}})),
    ("a role that runs nothing", POLICY, Ask(uid=1001)),
    ("a tool that is switched off", OFF, Ask(("ls",))),
    ("no tool at all", NO_TOOL, Ask(("ls",))),
    ("all at once", OFF, Ask(("nmap", "-sS", "x"), more={"limits": {"timeout_ms": 3_600_000, "files": 4096}})),
    ("nobody that policy knows", POLICY, Ask(uid=4711)),
    ("a service that policy does not know", POLICY, Ask(uid=4711, unit="agent.service", more={"profile": "other"})),
    ("somebody who has logged in", POLICY, Ask(uid=4711, unit="session-12.scope")),
]  # fmt: skip


@pytest.mark.parametrize(("text", "ask"), [d[1:] for d in DENIALS], ids=[d[0] for d in DENIALS])
def test_the_change_as_it_is_written_loads_and_allows_just_this(text: str, ask: Ask) -> None:
    before = load(text)
    said = answer(before, ask)
    assert said["verdict"] != "allow"
    wanted = steps(said["change"])
    wider = applied(text, wanted)
    after = load(wider)
    assert answer(after, ask)["verdict"] == "allow"
    known = warnings(before)
    assert warnings(after) <= known
    usual = load(POLICY)
    for other in BYSTANDERS:  # a pattern or a risk is about a program, and a tool about all that have it
        if other.argv[0] != ask.argv[0] and answer(usual, other)["verdict"] != "allow":
            assert answer(after, other)["verdict"] != "allow", other
    if "[[callers]]" in {where for _, where, _ in wanted}:
        return  # an entry is needed as a whole
    for n in range(len(wanted)):
        try:
            fewer = load(applied(text, wanted[:n] + wanted[n + 1 :]))
        except PolicyInvalid:
            continue  # beyond the ceiling
        assert answer(fewer, ask)["verdict"] != "allow" or not warnings(fewer) <= known, f"{wanted[n]} is not needed"


def warnings(snapshot: Snapshot) -> set[tuple[str, str]]:
    return {(f["key"], f["message"]) for f in lint(snapshot) if f["severity"] == "warning"}


@pytest.mark.parametrize(
    ("text", "ask"),
    [
        (POLICY, Ask(more={"tool": "browser"})),  # which this version has not, whatever is switched on
        (POLICY, Ask(("nmap", "x"), more={"tool": "file"})),
        (POLICY, Ask(more={"limits": {"timeout_ms": 10**12}})),  # no policy may say so
        (POLICY, Ask(("nmap", "x"), more={"limits": {"memory": 1 << 60}})),
        (POLICY, Ask(more={"workspace": "/etc/x"})),
        (POLICY, Ask(more={"workspace": "/var/lib/x"})),
        (POLICY, Ask(uid=4711, more={"workspace": "/usr/x"})),
        (POLICY, Ask(uid=4711, more={"profile": "a b"})),
    ],
)
def test_there_is_no_change_where_none_would_allow_it(text: str, ask: Ask) -> None:
    said = answer(load(text), ask)
    assert (said["verdict"], said["change"]) == ("deny", None)


def test_a_role_that_would_not_help_is_not_named() -> None:
    said = answer(load(OWN_ROLE), Ask(uid=1001))
    assert steps(said["change"]) == []
    assert "callers.role: agent:execute: administrator" in said["change"]


def test_a_drop_in_is_told_of_what_it_replaces() -> None:
    snapshot = load(POLICY)
    moved = tuple(replace(p, source="/etc/stockade/policy.d/10.toml:1") for p in snapshot.profiles)
    said = answer(replace(snapshot, profiles=moved), Ask(more={"limits": {"timeout_ms": 61_000}}))["change"]
    assert said.startswith("# /etc/stockade/policy.d/10.toml:1\n[profiles.shell.limits]\n")
    assert said.endswith("# if a file before it has profiles.shell too, that one needs as much\n")


def test_who_has_no_profile_is_told_so() -> None:
    said = answer(load(POLICY), Ask(uid=0))
    assert steps(said["change"]) == []
    assert "grant a profile" in said["change"]


def test_the_entry_for_somebody_who_is_not_known_is_whole() -> None:
    """Root's own directories are no workspaces; a user is no login session; a ceiling is named and not told."""
    bare = POLICY.replace('[[callers]]\nuser = "root"\nrole = "administrator"\n', "")
    said = answer(load(bare), Ask(more={"workspace": "/home/w/x"}, unit="user@0.service", uid=0))["change"]
    assert "uid = 0\n" in said
    assert "any_owner = true\n" in said
    assert said.endswith("# [ceiling] workspaces has to hold this workspace too\n")
    wider = applied(bare, [*steps(said), (3, "[ceiling]", 'workspaces = ["/srv/**", "/home/w/x"]')])
    assert answer(load(wider), Ask(more={"workspace": "/home/w/x"}, uid=0))["verdict"] == "allow"


@pytest.mark.parametrize(
    ("unit", "who"),
    [
        ("agent.service", 'unit = "agent.service"'),
        ("session-12.scope", "uid = 4711"),  # the next login is another one
        ("user@4711.service", "uid = 4711"),
        ("", "uid = 4711"),
    ],
)
def test_who_is_not_known_is_named_by_what_lasts(unit: str, who: str) -> None:
    said = answer(load(POLICY), Ask(uid=4711, unit=unit))
    for text in (said["change"], said["problem"]["hint"]):
        assert f"[[callers]]\n{who}\n" in text


def test_a_change_is_not_what_it_names_already() -> None:
    """The policy that the change is found on is not changed by it."""
    snapshot = load(POLICY)
    kept = copy.deepcopy(snapshot)
    answer(snapshot, Ask(("git", "push", "-f"), more={"limits": {"timeout_ms": 601_000}}))
    assert snapshot == kept
