"""Those who manage the money set rates, discounts and tax. What was quoted or billed stays as it is."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext as _

from leasing import policy
from leasing.actors import Actor
from leasing.audit.log import record
from leasing.errors import InvalidRequest
from leasing.locking import locked
from leasing.models import Discount, Flavor, Rate, StorageRate, TaxRate, Tenant
from leasing.transactions import atomically

LARGEST_RATE = Decimal("99999999.9999")
RATE_FACTS = (
    "per_hour", "currency", "off_peak_per_hour", "peak_days", "peak_from_hour", "peak_until_hour",
    "peak_zone", "reserved_hours", "reserved_percent", "valid_from",
)  # fmt: skip


def set_rate(
    *, actor: Actor, flavor: Flavor, valid_from: datetime | None = None, now: datetime, **facts: Any
) -> Rate:
    """What a flavor costs from a time on, now if None; `facts` are fields of Rate. Raises InvalidRequest."""
    policy.require_money_manager(actor.person)
    rate = Rate(flavor=flavor, valid_from=_not_past(valid_from, now), **facts)
    if bool(rate.reserved_hours) != bool(rate.reserved_percent):
        raise InvalidRequest(
            _("Say both how far ahead and how much less, or neither."), field="reserved_percent"
        )
    if rate.peak_from_hour >= rate.peak_until_hour:
        raise InvalidRequest(_("Peak hours end after they begin."), field="peak_until_hour")
    return _set_rate(actor, rate, now)


def set_discount(
    *,
    actor: Actor,
    tenant: Tenant,
    flavor: Flavor | None = None,
    percent: Decimal,
    valid_from: datetime | None = None,
    valid_until: datetime | None = None,
    now: datetime,
) -> Discount:
    """So many per cent less for a tenant; none ends what was before. Raises InvalidRequest."""
    policy.require_money_manager(actor.person)
    discount = Discount(tenant=tenant, flavor=flavor, percent=percent, valid_from=_not_past(valid_from, now))
    discount.valid_until = _after(discount.valid_from, valid_until)
    _check(discount)
    return _set_discount(actor, discount, now)


def set_tax(
    *,
    actor: Actor,
    label: str,
    percent: Decimal,
    tenant: Tenant | None = None,
    region: str = "",
    valid_from: datetime | None = None,
    now: datetime,
) -> TaxRate:
    """What invoices of a tenant, of a region, or of all others bear from a time on. Raises InvalidRequest."""
    policy.require_money_manager(actor.person)
    tax = TaxRate(
        tenant=tenant,
        region=region if tenant is None else "",
        label=" ".join(label.split()),
        percent=percent,
        valid_from=_not_past(valid_from, now),
    )
    _check(tax)
    return _set_tax(actor, tax, now)


def set_storage_rate(
    *,
    actor: Actor,
    per_gib_month: Decimal,
    currency: str,
    valid_from: datetime | None = None,
    now: datetime,
) -> StorageRate:
    """What is kept costs so much per GiB and month from a time on, for everybody. Raises InvalidRequest."""
    policy.require_money_manager(actor.person)
    rate = StorageRate(per_gib_month=per_gib_month, currency=currency, valid_from=_not_past(valid_from, now))
    _check(rate)
    return _set_storage_rate(actor, rate, now)


@atomically
def set_billing(*, actor: Actor, tenant_slug: str, region: str, address: str, now: datetime) -> Tenant:
    """Where invoices of a tenant go, and by which region's tax. Raises InvalidRequest."""
    policy.require_money_manager(actor.person)
    tenant = locked(Tenant.objects.filter(slug=tenant_slug)).first()
    if tenant is None:
        raise InvalidRequest(_("There is no such team."), field="tenant")
    before = {"region": tenant.region, "address": tenant.billing_address}
    tenant.region, tenant.billing_address = region.strip(), address.strip()
    _check(tenant)
    tenant.save(update_fields=["region", "billing_address"])
    after = {"region": tenant.region, "address": tenant.billing_address}
    if after != before:
        record(
            action="tenant.billing", actor=actor, subject=f"tenant:{tenant.pk}", tenant=tenant, now=now,
            before=before, after=after,
        )  # fmt: skip
    return tenant


@atomically
def _set_rate(actor: Actor, rate: Rate, now: datetime) -> Rate:
    locked(Flavor.objects.all()).get(pk=rate.flavor_id)
    if Rate.objects.filter(flavor=rate.flavor, valid_from=rate.valid_from).exists():
        raise InvalidRequest(_("There is a rate from that moment on already."), field="valid_from")
    _check(rate)
    valid = Q(valid_until=None) | Q(valid_until__gt=rate.valid_from)
    before = Rate.objects.filter(valid, flavor=rate.flavor, valid_from__lt=rate.valid_from)
    was = before.order_by("-valid_from").first()
    rate.save(force_insert=True)
    record(
        action="rate.set", actor=actor, subject=f"rate:{rate.pk}", now=now, flavor=rate.flavor.slug,
        before=_facts(was, RATE_FACTS), after=_facts(rate, RATE_FACTS),
    )  # fmt: skip
    return rate


@atomically
def _set_discount(actor: Actor, discount: Discount, now: datetime) -> Discount:
    locked(Tenant.objects.all()).get(pk=discount.tenant_id)
    same = Discount.objects.filter(tenant=discount.tenant, flavor=discount.flavor)
    valid = Q(valid_until=None) | Q(valid_until__gt=discount.valid_from)
    was = same.filter(valid, valid_from__lte=discount.valid_from).order_by("-valid_from", "-id").first()
    discount.save(force_insert=True)
    names = ("percent", "valid_from", "valid_until")
    record(
        action="discount.set", actor=actor, subject=f"discount:{discount.pk}",
        tenant=discount.tenant, now=now, flavor=discount.flavor.slug if discount.flavor else "",
        before=_facts(was, names), after=_facts(discount, names),
    )  # fmt: skip
    return discount


@atomically
def _set_tax(actor: Actor, tax: TaxRate, now: datetime) -> TaxRate:
    same = TaxRate.objects.filter(tenant=tax.tenant, region=tax.region, valid_from__lte=tax.valid_from)
    was = same.order_by("-valid_from", "-id").first()
    tax.save(force_insert=True)
    names = ("label", "percent", "valid_from")
    record(
        action="tax.set", actor=actor, subject=f"tax:{tax.pk}", tenant=tax.tenant, now=now,
        region=tax.region, before=_facts(was, names), after=_facts(tax, names),
    )  # fmt: skip
    return tax


@atomically
def _set_storage_rate(actor: Actor, rate: StorageRate, now: datetime) -> StorageRate:
    if StorageRate.objects.filter(valid_from=rate.valid_from).exists():
        raise InvalidRequest(_("There is a rate from that moment on already."), field="valid_from")
    was = StorageRate.objects.filter(valid_from__lt=rate.valid_from).order_by("-valid_from").first()
    rate.save(force_insert=True)
    names = ("per_gib_month", "currency", "valid_from")
    record(
        action="storage-rate.set", actor=actor, subject=f"storage-rate:{rate.pk}", now=now,
        before=_facts(was, names), after=_facts(rate, names),
    )  # fmt: skip
    return rate


def _facts(row: models.Model | None, names: tuple[str, ...]) -> dict[str, Any] | None:
    return None if row is None else {name: getattr(row, name) for name in names}


def _check(row: Rate | Discount | StorageRate | TaxRate | Tenant) -> None:
    try:
        row.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidRequest(messages[0], field=field) from None


def _not_past(at: datetime | None, now: datetime) -> datetime:
    """A price for the past would rewrite it."""
    if at is not None and at < now:
        raise InvalidRequest(
            _("A price begins now or later."), hint=_("Leave the time empty for now."), field="valid_from"
        )
    return at or now


def _after(begin: datetime, end: datetime | None) -> datetime | None:
    if end is not None and end <= begin:
        raise InvalidRequest(_("The end must be after the start."), field="valid_until")
    return end
