"""Builds the lab's tenant operating system: Debian's kernel and a busybox initramfs, up within seconds.

The packages are downloaded and unpacked, never installed, so nobody's boot menu changes.
Run as `python -m lab.tenant.build OUTDIR`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.tenant import initramfs

DEFAULT_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "leasehold" / "packages"
INIT = Path(__file__).with_name("init")
MODULES = {"base": ("button", "evdev", "virtio_pci", "virtio_blk"), "display": ("bochs",)}
# iomem=relaxed lets the tenant touch display memory that its own console uses; what follows saves time.
CMDLINE = "console=tty0 console=ttyS0 quiet iomem=relaxed mitigations=off cryptomgr.notests"
XZ_MAGIC = b"\xfd7zXZ\0"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where packages are kept")
    options = parser.parse_args()
    build_tenant(options.outdir, cache=options.cache)
    print(f"tenant ready in {options.outdir}")


def build_tenant(outdir: Path, *, cache: Path = DEFAULT_CACHE) -> Path:
    """Writes vmlinux, initrd.img and manifest.json to `outdir`, unless they are there already, made from the
    same. Returns the manifest's path; the manifest's own digest stands for the whole image.
    """
    debs = {"kernel": fetch(kernel_package(), cache), "busybox": fetch("busybox-static", cache)}
    made_from = {role: deb.name for role, deb in debs.items()} | {"recipe": recipe_digest()}
    manifest = outdir / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_bytes())["made_from"] == made_from:
        return manifest
    outdir.mkdir(parents=True, exist_ok=True)
    files = image_files(debs)
    for name, data in files.items():
        replace(outdir / name, data)
    facts = {
        "kernel": "vmlinux",
        "initrd": "initrd.img",
        "cmdline": CMDLINE,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "made_from": made_from,
    }
    replace(manifest, json.dumps(facts, indent=2, sort_keys=True).encode() + b"\n")
    return manifest


def recipe_digest() -> str:
    recipe = [Path(__file__), Path(initramfs.__file__), INIT]
    return hashlib.sha256(b"".join(file.read_bytes() for file in recipe)).hexdigest()


def image_files(debs: dict[str, Path]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as scratch:
        roots = {role: unpack(deb, Path(scratch) / role) for role, deb in debs.items()}
        kernel = next(roots["kernel"].glob("boot/vmlinuz-*")).read_bytes()
        return {
            "vmlinux": uncompressed(kernel),
            "initrd.img": initramfs.pack(contents(roots["busybox"], roots["kernel"])),
        }


def replace(path: Path, data: bytes) -> None:
    """Whoever reads `path` meanwhile sees the old file or the new one, never half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def kernel_package() -> str:
    """The versioned package behind Debian's linux-image-amd64, e.g. linux-image-6.1.0-56-amd64."""
    listing = run("apt-cache", "depends", "linux-image-amd64")
    match = re.search(r"Depends: (linux-image-\S+)", listing)
    if match is None:
        raise SystemExit("apt knows no linux-image-amd64: run `apt-get update` and try again")
    return match.group(1)


def fetch(package: str, cache: Path) -> Path:
    """The package's .deb at its newest version, downloaded only when the cache lacks that version."""
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / deb_name(package)
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache) as partial:
            run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, cwd=Path(partial))
            next(Path(partial).glob("*.deb")).replace(target)
    return target


def deb_name(package: str) -> str:
    listing = run("apt-cache", "show", "--no-all-versions", package)
    fields = dict(line.split(": ", 1) for line in listing.splitlines() if ": " in line and line[0] != " ")
    return f"{package}_{fields['Version'].replace(':', '%3a')}_{fields['Architecture']}.deb"


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


def contents(busybox_root: Path, kernel_root: Path) -> dict[str, initramfs.Entry]:
    entries = {
        "bin": initramfs.directory(),
        "bin/busybox": initramfs.program((busybox_root / "bin/busybox").read_bytes()),
        "init": initramfs.program(INIT.read_bytes()),
        "modules": initramfs.directory(),
    }
    for folder, wanted in MODULES.items():
        entries[f"modules/{folder}"] = initramfs.directory()
        for position, module in enumerate(load_order(kernel_root, wanted)):
            entries[f"modules/{folder}/{position:02}-{module.name}"] = initramfs.plain(module.read_bytes())
    return entries


def load_order(kernel_root: Path, wanted: tuple[str, ...]) -> list[Path]:
    """The modules and all they depend on, each after its dependencies."""
    modules = kernel_root.glob("lib/modules/*/kernel/**/*.ko")
    available = {path.stem.replace("-", "_"): path for path in modules}
    ordered: dict[Path, None] = {}

    def add(name: str) -> None:
        path = available[name.replace("-", "_")]
        for dependency in dependencies(path):
            add(dependency)
        ordered.setdefault(path)

    for name in wanted:
        add(name)
    return list(ordered)


def dependencies(module: Path) -> Iterator[str]:
    """What the module's own .modinfo says it needs (the package ships no modules.dep)."""
    match = re.search(rb"\0depends=([^\0]*)\0", module.read_bytes())
    yield from filter(None, match.group(1).decode().split(",") if match else [])


def run(*command: str, cwd: Path | None = None) -> str:
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
