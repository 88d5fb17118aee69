"""Home volumes over the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing.homes import remove_volume, volumes_of
from leasing.models import HomeReading, HomeVolume
from leasing.reading import fetch_reading, read_home
from leasing.states.home import HomeState
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, credential_of_request, person_of
from portal.pages.home_files import download_path


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


class ReadHomeSerializer(serializers.Serializer[Any]):
    wanted = serializers.ChoiceField(
        choices=HomeReading.Wanted.choices,
        help_text="`list`: what is in a folder; `file`: a file; `archive`: a folder as a tar archive",
    )
    path = serializers.CharField(
        max_length=1000,
        allow_blank=True,
        trim_whitespace=False,
        help_text="From the root, which is empty: `/a/b`",
    )


class EntrySerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=["folder", "file", "other"])
    size = serializers.IntegerField(help_text="In bytes")
    changed_at = serializers.IntegerField(help_text="Seconds since 1970")


class ListingSerializer(serializers.Serializer[Any]):
    entries = EntrySerializer(many=True)
    more = serializers.BooleanField(help_text="There are others than these")
    unnamed = serializers.IntegerField(help_text="How many have names that are not text")


class HomeReadingSerializer(serializers.ModelSerializer[HomeReading]):
    created_at = moment()
    ended_at = moment(allow_null=True, help_text="When it was over; the volume is free then")
    was_clean = serializers.BooleanField(
        allow_null=True,
        help_text="False: its last machine was cut off; what that had not written may be missing",
    )
    listing = ListingSerializer(allow_null=True, help_text="Of a folder, for ten minutes")
    download = serializers.SerializerMethodField(
        help_text="Where a file or an archive is, once, for whoever asked for it with the same credentials"
    )

    class Meta:
        model = HomeReading
        fields = [
            "id", "volume", "wanted", "path", "created_at", "ended_at", "was_clean", "listing", "reason",
            "download",
        ]  # fmt: skip
        read_only_fields = fields

    def get_download(self, one: HomeReading) -> str | None:
        waits = one.wanted != HomeReading.Wanted.LIST and one.taken_at is None and one.ended_at is None
        return download_path(one.pk) if waits else None


class HomeReadings(ActionView):
    @extend_schema(request=ReadHomeSerializer, responses={202: HomeReadingSerializer})
    def post(self, request: Request, volume_id: UUID) -> Response:
        """Look into a home volume of yours that no workstation has. A small machine is started for that.

        Ask again how far it is, or fetch what is at `download` within 30 seconds.
        """
        asked = checked(ReadHomeSerializer, request.data)
        one = read_home(
            actor=api_actor(request),
            volume_id=volume_id,
            wanted=asked["wanted"],
            path=asked["path"],
            session_key=credential_of_request(request),
            now=timezone.now(),
        )
        return Response(HomeReadingSerializer(one).data, status=status.HTTP_202_ACCEPTED)


class HomeReadingDetail(ActionView):
    @extend_schema(responses=HomeReadingSerializer)
    def get(self, request: Request, reading_id: UUID) -> Response:
        """How far it is, and what was found."""
        return Response(HomeReadingSerializer(fetch_reading(person_of(request), reading_id)).data)
