"""A launcher of its own whose main process and auditor are the test: it can send whatever a taken-over main could.

Everything that the launcher says is kept; nothing sleeps, every wait is for a packet or for the launcher's end.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisor import daemon
from supervisor.launcher import main as launcher_main
from supervisor.layout import Layout, layout
from supervisor.policy.load import load
from supervisor.wire import framing
from supervisor.wire import messages as w
from tests.harness import REPOSITORY, Agent

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.policy.snapshot import Snapshot

PATIENCE = 60.0  # seconds; only a launcher that hangs is waited for so long
UIDS = 512
_ranges = itertools.count()


def uid_range() -> tuple[int, int]:
    """Uids of one launcher of this test process alone, so that whoever is found under them is its."""
    return 1_500_000_000 + (os.getpid() % 2048) * 256 * UIDS + (next(_ranges) % 256) * UIDS, UIDS


def policy(ground: Path, uids: tuple[int, int], *, more: str = "") -> str:
    """The default policy with uids of its own, callers of two kinds, and a profile that nobody is granted."""
    text = (REPOSITORY / "policies" / "default.toml").read_text()
    text = text.replace("[1900000000, 65536]", f"[{uids[0]}, {uids[1]}]").replace("sessions = 256", "sessions = 64")
    text = text.replace(
        'workspaces = ["/home/*/**", "/srv/**", "/tmp/**", "/var/tmp/**"]', f'workspaces = ["{ground}/*"]'
    )
    return text + more


def processes_of(uids: tuple[int, int]) -> dict[int, str]:
    """pid -> what it runs, of every process of the host with a real or effective uid in the range."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            status = Path(f"/proc/{entry}/status").read_text()
            named = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        ids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
        zombie = "\nState:\tZ" in status
        if not zombie and any(uids[0] <= int(i) < uids[0] + uids[1] for i in ids):
            found[int(entry)] = named
    return found


