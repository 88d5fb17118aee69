"""Builds the system of reading machines: `python -m appliance.reader OUTDIR`.

Debian's kernel, busybox and what mounts a home volume. It prints the digest for `reader` in host.toml.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path

from appliance import debian, initramfs, kernel_image
from appliance.debian import DEFAULT_CACHE

INIT = Path(__file__).parent / "reader-init"
# The file system computes its checksums with the last one.
MODULES = ("virtio_pci", "virtio_console", "virtio_blk", "ext4", "crc32c_generic")
CMDLINE = "console=ttyS0 quiet mitigations=off cryptomgr.notests panic=1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="where packages are kept")
    options = parser.parse_args()
    manifest = build_reader(options.outdir, cache=options.cache)
    print(hashlib.sha256(manifest.read_bytes()).hexdigest(), options.outdir.resolve())


def build_reader(outdir: Path, *, cache: Path = DEFAULT_CACHE) -> Path:
    """Writes vmlinux, initrd.img and manifest.json, unless they are there, made from the same."""
    names = {"busybox": "busybox-static", "kernel": debian.kernel_package()}
    debs = {role: debian.fetch(name, cache) for role, name in names.items()}
    recipe = [__file__, debian.__file__, initramfs.__file__, kernel_image.__file__]
    made_from = {
        **{role: deb.name for role, deb in debs.items()},
        "recipe": kernel_image.digest_of(*map(Path, filter(None, recipe)), INIT),
    }
    if kernel_image.is_current(outdir, made_from):
        return outdir / kernel_image.MANIFEST
    with tempfile.TemporaryDirectory() as scratch:
        roots = {role: debian.unpack(deb, Path(scratch) / role) for role, deb in debs.items()}
        kernel = next(roots["kernel"].glob("boot/vmlinuz-*")).read_bytes()
        return kernel_image.write_image(
            outdir,
            kernel=debian.uncompressed(kernel),
            initrd=initramfs.pack(_contents(roots)),
            cmdline=CMDLINE,
            made_from=made_from,
        )


def _contents(roots: dict[str, Path]) -> dict[str, initramfs.Entry]:
    available = debian.modules_below(roots["kernel"] / "lib" / "modules")
    return {
        "bin": initramfs.directory(),
        "bin/busybox": initramfs.program((roots["busybox"] / "bin/busybox").read_bytes()),
        "init": initramfs.program(INIT.read_bytes()),
        "modules": initramfs.directory(),
        **initramfs.numbered("modules/all", debian.load_order(available, MODULES)),
    }


if __name__ == "__main__":
    main()
