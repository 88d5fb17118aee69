"""The second disk of the virtual hypervisor: the host program and two small systems.

The systems are the tenant's and the scrub machine's. A change of our code rebuilds this disk alone, in
seconds. Inside it is /opt/leasehold.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from appliance.build import build_appliance
from lab.hypervisor.base import CODE, make_disk, run
from lab.hypervisor.machine import APPLIANCE_MANIFEST, TENANT_MANIFEST
from lab.tenant.build import build_tenant

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
PYTHON_INSIDE = "3.11.2"
PLATFORM_INSIDE = "x86_64-manylinux_2_36"
SITE = Path("lib/python3.11/site-packages")
DISK_SIZE = "640M"
# libvirt's binding comes from Debian, in the version of Debian's libvirt.
FROM_DEBIAN = "libvirt-python"
PROGRAM = """\
#!/opt/leasehold/bin/python
import sys
from hosts.agent.cli import main
sys.exit(main())
"""


def build_code_disk(disk: Path, *, packages: Path) -> None:
    """Write the disk, and beside it the manifests of both small systems; downloads stay in `packages`."""
    with tempfile.TemporaryDirectory(prefix="leasehold-code-", dir=disk.parent) as scratch:
        root = Path(scratch) / "root"
        make_environment(root)
        install_packages(root / SITE, Path(scratch))
        tenant = build_tenant(root / "images" / "tenant", cache=packages)
        appliance = build_appliance(root / "appliances" / "plain", cache=packages)
        make_disk(root, disk, label=CODE, size=DISK_SIZE)
        shutil.copy(tenant, disk.with_name(TENANT_MANIFEST))
        shutil.copy(appliance, disk.with_name(APPLIANCE_MANIFEST))


def make_environment(root: Path) -> None:
    """A virtual environment for Debian's Python, as `python3 -m venv --system-site-packages` makes it."""
    (root / SITE).mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "bin" / "python").symlink_to("/usr/bin/python3")
    (root / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = true\nversion = {PYTHON_INSIDE}\n"
    )
    program = root / "bin" / "leasehold-host"
    program.write_text(PROGRAM)
    program.chmod(0o755)


def install_packages(site: Path, scratch: Path) -> None:
    """The wheel, and in the versions and with the digests of the lock file what it needs."""
    locked = scratch / "locked.txt"
    run(UV, "--directory", ROOT, "export", "--quiet", "--locked", "--no-header", "--package=leasehold-host",
        "--no-emit-workspace", f"--no-emit-package={FROM_DEBIAN}", f"--output-file={locked}")  # fmt: skip
    run(UV, "--directory", ROOT, "build", "--quiet", "--wheel", "--no-build-isolation",
        f"--python={sys.executable}", f"--out-dir={scratch}", "packaging/leasehold-host")  # fmt: skip
    (wheel,) = scratch.glob("*.whl")
    into = ["pip", "install", "--quiet", f"--target={site}", f"--python-version={PYTHON_INSIDE}",
            f"--python-platform={PLATFORM_INSIDE}", "--only-binary=:all:", "--no-deps"]  # fmt: skip
    run(UV, *into, "--require-hashes", f"--requirement={locked}")
    run(UV, *into, wheel)
    compile_modules(site)


def compile_modules(site: Path) -> None:
    """In emulation, compiling them at every start would take longer than everything else."""
    if sys.version_info[:2] == (3, 11):
        words = [sys.executable, "-m", "compileall", "-q", "-j", str(os.cpu_count() or 1), str(site)]
        subprocess.run(words, check=True)
