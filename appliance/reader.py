"""Builds the system of reading machines: `python -m appliance.reader OUTDIR`.

Debian's kernel, busybox and what mounts a home volume. It prints the digest for `reader` in host.toml.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
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
    return kernel_image.build_image(
        outdir,
        packages=["busybox-static"],
        recipe=[__file__, str(INIT)],
        contents=_contents,
        cmdline=CMDLINE,
        cache=cache,
    )


def _contents(roots: Mapping[str, Path]) -> dict[str, initramfs.Entry]:
    available = debian.modules_below(roots["kernel"] / "lib" / "modules")
    return {
        "bin": initramfs.directory(),
        "bin/busybox": initramfs.program((roots["busybox-static"] / "bin/busybox").read_bytes()),
        "init": initramfs.program(INIT.read_bytes()),
        "modules": initramfs.directory(),
        **initramfs.numbered("modules/all", debian.load_order(available, MODULES)),
    }


if __name__ == "__main__":
    main()
