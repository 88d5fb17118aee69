"""How the domain's objects look in JSON. Ids are UUIDs or slugs, times UTC, money text with its currency."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from knox.models import AuthToken
from rest_framework import serializers

from hosts.models import FoundCard, Gpu, Host, UsbDevice
from leasing.cards import seal_of
from leasing.metering import billed_seconds, segment_amount, terms
from leasing.models import (
    AuditEntry,
    EnrolmentToken,
    Extension,
    Flavor,
    Guest,
    Image,
    Lease,
    LeaseStep,
    Rate,
    ScrubRecord,
    Tenant,
    UsageSegment,
)
from leasing.pricing import rate_of
from leasing.usage import lease_cost
from portal.pages.history import details


def moment(**kwargs: Any) -> serializers.DateTimeField:
    return serializers.DateTimeField(default_timezone=UTC, read_only=True, **kwargs)


class TenantSerializer(serializers.ModelSerializer[Tenant]):
    roles = serializers.SerializerMethodField()

    class Meta:
        model = Tenant
        fields = [
            "slug",
            "name",
            "timezone",
            "longest_lease_hours",
            "book_ahead_days",
            "concurrent_gpus",
            "weight",
            "roles",
        ]

    def get_roles(self, tenant: Tenant) -> list[str]:
        return sorted(self.context["roles"].get(tenant, ()))


class RateSerializer(serializers.ModelSerializer[Rate]):
    """As listed, without a discount; `per_hour` counts in peak hours if there is an off-peak rate."""

    class Meta:
        model = Rate
        fields = [
            "per_hour", "currency", "off_peak_per_hour", "peak_days", "peak_from_hour", "peak_until_hour",
            "peak_zone", "reserved_hours", "reserved_percent",
        ]  # fmt: skip


class FlavorSerializer(serializers.ModelSerializer[Flavor]):
    gpu_model = serializers.CharField(source="model.name", read_only=True)
    memory_mib = serializers.IntegerField(source="model.memory_mib", read_only=True)
    rate = serializers.SerializerMethodField()

    class Meta:
        model = Flavor
        fields = [
            "slug",
            "name",
            "description",
            "gpu_count",
            "gpu_model",
            "memory_mib",
            "usb_devices",
            "rate",
        ]

    @extend_schema_field(RateSerializer(allow_null=True))
    def get_rate(self, flavor: Flavor) -> dict[str, Any] | None:
        rate = rate_of(flavor, at=timezone.now())
        return None if rate is None else dict(RateSerializer(rate).data)


class ImageSerializer(serializers.ModelSerializer[Image]):
    class Meta:
        model = Image
        fields = ["slug", "name", "os_family", "login", "default_user", "cloud_init"]


class StepSerializer(serializers.ModelSerializer[LeaseStep]):
    started_at, finished_at = moment(), moment(allow_null=True)

    class Meta:
        model = LeaseStep
        fields = ["plan", "name", "index", "total", "state", "attempt", "detail", "started_at", "finished_at"]


class ForwardSerializer(serializers.Serializer[Any]):
    port = serializers.IntegerField(help_text="Of the host")
    inside = serializers.IntegerField(help_text="Of the machine")


class AccessSerializer(serializers.Serializer[Any]):
    address = serializers.CharField(help_text="Of the host, for people")
    forwards = ForwardSerializer(many=True)
    host_key = serializers.CharField(help_text="SHA-256 of the machine's SSH host key; may be empty")


class GuestSerializer(serializers.ModelSerializer[Guest]):
    """What is said by the inside of a machine; whoever leases it may make it say anything."""

    answers = serializers.ChoiceField(choices=["agent", "ssh", "none"], help_text="Who in it answers")
    answered_at = moment(allow_null=True, help_text="Since when")
    addresses = serializers.ListField(child=serializers.CharField())

    class Meta:
        model = Guest
        fields = ["answers", "answered_at", "hostname", "system", "addresses"]


class LeaseSerializer(serializers.ModelSerializer[Lease]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    owner = serializers.CharField(source="owner.username", read_only=True)
    flavor = serializers.CharField(source="flavor.slug", read_only=True)
    image = serializers.CharField(source="image.slug", read_only=True)
    machine_name = serializers.CharField(read_only=True)
    decided_by = serializers.CharField(
        source="decided_by.username", read_only=True, default=None, allow_null=True
    )
    pending_ends_at = serializers.SerializerMethodField(help_text="A later end that its host is to confirm")
    cost = serializers.SerializerMethodField(help_text="Up to now, or final once the lease has stopped")
    starts_at, ends_at, requested_at, state_since = moment(), moment(), moment(), moment()
    decide_by, decided_at, active_at, stopped_at = (moment(allow_null=True) for _ in range(4))
    first_used_at, last_used_at = (
        moment(allow_null=True, help_text="As far as portal and host have seen it") for _ in range(2)
    )
    access = AccessSerializer(
        read_only=True, allow_null=True, help_text="How its machine is reached, beside its console"
    )
    given_back_at = moment(allow_null=True, help_text="When it is given back unless somebody uses it")

    class Meta:
        model = Lease
        fields = [
            "id", "machine_name", "tenant", "owner", "flavor", "image", "state", "state_since", "outcome",
            "outcome_reason", "machine", "starts_at", "ends_at", "pending_ends_at", "requested_at",
            "decide_by", "purpose", "project", "cost_centre", "series", "occurs_on",
            "needs_approval_because", "decided_by", "decided_at", "decision_note", "rate_per_hour",
            "currency", "quoted_total", "cost", "active_at", "stopped_at",
            "waiting_because", "first_used_at", "last_used_at", "given_back_at", "access", "with_home",
            "snapshot",
        ]  # fmt: skip
        read_only_fields = fields

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_pending_ends_at(self, lease: Lease) -> datetime | None:
        waiting = [one for one in lease.extensions.all() if one.state == Extension.State.PENDING]
        return waiting[0].new_ends_at if waiting else None

    @extend_schema_field(serializers.DecimalField(max_digits=14, decimal_places=2))
    def get_cost(self, lease: Lease) -> str:
        return str(lease_cost(lease, now=timezone.now()))


class TermSerializer(serializers.Serializer[Any]):
    """A span at one rate, inside one month of the tenant."""

    starts_at = serializers.DateTimeField(default_timezone=UTC)
    ends_at = serializers.DateTimeField(default_timezone=UTC)
    rate_per_hour = serializers.DecimalField(max_digits=12, decimal_places=4)


class UsbDeviceSerializer(serializers.ModelSerializer[UsbDevice]):
    host = serializers.CharField(source="host.name", read_only=True)

    class Meta:
        model = UsbDevice
        fields = ["id", "host", "port", "usb_id", "name"]


class LeaseDetailSerializer(LeaseSerializer):
    steps = StepSerializer(many=True, read_only=True)
    guest = GuestSerializer(read_only=True, allow_null=True, default=None)
    usb = serializers.SerializerMethodField(help_text="The USB devices that its person has chosen")
    terms = serializers.SerializerMethodField(help_text="What it is billed by; each is rounded by itself")

    class Meta(LeaseSerializer.Meta):
        fields = [*LeaseSerializer.Meta.fields, "steps", "terms", "guest", "usb"]
        read_only_fields = fields

    @extend_schema_field(UsbDeviceSerializer(many=True))
    def get_usb(self, lease: Lease) -> Any:
        devices = UsbDevice.objects.filter(leases__lease=lease).select_related("host")
        return UsbDeviceSerializer(devices if lease.bound_to_id else [], many=True).data

    @extend_schema_field(TermSerializer(many=True))
    def get_terms(self, lease: Lease) -> Any:
        return TermSerializer(terms(lease), many=True).data


class HostSerializer(serializers.ModelSerializer[Host]):
    accepting = serializers.BooleanField(read_only=True, help_text="Whether new leases may start on it now")
    last_seen_at, enrolled_at, retired_at = (moment(allow_null=True) for _ in range(3))

    class Meta:
        model = Host
        fields = [
            "id", "name", "account", "accepting", "simulated", "cpu_count", "memory_mib", "disk_gib",
            "kernel", "worker_version", "protocol", "last_seen_at", "enrolled_at", "retired_at",
        ]  # fmt: skip
        read_only_fields = fields


class ReadingSerializer(serializers.Serializer[Any]):
    looked_at = serializers.CharField(source="source")
    said = serializers.CharField(source="value")


class CheckSerializer(serializers.Serializer[Any]):
    code = serializers.CharField()
    outcome = serializers.CharField()
    verdict = serializers.ChoiceField(choices=["fail", "warn", "pass", "skip"])
    subject = serializers.CharField(help_text="PCI address of the card; empty for the host itself")
    title = serializers.CharField()
    finding = serializers.CharField()
    why = serializers.CharField(help_text="Why it matters")
    change = serializers.CharField(help_text="What to do about it")
    lines = serializers.CharField(help_text="To be typed or written as they stand")
    read = ReadingSerializer(many=True, help_text="What the host looked at")


class CheckUpSerializer(serializers.Serializer[Any]):
    taken_at = serializers.DateTimeField(default_timezone=UTC)
    simulated = serializers.BooleanField()
    left_out = serializers.IntegerField(help_text="How many more did not fit into the report")
    failed, warned = serializers.IntegerField(), serializers.IntegerField()
    checks = CheckSerializer(many=True)


class EnrolmentTokenSerializer(serializers.ModelSerializer[EnrolmentToken]):
    host = serializers.UUIDField(source="host_id", read_only=True, allow_null=True)
    made_by = serializers.CharField(source="created_by.username", read_only=True, default="")
    created_at, expires_at = moment(), moment()

    class Meta:
        model = EnrolmentToken
        fields = ["id", "name", "host", "made_by", "created_at", "expires_at"]
        read_only_fields = fields


class FoundCardSerializer(serializers.ModelSerializer[FoundCard]):
    host = serializers.CharField(source="host.name", read_only=True)
    functions = serializers.ListField(child=serializers.CharField(), read_only=True)
    fingerprint = serializers.DictField(read_only=True, help_text="What tells it from other cards")
    details = serializers.DictField(read_only=True, help_text="What else its host could read")
    part = serializers.DictField(read_only=True, help_text="Of which card it is a slice; empty if of none")
    profiles = serializers.ListField(
        child=serializers.DictField(), read_only=True, help_text="Ways to divide it"
    )
    seal = serializers.SerializerMethodField(help_text="Of the fingerprint, to accept a changed card by")
    in_service = serializers.SerializerMethodField()
    first_seen_at = moment()

    class Meta:
        model = FoundCard
        fields = [
            "id", "host", "address", "functions", "iommu_group", "name", "memory_mib", "numa_node",
            "fingerprint", "seal", "details", "part", "profiles", "refusal", "in_service", "first_seen_at",
        ]  # fmt: skip
        read_only_fields = fields

    def get_seal(self, card: FoundCard) -> str:
        return seal_of(card.fingerprint)

    def get_in_service(self, card: FoundCard) -> bool:
        return any(gpu.address == card.address for gpu in card.host.gpus.all())


class GpuSerializer(serializers.ModelSerializer[Gpu]):
    host = serializers.CharField(source="host.name", read_only=True)
    model = serializers.CharField(source="model.slug", read_only=True)
    functions = serializers.ListField(child=serializers.CharField(), read_only=True)
    fingerprint = serializers.DictField(read_only=True)
    state_since = moment()

    class Meta:
        model = Gpu
        fields = [
            "id", "host", "model", "address", "functions", "iommu_group", "numa_node", "fingerprint", "card",
            "parent", "proven_kernel", "state", "state_since", "state_reason", "tenure", "share_vcpus",
            "share_memory_mib", "share_disk_gib",
        ]  # fmt: skip
        read_only_fields = fields


class HappeningSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField(default_timezone=UTC)
    action = serializers.CharField()
    sentence = serializers.CharField(help_text="The action in words")
    actor = serializers.CharField()
    reason = serializers.CharField()


class ScrubRecordSerializer(serializers.ModelSerializer[ScrubRecord]):
    lease = serializers.UUIDField(source="lease_id", read_only=True, allow_null=True)
    gpu = serializers.UUIDField(source="gpu_id", read_only=True)
    evidence = serializers.DictField(read_only=True)
    reasons = serializers.ListField(child=serializers.CharField(), read_only=True)
    finished_at, recorded_at = moment(), moment()

    class Meta:
        model = ScrubRecord
        fields = [
            "id", "gpu", "lease", "tenure", "passed", "reasons", "simulated", "evidence", "finished_at",
            "recorded_at",
        ]  # fmt: skip
        read_only_fields = fields


class AuditEntrySerializer(serializers.ModelSerializer[AuditEntry]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True, default=None, allow_null=True)
    sealed_as = serializers.IntegerField(source="leaf.index", read_only=True, default=None, allow_null=True)
    entry = serializers.SerializerMethodField(help_text="The entry as it was sealed")
    recorded_at = moment()

    class Meta:
        model = AuditEntry
        fields = ["id", "recorded_at", "action", "actor", "subject", "tenant", "sealed_as", "entry"]
        read_only_fields = fields

    @extend_schema_field(serializers.DictField())
    def get_entry(self, entry: AuditEntry) -> dict[str, Any]:
        return details(entry)


class UsageSerializer(serializers.ModelSerializer[UsageSegment]):
    lease = serializers.UUIDField(source="lease_id", read_only=True, allow_null=True)
    volume = serializers.UUIDField(
        source="volume_id", read_only=True, allow_null=True, help_text="The home volume that was kept"
    )
    snapshot = serializers.UUIDField(
        source="snapshot_id", read_only=True, allow_null=True, help_text="The snapshot that was kept"
    )
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    owner = serializers.CharField(source="person.username", read_only=True)
    flavor = serializers.CharField(source="lease.flavor.slug", read_only=True, allow_null=True)
    seconds = serializers.SerializerMethodField()
    amount = serializers.SerializerMethodField()
    starts_at, ends_at = moment(), moment(allow_null=True)

    class Meta:
        model = UsageSegment
        fields = [
            "id", "lease", "volume", "snapshot", "tenant", "owner", "flavor", "starts_at", "ends_at",
            "seconds", "rate_per_hour", "currency", "cause", "amount",
        ]  # fmt: skip
        read_only_fields = fields

    def get_seconds(self, segment: UsageSegment) -> int:
        return billed_seconds(segment, self._now())

    @extend_schema_field(serializers.DecimalField(max_digits=14, decimal_places=2))
    def get_amount(self, segment: UsageSegment) -> str:
        amount: Decimal = segment_amount(segment, self._now())
        return str(amount)

    def _now(self) -> datetime:
        now: datetime = self.context["now"]
        return now


class TokenSerializer(serializers.ModelSerializer[AuthToken]):
    created, expiry = moment(), moment(allow_null=True)

    class Meta:
        model = AuthToken
        fields = ["token_key", "created", "expiry"]
        read_only_fields = fields
