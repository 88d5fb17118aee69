"""Rules about the shape of the code that neither the linter nor the import contracts can state."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("portal", "leasing", "hosts")
SYSFS_WRITER = "hosts/agent/sysfs.py"
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "manager", "managers", "common", "misc"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def source_files() -> list[str]:
    found = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(str(path) for path in found if "migrations" not in path.parts)


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"))


def docstring_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            yield first.value


def sysfs_paths(tree: ast.Module) -> list[str]:
    """The strings of code, not of docstrings, that name a place in /sys."""
    prose = set(docstring_nodes(tree))
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in prose)
    return [text for text in texts if isinstance(text, str) and f"{text}/".startswith("/sys/")]


def test_the_sources_are_found() -> None:
    assert len(source_files()) > 10


@pytest.mark.parametrize("name", source_files())
def test_only_one_module_knows_sysfs(name: str) -> None:
    assert name == SYSFS_WRITER or not sysfs_paths(parsed(name))


def test_a_path_in_sysfs_would_be_found() -> None:
    tree = ast.parse('"""About /sys/bus."""\nA = "/sys/bus/pci"\nB = f"/sys/{A}"\nC = "/system"\n')
    assert sorted(sysfs_paths(tree)) == ["/sys/", "/sys/bus/pci"]


@pytest.mark.parametrize("name", source_files())
def test_files_and_functions_fit_a_screen(name: str) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < LONGEST_FILE
    functions = [node for node in ast.walk(parsed(name)) if isinstance(node, Function)]
    sizes = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert not {title: size for title, size in sizes.items() if size > LONGEST_FUNCTION}


@pytest.mark.parametrize("name", source_files())
def test_modules_are_named_after_what_they_hold(name: str) -> None:
    assert VAGUE_NAMES.isdisjoint(Path(name).with_suffix("").parts)
