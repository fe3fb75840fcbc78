"""The client of the launcher against the other end of a real socket, which speaks the real vocabulary."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from supervisor import errors
from supervisor.runtimes import native
from supervisor.runtimes.native import LauncherClient
from supervisor.wire import framing
from supervisor.wire import messages as w
from tests.unit.decide.samples import snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SESSION, RUN = "ses-aaaaaaaaaaaaaaaaaaaa", "run-aaaaaaaaaaaaaaaaaaaa"
OPEN = w.OpenSession(1, SESSION, "0" * 64, "shell", 0, 1000, [1000], "", "/srv/agents/a", {})
START = w.StartRun(SESSION, RUN, ["true"], {}, "/srv/agents/a", {})
ENDED = w.RunEnded(RUN, "exited", 0, None, {"wall_us": 1}, {"landlock": 7})


class Launcher:
    """The launcher's end. Nothing here waits: what was sent is there, or the test has failed."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)

    def receive(self) -> tuple[Any, list[int]]:
        received = framing.receive(self.sock, w.TO_LAUNCHER)
        assert received is not None
        return received

    def send(self, message: w.Message, fds: tuple[int, ...] = ()) -> None:
        framing.send(self.sock, message, fds)

    def idle(self) -> bool:
        try:
            self.receive()
        except BlockingIOError:
            return True
        return False


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[tuple[LauncherClient, Launcher]]:
    before = len(os.listdir("/proc/self/fd"))
    ours, theirs = framing.pair()
    client, launcher = LauncherClient(ours), Launcher(theirs)
    yield client, launcher
    client.close()
    theirs.close()
    assert len(os.listdir("/proc/self/fd")) == before


async def asked(work: Any, launcher: Launcher) -> tuple[asyncio.Task[Any], Any]:
    """Begin `work`; (its task, the message it sent)."""
    task = asyncio.ensure_future(work)
    await asyncio.sleep(0)
    return task, launcher.receive()[0]


def policy(size: int | None = None, **changes: Any) -> int:
    """The memfd of PolicyLoaded."""
    fd = os.memfd_create("policy", os.MFD_CLOEXEC)
    body = {"snapshot": asdict(snapshot()), "proofs": [], "host": {"landlock": {"present": True}}} | changes
    os.write(fd, json.dumps(body).encode())
    if size is not None:
        os.truncate(fd, size)
    return fd


async def reloaded(client: LauncherClient, launcher: Launcher, fd: int, digest: str | None = None) -> Any:
    task, message = await asked(client.reload(), launcher)
    launcher.send(w.PolicyLoaded(message.id, digest or snapshot().digest()), (fd,))
    os.close(fd)
    return await task


async def test_a_reload_brings_the_snapshot_that_the_digest_names(ends) -> None:
    proof = {"profile": "other", "probe": "fork", "key": "limits.processes", "ok": False, "detail": "it forked"}
    loaded = await reloaded(*ends, policy(proofs=[proof]))
    assert loaded.snapshot == snapshot()
    assert loaded.digest == snapshot().digest()
    assert loaded.host == {"landlock": {"present": True}}
    assert loaded.refusal("other") == proof
    assert loaded.refusal("shell") is None


@pytest.mark.parametrize(
    ("fd", "digest"),
    [
        (lambda: policy(), "f" * 64),
        (lambda: policy(native.MAX_POLICY + 1), None),
        (lambda: policy(10), None),
        (lambda: policy(snapshot={}), None),
        (lambda: policy(proofs=[{}]), None),
        (lambda: policy(proofs=7), None),
        (lambda: policy(host=[1]), None),
    ],
    ids=["other digest", "too large", "cut off", "no snapshot", "no proof", "no proofs", "no host"],
)
async def test_a_policy_that_is_none_ends_the_trust_in_the_launcher(ends, fd, digest) -> None:
    with pytest.raises(errors.LauncherUnavailable):
        await reloaded(*ends, fd(), digest)
    assert ends[0].lost is not None


async def test_a_session_opens_with_its_receipt(ends) -> None:
    client, launcher = ends
    task, message = await asked(client.open_session(OPEN), launcher)
    assert (message.session, message.gids, message.workspace) == (SESSION, [1000], "/srv/agents/a")
    launcher.send(w.SessionOpened(message.id, SESSION, {"landlock": 7}))
    assert await task == {"landlock": 7}


async def test_answers_find_their_requests_in_whatever_order_they_come(ends) -> None:
    client, launcher = ends
    first, one = await asked(client.open_session(OPEN), launcher)
    second, two = await asked(client.open_session(OPEN), launcher)
    launcher.send(w.SessionOpened(two.id, SESSION, {"n": 2}))
    launcher.send(w.SessionOpened(one.id, SESSION, {"n": 1}))
    assert (await first, await second) == ({"n": 1}, {"n": 2})


