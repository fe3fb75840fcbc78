"""Sessions that are narrower than their profile: asked for, or made so by the launcher whatever main says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from supervisor.wire import messages as w
from tests.kernel.hostile import Launcher
from tests.kernel.sessions import opened, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Agent

pytestmark = pytest.mark.root

CHANGES = (
    "echo x > new", "echo x > kept", "echo x >> kept", "mkdir dir", "mv kept moved", "rm kept", "ln kept linked",
    "ln -s kept symlink", "chmod 700 kept", "touch kept", "mkfifo pipe", "truncate -s 0 kept", "cp kept copy",
)  # fmt: skip
TRY_ALL = "\n".join(f"({change}) 2>/dev/null && echo '{change}'" for change in CHANGES) + "\ntrue"

MORE = """
[profiles.local]
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE", "/tmp"]
execute = ["/usr", "/bin", "/lib", "/lib64", "$WORKSPACE"]
network = "loopback"
required = ["landlock", "seccomp", "namespaces"]
shell = "/bin/sh"
limits = { memory = "256M", cpu = "100%", processes = 64, files = 256, output = "1M", disk = "64M", timeout = "10s" }

[profiles.looking]
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE", "/tmp"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
autonomy = "readonly"
required = ["landlock", "seccomp", "namespaces"]
shell = "/bin/sh"
limits = { memory = "256M", cpu = "100%", processes = 64, files = 256, output = "1M", disk = "64M", timeout = "10s" }

[roles.watcher]
permissions = ["agent:read", "config:*"]

[roles.worker]
permissions = ["agent:*"]

[[callers]]                     # 2: may do all
user = "AGENT"
role = "worker"
workspaces = ["GROUND/*"]
profiles = ["shell", "local", "looking"]

[[callers]]                     # 3: only reads
user = "daemon"
role = "operator"
autonomy = "readonly"
workspaces = ["GROUND/*"]
profiles = ["shell"]
any_owner = true

[[callers]]                     # 4: may execute nothing, and never
user = "games"
role = "watcher"
workspaces = ["GROUND/*"]
profiles = ["shell"]
any_owner = true

