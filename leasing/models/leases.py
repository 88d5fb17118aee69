"""The lease, the holds that back it, and what was seen of its machine."""

from __future__ import annotations

import uuid
from datetime import datetime

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from hosts.models import Gpu, Host
from leasing.models.catalogue import Flavor, Image
from leasing.models.people import Person, Tenant
from leasing.models.series import Series
from leasing.reasons import ReasonField
from leasing.states.lease import LeaseState, Outcome
from leasing.timing import UNUSED_WARNING

LONGEST_TAG = 60


class Lease(models.Model):
    """A tenant's right to one machine of a flavor in `[starts_at, ends_at)`, UTC.

    `state` is written by leasing.transitions alone. `generation` counts goals sent to the host for this
    lease. `stopped_at` is when it stopped being usable, which may be before `ends_at`. `occurs_on` says which
    date of its series it was booked for. Every index costs each booking: foreign keys by which no lease is
    looked for have none, and others share one that begins with them.
    """

    class Machine(models.TextChoices):
        NONE = "none", _("not built")
        RUNNING = "running", _("running")
        OFF = "off", _("switched off")
        GONE = "gone", _("gone")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant = models.ForeignKey(Tenant, models.PROTECT, related_name="leases", db_index=False)
    owner = models.ForeignKey(Person, models.PROTECT, related_name="leases", db_index=False)
    flavor = models.ForeignKey(Flavor, models.PROTECT, related_name="leases", db_index=False)
    image = models.ForeignKey(Image, models.PROTECT, related_name="leases", db_index=False)
    host = models.ForeignKey(Host, models.PROTECT, null=True, related_name="leases", db_index=False)
    # The only host that can serve it: where the devices are plugged in that its person has chosen.
    bound_to = models.ForeignKey(Host, models.PROTECT, null=True, related_name="+", db_index=False)
    state = models.CharField(max_length=12, choices=[(s.value, s.value) for s in LeaseState])
    state_since = models.DateTimeField()
    outcome = models.CharField(max_length=9, blank=True, choices=[(o.value, o.value) for o in Outcome])
    outcome_reason = ReasonField()
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    requested_at = models.DateTimeField()
    decide_by = models.DateTimeField(null=True)
    purpose = models.CharField(max_length=500, blank=True)
    series = models.ForeignKey(Series, models.PROTECT, null=True, related_name="leases", db_index=False)
    occurs_on = models.DateField(null=True)
    needs_approval_because = ReasonField()
    decided_by = models.ForeignKey(
        Person, models.PROTECT, null=True, related_name="decisions", db_index=False
    )
    decided_at = models.DateTimeField(null=True)
    decision_note = models.CharField(max_length=500, blank=True)
    rate_per_hour = models.DecimalField(max_digits=12, decimal_places=4)
    currency = models.CharField(max_length=3)
    quoted_total = models.DecimalField(max_digits=14, decimal_places=2)
    # Whether its price is made of several terms; if not, it is `rate_per_hour` throughout.
    varied = models.BooleanField(default=False)
    project = models.CharField(max_length=LONGEST_TAG, blank=True)
    cost_centre = models.CharField(max_length=LONGEST_TAG, blank=True)
    # Its owner wants their home volume attached.
    with_home = models.BooleanField(default=False)
    # What its disk begins as, instead of its image.
    snapshot = models.ForeignKey(
        "leasing.Snapshot", models.PROTECT, null=True, related_name="starts", db_index=False
    )
    generation = models.PositiveBigIntegerField(default=0)
    machine = models.CharField(max_length=7, choices=Machine, default=Machine.NONE)
    # How its machine is reached while it runs, as its host said it: a hosts.protocol.messages.Access.
    access = models.JSONField(null=True)
    active_at = models.DateTimeField(null=True)
    stopped_at = models.DateTimeField(null=True)
    waiting_because = ReasonField()
    # The rung of the ladder of warnings that its owner was told last, in seconds before the end.
    warned_at_seconds = models.PositiveIntegerField(null=True)
    # When it was used, as was seen here and on its host; when its owner was told that it looks unused.
    first_used_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    unused_warned_at = models.DateTimeField(null=True)
    # The wish that this was offered for; until it is claimed, `decide_by` says until when it can be.
    entry = models.ForeignKey(
        "leasing.WaitlistEntry", models.PROTECT, null=True, related_name="offers", db_index=False
    )

    class Meta:
        ordering = ["-starts_at", "id"]
        indexes = [
            models.Index(fields=["state", "starts_at"], name="leasing_lease_due_to_start"),
            models.Index(fields=["state", "ends_at"], name="leasing_lease_due_to_end"),
            models.Index(fields=["tenant", "-starts_at"], name="leasing_lease_of_tenant"),
            models.Index(fields=["owner", "-starts_at"], name="leasing_lease_of_owner"),
            # What a limit counts ends after a time and starts before another: the index knows both, and what
            # leasing.spent sums, so that no row is fetched for it.
            models.Index(
                fields=["tenant", "ends_at", "starts_at"],
                include=[
                    "id",
                    "owner",
                    "flavor",
                    "state",
                    "active_at",
                    "stopped_at",
                    "varied",
                    "rate_per_hour",
                    "currency",
                ],
                name="leasing_lease_of_tenant_until",
            ),
            # A lease that is booked has neither yet.
            models.Index(fields=["host"], condition=Q(host__isnull=False), name="leasing_lease_on_host"),
            models.Index(
                fields=["snapshot"], condition=Q(snapshot__isnull=False), name="leasing_lease_of_snapshot"
            ),
            models.Index(fields=["entry"], condition=Q(entry__isnull=False), name="leasing_lease_for_entry"),
        ]
        constraints = [
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="leasing_lease_not_empty"),
            models.CheckConstraint(
                condition=Q(state=LeaseState.ENDED, outcome__gt="") | ~Q(state=LeaseState.ENDED),
                name="leasing_lease_ended_has_outcome",
            ),
            models.CheckConstraint(
                condition=~Q(state=LeaseState.OFFERED) | Q(entry__isnull=False, decide_by__isnull=False),
                name="leasing_lease_offered_for_an_entry",
            ),
            models.UniqueConstraint(
                fields=["entry"], condition=Q(state=LeaseState.OFFERED), name="leasing_lease_one_offer"
            ),
            models.CheckConstraint(
                condition=Q(series__isnull=True, occurs_on__isnull=True)
                | Q(series__isnull=False, occurs_on__isnull=False),
                name="leasing_lease_occurs_in_series",
            ),
            models.UniqueConstraint(
                fields=["series", "occurs_on"],
                name="leasing_lease_one_per_date",
                condition=Q(series__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.flavor} {self.machine_name}"

    @property
    def given_back_at(self) -> datetime | None:
        """When it will be given back unless somebody uses it; None if nothing of the kind is due."""
        if self.unused_warned_at is None or self.first_used_at is not None or self.stopped_at is not None:
            return None
        return self.unused_warned_at + UNUSED_WARNING

    @property
    def machine_name(self) -> str:
        """Name of the machine and its hostname."""
        return f"ws-{self.id.hex[:8]}"


class Extension(models.Model):
    """More time for a lease, `[old_ends_at, new_ends_at)`, at the rate in force when it was asked for.

    On a host it takes effect when the host has acknowledged the new end; until then its holds are placed.
    """

    class State(models.TextChoices):
        PENDING = "pending", _("waits for the host")
        CONFIRMED = "confirmed", _("confirmed")
        FAILED = "failed", _("failed")

    lease = models.ForeignKey(Lease, models.PROTECT, related_name="extensions")
    old_ends_at = models.DateTimeField()
    new_ends_at = models.DateTimeField()
    rate_per_hour = models.DecimalField(max_digits=12, decimal_places=4)
    currency = models.CharField(max_length=3)
    quoted_total = models.DecimalField(max_digits=14, decimal_places=2)
    asked_by = models.ForeignKey(Person, models.PROTECT, related_name="+")
    asked_at = models.DateTimeField()
    state = models.CharField(max_length=9, choices=State)
    state_since = models.DateTimeField()

    class Meta:
        ordering = ["lease", "old_ends_at", "id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(new_ends_at__gt=F("old_ends_at")), name="leasing_extension_not_empty"
            ),
            models.UniqueConstraint(
                fields=["lease"], condition=Q(state="pending"), name="leasing_extension_one_pending"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.lease_id} until {self.new_ends_at:%F %T}"


class LeaseTerm(models.Model):
    """A span of a lease that was quoted at one rate, inside one month of its tenant.

    There are some if the lease is `varied`: then they adjoin and cover it. Those of an extension that its
    host is still to confirm lie beyond its end. They follow the lease; the audit log has what they were.
    """

    lease = models.ForeignKey(Lease, models.PROTECT, related_name="terms")
    extension = models.ForeignKey(Extension, models.PROTECT, null=True, related_name="terms")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    rate_per_hour = models.DecimalField(max_digits=12, decimal_places=4)

    class Meta:
        ordering = ["lease", "starts_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(starts_at__lt=F("ends_at")), name="leasing_leaseterm_not_empty"
            ),
            models.UniqueConstraint(fields=["lease", "starts_at"], name="leasing_leaseterm_one_per_start"),
        ]

    def __str__(self) -> str:
        return f"{self.rate_per_hour}/h from {self.starts_at:%F %T}"


