"""The launcher against a main process that is taken over: a surprise ends it, and nothing that was asked widens.

What is no message of the protocol, not permitted now or not what was recorded is fatal: everything dies and the
auditor is told. What is well-formed but against policy is refused, and nothing runs.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.wire import framing
from supervisor.wire import messages as w
from tests.kernel.hostile import Launcher, cgroups_of, pipes, processes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.harness import Agent

pytestmark = pytest.mark.root

SES, RUN, DIGEST = "ses-000000000001", "run-000000000001", "0" * 64
OPEN = w.OpenSession(1, SES, DIGEST, "shell", 0, 1000, [1000], "", "/srv/a", {})
START = w.StartRun(SES, RUN, ["true"], {}, "/", {})
INSPECT = w.Inspect(1, SES, ["x.sh"])
ASKED: tuple[w.Message, ...] = (
    OPEN,
    INSPECT,
    START,
    w.EndRun(RUN, "cancelled"),
    w.SignalRun(RUN, 9, True),
    w.CloseSession(SES),
    w.Stop(1),
    w.Resume(1),
)
MORE = """
[profiles.other]                # nobody is granted this one
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE", "/tmp"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
network = "none"
required = ["landlock", "seccomp", "namespaces"]
shell = "/bin/sh"
limits = { memory = "256M", cpu = "100%", processes = 64, files = 256, output = "1M", disk = "64M", timeout = "10s" }

[profiles.broken]               # its proof fails: this shell does not exist
read = ["/usr", "/bin", "/lib", "/lib64"]
write = ["$WORKSPACE", "/tmp"]
execute = ["/usr", "/bin", "/lib", "/lib64"]
network = "none"
required = ["landlock", "seccomp", "namespaces"]
shell = "/bin/no-such-shell"
limits = { memory = "256M", cpu = "100%", processes = 64, files = 256, output = "1M", disk = "64M", timeout = "10s" }

[[callers]]                     # the third entry: may look, may not run
user = "daemon"
role = "viewer"
workspaces = ["GROUND/*"]
profiles = ["shell"]

