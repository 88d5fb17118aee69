"""Quotas over the API: the limits in force, requests for more, and decisions."""

from __future__ import annotations

from datetime import UTC
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from hosts.models import GpuModel
from leasing import policy, quota_requests, quota_setting, quotas
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import Person, QuotaKind, QuotaRequest, Tenant
from leasing.quota_setting import PersonLimit
from portal.api.fields import MomentField, StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of


class LimitSerializer(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=QuotaKind.choices, source="limit.kind")
    value = serializers.DecimalField(max_digits=14, decimal_places=2, source="limit.value")
    own = serializers.BooleanField(source="limit.own", help_text="Yours alone, not the whole tenant's")
    gpu_model = serializers.CharField(source="limit.model_name", help_text="Empty for all models")
    currency = serializers.CharField(source="limit.currency")
    used = serializers.DecimalField(
        max_digits=14,
        decimal_places=2,
        allow_null=True,
        help_text="Booked and used in the month, or GPUs at this moment; null where nothing is used up",
    )
    until = serializers.DateTimeField(
        source="limit.until", default_timezone=UTC, allow_null=True, help_text="Null means for good"
    )
    month = serializers.CharField(help_text="The month of a monthly limit, in the tenant's zone; else empty")


class PersonLimitSerializer(serializers.Serializer[PersonLimit]):
    person = serializers.CharField(source="person.username")
    kind = serializers.ChoiceField(choices=QuotaKind.choices)
    gpu_model = serializers.CharField(source="model.slug", default=None, allow_null=True)
    value = serializers.DecimalField(max_digits=14, decimal_places=2)
    until = moment(allow_null=True)


class TenantLimitsSerializer(serializers.Serializer[Any]):
    tenant = serializers.SlugField()
    limits = LimitSerializer(many=True)
    people = PersonLimitSerializer(many=True, help_text="Limits of single people, for the team's approvers")


class PutLimitSerializer(StrictSerializer[dict[str, Any]]):
    tenant = serializers.SlugField()
    person = serializers.CharField(
        required=False, allow_blank=True, default="", max_length=150, help_text="Empty: the whole team"
    )
    kind = serializers.ChoiceField(choices=[each for each in QuotaKind.choices if each[0] != "budget"])
    model = serializers.SlugField(required=False, allow_null=True, default=None)
    value = serializers.DecimalField(
        max_digits=14,
        decimal_places=2,
        min_value=0,
        max_value=quota_requests.LARGEST,
        allow_null=True,
        help_text="Null lifts the limit",
    )
    until = MomentField(required=False, allow_null=True, default=None)


class QuotaRequestSerializer(serializers.ModelSerializer[QuotaRequest]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    asked_by = serializers.CharField(source="asked_by.username", read_only=True)
    person = serializers.CharField(source="person.username", read_only=True, default=None, allow_null=True)
    model = serializers.CharField(source="model.slug", read_only=True, default=None, allow_null=True)
    decided_by = serializers.CharField(
        source="decided_by.username", read_only=True, default=None, allow_null=True
    )
    asked_at, until, decided_at = moment(), moment(allow_null=True), moment(allow_null=True)

    class Meta:
        model = QuotaRequest
        fields = [
            "id", "tenant", "asked_by", "person", "kind", "model", "value", "until", "reason", "asked_at",
            "state", "decided_by", "decided_at", "note",
        ]  # fmt: skip
        read_only_fields = fields


class AskQuotaSerializer(StrictSerializer[dict[str, Any]]):
    tenant = serializers.SlugField()
    for_all = serializers.BooleanField(default=False, help_text="For the whole tenant, not for yourself")
    kind = serializers.ChoiceField(choices=QuotaKind.choices)
    model = serializers.SlugField(required=False, allow_null=True, default=None)
    value = serializers.DecimalField(
        max_digits=14, decimal_places=2, min_value=0, max_value=quota_requests.LARGEST
    )
    until = MomentField(required=False, allow_null=True, default=None)
    reason = serializers.CharField(max_length=500)


class DecideQuotaSerializer(StrictSerializer[dict[str, Any]]):
    decision = serializers.ChoiceField(choices=["grant", "decline", "withdraw"])
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=500)
    until = MomentField(
        required=False, allow_null=True, default=None, help_text="Grant it until then; null: as asked for"
    )


