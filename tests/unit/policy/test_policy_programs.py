"""allowed_commands on a host: which files the names are, what they need in order to start, what is covered."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from supervisor.policy import elf, programs
from tests.unit.decide.samples import profile

if TYPE_CHECKING:
    from supervisor.policy.snapshot import Profile

EXECUTE = ("/usr", "/bin", "/sbin", "/lib", "/lib64")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def host(*names: str, **changes: Any) -> Profile:
    return profile(read=(*EXECUTE, "/etc/alternatives"), execute=EXECUTE, allowed_commands=names, **changes)


def resolved(one: Profile, path: str = PATH) -> tuple[set[str], tuple[str, ...], list[programs.Problem]]:
    found, covered, problems = programs.resolve(one, path, WALKED)
    return set(found), covered, problems


WALKED: programs.Walked = {}  # the host's own trees are walked once for all tests of this module


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty host; only here may it lie below /tmp, which a session otherwise has to itself."""
    monkeypatch.setattr(programs, "PRIVATE", ("/nowhere",))
    return tmp_path.resolve()


def made(path: Path, data: bytes = b"\x7fELF", mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def of(root: Path, *names: str, execute: tuple[str, ...] = (), **changes: Any) -> Any:
    given = {"read": (str(root),), "write": (), "execute": execute or (str(root),), **changes}
    one = profile(allowed_commands=names, **given)
    return programs.resolve(one, f"{root}/bin:relative:")


# --- this host --------------------------------------------------------------------------------------------------


def test_without_a_list_there_is_nothing_to_resolve() -> None:
    assert programs.resolve(host(), PATH) == ((), (), [])


def test_a_program_brings_its_loader_and_no_shell() -> None:
    found, _, problems = resolved(host("sort"))
    assert problems == []
    loader = elf.kind("/usr/bin/sort").loader
    assert found >= {"/usr/bin/sort", os.path.realpath(loader)}
    assert not any(os.path.basename(path) in ("sh", "dash", "bash") for path in found)
    assert len(found) <= 3


def test_a_link_is_taken_with_the_file_that_it_is() -> None:
    found, _, problems = resolved(host("python3"))
    assert problems == []
    assert {"/usr/bin/python3", os.path.realpath("/usr/bin/python3")} <= found


def test_the_shell_of_the_profile_is_a_program_when_it_is_named() -> None:
    assert "/bin/sh" in resolved(host("sh"))[0]
    assert "/bin/sh" not in resolved(host("sort"))[0]


def test_git_brings_its_parts_but_none_that_would_bring_a_shell() -> None:
    found, _, problems = resolved(host("git"))
    assert problems == []
    parts = [p for p in found if "git-core" in p]
    assert parts
    assert all(elf.is_elf(p) for p in parts)
    assert not any(os.path.basename(path) in ("sh", "dash", "bash", "perl") for path in found)


def test_everything_that_path_names_is_covered() -> None:
    _, covered, _ = resolved(host("sort"))
    for directory in PATH.split(":"):
        real = os.path.realpath(directory)
        assert real in covered, directory


def test_no_library_is_covered() -> None:
    _, covered, _ = resolved(host("sort"))
    maps = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if ".so" in line}
    used = {os.path.realpath(path) for path in maps if path.startswith("/usr/lib/")}
    assert used
    assert not [(p, c) for p in used for c in covered if p == c or p.startswith(c + "/")]


# --- made for the test ------------------------------------------------------------------------------------------


def test_only_the_first_of_path_counts(tree: Path) -> None:
    first = made(tree / "bin" / "tool")
    made(tree / "other" / "tool")
    assert of(tree, "tool")[0] == (first,)


@pytest.mark.parametrize(
    ("line", "brings"),
    [
        (b"#!ROOT/bin/python\n", {"python"}),
        (b"#! ROOT/bin/python -B\n", {"python"}),
        (b"#!ROOT/bin/env python\n", {"env", "python"}),
        (b"#!ROOT/bin/env -S A=b python -B\n", {"env", "python"}),
        (b"#!ROOT/bin/env ROOT/bin/python", {"env", "python"}),
        (b"no first line of that kind\n", set()),
        (b"", set()),
    ],
)
def test_a_script_brings_what_its_first_line_names(tree: Path, line: bytes, brings: set[str]) -> None:
    for name in ("env", "python", "unasked"):
        made(tree / "bin" / name)
    script = made(tree / "bin" / "script", line.replace(b"ROOT", os.fsencode(tree)))
    found, _, problems = of(tree, "script")
    assert problems == []
    assert set(found) == {script, *(f"{tree}/bin/{name}" for name in brings)}


def test_a_script_that_names_itself_ends(tree: Path) -> None:
    script = made(tree / "bin" / "loop", b"#!" + os.fsencode(tree / "bin" / "loop"))
    assert of(tree, "loop")[0] == (script,)