[[callers]]                     # the fourth: is granted what did not pass its proof
user = "AGENT"
role = "operator"
workspaces = ["GROUND/*"]
profiles = ["shell", "broken"]
"""


def _more(ground: Path, agent: Agent) -> str:
    return MORE.replace("GROUND", str(ground)).replace("AGENT", agent.name)


def packet(message: w.Message, **changes: Any) -> bytes:
    """The packet of a message with fields changed, added (or left out, with `...`), past every check of ours."""
    body = {k: v for k, v in {**asdict(message), **changes}.items() if v is not ...}  # type: ignore[call-overload]
    return json.dumps([message.KIND, body]).encode()


def canary(workspace: Path) -> tuple[str, ...]:
    return ("/usr/bin/touch", str(workspace / "canary"))


def fatal(launcher: Launcher, workspace: Path | None = None) -> str:
    """Assert that the launcher ended over this, killed all of its own and said so; what the auditor was told."""
    launcher.ended()
    told = launcher.security()
    assert len(told) == 1, launcher.stderr.read_text()
    assert processes_of(launcher.uids) == {}
    assert cgroups_of(launcher.layout.instance) == []
    if workspace is not None:
        assert not (workspace / "canary").exists()
    return told[0]


@pytest.fixture(scope="module")
def serving(ground: Path, agent: Agent) -> Iterator[Launcher]:
    """One launcher that loaded its policy, for everything that must not end it."""
    with Launcher(ground, agent, more=_more(ground, agent)) as launcher:
        launcher.reload()
        yield launcher
        assert launcher.security() == []
        assert launcher.answer(w.Stop(launcher.number())).stopped, "it must have outlived every refusal"


@pytest.fixture(scope="module")
def refusing(ground: Path, agent: Agent) -> Iterator[Launcher]:
    """As `serving`, but no session is ever opened here: so nothing may exist, not even what is made ahead."""
    with Launcher(ground, agent, more=_more(ground, agent)) as launcher:
        launcher.reload()
        yield launcher
        assert launcher.security() == []
        assert launcher.answer(w.Stop(launcher.number())).sessions == 0


@pytest.fixture
def fresh(ground: Path, agent: Agent) -> Iterator[Launcher]:
    with Launcher(ground, agent) as launcher:
        yield launcher


@pytest.fixture
def busy(fresh: Launcher, workspace: Path) -> Iterator[tuple[Launcher, str, w.StartRun]]:
    """A launcher with a policy, a session and a run in it: (it, the session, the run)."""
    digest = fresh.reload()
    opening = fresh.opening(workspace, digest)
    assert isinstance(fresh.answer(opening), w.SessionOpened)
    message = fresh.starting(opening.session, workspace, "/bin/sh", "-c", "echo >&2; exec /bin/sleep 1000")
    (reading, out), (heard, err) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    try:
        fresh.start(message, (out, err))
        fresh.go(message)
        assert os.read(heard, 1) == b"\n", "it runs"
        yield fresh, opening.session, message
    finally:
        for fd in (reading, out, heard, err):
            os.close(fd)


# --- what is fatal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", ASKED, ids=lambda m: m.KIND)
def test_before_the_first_policy_nothing_but_reload_is_permitted(fresh: Launcher, message: w.Message) -> None:
    with pipes() as two:
        fresh.send(message, two if isinstance(message, w.StartRun) else ())
    assert f"{message.KIND} in state new" in fatal(fresh)


BAD_PACKETS: dict[str, bytes] = {
    "unknown kind": b'["exec", {"argv": ["/bin/sh"]}]',
    "a message of the other direction": packet(w.Stopped(1, True, 0, 0)),
    "a message of the auditor": packet(w.Go(RUN, DIGEST)),
    "no JSON": b"\xff\xfe{{{",
    "a bare number": b"7",
    "a list as kind": b"[[1], {}]",
    "a deep nest": b"[" * 50_000,
    "missing field": packet(OPEN, uid=...),
    "extra field": packet(OPEN, root=True),
    "extra field of the class": packet(OPEN, KIND="stop"),
    "no fields": b'["open_session", null]',
    "oversized": packet(OPEN, workspace="/" + "a" * w.MAX_MESSAGE),
    "uid as text": packet(OPEN, uid="0"),
    "uid as bool": packet(OPEN, uid=True),
    "uid as float": packet(OPEN, uid=1000.0),
    "uid not a number": packet(OPEN, uid=float("nan")),
    "negative uid": packet(OPEN, uid=-1),
    "the uid that is none": packet(OPEN, uid=2**32 - 1),
    "huge uid": packet(OPEN, uid=10**400),
    "negative gid": packet(OPEN, gids=[-1]),
    "negative caller": packet(OPEN, caller=-1),
    "huge caller": packet(OPEN, caller=4096),
    "id zero": packet(w.Reload(1), id=0),
    "huge id": packet(w.Reload(1), id=2**53 + 1),
    "session id with a path": packet(OPEN, session="ses-../../../etc"),
    "session id with a newline": packet(OPEN, session=SES + "\n"),
    "run id as session": packet(w.CloseSession(SES), session="all"),
    "relative workspace": packet(OPEN, workspace="srv/a"),
    "NUL in workspace": packet(OPEN, workspace="/srv/\0a"),
    "digest in capitals": packet(OPEN, digest="A" * 64),
    "profile with a slash": packet(OPEN, profile="../shell"),
    "negative limit": packet(OPEN, limits={"memory": -1}),
    "zero limit": packet(OPEN, limits={"timeout_ms": 0}),
    "unknown limit": packet(OPEN, limits={"uid": 0}),
    "signal zero": packet(w.SignalRun(RUN, 9, True), signal=0),
    "negative signal": packet(w.SignalRun(RUN, 9, True), signal=-9),
    "signal too high": packet(w.SignalRun(RUN, 9, True), signal=65),
    "tree as number": packet(w.SignalRun(RUN, 9, True), tree=1),
    "a cause that main does not give": packet(w.EndRun(RUN, "cancelled"), cause="exited"),
    "a cause that is none": packet(w.EndRun(RUN, "cancelled"), cause=None),
    "no argv": packet(START, argv=[]),
    "NUL in argv": packet(START, argv=["a\0b"]),
    "a number in argv": packet(START, argv=["sleep", 1]),
    "= in a name of env": packet(START, env={"A=B": ""}),
    "no descriptors": packet(START),
    "readonly as number": packet(OPEN, readonly=1),
    "readonly left out": packet(OPEN, readonly=...),
    "the network of the host": packet(OPEN, network="host"),
    "nothing to inspect": packet(INSPECT, paths=[]),
    "too much to inspect": packet(INSPECT, paths=["x"] * 9),
    "an absolute path to inspect": packet(INSPECT, paths=["/etc/shadow"]),
    "a path out of the workspace to inspect": packet(INSPECT, paths=["a/../../etc/shadow"]),
    "a path that is too long to inspect": packet(INSPECT, paths=["a/" * 2048 + "a"]),
    "a NUL in a path to inspect": packet(INSPECT, paths=["a\0b"]),
    "a path in place of paths": packet(INSPECT, paths="x"),
    "an absolute path to hold": packet(START, held={"/etc/shadow": DIGEST}),
    "a path out of the workspace to hold": packet(START, held={"..": DIGEST}),
    "too much to hold": packet(START, held={f"f{n}": DIGEST for n in range(9)}),
    "no digest to hold": packet(START, held={"x": "abc"}),
    "a list to hold": packet(START, held=["x"]),
}


@pytest.mark.parametrize("name", BAD_PACKETS)
def test_a_packet_that_is_no_message_ends_the_launcher(fresh: Launcher, name: str) -> None:
    fresh.raw(BAD_PACKETS[name])
    assert fatal(fresh).startswith("main: ")


@pytest.mark.parametrize("count", [1, 4, 5, 200])
def test_more_or_fewer_descriptors_than_the_message_has_end_the_launcher(fresh: Launcher, count: int) -> None:
    with pipes() as two:
        fresh.raw(packet(START), (two[0],) * count)
        assert fatal(fresh).startswith("main: ")


def test_a_descriptor_beside_a_message_without_any_ends_the_launcher(fresh: Launcher) -> None:
    with pipes() as two:
        fresh.send(w.Reload(1), two)
        assert "2 descriptors" in fatal(fresh)


def _unknown(launcher: Launcher, _: str, __: w.StartRun, ___: Path) -> None:
    launcher.raw(b'["exec", {}]')


def _session_twice(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    launcher.send(launcher.opening(workspace, DIGEST, session=session))


def _run_twice(launcher: Launcher, session: str, run: w.StartRun, workspace: Path) -> None:
    again = launcher.starting(session, workspace, *canary(workspace), run=run.run)
    launcher.start(again)


def _pending_twice(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    message = launcher.starting(session, workspace, *canary(workspace))
    launcher.start(message)
    launcher.start(message)


def _other_argv(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    recorded = launcher.starting(session, workspace, "/bin/true")
    launcher.go(recorded)
    launcher.start(launcher.starting(session, workspace, *canary(workspace), run=recorded.run))


def _other_argv_first(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    recorded = launcher.starting(session, workspace, "/bin/true")
    launcher.start(launcher.starting(session, workspace, *canary(workspace), run=recorded.run))
    launcher.go(recorded)


def _other_env(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    message = launcher.starting(session, workspace, *canary(workspace))
    launcher.start(message)
    launcher.go(launcher.starting(session, workspace, *message.argv, run=message.run, env={"PATH": "/"}))


def _other_limits(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    message = launcher.starting(session, workspace, *canary(workspace))
    launcher.start(message)
    launcher.go(launcher.starting(session, workspace, *message.argv, run=message.run, limits={"memory": 1 << 20}))


def _other_held(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    message = launcher.starting(session, workspace, *canary(workspace))
    launcher.start(message)
    launcher.go(launcher.starting(session, workspace, *message.argv, run=message.run, held={"x.sh": DIGEST}))


def _other_session(launcher: Launcher, session: str, _: w.StartRun, workspace: Path) -> None:
    message = launcher.starting(session, workspace, *canary(workspace))
    launcher.start(message)
    launcher.go(launcher.starting("ses-999999999999", workspace, *message.argv, run=message.run))


def _not_given_cause(launcher: Launcher, _: str, run: w.StartRun, __: Path) -> None:
    launcher.raw(packet(w.EndRun(run.run, "cancelled"), cause="exited"))


def _auditor_babbles(launcher: Launcher, _: str, __: w.StartRun, ___: Path) -> None:
    socket.send_fds(launcher.auditor, [b"go"], [])


def _auditor_speaks_as_main(launcher: Launcher, _: str, __: w.StartRun, ___: Path) -> None:
    socket.send_fds(launcher.auditor, [packet(w.Stop(1))], [])


def _auditor_acks_what_nobody_sent(launcher: Launcher, _: str, __: w.StartRun, ___: Path) -> None:
    framing.send(launcher.auditor, w.Ack(2**53, 1))


@pytest.mark.parametrize(
    "break_it",
    [
        _auditor_acks_what_nobody_sent,
        _unknown,
        _session_twice,
        _run_twice,
        _pending_twice,
        _other_argv,
        _other_argv_first,
        _other_env,
        _other_limits,
        _other_held,
        _other_session,
        _not_given_cause,
        _auditor_babbles,
        _auditor_speaks_as_main,
    ],
)
def test_a_surprise_kills_what_runs_and_is_recorded(
    busy: tuple[Launcher, str, w.StartRun], workspace: Path, break_it: Callable[..., None]
) -> None:
    launcher, session, run = busy
    assert processes_of(launcher.uids)
    break_it(launcher, session, run, workspace)
    assert fatal(launcher, workspace).startswith(("main: ", "auditor: "))


@pytest.mark.parametrize("end", ["main", "auditor"])
def test_when_main_or_the_auditor_ends_everything_dies(busy: tuple[Launcher, str, w.StartRun], end: str) -> None:
    launcher, _, _ = busy
    (launcher.main if end == "main" else launcher.auditor).shutdown(socket.SHUT_RDWR)
    assert launcher.ended() == 0
    assert processes_of(launcher.uids) == {}
    assert cgroups_of(launcher.layout.instance) == []


# --- what is refused --------------------------------------------------------------------------------------------


def refused(launcher: Launcher, message: w.OpenSession) -> w.Refused:
    """The refusal; nothing exists that was not there before."""
    before = cgroups_of(launcher.layout.instance)
    answer = launcher.answer(message)
    assert isinstance(answer, w.Refused), f"{message.workspace} was opened"
    assert cgroups_of(launcher.layout.instance) == before
    assert processes_of(launcher.uids) == {}
    return answer


@pytest.fixture
def digest(refusing: Launcher) -> str:
    """Of the policy that `refusing` serves; its file is another one than that of `serving`."""
    return refusing.snapshot.digest()


def test_the_digest_of_another_policy_opens_nothing(refusing: Launcher, workspace: Path) -> None:
    assert refused(refusing, refusing.opening(workspace, "f" * 64)).code == "conflict"


def test_a_caller_entry_that_is_another_ones_opens_nothing(
    refusing: Launcher, digest: str, workspace: Path, stranger: Agent
) -> None:
    mine = refusing.agent
    for changes in (
        {"caller": 1},  # root's
        {"caller": 4},  # one that is not there
        {"caller": 4095},
        {"uid": stranger.uid, "gids": list(stranger.groups)},
        {"uid": mine.uid, "gids": []},
        {"uid": 0, "gids": [0]},
        {"caller": 2, "uid": mine.uid},
        {"caller": 1, "uid": mine.uid, "unit": "stockade.service"},
    ):
        assert refused(refusing, refusing.opening(workspace, digest, **changes)).code == "denied", changes


def test_who_may_only_look_opens_nothing(refusing: Launcher, digest: str, workspace: Path) -> None:
    viewer = refusing.snapshot.callers[2]
    assert viewer.role == "viewer"
    asked = refusing.opening(workspace, digest, caller=2, uid=viewer.uid, gids=[])
    assert refused(refusing, asked).code == "denied"


@pytest.mark.parametrize("profile", ["other", "broken", "no-such", "SHELL"])
def test_a_profile_that_is_not_granted_not_proved_or_not_there_opens_nothing(
    refusing: Launcher, digest: str, workspace: Path, profile: str
) -> None:
    assert refused(refusing, refusing.opening(workspace, digest, profile=profile, caller=3)).code == "denied"


def test_limits_wider_than_the_profile_open_nothing(refusing: Launcher, digest: str, workspace: Path) -> None:
    for limits in ({"memory": 1 << 40}, {"timeout_ms": 2**53}, {"processes": 100_000}):
        refused(refusing, refusing.opening(workspace, digest, limits=limits))


@pytest.fixture
def places(workspace: Path, stranger: Agent, refusing: Launcher) -> dict[str, str]:
    """Every kind of workspace that must not be bound, beside one that may be."""
    mine = refusing.agent
    base = workspace.parent
    made = {name: str(base / f"{workspace.name}-{name}") for name in ("theirs", "roots", "link", "file", "gone")}
    for name in ("theirs", "roots"):
        os.mkdir(made[name])
        (base / made[name] / "secret").write_text("x")
    os.chown(made["theirs"], stranger.uid, stranger.gid)
    os.symlink(workspace, made["link"])
    with open(made["file"], "w") as f:
        os.fchown(f.fileno(), mine.uid, mine.gid)
    os.mkdir(workspace / "inner")
    os.mkdir(workspace / ".ssh")
    for inner in ("inner", ".ssh"):
        os.chown(workspace / inner, mine.uid, mine.gid)
    return {
        **made,
        "etc": "/etc",
        "root": "/",
        "proc": "/proc/self/cwd",
        "through a link": f"{made['link']}/inner",
        "dots": f"{workspace}/../{workspace.name}",
        "dots to etc": f"{base}/../../../etc",
        "double slash": f"/{workspace}",
        "trailing slash": f"{workspace}/",
        "below the granted level": str(workspace / "inner"),
        "secrets": str(workspace / ".ssh"),
        "own state": refusing.layout.state,
        "own log": refusing.layout.log,
        "too long": "/" + "a/" * 2000,
    }


def test_a_workspace_that_is_foreign_or_named_by_a_detour_is_not_bound(
    refusing: Launcher, digest: str, places: dict[str, str]
) -> None:
    for name, path in places.items():
        assert refused(refusing, refusing.opening(path, digest)).code == "workspace_refused", name


def test_uid_0_gets_no_workspace_of_root_and_none_of_others_through_the_clients_entry(
    refusing: Launcher, digest: str, places: dict[str, str], workspace: Path
) -> None:
    clients = sorted(refusing.agent.groups)
    for caller, path in ((0, places["roots"]), (1, places["roots"]), (0, str(workspace)), (1, "/etc"), (1, "/root")):
        asked = refusing.opening(path, digest, caller=caller, uid=0, gids=clients)
        assert refused(refusing, asked).code == "workspace_refused", path


# --- runs that must not run -------------------------------------------------------------------------------------


@pytest.fixture
def serving_digest(serving: Launcher) -> str:
    return serving.snapshot.digest()


@pytest.fixture
def session(serving: Launcher, serving_digest: str, workspace: Path) -> Iterator[str]:
    opened = serving.answer(serving.opening(workspace, serving_digest))
    assert isinstance(opened, w.SessionOpened)
    yield opened.session
    serving.send(w.CloseSession(opened.session))
    serving.wait(lambda m: isinstance(m, w.SessionEnded) and m.session == opened.session)


def nothing_ran(launcher: Launcher, workspace: Path) -> None:
    """The canary was not touched, and under a session's uid there is only what waits, never a program."""
    assert not (workspace / "canary").exists()
    assert not [c for c in processes_of(launcher.uids).values() if "touch" in c]


