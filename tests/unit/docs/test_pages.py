"""The hand-written pages name files, functions and tests; what they name is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "policies" / "README.md"]


def names(path: Path) -> set[str]:
    """Top-level functions, classes and constants of a module, and the methods of its classes as CLASS.METHOD."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        if isinstance(node, ast.Assign):
            found |= {t.id for t in node.targets if isinstance(t, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_function_that_a_page_names_is_there(page: Path) -> None:
    missing = []
    for file, name in re.findall(r"`([\w/]+\.py):([\w.]+)`", page.read_text()):
        path = ROOT / "supervisor" / file
        if not path.is_file() or name not in names(path):
            missing.append(f"{file}:{name}")
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert not [link for link in links if link and not (page.parent / link).exists()]


def test_every_test_that_the_threat_model_names_is_there() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    named = set(re.findall(r"`((?:escapes|kernel|unit|system|vm)/[\w/]*(?:\.py)?)`", text))
    assert named
    assert not [name for name in sorted(named) if not (ROOT / "tests" / name).exists()]


def test_the_readmes_map_is_the_tree() -> None:
    """A newcomer who looks for a room finds it, and finds no room that the map does not have."""
    listed = (ROOT / "README.md").read_text().partition("## The map of rooms")[2]
    rooms = set(re.findall(r"^  ([a-z_]+(?:/|\.py)) ", listed, re.MULTILINE))
    top = set(re.findall(r"^([a-z]+)/ ", listed, re.MULTILINE))
    package = ROOT / "supervisor"
    there = {f"{p.name}/" for p in package.iterdir() if (p / "__init__.py").is_file()}
    there |= {p.name for p in package.glob("*.py") if not p.name.startswith("__")}
    assert rooms == there
    assert top == {"supervisor", "policies", "systemd", "scripts", "docs", "tests"}
    assert all((ROOT / name).is_dir() for name in top)
