"""The virtual hypervisor's operating system: a Debian that the role for hypervisors was applied to.

It is started once to fill its caches. The program itself lies on the other disk.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path

from appliance.debian import uncompressed
from hosts.protocol.homes import POOL_MARK
from lab.hypervisor import option_rom
from lab.hypervisor.machine import KERNEL_PARAMETERS, Image, VirtualHypervisor
from tools.roles import apply_role, packages, require_unchanged

# By which people outside reach it, on the small network that the tests make around it.
ADDRESS = "11.0.0.1"
# What the other disk calls itself; the role calls the one for disks and images "leasehold".
CODE = "program"
# Where it keeps home volumes: a folder that the worker's unit must be told of.
HOMES = "/srv/leasehold-homes"
POOL = "lab"
# What makes a Debian that boots, for Ansible, and for us to look inside.
PACKAGES = (
    "dbus", "linux-image-amd64", "pciutils", "python3-apt", "qemu-guest-agent", "systemd-sysv", "udev",
)  # fmt: skip
# A file can be a disk, too: the folder for machines' disks is a file system of its own, as in production.
STORAGE, STORAGE_BYTES = "/var/storage.img", 2 * 1024**3
# A card that is not there: those that are come up on the host's driver, from which the worker takes them.
CLAIMED = "10de:2230"
# Too few for any machine.
HUGE_PAGES = 8
ROM = {
    "address": option_rom.ADDRESS,
    "file": option_rom.FILE,
    "sha256": hashlib.sha256(option_rom.option_rom()).hexdigest(),
}
# What an operator would write into the inventory, of each kind something. The program is on the other disk.
VARIABLES = {
    "hypervisor_release": "",
    "hypervisor_huge_pages": [{"node": 0, "kib": 2048, "pages": HUGE_PAGES}],
    "hypervisor_vfio_ids": [CLAIMED],
    "hypervisor_storage_device": STORAGE,
    # Written anew before the host is enrolled.
    "hypervisor_scrubbers": {"scrubbers": {"none": {"object": "none:None", "sha256": "0" * 64}}},
    "hypervisor_settings": {
        "images_directory": "/opt/leasehold/images",
        "scrubbers": "/etc/leasehold/scrubbers.toml",
        "network": {"mode": "bridge", "address": ADDRESS},
        "home_pool": {"name": POOL, "directory": HOMES},
        "roms": [ROM],
    },
}
DISK_SIZE = "6G"
FIRST_BOOT_SECONDS = 400

# Everything that is neither as Debian ships it nor the role's, and why.
FILES = {
    # The initial RAM disk is for the disk's driver and file system; unpacking more takes seconds.
    "etc/initramfs-tools/conf.d/lab": "MODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    "etc/hostname": "hypervisor\n",
    # Storage is not the role's to make, nor to mark as the pool.
    f"{HOMES[1:]}/{POOL_MARK}": f"{POOL}\n",
    "etc/hosts": "127.0.0.1 localhost hypervisor\n",
    "etc/fstab": f"LABEL=root / ext4 defaults 0 0\nLABEL={CODE} /opt/leasehold ext4 ro 0 0\n",
    # Addresses of QEMU's user-mode network: 10.0.2.2 is the loopback of the machine outside.
    "etc/systemd/network/lab.network": (
        "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\n"
    ),
    # The same policy, compiled with less effort: libvirt compiles four profiles per start of a machine.
    "etc/apparmor/parser.conf": "Optimize=no-expr-simplify\n",
    # Whoever holds the console of this throw-away machine may look around in it.
    "etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf": (
        "[Service]\nExecStart=\nExecStart=-/sbin/agetty --autologin root --keep-baud 115200 %I $TERM\n"
    ),
}
UNITS_OFF = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "e2scrub_reap.service", "fstrim.timer", "logrotate.timer", "man-db.timer", "systemd-binfmt.service",
)  # fmt: skip
# Fills the caches of AppArmor's and libvirt's, as the first hours of any hypervisor do.
WARM_UP = "systemctl is-system-running --wait; virsh domcapabilities --virttype kvm >/dev/null"

# What the base is made from, but for the role and the versions that Debian has today.
RECIPE = json.dumps([PACKAGES, VARIABLES, STORAGE_BYTES, FILES, UNITS_OFF, WARM_UP, DISK_SIZE])
INPUTS = (
    "deploy/hypervisors.yml", "deploy/packages/host.txt", "deploy/roles/hypervisor",
    "deploy/systemd/leasehold-host.service",
)  # fmt: skip


def build_base(target: Path) -> None:
    """Write kernel, initial RAM disk and root disk to the folder `target`. Needs root and a mirror."""
    with tempfile.TemporaryDirectory(prefix="leasehold-base-", dir=target.parent) as scratch:
        root = Path(scratch) / "root"
        install_debian(root, *PACKAGES, *packages("host"))
        for name, text in FILES.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        prove_role(root)
        enter(root, "systemctl", "enable", "--quiet", "systemd-networkd")
        enter(root, "systemctl", "mask", "--quiet", *UNITS_OFF)
        (root / "opt" / "leasehold").mkdir()
        kernel = next((root / "boot").glob("vmlinuz-*"))
        (target / "kernel").write_bytes(uncompressed(kernel.read_bytes()))
        (target / "initrd").write_bytes(next((root / "boot").glob("initrd.img-*")).read_bytes())
        (target / KERNEL_PARAMETERS).write_text(kernel_parameters(root))
        make_disk(root, target / "root.img", label="root", size=DISK_SIZE)
    start_once(target)


def prove_role(root: Path) -> None:
    """Apply it twice: what it makes of a Debian it then leaves alone. It writes the initial RAM disk, too."""
    with (root / STORAGE[1:]).open("wb") as disk:
        disk.truncate(STORAGE_BYTES)
    apply_role("hypervisors.yml", root, group="hypervisors", variables=VARIABLES)
    require_unchanged(apply_role("hypervisors.yml", root, group="hypervisors", variables=VARIABLES))


def install_debian(root: Path, *names: str) -> None:
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(names)}", "bookworm", root,
        *apt_sources())  # fmt: skip


def kernel_parameters(root: Path) -> str:
    """What the boot loader would give the kernel: there is none here."""
    script = '. /etc/default/grub.d/leasehold.cfg && echo "$GRUB_CMDLINE_LINUX_DEFAULT"'
    words = ["chroot", str(root), "sh", "-c", script]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def apt_sources() -> list[Path]:
    """This machine's package sources if they are Debian bookworm's; mmdebstrap has defaults of its own."""
    source = Path("/etc/apt/sources.list.d/debian.sources")
    return [source] if source.exists() and "bookworm" in source.read_text() else []


def enter(root: Path, *command: str) -> None:
    run("chroot", root, *command)


def make_disk(folder: Path, disk: Path, *, label: str, size: str) -> None:
    """An ext4 file system with what is in `folder`, without mounting anything."""
    run("mke2fs", "-q", "-t", "ext4", "-L", label, "-d", folder, disk, size)


def start_once(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="leasehold-first-boot-") as scratch:
        empty = Path(scratch) / "empty"
        empty.mkdir()
        make_disk(empty, Path(scratch) / "code.img", label=CODE, size="8M")
        image = Image(base=target, code_disk=Path(scratch) / "code.img")
        with VirtualHypervisor(image, Path(scratch), keep_changes=True) as machine:
            machine.boot()
            machine.wait_booted(seconds=FIRST_BOOT_SECONDS)
            machine.run(WARM_UP, seconds=FIRST_BOOT_SECONDS)
            machine.shut_down(seconds=120)


def run(*words: str | Path) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