FOREIGN: dict[str, Callable[[], int]] = {
    "directory": lambda: os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC),
    "path": lambda: os.open("/etc", os.O_PATH | os.O_CLOEXEC),
    "shadow": lambda: os.open("/etc/shadow", os.O_RDONLY | os.O_CLOEXEC),
    "device": lambda: os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),
    "socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).detach(),
    "network": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
    "memfd": lambda: os.memfd_create("x", os.MFD_CLOEXEC),
    "pidfd": lambda: os.pidfd_open(os.getpid()),
    "namespace": lambda: os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_descriptor_that_is_no_pipe_reaches_no_child(
    serving: Launcher, session: str, workspace: Path, kind: str, place: int
) -> None:
    fd = FOREIGN[kind]()
    message = serving.starting(session, workspace, *canary(workspace))
    try:
        with pipes() as two:
            fds = [two[0], two[0], two[1]]
            fds[place] = fd
            serving.start(message, tuple(fds))
    finally:
        os.close(fd)
    serving.go(message)
    assert serving.ends(message).cause == "denied"
    nothing_ran(serving, workspace)
    assert serving.outcomes(message.run) == ["denied"], "what was decided has its end in the log"


def test_without_the_auditors_word_nothing_runs(serving: Launcher, session: str, workspace: Path) -> None:
    """Main records nothing, and asks for the run all the same; its cancellation shows that it was understood."""
    message = serving.starting(session, workspace, *canary(workspace))
    serving.start(message)
    honest = serving.starting(session, workspace, "/bin/true")
    serving.start(honest)
    serving.go(honest)
    assert serving.ends(honest).cause == "exited", "everything before it was handled"
    nothing_ran(serving, workspace)
    framing.send(serving.auditor, w.Nogo(message.run, "not recorded"))
    assert serving.ends(message).cause == "denied"
    nothing_ran(serving, workspace)