async def test_a_refusal_arrives_as_the_error_that_the_launcher_raised(ends) -> None:
    client, launcher = ends
    task, message = await asked(client.open_session(OPEN), launcher)
    extra = {"field": "workspace", "hint": "use realpath", "source": "policy.toml:3", "detail": "x", "self": 1, "n": 2}
    launcher.send(w.Refused(message.id, "workspace_refused", "a symbolic link", extra))
    with pytest.raises(errors.WorkspaceRefused, match="a symbolic link") as refusal:
        await task
    assert (refusal.value.field, refusal.value.hint, refusal.value.extra) == ("workspace", "use realpath", {"n": 2})
    task, message = await asked(client.open_session(OPEN), launcher)
    launcher.send(w.Refused(message.id, "no_such_code", "?", {}))
    with pytest.raises(errors.Internal):
        await task


async def test_a_run_gets_its_descriptors_and_its_end(ends) -> None:
    client, launcher = ends
    fds = os.pipe2(os.O_CLOEXEC)
    ended = client.start_run(START, fds)
    for fd in fds:
        os.close(fd)
    message, received = launcher.receive()
    assert message == START
    assert len(received) == 2
    os.write(received[1], b"through")
    assert os.read(received[0], 10) == b"through"
    for fd in received:
        os.close(fd)
    client.signal_run(RUN, 15, tree=True)
    assert launcher.receive()[0] == w.SignalRun(RUN, 15, True)
    client.end_run(RUN, "cancelled")
    assert launcher.receive()[0] == w.EndRun(RUN, "cancelled")
    launcher.send(ENDED)
    assert await ended == ENDED
    client.end_run(RUN, "cancelled")
    client.signal_run(RUN, 15, tree=False)
    assert launcher.idle(), "nothing is asked about a run that is over"


async def test_a_run_that_fits_no_message_is_too_large_and_nothing_is_sent(ends) -> None:
    client, launcher = ends
    huge = w.StartRun(SESSION, RUN, ["echo", "\x01" * 90_000], {}, "/", {})
    with pytest.raises(errors.TooLarge):
        client.start_run(huge, (0, 1))
    assert launcher.idle()
    assert client.lost is None


async def test_a_session_that_is_closed_or_dies_is_told(ends) -> None:
    client, launcher = ends
    told: list[tuple[str, str]] = []
    client.on_session_ended(lambda session, cause: told.append((session, cause)))
    first, message = await asked(client.close_session(SESSION), launcher)
    second = asyncio.ensure_future(client.close_session(SESSION))
    await asyncio.sleep(0)
    assert message == w.CloseSession(SESSION)
    assert launcher.idle(), "one request, however many wait"
    second.cancel()
    launcher.send(w.SessionEnded(SESSION, "closed"))
    await first
    launcher.send(w.SessionEnded("ses-bbbbbbbbbbbbbbbbbbbb", "lost"))
    task, message = await asked(client.resume(), launcher)
    launcher.send(w.Stopped(message.id, False, 0, 0))
    await task
    assert told == [(SESSION, "closed"), ("ses-bbbbbbbbbbbbbbbbbbbb", "lost")]


async def test_a_session_that_nobody_waits_for_any_more_is_closed_when_it_opens(ends) -> None:
    client, launcher = ends
    task, message = await asked(client.open_session(OPEN), launcher)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    launcher.send(w.SessionOpened(message.id, SESSION, {}))
    await _turns()
    assert launcher.receive()[0] == w.CloseSession(SESSION)
    assert client.lost is None


