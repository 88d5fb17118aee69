"""Who I am, my tenants and tokens, and what can be leased."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from knox.models import AuthToken
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.errors import NotAllowed
from leasing.models import Flavor, Image, Tenant
from portal.api.fields import StrictSerializer
from portal.api.serializers import FlavorSerializer, ImageSerializer, TenantSerializer, TokenSerializer
from portal.api.tokens import create_token, revoke_token
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class MeSerializer(serializers.Serializer[dict[str, Any]]):
    username = serializers.CharField()
    name = serializers.CharField()
    language = serializers.CharField(allow_blank=True)
    timezone = serializers.CharField()
    roles = serializers.DictField(child=serializers.ListField(child=serializers.CharField()))
    operator = serializers.BooleanField()
    platform_finance = serializers.BooleanField()
    auditor = serializers.BooleanField()


class LifetimeSerializer(StrictSerializer[dict[str, Any]]):
    days = serializers.IntegerField(default=90, min_value=1, max_value=366)


class NewTokenSerializer(serializers.Serializer[dict[str, Any]]):
    token = serializers.CharField(help_text="Shown this once")
    token_key = serializers.CharField()
    expiry = serializers.DateTimeField()


class MeView(ActionView):
    @extend_schema(responses=MeSerializer)
    def get(self, request: Request) -> Response:
        """You, and what you may do."""
        person = person_of(request)
        roles = {tenant.slug: sorted(names) for tenant, names in policy.roles_of(person).items()}
        answer = {
            "username": person.username,
            "name": str(person),
            "language": person.language,
            "timezone": person.timezone,
            "roles": roles,
            "operator": policy.is_operator(person),
            "platform_finance": policy.is_money_manager(person),
            "auditor": policy.is_auditor(person),
        }
        return Response(MeSerializer(answer).data)


class TenantList(ListView[Tenant]):
    """The tenants in which you have a role, with their limits; all of them for auditors."""

    serializer_class = TenantSerializer
    queryset = Tenant.objects.none()

    def get_queryset(self) -> QuerySet[Tenant]:
        person = person_of(self.request)
        if policy.is_auditor(person):
            return Tenant.objects.order_by("name")
        return policy.tenants_with_role(person, *policy.ROLES).order_by("name")

    def get_serializer_context(self) -> dict[str, Any]:
        return {**super().get_serializer_context(), "roles": policy.roles_of(person_of(self.request))}


class FlavorList(ListView[Flavor]):
    """What is offered, at its current rate."""

    serializer_class = FlavorSerializer
    queryset = Flavor.objects.filter(offered=True).select_related("model").order_by("name")


class ImageList(ListView[Image]):
    """The systems that a workstation can start from."""

    serializer_class = ImageSerializer
    queryset = Image.objects.filter(offered=True).order_by("name")


class TokenList(ListView[AuthToken]):
    serializer_class = TokenSerializer
    queryset = AuthToken.objects.none()

    def get_queryset(self) -> QuerySet[AuthToken]:
        tokens: QuerySet[AuthToken] = AuthToken.objects.filter(user=self.request.user)
        return tokens.order_by("-created")

    @extend_schema(request=LifetimeSerializer, responses={201: NewTokenSerializer})
    def post(self, request: Request) -> Response:
        """Make a token. Only a signed-in session may: a stolen token must not outlive its revocation."""
        if request.auth is not None:
            raise NotAllowed(_("A token cannot make another one."), hint=_("Make it on your account page."))
        days = checked(LifetimeSerializer, request.data)["days"]
        made = create_token(actor=api_actor(request), lifetime=timedelta(days=days), now=timezone.now())
        answer = {"token": made.secret, "token_key": made.row.token_key, "expiry": made.row.expiry}
        return Response(NewTokenSerializer(answer).data, status=status.HTTP_201_CREATED)


class TokenDetail(ActionView):
    @extend_schema(responses={204: None})
    def delete(self, request: Request, token_key: str) -> Response:
        """Revoke a token at once."""
        revoke_token(actor=api_actor(request), token_key=token_key, now=timezone.now())
        return Response(status=status.HTTP_204_NO_CONTENT)
