"""The host program as hypervisors get it: its own wheel, in an environment that has no Django."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
PACKAGING = ROOT / "packaging" / "leasehold-host"

IMPORT_ALL = """
import importlib, importlib.metadata, json, pkgutil, sys
import hosts.agent, hosts.protocol
for package in (hosts.agent, hosts.protocol):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(json.dumps({
    "modules": sorted(name for name in sys.modules if name.startswith("hosts")),
    "from": hosts.__file__,
    "installed": sorted(each.name.lower() for each in importlib.metadata.distributions()),
}))
"""


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def host_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and what its metadata asks for, in the versions of uv.lock."""
    folder = tmp_path_factory.mktemp("host")
    run(BIN / "uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--python", BIN / "python",
        "--out-dir", folder, PACKAGING)  # fmt: skip
    run(BIN / "uv", "export", "--quiet", "--locked", "--no-hashes", "--output-file", folder / "versions.txt")
    run(BIN / "uv", "venv", "--quiet", "--python", BIN / "python", folder / "venv")
    (wheel,) = folder.glob("*.whl")
    run(BIN / "uv", "pip", "install", "--quiet", "--python", folder / "venv", "--constraints",
        folder / "versions.txt", wheel)  # fmt: skip
    return folder / "venv"


@pytest.mark.timeout(120)
def test_every_module_imports_without_django(host_environment: Path) -> None:
    told = json.loads(run(host_environment / "bin" / "python", "-I", "-c", IMPORT_ALL, cwd=host_environment))
    assert told["from"].startswith(str(host_environment))
    assert "django" not in told["installed"]
    shipped = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for part in ("protocol", "agent")
        for path in (ROOT / "hosts" / part).rglob("*.py")
    }
    assert set(told["modules"]) == shipped | {"hosts"}


@pytest.mark.timeout(120)
def test_the_program_says_what_it_can_do(host_environment: Path) -> None:
    assert "usage: leasehold-host" in run(host_environment / "bin" / "leasehold-host", "--help")
