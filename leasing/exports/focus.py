"""Usage by FOCUS 1.2, the FinOps Open Cost and Usage Specification: all mandatory columns, and more.

Columns of our own begin with `x_`, as it asks. What is listed, contracted and effective is the same here:
there are no commitments. `BilledCost` is rounded as it is billed; the others are price times quantity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import lru_cache
from zoneinfo import ZoneInfo

from django.conf import settings

from leasing.billing.months import Month, month_named
from leasing.exports.columns import Cell, Column, Kind
from leasing.exports.lines import UsageLine

SERVICE = "GPU workstation"
HOUR = Decimal(3600)
QUANTITY = Decimal("0.000001")


def charges(lines: Iterable[UsageLine]) -> Iterator[UsageLine]:
    """The lines that are charges: a period that is no second long is none."""
    return (line for line in lines if line.seconds)


def _hours(line: UsageLine) -> Decimal:
    return (line.seconds / HOUR).quantize(QUANTITY)


def _cost(line: UsageLine) -> Decimal:
    return _hours(line) * line.rate_per_hour


@lru_cache(maxsize=4096)
def _month(zone: str, year: int, month: int) -> Month:
    return month_named(f"{year:04d}-{month:02d}", zone)


def _period(line: UsageLine) -> Month:
    """The month of the team's zone in which the charge begins."""
    at = line.starts_at.astimezone(ZoneInfo(line.zone))
    return _month(line.zone, at.year, at.month)


def _description(line: UsageLine) -> str:
    if line.kept:
        return f"{line.flavor_name}, {line.gib} GiB, {line.cause}"
    return f"{line.flavor_name}, {line.gpus} × {line.model_name}, {line.cause}"


def _tags(line: UsageLine) -> str:
    told = {"person": line.person, "project": line.project, "cost_centre": line.cost_centre}
    return json.dumps(
        {name: value for name, value in told.items() if value}, sort_keys=True, ensure_ascii=False
    )


def _price_details(line: UsageLine) -> str:
    told = {"StorageGiB": line.gib} if line.kept else {"GpuCount": line.gpus, "x_GpuModel": line.model}
    return json.dumps(told, sort_keys=True, ensure_ascii=False)


def _either(of_lease: str, of_volume: str) -> Callable[[UsageLine], Cell]:
    return lambda line: of_volume if line.kept else of_lease


def _fixed(text: str) -> Callable[[UsageLine], Cell]:
    return lambda _line: text


def _named(_line: UsageLine) -> str:
    provider: str = settings.PROVIDER_NAME
    return provider


def _column(name: str, kind: Kind, take: Callable[[UsageLine], Cell]) -> Column:
    """Costs and prices with all their decimals: hours have six, rates four."""
    return Column(name, kind, take, digits=28, places=10)


COLUMNS = (
    _column("BilledCost", "decimal", lambda line: line.amount),
    _column("BillingAccountId", "text", lambda line: line.tenant),
    _column("BillingAccountName", "text", lambda line: line.tenant_name),
    _column("BillingAccountType", "text", _fixed("Team")),
    _column("BillingCurrency", "text", lambda line: line.currency),
    _column("BillingPeriodEnd", "moment", lambda line: _period(line).ends_at),
    _column("BillingPeriodStart", "moment", lambda line: _period(line).starts_at),
    _column("ChargeCategory", "text", _fixed("Usage")),
    _column("ChargeClass", "text", lambda line: "Correction" if line.is_credit else None),
    _column("ChargeDescription", "text", _description),
    _column("ChargeFrequency", "text", _fixed("Usage-Based")),
    _column("ChargePeriodEnd", "moment", lambda line: line.ends_at),
    _column("ChargePeriodStart", "moment", lambda line: line.starts_at),
    _column(
        "ConsumedQuantity", "decimal", lambda line: _hours(line) * (line.gib if line.kept else line.gpus)
    ),
    _column("ConsumedUnit", "text", _either("GPU-Hours", "GiB-Hours")),
    _column("ContractedCost", "decimal", _cost),
    _column("ContractedUnitPrice", "decimal", lambda line: line.rate_per_hour),
    _column("EffectiveCost", "decimal", _cost),
    _column("InvoiceId", "text", lambda line: line.invoice),
    _column("InvoiceIssuerName", "text", _named),
    _column("ListCost", "decimal", _cost),
    _column("ListUnitPrice", "decimal", lambda line: line.rate_per_hour),
    _column("PricingCategory", "text", _fixed("Standard")),
    _column("PricingQuantity", "decimal", _hours),
    _column("PricingUnit", "text", _fixed("Hours")),
    _column("ProviderName", "text", _named),
    _column("PublisherName", "text", _named),
    _column("ResourceId", "text", lambda line: str(line.lease or line.kept)),
    _column("ResourceName", "text", lambda line: line.machine_name),
    _column("ResourceType", "text", lambda line: line.flavor_name if line.kept else "Workstation"),
    _column("ServiceCategory", "text", _either("Compute", "Storage")),
    _column("ServiceName", "text", _either(SERVICE, "Kept files")),
    _column("ServiceSubcategory", "text", _either("Virtual Machines", "Block Storage")),
    _column("SkuId", "text", lambda line: line.flavor),
    _column("SkuMeter", "text", _fixed("Time")),
    _column("SkuPriceDetails", "text", _price_details),
    _column("SkuPriceId", "text", lambda line: f"{line.flavor}@{line.rate_per_hour}"),
    _column("SubAccountId", "text", lambda line: line.project or None),
    _column("SubAccountName", "text", lambda line: line.project or None),
    _column("SubAccountType", "text", lambda line: "Project" if line.project else None),
    _column("Tags", "text", _tags),
    _column("x_Cause", "text", lambda line: line.cause),
    _column("x_Open", "text", lambda line: "yes" if line.is_open else "no"),
)
