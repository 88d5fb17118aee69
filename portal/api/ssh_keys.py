"""SSH keys over the API."""

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
from leasing.models import SshKey
from leasing.ssh_keys import LONGEST_NAME, add_ssh_key, remove_ssh_key
from portal.api.fields import StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of

LONGEST_LINE = 3000


class SshKeySerializer(serializers.ModelSerializer[SshKey]):
    created_at = moment()

    class Meta:
        model = SshKey
        fields = ["id", "name", "text", "fingerprint", "created_at"]
        read_only_fields = fields


class AddSshKeySerializer(StrictSerializer[dict[str, Any]]):
    key = serializers.CharField(max_length=LONGEST_LINE, help_text="The one line of a .pub file")
    name = serializers.CharField(
        max_length=LONGEST_NAME,
        required=False,
        default="",
        allow_blank=True,
        help_text="Left out: its comment",
    )


class SshKeyList(ListView[SshKey]):
    """Your SSH keys. Workstations with a system that takes keys know them from their start."""

    serializer_class = SshKeySerializer
    queryset = SshKey.objects.none()

    def get_queryset(self) -> QuerySet[SshKey]:
        return SshKey.objects.filter(person=person_of(self.request)).order_by("created_at", "id")

    @extend_schema(request=AddSshKeySerializer, responses={201: SshKeySerializer})
    def post(self, request: Request) -> Response:
        """Add a key. Only a signed-in session may: it would outlive a token's revocation."""
        if request.auth is not None:
            raise NotAllowed(_("A token cannot add an SSH key."), hint=_("Add it on your account page."))
        asked = checked(AddSshKeySerializer, request.data)
        row = add_ssh_key(actor=api_actor(request), line=asked["key"], name=asked["name"], now=timezone.now())
        return Response(SshKeySerializer(row).data, status=status.HTTP_201_CREATED)


class SshKeyDetail(ActionView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, key_id: UUID) -> Response:
        """Remove a key. Workstations that run still know it."""
        remove_ssh_key(actor=api_actor(request), key_id=key_id, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