[[callers]]                     # 5: may ask for a role that executes
user = "man"
role = "watcher"
may_request = ["worker"]
workspaces = ["GROUND/*"]
profiles = ["shell"]
any_owner = true
"""


def started(ground: Path, agent: Agent, change: Callable[[str], str] = lambda text: text) -> Launcher:
    made = Launcher(ground, agent, more=MORE.replace("GROUND", str(ground)).replace("AGENT", agent.name))
    policy = Path(made.layout.policy)
    policy.write_text(change(policy.read_text()))
    return made


@pytest.fixture(scope="module")
def launcher(ground: Path, agent: Agent) -> Iterator[Launcher]:
    with started(ground, agent) as made:
        made.reload()
        yield made
        assert made.security() == []


@pytest.fixture
def kept(workspace: Path, agent: Agent) -> Path:
    """A workspace with a file that everybody may change."""
    keep(workspace, agent)
    workspace.chmod(0o777)
    return workspace


def keep(workspace: Path, agent: Agent) -> None:
    (workspace / "kept").write_text("as it was\n")
    (workspace / "kept").chmod(0o666)
    os.chown(workspace / "kept", agent.uid, agent.gid)


def assert_reads_only(launcher: Launcher, answer: w.SessionOpened, workspace: Path) -> None:
    assert answer.receipt["readonly"] is True
    said = run(launcher, answer.session, workspace, "/bin/sh", "-c", TRY_ALL)
    assert (said.ended.cause, said.out) == ("exited", ""), said
    assert said.ended.receipt["readonly"] is True
    assert sorted(path.name for path in workspace.iterdir()) == ["kept"]
    assert (workspace / "kept").read_text() == "as it was\n"
    stays = "cat kept && echo x > /tmp/x && echo x > /home/agent/x && echo x > /dev/shm/x && echo all"
    if "/tmp" in launcher.snapshot.profiles[0].write:
        assert run(launcher, answer.session, workspace, "/bin/sh", "-c", stays).out == "as it was\nall\n"


def test_every_change_works_where_nothing_is_narrowed(launcher: Launcher, kept: Path) -> None:
    with opened(launcher, kept, launcher.snapshot.digest(), caller=2) as answer:
        assert answer.receipt["readonly"] is False
        for change in CHANGES:
            keep(kept, launcher.agent)
            said = run(launcher, answer.session, kept, "/bin/sh", "-c", change)
            assert said.ended.exit_code == 0, (change, said)


def test_a_session_that_is_asked_to_be_read_only_changes_nothing(launcher: Launcher, kept: Path) -> None:
    with opened(launcher, kept, launcher.snapshot.digest(), caller=2, readonly=True) as answer:
        assert_reads_only(launcher, answer, kept)


def test_a_caller_that_only_reads_gets_no_other_session(launcher: Launcher, kept: Path) -> None:
    uid = launcher.snapshot.callers[3].uid
    with opened(launcher, kept, launcher.snapshot.digest(), caller=3, uid=uid, gids=[], readonly=False) as answer:
        assert_reads_only(launcher, answer, kept)


def test_a_profile_that_only_reads_gives_no_other_session(launcher: Launcher, kept: Path) -> None:
    with opened(launcher, kept, launcher.snapshot.digest(), caller=2, profile="looking", readonly=False) as answer:
        assert_reads_only(launcher, answer, kept)


@pytest.mark.parametrize("table", ['[autonomy]\nlevel = "readonly"\n', "[tools]\nfile_write_enabled = false\n"])
def test_where_policy_writes_nothing_no_session_does(ground: Path, agent: Agent, kept: Path, table: str) -> None:
    name, _, rest = table.partition("\n")
    key = rest.split(" ")[0]

    def change(text: str) -> str:
        """The table with this key and no other value of it."""
        head, found, tail = text.partition(f"\n{name}\n")
        if not found:
            return f"{text}\n{table}"
        lines = [line for line in tail.split("\n[", 1)[0].splitlines() if not line.startswith(key)]
        after = tail.split("\n[", 1)
        return head + f"\n{table}" + "\n".join(lines) + ("\n[" + after[1] if len(after) > 1 else "")

    with (
        started(ground, agent, change) as launcher,
        opened(launcher, kept, launcher.reload(), caller=2, readonly=False) as answer,
    ):
        assert_reads_only(launcher, answer, kept)


def test_a_blank_of_the_one_kind_is_not_given_out_as_the_other(launcher: Launcher, kept: Path) -> None:
    """What is made ahead is made for a profile as narrowed: sessions of both kinds in turn stay what they are."""
    for number in range(8):
        with opened(launcher, kept, launcher.snapshot.digest(), caller=2, readonly=bool(number % 2)) as answer:
            said = run(launcher, answer.session, kept, "/bin/sh", "-c", "touch kept")
            assert (said.ended.exit_code == 0) == (number % 2 == 0)


def loopback(launcher: Launcher, session: str, workspace: Path) -> bool:
    script = "import socket as s; a = s.create_server(('127.0.0.1', 0)); s.create_connection(a.getsockname(), 2)"
    return run(launcher, session, workspace, "/usr/bin/python3", "-c", script).ended.exit_code == 0


@pytest.mark.parametrize(("network", "reached"), [("", True), ("loopback", True), ("none", False)])
def test_a_session_may_have_less_network_than_its_profile(
    launcher: Launcher, kept: Path, network: str, reached: bool
) -> None:
    changes = {"caller": 2, "profile": "local", "network": network}
    with opened(launcher, kept, launcher.snapshot.digest(), **changes) as answer:
        assert answer.receipt["network"] == (network or "loopback")
        assert loopback(launcher, answer.session, kept) == reached


def test_a_session_never_has_more_network_than_its_profile(launcher: Launcher, kept: Path) -> None:
    answer = launcher.answer(launcher.opening(kept, launcher.snapshot.digest(), caller=2, network="loopback"))
    assert isinstance(answer, w.Refused)
    assert (answer.code, answer.extra["field"]) == ("denied", "network")


FILL = "import os; open('/tmp/x', 'wb').write(bytes(2 << 20)); os.unlink('/tmp/x')"


def test_a_session_may_have_a_smaller_tmp_than_its_profile_and_no_other_gets_it(launcher: Launcher, kept: Path) -> None:
    """The one limit that belongs to the session and to none of its runs, so nobody else could keep it."""
    digest = launcher.snapshot.digest()
    for limits, filled in (({}, True), ({"tmp": 1 << 20}, False), ({"tmp": 4 << 20}, True), ({}, True)) * 2:
        with opened(launcher, kept, digest, caller=2, limits=limits) as answer:
            said = run(launcher, answer.session, kept, "/usr/bin/python3", "-c", FILL, limits=limits)
            assert (said.ended.exit_code == 0) == filled, (limits, said)
            assert filled or "No space left" in said.err


def test_a_role_without_the_permission_to_execute_opens_nothing(launcher: Launcher, kept: Path) -> None:
    digest = launcher.snapshot.digest()
    watcher, asker = (launcher.snapshot.callers[n].uid for n in (4, 5))
    answer = launcher.answer(launcher.opening(kept, digest, caller=4, uid=watcher, gids=[]))
    assert (type(answer), answer.code) == (w.Refused, "denied")
    with opened(launcher, kept, digest, caller=5, uid=asker, gids=[]) as granted:
        assert granted.session, "who may be given the permission for a time is main's to judge"


def test_no_run_starts_in_a_session_that_policy_would_not_open_any_more(
    ground: Path, agent: Agent, workspace: Path
) -> None:
    """Main refuses it first; one that was taken over would go on in what policy took back."""
    with started(ground, agent) as launcher:
        digest = launcher.reload()
        policy = Path(launcher.layout.policy)
        text = policy.read_text()
        with (
            opened(launcher, workspace, digest, caller=2, profile="local") as wide,
            opened(launcher, workspace, digest, caller=2, profile="looking") as reading,
            opened(launcher, workspace, digest, caller=2) as writing,
        ):
            refused = "denied", "the policy was reloaded and would not open this session as it is: open a new one"
            for changed, outcomes in (
                ("# one line more, so every source is another\n" + text, ("exited", "exited", "exited")),
                (text.replace('network = "loopback"', 'network = "none"'), ("denied", "exited", "exited")),
                (text + "\n[tools]\nfile_write_enabled = false\n", ("denied", "exited", "denied")),
                (text, ("exited", "exited", "exited")),
            ):
                policy.write_text(changed)
                launcher.reload()
                for session, cause in zip((wide, reading, writing), outcomes, strict=True):
                    ended = run(launcher, session.session, workspace, "/bin/true").ended
                    assert (ended.cause, ended.detail) == ((cause, "") if cause == "exited" else refused), changed
        assert launcher.security() == []
