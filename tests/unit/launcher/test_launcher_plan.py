"""The mount tree and the Landlock paths of a profile: nothing of the host that the profile does not name."""

from __future__ import annotations

import pytest

from supervisor.launcher import operations as ops
from supervisor.launcher import plan
from supervisor.policy.match import inside
from supervisor.policy.narrow import narrowed
from tests.unit.decide.samples import profile

WHO = plan.Identity(5000, 5000, 5001)
SHELL = profile(
    read=("/usr", "/bin", "/etc/ssl/certs", "$WORKSPACE/lib"),
    write=("$WORKSPACE", "/tmp"),
    execute=("/usr/bin", "$WORKSPACE"),
)


def binds(p: object = SHELL) -> dict[str, ops.Bind]:
    return {o.path: o for o in plan.mount_tree(p, WHO) if isinstance(o, ops.Bind)}  # type: ignore[arg-type]


def test_only_paths_of_the_profile_are_bound_from_the_host() -> None:
    assert sorted(binds()) == ["/bin", "/etc/ssl/certs", "/usr"]
    assert not any(b.writable for b in binds().values())


def test_a_path_inside_another_of_its_kind_is_bound_once() -> None:
    assert plan.bound_paths(profile(read=("/usr/lib", "/usr"), write=(), execute=("/usr/bin",))) == [("/usr", False)]


def test_a_writable_path_inside_a_readable_one_is_bound_over_it() -> None:
    found = plan.bound_paths(profile(read=("/var",), write=("/var/cache/x",), execute=()))
    assert found == [("/var", False), ("/var/cache/x", True)]


@pytest.mark.parametrize("own", [*plan.OWN, "/tmp/x", "/home/agent/.cache", "/proc/sys", "/dev/shm"])
def test_what_each_session_has_of_its_own_never_comes_from_the_host(own: str) -> None:
    assert plan.bound_paths(profile(read=(own,), write=(own,), execute=(own,))) == []


def test_the_workspace_is_no_bind_of_a_path() -> None:
    """It is attached by descriptor, so its name is never resolved again."""
    assert not [p for p in binds() if "WORKSPACE" in p]


def test_etc_is_made_and_not_bound() -> None:
    tree = plan.mount_tree(profile(read=("/usr",), execute=(), write=()), WHO)
    of_etc = {o.path: o for o in tree if inside(o.path, "/etc")}
    assert set(of_etc) == {
        "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/hostname", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/mtab",
        plan.LIMITS_FILE,
    }  # fmt: skip
    assert not any(isinstance(o, ops.Bind) for o in of_etc.values())


def test_the_synthetic_files_name_the_session_and_not_the_host() -> None:
    files = {o.path: o.content for o in plan.etc_files(WHO) if isinstance(o, ops.File)}
    users = [line.split(":") for line in files["/etc/passwd"].splitlines()]
    assert ["agent", "x", "5000", "5000", "agent", plan.HOME, "/bin/sh"] in users
    assert {u[0] for u in users} == {"root", "agent", "nobody"}
    assert "dns" not in files["/etc/nsswitch.conf"]


@pytest.mark.parametrize(
    ("path", "execute", "expected"),
    [
        ("/usr", ("/usr/bin",), True),  # something below may
        ("/usr/bin/x", ("/usr/bin",), True),
        ("/usr/binary", ("/usr/bin",), False),
        ("/tmp", (), False),
        ("/var/tmp", ("/tmp",), True),
        ("/home/agent", ("/usr",), False),
        ("$WORKSPACE", ("/usr",), False),
        ("$WORKSPACE", ("$WORKSPACE/bin",), True),
    ],
)
def test_noexec_everywhere_that_the_profile_executes_nothing(
    path: str, execute: tuple[str, ...], expected: bool
) -> None:
    assert plan.executes(profile(execute=execute), path) is expected


def test_scratch_places_are_executable_only_where_the_profile_says() -> None:
    scratch = next(o for o in plan.mount_tree(SHELL, WHO) if isinstance(o, ops.Scratch))
    assert {where: executable for where, _, executable in scratch.places} == {
        "/tmp": False, "/var/tmp": False, plan.HOME: False, "/dev/shm": False,
    }  # fmt: skip
    assert (scratch.size, scratch.uid, scratch.gid) == (SHELL.limits.tmp, 5000, 5000)
    allowed = profile(execute=("/tmp",))
    places = next(o for o in plan.mount_tree(allowed, WHO) if isinstance(o, ops.Scratch)).places
    assert {where for where, _, executable in places if executable} == {"/tmp", "/var/tmp"}


def test_inodes_of_scratch_grow_with_its_size_and_have_a_floor() -> None:
    small = profile(limits=profile().limits.__class__(**{**_limits(), "tmp": 4096}))
    assert next(o for o in plan.mount_tree(small, WHO) if isinstance(o, ops.Scratch)).inodes == 1024


def _limits() -> dict[str, int]:
    limits = profile().limits
    return {name: getattr(limits, name) for name in limits.__dataclass_fields__}


def test_landlock_gets_the_workspace_in_place_of_its_name() -> None:
    rules = plan.landlock_rules(SHELL, "/srv/a b")
    assert "/srv/a b/lib" in rules.read
    assert rules.write == ["/srv/a b", "/tmp", "/var/tmp", plan.HOME, "/dev/shm"]
    assert rules.execute == ["/usr/bin", "/srv/a b"]
    assert not [p for part in rules for p in part if "$" in p]


