"""Images as files: on their way in, in the portal's store, and their copies on hosts."""

from __future__ import annotations

import uuid

from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from hosts.models import HOST_NAME, Host
from leasing.models.people import Person
from leasing.reasons import ReasonField

SHA256 = RegexValidator(r"^[0-9a-f]{64}\Z")


class StoredImage(models.Model):
    """A raw disk in the portal's store, known by its SHA-256. `name` is that of its copies on hosts.

    Of `size` bytes, `data` are not in holes. What was uploaded had the digest `source_digest`.
    """

    digest = models.CharField(max_length=64, unique=True, validators=[SHA256])
    name = models.CharField(max_length=63, unique=True, validators=[HOST_NAME])
    size = models.PositiveBigIntegerField()
    data = models.PositiveBigIntegerField()
    source_name = models.CharField(max_length=200)
    source_format = models.CharField(max_length=5)
    source_digest = models.CharField(max_length=64, validators=[SHA256])
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name


class ImageUpload(models.Model):
    """A file on its way into the store. `received` of its `size` bytes have come; `percent` is of the work.

    `declared_digest` is the SHA-256 that it is to have, empty if nobody said. `attempts` counts conversions.
    """

    class Format(models.TextChoices):
        QCOW2 = "qcow2", "qcow2"
        RAW = "raw", "raw"
        VMDK = "vmdk", "VMDK"
        VDI = "vdi", "VDI"
        VHDX = "vhdx", "VHDX"

    class State(models.TextChoices):
        RECEIVING = "receiving", _("being uploaded")
        WAITING = "waiting", _("waits to be converted")
        CONVERTING = "converting", _("being checked and converted")
        READY = "ready", _("ready")
        FAILED = "failed", _("not usable")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    file_name = models.CharField(max_length=200)
    format = models.CharField(max_length=5, choices=Format)
    size = models.PositiveBigIntegerField()
    received = models.PositiveBigIntegerField(default=0)
    declared_digest = models.CharField(max_length=64, blank=True, validators=[SHA256])
    state = models.CharField(max_length=10, choices=State, default=State.RECEIVING)
    percent = models.PositiveSmallIntegerField(default=0)
    reason = ReasonField()
    attempts = models.PositiveSmallIntegerField(default=0)
    by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    stored = models.ForeignKey(StoredImage, models.CASCADE, null=True, related_name="uploads")
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(received__lte=F("size")), name="leasing_imageupload_not_more_than_said"
            ),
            models.CheckConstraint(
                condition=Q(state="ready", stored__isnull=False) | ~Q(state="ready"),
                name="leasing_imageupload_ready_is_stored",
            ),
        ]

    def __str__(self) -> str:
        return self.file_name


class ImageCopy(models.Model):
    """A stored image on a host, as the host last said. One that is not `wanted` is about to be removed."""

    class State(models.TextChoices):
        WAITING = "waiting", _("not there yet")
        FETCHING = "fetching", _("being fetched")
        HELD = "held", _("there")
        FAILED = "failed", _("cannot be fetched")

    host = models.ForeignKey(Host, models.CASCADE, related_name="image_copies")
    stored = models.ForeignKey(StoredImage, models.CASCADE, related_name="copies")
    wanted = models.BooleanField(default=True)
    state = models.CharField(max_length=8, choices=State, default=State.WAITING)
    done = models.PositiveBigIntegerField(default=0)
    reason = models.CharField(max_length=200, blank=True)
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["host__name"]
        constraints = [
            models.UniqueConstraint(fields=["host", "stored"], name="leasing_imagecopy_one_per_host")
        ]

    def __str__(self) -> str:
        return f"{self.stored} on {self.host}"

    @property
    def percent(self) -> int:
        return int(100 * self.done // max(self.stored.size, 1))


class ImageGoal(models.Model):
    """Which images a host was last told to hold, by digest, and of which journal it was then."""

    host = models.OneToOneField(Host, models.CASCADE, related_name="image_goal")
    journal_id = models.UUIDField()
    digests = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"{self.host}: {len(self.digests)}"