def test_a_run_that_was_ended_before_its_word_came_does_not_run(
    serving: Launcher, session: str, workspace: Path
) -> None:
    message = serving.starting(session, workspace, *canary(workspace))
    serving.start(message)
    serving.send(w.EndRun(message.run, "cancelled"))
    probe = serving.starting(session, workspace, "/bin/true")
    serving.start(probe)
    serving.go(probe)
    serving.ends(probe)
    serving.go(message)
    assert serving.ends(message).cause == "cancelled"
    nothing_ran(serving, workspace)


@pytest.mark.parametrize("limit", w.LIMITS)
def test_limits_wider_than_the_profile_start_nothing(
    serving: Launcher, session: str, workspace: Path, limit: str
) -> None:
    held = getattr(serving.snapshot.profiles[0].limits, limit)
    if not held:
        pytest.skip("the profile has no bound here")
    message = serving.starting(session, workspace, *canary(workspace), limits={limit: held + 1})
    serving.start(message)
    serving.go(message)
    assert serving.ends(message).cause in ("denied", "not_started")
    nothing_ran(serving, workspace)


def test_a_session_that_is_not_there_runs_nothing(serving: Launcher, workspace: Path) -> None:
    message = serving.starting("ses-nosuchsession", workspace, *canary(workspace))
    serving.start(message)
    serving.go(message)
    assert serving.ends(message).cause == "lost"
    nothing_ran(serving, workspace)


