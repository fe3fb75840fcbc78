"""Ordinary programs under the filters: what they print is what they print without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.kernel import seccomp
from tests.kernel.child import no_new_privs

pytestmark = pytest.mark.root

TOOL = seccomp.compile_filter("tool")
SECONDS = 60

C_PROGRAM = r"""
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
extern char **environ;
static void *work(void *n) { *(long *)n *= 2; return NULL; }
int main(void) {
    long n[4] = {1, 2, 3, 4};
    pthread_t t[4];
    for (int i = 0; i < 4; i++) if (pthread_create(&t[i], NULL, work, &n[i])) return 1;
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    pid_t pid; char *argv[] = {"sh", "-c", "exit 7", NULL}; int status;
    if (posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ) || waitpid(pid, &status, 0) != pid) return 2;
    FILE *p = popen("echo popen", "r"); char line[32];
    if (!p || !fgets(line, sizeof line, p)) return 3;
    pclose(p);
    printf("%ld %d %s", n[0] + n[1] + n[2] + n[3], WEXITSTATUS(status), line);
    return 0;
}
"""

PYTHON = """
import asyncio, mmap, multiprocessing, os, pathlib, shutil, signal, socket, sqlite3, subprocess, tempfile, threading
def square(n): return n * n
async def main():
    server = await asyncio.start_unix_server(lambda r, w: (w.write(b"hello"), w.close()), "s.sock")
    reader, writer = await asyncio.open_unix_connection("s.sock")
    p = await asyncio.create_subprocess_exec("echo", "child", stdout=asyncio.subprocess.PIPE)
    out, _ = await p.communicate()
    text = await reader.read()
    writer.close()
    server.close()
    return text, out
if __name__ == "__main__":
    print(asyncio.run(main()), flush=True)
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(2) as pool:
            print(pool.map(square, range(5)), flush=True)
    print(subprocess.run(["sh", "-c", "exit 3"]).returncode)
    t = threading.Thread(target=lambda: print("thread")); t.start(); t.join()
    db = sqlite3.connect("x.db"); db.execute("pragma journal_mode=wal"); db.execute("create table t(a)"); db.commit()
    with tempfile.TemporaryDirectory(dir=".") as d:
        pathlib.Path(d, "f").write_text("x"); shutil.copytree(d, d + "2"); shutil.rmtree(d + "2")
    m = mmap.mmap(-1, 4096); m[0] = 1
    signal.setitimer(signal.ITIMER_REAL, 30)
    with socket.create_server(("127.0.0.1", 0)): print("listening")
    print(os.memfd_create("m") > 2, os.cpu_count() > 0, os.getloadavg() is not None)
