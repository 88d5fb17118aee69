"""Rules about the shape of the code that neither the linter nor the import contracts can state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("portal", "leasing", "hosts")
SYSFS_WRITER = "hosts/agent/sysfs.py"
SYSFS_READERS = [
    "hosts/agent/doctor/host_reader.py",
    "hosts/agent/layout.py",
    "hosts/agent/pci.py",
    "hosts/agent/usb.py",
]
KERNEL = "hosts/agent/kernel.py"
WRITES_IN_A_CHILD = "hosts.agent.child"
WAYS_TO_WRITE = {"write", "write_text", "write_bytes", "O_WRONLY", "O_RDWR", "touch", "unlink", "mkdir"}
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
    return [text for text in texts if isinstance(text, str) and re.match(r"/sys(/|$)|sys/", text)]


def imports(tree: ast.Module, module: str) -> bool:
    package, _, name = module.rpartition(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom):
            named = {alias.name for alias in node.names} if node.module == package else set()
            if node.module == module or name in named:
                return True
    return False


def function_sizes(tree: ast.Module) -> dict[str, int]:
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    return {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}


def test_the_sources_are_found() -> None:
    assert SYSFS_WRITER in source_files()
    assert {name.partition("/")[0] for name in source_files()} == set(PACKAGES)


def test_only_what_reads_the_hardware_knows_sysfs() -> None:
    knowing = [name for name in source_files() if sysfs_paths(parsed(name))]
    assert knowing == sorted([*SYSFS_READERS, SYSFS_WRITER])


def test_a_path_in_sysfs_would_be_found() -> None:
    tree = ast.parse('"""About /sys/bus."""\nA = "/sys"\nB = f"sys/bus/{A}"\nC = "/system"\nD = "sys"\n')
    assert sorted(sysfs_paths(tree)) == ["/sys", "sys/bus/"]


@pytest.mark.parametrize("name", SYSFS_READERS)
def test_the_readers_of_sysfs_write_nothing(name: str) -> None:
    nodes = list(ast.walk(parsed(name)))
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not named & WAYS_TO_WRITE
    opened = [
        node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("open")
    ]
    assert {ast.literal_eval(mode) for call in opened for mode in call.args[:1]} <= {"r", "rb"}


def test_only_one_module_writes_through_a_child() -> None:
    assert [name for name in source_files() if imports(parsed(name), WRITES_IN_A_CHILD)] == [KERNEL]
    assert [name for name in source_files() if imports(parsed(name), "hosts.agent.kernel")] == [SYSFS_WRITER]


def test_files_fit_a_room() -> None:
    sizes = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in source_files()}
    assert not {name: size for name, size in sizes.items() if size >= LONGEST_FILE}


def test_functions_fit_a_screen() -> None:
    sizes = {
        f"{name}: {function}": size
        for name in source_files()
        for function, size in function_sizes(parsed(name)).items()
    }
    assert not {place: size for place, size in sizes.items() if size > LONGEST_FUNCTION}


def test_modules_are_named_after_what_they_hold() -> None:
    assert [name for name in source_files() if VAGUE_NAMES & {*Path(name).with_suffix("").parts}] == []
