"""Builds a small Debian disk image that starts by UEFI or BIOS and learns from cloud-init, or finds it built.

Needs root, a mirror and the packages of deploy/packages/workstation.txt: `python -m lab.workstation.build`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

from lab.hypervisor.base import apt_sources, enter, make_disk, run
from lab.hypervisor.image import CACHE, layer, locked

PACKAGES = (
    "cloud-init",
    "dbus",
    "linux-image-cloud-amd64",
    "locales",
    "openssh-server",
    "qemu-guest-agent",
    "sudo",
    "systemd-boot-efi",
    "systemd-sysv",
    "udev",
)
MIB = 1 << 20
ESP_MIB, ROOT_MIB = 96, 1400
SYSTEM_TYPE, LINUX_TYPE = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
FILES = {
    "etc/initramfs-tools/conf.d/small": "MODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/hostname": "unnamed\n",
    "etc/cloud/cloud.cfg.d/90-locale.cfg": "locale: C.UTF-8\n",
    "etc/fstab": "LABEL=root / ext4 defaults 0 1\n",
}
OPTIONS = "root=LABEL=root rw console=ttyS0 quiet mitigations=off"
# systemd's boot loader reads the first two, SYSLINUX the last.
BOOT = {
    "loader/loader.conf": "timeout 0\ndefault debian.conf\n",
    "loader/entries/debian.conf": f"title Debian\nlinux /vmlinuz\ninitrd /initrd.img\noptions {OPTIONS}\n",
    "syslinux.cfg": f"DEFAULT debian\nLABEL debian\nLINUX /vmlinuz\nINITRD /initrd.img\nAPPEND {OPTIONS}\n",
}
# What a BIOS starts: it looks for the partition that says that it can be booted so.
BIOS_SECTOR = Path("/usr/lib/syslinux/mbr/gptmbr.bin")
# With it cloud-init brings the network up.
UNITS = ("systemd-networkd",)
RECIPE = json.dumps([PACKAGES, FILES, UNITS, BOOT, str(BIOS_SECTOR), ESP_MIB, ROOT_MIB])


def main() -> None:
    began = time.monotonic()
    print(f"{prepare_workstation()}, in {time.monotonic() - began:.1f} s")


def prepare_workstation(cache: Path = CACHE) -> Path:
    """The qcow2 file. Whoever comes second waits for the first to have built it."""
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / "workstation.lock"):
        return layer(cache, "workstation", RECIPE, build_workstation) / "debian.qcow2"


def build_workstation(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="leasehold-workstation-", dir=target.parent) as scratch:
        root, esp = Path(scratch) / "root", Path(scratch) / "esp"
        install(root)
        fill_esp(root, esp)
        assemble(root, esp, Path(scratch) / "disk.raw")
        run("qemu-img", "convert", "-O", "qcow2", Path(scratch) / "disk.raw", target / "debian.qcow2")


def install(root: Path) -> None:
    include = f"--include={','.join(PACKAGES)}"
    run("mmdebstrap", "--quiet", "--variant=minbase", include, "bookworm", root, *apt_sources())
    write_files(root, FILES)
    enter(root, "systemctl", "enable", "--quiet", *UNITS)
    enter(root, "update-initramfs", "-u", "-k", "all")


def fill_esp(root: Path, esp: Path) -> None:
    """What the firmware starts: systemd's boot loader under the name it looks for, and Debian's kernel."""
    write_files(esp, BOOT)
    (esp / "EFI" / "BOOT").mkdir(parents=True)
    shutil.copy(root / "usr/lib/systemd/boot/efi/systemd-bootx64.efi", esp / "EFI/BOOT/BOOTX64.EFI")
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), esp / "vmlinuz")
    shutil.copy(next((root / "boot").glob("initrd.img-*")), esp / "initrd.img")


def assemble(root: Path, esp: Path, disk: Path) -> None:
    """Two file systems, side by side on a disk with a partition table; nothing is mounted."""
    parts = disk.with_name("esp.img"), disk.with_name("root.img")
    run("mkfs.vfat", "-C", "-F", "32", "-n", "ESP", parts[0], str(ESP_MIB * 1024))
    run("mcopy", "-s", "-i", parts[0], *sorted(esp.iterdir()), "::/")
    run("syslinux", "--install", parts[0])
    make_disk(root, parts[1], label="root", size=f"{ROOT_MIB}M")
    with disk.open("wb") as file:
        file.truncate((ESP_MIB + ROOT_MIB + 2) * MIB)
    table = disk.with_name("table")
    table.write_text(
        f"label: gpt\nstart=1MiB, size={ESP_MIB}MiB, type={SYSTEM_TYPE}, attrs=LegacyBIOSBootable\n"
        f"start={ESP_MIB + 1}MiB, size={ROOT_MIB}MiB, type={LINUX_TYPE}\n"
    )
    run("sh", "-c", f"sfdisk --quiet {disk} <{table}")
    for part, start in zip(parts, (1, ESP_MIB + 1), strict=True):
        run("dd", f"if={part}", f"of={disk}", "bs=1M", f"seek={start}", "conv=notrunc,sparse")
    with disk.open("r+b") as file:
        file.write(BIOS_SECTOR.read_bytes())


def write_files(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
