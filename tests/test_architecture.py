"""The import map of the design, checked from the source: who may import whom, and that rooms stay small."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "supervisor"
MAX_LINES = 400

# Room (or top-level module) -> what of Stockade it may import. The room itself is always among it. An entry with a
# dot allows one module of another room and no more.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "layout": set(),
    "systemd": set(),
    "wire": {"errors", "layout"},
    "policy": {"errors", "layout"},
    "kernel": {"errors"},
    "audit": {"errors", "wire"},
    "decide": {"errors", "policy", "wire"},
    "state": {"errors"},
    "parser": {"errors", "policy", "decide.shell", "wire"},
    "approvals": {"errors", "policy", "state", "audit.bounded", "audit.events"},
    "runs": {
        "errors",
        "layout",
        "policy",
        "decide",
        "audit",
        "wire",
        "runtimes.base",
        "state",
        "approvals",
        "parser.client",
    },
    "runtimes": {"errors", "policy", "wire"},
    "api": {"errors", "layout", "policy", "decide", "runs", "wire", "approvals.model"},
    "cli": {"errors", "layout", "policy"},
    "launcher": {"errors", "layout", "wire", "policy", "kernel", "audit.events"},
    # The composition root in two halves: daemon as root, main after root was given up. Nothing else knows every room,
    # and the unprivileged half knows nothing of launcher and kernel.
    "daemon": {"errors", "layout", "systemd", "wire", "policy", "kernel", "audit", "launcher", "parser", "main"},
    "main": {"errors", "layout", "systemd", "wire", "policy", "audit", "decide", "runs", "runtimes", "parser", "api"},
}
# Imports that stand in a function (so at call time) or under TYPE_CHECKING (so never at run time), beyond ALLOWED.
LAZY: dict[str, set[str]] = {"cli": {"daemon", "decide", "parser"}, "launcher": {"decide.selftest", "parser.shfmt"}}
TYPING: dict[str, set[str]] = {"decide": {"runs.model"}}
# Rooms of the privileged side: the big libraries never enter a process that is forked before main drops its rights.
SMALL = ("launcher", "kernel", "wire", "errors", "layout", "audit")
HEAVY = {"aiohttp", "pydantic", "click", "cryptography", "psutil", "asyncio"}
# Files over MAX_LINES, each with its reason.
LONG: dict[str, str] = {}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(p for p in parts if p != "__init__")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


class Imports(ast.NodeVisitor):
    """Every import of a file: (module as dotted name, line, "top", "lazy" or "typing")."""

    def __init__(self, path: Path) -> None:
        self.found: list[tuple[str, int, str]] = []
        self._path = path
        self._where = "top"
        self.visit(ast.parse(path.read_text()))

    def _inside(self, where: str, nodes: list[ast.stmt]) -> None:
        outer, self._where = self._where, "typing" if self._where == "typing" else where
        for node in nodes:
            self.visit(node)
        self._where = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside("lazy", node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside("lazy", node.body)

    def visit_If(self, node: ast.If) -> None:
        only_types = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        self._inside("typing" if only_types else self._where, node.body)
        self._inside(self._where, node.orelse)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(alias.name, node.lineno, self._where) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"{self._path}:{node.lineno}: a relative import"
        assert node.module is not None
        for alias in node.names:
            # `from supervisor.kernel import mounts` names a module, `from supervisor.errors import Denied` does not.
            dotted = f"{node.module}.{alias.name}"
            place = ROOT / dotted.replace(".", "/")
            is_module = place.with_suffix(".py").exists() or place.is_dir()
            self.found.append((dotted if is_module else node.module, node.lineno, self._where))


def permitted(room: str, target: str, where: str) -> bool:
    allowed = ALLOWED[room] | {room} | (LAZY.get(room, set()) if where in ("lazy", "typing") else set())
    if where == "typing":
        allowed |= TYPING.get(room, set())
    return any(target == a or target.startswith(a + ".") for a in allowed)


def violations(path: Path) -> list[str]:
    room, wrong = room_of(path), []
    for module, line, where in Imports(path).found:
        if module == "supervisor" or not module.startswith("supervisor."):
            continue
        target = module.removeprefix("supervisor.")
        if not permitted(room, target, where):
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {room} may not import {target}")
    return wrong


def test_every_room_stands_in_the_table() -> None:
    rooms = {room_of(p) for p in modules()} - {"__init__", "__main__"}
    assert rooms <= set(ALLOWED), f"not in the table: {sorted(rooms - set(ALLOWED))}"


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_the_table_grants(room: str) -> None:
    wrong = [v for p in modules() if room_of(p) == room for v in violations(p)]
    assert not wrong, "\n".join(wrong)


def test_only_launcher_and_daemon_know_launcher_and_kernel() -> None:
    """Said by the table already; said again so that no later line of the table can grant it in passing."""
    for room, allowed in ALLOWED.items():
        if room not in ("launcher", "daemon"):
            assert not {a for a in allowed if a.split(".")[0] in ("launcher", "kernel")} - {room}, room


@pytest.mark.parametrize("room", SMALL)
def test_the_privileged_side_never_loads_a_large_library(room: str) -> None:
    wrong = [
        f"{p.relative_to(ROOT)}:{line}: {module}"
        for p in modules()
        if room_of(p) == room
        for module, line, where in Imports(p).found
        if module.split(".")[0] in HEAVY and where != "typing"
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_longer_than_one_sitting() -> None:
    long = {name_of(p): n for p in modules() if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert set(long) == set(LONG), f"over {MAX_LINES} lines: {long}; excepted: {sorted(LONG)}"


def test_every_room_says_what_it_is() -> None:
    silent = [
        str(p.relative_to(ROOT))
        for p in PACKAGE.rglob("__init__.py")
        if not ast.get_docstring(ast.parse(p.read_text()))
    ]
    assert not silent, silent


def test_every_module_opens_with_its_purpose() -> None:
    silent = [str(p.relative_to(ROOT)) for p in modules() if not ast.get_docstring(ast.parse(p.read_text()))]
    assert not silent, silent


def test_the_check_sees_a_forbidden_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that cannot be violated would prove nothing: a planted import of each kind is found."""
    room = tmp_path / "supervisor" / "api"
    room.mkdir(parents=True)
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path / "supervisor")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    for source in (
        "import supervisor.launcher.plan\n",
        "from supervisor.kernel import mounts\n",
        "def f():\n    from supervisor.launcher import loop\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import supervisor.kernel\n",
    ):
        (room / "planted.py").write_text(source)
        assert len(violations(room / "planted.py")) == 1, source
    (room / "planted.py").write_text("from supervisor.errors import Denied\nimport supervisor.runs.model\n")
    assert not violations(room / "planted.py")