def _no_x(tree: Path) -> str:
    return made(tree / "bin" / "data", mode=0o644)


def _directory(tree: Path) -> str:
    (tree / "bin" / "dir").mkdir(parents=True)
    return str(tree / "bin" / "dir")


def _outside(tree: Path) -> str:
    return made(tree / "elsewhere" / "tool")


def _link_outside(tree: Path) -> str:
    (tree / "bin").mkdir()
    os.symlink(made(tree / "elsewhere" / "tool"), tree / "bin" / "link")
    return str(tree / "bin" / "link")


def _loop(tree: Path) -> str:
    (tree / "bin").mkdir()
    os.symlink("a", tree / "bin" / "a")
    return str(tree / "bin" / "a")


def _needs_what_is_not_there(tree: Path) -> str:
    return made(tree / "bin" / "script", b"#!/no/such/interpreter\n")


def _needs_what_is_not_in_path(tree: Path) -> str:
    made(tree / "bin" / "env")
    return made(tree / "bin" / "script", f"#!{tree}/bin/env no-such\n".encode())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda _: "no-such", "no program no-such in PATH"),
        (lambda _: "bin/tool", "no program bin/tool in PATH"),
        (lambda tree: f"{tree}/bin/gone", "No such file"),
        (_no_x, "not executable"),
        (_directory, "is not executable"),
        (_outside, "not below a path of execute"),
        (_link_outside, "not below a path of execute"),
        (_loop, "cannot be used"),
        (_needs_what_is_not_there, "needs in order to start, cannot be used"),
        (_needs_what_is_not_in_path, "needs no-such, which is not in PATH"),
    ],
)
def test_what_cannot_be_a_program_is_said(tree: Path, make: Any, said: str) -> None:
    name = make(tree)
    problems = of(tree, name, execute=(f"{tree}/bin",))[2]
    assert [p.place for p in problems] == [0]
    assert said in problems[0].message


def test_a_link_through_what_a_session_does_not_show_is_said(tree: Path) -> None:
    target = made(tree / "bin" / "real")
    (tree / "alternatives").mkdir()
    os.symlink(target, tree / "alternatives" / "tool")
    os.symlink(tree / "alternatives" / "tool", tree / "bin" / "tool")
    both = (f"{tree}/bin", f"{tree}/alternatives")
    hidden = profile(read=(), write=(), execute=both[:1], allowed_commands=("tool",))
    assert "does not show" in programs.resolve(hidden, both[0])[2][0].message
    shown = profile(read=both[1:], write=(), execute=both[:1], allowed_commands=("tool",))
    assert programs.resolve(shown, both[0])[2] == []


def test_a_directory_of_programs_is_covered_whole_and_beside_libraries_each_alone(tree: Path) -> None:
    made(tree / "lib" / "pure" / "helper")
    made(tree / "lib" / "pure" / "below" / "other")
    made(tree / "lib" / "mixed" / "helper")
    made(tree / "lib" / "mixed" / "libx.so.1.2")
    made(tree / "lib" / "mixed" / "data", b"text")
    made(tree / "lib" / "mixed" / "not-executable", mode=0o644)
    made(tree / "lib" / "above" / "helper")
    made(tree / "lib" / "above" / "plugins" / "plugin.so")
    made(tree / "lib" / "scripts" / "script", b"#!/bin/sh\n")
    made(tree / "lib" / "tool" / "bin" / "deep" / "program")
    made(tree / "bin" / "tool")
    covered = of(tree, "tool")[1]
    assert [os.path.relpath(p, tree) for p in covered] == [
        "bin", "lib/above/helper", "lib/mixed/helper", "lib/pure", "lib/tool/bin",
    ]  # fmt: skip


def test_a_file_that_execute_names_is_covered_as_one_in_a_directory_is(tree: Path) -> None:
    tool, other, library = made(tree / "bin" / "tool"), made(tree / "bin" / "other"), made(tree / "lib" / "ld.so.2")
    script = made(tree / "bin" / "script", b"#!/bin/sh\n")
    found = of(tree / "nowhere", tool, execute=(tool, other, library, script, f"{tree}/gone"))
    assert found == ((tool,), (other, tool), [])


def test_what_is_mounted_for_execution_for_the_sake_of_a_link_is_walked(tree: Path) -> None:
    """By what is written below it, launcher.plan mounts /opt with execution here."""
    tool, other = made(tree / "usr" / "tool"), made(tree / "opt" / "other" / "program")
    (tree / "opt" / "link").symlink_to(tree / "usr")
    one = profile(
        read=(f"{tree}/opt",), write=(), execute=(f"{tree}/opt/link", f"{tree}/usr"), allowed_commands=(tool,)
    )
    assert os.path.dirname(other) in programs.resolve(one, "")[1]


