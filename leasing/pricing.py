"""What a lease costs before it runs: the rate in force and the quote frozen at booking."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from leasing.errors import InvalidRequest
from leasing.metering import line_amount, whole_seconds
from leasing.models import Flavor, Rate
from leasing.prepared import Prepared


@dataclass(frozen=True)
class Quote:
    """Price of a window, should it be used in full. `total` is rounded to the currency's minor unit."""

    rate_per_hour: Decimal
    currency: str
    total: Decimal


def rate_of(flavor: Flavor, *, at: datetime) -> Rate | None:
    rows = _RATES.rows(flavor_id=flavor.pk, at=at)
    return Rate.from_db(connection.alias, _RATE_FIELDS, rows[0]) if rows else None


def _rates(*, flavor_id: int, at: datetime) -> QuerySet[Rate, Any]:
    """Those in force at a time, the one that counts first, as rows."""
    valid = Rate.objects.filter(
        Q(valid_until__isnull=True) | Q(valid_until__gt=at), flavor=flavor_id, valid_from__lte=at
    )
    return valid.order_by("-valid_from").values_list(*_RATE_FIELDS)


_RATE_FIELDS = [field.attname for field in Rate._meta.concrete_fields]
_RATES = Prepared(_rates)


def quote_lease(
    *, flavor: Flavor, starts_at: datetime, ends_at: datetime, at: datetime | None = None
) -> Quote:
    """The price of a flavor in `[starts_at, ends_at)` at the rate in force `at` a time, else at its start."""
    rate = rate_of(flavor, at=at or starts_at)
    if rate is None:
        raise InvalidRequest(
            _("“%(flavor)s” has no price at that time.") % {"flavor": flavor.name},
            hint=_("Ask those who set the rates, or choose another workstation."),
            field="flavor",
        )
    total = line_amount(
        seconds=whole_seconds(starts_at, ends_at), rate_per_hour=rate.per_hour, currency=rate.currency
    )
    return Quote(rate.per_hour, rate.currency, total)