class Hold(models.Model):
    """Reserves one GPU for a lease: `[starts_at, ends_at)` is the lease with lead and turnaround around it.

    The database refuses two that overlap on one GPU (leasing.guards). `tenure` is set at hand-over.
    """

    lease = models.ForeignKey(Lease, models.CASCADE, related_name="holds", db_index=False)
    gpu = models.ForeignKey(Gpu, models.PROTECT, related_name="holds", db_index=False)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()
    tenure = models.PositiveBigIntegerField(null=True)

    class Meta:
        ordering = ["gpu", "starts_at"]
        indexes = [models.Index(fields=["gpu", "starts_at", "ends_at"], name="leasing_hold_of_gpu")]
        constraints = [
            models.CheckConstraint(condition=Q(starts_at__lt=F("ends_at")), name="leasing_hold_not_empty"),
            models.UniqueConstraint(fields=["lease", "gpu"], name="leasing_hold_one_per_lease_and_gpu"),
        ]

    def __str__(self) -> str:
        return f"{self.gpu} {self.starts_at:%F %T} – {self.ends_at:%F %T}"


class LeaseStep(models.Model):
    """A step of a plan on the host, as last reported: what the page shows while a workstation comes up."""

    lease = models.ForeignKey(Lease, models.CASCADE, related_name="steps")
    gpu = models.ForeignKey(Gpu, models.CASCADE, null=True)
    plan = models.CharField(max_length=200)
    name = models.CharField(max_length=200)
    index = models.PositiveSmallIntegerField()
    total = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=7)
    attempt = models.PositiveIntegerField()
    detail = models.CharField(max_length=2000, blank=True)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.plan}/{self.name}: {self.state}"


class ConsoleSession(models.Model):
    """One view of one console. Browser's ticket and host's token are stored hashed, each good once."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    lease = models.ForeignKey(Lease, models.CASCADE, related_name="console_sessions")
    person = models.ForeignKey(Person, models.CASCADE)
    session_key = models.CharField(max_length=64)
    ticket_sha256 = models.CharField(max_length=64, unique=True)
    token_sha256 = models.CharField(max_length=64, unique=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    ticket_used_at = models.DateTimeField(null=True)
    token_used_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.person} on {self.lease_id}"
