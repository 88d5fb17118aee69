"""Evidence of scrubs, as the hosts reported it."""

from __future__ import annotations

from django.db import models

from hosts.models import Gpu, ReceivedReport
from leasing.models.audit import AuditEntry
from leasing.models.leases import Lease


class ScrubRecord(models.Model):
    """One release (or intake) of one GPU: the evidence, whole, and the verdict that we drew from it.

    The audit entry says the same and has the digest of the evidence (leasing.proof.evidence_digest).
    """

    gpu = models.ForeignKey(Gpu, models.PROTECT, related_name="scrubs")
    lease = models.ForeignKey(Lease, models.PROTECT, null=True, related_name="scrubs")
    tenure = models.PositiveBigIntegerField()
    report = models.OneToOneField(ReceivedReport, models.PROTECT, related_name="scrub")
    entry = models.OneToOneField(AuditEntry, models.PROTECT, related_name="scrub")
    evidence = models.JSONField()
    passed = models.BooleanField()
    reasons = models.JSONField(default=list)
    simulated = models.BooleanField()
    finished_at = models.DateTimeField()
    recorded_at = models.DateTimeField()

    class Meta:
        ordering = ["-recorded_at", "-id"]
        indexes = [models.Index(fields=["gpu", "-recorded_at"], name="leasing_scrubrecord_of_gpu")]

    def __str__(self) -> str:
        return f"{self.gpu} tenure {self.tenure}: {'passed' if self.passed else 'failed'}"
