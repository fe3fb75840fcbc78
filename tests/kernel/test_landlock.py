"""Landlock in the real kernel, every ABI up to this kernel's: each right is broken by trying, inside and outside.

An attempt is made three times: without a ruleset (it must work, or it proves nothing), where the ruleset grants it
(it must work), and where it does not (it must fail, from the ABI on that knows the right).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import socket
import stat
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from landlock import FSAccess
from landlock.plumbing import PathBeneathAttr

from supervisor.kernel import landlock
from supervisor.kernel.syscalls import call
from tests.kernel.child import in_child, no_new_privs, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock"),
]

VERSIONS = range(1, min(landlock.abi(), landlock.NEWEST) + 1)
SYSTEM = [p for p in ("/usr", "/lib", "/lib64", "/bin") if os.path.exists(p)]
RNDGETENTCNT = 0x80045200
TRUE = shutil.which("true") or "/bin/true"


@dataclass
class Tree:
    """`read`, `write`, `execute` are granted as such; `nothing` is not granted at all."""

    base: Path

    def __post_init__(self) -> None:
        for name in ("read", "write", "execute", "nothing"):
            directory = self.base / name
            directory.mkdir()
            (directory / "file").write_text("content")
            (directory / "file").chmod(0o755)
            (directory / "empty").mkdir()
            (directory / "other").mkdir()
            shutil.copy(TRUE, directory / "program")

    def restrict(self, version: int | None, **changes: Any) -> None:
        grants: dict[str, Any] = {
            "read": [str(self.base / "read")],
            "write": [str(self.base / "write")],
            "execute": [str(self.base / "execute"), *SYSTEM],
            "tcp": False,
        }
        ruleset, missing = landlock.build(**{**grants, **changes}, version=version)
        assert missing == []
        no_new_privs()
        landlock.restrict_self(ruleset)
        os.close(ruleset)

    def confined(self, version: int | None, attempt: Callable[[], Any], **changes: Any) -> Any:
        def child() -> Any:
            self.restrict(version, **changes)
            return attempt()

        return in_child(child)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def unix_socket(where: Path) -> None:
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(where))


def run(program: Path) -> None:
    os.waitpid(os.posix_spawn(program, ["true"], {}), 0)


def opened(where: Path, flags: int) -> None:
    os.close(os.open(where, flags | os.O_CLOEXEC))


@dataclass(frozen=True)
class Attempt:
    """One right of the file system: what needs it, since which ABI, and where it is granted and where not."""

    right: str
    do: Callable[[Path], Any]
    granted: str = "write"
    refused: str = "read"
    since: int = 1


ATTEMPTS = [
    Attempt("read_file", lambda d: opened(d / "file", os.O_RDONLY), "read", "nothing"),
    Attempt("read_file", lambda d: opened(d / "file", os.O_RDONLY), "write", "nothing"),
    Attempt("read_file", lambda d: opened(d / "file", os.O_RDONLY), "execute", "nothing"),
    Attempt("read_dir", lambda d: os.listdir(d), "read", "nothing"),
    Attempt("read_dir", lambda d: os.listdir(d / "empty"), "write", "nothing"),
    Attempt("execute", lambda d: run(d / "program"), "execute", "read"),
    Attempt("execute", lambda d: run(d / "program"), "execute", "write"),
    Attempt("write_file", lambda d: opened(d / "file", os.O_WRONLY)),
    Attempt("write_file", lambda d: opened(d / "file", os.O_RDWR | os.O_APPEND), "write", "execute"),
    Attempt("truncate", lambda d: os.truncate(d / "file", 0), since=3),
    Attempt("remove_dir", lambda d: (d / "empty").rmdir()),
    Attempt("remove_file", lambda d: (d / "file").unlink()),
    Attempt("remove_file", lambda d: (d / "file").rename(d / "renamed"), "write", "nothing"),
    Attempt("make_dir", lambda d: (d / "new").mkdir()),
    Attempt("make_reg", lambda d: opened(d / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)),
    Attempt("make_sym", lambda d: (d / "new").symlink_to("file")),
    Attempt("make_sock", lambda d: unix_socket(d / "new")),
    Attempt("make_fifo", lambda d: os.mkfifo(d / "new")),
    Attempt("make_reg", lambda d: os.link(d / "file", d / "new")),
    Attempt("refer", lambda d: (d / "file").rename(d / "other" / "file"), "write", "read"),
]  # fmt: skip
DENIED = {errno.EACCES, errno.EXDEV}  # EXDEV is the answer for a rename or link that lacks REFER


def named(attempt: Attempt) -> str:
    return f"{attempt.right}-{attempt.granted}-{attempt.refused}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=named)
def test_a_right_is_there_where_granted_and_nowhere_else(attempt: Attempt, version: int, tree: Tree) -> None:
    granted, refused = tree.base / attempt.granted, tree.base / attempt.refused
    before = sorted((p.name, p.stat().st_size) for p in refused.iterdir())
    got = tree.confined(version, lambda: outcome(lambda: attempt.do(refused)))
    if version >= attempt.since:
        assert got in DENIED
        assert sorted((p.name, p.stat().st_size) for p in refused.iterdir()) == before
    else:
        assert got == 0, "an ABI without the right does not deny it: then the receipt must not claim it"
        assert attempt.right not in landlock.receipt(version)["fs"]
    if attempt.right == "refer" and version == 1:
        assert tree.confined(version, lambda: outcome(lambda: attempt.do(granted))) == errno.EXDEV
    else:
        assert tree.confined(version, lambda: outcome(lambda: attempt.do(granted))) == 0


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=named)
def test_every_attempt_works_without_a_ruleset(attempt: Attempt, tree: Tree) -> None:
    assert in_child(lambda: outcome(lambda: attempt.do(tree.base / attempt.refused))) == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_device_nodes_are_made_nowhere(kind: int, version: int, tree: Tree) -> None:
    def make() -> int:
        return outcome(lambda: os.mknod(tree.base / "write" / "node", kind | 0o600, os.makedev(1, 3)))

    assert tree.confined(version, make) == errno.EACCES
    assert in_child(make) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_moves_or_links_from_a_writable_place_to_a_readable_one(version: int, tree: Tree) -> None:
    inside, outside = tree.base / "write" / "file", tree.base / "read" / "moved"
    for do in (lambda: inside.rename(outside), lambda: os.link(inside, outside)):
        assert tree.confined(version, partial(outcome, do)) in DENIED
        assert not outside.exists()
    back = tree.base / "write" / "taken"
    for do in (lambda: (tree.base / "read" / "file").rename(back), lambda: os.link(tree.base / "nothing/file", back)):
        assert tree.confined(version, partial(outcome, do)) in DENIED
        assert not back.exists()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_link_never_gains_rights(version: int, tree: Tree) -> None:
    """REFER lets a file into another directory only where it may do no more than before."""

    def gain() -> int:
        return outcome(lambda: os.link(tree.base / "write" / "program", tree.base / "both" / "program"))

    (tree.base / "both").mkdir()
    both = str(tree.base / "both")
    changes = {
        "write": [str(tree.base / "write"), both],
        "execute": [both, *SYSTEM],
    }
    assert tree.confined(version, gain, **changes) in DENIED
    assert in_child(gain) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_dots_links_and_proc_lead_to_no_other_right(version: int, tree: Tree) -> None:
    secret = tree.base / "nothing" / "file"
    (tree.base / "write" / "link").symlink_to(secret)
    fd = os.open(tree.base, os.O_PATH | os.O_CLOEXEC)
    try:
        ways: list[Callable[[], Any]] = [
            lambda: opened(tree.base / "write" / ".." / "nothing" / "file", os.O_RDONLY),
            lambda: opened(tree.base / "write" / "link", os.O_RDONLY),
            lambda: opened(Path(f"/proc/self/root{secret}"), os.O_RDONLY),
            lambda: opened(Path(f"/proc/self/fd/{fd}/nothing/file"), os.O_RDONLY),
            lambda: os.close(os.open("nothing/file", os.O_RDONLY, dir_fd=fd)),
        ]
        for way in ways:
            assert in_child(partial(outcome, way)) == 0
            assert tree.confined(version, partial(outcome, way)) == errno.EACCES
    finally:
        os.close(fd)


# --- devices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_ioctls_only_on_granted_devices(version: int, tree: Tree) -> None:
    def entropy() -> None:
        with open("/dev/urandom", "rb", buffering=0) as f:
            fcntl.ioctl(f, RNDGETENTCNT, b"\0" * 4)

    assert in_child(lambda: outcome(entropy)) == 0
    assert tree.confined(version, lambda: outcome(entropy), devices=["/dev/urandom"]) == 0
    as_file = tree.confined(version, lambda: outcome(entropy), read=["/dev/urandom"])
    assert as_file == (errno.EACCES if version >= 5 else 0)
    assert tree.confined(version, lambda: outcome(entropy)) == errno.EACCES


@pytest.mark.parametrize("version", VERSIONS)
def test_a_shell_redirects_to_a_granted_device(version: int, tree: Tree) -> None:
    def redirect() -> None:
        fd = os.open("/dev/null", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        os.write(fd, b"x")
        os.close(fd)

    assert tree.confined(version, lambda: outcome(redirect), devices=["/dev/null"]) == 0
    assert tree.confined(version, lambda: outcome(redirect)) == errno.EACCES


@pytest.mark.parametrize("version", VERSIONS)
def test_a_directory_of_devices_can_be_listed_and_used(version: int, tree: Tree) -> None:
    assert tree.confined(version, lambda: outcome(lambda: os.listdir("/dev/pts")), devices=["/dev/pts"]) == 0


# --- network and scopes ------------------------------------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as s:
        yield s


def connect(address: Any, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(family, kind) as s:
        return outcome(lambda: s.connect(address))


def bind(port: int) -> int:
    with socket.socket(socket.AF_INET) as s:
        return outcome(lambda: s.bind(("127.0.0.1", port)))


@pytest.mark.parametrize("version", VERSIONS)
def test_no_tcp_unless_asked_for(version: int, tree: Tree, listener: socket.socket) -> None:
    address = listener.getsockname()
    denied = errno.EACCES if version >= 4 else 0
    assert in_child(lambda: [connect(address), bind(0)]) == [0, 0]
    assert tree.confined(version, lambda: [connect(address), bind(0)], tcp=True) == [0, 0]
    assert tree.confined(version, lambda: [connect(address), bind(0)]) == [denied, denied]


@pytest.mark.parametrize("version", VERSIONS)
def test_tcp_to_a_granted_port_only(version: int, tree: Tree, listener: socket.socket) -> None:
    address = listener.getsockname()
    with socket.create_server(("127.0.0.1", 0)) as other:
        there = other.getsockname()
        denied = errno.EACCES if version >= 4 else 0
        ports = (("CONNECT_TCP", address[1]), ("BIND_TCP", 0))
        got = tree.confined(version, lambda: [connect(address), connect(there), bind(0)], ports=ports)
        assert got == [0, denied, 0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_abstract_sockets_of_the_host_are_out_of_scope(kind: int, version: int, tree: Tree) -> None:
    with socket.socket(socket.AF_UNIX, kind) as host:
        host.bind(f"\0stockade-test-{os.getpid()}")
        if kind == socket.SOCK_STREAM:
            host.listen()
        name = host.getsockname()
        assert in_child(lambda: connect(name, socket.AF_UNIX, kind)) == 0
        got = tree.confined(version, lambda: connect(name, socket.AF_UNIX, kind))
        assert got == (errno.EPERM if version >= 6 else 0)


def test_abstract_sockets_of_ones_own_work(tree: Tree) -> None:
    def own() -> int:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(f"\0stockade-test-own-{os.getpid()}")
            s.listen()
            return connect(s.getsockname(), socket.AF_UNIX)

    assert tree.confined(None, own) == 0


@pytest.mark.parametrize("version", VERSIONS)
def test_signals_do_not_leave_the_domain(version: int, tree: Tree) -> None:
    def out_and_in() -> list[int]:
        outside = outcome(lambda: os.kill(os.getppid(), 0))
        own = os.fork()
        if own == 0:
            signal.pause()
        inside = outcome(lambda: os.kill(own, signal.SIGKILL))
        os.waitpid(own, 0)
        return [outside, inside]

    assert in_child(out_and_in) == [0, 0]
    assert tree.confined(version, out_and_in) == [errno.EPERM if version >= 6 else 0, 0]


def test_the_mount_tree_cannot_be_changed_from_inside(tree: Tree) -> None:
    def attempt() -> int:
        return outcome(lambda: call("mount", b"none", os.fsencode(tree.base / "write"), b"tmpfs", 0, None))

    assert tree.confined(1, attempt) == errno.EPERM


# --- what the module asks of the kernel ----------------------------------------------------------------------------


def accepted(*masks: int) -> bool:
    raw = b"".join(m.to_bytes(8, "little") for m in masks)
    got = outcome(lambda: os.close(call("landlock_create_ruleset", raw, len(raw), 0)))
    assert got in {0, errno.EINVAL}
    return got == 0


def test_the_masks_are_exactly_what_the_kernel_accepts() -> None:
    """Each bit alone: a right that we forgot would be accepted, and one above the ABI is EINVAL."""
    has = landlock.rights()
    known = landlock.abi() <= landlock.NEWEST
    for bit in range(64):
        for field, mask in enumerate((has.fs, has.net, has.scoped)):
            # the kernel refuses an empty fs, net and scope together; EXECUTE is always there
            masks = [1, 0, 0][: has.size // 8]
            if field >= len(masks):
                continue
            masks[field] |= 1 << bit
            if mask & 1 << bit:
                assert accepted(*masks), (field, bit)
            elif known:
                assert not accepted(*masks), (field, bit)


def test_the_masks_agree_with_the_landlock_package() -> None:
    everything = 0
    for right in FSAccess:
        everything |= int(right)
    assert landlock.table(landlock.NEWEST).fs == everything
    if landlock.abi() >= 5:
        assert landlock.rights().fs == int(FSAccess.all())
        assert int(FSAccess.all_file()) == landlock.FILE_RIGHTS


@pytest.mark.parametrize(
    ("version", "fs", "net", "scoped"),
    [(1, 13, 0, 0), (2, 14, 0, 0), (3, 15, 0, 0), (4, 15, 2, 0), (5, 16, 2, 0), (6, 16, 2, 2), (7, 16, 2, 2)],
)
def test_each_abi_has_its_rights(version: int, fs: int, net: int, scoped: int) -> None:
    has = landlock.table(version)
    assert (has.fs.bit_count(), has.net.bit_count(), has.scoped.bit_count()) == (fs, net, scoped)
    assert has.size == {1: 8, 4: 16, 6: 24}[max(v for v in (1, 4, 6) if v <= version)]


def test_a_newer_abi_is_used_as_the_newest_known() -> None:
    assert landlock.table(99) == landlock.table(landlock.NEWEST)


def test_an_abi_that_the_kernel_lacks_is_refused() -> None:
    for version in (0, -1, landlock.abi() + 1):
        with pytest.raises(OSError, match="Landlock ABI") as caught:
            landlock.build(read=[], write=[], execute=[], tcp=False, version=version)
        assert caught.value.errno == errno.EOPNOTSUPP


@pytest.mark.parametrize("version", VERSIONS)
def test_the_receipt_names_what_is_handled(version: int) -> None:
    receipt = landlock.receipt(version)
    assert receipt["abi"] == version
    assert ("refer" in receipt["fs"]) == (version >= 2)
    assert ("truncate" in receipt["fs"]) == (version >= 3)
    assert receipt["net"] == (["bind_tcp", "connect_tcp"] if version >= 4 else [])
    assert ("ioctl_dev" in receipt["fs"]) == (version >= 5)
    assert receipt["scoped"] == (["abstract_unix_socket", "signal"] if version >= 6 else [])
    assert landlock.receipt(version, tcp=True)["net"] == []
    assert len(receipt["fs"]) == landlock.table(version).fs.bit_count()


def test_no_grant_of_ours_makes_device_nodes() -> None:
    devices = int(FSAccess.MAKE_CHAR | FSAccess.MAKE_BLOCK)
    for grant in (landlock.READ, landlock.WRITE, landlock.EXECUTE, landlock.DEVICE):
        assert grant & devices == 0
    assert landlock.WRITE & int(FSAccess.EXECUTE | FSAccess.IOCTL_DEV) == 0


# --- rulesets as objects --------------------------------------------------------------------------------------------


def descriptors() -> set[int]:
    """The open descriptors, without the one by which they are listed."""
    return {int(name) for name in os.listdir("/proc/self/fd") if outcome(partial(os.fstat, int(name))) == 0}


def test_a_ruleset_is_close_on_exec_and_nothing_else_stays_open(tree: Tree) -> None:
    before = descriptors()
    ruleset, missing = landlock.build(read=["/usr"], write=[str(tree.base)], execute=SYSTEM, tcp=False)
    try:
        assert missing == []
        assert fcntl.fcntl(ruleset, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        assert descriptors() - before == {ruleset}
    finally:
        os.close(ruleset)
    assert descriptors() == before


def test_a_failed_build_leaves_no_descriptor(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="absolute") as relative:
        landlock.build(read=[str(tree.base), "usr"], write=[], execute=[], tcp=False)
    assert relative.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="NUL"):
        landlock.build(read=["/usr\0/x"], write=[], execute=[], tcp=False)
    # A rule that grants nothing is refused by the kernel, when ruleset and path are both open.
    monkeypatch.setattr(landlock, "READ", 1 << 63)
    with pytest.raises(OSError, match="No message") as refused:
        landlock.build(read=[str(tree.base)], write=[], execute=[], tcp=False)
    assert refused.value.errno == errno.ENOMSG
    assert descriptors() == before


def test_missing_paths_are_named_once_and_do_not_stop_the_rest(tree: Tree) -> None:
    gone = str(tree.base / "gone")
    below_a_file = str(tree.base / "read" / "file" / "x")
    ruleset, missing = landlock.build(
        read=[gone, below_a_file, str(tree.base)], write=[gone], execute=[], devices=[gone], tcp=False
    )
    os.close(ruleset)
    assert missing == [gone, below_a_file]


def test_a_stale_errno_fails_nothing(tree: Tree) -> None:
    """The package's own check takes an old errno for a failure of the next call."""
    ctypes.set_errno(errno.ENOTTY)
    try:
        ruleset, _ = landlock.build(read=[str(tree.base)], write=[], execute=[], tcp=False)
        os.close(ruleset)
    finally:
        ctypes.set_errno(0)


