"""Which files a yes is bound to, and the names that it cannot be bound to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from supervisor import errors
from supervisor.decide import scripts
from supervisor.decide.shell.analyse import analyse_argv, analyse_script
from supervisor.decide.shell.model import Analysis
from supervisor.parser.shfmt import Shfmt
from tests.unit.decide.samples import request

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKSPACE = "/srv/ws"


@pytest.fixture(scope="module")
def shfmt() -> Iterator[Shfmt]:
    with Shfmt() as parser:
        yield parser


def named(*names: str, directory: str = WORKSPACE, writable: tuple[str, ...] = ()) -> list[str]:
    return scripts.named(Analysis(scripts=names), request(), WORKSPACE, directory, writable)


def of_script(shfmt: Shfmt, text: str, **more: object) -> list[str]:
    asked = request(argv=None, script=text, **more)
    return scripts.named(analyse_script(text, shfmt.parse), asked, WORKSPACE, WORKSPACE)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("x.sh", "./x.sh", "/srv/ws/x.sh", ".//x.sh"), ["x.sh"]),
        (("sub/y.sh", "../ws/z.sh"), ["sub/y.sh", "z.sh"]),
        (("/usr/bin/tool", "/etc/profile"), []),
        ((), []),
    ],
)
def test_files_of_the_workspace_are_held_and_the_hosts_are_not(names, found) -> None:
    assert named(*names) == found


@pytest.mark.parametrize("name", ["/tmp/x.sh", "/var/tmp/x", "/dev/shm/x", "/home/agent/x", "~/x.sh", "~root/x.sh"])
def test_what_the_session_has_to_itself_cannot_be_approved(name: str) -> None:
    with pytest.raises(errors.Denied) as refusal:
        named(name)
    assert refusal.value.rule == "approvals"
    with pytest.raises(errors.Denied):
        named(os.path.basename(name), directory=os.path.dirname(name) if name[0] == "/" else "/tmp")


def test_what_a_profile_lets_be_written_elsewhere_cannot_be_approved() -> None:
    assert named("/data/x.sh") == []
    with pytest.raises(errors.Denied):
        named("/data/x.sh", writable=("$WORKSPACE", "/data"))


def test_more_scripts_than_one_yes_can_be_bound_to_are_refused() -> None:
    names = tuple(f"{n}.sh" for n in range(scripts.MOST + 1))
    assert len(named(*names[1:])) == scripts.MOST
    with pytest.raises(errors.Denied):
        named(*names)


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("link/../x.sh", WORKSPACE),
        ("x.sh", f"{WORKSPACE}/link/.."),
        ("../x.sh", f"{WORKSPACE}/link"),
        (f"{WORKSPACE}/link/../x.sh", "/"),
        ("../../srv/ws/link/../x.sh", WORKSPACE),
    ],
)
def test_a_name_that_goes_up_again_in_the_workspace_is_not_taken_for_what_it_reads_as(name, directory) -> None:
    """Where the link leads into another directory, the kernel would open a file that nobody looked at."""
    with pytest.raises(errors.Denied, match="symbolic link"):
        named(name, directory=directory)


@pytest.mark.parametrize("name", ["*.sh", "./[ab].sh", "?.sh", "…/x.sh", "/proc/self/cwd/x.sh", "/dev/fd/3"])
def test_a_name_that_is_only_known_at_run_time_is_not_taken(name: str) -> None:
    with pytest.raises(errors.Denied):
        named(name)


def test_the_directory_that_a_script_enters_first_is_where_its_files_are(shfmt: Shfmt) -> None:
    assert of_script(shfmt, "cd sub && sh x.sh && ./y.sh") == ["sub/x.sh", "sub/y.sh"]
    assert of_script(shfmt, "cd /srv/ws/sub; sh x.sh") == ["sub/x.sh"]
    argv = ("bash", "-lc", "cd sub && sh x.sh")
    asked = request(argv=argv)
    assert scripts.named(analyse_argv(argv, shfmt.parse), asked, WORKSPACE, WORKSPACE) == ["sub/x.sh"]
    assert of_script(shfmt, 'cd "$X"; sh /srv/ws/x.sh') == ["x.sh"], "where it is does not matter to that"
    assert of_script(shfmt, "cd sub && ls") == []


@pytest.mark.parametrize(
    "text",
    [
        "(cd sub); sh x.sh",
        "true; cd sub; sh x.sh",
        "cd sub || sh x.sh",
        "cd sub & sh x.sh",
        "cd sub && cd deeper && sh x.sh",
        'cd "$X" && sh x.sh',
        "cd - && sh x.sh",
        "cd sub/* && sh x.sh",
        "pushd sub && sh x.sh",
        "for i in 1 2; do sh x.sh; cd sub; done",
        "env -C sub sh x.sh",
        "env -iC sub sh x.sh",
        "env --chd=sub sh x.sh",
        "find . -execdir sh x.sh \\;",
        "$UNKNOWN sub; sh x.sh",
    ],
)
def test_a_directory_that_is_entered_otherwise_is_asked_for_as_cwd(shfmt: Shfmt, text: str) -> None:
    with pytest.raises(errors.Denied) as refusal:
        of_script(shfmt, text)
    assert refusal.value.hint


def test_where_the_shell_would_look_for_the_directory_elsewhere_it_is_not_taken(shfmt: Shfmt) -> None:
    with pytest.raises(errors.Denied):
        of_script(shfmt, "cd sub && sh x.sh", env={"CDPATH": "/srv/ws/other"})