async def _turns() -> None:
    """Let the loop look at its descriptors."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_the_emergency_stop_says_how_much_it_killed(ends) -> None:
    client, launcher = ends
    task, message = await asked(client.stop(), launcher)
    launcher.send(w.Stopped(message.id, True, 3, 2))
    assert await task == (3, 2)


async def test_a_launcher_that_ends_fails_everything_that_waits_and_is_told_once(ends) -> None:
    client, launcher = ends
    lost: list[str | None] = []
    client.on_lost(lambda: lost.append(client.lost))
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ended = client.start_run(START, (reading, writing))
    opening = asyncio.ensure_future(client.open_session(OPEN))
    closing = asyncio.ensure_future(client.close_session(SESSION))
    await asyncio.sleep(0)
    launcher.sock.close()
    for waiting in (ended, opening, closing):
        with pytest.raises(errors.LauncherUnavailable):
            await waiting
    with pytest.raises(errors.LauncherUnavailable):
        client.start_run(START, (reading, writing))
    with pytest.raises(errors.LauncherUnavailable):
        await client.reload()
    client.end_run(RUN, "cancelled")
    await asyncio.sleep(0)
    assert len(lost) == 1
    client.on_lost(lambda: lost.append("late"))
    await asyncio.sleep(0)
    assert lost[1:] == ["late"]
    os.close(reading)
    os.close(writing)


async def test_what_the_launcher_said_before_it_ended_still_counts(ends) -> None:
    client, launcher = ends
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ended = client.start_run(START, (reading, writing))
    launcher.send(ENDED)
    launcher.sock.close()  # with StartRun unread: the kernel tells ECONNRESET first, unix(7)
    assert await ended == ENDED
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    "packet",
    [
        b"not JSON",
        b'["start_run",{}]',
        b'["go",{"run":"run-aaaaaaaaaaaa","fingerprint":""}]',
        w.encode(ENDED),
        w.encode(w.Stopped(7, True, 0, 0)),
        w.encode(w.SessionOpened(99, SESSION, {})),
        w.encode(w.RunEnded(RUN, "exited", 300, None, {}, {})),
        b"x" * (w.MAX_MESSAGE + 1),
    ],
    ids=["no JSON", "wrong direction", "other peer's", "unknown run", "unknown id", "id ahead", "bounds", "oversized"],
)
async def test_a_surprise_ends_the_trust_in_the_launcher(ends, packet: bytes) -> None:
    client, launcher = ends
    lost = asyncio.get_running_loop().create_future()
    client.on_lost(lambda: lost.set_result(client.lost))
    launcher.sock.send(packet)
    assert "not to be believed" in await lost


async def test_descriptors_that_nobody_asked_for_are_closed(ends) -> None:
    """The fixture counts the descriptors afterwards."""
    client, launcher = ends
    lost = asyncio.get_running_loop().create_future()
    client.on_lost(lambda: lost.set_result(None))
    socket.send_fds(launcher.sock, [w.encode(w.Stopped(1, True, 0, 0))], [0, 1, 2])
    await lost


async def test_requests_wait_for_a_launcher_that_reads_slowly_in_order_and_within_a_bound(ends, monkeypatch) -> None:
    client, launcher = ends
    monkeypatch.setattr(native, "BACKLOG", 5)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    wide = {"A": "x" * 60_000}
    started = []
    with pytest.raises(errors.LauncherUnavailable, match="does not keep up"):  # noqa: PT012 - how many fit is the kernel's
        for i in range(1000):
            run = f"run-{i:020}"
            client.start_run(w.StartRun(SESSION, run, ["true"], wide, "/", {}), (reading, writing))
            started.append(run)
    client.end_run(started[0], "stopped")  # what ends something is never turned away
    os.close(reading)
    os.close(writing)
    got: list[str] = []
    while len(got) < len(started):
        try:
            message, fds = launcher.receive()
        except BlockingIOError:
            await asyncio.sleep(0)
            continue
        got.append(message.run)
        for fd in fds:
            os.close(fd)
    assert got == started
    await _turns()
    assert launcher.receive()[0] == w.EndRun(started[0], "stopped")


async def test_a_launcher_that_does_not_answer_is_not_waited_for_forever(ends, monkeypatch) -> None:
    client, launcher = ends
    monkeypatch.setitem(native._PATIENCE, "open_session", 0.0)
    with pytest.raises(errors.LauncherUnavailable, match="did not answer"):
        await client.open_session(OPEN)
    message, _ = launcher.receive()
    launcher.send(w.SessionOpened(message.id, SESSION, {}))
    await _turns()
    assert launcher.receive()[0] == w.CloseSession(SESSION), "the late session is not left behind"


FILE = {"path": "x.sh", "sha256": "0" * 64, "size": 3, "head": "id\n"}


async def test_what_files_hold_comes_in_the_order_that_was_asked(ends) -> None:
    client, launcher = ends
    task, message = await asked(client.inspect(SESSION, ["x.sh", "a/b"]), launcher)
    assert (message.session, message.paths) == (SESSION, ["x.sh", "a/b"])
    launcher.send(w.Inspected(message.id, [FILE, {**FILE, "path": "a/b"}]))
    assert [f["path"] for f in await task] == ["x.sh", "a/b"]


async def test_an_answer_about_other_files_is_not_believed(ends) -> None:
    client, launcher = ends
    task, message = await asked(client.inspect(SESSION, ["x.sh"]), launcher)
    launcher.send(w.Inspected(message.id, [{**FILE, "path": "y.sh"}]))
    with pytest.raises(errors.Internal):
        await task


@pytest.mark.parametrize("paths", [[], ["/etc/passwd"], [".."], ["a/../b"], ["x"] * 9, ["a\0"]])
async def test_paths_that_no_message_can_name_are_refused_here(ends, paths) -> None:
    client, launcher = ends
    with pytest.raises(errors.InvalidRequest):
        await client.inspect(SESSION, paths)
    assert launcher.idle()
