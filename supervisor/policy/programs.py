"""From the names of `allowed_commands` to files: what of this host may be executed, and what must not even be mapped.

Landlock grants EXECUTE on files, so names become the files that they are, with what those need in order to start: the
dynamic loader, the interpreter of a script, and of a few programs the parts that they call (COMPANIONS). A loader that
may run could map any other program, and Landlock is not asked about that; so every place of programs is `covered`: it
is seen through a noexec mount, and only the programs that are allowed are seen through another.

Reads the host's file system; done once for each load.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from supervisor.policy import elf
from supervisor.policy.match import inside
from supervisor.policy.narrow import PRIVATE, WORKSPACE, covers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from supervisor.policy.snapshot import Profile

DEFAULT_PATH = "/usr/bin:/bin"  # as execvp(3), and as a child of the launcher looks for programs
MOST_LOOKED_AT = 500_000  # entries of directories
MOST_COVERED = 1000  # mounts, which each session makes
_MOST_LINKS = 40  # as path_resolution(7)

# Covered as a whole where a distribution has them: programs come and go there, and no library is loaded from there.
TOP = ("/usr", "/usr/local")
WHOLE = ("bin", "sbin", "libexec", "games", "share", "include", "src")
BINARIES = ("bin", "sbin", "libexec")  # covered as a whole wherever a program lies in one
_LIBRARY = re.compile(r"\.so(\.[\w.+-]+)?$|\.node$")


class Companions(NamedTuple):
    """Parts that a program calls by path. Only those that are no scripts: a script would bring its interpreter."""

    programs: tuple[str, ...]  # patterns of the name
    why: str
    directories: tuple[str, ...]  # patterns
    parts: tuple[str, ...]  # patterns of names in these directories
    also: tuple[str, ...] = ()  # names that are looked up in PATH


COMPANIONS = (
    Companions(
        ("git",),
        "git starts itself and its transports from its own directory",
        ("/usr/lib/git-core", "/usr/libexec/git-core", "/usr/local/libexec/git-core"),
        ("git", "git-remote-http", "git-remote-https", "git-http-fetch", "git-http-push", "git-sh-i18n--envsubst"),
    ),
    Companions(
        ("cc", "c++", "cpp", "gcc", "g++", "*-gcc", "*-g++", "*-cpp", "gcc-[0-9]*", "g++-[0-9]*", "cpp-[0-9]*",
         "*-gcc-[0-9]*", "*-g++-[0-9]*", "*-cpp-[0-9]*"),
        "the compiler proper, the assembler and the linker",
        ("/usr/lib/gcc/*/*", "/usr/libexec/gcc/*/*"),
        ("cc1", "cc1plus", "collect2", "lto1", "lto-wrapper"),
        ("as", "ld"),
    ),
    Companions(("clang", "clang++", "clang-[0-9]*"), "the linker", (), (), ("ld",)),
)  # fmt: skip


class Problem(NamedTuple):
    """What is wrong with an entry of allowed_commands, by its place; None is wrong with the profile's paths."""

    place: int | None
    message: str
    expected: str


def resolve(
    profile: Profile, path_env: str, walked: Walked | None = None
) -> tuple[tuple[str, ...], tuple[str, ...], list[Problem]]:
    """(programs, covered, problems) of a profile; all empty without a list.

    `programs` are real files, and beside them the links by which they were named, and the profile's shell when it is
    one of them. `covered` are directories, and files where a directory also holds libraries. `walked` keeps what was
    found below the paths of one profile for the others of one load.
    """
    if not profile.allowed_commands:
        return (), (), []
    finder = _Finder(profile, [d for d in path_env.split(":") if d.startswith("/")])
    for index, name in enumerate(profile.allowed_commands):
        finder.named(index, name)
    if os.path.realpath(profile.shell) in finder.programs:
        finder.programs.add(profile.shell)
    roots, walked = _mounted(profile), {} if walked is None else walked
    walk = walked[roots] = walked.get(roots) or _Walk(roots)
    problems = finder.problems
    if walk.left < 0 or len(walk.covered) > MOST_COVERED:
        said = "too much lies below the paths of execute and read to find every program there"
        problems.append(Problem(None, said, "narrower paths, without large trees such as /opt"))
    return tuple(sorted(finder.programs)), walk.covered, problems