def test_a_run_asked_for_before_its_session_is_open_runs_confined_or_not_at_all(
    serving: Launcher, serving_digest: str, workspace: Path
) -> None:
    """The child is then made while the leader still builds the tree; it must not come to exec without its ruleset."""
    secret = serving.root / "secret"
    secret.write_text("host")
    secret.chmod(0o644)
    for _ in range(8):
        opening = serving.opening(workspace, serving_digest)
        script = f"cat {secret} > {workspace}/stolen"
        message = serving.starting(opening.session, workspace, "/bin/sh", "-c", script)
        serving.send(opening)
        serving.start(message)
        serving.go(message)
        serving.ends(message)
        assert not (workspace / "stolen").exists() or (workspace / "stolen").read_bytes() == b""
        serving.send(w.CloseSession(opening.session))
        serving.wait(lambda m, s=opening.session: isinstance(m, w.SessionEnded) and m.session == s)


def test_what_runs_never_has_uid_0_nor_the_callers(serving: Launcher, session: str, workspace: Path) -> None:
    message = serving.starting(session, workspace, "/usr/bin/env", "PATH=/usr/bin", "sh", "-c", "id -u > uid")
    serving.start(message)
    serving.go(message)
    ended = serving.ends(message)
    assert (ended.cause, ended.exit_code) == ("exited", 0)
    uid = int((workspace / "uid").read_text())
    assert serving.uids[0] <= uid < sum(serving.uids)
    assert (workspace / "uid").stat().st_uid == serving.agent.uid
    assert ended.receipt["uid"] == uid