def test_a_refused_rule_is_a_plain_oserror_and_harms_no_later_one(tree: Tree) -> None:
    ruleset, _ = landlock.build(read=[], write=[], execute=[], tcp=False)
    try:
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            landlock._add_rule(ruleset, landlock.RULE_PATH_BENEATH, PathBeneathAttr(landlock.READ, 999))
        assert type(caught.value) is OSError
        assert caught.value.errno == errno.EBADF
        assert landlock._allow_path(ruleset, str(tree.base), landlock.READ)
    finally:
        os.close(ruleset)


def test_a_rule_holds_the_directory_and_not_the_name(tree: Tree) -> None:
    """Whoever swaps the path after the build gains nothing; the directory that was meant keeps its grant."""
    link = tree.base / "link"
    link.symlink_to("read")

    def swap_then_read() -> list[int]:
        ruleset, _ = landlock.build(read=[str(link)], write=[], execute=[], tcp=False)
        link.unlink()
        link.symlink_to("nothing")
        no_new_privs()
        landlock.restrict_self(ruleset)
        os.close(ruleset)
        return [outcome(partial(opened, tree.base / d / "file", os.O_RDONLY)) for d in ("read", "link", "nothing")]

    assert in_child(swap_then_read) == [0, errno.EACCES, errno.EACCES]