def cgroups_of(instance: str) -> list[str]:
    """Every directory that any hierarchy has for an instance."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if line.partition(" - ")[2].startswith(("cgroup ", "cgroup2 ")):
            for directory, _, _ in os.walk(fields[4]):
                if instance in directory.split("/"):
                    found.append(directory)
    return found


def own_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Launcher:
    """A real launcher, forked here; use as a context manager."""

    def __init__(self, ground: Path, agent: Agent, *, more: str = "") -> None:
        self.agent = agent
        self.root = Path(tempfile.mkdtemp(prefix="hostile-", dir=ground))
        self.root.chmod(0o755)
        self.layout: Layout = layout(str(self.root))
        for path in (self.layout.etc, self.layout.run, self.layout.state, self.layout.log):
            os.mkdir(path, 0o755)
        self.uids = uid_range()
        Path(self.layout.policy).write_text(policy(ground, self.uids, more=more))
        self.stderr = self.root / "stderr.log"
        self.told: list[tuple[Any, list[int]]] = []  # to main
        self.records: list[dict[str, Any]] = []  # to the auditor
        self.durable = True  # whether records are acknowledged
        self.pid = -1
        self._numbers = iter(range(1, 1 << 30))

    def __enter__(self) -> Launcher:
        self.main, main = framing.pair()
        self.auditor, auditor = framing.pair()
        log = os.open(self.stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

        def life() -> int:
            os.dup2(log, 2)
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - for the life of this process
            return launcher_main.run(main, auditor, self.layout)

        self.pid = daemon.fork(life, (main.fileno(), auditor.fileno(), log))
        self.pidfd = os.pidfd_open(self.pid)
        for sock in (self.main, self.auditor):
            sock.setblocking(False)
        for sock in (main, auditor):
            sock.close()
        os.close(log)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.main.close()
            self.auditor.close()
            if self.pid > 0 and not self._gone(PATIENCE):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError("the launcher did not end with its sockets")
        finally:
            os.close(self.pidfd)
            for _, fds in self.told:
                for fd in fds:
                    os.close(fd)
            shutil.rmtree(self.root)
        assert processes_of(self.uids) == {}
        assert cgroups_of(self.layout.instance) == []

    # --- what is sent ---------------------------------------------------------------------------------------------

    def number(self) -> int:
        return next(self._numbers)

    def send(self, message: w.Message, fds: tuple[int, ...] = ()) -> None:
        self.main.setblocking(True)
        framing.send(self.main, message, fds)
        self.main.setblocking(False)

    def raw(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        """A packet as it is, past every check of ours."""
        self.main.setblocking(True)
        socket.send_fds(self.main, [data], list(fds))
        self.main.setblocking(False)

    def go(self, message: w.StartRun, fingerprint: str | None = None) -> None:
        framing.send(self.auditor, w.Go(message.run, fingerprint or w.fingerprint(message)))

    # --- what is heard --------------------------------------------------------------------------------------------

    def _gone(self, timeout: float) -> bool:
        if not select.select([self.pidfd], [], [], timeout)[0]:
            return False
        _, status = os.waitpid(self.pid, 0)
        self.status, self.pid = os.waitstatus_to_exitcode(status), -1
        return True

    def _listen(self, deadline: float) -> bool:
        """Take what is there, or wait for something; False at the launcher's end."""
        ready, _, _ = select.select([self.main, self.auditor, self.pidfd], [], [], deadline - time.monotonic())
        assert ready, f"the launcher says nothing: {self.stderr.read_text()[-2000:]}"
        if self.auditor in ready:
            got = self._take(self.auditor, w.TO_AUDITOR)
            if got is not None:
                record = got[0]
                self.records.append(record.event)
                if record.id and self.durable:
                    framing.send(self.auditor, w.Ack(record.id, len(self.records)))
                return True
        if self.main in ready:
            got = self._take(self.main, w.FROM_LAUNCHER)
            if got is not None:
                self.told.append(got)
                return True
        return not self._gone(0) if self.pidfd in ready else not self._gone(PATIENCE)

    @staticmethod
    def _take(sock: socket.socket, vocabulary: w.Vocabulary) -> Any:
        try:
            return framing.receive(sock, vocabulary)
        except (BlockingIOError, ConnectionError):
            return None

    def wait(self, what: Callable[[Any], bool]) -> Any:
        """The first message to main, of those not asked about before, that is `what`."""
        deadline = time.monotonic() + PATIENCE
        seen = 0
        while True:
            for message, _ in self.told[seen:]:
                if what(message):
                    return message
            seen = len(self.told)
            if not self._listen(deadline):
                assert any(what(m) for m, _ in self.told[seen:]), f"it ended: {self.stderr.read_text()[-2000:]}"

    def answer(self, message: Any) -> Any:
        """Send a request and wait for what answers its id."""
        self.send(message)
        return self.wait(lambda m: getattr(m, "id", None) == message.id)

    def ended(self) -> int:
        """Wait for the launcher's own end; its exit status. Everything that it said before is kept."""
        deadline = time.monotonic() + PATIENCE
        while self.pid > 0 and self._listen(deadline):
            pass
        while (got := self._take(self.auditor, w.TO_AUDITOR)) is not None:
            self.records.append(got[0].event)
        return self.status

    def security(self) -> list[str]:
        """The reasons of the security records."""
        return [r["reason"] for r in self.records if r["event_type"] == "security"]

    # --- an honest main -------------------------------------------------------------------------------------------

    def reload(self) -> str:
        """Load the policy; the digest in force."""
        loaded = self.answer(w.Reload(self.number()))
        assert isinstance(loaded, w.PolicyLoaded), f"{loaded}\n{self.stderr.read_text()[-2000:]}"
        return loaded.digest

    def proofs(self, profile: str) -> dict[str, tuple[bool, str]]:
        """probe -> (whether it holds, what was seen), of the policy that was loaded last."""
        fd = next(fds[0] for message, fds in reversed(self.told) if isinstance(message, w.PolicyLoaded))
        rows = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))["proofs"]
        return {row["probe"]: (row["ok"], row["detail"]) for row in rows if row["profile"] == profile}

    @property
    def snapshot(self) -> Snapshot:
        return load(self.layout)

    def opening(self, workspace: Path | str, digest: str, **changes: Any) -> w.OpenSession:
        """What an honest main would send for the agent."""
        number = self.number()
        message = w.OpenSession(
            number,
            f"ses-{number:012d}",
            digest,
            "shell",
            0,
            self.agent.uid,
            sorted(self.agent.groups),
            "",
            str(workspace),
            {},
        )
        return replace(message, **changes)

    def starting(self, session: str, workspace: Path | str, *argv: str, **changes: Any) -> w.StartRun:
        env = {"PATH": "/usr/bin:/bin"}
        message = w.StartRun(session, f"run-{self.number():012d}", list(argv), env, str(workspace), {})
        return replace(message, **changes)

    def start(self, message: w.StartRun, fds: tuple[int, ...] | None = None) -> None:
        """Send a run with pipes that nobody reads, or with these descriptors, which stay the caller's."""
        if fds is not None:
            self.send(message, fds)
            return
        with pipes() as two:
            self.send(message, two)

    def ends(self, message: w.StartRun) -> w.RunEnded:
        ended: w.RunEnded = self.wait(lambda m: isinstance(m, w.RunEnded) and m.run == message.run)
        return ended

    def outcomes(self, run: str) -> list[str]:
        return [r["outcome"] for r in self.records if r["event_type"] == "outcome" and r["run"] == run]


class pipes:  # noqa: N801 - reads as a verb's object
    """Two pipes' writing ends; their reading ends are kept open until the end of the block."""

    def __enter__(self) -> tuple[int, int]:
        self._fds = (*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC))
        return self._fds[1], self._fds[3]

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)
