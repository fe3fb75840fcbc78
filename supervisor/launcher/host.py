"""What this host offers of every layer, tried and not read off a version, and what to do where one is missing."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from supervisor.kernel import cgroup, idmap, landlock, seccomp
from supervisor.kernel import process as p
from supervisor.launcher.forge import start as start_forge
from supervisor.launcher.receipt import own_filters
from supervisor.launcher.session import World
from supervisor.launcher.smith import Smith
from supervisor.launcher.workspace import Mappings

if TYPE_CHECKING:
    from collections.abc import Callable

    from supervisor.kernel.cgroup import Tree
    from supervisor.layout import Layout


def _attempt(what: Callable[[], None]) -> str:
    """ "" when a child can do it, else why not. In a child, because what is tried cannot be undone."""
    out, into = os.pipe()
    pid, pidfd = p.clone(0)
    if pid == 0:
        try:
            what()
        except BaseException as e:  # noqa: BLE001 - told to the parent; this child ends in any case
            os.write(into, str(e).encode()[:200] or b"failed")
        finally:
            os._exit(0)
    os.close(into)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    os.close(pidfd)
    with open(out, "rb") as f:
        return f.read().decode(errors="replace")


def layers(tree: Tree) -> dict[str, dict[str, Any]]:
    """layer -> {present, detail, remedy} for every layer that a profile may require, and for what counters need."""
    abi = landlock.abi()
    has = tree.layers()
    no_landlock = "boot a kernel >= 5.13 with CONFIG_SECURITY_LANDLOCK=y and landlock in the lsm= list"
    no_cgroup = "mount cgroup2 with this controller, or under systemd keep Delegate= in the unit"

    def mapping() -> None:
        os.close(idmap.mapping(1000, 1000, 1001, 1001))

    def filter_mode() -> None:
        p.prctl(p.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.load((b"\x06\0\0\0\0\0\xff\x7f",))  # one instruction: allow

    namespaces = _attempt(
        lambda: p.unshare(p.CLONE_NEWNS | p.CLONE_NEWNET | p.CLONE_NEWIPC | p.CLONE_NEWUTS | p.CLONE_NEWPID)
    )
    filtered = _attempt(filter_mode)
    mapped = _attempt(mapping)
    found = {
        "landlock": (abi >= 1, f"ABI {abi}", no_landlock),
        "landlock.net": (abi >= 4, f"ABI {abi}, TCP rights from 4", "boot a kernel >= 6.7"),
        "landlock.scope": (abi >= 6, f"ABI {abi}, scopes from 6", "boot a kernel >= 6.12"),
        "seccomp": (not filtered, filtered or "filter mode", "boot a kernel with CONFIG_SECCOMP_FILTER=y"),
        "namespaces": (
            not namespaces,
            namespaces or "mount pid net ipc uts cgroup",
            "run the service with CAP_SYS_ADMIN",
        ),
        "idmap": (
            not mapped,
            mapped or "id mappings can be made",
            "set user.max_user_namespaces above 0 (root needs one)",
        ),
        **{f"cgroup.{c}": (has[c], tree.kind, no_cgroup) for c in ("memory", "pids", "cpu")},
        "cgroup.io": (
            has["io"],
            f"{tree.kind}: counts bytes written" if has["io"] else f"{tree.kind}: bytes written are not counted",
            "mount cgroup2 with the io controller; `written` of [[budgets]] counts nothing until then",
        ),
    }
    return {
        name: {"present": there, "detail": detail, "remedy": "" if there else remedy}
        for name, (there, detail, remedy) in found.items()
    }


def receipt_layers(tree: Tree) -> dict[str, Any]:
    """The part of a receipt that is the same for every session of this launcher."""
    return {
        "landlock": landlock.abi(),
        "namespaces": ["mount", "pid", "net", "ipc", "uts", "cgroup"],
        "cgroup": tree.kind,
    }


def make_world(layout: Layout, tree: Tree, attempt: Callable[[str], bytes] | None = None) -> World:
    """What sessions share, with a forge of its own: call it before this process holds anything to be copied."""
    forge = Smith(start_forge(tree, os.path.realpath(layout.run), attempt))
    return World(tree=tree, forge=forge, layers=receipt_layers(tree), mappings=Mappings(), inherited=own_filters())


def own_tree(layout: Layout) -> Tree:
    return cgroup.detect(layout.instance)


def remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)
