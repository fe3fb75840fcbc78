"""The other ends of main's two sockets: they speak the real vocabulary and run real commands, without confinement."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.parser.shfmt import Shfmt
from supervisor.wire import framing
from supervisor.wire import messages as w

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from supervisor.decide.shell.model import Analysis
    from supervisor.policy.snapshot import Snapshot


def receive(sock: socket.socket, permitted: w.Vocabulary) -> tuple[Any, list[int]] | None:
    try:
        return framing.receive(sock, permitted)
    except ConnectionResetError:  # unix(7): told once, ahead of what is still to read
        return framing.receive(sock, permitted)


class LocalParser:
    """The analysis of the parser process, in this one."""

    def __init__(self) -> None:
        self._shfmt = Shfmt()

    async def analyse(
        self, argv: Sequence[str] | None, script: str | None, stdin: bytes | None = None, **_: bool
    ) -> Analysis:
        fed = None if stdin is None else stdin.decode("utf-8", "replace")
        if script is not None:
            return analyse_script(script, self._shfmt.parse, fed)
        return analyse_argv(argv or (), self._shfmt.parse, fed)

    def close(self) -> None:
        self._shfmt.close()


class AuditorPeer(threading.Thread):
    """Keeps every record; acknowledges while `works`. An allowed decision is passed on as Go, or else Nogo."""

    def __init__(self, sock: socket.socket, launcher: LauncherPeer) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.launcher = launcher
        self.records: list[dict[str, Any]] = []
        self.works = True

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [r for r in self.records if r["event_type"] == kind]

    def run(self) -> None:
        while (received := receive(self.sock, w.TO_AUDITOR)) is not None:
            record = received[0]
            if self.works:
                self.records.append(record.event)
            if record.event["run"] is not None:
                self.launcher.word(record.event["run"], record.event["fingerprint"] if self.works else None)
            if record.id:
                answer = w.Ack(record.id, len(self.records)) if self.works else w.Nack(record.id, "disk full")
                with contextlib.suppress(OSError):
                    framing.send(self.sock, answer)


class LauncherPeer(threading.Thread):
    """Runs what it is told once it has the auditor's word for exactly that."""

    def __init__(self, sock: socket.socket, snapshot: Snapshot) -> None:
        super().__init__(daemon=True)
        self.sock = sock
        self.snapshot = snapshot
        self.proofs: list[dict[str, Any]] = []
        self.refuse: w.Refused | None = None  # the answer to the next question, its id aside
        self.received: list[Any] = []
        self.sessions: list[str] = []
        self.workspaces: dict[str, str] = {}
        self.looks = True  # at files, when it is asked to
        self.stopped = False
        self._lock = threading.RLock()
        self._over = False
        self._waiting: dict[str, tuple[w.StartRun, list[int]]] = {}
        self._words: dict[str, str | None] = {}
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._causes: dict[str, str] = {}
        self._waiters: list[threading.Thread] = []

    def of(self, kind: type[w.Message]) -> list[Any]:
        return [m for m in self.received if type(m) is kind]

    def send(self, message: w.Message, fds: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(OSError):
            framing.send(self.sock, message, fds)

    def run(self) -> None:
        while (received := receive(self.sock, w.TO_LAUNCHER)) is not None:
            message, fds = received
            self.received.append(message)
            getattr(self, f"_on_{message.KIND}")(message, fds)
        with self._lock:
            self._over = True
            for run in [*self._children, *self._waiting]:
                self._kill(run, "lost")
        for waiter in self._waiters:
            waiter.join()

    def word(self, run: str, fingerprint: str | None) -> None:
        with self._lock:
            self._words[run] = fingerprint
            self._launch(run)

    def _on_reload(self, message: w.Reload, _: list[int]) -> None:
        if self._refused(message.id):
            return
        fd = os.memfd_create("policy", os.MFD_CLOEXEC)
        host = {"landlock": {"present": True, "detail": "ABI 7", "remedy": ""}}
        os.write(fd, json.dumps({"snapshot": asdict(self.snapshot), "proofs": self.proofs, "host": host}).encode())
        self.send(w.PolicyLoaded(message.id, self.snapshot.digest()), (fd,))
        os.close(fd)

    def _refused(self, ident: int) -> bool:
        if self.refuse is None:
            return False
        answer, self.refuse = self.refuse, None
        self.send(w.Refused(ident, answer.code, answer.detail, answer.extra))
        return True

    def _on_open_session(self, message: w.OpenSession, _: list[int]) -> None:
        if not self._refused(message.id):
            self.sessions.append(message.session)
            self.workspaces[message.session] = message.workspace
            self.send(w.SessionOpened(message.id, message.session, {"uid": 900_000 + len(self.sessions)}))

    def _on_inspect(self, message: w.Inspect, _: list[int]) -> None:
        if not self.looks or self._refused(message.id):
            return
        files = []
        for path in message.paths:
            with open(os.path.join(self.workspaces[message.session], path), "rb") as file:
                data = file.read()
            found = {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            files.append({**found, "head": data[:4096].decode(errors="replace")})
        self.send(w.Inspected(message.id, files))

    def _on_start_run(self, message: w.StartRun, fds: list[int]) -> None:
        with self._lock:
            self._waiting[message.run] = (message, fds)
            self._launch(message.run)

    def _launch(self, run: str) -> None:
        if run not in self._waiting or run not in self._words:
            return
        message, fds = self._waiting.pop(run)
        ended: w.RunEnded | None = None
        if self.stopped or self._over:
            ended = w.RunEnded(run, "stopped", None, None, {}, {}, "the emergency stop is on")
        elif self._words[run] != w.fingerprint(message):
            ended = w.RunEnded(run, "denied", None, None, {}, {}, "not recorded, so not run")
        else:
            stdin: int = fds[0] if len(fds) == 3 else subprocess.DEVNULL
            try:
                child = subprocess.Popen(
                    message.argv, env=message.env, cwd=message.cwd, stdin=stdin, stdout=fds[-2], stderr=fds[-1],
                    start_new_session=True,
                )  # fmt: skip
            except OSError as e:
                usage = {"errno": e.errno, "step": "exec"}
                ended = w.RunEnded(run, "not_started", None, None, usage, {}, f"exec: {e.strerror}")
        for fd in fds:
            os.close(fd)
        if ended is not None:
            self.send(ended)
            return
        self._children[run] = child
        waiter = threading.Thread(target=self._wait, args=(run, child))
        self._waiters.append(waiter)
        waiter.start()

    def _wait(self, run: str, child: subprocess.Popen[bytes]) -> None:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:  # reaped under the lock, so that nobody signals a pid that is another's by now
            code = child.wait()
            del self._children[run]
        cause = self._causes.get(run) or ("exited" if code >= 0 else "signal")
        exit_code, number = (code, None) if code >= 0 else (None, -code)
        self.send(w.RunEnded(run, cause, exit_code, number, {"wall_us": 1}, {"landlock": 7}))

    def _kill(self, run: str, cause: str) -> None:
        with self._lock:
            child = self._children.get(run)
            if child is not None:
                self._causes.setdefault(run, cause)
                os.killpg(child.pid, signal.SIGKILL)
            elif run in self._waiting:
                for fd in self._waiting.pop(run)[1]:
                    os.close(fd)
                self.send(w.RunEnded(run, cause, None, None, {}, {}, "ended before it began"))

    def _on_end_run(self, message: w.EndRun, _: list[int]) -> None:
        self._kill(message.run, message.cause)

    def _on_signal_run(self, message: w.SignalRun, _: list[int]) -> None:
        with self._lock:
            child = self._children[message.run]
            (os.killpg if message.tree else os.kill)(child.pid, message.signal)

    def _on_close_session(self, message: w.CloseSession, _: list[int]) -> None:
        self.end_session(message.session, "closed")

    def end_session(self, session: str, cause: str) -> None:
        if session in self.sessions:
            self.sessions.remove(session)
        self.send(w.SessionEnded(session, cause))

    def _on_stop(self, message: w.Stop, _: list[int]) -> None:
        with self._lock:
            self.stopped = True
            runs, sessions = [*self._children, *self._waiting], list(self.sessions)
            for run in runs:
                self._kill(run, "stopped")
        for session in sessions:
            self.end_session(session, "stopped")
        self.send(w.Stopped(message.id, True, len(runs), len(sessions)))

    def _on_resume(self, message: w.Resume, _: list[int]) -> None:
        self.stopped = False
        self.send(w.Stopped(message.id, False, 0, 0))