def test_a_new_range_of_uids_gives_no_session_the_uid_of_one_that_lives(fresh: Launcher, workspace: Path) -> None:
    first = fresh.answer(fresh.opening(workspace, fresh.reload()))
    policy, (base, many) = Path(fresh.layout.policy), fresh.uids
    policy.write_text(policy.read_text().replace(f"[{base}, {many}]", f"[{base}, {many - 1}]"))
    second = fresh.answer(fresh.opening(workspace, fresh.reload()))
    assert isinstance(second, w.SessionOpened), second
    assert base <= first.receipt["uid"] != second.receipt["uid"] >= base


def test_orders_for_what_is_not_there_change_nothing(serving: Launcher, session: str, workspace: Path) -> None:
    gone = "run-nosuchrun0000"
    serving.send(w.EndRun(gone, "cancelled"))
    serving.send(w.SignalRun(gone, 9, True))
    serving.send(w.CloseSession("ses-nosuchsession"))
    framing.send(serving.auditor, w.Nogo(gone, "?"))
    message = serving.starting(session, workspace, "/bin/true")
    serving.start(message)
    serving.go(message)
    assert serving.ends(message).cause == "exited"


def test_while_stopped_nothing_is_opened_or_started(fresh: Launcher, workspace: Path) -> None:
    digest = fresh.reload()
    opening = fresh.opening(workspace, digest)
    fresh.answer(opening)
    stop = w.Stop(fresh.number())
    assert fresh.answer(stop) == w.Stopped(stop.id, True, 0, 1)
    assert processes_of(fresh.uids) == {}
    assert fresh.answer(fresh.opening(workspace, digest)).code == "stopped"
    message = fresh.starting(opening.session, workspace, *canary(workspace))
    fresh.start(message)
    fresh.go(message)
    assert fresh.ends(message).cause == "stopped"
    assert fresh.outcomes(message.run) == ["stopped"]
    assert fresh.reload() == digest, "a reload does not undo a stop"
    assert fresh.answer(fresh.opening(workspace, digest)).code == "stopped"
    assert fresh.answer(w.Resume(fresh.number())).stopped is False
    assert isinstance(fresh.answer(fresh.opening(workspace, digest)), w.SessionOpened)
    nothing_ran(fresh, workspace)