def test_a_single_file_gets_only_file_rights(tree: Tree) -> None:
    target = tree.base / "nothing" / "file"

    def attempt() -> list[int]:
        return [
            outcome(lambda: opened(target, os.O_RDWR)),
            outcome(lambda: os.truncate(target, 0)),
            outcome(lambda: opened(target.with_name("program"), os.O_RDONLY)),
            outcome(target.unlink),
        ]

    assert tree.confined(None, attempt, write=[str(target)]) == [0, 0, errno.EACCES, errno.EACCES]


def test_one_path_in_several_lists_gets_the_union(tree: Tree) -> None:
    here = tree.base / "nothing"
    lists = {"read": [str(here)], "write": [str(here)], "execute": [str(here), *SYSTEM]}

    def attempt() -> list[int]:
        return [outcome(lambda: run(here / "program")), outcome(lambda: (here / "new").mkdir())]

    assert tree.confined(None, attempt, **lists) == [0, 0]


def test_restricting_oneself_needs_no_new_privs_or_privilege(tree: Tree) -> None:
    def without() -> int:
        ruleset, _ = landlock.build(read=["/usr"], write=[], execute=[], tcp=False)
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        return outcome(lambda: landlock.restrict_self(ruleset))

    assert in_child(without) == errno.EPERM


