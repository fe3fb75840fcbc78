"""Reload, restart, activation by the socket, and what systemd does with the tree when the service stops."""

from __future__ import annotations

import re

from tests.vm.guest.tools import (
    CGROUP,
    POLICY,
    UNIT,
    WORKSPACE,
    alive_with,
    background,
    is_active,
    main_pid,
    must,
    run_json,
    sh,
    stockade,
    until,
)


def digest() -> str:
    """The digest of the policy that serves, as `stockade status` says it."""
    found = re.search(r"\b[0-9a-f]{64}\b", stockade("status", "--json").stdout)
    must(found, "no policy digest in stockade status")
    assert found is not None
    return found[0]


def a_good_policy_is_taken_by_reload() -> str:
    """`systemctl reload` makes a changed policy serve, in the same process."""
    before, pid, text = digest(), main_pid(), POLICY.read_text()
    changed = text.replace("sessions = 256", "sessions = 255", 1)
    must(changed != text)
    POLICY.write_text(changed)
    sh("systemctl", "reload", UNIT)
    must(digest() != before, "the digest is the old one")
    must(main_pid() == pid, "the service was restarted")
    return f"{before[:12]} -> {digest()[:12]}"


def a_bad_policy_fails_the_reload_and_the_last_good_one_serves() -> str:
    """`systemctl reload` fails on an unknown key, says which, and nothing else changes."""
    before, pid, good = digest(), main_pid(), POLICY.read_text()
    POLICY.write_text(good + "\n[profiles.shell.limitz]\nmemory = 1\n")
    try:
        done = sh("systemctl", "reload", UNIT, status=None)
        must(done.returncode != 0, "the reload of a bad policy succeeded")
        must(is_active(), "the service is not active")
        must((digest(), main_pid()) == (before, pid))
        must(run_json("--", "true")["cause"] == "exited")
        seen = stockade("status", user="root", status=None).stdout
        must("not in force" in seen and "limitz" in seen, seen)
    finally:
        POLICY.write_text(good)
    sh("systemctl", "reload", UNIT)
    return seen


def a_restart_ends_what_runs_and_serves_again() -> None:
    """`systemctl restart`: the trees of the old service are dead, the new one works."""
    background("exec sleep 4721", "4721")
    sh("systemctl", "restart", UNIT)
    must(not alive_with("4721"), "a run outlived its service")
    must(run_json("--", "true")["cause"] == "exited")


def a_stop_leaves_no_process_and_no_cgroup() -> None:
    """`systemctl stop` ends in time, with an empty and removed cgroup."""
    background("trap '' TERM; setsid sleep 4722 & exec sleep 4722", "4722", processes=2)
    sh("systemctl", "stop", UNIT)
    must(not alive_with("4722"), "a run outlived its service")
    until(lambda: not CGROUP.exists(), f"{CGROUP} is left", 30)
    must(sh("systemctl", "show", UNIT, "--property=Result").stdout.strip() == "Result=success")


def the_first_client_starts_the_service() -> None:
    """Socket activation: with the service stopped, a client's connection starts it and is answered."""
    must(not is_active())
    must(is_active("stockade.socket"))
    done = stockade("run", "--workspace", WORKSPACE, "--", "echo", "activated")
    must(done.stdout == "activated\n", done.stdout)
    must(is_active())


CHECKS = (
    a_good_policy_is_taken_by_reload,
    a_bad_policy_fails_the_reload_and_the_last_good_one_serves,
    a_restart_ends_what_runs_and_serves_again,
    a_stop_leaves_no_process_and_no_cgroup,
    the_first_client_starts_the_service,
)
