"""The host program as hypervisors get it: its own wheel, in an environment that has no Django."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")

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
    """A virtual environment with the wheel and, in the versions of uv.lock, what its metadata asks for."""
    folder = tmp_path_factory.mktemp("host")
    python = folder / "venv" / "bin" / "python"
    run("env", f"UV_PROJECT_ENVIRONMENT={folder}/venv", UV, "sync", "--locked", "--no-dev",
        "--package=leasehold-host", "--no-install-workspace", f"--python={sys.executable}")  # fmt: skip
    run(UV, "build", "--wheel", "--no-build-isolation", f"--python={sys.executable}",
        f"--out-dir={folder}", "packaging/leasehold-host")  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    run(UV, "pip", "install", f"--python={python}", "--no-deps", wheel)
    run(UV, "pip", "check", f"--python={python}")
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