class _Finder:
    def __init__(self, profile: Profile, directories: list[str]) -> None:
        self.programs: set[str] = set()
        self.problems: list[Problem] = []
        self._directories = directories
        self._execute = _real(profile.execute)
        self._write = (*_real(profile.write), *profile.write)
        self._shown = (*_real((*profile.execute, *profile.read)), *profile.execute, *profile.read)

    def named(self, index: int, name: str) -> None:
        path = name if name.startswith("/") else self._look_up(name)
        if path is None:
            where = ", ".join(self._directories) or "nothing"
            self._say(index, f"there is no program {name} in PATH", f"a program of {where}, or an absolute path")
        else:
            self._add(index, path, "")

    def _look_up(self, name: str) -> str | None:
        if "/" in name:
            return None
        candidates = (os.path.join(d, name) for d in self._directories)
        return next((c for c in candidates if os.path.isfile(c) and os.access(c, os.X_OK)), None)

    def _say(self, index: int, message: str, expected: str) -> None:
        self.problems.append(Problem(index, message, expected))

    def _add(self, index: int, path: str, whose: str) -> None:
        """Take a file and what it needs; `whose` is the program that needs it, "" for one that policy names."""
        what = f"{path}, which {whose} needs in order to start," if whose else path
        real = os.path.realpath(path)
        try:
            mode = os.stat(real).st_mode
            fit = stat.S_ISREG(mode) and mode & 0o111
            found = elf.kind(real) if fit else elf.NOTHING
        except OSError as e:
            self._say(index, f"{what} cannot be used: {os.strerror(e.errno or 0)}", "a program of this host")
            return
        if not fit:
            self._say(index, f"{what} is not executable", "an executable file")
            return
        if not covers(self._execute, real):
            self._say(index, f"{what} is not below a path of execute", f"a program below {', '.join(self._execute)}")
            return
        hidden = next((hop for hop in _links(path) if not covers(self._shown, hop)), None)
        if hidden is not None:
            self._say(
                index,
                f"{what} is a link through {hidden}, which the profile does not show",
                f"{real}, or {hidden} in read",
            )
            return
        if writable := next((p for p in (real, path, *_links(path)) if covers(self._write, p)), None):
            self._say(index, f"{what} is or leads through {writable}, which runs may write", "what no run can change")
            return
        if os.path.islink(path):
            self.programs.add(path)
        if real in self.programs:
            return
        self.programs.add(real)
        if found.loader:
            self._add(index, found.loader, real)
        if found.line:
            self._interpreter(index, real, found.line)
        if not whose:
            self._companions(index, {os.path.basename(path), os.path.basename(real)})

    def _interpreter(self, index: int, script: str, line: tuple[str, ...]) -> None:
        """The program of a `#!` line, and the one that env(1) is told to start."""
        self._add(index, line[0], script)
        if os.path.basename(line[0]) != "env" or len(line) < 2:
            return
        words = line[1].split()
        if words[0] in ("-S", "--split-string"):
            words = words[1:]
        name = next((word for word in words if not word.startswith("-") and "=" not in word), None)
        path = name if name is None or name.startswith("/") else self._look_up(name)
        if path is not None:
            self._add(index, path, script)
        else:
            self._say(index, f"{script} needs {name or 'a program'}, which is not in PATH", "a program that can start")

    def _companions(self, index: int, names: set[str]) -> None:
        for entry in COMPANIONS:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in entry.programs):
                continue
            for pattern in entry.directories:
                for part in (p for name in entry.parts for p in glob.glob(os.path.join(pattern, name))):
                    if covers(self._execute, os.path.realpath(part)) and elf.is_elf(part):
                        self._add(index, part, "it")
            for name in entry.also:
                if (path := self._look_up(name)) is not None:
                    self._add(index, path, "it")


def _real(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The paths of the host among these, without symbolic links."""
    own = (path for path in paths if not path.startswith(WORKSPACE) and not covers(PRIVATE, path))
    return tuple(dict.fromkeys(os.path.realpath(path) for path in own))


def _links(path: str) -> Iterator[str]:
    """Every symbolic link that the last component of a path leads through, by the real name of its directory."""
    for _ in range(_MOST_LINKS):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not os.path.islink(path):
            return
        yield path
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))


def _mounted(profile: Profile) -> tuple[str, ...]:
    """What a session sees through mounts that let programs be executed (launcher.plan), outermost first."""
    execute = (*_real(profile.execute), *profile.execute)  # the latter also as written, which is what mounts go by
    wanted = [p for p in _real((*profile.read, *profile.execute)) if any(inside(p, e) or inside(e, p) for e in execute)]
    return tuple(p for p in sorted(wanted) if not any(inside(p, other) for other in wanted if other != p))


class _Walk:
    """Looks for programs in trees that hold libraries as well."""

    def __init__(self, roots: tuple[str, ...]) -> None:
        self.left = MOST_LOOKED_AT
        found: list[str] = []
        for root in roots:
            if os.path.isdir(root):
                found += [root] if self._whole(root) else self._below(root)[0]
            elif os.access(root, os.X_OK) and not _LIBRARY.search(root) and elf.is_elf(root):
                found.append(root)
        self.covered = tuple(sorted(found))

    def _whole(self, directory: str) -> bool:
        above, name = os.path.split(directory)
        if above in TOP and name in WHOLE:
            return True
        return name in BINARIES and bool(self._below(directory)[0])

    def _below(self, directory: str) -> tuple[list[str], bool]:
        """(what is to be covered in a directory, whether a library lies anywhere in it)."""
        places: list[str] = []
        programs: list[str] = []
        libraries = False
        try:
            entries = list(os.scandir(directory))
        except OSError:
            return [], False
        self.left -= len(entries)
        for entry in entries if self.left >= 0 else ():
            if entry.is_dir(follow_symlinks=False):
                if self._whole(entry.path):
                    places.append(entry.path)
                    continue
                below, has = self._below(entry.path)
                places += below
                libraries = libraries or has
            elif _LIBRARY.search(entry.name):
                libraries = True
            elif entry.is_file(follow_symlinks=False) and _is_program(entry):
                programs.append(entry.path)
        if programs and not libraries:
            return [directory], False
        return [*places, *programs], libraries


def _is_program(entry: os.DirEntry[str]) -> bool:
    try:
        executable = entry.stat(follow_symlinks=False).st_mode & 0o111
    except OSError:
        return False
    return bool(executable) and elf.is_elf(entry.path)


Walked = dict[tuple[str, ...], _Walk]
