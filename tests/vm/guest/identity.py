"""Who may connect, and what each process of the service is."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path

from tests.vm.guest.tools import SOCKET, WORKSPACE, alive_with, must, processes, sh, status_of, stockade

_NO_CAPABILITIES = "0" * 16


def a_member_of_the_group_runs_a_command() -> str:
    """An ordinary user in stockade-clients runs a command in an own directory; what it writes is that user's."""
    sh("useradd", "--create-home", "--groups", "stockade-clients", "alice")
    sh("useradd", "--create-home", "bob")
    sh("install", "-d", "-o", "alice", "-g", "alice", "/srv/agents/alice", WORKSPACE)
    done = stockade("run", "--workspace", WORKSPACE, "-c", "echo made > file; id -u; cat /proc/self/status")
    uid = int(done.stdout.splitlines()[0])
    must(uid not in {u.pw_uid for u in pwd.getpwall()}, f"the run's uid {uid} is somebody's")
    info = os.stat(f"{WORKSPACE}/file")
    must(info.st_uid == pwd.getpwnam("alice").pw_uid, f"the file belongs to {info.st_uid}")
    must(os.listdir(WORKSPACE) == ["file"], os.listdir(WORKSPACE))
    return done.stdout


def exit_status_and_streams_pass_through() -> None:
    """`stockade run` is as the command itself: its status, its stdout, its stderr, its stdin."""
    done = stockade("run", "--workspace", WORKSPACE, "-c", "cat; echo err >&2; exit 7", status=7, input="in\n")
    must((done.stdout, done.stderr) == ("in\n", "err\n"), (done.stdout, done.stderr))


def curl_speaks_to_the_socket() -> str:
    """The one call that everybody learns first works with curl alone."""
    body = json.dumps({"tool": "shell", "workspace": WORKSPACE, "argv": ["echo", "hello"]})
    answer = sh(
        *("curl", "--silent", "--show-error", "--unix-socket", SOCKET, "--json", body, "http://localhost/v1/runs"),
        user="alice",
    )
    run = json.loads(answer.stdout)
    must((run["cause"], run["exit_code"], run["stdout"]) == ("exited", 0, "hello\n"), run)
    return answer.stdout


def an_outsider_is_refused_by_the_kernel() -> None:
    """A user who is not in stockade-clients cannot connect; the command says what to do."""
    curl = sh("curl", "--silent", "--unix-socket", SOCKET, "http://localhost/v1/status", user="bob", status=None)
    must(curl.returncode == 7, f"curl ended with {curl.returncode}: {curl.stdout}")
    done = stockade("run", "--workspace", "/home/bob", "--", "true", user="bob", status=125)
    must("stockade-clients" in done.stderr, done.stderr)


def each_process_has_no_more_than_its_part() -> str:
    """Uid, capabilities, no_new_privs and seccomp of main, launcher and auditor, as /proc says them."""
    ids = {name: pwd.getpwnam(name).pw_uid for name in ("stockade", "stockade-audit")}
    report = []
    for part, pid in processes().items():
        lines = status_of(pid)
        uids = {int(u) for u in lines["Uid"].split()}
        report.append(f"{part:9}" + " ".join(f"{k}={lines[k]}" for k in ("Uid", "CapEff", "NoNewPrivs", "Seccomp")))
        must(lines["NoNewPrivs"] == "1", report)
        must(lines["Seccomp"] == "2", report)
        if part == "launcher":
            must(uids == {0}, report)
            must(int(lines["CapBnd"], 16).bit_count() <= 12, report)
        else:
            must(uids == {ids["stockade" if part == "main" else "stockade-audit"]}, report)
            for kind in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb"):
                must(lines[kind] == _NO_CAPABILITIES, f"{part}: {kind} {lines[kind]}")
    return "\n".join(report)


def nothing_of_a_session_shows_on_the_host() -> None:
    """Mounts of sessions are in their own namespaces; the host's table does not change."""
    before = Path("/proc/1/mountinfo").read_text()
    stockade("run", "--workspace", WORKSPACE, "--", "true")
    must(Path("/proc/1/mountinfo").read_text() == before)


def no_run_is_left_after_its_answer() -> None:
    """When a run has been answered none of its processes is left."""
    stockade("run", "--workspace", WORKSPACE, "-c", "setsid sleep 4711 & setsid sleep 4711 & exit 0")
    must(not alive_with("4711"))


CHECKS = (
    a_member_of_the_group_runs_a_command,
    exit_status_and_streams_pass_through,
    curl_speaks_to_the_socket,
    an_outsider_is_refused_by_the_kernel,
    each_process_has_no_more_than_its_part,
    nothing_of_a_session_shows_on_the_host,
    no_run_is_left_after_its_answer,
)
