"""Builds the lab's tenant system: Debian's kernel, busybox and QEMU's guest agent, up within seconds.

The packages are downloaded and unpacked, never installed, so nobody's boot menu changes.
Run as `python -m lab.tenant.build OUTDIR`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from appliance import debian, initramfs, kernel_image
from appliance.debian import DEFAULT_CACHE

INIT = Path(__file__).with_name("init")
MODULES = {
    "base": ("button", "evdev", "virtio_pci", "virtio_blk", "virtio_console"),
    "display": ("bochs",),
    "network": ("virtio_net",),
    "usb": ("xhci_pci",),
}
# The guest agent, and the libraries that it is linked with.
AGENT = "usr/sbin/qemu-ga"
LOADER = "ld-linux-x86-64.so.2"
LIBRARIES = {
    "libc6": ("libc.so.6", "libm.so.6"),
    "libglib2.0-0": ("libglib-2.0.so.0", "libgmodule-2.0.so.0"),
    "libnuma1": ("libnuma.so.1",),
    "libpcre2-8-0": ("libpcre2-8.so.0",),
    "libudev1": ("libudev.so.1",),
    "liburing2": ("liburing.so.2",),
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
    return kernel_image.build_image(
        outdir,
        packages=["busybox-static", "qemu-guest-agent", *LIBRARIES],
        recipe=[__file__, str(INIT)],
        contents=contents,
        cmdline=CMDLINE,
        cache=cache,
    )


def contents(roots: Mapping[str, Path]) -> dict[str, initramfs.Entry]:
    """Everything in the initramfs, from the unpacked packages."""
    entries = {
        "bin": initramfs.directory(),
        "bin/busybox": initramfs.program((roots["busybox-static"] / "bin/busybox").read_bytes()),
        "bin/qemu-ga": initramfs.program((roots["qemu-guest-agent"] / AGENT).read_bytes()),
        "init": initramfs.program(INIT.read_bytes()),
        "lib": initramfs.directory(),
        "lib64": initramfs.directory(),
        f"lib64/{LOADER}": initramfs.program(_library(roots["libc6"], LOADER)),
        "modules": initramfs.directory(),
    }
    for package, names in LIBRARIES.items():
        for name in names:
            entries[f"lib/{name}"] = initramfs.program(_library(roots[package], name))
    available = debian.modules_below(roots["kernel"] / "lib" / "modules")
    for folder, wanted in MODULES.items():
        entries |= initramfs.numbered(f"modules/{folder}", debian.load_order(available, wanted))
    return entries


def _library(root: Path, name: str) -> bytes:
    """Debian's packages have some below /lib and some below /usr/lib."""
    return next(root.glob(f"**/x86_64-linux-gnu/{name}")).read_bytes()


if __name__ == "__main__":
    main()
