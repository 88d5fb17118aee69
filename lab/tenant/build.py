"""Builds the lab's tenant operating system: Debian's kernel and a busybox initramfs, up within seconds.

The packages are downloaded and unpacked, never installed, so nobody's boot menu changes.
Run as `python -m lab.tenant.build OUTDIR`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from appliance import debian, initramfs, kernel_image
from appliance.debian import DEFAULT_CACHE

INIT = Path(__file__).with_name("init")
MODULES = {
    "base": ("button", "evdev", "virtio_pci", "virtio_blk"),
    "display": ("bochs",),
    "network": ("virtio_net",),
}
# iomem=relaxed lets the tenant touch display memory that its own console uses; what follows saves time.
CMDLINE = "console=tty0 console=ttyS0 quiet iomem=relaxed mitigations=off cryptomgr.notests"


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
    debs = {
        "kernel": debian.fetch(debian.kernel_package(), cache),
        "busybox": debian.fetch("busybox-static", cache),
    }
    recipe = kernel_image.digest_of(*map(Path, (__file__, debian.__file__, initramfs.__file__)), INIT)
    made_from = {role: deb.name for role, deb in debs.items()} | {"recipe": recipe}
    if kernel_image.is_current(outdir, made_from):
        return outdir / kernel_image.MANIFEST
    with tempfile.TemporaryDirectory() as scratch:
        roots = {role: debian.unpack(deb, Path(scratch) / role) for role, deb in debs.items()}
        kernel = next(roots["kernel"].glob("boot/vmlinuz-*")).read_bytes()
        return kernel_image.write_image(
            outdir,
            kernel=debian.uncompressed(kernel),
            initrd=initramfs.pack(contents(roots["busybox"], roots["kernel"])),
            cmdline=CMDLINE,
            made_from=made_from,
        )


def contents(busybox_root: Path, kernel_root: Path) -> dict[str, initramfs.Entry]:
    entries = {
        "bin": initramfs.directory(),
        "bin/busybox": initramfs.program((busybox_root / "bin/busybox").read_bytes()),
        "init": initramfs.program(INIT.read_bytes()),
        "modules": initramfs.directory(),
    }
    available = debian.modules_below(kernel_root / "lib" / "modules")
    for folder, wanted in MODULES.items():
        entries |= initramfs.numbered(f"modules/{folder}", debian.load_order(available, wanted))
    return entries


if __name__ == "__main__":
    main()
