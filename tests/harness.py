"""A real service for tests: started as root below its own directory, spoken to as a user, gone afterwards."""

from __future__ import annotations

import contextlib
import grp
import http.client
import json
import os
import pwd
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parent.parent
START_SECONDS = 60


@dataclass(frozen=True)
class Agent:
    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def ensure_accounts() -> list[tuple[str, str]]:
    """Make what is missing of the service's users and group; what was made comes back."""
    made = []
    for kind, name in (("group", "stockade-clients"), ("user", "stockade"), ("user", "stockade-audit")):
        try:
            grp.getgrnam(name) if kind == "group" else pwd.getpwnam(name)
        except KeyError:
            if kind == "group":
                _do("groupadd", "--system", name)
            else:
                _do("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", "--user-group", name)
            made.append((kind, name))
    return made


def make_agent(name: str, *, clients: bool) -> Agent:
    groups = ["--groups", "stockade-clients"] if clients else []
    _do("useradd", "--no-create-home", "--shell", "/bin/sh", "--user-group", *groups, name)
    entry = pwd.getpwnam(name)
    return Agent(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))


def remove_account(kind: str, name: str) -> None:
    _do("userdel" if kind == "user" else "groupdel", name)


@contextlib.contextmanager
def acting_as(agent: Agent | None) -> Iterator[None]:
    """Be another user for the kernel's peer credentials, for as long as it takes to connect."""
    if agent is None:
        yield
        return
    own = os.getgroups()
    os.setgroups(agent.groups)
    os.setegid(agent.gid)
    os.seteuid(agent.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(own)


class Connection(http.client.HTTPConnection):
    def __init__(self, path: str, agent: Agent | None, timeout: float = 120) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path, self._agent = path, agent

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with acting_as(self._agent):
            self.sock.connect(self._path)


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Daemon:
    """`python -m supervisor serve --root DIR` and what tests do with it."""

    def __init__(self, ground: Path, agent: Agent, python: str, policy: str | None = None) -> None:
        self.agent = agent
        self.root = Path(tempfile.mkdtemp(prefix="root-", dir=ground))
        self.root.chmod(0o755)
        self.socket = str(self.root / "run" / "api.sock")
        self._python = python
        (self.root / "etc").mkdir(mode=0o755)
        self.write_policy(policy or (REPOSITORY / "policies" / "default.toml").read_text())
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.root / "stderr.log"

    def write_policy(self, text: str) -> None:
        path = self.root / "etc" / "policy.toml"
        path.write_text(text)
        path.chmod(0o644)

    def __enter__(self) -> Daemon:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.root)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start and wait for the readiness message, as systemd would (sd_notify(3))."""
        name = str(self.root / "notify")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(self.log, "ab") as log:
            ready.bind(name)
            os.chmod(name, 0o777)  # noqa: S103 - main notifies as its own user
            ready.settimeout(START_SECONDS)
            env = {**os.environ, "NOTIFY_SOCKET": name, "PYTHONPATH": str(REPOSITORY)}
            self.process = subprocess.Popen(
                [self._python, "-m", "supervisor", "serve", "--root", str(self.root)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd="/",
            )  # fmt: skip
            pidfd = os.pidfd_open(self.process.pid)
            try:
                readable, _, _ = select.select([ready, pidfd], [], [], START_SECONDS)
                if ready not in readable or b"READY=1" not in ready.recv(4096):
                    raise RuntimeError(f"the service did not start:\n{self.log.read_text()[-4000:]}")
            finally:
                os.close(pidfd)

    def stop(self) -> int:
        """End it as systemd does first; the exit status."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.process = None

    def children(self) -> dict[str, int]:
        """The pids of launcher, auditor and parser, by the uid they run under."""
        names = {0: "launcher", pwd.getpwnam("stockade-audit").pw_uid: "auditor"}
        found = {}
        for pid in map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()):
            status = Path(f"/proc/{pid}/status").read_text()
            uid = int(re.search(r"^Uid:\t(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
            found[names.get(uid, "parser")] = pid
        return found

    def connect(self, agent: Agent | None = None) -> Connection:
        return Connection(self.socket, agent or self.agent)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        agent: Agent | None = None,
        headers: dict[str, str] | None = None,
        root: bool = False,
    ) -> Reply:
        """One request on a connection of its own; a dict goes as JSON, bytes as they are."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} if data is not None else {}
        connection = Connection(self.socket, None if root else agent or self.agent)
        try:
            connection.request(method, path, data, {**given, **(headers or {})})
            response = connection.getresponse()
            return Reply(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def run(self, workspace: Path | str, *argv: str, **more: Any) -> dict[str, Any]:
        """POST /v1/runs as the agent; the run object. A refusal fails the test with its text."""
        agent = more.pop("agent", None)
        body = {"tool": "shell", "workspace": str(workspace), **({"argv": list(argv)} if argv else {}), **more}
        reply = self.request("POST", "/v1/runs", body, agent=agent)
        assert reply.status == 200, f"{reply.status}: {reply.body.decode()}"
        return reply.json

    def audit(self) -> list[dict[str, Any]]:
        """The records of the log; read(2) may see a write(2) half done, so what has no line end yet is none."""
        whole, _, _ = (self.root / "log" / "audit.jsonl").read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]
