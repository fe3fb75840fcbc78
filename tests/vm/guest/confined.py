"""The limits of cgroup v2 hold, and the receipt says so."""

from __future__ import annotations

import json

from tests.vm.guest.tools import (
    CGROUP,
    WORKSPACE,
    alive_with,
    background,
    group_of,
    must,
    run_json,
    still_there,
    stockade,
    until,
)


def the_receipt_names_what_was_enforced() -> str:
    """A run's receipt: cgroup v2, Landlock ABI 6, seccomp, no capabilities."""
    receipt = run_json("--", "true", status=0)["receipt"]
    text = json.dumps(receipt)
    must(receipt["no_new_privs"] is True, text)
    must(receipt["seccomp"] == "filter", text)
    must(int(receipt["capabilities"], 16) == 0, text)
    must(receipt["cgroup"] == "v2", text)
    must(receipt["landlock"] == 6 or receipt["landlock"].get("abi") == 6, text)
    return text


def memory_is_bounded() -> str:
    """A program that takes all memory is killed by its own cgroup, with cause `memory`, and nobody else is."""
    run = run_json("--limit", "memory=64M", "-c", "tail /dev/zero", status=137)
    must(run["cause"] == "memory", run)
    must(run["usage"]["memory_peak"] <= 64 << 20, run["usage"])
    stockade("run", "--workspace", WORKSPACE, "--", "true")
    return json.dumps(run["usage"])


def a_fork_bomb_is_contained() -> str:
    """A fork bomb never has more processes than its limit, and is gone when it is answered.

    It lies in a file: one that can be seen in the command is asked about before it could show this.
    """
    run_json("-c", "echo 'sh ./bomb & sh ./bomb' > bomb")
    run = run_json("--limit", "processes=16", "--timeout", "20s", "-c", "sh ./bomb; sleep 4712")
    must(run["cause"] in ("processes", "timeout"), run)
    must(run["usage"]["pids_peak"] <= 16, run["usage"])
    must(not alive_with("4712"))
    return json.dumps({"cause": run["cause"], **run["usage"]})


def the_kernel_holds_the_limits_of_the_profile() -> str:
    """cpu.max, memory.max, memory.swap.max and pids.max of a live run's cgroup are what was asked for."""
    limits = ("--limit", "cpu=50%", "--limit", "memory=96M", "--limit", "processes=33")
    run = background("exec sleep 4713", "4713", *limits)
    (pid,) = alive_with("4713")
    group, _ = group_of(pid)
    names = ("cpu.max", "memory.max", "memory.swap.max", "pids.max")
    found = {name: (group / name).read_text().strip() for name in names}
    stockade("kill", run)
    must(str(group).startswith(str(CGROUP)), group)
    quota, period = map(int, found["cpu.max"].split())
    must(quota * 2 == period, found)
    must(found["memory.max"] == str(96 << 20), found)
    must(found["memory.swap.max"] == "0", found)
    must(int(found["pids.max"]) == 33, found)
    return f"{group}: {found}"


def a_killed_run_leaves_no_process_and_no_cgroup() -> None:
    """`stockade kill` ends the whole tree, and its cgroups go."""
    run = background("setsid sleep 4714 & exec sleep 4714", "4714", processes=2)
    groups = {group_of(pid) for pid in alive_with("4714")}
    must(len(groups) == 1, groups)
    stockade("kill", run)
    until(lambda: not alive_with("4714"), "a process of the killed run is left", 30)
    until(lambda: not [g for g in groups if still_there(*g)], f"a cgroup is left: {groups}", 60)


CHECKS = (
    the_receipt_names_what_was_enforced,
    memory_is_bounded,
    a_fork_bomb_is_contained,
    the_kernel_holds_the_limits_of_the_profile,
    a_killed_run_leaves_no_process_and_no_cgroup,
)
