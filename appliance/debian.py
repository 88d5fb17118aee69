"""Debian's packages as parts of small systems: downloaded and unpacked, never installed."""

from __future__ import annotations

import lzma
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "leasehold" / "packages"
XZ_MAGIC = b"\xfd7zXZ\0"


def kernel_package() -> str:
    """The versioned package behind Debian's linux-image-amd64, e.g. linux-image-6.1.0-56-amd64."""
    listing = run("apt-cache", "depends", "linux-image-amd64")
    match = re.search(r"Depends: (linux-image-\S+)", listing)
    if match is None:
        raise SystemExit("apt knows no linux-image-amd64: run `apt-get update` and try again")
    return match.group(1)


def fetch(package: str, cache: Path) -> Path:
    """The package's .deb at its newest version, downloaded only when the cache lacks that version."""
    return fetch_all([package], cache)[package]


def fetch_all(packages: Sequence[str], cache: Path) -> dict[str, Path]:
    """Several at once, by package."""
    cache.mkdir(parents=True, exist_ok=True)
    found = {package: cache / name for package, name in deb_names(packages).items()}
    for package, target in found.items():
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=cache) as partial:
                run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=Path(partial))
                next(Path(partial).glob("*.deb")).replace(target)
    return found


def deb_names(packages: Sequence[str]) -> dict[str, str]:
    names = {}
    for stanza in run("apt-cache", "show", "--no-all-versions", *packages).strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        package, version = fields["Package"], fields["Version"].replace(":", "%3a")
        names[package] = f"{package}_{version}_{fields['Architecture']}.deb"
    return names


def unpack(deb: Path, root: Path) -> Path:
    run("dpkg-deb", "--extract", str(deb), str(root))
    return root


def uncompressed(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage: in emulation, unpacking it takes longer than the rest of the boot.

    QEMU starts an ELF kernel through its PVH entry. Offsets: Documentation/arch/x86/boot.rst.
    """
    (setup_sectors,) = struct.unpack_from("B", image, 0x1F1)
    payload_offset, payload_length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + payload_offset
    payload = image[start : start + payload_length]
    if not payload.startswith(XZ_MAGIC):
        return image
    return lzma.LZMADecompressor().decompress(payload)


def load_order(modules: dict[str, Path], wanted: tuple[str, ...]) -> list[Path]:
    """The modules and all they depend on, each after its dependencies. `modules` are those there are."""
    ordered: dict[Path, None] = {}

    def add(name: str) -> None:
        path = modules[name.replace("-", "_")]
        for dependency in dependencies(path):
            add(dependency)
        ordered.setdefault(path)

    for name in wanted:
        add(name)
    return list(ordered)


def modules_below(folder: Path) -> dict[str, Path]:
    """Kernel modules by name."""
    return {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}


def dependencies(module: Path) -> Iterator[str]:
    """What the module's own .modinfo says it needs (the package ships no modules.dep)."""
    match = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    yield from filter(None, match.group(1).decode().split(",") if match else [])


def run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout
