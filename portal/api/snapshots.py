"""Snapshots over the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.models import Snapshot
from leasing.snapshots import remove_snapshot, take_snapshot
from leasing.snapshots_kept import snapshots_of
from leasing.states.snapshot import SnapshotState
from portal.api.fields import StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class SnapshotSerializer(serializers.ModelSerializer[Snapshot]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    pool = serializers.CharField(source="pool.name", read_only=True, help_text="The storage in which it lies")
    image = serializers.CharField(source="image.slug", read_only=True, help_text="What it can be booked with")
    lease = serializers.UUIDField(source="lease_id", read_only=True, help_text="Whose disk it is a copy of")
    size_gib = serializers.IntegerField(read_only=True, help_text="The size of that disk")
    size_bytes = serializers.IntegerField(
        read_only=True, allow_null=True, help_text="What it takes of the storage"
    )
    state = serializers.ChoiceField(choices=[state.value for state in SnapshotState], read_only=True)
    created_at, state_since = moment(), moment()
    taken_at = moment(allow_null=True, help_text="When the copy was whole")

    class Meta:
        model = Snapshot
        fields = [
            "id", "tenant", "pool", "image", "lease", "size_gib", "size_bytes", "state", "state_since",
            "created_at", "taken_at",
        ]  # fmt: skip
        read_only_fields = fields


class TakingSerializer(StrictSerializer[dict[str, Any]]):
    at_end = serializers.BooleanField(
        required=False, default=False, help_text="When the lease ends; else now, while its machine is off"
    )


class SnapshotList(ListView[Snapshot]):
    """Your snapshots, the latest first."""

    serializer_class = SnapshotSerializer
    queryset = Snapshot.objects.none()

    def get_queryset(self) -> QuerySet[Snapshot]:
        return snapshots_of(person_of(self.request)).order_by("-created_at", "id")


class SnapshotDetail(ActionView):
    @extend_schema(responses={202: SnapshotSerializer})
    def delete(self, request: Request, snapshot_id: UUID) -> Response:
        """Destroy a snapshot. A host of its pool does it soon; one that is still to be taken is not taken."""
        gone = remove_snapshot(actor=api_actor(request), snapshot_id=snapshot_id, now=timezone.now())
        return Response(SnapshotSerializer(gone).data, status=status.HTTP_202_ACCEPTED)


class TakeView(ActionView):
    @extend_schema(request=TakingSerializer, responses={202: SnapshotSerializer})
    def post(self, request: Request, lease_id: UUID) -> Response:
        """Copy the disk of your lease: now, while its machine is off, or when it ends."""
        policy.fetch_lease(person_of(request), lease_id, "use")
        asked = checked(TakingSerializer, request.data)
        snapshot = take_snapshot(
            actor=api_actor(request), lease_id=lease_id, at_end=asked["at_end"], now=timezone.now()
        )
        return Response(SnapshotSerializer(snapshot).data, status=status.HTTP_202_ACCEPTED)