"""

NODE = """
const fs = require('fs'), cp = require('child_process'), {Worker} = require('worker_threads'), net = require('net');
(async () => {
  await fs.promises.writeFile('n.txt', 'node'); console.log((await fs.promises.readFile('n.txt')).toString());
  console.log(cp.execFileSync('echo', ['child']).toString().trim());
  await new Promise(done => { const s = net.createServer(c => c.end('x')).listen('n.sock', () =>
    net.connect('n.sock').on('data', d => console.log(String(d))).on('close', () => s.close(done))); });
  new Worker('require("worker_threads").parentPort.postMessage(6 * 7)', {eval: true}).on('message', console.log);
})();
"""

MAKEFILE = "all: a b c d\n\tcat a b c d\na b c d:\n\techo $@ > $@\n"

JAVA = """
public class Hello {
    public static void main(String[] args) throws Exception {
        Thread t = new Thread(() -> System.out.println("thread")); t.start(); t.join();
        Process p = new ProcessBuilder("echo", "child").redirectErrorStream(true).start();
        System.out.print(new String(p.getInputStream().readAllBytes()));
        System.out.println(p.waitFor());
    }
}
"""

RUST = """
use std::{process::Command, thread};
fn main() {
    let n: i32 = (0..4).map(|i| thread::spawn(move || i * i)).map(|t| t.join().unwrap()).sum();
    let out = Command::new("echo").arg("child").output().unwrap();
    println!("{} {}", n, String::from_utf8_lossy(&out.stdout).trim());
}
"""

GO = """package main
import ("fmt"; "os/exec"; "sync")
func main() {
	var w sync.WaitGroup
	for i := 0; i < 4; i++ { w.Add(1); go w.Done() }
	w.Wait()
	out, _ := exec.Command("echo", "child").Output()
	fmt.Print(string(out))
}
"""

GIT = """
export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@example.org GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@example.org
export GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z' GIT_CONFIG_NOSYSTEM=1 HOME=$PWD
git init -q -b main repo; cd repo; echo one > file; git add file; git commit -q -m first
git checkout -q -b other; echo two >> file; git commit -q -a -m second; git checkout -q main
git merge -q other; git gc -q; git log --oneline; git diff HEAD~1 --stat; git fsck; git clone -q . ../copy
git -C ../copy rev-parse HEAD
"""

BASH = """
set -e -o pipefail
seq 1 1000 | grep 7 | sort -rn | sed -n 1,3p
cat <<HERE | tr a-z A-Z
heredoc ü
HERE
diff <(echo a) <(echo a) && echo same
mkdir -p x/y; cp -a /etc/passwd x/y/; mv x z; ln -s z l; find z -type f | wc -l; rm -r z
( true & wait ); echo waited
trap 'echo trapped' USR1; kill -USR1 $$
mkfifo p; echo through > p & cat p; wait
timeout 5 true; nice -n 5 true; echo done
install -m 755 /bin/true t; ./t; touch -d 2020-01-01 t; stat -c '%a %Y' t; seq 3 | xargs -P 2 -n 1 true
sync; sync -d t; truncate -s 10 t; dd if=/dev/zero of=z bs=1k count=4 2>/dev/null; cmp -n 4096 z /dev/zero
"""

TAR = (
    "mkdir -p d/e; echo x > d/e/f; chmod 640 d/e/f; ln d/e/f d/e/g; ln -s f d/e/h; tar czf a.tgz d; rm -r d;"
    " tar xpzf a.tgz; stat -c '%n %a %h' d d/e d/e/*"
)

SQL = "pragma journal_mode=wal; create table t(a); insert into t values(7); select a from t;"

PROGRAMS: dict[str, tuple[str, list[str]]] = {
    "python": ("python3", [sys.executable, "program.py"]),
    "bash": ("bash", ["bash", "-c", BASH]),
    "git": ("git", ["bash", "-e", "-c", GIT]),
    "gcc": ("gcc", ["bash", "-c", "gcc -O1 -pthread -o program program.c && ./program"]),
    "node": ("node", ["node", "-e", NODE]),
    "make": ("make", ["make", "-s", "-j2"]),
    "tar": ("tar", ["bash", "-e", "-c", TAR]),
    "sqlite3": ("sqlite3", ["sqlite3", "s.db", SQL]),
    "perl": ("perl", ["perl", "-e", "my $p = fork; if (!$p) { exit 4 } waitpid $p, 0; print $? >> 8, `echo x`"]),
    "java": ("java", ["java", "Hello.java"]),
    "rust": ("rustc", ["bash", "-c", "rustc -o hello hello.rs && ./hello"]),
    "go": ("go", ["bash", "-c", "GOCACHE=$PWD/c HOME=$PWD go run hello.go"]),
}  # fmt: skip
SOURCES = {
    "program.py": PYTHON,
    "program.c": C_PROGRAM,
    "Makefile": MAKEFILE,
    "Hello.java": JAVA,
    "hello.rs": RUST,
    "hello.go": GO,
}


def confine() -> None:
    no_new_privs()
    seccomp.load(TOOL)


def run(argv: list[str], where: Path, *, filtered: bool) -> tuple[int, str, str]:
    where.mkdir()
    for name, text in SOURCES.items():
        (where / name).write_text(text)
    done = subprocess.run(
        argv,
        cwd=where,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        preexec_fn=confine if filtered else None,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_does_its_work_under_the_tool_filter(name: str, tmp_path: Path) -> None:
    needed, argv = PROGRAMS[name]
    if shutil.which(needed) is None:
        pytest.skip(f"{needed} is not installed here")
    free = run(argv, tmp_path / "free", filtered=False)
    if free[0] != 0:
        pytest.skip(f"{needed} does not do this here without a filter either: {free[2][-300:]}")
    assert free[1], "a program that prints nothing compares to nothing"
    assert run(argv, tmp_path / "boxed", filtered=True) == free


SERVICE = """
import asyncio, json, os, socket, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
import aiohttp
from aiohttp import web
from supervisor.kernel import seccomp
from supervisor.kernel.syscalls import call

programs = seccomp.compile_filter("main")
call("prctl", 38, 1, 0, 0, 0)
seccomp.load(programs)

def write():
    os.makedirs("spool/run", exist_ok=True)
    with open("spool/run/out", "wb") as f:
        f.write(b"x" * 100000); f.flush(); os.fdatasync(f.fileno()); os.ftruncate(f.fileno(), 500)
    os.rename("spool/run/out", "spool/kept")
    return os.stat("spool/kept").st_size

async def hello(request):
    peer = request.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    with ThreadPoolExecutor(2) as pool:
        size = await asyncio.get_running_loop().run_in_executor(pool, write)
    return web.json_response({"peer": len(peer), "size": size})

async def events(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.send_str("event")
    await ws.close()
    return ws

async def main():
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/ws", events)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, "api.sock").start()
    answer = {}
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector("api.sock")) as session:
        async with session.get("http://localhost/") as r:
            answer["hello"] = await r.json()
        async with session.ws_connect("http://localhost/ws") as ws:
            answer["ws"] = (await ws.receive()).data
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    r, w = os.pipe()
    socket.send_fds(ours, [b"fd"], [r])
    received = socket.recv_fds(theirs, 10, 2)[1]
    answer["fds"] = len(received)
    for fd in (r, w, *received):
        os.close(fd)
    ours.close(), theirs.close()
    await runner.cleanup()
    for name, attempt in {
        "subprocess": lambda: subprocess.run(["true"]),
        "fork": os.fork,
        "inet": lambda: socket.socket(socket.AF_INET),
        "setid": lambda: os.chmod("spool/kept", 0o4755),
    }.items():
        try:
            attempt()
            answer[name] = 0
        except OSError as e:
            answer[name] = e.errno
    print(json.dumps(answer))

asyncio.run(main())
"""


def test_the_service_works_under_the_main_filter_and_can_start_nothing(tmp_path: Path) -> None:
    """asyncio, aiohttp both ways, WebSocket, threads, spool files, and descriptors over a socket pair."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SERVICE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(seccomp.__file__).parents[2])},
    )
    assert done.stderr == ""
    assert done.stdout.strip() == (
        '{"hello": {"peer": 12, "size": 500}, "ws": "event", "fds": 1,'
        ' "subprocess": 1, "fork": 1, "inet": 97, "setid": 1}'
    )
