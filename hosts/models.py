"""Inventory: hypervisors, their GPUs, and every report they ever sent."""

from __future__ import annotations

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from hosts.protocol.codec import OLDEST

PUBLIC_KEY = RegexValidator(r"^[0-9a-f]{64}\Z")
HOST_NAME = RegexValidator(r"^[a-z0-9][a-z0-9.-]*\Z")
GPU_STATES = ("clean", "leased", "dirty", "scrubbing", "quarantined", "maintenance", "missing")


def bar_alone() -> list[str]:
    return ["bar"]


class GpuModel(models.Model):
    """A kind of GPU: a pool is all GPUs of one model. Times in seconds.

    How its memory is scrubbed is policy: all `scrub_methods`, in this order; how much of the memory a proven
    one has to reach; and whether the host then reads all of it, or samples.
    """

    class ReadBack(models.TextChoices):
        FULL = "full", _("all of the memory")
        SAMPLED = "sampled", _("samples and canaries")

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=100)
    memory_mib = models.PositiveIntegerField()
    vendor_device = models.CharField(max_length=9, help_text=_("PCI vendor and device id, such as 10de:2230"))
    scrub_methods = models.JSONField(default=bar_alone)
    read_back = models.CharField(max_length=7, choices=ReadBack, default=ReadBack.FULL)
    required_reach_permille = models.PositiveSmallIntegerField(
        default=1000, validators=[MinValueValidator(1), MaxValueValidator(1000)]
    )
    lead_seconds = models.PositiveIntegerField(default=120)
    turnaround_seconds = models.PositiveIntegerField(default=300)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class StoragePool(models.Model):
    """Storage that the hosts which name it share. Home volumes and snapshots lie there."""

    name = models.CharField(max_length=63, unique=True, validators=[HOST_NAME])

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Host(models.Model):
    """A hypervisor. The public keys are hex; the private halves never leave the host.

    `account` is what it is called in messages and at the broker, for good; `name` is what people call it, and
    may be changed. Of the password of its broker account only the SHA-256 is known here. A retired host is
    kept for its history, and refused. `pool` is where home volumes and snapshots lie; if it `reads_homes`, it
    can look into volumes that no lease has.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    name = models.CharField(max_length=63, validators=[HOST_NAME])
    account = models.CharField(max_length=63, unique=True, validators=[HOST_NAME])
    signing_key = models.CharField(max_length=64, unique=True, validators=[PUBLIC_KEY])
    key_id = models.CharField(max_length=16, unique=True, editable=False, help_text="Of signing_key")
    sealing_key = models.CharField(max_length=64, validators=[PUBLIC_KEY])
    simulated = models.BooleanField(default=False)
    pool = models.ForeignKey(StoragePool, models.PROTECT, null=True, related_name="hosts")
    reads_homes = models.BooleanField(default=False)
    cpu_count = models.PositiveIntegerField(default=0)
    memory_mib = models.PositiveIntegerField(default=0)
    disk_gib = models.PositiveIntegerField(default=0)
    kernel = models.CharField(max_length=200, blank=True)
    worker_version = models.CharField(max_length=200, blank=True)
    journal_id = models.UUIDField(null=True)
    applied_sequence = models.PositiveBigIntegerField(default=0)
    generation = models.PositiveBigIntegerField(default=0)
    protocol = models.PositiveSmallIntegerField(default=OLDEST)
    receipt_due = models.BooleanField(default=False)
    last_seen_at = models.DateTimeField(null=True)
    inventory_at = models.DateTimeField(null=True)
    enrolled_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)
    broker_hash = models.CharField(max_length=64, blank=True)
    access_at = models.DateTimeField(null=True, help_text="When its present broker password was made")
    account_at = models.DateTimeField(null=True, help_text="When the broker was told of it by the portal")

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["name"], name="hosts_host_one_per_name", condition=models.Q(retired_at=None)
            )
        ]

    def __str__(self) -> str:
        return self.name


class FormerKey(models.Model):
    """A key that a host has had: what it signed and was stored stays valid, what comes now is refused."""

    host = models.ForeignKey(Host, models.CASCADE, related_name="former_keys")
    signing_key = models.CharField(max_length=64, unique=True, validators=[PUBLIC_KEY])
    key_id = models.CharField(max_length=16, unique=True)
    replaced_at = models.DateTimeField()

    class Meta:
        ordering = ["-replaced_at"]

    def __str__(self) -> str:
        return f"{self.host.name} until {self.replaced_at:%Y-%m-%d}"


class Gpu(models.Model):
    """One GPU with all endpoint functions of its IOMMU group, and the share of its host that goes with it.

    `state` is written by leasing.transitions alone. `generation` counts goals whose subject is this GPU.
    `fingerprint` is what its card is thought to be, `proven_kernel` the kernel under which it last passed.
    After a release the host scrubs by itself; past `scrub_expected_by` it is asked to. A slice of a card has
    that card's GPU as its `parent`; its address is a PCI function's, or a mediated device's UUID.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.ForeignKey(Host, models.PROTECT, related_name="gpus")
    model = models.ForeignKey(GpuModel, models.PROTECT, related_name="gpus", db_index=False)
    address = models.CharField(max_length=36)
    functions = models.JSONField(default=list)
    iommu_group = models.IntegerField(null=True)
    numa_node = models.SmallIntegerField(default=-1)
    fingerprint = models.JSONField(default=dict)
    card = models.ForeignKey("FoundCard", models.PROTECT, null=True, related_name="gpus")
    parent = models.ForeignKey("self", models.PROTECT, null=True, related_name="slices")
    proven_kernel = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=12, default="dirty", choices=[(s, s) for s in GPU_STATES])
    state_since = models.DateTimeField()
    state_reason = models.CharField(max_length=2000, blank=True)
    scrub_expected_by = models.DateTimeField(null=True)
    tenure = models.PositiveBigIntegerField(default=0)
    generation = models.PositiveBigIntegerField(default=0)
    share_vcpus = models.PositiveIntegerField()
    share_memory_mib = models.PositiveIntegerField()
    share_disk_gib = models.PositiveIntegerField()

    class Meta:
        ordering = ["host__name", "address"]
        indexes = [models.Index(fields=["model", "state"], name="hosts_gpu_of_model_by_state")]
        constraints = [
            models.UniqueConstraint(fields=["host", "address"], name="hosts_gpu_one_per_address"),
            models.CheckConstraint(condition=models.Q(state__in=GPU_STATES), name="hosts_gpu_known_state"),
        ]

    def __str__(self) -> str:
        return f"{self.host.name} {self.address}"


