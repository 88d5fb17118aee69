"""Notices over the API: one's own, which of them have been read, and by which ways one hears of them."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import hooks, notices
from leasing.errors import NotAllowed
from leasing.hook_client import LONGEST_URL
from leasing.models import NoticeSettings, Notification
from leasing.notice_topics import Topic, topic_of
from portal.api.fields import StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of

LARGEST = 2**63 - 1
TOPICS = [topic.value for topic in Topic]


class NoticeSerializer(serializers.ModelSerializer[Notification]):
    topic = serializers.SerializerMethodField()
    text = serializers.CharField(source="body", read_only=True)
    created_at, read_at = moment(), moment(allow_null=True)

    class Meta:
        model = Notification
        fields = ["id", "kind", "topic", "subject", "text", "lease", "created_at", "read_at"]
        read_only_fields = fields

    def get_topic(self, notice: Notification) -> str:
        return topic_of(notice.kind).value


class NoticeFilterSerializer(serializers.Serializer[dict[str, Any]]):
    unread = serializers.BooleanField(required=False, help_text="Only those that are unread; or are read")


class MarkSerializer(StrictSerializer[dict[str, Any]]):
    read = serializers.BooleanField(help_text="False to have it among the unread ones again")


class MarkManySerializer(StrictSerializer[dict[str, Any]]):
    until = serializers.IntegerField(
        min_value=1,
        max_value=LARGEST,
        help_text="The newest one that was seen; later ones stay unread",
    )


class MarkedSerializer(serializers.Serializer[dict[str, Any]]):
    marked = serializers.IntegerField()


class WaySerializer(StrictSerializer[dict[str, Any]]):
    """The topics of which one hears by each way. What a workstation's page says, it says in any case."""

    email = serializers.MultipleChoiceField(choices=TOPICS)
    browser = serializers.MultipleChoiceField(choices=TOPICS)
    webhook = serializers.MultipleChoiceField(choices=TOPICS)


class NoticeSettingsSerializer(serializers.ModelSerializer[NoticeSettings]):
    email = serializers.ListField(child=serializers.ChoiceField(choices=TOPICS))
    browser = serializers.ListField(child=serializers.ChoiceField(choices=TOPICS))
    webhook = serializers.ListField(child=serializers.ChoiceField(choices=TOPICS))
    webhook_url = serializers.CharField(source="url", help_text="Empty without a webhook")
    quiet_until = moment(allow_null=True, help_text="The webhook took none lately; it is asked again then")

    class Meta:
        model = NoticeSettings
        fields = ["email", "browser", "webhook", "webhook_url", "quiet_until"]
        read_only_fields = fields


class WebhookSerializer(StrictSerializer[dict[str, Any]]):
    url = serializers.CharField(max_length=LONGEST_URL, help_text="It begins with https:// and is public")


class WebhookSecretSerializer(serializers.Serializer[dict[str, Any]]):
    secret = serializers.CharField(help_text="Signs the requests; shown this once")


class NoticeList(ListView[Notification]):
    serializer_class = NoticeSerializer
    queryset = Notification.objects.none()

    def get_queryset(self) -> QuerySet[Notification]:
        chosen = checked(NoticeFilterSerializer, self.request.query_params.dict())
        mine = notices.notices_of(person_of(self.request))
        return mine.filter(read_at__isnull=chosen["unread"]) if "unread" in chosen else mine

    @extend_schema(parameters=[NoticeFilterSerializer])
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Your notices, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(operation_id="notices_mark_read", request=MarkManySerializer, responses=MarkedSerializer)
    def post(self, request: Request) -> Response:
        """Mark as read all of yours up to one."""
        until = checked(MarkManySerializer, request.data)["until"]
        marked = notices.mark_read(person=person_of(request), until=until, now=timezone.now())
        return Response(MarkedSerializer({"marked": marked}).data)


class NoticeView(ActionView):
    @extend_schema(operation_id="notices_mark", request=MarkSerializer, responses=NoticeSerializer)
    def post(self, request: Request, number: int) -> Response:
        """Mark one of yours as read, or as unread again."""
        read = checked(MarkSerializer, request.data)["read"]
        notice = notices.mark_one(
            person=person_of(request), number=min(number, LARGEST), read=read, now=timezone.now()
        )
        return Response(NoticeSerializer(notice).data)


class NoticeSettingsView(ActionView):
    @extend_schema(responses=NoticeSettingsSerializer)
    def get(self, request: Request) -> Response:
        """Of what you hear, and by which ways."""
        return Response(NoticeSettingsSerializer(hooks.settings_of(person_of(request))).data)

    @extend_schema(request=WaySerializer, responses=NoticeSettingsSerializer)
    def put(self, request: Request) -> Response:
        """Choose of what you hear, and by which ways."""
        ways = checked(WaySerializer, request.data)
        row = hooks.choose_ways(actor=api_actor(request), ways=ways, now=timezone.now())
        return Response(NoticeSettingsSerializer(row).data)


class WebhookView(ActionView):
    @extend_schema(request=WebhookSerializer, responses=WebhookSecretSerializer)
    def put(self, request: Request) -> Response:
        """Have notices sent to an address. Only a signed-in session may: it would outlive a token."""
        if request.auth is not None:
            raise NotAllowed(_("A token cannot set a webhook."), hint=_("Set it on the page of notices."))
        url = checked(WebhookSerializer, request.data)["url"]
        secret = hooks.set_hook(actor=api_actor(request), url=url, now=timezone.now())
        return Response(WebhookSecretSerializer({"secret": secret}).data)

    @extend_schema(responses={204: None})
    def delete(self, request: Request) -> Response:
        """Have none sent any more."""
        hooks.remove_hook(actor=api_actor(request), now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
