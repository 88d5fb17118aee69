"""How hypervisors come in: requests of hosts, who are nobody yet, and tokens that operators make."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import AnonRateThrottle

from hosts.protocol.signing import MAX_ENVELOPE_BYTES
from leasing import policy
from leasing.enrolment import admission, tokens
from leasing.models import EnrolmentToken
from portal.api.fields import StrictSerializer
from portal.api.serializers import EnrolmentTokenSerializer
from portal.api.views import ActionView, ListView, api_actor, checked, person_of
from portal.middleware import client_address


class EnvelopeSerializer(StrictSerializer[dict[str, Any]]):
    envelope = serializers.CharField(max_length=MAX_ENVELOPE_BYTES, help_text="Signed by the host")


class AnswerSerializer(serializers.Serializer[dict[str, Any]]):
    envelope = serializers.CharField(
        help_text="Signed by the portal; what is secret in it, only the host opens"
    )


class TokenLifetimeSerializer(StrictSerializer[dict[str, Any]]):
    hours = serializers.IntegerField(default=24, min_value=1, max_value=168)


class NewHostSerializer(TokenLifetimeSerializer):
    name = serializers.CharField(max_length=63)


class NewEnrolmentTokenSerializer(serializers.Serializer[dict[str, Any]]):
    token = serializers.CharField(help_text="Shown this once")
    id = serializers.IntegerField()
    name = serializers.CharField()
    expires_at = serializers.DateTimeField()


class EnrolmentThrottle(AnonRateThrottle):
    """By address: a host enrols once."""

    scope = "enrolment"


class EnrolView(ActionView):
    """For hosts: whoever brings a token, or the old key, has no other way to say who they are."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = (EnrolmentThrottle,)

    @extend_schema(request=EnvelopeSerializer, responses={201: AnswerSerializer}, auth=[])
    def post(self, request: Request) -> Response:
        """Let a host in that brings a token."""
        envelope = checked(EnvelopeSerializer, request.data)["envelope"]
        address = client_address(request._request)
        answer = admission.enrol(envelope=envelope, address=address, now=timezone.now())
        return Response({"envelope": answer}, status=status.HTTP_201_CREATED)


class RekeyView(ActionView):
    """For hosts that are enrolled."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = (EnrolmentThrottle,)

    @extend_schema(request=EnvelopeSerializer, responses=AnswerSerializer, auth=[])
    def post(self, request: Request) -> Response:
        """Give a host the new keys that its old key has signed."""
        envelope = checked(EnvelopeSerializer, request.data)["envelope"]
        address = client_address(request._request)
        answer = admission.rekey(envelope=envelope, address=address, now=timezone.now())
        return Response({"envelope": answer})


class EnrolmentTokenList(ListView[EnrolmentToken]):
    """Tokens with which a host may be let in, that are neither used nor expired."""

    serializer_class = EnrolmentTokenSerializer
    queryset = EnrolmentToken.objects.none()

    def get_queryset(self) -> QuerySet[EnrolmentToken]:
        policy.require_operator(person_of(self.request))
        return tokens.open_tokens(now=timezone.now())

    @extend_schema(request=NewHostSerializer, responses={201: NewEnrolmentTokenSerializer})
    def post(self, request: Request) -> Response:
        """Make a token for a new host."""
        policy.require_operator(person_of(request))
        asked = checked(NewHostSerializer, request.data)
        token, text = tokens.make_token(
            actor=api_actor(request),
            name=asked["name"],
            lifetime=timedelta(hours=asked["hours"]),
            now=timezone.now(),
        )
        return told(token, text)


class EnrolmentTokenDetail(ActionView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, token_id: int) -> Response:
        """Withdraw a token: nobody is let in by it any more."""
        policy.require_operator(person_of(request))
        tokens.withdraw_token(actor=api_actor(request), token_id=token_id, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)


class HostTokenView(ActionView):
    @extend_schema(request=TokenLifetimeSerializer, responses={201: NewEnrolmentTokenSerializer})
    def post(self, request: Request, host_id: UUID) -> Response:
        """Make a token with which an enrolled host gets new keys."""
        policy.require_operator(person_of(request))
        hours = checked(TokenLifetimeSerializer, request.data)["hours"]
        token, text = tokens.make_token_for(
            actor=api_actor(request), host_id=host_id, lifetime=timedelta(hours=hours), now=timezone.now()
        )
        return told(token, text)


def told(token: EnrolmentToken, text: str) -> Response:
    answer = {"token": text, "id": token.pk, "name": token.name, "expires_at": token.expires_at}
    return Response(NewEnrolmentTokenSerializer(answer).data, status=status.HTTP_201_CREATED)