def test_log_flags_are_given_where_the_abi_has_them(tree: Tree) -> None:
    def with_flags(flags: int | None) -> int:
        ruleset, _ = landlock.build(read=["/usr"], write=[], execute=[], tcp=False)
        no_new_privs()
        return outcome(lambda: landlock.restrict_self(ruleset, flags))

    assert in_child(lambda: with_flags(None)) == 0
    every = landlock.LOG_SAME_EXEC_OFF | landlock.LOG_NEW_EXEC_ON | landlock.LOG_SUBDOMAINS_OFF
    assert in_child(lambda: with_flags(every)) == (0 if landlock.abi() >= 7 else errno.EINVAL)
    assert in_child(lambda: with_flags(1 << 31)) == errno.EINVAL


def test_a_domain_is_inherited_and_can_only_be_narrowed(tree: Tree) -> None:
    def attempt() -> list[int]:
        ruleset, _ = landlock.build(read=["/"], write=["/"], execute=["/"], tcp=True)
        landlock.restrict_self(ruleset)
        here = outcome(lambda: opened(tree.base / "nothing" / "file", os.O_RDONLY))
        pid = os.fork()
        if pid == 0:
            os._exit(outcome(lambda: opened(tree.base / "nothing" / "file", os.O_RDONLY)))
        return [here, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])]

    assert tree.confined(None, attempt) == [errno.EACCES, errno.EACCES]


def test_every_right_of_the_newest_abi_has_an_attempt() -> None:
    """The walk that keeps this file honest: a right in the receipt without an attempt above fails here."""
    elsewhere = {"make_char", "make_block", "ioctl_dev"}
    assert {a.right for a in ATTEMPTS} | elsewhere == set(landlock.receipt()["fs"])
