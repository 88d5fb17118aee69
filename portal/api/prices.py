"""Rates, discounts and tax over the API: read by auditors, set by those who manage the money."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from leasing import policy
from leasing.billing.prices import (
    LARGEST_RATE,
    set_billing,
    set_discount,
    set_rate,
    set_storage_rate,
    set_tax,
)
from leasing.errors import InvalidRequest, NotVisible
from leasing.models import Discount, Flavor, Person, Rate, StorageRate, TaxRate, Tenant
from leasing.models.prices import CURRENCY
from portal.api.fields import MomentField, StrictSerializer
from portal.api.serializers import moment
from portal.api.views import ActionView, ListView, api_actor, checked, person_of

FROM = "Now if left out; never in the past"


class RateRowSerializer(serializers.ModelSerializer[Rate]):
    flavor = serializers.CharField(source="flavor.slug", read_only=True)
    valid_from, valid_until = moment(), moment(allow_null=True)

    class Meta:
        model = Rate
        fields = [
            "id", "flavor", "per_hour", "currency", "off_peak_per_hour", "peak_days", "peak_from_hour",
            "peak_until_hour", "peak_zone", "reserved_hours", "reserved_percent", "valid_from", "valid_until",
        ]  # fmt: skip
        read_only_fields = fields


class SetRateSerializer(StrictSerializer[dict[str, Any]]):
    """`per_hour` counts in peak hours if there is an off-peak rate; `peak_days` are ISO weekdays."""

    flavor = serializers.SlugField()
    per_hour = serializers.DecimalField(max_digits=12, decimal_places=4, min_value=0, max_value=LARGEST_RATE)
    currency = serializers.CharField(validators=[CURRENCY], max_length=3)
    off_peak_per_hour = serializers.DecimalField(
        max_digits=12, decimal_places=4, min_value=0, max_value=LARGEST_RATE, allow_null=True, default=None
    )
    peak_days = serializers.RegexField(r"^[1-7]{1,7}$", default="12345")
    peak_from_hour = serializers.IntegerField(min_value=0, max_value=23, default=8)
    peak_until_hour = serializers.IntegerField(min_value=1, max_value=24, default=20)
    peak_zone = serializers.CharField(max_length=64, default="UTC")
    reserved_hours = serializers.IntegerField(
        min_value=0, max_value=17520, default=0, help_text="Booked at least so far ahead…"
    )
    reserved_percent = serializers.DecimalField(
        max_digits=5,
        decimal_places=2,
        min_value=0,
        max_value=100,
        default=Decimal(0),
        help_text="…it costs less",
    )
    valid_from = MomentField(required=False, allow_null=True, default=None, help_text=FROM)


class DiscountSerializer(serializers.ModelSerializer[Discount]):
    tenant = serializers.CharField(source="tenant.slug", read_only=True)
    flavor = serializers.CharField(source="flavor.slug", read_only=True, default=None, allow_null=True)
    valid_from, valid_until = moment(), moment(allow_null=True)

    class Meta:
        model = Discount
        fields = ["id", "tenant", "flavor", "percent", "valid_from", "valid_until"]
        read_only_fields = fields


class SetDiscountSerializer(StrictSerializer[dict[str, Any]]):
    tenant = serializers.SlugField()
    flavor = serializers.SlugField(allow_null=True, default=None, help_text="Of all flavors if left out")
    percent = serializers.DecimalField(max_digits=5, decimal_places=2, min_value=0, max_value=100)
    valid_from = MomentField(required=False, allow_null=True, default=None, help_text=FROM)
    valid_until = MomentField(required=False, allow_null=True, default=None)


class TaxSerializer(serializers.ModelSerializer[TaxRate]):
    name = serializers.CharField(source="label", read_only=True)
    tenant = serializers.CharField(source="tenant.slug", read_only=True, default=None, allow_null=True)
    valid_from, valid_until = moment(), moment(allow_null=True)

    class Meta:
        model = TaxRate
        fields = ["id", "tenant", "region", "name", "percent", "valid_from", "valid_until"]
        read_only_fields = fields


class SetTaxSerializer(StrictSerializer[dict[str, Any]]):
    """For one tenant, or for a region, or for all that have neither."""

    name = serializers.CharField(max_length=40, help_text="As it stands on invoices")
    percent = serializers.DecimalField(max_digits=5, decimal_places=2, min_value=0, max_value=100)
    tenant = serializers.SlugField(allow_null=True, default=None)
    region = serializers.CharField(max_length=20, allow_blank=True, default="")
    valid_from = MomentField(required=False, allow_null=True, default=None, help_text=FROM)


class StorageRateSerializer(serializers.ModelSerializer[StorageRate]):
    valid_from = moment()

    class Meta:
        model = StorageRate
        fields = ["id", "per_gib_month", "currency", "valid_from"]
        read_only_fields = fields


class SetStorageRateSerializer(StrictSerializer[dict[str, Any]]):
    per_gib_month = serializers.DecimalField(
        max_digits=12, decimal_places=4, min_value=0, max_value=LARGEST_RATE, help_text="A month is 730 hours"
    )
    currency = serializers.CharField(validators=[CURRENCY], max_length=3)
    valid_from = MomentField(required=False, allow_null=True, default=None, help_text=FROM)


class BillingSerializer(serializers.ModelSerializer[Tenant]):
    class Meta:
        model = Tenant
        fields = ["slug", "name", "region", "billing_address"]
        read_only_fields = fields


class SetBillingSerializer(StrictSerializer[dict[str, Any]]):
    region = serializers.CharField(max_length=20, allow_blank=True)
    billing_address = serializers.CharField(max_length=500, allow_blank=True)


class RateList(ListView[Rate]):
    serializer_class = RateRowSerializer
    queryset = Rate.objects.none()

    def get_queryset(self) -> QuerySet[Rate]:
        """Every rate there was, is and will be; of those that have begun the newest counts."""
        _require_reader(person_of(self.request))
        return Rate.objects.select_related("flavor").order_by("flavor__slug", "-valid_from")

    @extend_schema(request=SetRateSerializer, responses={201: RateRowSerializer})
    def post(self, request: Request) -> Response:
        """What a flavor costs from a time on. What is booked keeps its price."""
        policy.require_money_manager(person_of(request))
        asked = checked(SetRateSerializer, request.data)
        asked["flavor"] = _flavor(asked["flavor"])
        rate = set_rate(actor=api_actor(request), now=timezone.now(), **asked)
        return Response(RateRowSerializer(rate).data, status=status.HTTP_201_CREATED)


class DiscountList(ListView[Discount]):
    serializer_class = DiscountSerializer
    queryset = Discount.objects.none()

    def get_queryset(self) -> QuerySet[Discount]:
        """Every discount there was, is and will be; of those that have begun the newest counts."""
        _require_reader(person_of(self.request))
        return Discount.objects.select_related("tenant", "flavor").order_by(
            "tenant__slug", "-valid_from", "-id"
        )

    @extend_schema(request=SetDiscountSerializer, responses={201: DiscountSerializer})
    def post(self, request: Request) -> Response:
        """So many per cent less for a tenant from a time on; 0 ends what was before."""
        policy.require_money_manager(person_of(request))
        asked = checked(SetDiscountSerializer, request.data)
        asked["tenant"] = _tenant(asked["tenant"])
        asked["flavor"] = _flavor(asked["flavor"]) if asked["flavor"] else None
        discount = set_discount(actor=api_actor(request), now=timezone.now(), **asked)
        return Response(DiscountSerializer(discount).data, status=status.HTTP_201_CREATED)


class TaxList(ListView[TaxRate]):
    serializer_class = TaxSerializer
    queryset = TaxRate.objects.none()

    def get_queryset(self) -> QuerySet[TaxRate]:
        """Every tax there was, is and will be: the tenant's own, else its region's, else that of none."""
        _require_reader(person_of(self.request))
        return TaxRate.objects.select_related("tenant").order_by("region", "-valid_from", "-id")

    @extend_schema(request=SetTaxSerializer, responses={201: TaxSerializer})
    def post(self, request: Request) -> Response:
        """What invoices bear from a time on: what is in force in the last moment of a month counts."""
        policy.require_money_manager(person_of(request))
        asked = checked(SetTaxSerializer, request.data)
        asked["tenant"] = _tenant(asked["tenant"]) if asked["tenant"] else None
        label = asked.pop("name")
        tax = set_tax(actor=api_actor(request), label=label, now=timezone.now(), **asked)
        return Response(TaxSerializer(tax).data, status=status.HTTP_201_CREATED)


class StorageRateList(ListView[StorageRate]):
    serializer_class = StorageRateSerializer
    queryset = StorageRate.objects.none()

    def get_queryset(self) -> QuerySet[StorageRate]:
        """Every price of home volumes there ever was or will be: the newest that has begun counts."""
        _require_reader(person_of(self.request))
        return StorageRate.objects.order_by("-valid_from")

    @extend_schema(request=SetStorageRateSerializer, responses={201: StorageRateSerializer})
    def post(self, request: Request) -> Response:
        """What home volumes cost from a time on, also those that are there."""
        policy.require_money_manager(person_of(request))
        asked = checked(SetStorageRateSerializer, request.data)
        rate = set_storage_rate(actor=api_actor(request), now=timezone.now(), **asked)
        return Response(StorageRateSerializer(rate).data, status=status.HTTP_201_CREATED)


class BillingView(ActionView):
    @extend_schema(request=SetBillingSerializer, responses=BillingSerializer)
    def post(self, request: Request, slug: str) -> Response:
        """Where a tenant's invoices go, and the region whose tax they bear."""
        policy.require_money_manager(person_of(request))
        asked = checked(SetBillingSerializer, request.data)
        tenant = set_billing(
            actor=api_actor(request),
            tenant_slug=_tenant(slug, known=False).slug,
            region=asked["region"],
            address=asked["billing_address"],
            now=timezone.now(),
        )
        return Response(BillingSerializer(tenant).data)


def _require_reader(person: Person) -> None:
    if not policy.is_auditor(person):
        policy.require_money_manager(person)


def _flavor(slug: str) -> Flavor:
    found = Flavor.objects.filter(slug=slug).first()
    if found is None:
        raise InvalidRequest(_("There is no such workstation."), field="flavor")
    return found


def _tenant(slug: str, *, known: bool = True) -> Tenant:
    """Of a body, or of the address itself if it is not `known` to be one."""
    found = Tenant.objects.filter(slug=slug).first()
    if found is None and not known:
        raise NotVisible(_("There is no such team."))
    if found is None:
        raise InvalidRequest(_("There is no such team."), field="tenant")
    return found
