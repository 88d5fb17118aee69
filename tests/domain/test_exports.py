"""Exports and sums: the database counts as the rules say, whatever the lines; and files that others read."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import zipfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from django.db import connection

from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.billing.issuing import issue
from leasing.billing.months import month_named
from leasing.billing.sums import credit_totals
from leasing.errors import InvalidRequest
from leasing.exports import focus
from leasing.exports.columns import USAGE
from leasing.exports.copying import copy_csv
from leasing.exports.export import FORMS, export_usage
from leasing.exports.filter import Billed, UsageFilter
from leasing.exports.lines import UsageLine, read_lines
from leasing.exports.sums import sums, totals
from leasing.exports.writers import write_csv
from leasing.metering import billed_seconds, billed_until, segment_amount
from leasing.models import AuditEntry, InvoiceLine, Lease, Person, Tenant, UsageSegment
from leasing.reasons import NONE
from tests.domain.ground import NOW, Ground

EVERYTHING = UsageFilter()
CAUSES = ("use", "use", "use", "overrun")


def random_lines(ground: Ground, count: int, *, seed: int) -> None:
    """Segments of every length and rate, ties of rounding among them, some of them open."""
    dice = random.Random(seed)
    other = Tenant.objects.create(slug="east", name="=East", timezone="Asia/Shanghai")
    bob = Person.objects.create(username="@bob")
    for number in range(count):
        starts_at = NOW - timedelta(days=40) + timedelta(seconds=dice.uniform(0, 39 * 86400))
        seconds = dice.choice([0.4, 18, 9, dice.uniform(1, 90), dice.uniform(60, 900_000)])
        rate = Decimal(dice.choice([0, 10_000, 38_000, dice.randrange(10**8)])).scaleb(-4)
        currency = dice.choice(["EUR", "EUR", "JPY", "CNY"])
        ends_at = starts_at + timedelta(seconds=seconds)
        owner = {"tenant": other, "owner": bob} if number % 3 == 0 else {}
        lease = ground.lease(
            starts_at=starts_at, ends_at=ends_at, rate_per_hour=rate, currency=currency, **owner
        )
        UsageSegment.objects.create(
            tenant=lease.tenant, lease=lease, person=lease.owner, starts_at=starts_at,
            ends_at=None if dice.random() < 0.2 else ends_at, rate_per_hour=rate, currency=currency,
            cause=dice.choice(CAUSES),
        )  # fmt: skip


def export(form: str, chosen: UsageFilter = EVERYTHING, *, now: datetime = NOW) -> bytes:
    made = export_usage(actor=SYSTEM, billed=Billed.everything(), chosen=chosen, form=form, now=now)
    return b"".join(part.encode() if isinstance(part, str) else part for part in made.pieces())


def rows_of(text: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_database_counts_as_the_rules_say(ground: Ground, seed: int) -> None:
    random_lines(ground, 150, seed=seed)
    lines = {line.line: line for line in read_lines(Billed.everything(), now=NOW)}
    segments = UsageSegment.objects.select_related("lease__tenant", "lease__owner", "lease__flavor__model")
    assert len(lines) == len(segments) == 150
    for segment in segments:
        line, lease = lines[segment.pk], segment.lease
        assert line.seconds == billed_seconds(segment, NOW)
        assert str(line.amount) == str(segment_amount(segment, NOW))
        assert (line.starts_at, line.ends_at) == (segment.starts_at, billed_until(segment, NOW))
        assert (line.rate_per_hour, line.is_open) == (segment.rate_per_hour, segment.ends_at is None)
        assert lease is not None
        assert (line.lease, line.tenant, line.person) == (lease.pk, lease.tenant.slug, lease.owner.username)


def test_the_parts_of_lines_add_up_to_the_lines(ground: Ground) -> None:
    random_lines(ground, 150, seed=3)
    billed = Billed.everything()
    edges = [NOW - timedelta(days=60) + timedelta(hours=7 * number) for number in range(400)]
    whole = {one.currency: (one.amount, one.gpu_seconds) for one in totals(billed, now=NOW)}
    for by in ("tenant", "person", "model"):
        added: dict[str, list[Any]] = {currency: [Decimal(0), 0] for currency in whole}
        for part in sums(billed, edges, by=by, now=NOW):
            added[part.currency][0] += part.amount
            added[part.currency][1] += part.gpu_seconds
        assert {currency: tuple(sum_) for currency, sum_ in added.items()} == whole
    line = next(line for line in read_lines(billed, now=NOW) if line.amount and line.seconds > 90_000)
    alone = Billed(UsageSegment.objects.filter(pk=line.line), billed.credits)
    middle = line.starts_at + (line.ends_at - line.starts_at) / 3
    first, second = sums(alone, [line.starts_at, middle, line.ends_at], by="person", now=NOW)
    assert (first.amount > 0, first.amount + second.amount) == (True, line.amount)


def test_postgres_copies_what_python_writes(ground: Ground) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("SQLite has no COPY")
    random_lines(ground, 100, seed=4)
    type(ground.model).objects.update(name='A "6000",\tnew\rnow')
    billed = Billed.everything()
    copied = b"".join(copy_csv(billed, now=NOW)).decode()
    assert copied == "".join(write_csv(USAGE, read_lines(billed, now=NOW)))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.parametrize("form", ["csv", "focus-csv"])
def test_text_that_a_spreadsheet_would_run_is_neutralised(ground: Ground, start: str, form: str) -> None:
    nasty = f'{start}HYPERLINK("x","y")'
    Person.objects.update(username=nasty)
    type(ground.flavor).objects.update(name=nasty)
    Tenant.objects.update(name=nasty)
    random_lines(ground, 4, seed=5)
    for row in rows_of(export(form)):
        for name, cell in row.items():
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r")), name
    assert "'" + nasty.replace("\r", " ") in {cell for row in rows_of(export(form)) for cell in row.values()}


def test_a_spreadsheet_has_texts_numbers_and_moments(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    random_lines(ground, 7, seed=6)
    monkeypatch.setattr("leasing.exports.writers.SHEET_ROWS", 3)
    with zipfile.ZipFile(io.BytesIO(export("xlsx"))) as book:
        sheets = sorted(name for name in book.namelist() if name.startswith("xl/worksheets/sheet"))
        texts = [book.read(name).decode() for name in sheets]
    assert [text.count("<row ") for text in texts] == [4, 4, 2]
    assert "<f>" not in "".join(texts)
    assert ">@bob</t>" in "".join(texts)
    cells = dict(re.findall(r'<c r="([A-M]2)"[^>]*>.*?<[vt][^>]*>([^<]*)<', texts[0]))
    first = next(read_lines(Billed.everything(), now=NOW))
    assert (cells["A2"], int(cells["I2"]), Decimal(cells["M2"])) == (
        str(first.lease), first.seconds, first.amount,
    )  # fmt: skip
    day = datetime(1899, 12, 30, tzinfo=UTC) + timedelta(days=float(cells["G2"]))
    assert abs(day - first.starts_at) < timedelta(seconds=1)


def test_an_empty_export_has_its_head(ground: Ground) -> None:
    assert export("csv") == (",".join(column.name for column in USAGE) + "\n").encode()
    assert pq.read_table(io.BytesIO(export("parquet"))).num_rows == 0
    with zipfile.ZipFile(io.BytesIO(export("xlsx"))) as book:
        assert "gpu_model" in book.read("xl/worksheets/sheet1.xml").decode()


def test_parquet_is_exact_and_in_row_groups(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    random_lines(ground, 10, seed=7)
    monkeypatch.setattr("leasing.exports.writers.ROW_GROUP", 4)
    file = pq.ParquetFile(io.BytesIO(export("parquet")))
    assert file.num_row_groups == 3
    table = file.read()
    assert table.schema.field("amount").type == pa.decimal128(16, 2)
    assert table.schema.field("starts_at").type == pa.timestamp("us", tz="UTC")
    lines = list(read_lines(Billed.everything(), now=NOW))
    assert table.column("amount").to_pylist() == [line.amount for line in lines]
    assert table.column("starts_at").to_pylist() == [line.starts_at for line in lines]


# FOCUS 1.2: https://focus.finops.org. Columns that every dataset must have, and which may be null.
MANDATORY = {
    "BilledCost": False, "BillingAccountId": False, "BillingAccountName": True, "BillingCurrency": False,
    "BillingPeriodEnd": False, "BillingPeriodStart": False, "ChargeCategory": False, "ChargeClass": True,
    "ChargeDescription": True, "ChargePeriodEnd": False, "ChargePeriodStart": False, "ContractedCost": False,
    "EffectiveCost": False, "InvoiceIssuerName": False, "ListCost": False, "PricingQuantity": False,
    "PricingUnit": False, "ProviderName": False, "PublisherName": False, "ServiceCategory": False,
    "ServiceName": False,
}  # fmt: skip
# Others that we give; none of them is null where a charge is for use.
GIVEN = {
    "BillingAccountType", "ChargeFrequency", "ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice",
    "ListUnitPrice", "PricingCategory", "ResourceId", "ResourceName", "ResourceType", "ServiceSubcategory",
    "SkuId", "SkuMeter", "SkuPriceDetails", "SkuPriceId", "Tags",
}  # fmt: skip
# Null where there is no invoice yet, or no project.
NULLABLE = {"InvoiceId", "SubAccountId", "SubAccountName", "SubAccountType"}
NUMBERS = {
    "BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "ListCost",
    "ListUnitPrice", "PricingQuantity",
}  # fmt: skip
MOMENTS = {"BillingPeriodEnd", "BillingPeriodStart", "ChargePeriodEnd", "ChargePeriodStart"}
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {"", "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {"Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"Compute", "AI and Machine Learning"},
    "ServiceSubcategory": {"Virtual Machines", "End User Computing", "Other (Compute)"},
}
NUMBER, MOMENT = r"-?\d+(\.\d+)?", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
UNIT = r"[A-Z][A-Za-z]+(-[A-Z][A-Za-z]+)*"
PATTERNS = {"BillingCurrency": r"[A-Z]{3}", "PricingUnit": UNIT, "ConsumedUnit": UNIT}


def malformed(row: dict[str, str]) -> Iterable[str]:
    """Cells that are null, or not of their kind."""
    null = (name for name in {**MANDATORY, **dict.fromkeys(GIVEN, False)} if not row[name])
    yield from (f"{name} is null" for name in null if not MANDATORY.get(name, False))
    patterns = dict.fromkeys(NUMBERS, NUMBER) | dict.fromkeys(MOMENTS, MOMENT) | PATTERNS
    for name, pattern in patterns.items():
        if not re.fullmatch(pattern, row[name]):
            yield f"{name} may not be {row[name]}"
    for name, values in ALLOWED.items():
        if row[name] not in values:
            yield f"{name} may not be {row[name]}"


def contradicting(row: dict[str, str]) -> Iterable[str]:
    """Cells that do not fit each other."""
    if not row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"]:
        yield "the charge's period does not begin in the billing period"
    for kind in ("List", "Contracted"):
        if Decimal(row[f"{kind}UnitPrice"]) * Decimal(row["PricingQuantity"]) != Decimal(row[f"{kind}Cost"]):
            yield f"{kind}Cost is not price times quantity"
    for name in ("Tags", "SkuPriceDetails"):
        if not isinstance(json.loads(row[name]), dict):
            yield f"{name} is no object"


def test_focus_keeps_the_rules_of_its_columns(ground: Ground) -> None:
    random_lines(ground, 60, seed=8)
    text = export("focus-csv")
    rows = rows_of(text)
    names = text.decode().splitlines()[0].split(",")
    ours = {name for name in names if name.startswith("x_")}
    assert set(names) == set(MANDATORY) | GIVEN | NULLABLE | ours
    assert [fault for row in rows for fault in (*malformed(row), *contradicting(row))] == []
    lines: Sequence[UsageLine] = list(read_lines(Billed.everything(), now=NOW))
    assert len(rows) == sum(1 for line in lines if line.seconds) < len(lines)
    assert sum(Decimal(row["BilledCost"]) for row in rows) == sum(line.amount for line in lines)
    east = next(row for row in rows if row["BillingAccountId"] == "east")
    assert east["BillingPeriodStart"].endswith("T16:00:00Z")  # midnight in Shanghai
    table = pq.read_table(io.BytesIO(export("focus-parquet")))
    assert table.column_names == [column.name for column in focus.COLUMNS]
    assert table.column("BilledCost").to_pylist() == [Decimal(row["BilledCost"]) for row in rows]
    assert set(table.column("ChargeClass").to_pylist()) == {None}


def test_each_filter_takes_what_it_says(ground: Ground) -> None:
    other = Tenant.objects.create(slug="east", name="East", timezone="Asia/Shanghai")
    bob = Person.objects.create(username="bob")

    def used(at: str, **fields: Any) -> Lease:
        start = datetime.fromisoformat(at)
        lease = ground.lease(starts_at=start, ends_at=start + timedelta(hours=1), **fields)
        UsageSegment.objects.create(
            tenant=lease.tenant, lease=lease, person=lease.owner, starts_at=start, ends_at=lease.ends_at,
            rate_per_hour=1, currency="EUR",
        )  # fmt: skip
        return lease

    first = used("2026-01-31T15:00Z")
    second = used("2026-01-31T16:00Z", tenant=other, owner=bob)
    third = used("2026-02-01T00:00Z")

    def found(**wanted: Any) -> list[Lease | None]:
        segments = UsageFilter(**wanted).of(Billed.everything()).segments.order_by("starts_at")
        return [one.lease for one in segments]

    assert found() == [first, second, third]
    assert found(month="2026-01") == [first]  # in Shanghai, February has begun
    assert found(month="2026-02") == [second, third]
    assert found(tenant="east") == found(person="bob") == [second]
    assert found(person="ada", month="2026-02") == [third]
    assert found(model="a6000") == [first, second, third]
    assert found(model="h100") == []
    assert found(since=third.starts_at) == [third]
    assert found(before=second.starts_at) == [first]
    for month in ("2026-13", "now", "1999-12", "2026-1", ""):
        if month:
            with pytest.raises(InvalidRequest):
                found(month=month)


def test_what_was_invoiced_and_credited_adds_up(ground: Ground) -> None:
    """Lines name their invoice and keep its words; what is credited of them is a negative line."""
    start = NOW - timedelta(days=10)
    lease = ground.lease(
        starts_at=start,
        ends_at=start + timedelta(hours=3),
        project="stand",
        state="ended",
        outcome="completed",
    )
    segment = UsageSegment.objects.create(
        tenant=lease.tenant, lease=lease, person=lease.owner, starts_at=start, ends_at=lease.ends_at,
        rate_per_hour=lease.rate_per_hour, currency="EUR",
    )  # fmt: skip
    closed = close_month(actor=SYSTEM, tenant=ground.tenant, name="2026-02", now=NOW)
    (invoice,), line = closed.invoices, segment.line
    credit = InvoiceLine(
        corrects=line, lease=lease, starts_at=line.starts_at, ends_at=line.ends_at, seconds=-2000,
        amount=Decimal("-2.11"), cause="use", rate_per_hour=line.rate_per_hour, gpus=1, project="stand",
    )  # fmt: skip
    note = issue(
        tenant=ground.tenant, month=month_named("2026-02", "UTC"), currency="EUR", lines=[credit],
        totals=credit_totals([credit.amount], left=invoice.net, percent=Decimal(0), currency="EUR"),
        tax=("", Decimal(0)), corrects=invoice, reason=NONE, now=NOW,
    )  # fmt: skip
    Lease.objects.update(project="something else")
    rows = rows_of(export("csv", UsageFilter(month="2026-02", project="stand")))
    told = [(row["cause"], row["seconds"], row["amount"], row["invoice"], row["project"]) for row in rows]
    assert told == [
        ("use", "10800", "11.40", invoice.number, "stand"),
        ("use (credit)", "-2000", "-2.11", note.number, "stand"),
    ]
    assert export("csv", UsageFilter(project="something else")).count(b"\n") == 1
    charges = rows_of(export("focus-csv"))
    assert [row["ChargeClass"] for row in charges] == ["", "Correction"]
    assert {(row["SubAccountId"], row["SubAccountType"]) for row in charges} == {("stand", "Project")}
    assert [fault for row in charges for fault in (*malformed(row), *contradicting(row))] == []
    assert sum(Decimal(row["BilledCost"]) for row in charges) == invoice.net + note.net
    billed = Billed.everything()
    (whole,) = totals(billed, now=NOW)
    assert (whole.amount, whole.gpu_seconds, whole.lines) == (Decimal("9.29"), 8800, 2)
    edges = [start + timedelta(minutes=17 * number) for number in range(12)]
    parts = sums(billed, edges, by="tenant", now=NOW)
    assert sum(part.amount for part in parts) == whole.amount
    assert sum(part.gpu_seconds for part in parts) == whole.gpu_seconds
    assert all(part.amount >= 0 for part in parts)


def test_an_export_is_recorded_with_what_was_asked_for(ground: Ground) -> None:
    export("csv", UsageFilter(month="2026-03", person="ada"))
    told = json.loads(AuditEntry.objects.get(action="usage.export").text)
    assert told["detail"] == {"form": "csv", "chosen": {"month": "2026-03", "person": "ada"}}
    with pytest.raises(InvalidRequest, match="not a form"):
        export("docx")
    assert AuditEntry.objects.filter(action="usage.export").count() == 1
    assert set(FORMS) == {"csv", "xlsx", "parquet", "focus-csv", "focus-parquet"}