class LimitsView(ActionView):
    @extend_schema(responses=TenantLimitsSerializer(many=True))
    def get(self, request: Request) -> Response:
        """What you may use without approval, per tenant, and how much of it is used."""
        person = person_of(request)
        tenants = policy.tenants_with_role(person, "member", "approver").order_by("slug")
        return Response(TenantLimitsSerializer([_limits(one, person) for one in tenants], many=True).data)

    @extend_schema(request=PutLimitSerializer, responses=TenantLimitsSerializer)
    def post(self, request: Request) -> Response:
        """Limit a person, or all of a team, as its approver; what is booked stays."""
        given, person = checked(PutLimitSerializer, request.data), person_of(request)
        tenant = policy.tenants_with_role(person, "approver").filter(slug=given["tenant"]).first()
        if tenant is None:
            raise NotVisible(_("There is no such team."))
        quota_setting.put_limit(
            actor=api_actor(request),
            tenant=tenant,
            username=given["person"],
            kind=given["kind"],
            model=None if given["model"] is None else _model(given["model"]),
            value=given["value"],
            until=given["until"],
            now=timezone.now(),
        )
        return Response(TenantLimitsSerializer(_limits(tenant, person)).data)


class QuotaRequestList(ListView[QuotaRequest]):
    """Your requests, and those that you may decide on."""

    serializer_class = QuotaRequestSerializer
    queryset = QuotaRequest.objects.none()

    def get_queryset(self) -> QuerySet[QuotaRequest]:
        return quota_requests.visible_requests(person_of(self.request))

    @extend_schema(request=AskQuotaSerializer, responses={201: QuotaRequestSerializer})
    def post(self, request: Request) -> Response:
        """Ask for a larger quota; an approver decides."""
        asked = checked(AskQuotaSerializer, request.data)
        slug = asked.pop("tenant")
        tenant = policy.tenants_with_role(person_of(request), "member").filter(slug=slug).first()
        if tenant is None:
            raise InvalidRequest(_("There is no such team, or you are not a member of it."), field="tenant")
        if asked["model"] is not None:
            asked["model"] = _model(asked["model"])
        made = quota_requests.ask_quota(actor=api_actor(request), tenant=tenant, now=timezone.now(), **asked)
        return Response(QuotaRequestSerializer(made).data, status=status.HTTP_201_CREATED)


class QuotaDecisionView(ActionView):
    @extend_schema(request=DecideQuotaSerializer, responses=QuotaRequestSerializer)
    def post(self, request: Request, request_id: UUID) -> Response:
        """Grant or decline somebody else's request, or take your own back."""
        given, actor, now = checked(DecideQuotaSerializer, request.data), api_actor(request), timezone.now()
        if given["decision"] == "withdraw":
            asked = quota_requests.withdraw_quota_request(actor=actor, request_id=request_id, now=now)
        elif given["decision"] == "grant":
            asked = quota_requests.grant_quota(
                actor=actor, request_id=request_id, note=given["note"], until=given["until"], now=now
            )
        else:
            asked = quota_requests.decline_quota(
                actor=actor, request_id=request_id, note=given["note"], now=now
            )
        return Response(QuotaRequestSerializer(asked).data)


def _limits(tenant: Tenant, person: Person) -> dict[str, Any]:
    now, decides = timezone.now(), policy.has_role(person, tenant, "approver")
    people = quota_setting.limits_of_people(tenant, now=now) if decides else []
    return {"tenant": tenant.slug, "limits": quotas.standing(tenant, person, now=now), "people": people}


def _model(slug: str) -> GpuModel:
    found = GpuModel.objects.filter(slug=slug).first()
    if found is None:
        raise InvalidRequest(_("There is no such GPU model."), field="model")
    return found
