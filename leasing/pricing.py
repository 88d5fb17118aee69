"""What a lease costs before it runs: the rate in force, less a discount, as the quote of a window."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import F, OuterRef, Q, QuerySet, Subquery
from django.utils.translation import gettext as _

from leasing.errors import InvalidRequest
from leasing.models import Discount, Flavor, Lease, LeaseTerm, Rate, Tenant
from leasing.prepared import NOBODY, Prepared, insert_rows
from leasing.terms import Peak, Tariff, Term, total_of

# No lease is longer, so that nothing is ever booked so far ahead.
ON_DEMAND = timedelta(0)


@dataclass(frozen=True)
class Quote:
    """What a window costs, used in full: its terms, and their sum. `rate_per_hour` is that of the first."""

    terms: tuple[Term, ...]
    currency: str

    @property
    def rate_per_hour(self) -> Decimal:
        return self.terms[0].rate_per_hour

    @property
    def total(self) -> Decimal:
        return total_of(self.terms, self.currency)

    @property
    def is_varied(self) -> bool:
        return len(self.terms) > 1


@dataclass(frozen=True)
class Price:
    """What a flavor costs a tenant, as of some time; months are those of the tenant's zone."""

    rate: Rate
    discount: Decimal
    zone: str

    def quote(self, starts_at: datetime, ends_at: datetime, *, ahead: timedelta = ON_DEMAND) -> Quote:
        """For a window that is booked so long before it begins."""
        terms = self._tariff().terms(starts_at, ends_at, ahead=ahead, zone=self.zone)
        return Quote(tuple(terms), self.rate.currency)

    def _tariff(self) -> Tariff:
        rate = self.rate
        return Tariff(
            per_hour=rate.per_hour,
            currency=rate.currency,
            off_peak_per_hour=rate.off_peak_per_hour,
            peak=peak_of(rate),
            reserved_after=timedelta(hours=rate.reserved_hours),
            reserved_percent=rate.reserved_percent,
            discount_percent=self.discount,
        )


def peak_of(rate: Rate) -> Peak:
    return Peak(
        frozenset(map(int, rate.peak_days)), rate.peak_from_hour, rate.peak_until_hour, rate.peak_zone
    )


def rate_of(flavor: Flavor, *, at: datetime) -> Rate | None:
    """The rate in force, as it is listed."""
    price = price_of(flavor, None, at=at)
    return price.rate if price else None


def rates_of(flavors: Iterable[Flavor], *, at: datetime) -> dict[int, Rate]:
    """The same of many, by the flavor's id; those without a price are left out."""
    rates = Rate.objects.filter(_in_force(at), flavor__in=list(flavors), valid_from__lte=at)
    return {rate.flavor_id: rate for rate in rates.order_by("valid_from")}


def price_of(flavor: Flavor, tenant: Tenant | None, *, at: datetime) -> Price | None:
    """What is in force at a time; None if the flavor has no price then."""
    whose = tenant.pk if tenant else NOBODY
    rows = _PRICES.rows(flavor_id=flavor.pk, tenant_id=whose, at=at)
    if not rows:
        return None
    *columns, discount = rows[0]
    rate = Rate.from_db(connection.alias, _RATE_FIELDS, columns)
    return Price(rate, discount or Decimal(0), tenant.timezone if tenant else "UTC")


def _in_force(at: datetime | OuterRef) -> Q:
    return Q(valid_until__isnull=True) | Q(valid_until__gt=at)


def _prices(*, flavor_id: int, tenant_id: Any, at: datetime) -> QuerySet[Rate, Any]:
    """The rate that counts, with the tenant's discount; one statement."""
    discounts = Discount.objects.filter(
        _in_force(at),
        Q(flavor=None) | Q(flavor=OuterRef("flavor")),
        tenant=tenant_id,
        valid_from__lte=at,
    ).order_by(F("flavor").desc(nulls_last=True), "-valid_from", "-id")
    rates = Rate.objects.filter(_in_force(at), flavor=flavor_id, valid_from__lte=at)
    rows = rates.order_by("-valid_from").annotate(discount=Subquery(discounts.values("percent")[:1]))
    return rows.values_list(*_RATE_FIELDS, "discount")[:1]


_RATE_FIELDS = [field.attname for field in Rate._meta.concrete_fields]
_PRICES = Prepared(_prices)


def quote_lease(
    *,
    flavor: Flavor,
    tenant: Tenant | None,
    starts_at: datetime,
    ends_at: datetime,
    now: datetime,
) -> Quote:
    """The price of a flavor in `[starts_at, ends_at)` for a tenant that books it now.

    What is in force at its start counts for all of it.
    """
    price = price_or_refuse(flavor, tenant, at=starts_at)
    return price.quote(starts_at, ends_at, ahead=max(ON_DEMAND, starts_at - now))


def quote_extension(lease: Lease, ends_at: datetime, *, now: datetime) -> Quote:
    """The price of more time: what is in force now counts, and nothing of it is booked ahead."""
    return price_or_refuse(lease.flavor, lease.tenant, at=now).quote(lease.ends_at, ends_at)


def price_or_refuse(flavor: Flavor, tenant: Tenant | None, *, at: datetime) -> Price:
    """Raises InvalidRequest if there is none."""
    price = price_of(flavor, tenant, at=at)
    if price is None:
        raise InvalidRequest(
            _("“%(flavor)s” has no price at that time.") % {"flavor": flavor.name},
            hint=_("Ask those who set the rates, or choose another workstation."),
            field="flavor",
        )
    return price


def keep_terms(lease: Lease, quote: Quote) -> None:
    """Freeze the terms of a lease that was just inserted, or that has none; one term needs no row."""
    if quote.is_varied:
        insert_rows(LeaseTerm, ("lease_id", *Term._fields), [(lease.pk, *one) for one in quote.terms])
