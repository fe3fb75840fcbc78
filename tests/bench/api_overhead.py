"""What HTTP costs: a trivial route and POST /v1/runs whose run is over before it is asked for.

    python -m tests.bench.api_overhead [REQUESTS]

Server and client are two processes on one Unix socket and one kept-alive connection. Nothing is launched, decided or
recorded: what is measured is the way from bytes to a typed request and from a run to bytes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from supervisor.api import server
from supervisor.runs.model import Peer, Run, RunRequest
from supervisor.runs.output import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b'{"tool":"shell","workspace":"/srv/agent/ws","profile":"shell","argv":["git","status"],"timeout":"30s"}'
ASKED = {
    "GET /health": b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "POST /v1/runs": b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
}


class Immediate:
    """A supervisor whose runs are over at once."""

    def __init__(self, spool: str) -> None:
        pipes = [os.pipe() for _ in range(2)]
        for reading, writing in pipes:
            os.set_blocking(reading, False)
            os.write(writing, b"On branch main\n" * 8)
            os.close(writing)
        self._output = Output(
            pipes[0][0], pipes[1][0], limit=1 << 20, spool=spool, name="run-bench", on_flood=lambda _: None
        )
        self._output.finish()

    async def start(self, peer: Peer, request: RunRequest, request_id: str) -> Run:
        run = Run(
            "run-aaaaaaaaaaaaaaaaaaaa", request_id, "ses-aaaaaaaaaaaaaaaaaaaa", peer, request.tool, "shell",
            request.argv or (), request.script, "/srv/agent/ws", "/srv/agent/ws", request.labels, False,
            {"verdict": "allow", "rule": "callers[0].profiles", "source": "policy.toml:7"}, request.limits,
            self._output, "finished", "exited", 0,
        )  # fmt: skip
        run.usage = {"wall_us": 2100, "cpu_us": 1800, "memory_peak": 4 << 20, "pids_peak": 2}
        run.receipt = {"landlock": 7, "seccomp": "0" * 64, "cgroup": "v2", "namespaces": ["pid", "mnt", "net", "ipc"]}
        run.finished = run.created
        run.done.set()
        return run

    async def wait(self, run: Run) -> None:
        await run.done.wait()


async def serve(listening: socket.socket, spool: str) -> None:
    supervisor: Any = Immediate(spool)
    running = await server.serve(supervisor, listening, [])
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    await running.stop()


def ask(path: str, what: bytes, times: int) -> Iterator[float]:
    """Seconds of each round trip."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        for _ in range(times):
            begun = time.perf_counter()
            client.sendall(what)
            answer = client.recv(1 << 16)
            yield time.perf_counter() - begun
            if not answer.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(answer.decode())


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "api.sock")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        pid = os.fork()
        if pid == 0:
            listening.setblocking(False)
            asyncio.run(serve(listening, directory))
            os._exit(0)
        listening.close()
        try:
            print("| route | p50 | p95 |\n|---|---|---|")
            for name, what in ASKED.items():
                list(ask(path, what, times // 10))
                took = sorted(ask(path, what, times))
                p95 = took[int(len(took) * 0.95)]
                print(f"| `{name}` | {statistics.median(took) * 1000:.3f} ms | {p95 * 1000:.3f} ms |")
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
