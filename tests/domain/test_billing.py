"""Months that are closed: what is on an invoice, what is credited later, and that neither ever changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, transaction

from hosts.protocol import messages as m
from leasing.actors import SYSTEM
from leasing.billing import closing
from leasing.billing.closing import draft, months_due, still_open
from leasing.billing.issuing import tax_in_force
from leasing.billing.outages import record_outage, withdraw_outage
from leasing.billing.prices import set_discount, set_rate, set_tax
from leasing.changing import change_end
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.models import Invoice, InvoiceLine, NumberSeries, Outage, Tenant, UsageSegment
from leasing.pricing import quote_lease
from leasing.tags import set_tags
from tests.domain.billing_office import HOUR, Office, amounts, lines

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)
# 22:00 in Berlin on the last day of a month whose last Sunday put the clocks forward.
LAST_NIGHT = datetime(2026, 3, 31, 20, 0, tzinfo=UTC)


def test_a_lease_over_the_turn_of_a_month_is_billed_in_both() -> None:
    office = Office(start=LAST_NIGHT)
    set_tax(actor=office.actor(office.petra), label="MwSt", percent=Decimal(19), now=office.now)
    lease = office.book(6)
    office.start(lease)
    office.now += 3 * HOUR
    office.hear()
    (march,) = office.close("2026-03").invoices
    assert amounts(march) == [(2 * 3600, Decimal("7.60"))]
    assert (march.net, march.tax, march.gross) == (Decimal("7.60"), Decimal("1.44"), Decimal("9.04"))
    assert (march.number, march.tax_label, march.starts_at) == (
        "2026-000001", "MwSt", datetime(2026, 2, 28, 23, tzinfo=UTC)
    )  # fmt: skip
    assert run_checks(office.now) == []
    office.give_back(lease)
    assert run_checks(office.now) == []
    office.now = datetime(2026, 5, 2, tzinfo=UTC)
    (april,) = office.close("2026-04").invoices
    assert (april.number, amounts(april)) == ("2026-000002", [(3600, Decimal("3.80"))])
    assert run_checks(office.now) == []


def test_closing_again_changes_nothing_and_too_early_is_refused() -> None:
    office = Office()
    office.use(1)
    with pytest.raises(WrongState):
        office.close("2026-03")
    with pytest.raises(InvalidRequest):
        office.close("2026-3")
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    first = office.close("2026-03")
    before = list(InvoiceLine.objects.values()), list(NumberSeries.objects.values())
    again = office.close("2026-03")
    assert (first.fresh, again.fresh, again.invoices) == (True, False, first.invoices)
    assert before == (list(InvoiceLine.objects.values()), list(NumberSeries.objects.values()))
    assert run_checks(office.now) == []


def test_months_are_closed_in_their_order_by_who_manages_the_money() -> None:
    office = Office()
    office.use(1)
    office.now = datetime(2026, 4, 30, 12, tzinfo=UTC)
    office.use(1)
    office.now = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert months_due(office.studio, now=office.now) == ["2026-03", "2026-04"]
    with pytest.raises(WrongState, match="2026-03"):
        office.close("2026-04")
    office.petra = office.finance
    with pytest.raises(NotVisible):
        office.close("2026-03")


def test_the_draft_is_what_the_invoice_will_say() -> None:
    office = Office()
    office.use(2)
    lease = office.book(5)
    office.start(lease)
    office.now += HOUR
    (present,) = draft(office.studio, "2026-03", now=office.now)
    assert present.totals.net == Decimal("11.40")
    office.give_back(lease)
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    (over,) = draft(office.studio, "2026-03", now=office.now)
    (invoice,) = office.close("2026-03").invoices
    assert (over.totals.net, over.totals.gross) == (invoice.net, invoice.gross)
    assert [(one.seconds, one.amount) for one in over.lines] == amounts(invoice)
    assert draft(office.studio, "2026-03", now=office.now) == []


def test_an_outage_in_an_open_month_is_free_and_says_so() -> None:
    office = Office()
    lease = office.book(4)
    office.start(lease)
    begin = office.now
    office.now += 3 * HOUR
    recorded = record_outage(
        actor=office.actor(office.operator), what=office.host.row, starts_at=begin + HOUR,
        ends_at=begin + 2 * HOUR, reason="switch broke", now=office.now,
    )  # fmt: skip
    assert (recorded.leases, recorded.credit_notes) == (1, [])
    assert run_checks(office.now) == []
    office.now = begin + 4 * HOUR
    office.tick()
    office.finish(lease)
    causes = list(lease.segments.order_by("starts_at").values_list("cause", "rate_per_hour"))
    assert causes == [("use", Decimal("3.8")), ("outage", 0), ("use", Decimal("3.8"))]
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    (invoice,) = office.close("2026-03").invoices
    assert invoice.net == Decimal("11.40")
    assert run_checks(office.now) == []


def test_an_outage_that_was_none_is_billed_again_until_it_is_on_an_invoice() -> None:
    office = Office()
    begin = office.now
    lease = office.use(4)
    acts: dict[str, Any] = {"actor": office.actor(office.operator), "what": office.host.row}
    first, second = (
        record_outage(
            starts_at=begin + hour * HOUR,
            ends_at=begin + (hour + 1) * HOUR,
            reason="dust",
            now=office.now,
            **acts,
        ).outage
        for hour in (1, 2)
    )
    asked = {"actor": acts["actor"], "reason": "it worked", "now": office.now}
    with pytest.raises(NotVisible):
        withdraw_outage(outage_id=first.pk, **asked | {"actor": office.actor(office.ada)})
    with pytest.raises(InvalidRequest):
        withdraw_outage(outage_id=first.pk, **asked | {"reason": " "})
    withdrawn = withdraw_outage(outage_id=first.pk, **asked)
    assert (withdrawn.withdrawn_by, withdrawn.withdrawn_because) == (office.operator, "it worked")
    with pytest.raises(WrongState):
        withdraw_outage(outage_id=first.pk, **asked)
    causes = list(lease.segments.order_by("starts_at").values_list("cause", "starts_at", "ends_at"))
    assert [cause for cause, _since, _until in causes if cause == "outage"] == ["outage"]
    assert run_checks(office.now) == []
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    (invoice,) = office.close("2026-03").invoices
    assert invoice.net == Decimal("11.40"), "three of four hours"
    with pytest.raises(WrongState, match="on an invoice"):
        withdraw_outage(outage_id=second.pk, **asked)
    assert run_checks(office.now) == []


def test_an_outage_of_a_closed_month_is_credited_once_with_its_tax() -> None:
    office = Office()
    set_tax(actor=office.actor(office.petra), label="MwSt", percent=Decimal(19), now=office.now)
    begin = office.now
    lease = office.use(4, project="film")
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    (invoice,) = office.close("2026-03").invoices
    acts: dict[str, Any] = {
        "actor": office.actor(office.operator),
        "what": lease.holds.get().gpu,
        "reason": "too hot",
    }
    first = record_outage(starts_at=begin + HOUR, ends_at=begin + 2 * HOUR, now=office.now, **acts)
    (note,) = first.credit_notes
    assert (note.number, note.corrects, str(note.reason)) == (
        "C2026-000001", invoice, "What was an outage of ours is free: too hot"
    )  # fmt: skip
    assert amounts(note) == [(-3600, Decimal("-3.80"))]
    assert (note.net, note.tax) == (Decimal("-3.80"), Decimal("-0.72"))
    assert lines(note)[0].project == "film"
    again = record_outage(starts_at=begin + HOUR, ends_at=begin + 2 * HOUR, now=office.now, **acts)
    assert again.credit_notes == []
    whole = record_outage(starts_at=begin, ends_at=begin + 4 * HOUR, now=office.now, **acts)
    assert invoice.gross + note.gross + whole.credit_notes[0].gross == 0
    assert run_checks(office.now) == []


def test_what_was_free_on_the_invoice_is_on_no_credit_note() -> None:
    office = Office()
    begin = office.now
    lease = office.use(4)
    acts: dict[str, Any] = {
        "actor": office.actor(office.operator),
        "what": lease.holds.get().gpu,
        "reason": "too hot",
    }
    record_outage(starts_at=begin + HOUR, ends_at=begin + 2 * HOUR, now=office.now, **acts)
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    office.close("2026-03")
    late = record_outage(starts_at=begin, ends_at=begin + 3 * HOUR, now=office.now, **acts)
    assert [seconds for note in late.credit_notes for seconds, _amount in amounts(note)] == [-3600, -3600]
    assert run_checks(office.now) == []


def test_a_teams_own_tax_comes_before_that_of_its_region() -> None:
    office = Office()
    actor = office.actor(office.petra)
    set_tax(actor=actor, label="none", percent=Decimal(1), now=office.now)
    set_tax(actor=actor, label="own", percent=Decimal(7), tenant=office.studio, now=office.now)
    set_tax(actor=actor, label="region", percent=Decimal(20), region="DE", now=office.now)
    Tenant.objects.update(region="DE")
    for tenant, label in ((office.studio, "own"), (office.research, "region")):
        assert tax_in_force(Tenant.objects.get(pk=tenant.pk), office.now)[0] == label


@pytest.mark.parametrize(
    ("starts", "ends", "reason"),
    [(2, 1, "x"), (-1, 1, "x"), (-2, -1, "  "), (-9000, -1, "x"), (-2, -1, "x" * 201)],
)
def test_an_outage_is_over_bounded_and_explained(starts: int, ends: int, reason: str) -> None:
    office = Office()
    with pytest.raises(InvalidRequest):
        record_outage(
            actor=SYSTEM, what=office.model, starts_at=office.now + starts * HOUR,
            ends_at=office.now + ends * HOUR, reason=reason, now=office.now,
        )  # fmt: skip
    with pytest.raises(NotVisible):
        record_outage(
            actor=office.actor(office.ada), what=office.model, starts_at=office.now - 2 * HOUR,
            ends_at=office.now - HOUR, reason="mine", now=office.now,
        )  # fmt: skip


def test_a_failure_that_becomes_known_after_the_close_is_credited() -> None:
    """The host lost the machine an hour before the month was over, and says so in the next."""
    office = Office(start=LAST_NIGHT)
    lease = office.book(12)
    office.start(lease)
    office.now += 3 * HOUR
    office.hear()
    (invoice,) = office.close("2026-03").invoices
    assert invoice.net == Decimal("7.60")
    gpu = lease.holds.get().gpu
    failed = m.GpuFailed(gpu_id=gpu.pk, tenure=gpu.tenure, step="run", reason="fell off the bus")
    office.host.say(failed, at=LAST_NIGHT + HOUR, now=office.now)
    lease.refresh_from_db()
    assert lease.state == "releasing"
    (note,) = Invoice.objects.filter(kind="credit")
    assert (note.net, note.corrects) == (Decimal("-3.80"), invoice)
    assert run_checks(office.now) == []


def test_what_a_silent_host_has_not_proven_waits_for_its_word() -> None:
    office = Office(start=LAST_NIGHT)
    lease = office.book(12)
    office.start(lease)
    office.now += 6 * HOUR
    assert list(still_open(office.studio, "2026-03")) == [lease]
    closed = office.close("2026-03")
    assert closed.invoices == []
    office.now = LAST_NIGHT + 12 * HOUR
    office.tick()
    office.finish(lease)
    office.now = datetime(2026, 5, 2, tzinfo=UTC)
    (april,) = office.close("2026-04").invoices
    assert [seconds for seconds, _ in amounts(april)] == [2 * 3600, 10 * 3600]
    assert run_checks(office.now) == []


def test_the_price_before_is_the_price_on_the_bill_whatever_is_set_meanwhile() -> None:
    office = Office()
    petra = office.actor(office.petra)
    set_discount(actor=petra, tenant=office.studio, percent=Decimal("12.5"), now=office.now)
    set_rate(
        actor=petra, flavor=office.flavor, per_hour=Decimal("3.81"), currency="EUR",
        off_peak_per_hour=Decimal("1.11"), peak_zone="Europe/Berlin", reserved_hours=24,
        reserved_percent=Decimal(10), now=office.now,
    )  # fmt: skip
    starts_at = office.now + 30 * HOUR
    quoted = quote_lease(
        flavor=office.flavor, tenant=office.studio, starts_at=starts_at, ends_at=starts_at + 24 * HOUR,
        now=office.now,
    )  # fmt: skip
    lease = office.book(24, after=30 * HOUR)
    assert [str(term.rate_per_hour) for term in quoted.terms] == ["3.0004", "0.8741", "3.0004"]
    assert (lease.quoted_total, lease.rate_per_hour) == (quoted.total, Decimal("3.0004"))
    set_rate(actor=petra, flavor=office.flavor, per_hour=Decimal(99), currency="EUR", now=office.now + MINUTE)
    set_discount(actor=petra, tenant=office.studio, percent=Decimal(0), now=office.now + MINUTE)
    office.now = starts_at
    office.hear()
    office.start(lease)
    more = change_end(
        actor=office.actor(office.ada), lease_id=lease.pk, ends_at=lease.ends_at + HOUR, now=office.now
    ).extensions.get()
    assert more.quoted_total == 99
    office.host.say(m.Accepted(), at=office.now, command=office.command(lease, "update"))
    lease.refresh_from_db()
    assert lease.quoted_total == quoted.total + 99
    office.now = lease.ends_at
    office.tick()
    office.finish(lease)
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    (invoice,) = office.close("2026-03").invoices
    assert invoice.net == quoted.total + 99
    assert run_checks(office.now) == []


def test_tags_move_what_is_open_and_leave_what_is_billed() -> None:
    office = Office(start=LAST_NIGHT)
    lease = office.book(6, project=" film   nine ", cost_centre="4711")
    assert (lease.project, lease.cost_centre) == ("film nine", "4711")
    office.start(lease)
    office.now += 3 * HOUR
    office.hear()
    (march,) = office.close("2026-03").invoices
    acting: dict[str, Any] = {"lease_id": lease.pk, "cost_centre": "", "now": office.now}
    set_tags(actor=office.actor(office.finance), project="other", **acting)
    with pytest.raises(NotVisible):
        set_tags(actor=office.actor(office.bob), project="mine", **acting)
    with pytest.raises(InvalidRequest):
        set_tags(actor=office.actor(office.ada), project="x" * 61, **acting)
    office.give_back(lease)
    office.now = datetime(2026, 5, 2, tzinfo=UTC)
    (april,) = office.close("2026-04").invoices
    assert [(one.project, one.cost_centre) for one in (*lines(march), *lines(april))] == [
        ("film nine", "4711"), ("other", "")
    ]  # fmt: skip
    assert run_checks(office.now) == []


def test_the_database_refuses_to_change_what_is_billed_or_to_bill_it_twice() -> None:
    office = Office()
    office.use(1)
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)
    (invoice,) = office.close("2026-03").invoices
    line = invoice.lines.get()

    def twice() -> None:
        line.pk, line.position = None, 2
        line.save(force_insert=True)

    for act in (
        lambda: Invoice.objects.update(net=0),
        lambda: InvoiceLine.objects.all()._raw_delete("default"),
        twice,
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            act()
    assert UsageSegment.objects.filter(line=None).count() == 0


def test_a_close_that_dies_half_way_has_not_happened_and_loses_no_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    office = Office()
    office.use(1)
    office.now = datetime(2026, 4, 1, 12, tzinfo=UTC)

    def die(**_facts: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(closing, "record", die)
        with pytest.raises(KeyboardInterrupt):
            office.close("2026-03")
    assert not Invoice.objects.exists()
    (invoice,) = office.close("2026-03").invoices
    assert invoice.number == "2026-000001"
    assert run_checks(office.now) == []


def test_the_commands_close_months_and_record_outages(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office()
    begin = office.now
    office.use(2)
    monkeypatch.setattr("django.utils.timezone.now", lambda: datetime(2026, 4, 1, 12, tzinfo=UTC))

    def say(*words: str) -> str:
        out = StringIO()
        call_command(*words, stdout=out, stderr=StringIO())
        return out.getvalue()

    assert "2026-000001  7.60 EUR" in say("close_month")
    assert "studio 2026-03: was closed already" in say("close_month", "2026-03", "--team", "studio")
    with pytest.raises(CommandError):
        say("close_month", "2026-04")
    outage = [
        "outage", "--host", "hv1", "--from", begin.isoformat(), "--until", (begin + HOUR).isoformat(),
        "--reason", "dust",
    ]  # fmt: skip
    assert "Nothing was recorded" in say(*outage)
    assert not Outage.objects.exists()
    assert "C2026-000001  -3.80 EUR to studio" in say(*outage, "--sure")
    with pytest.raises(CommandError):
        say(*outage[:3], "--from", "yesterday", *outage[5:])


def test_the_example_of_the_documentation() -> None:
    """docs/billing.md."""
    office = Office(start=datetime(2026, 3, 30, 10, tzinfo=UTC))
    petra = office.actor(office.petra)
    set_tax(actor=petra, label="MwSt", percent=Decimal(19), now=office.now)
    set_discount(actor=petra, tenant=office.studio, percent=Decimal("12.5"), now=office.now)
    set_rate(
        actor=petra, flavor=office.flavor, per_hour=Decimal(4), off_peak_per_hour=Decimal(1), currency="EUR",
        peak_zone="Europe/Berlin", now=office.now,
    )  # fmt: skip
    begin = datetime(2026, 3, 31, 16, tzinfo=UTC)
    lease = office.book(16, after=begin - office.now)
    assert lease.quoted_total == Decimal("24.50")
    assert [(str(one.rate_per_hour), (one.ends_at - one.starts_at) / HOUR) for one in lease.terms.all()] == [
        ("3.5000", 2), ("0.8750", 4), ("0.8750", 8), ("3.5000", 2)
    ]  # fmt: skip
    office.now = begin
    office.hear()
    office.start(lease)
    office.now = begin + 16 * HOUR
    office.tick()
    office.finish(lease)
    office.now = datetime(2026, 4, 2, tzinfo=UTC)
    (march,) = office.close("2026-03").invoices
    assert (march.net, march.tax, march.gross) == (Decimal("10.50"), Decimal("2.00"), Decimal("12.50"))
    recorded = record_outage(
        actor=SYSTEM, what=office.host.row, starts_at=begin + HOUR / 2, ends_at=begin + HOUR,
        reason="no network", now=office.now,
    )  # fmt: skip
    (note,) = recorded.credit_notes
    assert (note.net, note.tax) == (Decimal("-1.75"), Decimal("-0.34"))
