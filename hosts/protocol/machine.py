"""The part of the protocol about machines: what is built, what it boots, and who may sign in."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from hosts.protocol.fields import Message, Name, Sha256, TcpPort
from hosts.protocol.homes import HomeOrder
from hosts.protocol.snapshots import SnapshotOrder

Firmware = Literal["bios", "uefi", "uefi-secure"]
HostName = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z")]
UserName = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_-]{0,31}\Z")]
# A type and the key in base64, without options or comment.
SshKey = Annotated[str, Meta(max_length=1500, pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}\Z")]
UsbId = Annotated[str, Meta(pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}\Z")]
# Bus and ports, as the kernel names the place that something is plugged into.
UsbPort = Annotated[str, Meta(max_length=32, pattern=r"^[0-9]{1,3}-[0-9]{1,3}(\.[0-9]{1,3}){0,6}\Z")]
# One field of an fstab line.
MountField = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[!-~]+\Z")]


class ImageOrder(Message, frozen=True, kw_only=True):
    """The golden image to start from. `direct-kernel` images are a kernel and an initramfs.

    Of the others, `firmware` is what boots them; `tpm` gives them a TPM 2.0; `hides_hypervisor` keeps drivers
    that refuse virtual machines from noticing theirs.
    """

    ADDED = {"firmware": 2, "tpm": 2, "hides_hypervisor": 2}
    ESSENTIAL = frozenset(ADDED)

    name: Name
    format: Literal["direct-kernel", "qcow2", "raw"]
    digest: Sha256
    cmdline: Annotated[str, Meta(max_length=500)] = ""
    firmware: Firmware = "uefi"
    tpm: bool = False
    hides_hypervisor: bool = False


class Mount(Message, frozen=True, kw_only=True):
    """A file system that the guest mounts, in the words of its fstab."""

    SINCE = 2

    source: MountField
    target: Annotated[str, Meta(max_length=200, pattern=r"^/[!-~]+\Z")]
    type: MountField = "auto"
    options: MountField = "defaults,nofail"


class GuestOrder(Message, frozen=True, kw_only=True):
    """What cloud-init makes of the guest at its first start. Nothing of it is secret."""

    SINCE = 2

    hostname: HostName
    user: UserName
    ssh_keys: Annotated[tuple[SshKey, ...], Meta(max_length=20)] = ()
    mounts: Annotated[tuple[Mount, ...], Meta(max_length=9)] = ()


class NetworkOrder(Message, frozen=True, kw_only=True):
    """The machine is connected, if its host connects any. Its `ports` are reached through the host's."""

    SINCE = 2

    ports: Annotated[tuple[TcpPort, ...], Meta(max_length=4)] = ()


class UsbDevice(Message, frozen=True, kw_only=True):
    """A device by what it is and where it is plugged in. `name` is what it calls itself."""

    SINCE = 2

    usb_id: UsbId
    port: UsbPort
    name: Annotated[str, Meta(max_length=80)] = ""


class MachineOrder(Message, frozen=True, kw_only=True):
    """The virtual machine to build: the GPUs' shares of the host, summed.

    `guest` is given to images that have cloud-init. `usb` are the devices, by vendor and product, that
    somebody at the host has plugged in for it; `chosen_usb` those that its person has chosen. `home` is its
    owner's volume, which stays when it goes. Its disk begins as a copy of `snapshot`, if there is one.
    """

    ADDED = {"guest": 2, "usb": 2, "network": 2, "chosen_usb": 2, "home": 2, "snapshot": 2}
    ESSENTIAL = frozenset({"guest", "usb", "chosen_usb", "home", "snapshot"})

    name: Name
    vcpus: Annotated[int, Meta(ge=1, le=1024)]
    memory_mib: Annotated[int, Meta(ge=64, le=64 * 1024 * 1024)]
    disk_gib: Annotated[int, Meta(ge=0, le=1024 * 1024)]
    image: ImageOrder
    guest: GuestOrder | None = None
    usb: Annotated[tuple[UsbId, ...], Meta(max_length=8)] = ()
    network: NetworkOrder | None = None
    chosen_usb: Annotated[tuple[UsbDevice, ...], Meta(max_length=8)] = ()
    home: HomeOrder | None = None
    snapshot: SnapshotOrder | None = None