# --- at random --------------------------------------------------------------------------------------------------


def _words(dice: random.Random, launcher: Launcher, workspace: Path, digest: str) -> tuple[w.Message, int]:
    """A well-formed message with values from the edges, and how many descriptors go with it."""
    sessions = [f"ses-fuzz{n:08d}" for n in range(4)]
    runs = [f"run-fuzz{n:08d}" for n in range(40)]
    number = dice.choice([1, 7, 2**53])
    paths = [str(workspace), "/", "/etc", str(workspace) + "/..", "/proc/1/root", launcher.layout.state]
    limits = [{}, {"memory": 1}, {"memory": 2**53}, {"cpu": 1, "files": 3}]
    kinds: list[tuple[w.Message, int]] = [
        (
            w.OpenSession(
                number,
                dice.choice(sessions),
                dice.choice([digest, DIGEST]),
                dice.choice(["shell", "other", "x"]),
                dice.choice([0, 0, 1, 4095]),
                dice.choice([launcher.agent.uid, 0, 65534, 2**32 - 2]),
                dice.choice([sorted(launcher.agent.groups), [], [0], list(range(2000))]),
                dice.choice(["", "ssh.service", "x" * 255]),
                dice.choice(paths),
                dice.choice(limits),
                dice.random() < 0.5,
                dice.choice(["", "none", "loopback"]),
            ),
            0,
        ),
        (w.Inspect(number, dice.choice(sessions), dice.choice([["x"], ["a/b", "\udcff"], ["x" * 4095] * 8])), 0),
        (
            w.StartRun(
                dice.choice(sessions),
                dice.choice(runs),
                dice.choice([list(canary(workspace)), ["stockade:probe", "{}"], ["x"] * 4096]),
                dice.choice([{}, {"LD_PRELOAD": "/x"}, {f"V{n}": "" for n in range(500)}]),
                dice.choice(paths),
                dice.choice(limits),
                dice.choice([{}, {"x": DIGEST}, {f"f{n}": DIGEST for n in range(8)}]),
            ),
            dice.choice([2, 3]),
        ),
        (w.EndRun(dice.choice(runs), dice.choice(w.ASKED_CAUSES)), 0),
        (w.SignalRun(dice.choice(runs), dice.randint(1, 64), dice.random() < 0.5), 0),
        (w.CloseSession(dice.choice(sessions)), 0),
        (w.Stop(number), 0),
        (w.Resume(number), 0),
    ]
    return dice.choice(kinds)