@pytest.mark.parametrize("name", ["tool", "link"])
def test_a_program_that_a_run_could_change_is_said(tree: Path, name: str) -> None:
    made(tree / "bin" / "tool" if name == "link" else tree / "open" / "tool")
    (tree / "open").mkdir(exist_ok=True)
    if name == "link":
        (tree / "open" / "link").symlink_to(tree / "bin" / "tool")
    found = of(tree, f"{tree}/open/{name}", write=(f"{tree}/open",))
    assert [p.message for p in found[2]] == [
        f"{tree}/open/{name} is or leads through {tree}/open/{name}, which runs may write"
    ]
    assert found[0] == ()


def test_nothing_that_is_not_mounted_for_execution_is_walked(tree: Path) -> None:
    made(tree / "read" / "program")
    made(tree / "run" / "bin" / "tool")
    one = profile(read=(f"{tree}/read",), execute=(f"{tree}/run",), allowed_commands=(f"{tree}/run/bin/tool",))
    assert programs.resolve(one, "")[1] == (f"{tree}/run/bin",)


def test_a_tree_that_is_too_large_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "MOST_LOOKED_AT", 3)
    for n in range(4):
        made(tree / "bin" / f"tool{n}")
    problems = of(tree, "tool0")[2]
    assert [p.place for p in problems] == [None]
    assert "too much" in problems[0].message


# --- heads of files ---------------------------------------------------------------------------------------------


def _image(path: Path, *, wide: bool, order: str, loader: bytes = b"/lib/ld.so\0", place: int = 200) -> Path:
    if wide:
        head = struct.pack(f"{order}16sHHIQQQIHHHHHH", _ident(wide, order), 2, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        other = struct.pack(f"{order}IIQQQQQQ", 1, 0, 0, 0, 0, 0, 0, 0)
        table = other + struct.pack(f"{order}IIQQQQQQ", 3, 4, place, 0, 0, len(loader), 0, 1)
    else:
        head = struct.pack(f"{order}16sHHIIIIIHHHHHH", _ident(wide, order), 2, 3, 1, 0, 52, 0, 0, 52, 32, 2, 0, 0, 0)
        other = struct.pack(f"{order}IIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0)
        table = other + struct.pack(f"{order}IIIIIIII", 3, place, 0, 0, len(loader), 0, 4, 1)
    path.write_bytes((head + table).ljust(place, b"\0") + loader)
    return path


def _ident(wide: bool, order: str) -> bytes:
    return b"\x7fELF" + bytes([2 if wide else 1, 1 if order == "<" else 2, 1]).ljust(12, b"\0")


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_loader_of_every_class_and_order_is_read(tmp_path: Path, wide: bool, order: str) -> None:
    image = _image(tmp_path / "x", wide=wide, order=order)
    assert elf.kind(str(image)) == elf.Kind(elf=True, loader="/lib/ld.so", line=())


@pytest.mark.parametrize("length", [0, 4, 5, 16, 40, 63, 64, 100, 176])
def test_a_head_that_is_cut_off_has_no_loader(tmp_path: Path, length: int) -> None:
    image = _image(tmp_path / "x", wide=True, order="<")
    image.write_bytes(image.read_bytes()[:length])
    assert elf.kind(str(image)).loader == ""


def test_a_head_with_absurd_numbers_is_no_loader(tmp_path: Path) -> None:
    image = _image(tmp_path / "x", wide=True, order="<", place=1 << 20)
    data = bytearray(image.read_bytes()[:400])
    data[32:40] = b"\xff" * 7 + b"\x7f"
    image.write_bytes(data)
    assert elf.kind(str(image)).loader == ""


def test_a_loader_or_line_with_a_nul_ends_there_as_it_does_for_the_kernel(tmp_path: Path) -> None:
    """No path holds one: looking for such a file would end the load of the policy without a word about why."""
    image = _image(tmp_path / "x", wide=True, order="<")
    image.write_bytes(image.read_bytes().replace(b"/lib/ld.so", b"/lib/\0d.so"))
    assert elf.kind(str(image)).loader == "/lib/"
    (tmp_path / "y").write_bytes(b"#!/bin/sh\0 -x\n")
    assert elf.kind(str(tmp_path / "y")).line == ("/bin/sh",)


def test_a_static_program_has_no_loader_and_a_real_one_its_own(tmp_path: Path) -> None:
    assert elf.kind(shutil.which("sort") or "").loader.startswith("/lib")
    with pytest.raises(OSError, match="No such file"):
        elf.kind(str(tmp_path / "none"))
    assert not elf.is_elf(str(tmp_path / "none"))
