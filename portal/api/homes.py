"""Home volumes over the API."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing.homes import remove_volume, volumes_of
from leasing.models import HomeVolume
from leasing.states.home import HomeState
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, person_of


class HomeSerializer(serializers.ModelSerializer[HomeVolume]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    pool = serializers.CharField(source="pool.name", read_only=True, help_text="The storage in which it lies")
    state = serializers.ChoiceField(choices=[state.value for state in HomeState], read_only=True)
    created_at, state_since = moment(), moment()
    made_at = moment(allow_null=True, help_text="When a machine first ran with it")

    class Meta:
        model = HomeVolume
        fields = [
            "id", "tenant", "pool", "size_gib", "state", "state_since", "lease", "last_lease", "created_at",
            "made_at",
        ]  # fmt: skip
        read_only_fields = fields


class HomeList(ListView[HomeVolume]):
    """Your home volumes. One is made by the first lease that is booked `with_home`."""

    serializer_class = HomeSerializer
    queryset = HomeVolume.objects.none()

    def get_queryset(self) -> QuerySet[HomeVolume]:
        return volumes_of(person_of(self.request)).order_by("created_at", "id")


class HomeDetail(ActionView):
    @extend_schema(responses={202: HomeSerializer})
    def delete(self, request: Request, volume_id: UUID) -> Response:
        """Destroy a home volume that no lease has, with all files on it. A host of its pool does it soon."""
        volume = remove_volume(actor=api_actor(request), volume_id=volume_id, now=timezone.now())
        return Response(HomeSerializer(volume).data, status=status.HTTP_202_ACCEPTED)