class FoundCards(models.QuerySet["FoundCard"]):
    """Cards, those that are gone included."""

    def present(self) -> FoundCards:
        return self.filter(gone_at=None)


class FoundCard(models.Model):
    """A card as its host last reported it, kept for its history when it is gone (since `gone_at`).

    `refusal` says why it cannot be leased; empty if it can. `details` are those of the report's CardDetails,
    `part` its SlicePart (empty for a whole card), `profiles` its SliceProfiles.
    """

    host = models.ForeignKey(Host, models.PROTECT, related_name="found_cards")
    address = models.CharField(max_length=36)
    functions = models.JSONField(default=list)
    iommu_group = models.IntegerField(null=True)
    name = models.CharField(max_length=200)
    memory_mib = models.PositiveIntegerField()
    numa_node = models.SmallIntegerField(default=-1)
    fingerprint = models.JSONField(default=dict)
    refusal = models.CharField(max_length=2000, blank=True)
    details = models.JSONField(default=dict)
    part = models.JSONField(default=dict, blank=True)
    profiles = models.JSONField(default=list, blank=True)
    first_seen_at = models.DateTimeField()
    gone_at = models.DateTimeField(null=True)

    objects = FoundCards.as_manager()

    class Meta:
        ordering = ["address"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "address"],
                name="hosts_foundcard_one_per_address",
                condition=models.Q(gone_at=None),
            )
        ]

    def __str__(self) -> str:
        return f"{self.address} {self.name}"


class UsbDevice(models.Model):
    """Something plugged into a host that machines may be given: known by what it is, and by its port.

    `name` is what it calls itself. It is kept when it is gone (since `gone_at`): leases have been given it.
    """

    host = models.ForeignKey(Host, models.PROTECT, related_name="usb_devices")
    usb_id = models.CharField(max_length=9)
    port = models.CharField(max_length=32)
    name = models.CharField(max_length=80, blank=True)
    gone_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["host__name", "port"]
        constraints = [
            models.UniqueConstraint(fields=["host", "usb_id", "port"], name="hosts_usbdevice_one_per_port")
        ]

    def __str__(self) -> str:
        return f"{self.name or self.usb_id} @ {self.host.name}"


class Division(models.Model):
    """A card that was ordered to be divided into `count` slices by one of its profiles.

    `gpu` is the whole card, which does not serve meanwhile; `model` is what each slice is. `changed_at` is
    when its state changed last, `reason` why it failed to.
    """

    class State(models.TextChoices):
        ORDERED = "ordered", _("being divided")
        STANDS = "stands", _("divided")
        ENDING = "ending", _("being made whole")
        OVER = "over", _("whole again")
        FAILED = "failed", _("could not be divided")

    OPEN = (State.ORDERED, State.STANDS, State.ENDING)

    gpu = models.ForeignKey(Gpu, models.PROTECT, related_name="divisions")
    profile = models.CharField(max_length=200)
    count = models.PositiveSmallIntegerField()
    model = models.ForeignKey(GpuModel, models.PROTECT, related_name="+")
    state = models.CharField(max_length=7, choices=State, default=State.ORDERED)
    reason = models.CharField(max_length=2000, blank=True)
    ordered_at = models.DateTimeField()
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["gpu"],
                name="hosts_division_one_open",
                condition=models.Q(state__in=["ordered", "stands", "ending"]),
            ),
            models.CheckConstraint(condition=models.Q(count__gte=1), name="hosts_division_some_slices"),
        ]

    def __str__(self) -> str:
        return f"{self.gpu}: {self.count} of {self.profile}"


class HostCheckUp(models.Model):
    """What `doctor` last found on a host: `checks` as the host reported them, the worst first."""

    host = models.OneToOneField(Host, models.CASCADE, related_name="check_up")
    taken_at = models.DateTimeField()
    simulated = models.BooleanField()
    checks = models.JSONField(default=list)
    failed = models.PositiveSmallIntegerField(default=0)
    warned = models.PositiveSmallIntegerField(default=0)
    left_out = models.PositiveIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.host.name} {self.taken_at:%Y-%m-%d %H:%M}"


class ReceivedReport(models.Model):
    """A report exactly as it was signed. Applied in sequence order; `verdict` says what it did or why not."""

    host = models.ForeignKey(Host, models.PROTECT, related_name="reports")
    journal_id = models.UUIDField()
    sequence = models.PositiveBigIntegerField()
    envelope = models.TextField()
    received_at = models.DateTimeField()
    applied_at = models.DateTimeField(null=True)
    verdict = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "journal_id", "sequence"], name="hosts_receivedreport_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.journal_id}#{self.sequence}"