def test_landlock_grants_writing_of_tmp_only_where_the_profile_does() -> None:
    rules = plan.landlock_rules(profile(write=("$WORKSPACE",)), "/w")
    assert "/tmp" not in rules.write
    assert "/var/tmp" not in rules.write


def test_every_secret_of_proc_is_masked_after_proc_is_mounted() -> None:
    tree = plan.mount_tree(SHELL, WHO)
    places = [o.path for o in tree]
    masked = [o.path for o in tree if isinstance(o, ops.Mask)]
    assert {"/proc/kcore", "/proc/kallsyms", "/proc/keys", "/proc/sysrq-trigger", "/proc/cmdline"} <= set(masked)
    assert all(places.index("/proc") < places.index(m) for m in masked)


def test_binds_come_before_what_lies_over_them() -> None:
    tree = plan.mount_tree(SHELL, WHO)
    last_bind = max(n for n, o in enumerate(tree) if isinstance(o, ops.Bind))
    assert all(n > last_bind for n, o in enumerate(tree) if not isinstance(o, ops.Bind))


# --- allowed_commands, and what is asked about -------------------------------------------------------------------

LISTED = profile(
    read=("/usr", "/bin"),
    write=("$WORKSPACE", "/tmp", "/srv/cache"),
    execute=("/usr/bin", "/opt/tool", "$WORKSPACE", "/tmp"),
    allowed_commands=("sort", "tool"),
    programs=("/usr/bin/sort", "/usr/lib/ld.so", "/opt/tool/bin/tool", "/opt/tool/lib/helper"),
    covered=("/usr/bin", "/usr/lib/git-core", "/opt/tool/bin", "/opt/tool/lib/helper", "/opt/tool/lib/other", "/srv/x"),
)


def test_with_a_list_only_its_files_are_executed_and_the_rest_is_read() -> None:
    rules = plan.landlock_rules(LISTED, "/w")
    assert rules.execute == list(LISTED.programs)
    assert {"/usr/bin", "/opt/tool", "/w"} <= set(rules.read)


@pytest.mark.parametrize("path", ["$WORKSPACE", "/tmp", "/var/tmp", plan.HOME, "/dev/shm", "/srv/cache", "/tmp/below"])
def test_with_a_list_nothing_that_can_be_written_is_mounted_for_execution(path: str) -> None:
    assert not plan.executes(LISTED, path)
    assert plan.executes(LISTED, "/usr")


def test_places_of_programs_are_covered_and_the_allowed_ones_uncovered_after_that() -> None:
    over = [(o.path, o.executable) for o in plan.covers(LISTED) if isinstance(o, ops.Bind)]
    assert over == [
        ("/usr/bin", False), ("/usr/lib/git-core", False), ("/opt/tool/bin", False), ("/opt/tool/lib/other", False),
        ("/usr/bin/sort", True), ("/opt/tool/bin/tool", True), ("/opt/tool/lib/helper", True),
    ]  # fmt: skip
    tree = [o for o in plan.mount_tree(LISTED, WHO) if isinstance(o, ops.Bind)]
    assert [(o.path, o.executable) for o in tree[-len(over) :]] == over
    assert not any(o.writable for o in tree[-len(over) :])


def test_without_a_list_nothing_is_covered() -> None:
    assert plan.covers(SHELL) == []


def test_every_mount_in_which_files_can_be_made_is_asked_about() -> None:
    assert plan.changeable(LISTED, "/w") == ["/w", "/tmp", "/var/tmp", plan.HOME, "/dev/shm", "/srv/cache"]


def test_a_place_of_programs_that_may_be_written_is_no_less_writable_for_it() -> None:
    places = {"/usr/bin", "/srv/cache", "/srv/cache/bin"}
    listed = profile(
        read=LISTED.read, write=LISTED.write, execute=(*LISTED.execute, "/srv/cache"), allowed_commands=("sort",),
        programs=LISTED.programs, covered=tuple(sorted(places)),
    )  # fmt: skip
    assert {o.path for o in plan.covers(listed)} & places == {"/usr/bin"}
    assert {o.path for o in plan.covers(narrowed(listed, readonly=True))} & places == places


@pytest.mark.parametrize(
    ("workspace", "top"),
    [
        ("/srv/a/b", None), ("/tmp/ws", None), ("/tmp/a/ws", "/tmp/a"), ("/var/tmp/a/b/ws", "/var/tmp/a"),
        ("/home/agent", None), ("/home/agent/a/ws", "/home/agent/a"), ("/tmpx/a/ws", None),
    ],
)  # fmt: skip
def test_the_directory_that_keeps_the_name_of_a_workspace_is_the_outermost_that_a_run_could_rename(
    workspace: str, top: str | None
) -> None:
    assert plan.own_parent(workspace) == top


def test_a_run_executes_what_it_wrote_or_has_no_file_in_memory() -> None:
    assert plan.executes_own(SHELL)
    assert plan.executes_own(profile(execute=("/usr", "/dev/shm"), write=()))
    assert plan.executes_own(profile(execute=("/srv",), write=("/srv/x",)))
    assert not plan.executes_own(profile(execute=("/usr",), write=("$WORKSPACE", "/tmp")))
    assert not plan.executes_own(narrowed(SHELL, readonly=True))
    assert not plan.executes_own(LISTED)


def test_a_profile_writes_the_workspace_or_only_reads_it() -> None:
    assert plan.writes_workspace(SHELL)
    assert not plan.writes_workspace(profile(write=("/tmp",)))
