"""What can be leased: flavors, images and their rates."""

from __future__ import annotations

from typing import Any

import msgspec
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from hosts.models import GpuModel
from hosts.protocol.machine import Mount, NetworkOrder, UsbId

LOGIN_NAME = RegexValidator(r"^[a-z_][a-z0-9_-]{0,31}\Z")
MOST_MOUNTS = 8
MOST_USB_DEVICES = 8


def check_mounts(value: Any) -> None:
    """At most so many objects with the fields of `Mount`."""
    try:
        mounts = msgspec.convert(value, type=list[Mount])
    except msgspec.ValidationError as error:
        raise ValidationError(_("These are not mounts: %(why)s"), params={"why": error}) from error
    if len(mounts) > MOST_MOUNTS:
        raise ValidationError(_("At most %(count)d mounts."), params={"count": MOST_MOUNTS})


def ssh_alone() -> list[int]:
    return [22]


def check_ports(value: Any) -> None:
    """At most so many TCP ports."""
    try:
        order = msgspec.convert({"ports": value}, type=NetworkOrder)
    except msgspec.ValidationError as error:
        raise ValidationError(_("These are not ports: %(why)s"), params={"why": error}) from error
    if len({*order.ports}) < len(order.ports):
        raise ValidationError(_("A port is named twice."))


def check_desktops(value: Any) -> None:
    """Some of Image.Desktop, each once."""
    known = isinstance(value, list) and all(one in Image.Desktop.values for one in value)
    if not known or len({*value}) < len(value):
        raise ValidationError(_("These are no remote desktops that are known here."))


def check_usb_ids(value: Any) -> None:
    """At most so many vendor and product ids."""
    try:
        ids = msgspec.convert(value, type=list[UsbId])
    except msgspec.ValidationError as error:
        raise ValidationError(
            _("These are not ids of USB devices: %(why)s"), params={"why": error}
        ) from error
    if len(ids) > MOST_USB_DEVICES:
        raise ValidationError(_("At most %(count)d USB devices."), params={"count": MOST_USB_DEVICES})


class Flavor(models.Model):
    """N GPUs of a model on one host, and with them N shares of the host's CPU, memory and disk.

    `usb_devices` are vendor and product ids, such as 056a:0357, of what is plugged into its hosts for it;
    a host gives only what its own configuration allows.
    """

    class Numa(models.TextChoices):
        PREFERRED = "preferred", _("one NUMA node if possible")
        REQUIRED = "required", _("one NUMA node always")

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=300, blank=True)
    model = models.ForeignKey(GpuModel, models.PROTECT, related_name="flavors")
    gpu_count = models.PositiveSmallIntegerField(
        default=1, validators=[MinValueValidator(1), MaxValueValidator(16)]
    )
    usb_devices = models.JSONField(default=list, blank=True, validators=[check_usb_ids])
    numa = models.CharField(max_length=9, choices=Numa, default=Numa.PREFERRED)
    offered = models.BooleanField(default=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Image(models.Model):
    """One version of a golden disk, or of the kernel and initramfs of a `direct-kernel` system.

    The digest is a SHA-256. Of the versions of a slug at most one is offered; a lease keeps the one that it
    was booked with. `retired_at` is since when, and `retired_because` why, this one is not offered any more.
    One with cloud-init makes `default_user` at its first start, with the SSH keys of the lease's owner, and
    mounts `mounts`, each with source, target, type and options as in fstab. `ports` are those that are
    forwarded to it from its host, where hosts connect machines: SSH, or 3389 for Remote Desktop. `desktops`
    are those that are set up in it besides that one. Hosts fetch what is `stored`; everything else somebody
    has put there by hand.
    """

    class Desktop(models.TextChoices):
        SUNSHINE = "sunshine", "Sunshine"
        LOOKING_GLASS = "looking-glass", "Looking Glass"

    class Firmware(models.TextChoices):
        BIOS = "bios", "BIOS"
        UEFI = "uefi", "UEFI"
        UEFI_SECURE = "uefi-secure", _("UEFI with secure boot")

    class Format(models.TextChoices):
        DIRECT_KERNEL = "direct-kernel", _("kernel and initramfs")
        QCOW2 = "qcow2", "qcow2"
        RAW = "raw", "raw"

    slug = models.SlugField()
    version = models.PositiveIntegerField(default=1)
    name = models.CharField(max_length=100)
    os_family = models.CharField(max_length=30)
    format = models.CharField(max_length=13, choices=Format)
    digest = models.CharField(max_length=64, validators=[RegexValidator(r"^[0-9a-f]{64}\Z")])
    file_name = models.CharField(max_length=63, validators=[RegexValidator(r"^[a-z0-9][a-z0-9.-]*\Z")])
    cmdline = models.CharField(max_length=500, blank=True)
    login = models.CharField(max_length=200, blank=True, help_text=_("How to sign in, in words"))
    default_user = models.CharField(max_length=32, blank=True, validators=[LOGIN_NAME])
    cloud_init = models.BooleanField(default=False)
    mounts = models.JSONField(default=list, blank=True, validators=[check_mounts])
    ports = models.JSONField(default=ssh_alone, blank=True, validators=[check_ports])
    desktops = models.JSONField(default=list, blank=True, validators=[check_desktops])
    firmware = models.CharField(max_length=11, choices=Firmware, default=Firmware.UEFI)
    tpm = models.BooleanField(default=False, help_text=_("A TPM 2.0, as Windows 11 needs"))
    hides_hypervisor = models.BooleanField(default=False)
    stored = models.ForeignKey("StoredImage", models.PROTECT, null=True, blank=True, related_name="versions")
    offered = models.BooleanField(default=True)
    retired_at = models.DateTimeField(null=True, blank=True)
    retired_because = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ["name", "-version"]
        constraints = [
            models.CheckConstraint(
                condition=Q(cloud_init=False) | ~Q(default_user=""), name="leasing_image_cloud_init_has_user"
            ),
            models.UniqueConstraint(fields=["slug", "version"], name="leasing_image_one_per_version"),
            models.UniqueConstraint(
                fields=["slug"], name="leasing_image_one_offered", condition=Q(offered=True)
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def desktop_names(self) -> str:
        return ", ".join(str(self.Desktop(one).label) for one in self.desktops)
