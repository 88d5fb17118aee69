"""Calendar feeds over the API."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing.errors import NotAllowed
from leasing.feeds.keeping import LONGEST_NAME, create_feed, revoke_feed
from leasing.models import CalendarFeed
from portal.api.fields import StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of
from portal.feeds import address_of


class FeedSerializer(serializers.ModelSerializer[CalendarFeed]):
    model = serializers.CharField(
        source="model.slug", read_only=True, default=None, allow_null=True, help_text="Null: own workstations"
    )
    created_at, last_read_at = moment(), moment(allow_null=True)

    class Meta:
        model = CalendarFeed
        fields = ["id", "name", "model", "created_at", "last_read_at"]
        read_only_fields = fields


class MakeFeedSerializer(StrictSerializer[dict[str, Any]]):
    name = serializers.CharField(max_length=LONGEST_NAME)
    model = serializers.SlugField(
        required=False, allow_null=True, default=None, help_text="Own workstations if left out"
    )


class NewFeedSerializer(serializers.Serializer[dict[str, Any]]):
    id = serializers.UUIDField()
    url = serializers.CharField(help_text="Shown this once")


class FeedList(ListView[CalendarFeed]):
    """Your calendar feeds, without their addresses."""

    serializer_class = FeedSerializer
    queryset = CalendarFeed.objects.none()

    def get_queryset(self) -> QuerySet[CalendarFeed]:
        feeds = CalendarFeed.objects.filter(person=person_of(self.request))
        return feeds.select_related("model").order_by("created_at", "id")

    @extend_schema(request=MakeFeedSerializer, responses={201: NewFeedSerializer})
    def post(self, request: Request) -> Response:
        """Make a feed. Only a signed-in session may: its address would outlive a token's revocation."""
        if request.auth is not None:
            raise NotAllowed(
                _("A token cannot make a calendar feed."), hint=_("Make it on your account page.")
            )
        asked = checked(MakeFeedSerializer, request.data)
        made = create_feed(
            actor=api_actor(request), name=asked["name"], model_slug=asked["model"] or "", now=timezone.now()
        )
        answer = {"id": made.row.pk, "url": address_of(made.secret)}
        return Response(NewFeedSerializer(answer).data, status=status.HTTP_201_CREATED)


class FeedDetail(ActionView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, feed_id: UUID) -> Response:
        """Revoke a feed at once."""
        revoke_feed(actor=api_actor(request), feed_id=feed_id, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
