"""When GPUs are free: closures of hosts and GPUs, and the openings that every search is answered from."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from hosts.models import Gpu, GpuModel, Host
from leasing.models.people import Person


class Block(models.Model):
    """The GPUs of one model on one host, and over how many NUMA nodes they are spread.

    Its row is locked by whoever changes what is free on it. What came free from `freed_from` to
    `freed_until`, microseconds since 1970, has not been shown to those who wait yet (leasing.offering). What
    had them may have had a home volume or devices, too: `frees_extras` until those who wait with such were
    looked at again. Some of its GPUs may be kept for one of them (leasing.keeping).
    """

    host = models.ForeignKey(Host, models.CASCADE, related_name="blocks")
    model = models.ForeignKey(GpuModel, models.CASCADE, related_name="blocks")
    gpus = models.PositiveSmallIntegerField(default=0)
    nodes = models.PositiveSmallIntegerField(default=0)
    freed_from = models.BigIntegerField(null=True)
    freed_until = models.BigIntegerField(null=True)
    frees_extras = models.BooleanField(default=False)
    kept_for = models.ForeignKey("leasing.WaitlistEntry", models.PROTECT, null=True, related_name="+")

    class Meta:
        ordering = ["id"]
        indexes = [
            models.Index(fields=["id"], name="leasing_block_freed", condition=Q(freed_from__isnull=False)),
            models.Index(fields=["model", "gpus"], name="leasing_block_by_gpus"),
            models.Index(fields=["model", "nodes"], name="leasing_block_by_nodes"),
        ]
        constraints = [models.UniqueConstraint(fields=["host", "model"], name="leasing_block_one_per_model")]

    def __str__(self) -> str:
        return f"{self.model} on {self.host}"


class Closure(models.Model):
    """No lease may be placed on the host, or on one GPU of it, in `[starts_at, ends_at)`; no end is until
    further notice. What is placed there already stays unless it is moved (leasing.maintenance). `shown` means
    that it is over and that those who wait in line have been shown what has opened.
    """

    host = models.ForeignKey(Host, models.CASCADE, related_name="closures")
    gpu = models.ForeignKey(Gpu, models.CASCADE, null=True, related_name="closures")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=200)
    shown = models.BooleanField(default=False)
    created_by = models.ForeignKey(Person, models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField()

    class Meta:
        ordering = ["starts_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(ends_at__isnull=True) | Q(ends_at__gt=F("starts_at")),
                name="leasing_closure_not_empty",
            )
        ]

    def __str__(self) -> str:
        return f"{self.gpu or self.host} from {self.starts_at:%F %T}"


class Opening(models.Model):
    """`gpus` GPUs of a block are free together in `[starts, ends)`, and as many in no longer span around it.

    Times are microseconds since 1970; leasing.openings.spans says what stands for always and for ever, how
    the lengths are classed, and what the scopes are. Derived from holds, closures and GPU states by whoever
    has locked the block: the database need not look for it, and for its model, again for each row.
    """

    block = models.ForeignKey(
        Block, models.CASCADE, related_name="openings", db_index=False, db_constraint=False
    )
    model = models.ForeignKey(GpuModel, models.CASCADE, related_name="+", db_index=False, db_constraint=False)
    scope = models.PositiveSmallIntegerField()
    gpus = models.PositiveSmallIntegerField()
    starts = models.BigIntegerField()
    ends = models.BigIntegerField()
    fine = models.PositiveSmallIntegerField()
    middle = models.PositiveSmallIntegerField(null=True)
    coarse = models.PositiveSmallIntegerField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["model", "scope", "gpus", name, "starts"], name=f"leasing_opening_by_{name}")
            for name in ("fine", "middle", "coarse")
        ] + [
            models.Index(
                fields=["model", "scope", "gpus", "ends"],
                name="leasing_opening_since_always",
                condition=Q(starts=0),
            ),
            models.Index(fields=["block", "starts"], name="leasing_opening_of_block"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(starts__lt=F("ends")), name="leasing_opening_not_empty")
        ]

    def __str__(self) -> str:
        return f"{self.gpus} of block {self.block_id}"