def _mutant(dice: random.Random, data: bytes) -> bytes:
    """A packet with bytes changed, cut or repeated."""
    raw = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(raw))
        change = dice.randrange(4)
        if change == 0:
            raw[at] = dice.randrange(256)
        elif change == 1:
            del raw[at : at + dice.randint(1, 20)]
        elif change == 2:
            raw[at:at] = dice.choice([b"-", b"9" * 40, b"null", b"\\u0000", b"[]", b'"', b"{}", b"1e999"])
        else:
            raw[at:at] = raw[at : at + 30]
        if not raw:
            raw = bytearray(b"?")
    return bytes(raw)


def test_300_packets_at_random_widen_nothing(ground: Path, agent: Agent, workspace: Path) -> None:
    """Valid words in any order, one in twelve of them mutated. The auditor never says Go, so nothing may ever run."""
    dice = random.Random(20260)  # noqa: S311 - a test that can be repeated
    left, lives = 300, 0
    while left > 0:
        lives += 1
        with Launcher(ground, agent) as launcher, pipes() as two:
            digest = launcher.reload()
            while left > 0 and launcher.pid > 0:
                left -= 1
                message, count = _words(dice, launcher, workspace, digest)
                data = w.encode(message)
                data = _mutant(dice, data) if dice.random() < 1 / 12 else data
                try:
                    launcher.raw(data, (two[0], two[0], two[1])[:count])
                except (BrokenPipeError, ConnectionResetError):
                    launcher.ended()
            if launcher.pid > 0:
                launcher.main.shutdown(socket.SHUT_WR)
                launcher.ended()
            assert all(r["event_type"] in ("security", "outcome") for r in launcher.records)
            assert len(launcher.security()) <= 1
            assert processes_of(launcher.uids) == {}
            assert not (workspace / "canary").exists()
    assert lives > 1, "some of it must have been a surprise"


# --- the bounds of the service ----------------------------------------------------------------------------------


@pytest.fixture
def small(ground: Path, agent: Agent) -> Iterator[Launcher]:
    """A launcher whose policy grants one session and two runs at once."""
    made = Launcher(ground, agent)
    path = made.root / "etc" / "policy.toml"
    text = path.read_text()
    for key, value in (("sessions", 1), ("runs", 2)):
        text, found = re.subn(rf"^{key} = \d+", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert found == 1, key
    path.write_text(text)
    with made:
        yield made


def test_more_sessions_than_the_service_has_are_refused_by_the_launcher_itself(
    small: Launcher, workspace: Path
) -> None:
    digest = small.reload()
    assert isinstance(small.answer(small.opening(workspace, digest)), w.SessionOpened)
    second = small.answer(small.opening(workspace, digest))
    assert isinstance(second, w.Refused)
    assert second.code == "limit_reached"


def test_more_runs_at_once_than_the_service_has_do_not_start(small: Launcher, workspace: Path) -> None:
    opened = small.answer(small.opening(workspace, small.reload()))
    for _ in range(2):
        message = small.starting(opened.session, workspace, "sleep", "60")
        small.start(message)
        small.go(message)
    third = small.starting(opened.session, workspace, *canary(workspace))
    small.start(third)
    small.go(third)
    assert small.ends(third).cause == "denied"
    assert not (workspace / "canary").exists()


def test_what_belongs_to_the_service_is_no_workspace_whoever_owns_it(ground: Path, agent: Agent) -> None:
    """A pattern of policy may cover the service's own places by accident; the log and the state stay out of reach."""
    with Launcher(ground, agent) as launcher:
        digest = launcher.reload()
        os.chown(launcher.root, agent.uid, agent.gid)
        answer = launcher.answer(launcher.opening(launcher.root, digest))
        assert isinstance(answer, w.Refused)
        assert answer.code == "workspace_refused"
        assert "this service" in answer.detail
