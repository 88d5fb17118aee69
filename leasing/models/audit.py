"""The audit log: append-only entries, the Merkle log that seals them (RFC 6962), and what was made of it."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from leasing.models.people import Tenant


class AuditEntry(models.Model):
    """One act. `text` is canonical JSON and is what gets sealed; the other columns only help to find it."""

    recorded_at = models.DateTimeField()
    action = models.CharField(max_length=60)
    actor = models.CharField(max_length=200)
    subject = models.CharField(max_length=80)
    tenant = models.ForeignKey(
        Tenant, models.PROTECT, null=True, related_name="audit_entries", db_index=False
    )
    text = models.TextField()

    class Meta:
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["actor", "-id"], name="leasing_auditentry_of_actor"),
            models.Index(fields=["action", "-id"], name="leasing_auditentry_of_action"),
            models.Index(fields=["recorded_at"], name="leasing_auditentry_by_time"),
            models.Index(fields=["subject", "-id"], name="leasing_auditentry_of_subject"),
            models.Index(fields=["tenant", "-id"], name="leasing_auditentry_of_tenant"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"


class UnsealedEntry(models.Model):
    """An entry that waits for its place in the Merkle log: written with it by the database itself
    (leasing.guards), gone when it has one.

    So sealing costs what is unsealed, and an entry that commits late is found whatever its id.
    """

    entry = models.OneToOneField(
        AuditEntry, models.PROTECT, primary_key=True, related_name="unsealed", db_constraint=False
    )

    def __str__(self) -> str:
        return f"entry {self.entry_id}"


class AuditLeaf(models.Model):
    """The place of a sealed entry in the Merkle log. Hashes are hex SHA-256."""

    index = models.PositiveBigIntegerField(primary_key=True)
    entry = models.OneToOneField(AuditEntry, models.PROTECT, related_name="leaf")
    leaf_hash = models.CharField(max_length=64)

    class Meta:
        ordering = ["index"]

    def __str__(self) -> str:
        return f"leaf {self.index}"


class AuditNode(models.Model):
    """The root of the `index`-th `256 ** level` leaves of the Merkle log, from which proofs are made.

    That a proof holds is shown by the signed head, never by these rows.
    """

    level = models.PositiveSmallIntegerField()
    index = models.PositiveBigIntegerField()
    root_hash = models.CharField(max_length=64)

    class Meta:
        ordering = ["level", "index"]
        constraints = [
            models.UniqueConstraint(fields=["level", "index"], name="leasing_auditnode_one_per_place")
        ]

    def __str__(self) -> str:
        return f"node {self.level}/{self.index}"


class TreeHead(models.Model):
    """A signed head of the Merkle log: `size` leaves with this root."""

    size = models.PositiveBigIntegerField(unique=True)
    root_hash = models.CharField(max_length=64)
    signed_at = models.DateTimeField()
    key_id = models.CharField(max_length=16)
    signature = models.CharField(max_length=128)
    anchored_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["size"]
        indexes = [
            models.Index(
                fields=["size"], name="leasing_treehead_to_anchor", condition=Q(anchored_at__isnull=True)
            )
        ]

    def __str__(self) -> str:
        return f"head of {self.size}"


class HeadDelivery(models.Model):
    """How far a sink outside has been told of signed heads, and when it is tried again."""

    sink = models.CharField(max_length=20, primary_key=True)
    size = models.PositiveBigIntegerField(default=0)
    delivered_at = models.DateTimeField(null=True)
    failures = models.PositiveIntegerField(default=0)
    next_try_at = models.DateTimeField()
    error = models.CharField(max_length=300, blank=True)

    def __str__(self) -> str:
        return f"{self.sink}: {self.size}"


class Verification(models.Model):
    """One verification of the whole log: what was proven, against which anchored head, or what was wrong.

    It says what a program found then. Whoever doubts the database verifies anew.
    """

    verified_at = models.DateTimeField()
    seconds = models.FloatField()
    proven = models.PositiveBigIntegerField()
    sealed = models.PositiveBigIntegerField()
    anchored_at = models.DateTimeField(null=True)
    root_hash = models.CharField(max_length=64, blank=True)
    problems = models.JSONField(default=list)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.verified_at:%F %T}: {self.proven} proven"
