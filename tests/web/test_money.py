"""Money on pages and over the API: what is shown is billed, months are closed, others see nothing."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.urls import reverse

from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.billing.months import month_of
from leasing.billing.prices import set_discount
from leasing.models import Invoice, InvoiceLine, Lease, Outage, Rate, Tenant
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def closed(scene: Scene, tenant: Tenant | None = None) -> Invoice:
    """The month of what has ended, as if it were over."""
    tenant = tenant or scene.studio
    month = month_of(scene.ended.starts_at, tenant.timezone)
    return close_month(actor=SYSTEM, tenant=tenant, name=month.name, now=month.ends_at).invoices[0]


def test_what_the_quote_says_is_what_the_lease_costs(scene: Scene, sign_in: SignIn) -> None:
    set_discount(actor=scene.actor(scene.money), tenant=scene.studio, percent=Decimal(25), now=scene.now)
    ada = sign_in(scene.ada)
    asked: dict[str, Any] = {"tenant": "studio", "flavor": "studio", "duration_seconds": 90 * 86400}
    quoted = ada.post(reverse("api-quote"), asked, content_type="application/json").json()
    assert {term["rate_per_hour"] for term in quoted["terms"]} == {"2.8500"}
    assert len(quoted["terms"]) >= 3, "a term ends where a month does"
    booking = asked | {"duration_seconds": 7200, "image": "tenant", "project": "film", "cost_centre": "4711"}
    lease = ada.post(reverse("api-leases"), booking, content_type="application/json").json()
    assert (lease["quoted_total"], lease["project"], lease["cost_centre"]) == ("5.70", "film", "4711")
    slots = ada.get(f"{reverse('api-slots')}?flavor=studio&duration_seconds=3600").json()["slots"]
    assert slots[0]["total"] == "2.85"
    tags = {"project": "other", "cost_centre": ""}
    tagged = ada.post(reverse("api-lease-tags", args=[lease["id"]]), tags, content_type="application/json")
    assert tagged.json() == tags


def test_the_book_page_takes_project_and_cost_centre(scene: Scene, sign_in: SignIn) -> None:
    form = {
        "tenant": "studio", "flavor": "studio", "image": "tenant", "when": "now", "length": "1h",
        "project": "film", "cost_centre": "4711",
    }  # fmt: skip
    ada = sign_in(scene.ada)
    assert ada.post(reverse("book"), form).status_code == 302
    lease = Lease.objects.get(project="film")
    page = ada.get(reverse("workstation", args=[lease.pk])).content.decode()
    assert "4711" in page
    ada.post(reverse("workstation-tags", args=[lease.pk]), {"project": "x" * 61, "cost_centre": "1"})
    lease.refresh_from_db()
    assert lease.cost_centre == "4711"


def test_a_month_is_closed_on_its_page_and_is_read_as_page_pdf_and_json(
    scene: Scene, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    month = month_of(scene.ended.starts_at, "UTC")
    monkeypatch.setattr("django.utils.timezone.now", lambda: month.ends_at + timedelta(hours=1))
    money = sign_in(scene.money)
    draft = money.get(reverse("invoice-draft", args=["studio", month.name]))
    assert "€4.57" in draft.content.decode()
    money.post(reverse("close-month", args=["studio", month.name]))
    (invoice,) = Invoice.objects.all()
    for who in (scene.finance, scene.approver):
        reader = sign_in(who)
        assert invoice.number in reader.get(reverse("invoices")).content.decode()
        assert "€4.57" in reader.get(reverse("invoice", args=[invoice.pk])).content.decode()
    printed = money.get(reverse("invoice-pdf", args=[invoice.pk]))
    assert printed.content.startswith(b"%PDF")
    told = money.get(reverse("api-invoice", args=[invoice.pk])).json()
    assert (told["net"], told["lines"][0]["seconds"], told["lines"][0]["person_name"]) == (
        "4.57", 4327, "Ada Lindqvist"
    )  # fmt: skip
    again = money.post(
        reverse("api-close-month"), {"tenant": "studio", "month": month.name}, content_type="application/json"
    )
    assert [one["id"] for one in again.json()] == [str(invoice.pk)]


def test_nobody_sees_the_invoices_of_others(scene: Scene, sign_in: SignIn) -> None:
    theirs = closed(scene, scene.research)
    for who in (scene.finance, scene.approver, scene.bob, scene.operator):
        reader = sign_in(who)
        assert reader.get(reverse("api-invoices")).json()["results"] == []
        for name in ("invoice", "invoice-pdf", "api-invoice"):
            assert reader.get(reverse(name, args=[theirs.pk])).status_code == 404
        budgets = reader.get(reverse("api-budgets")).json()
        assert "research" not in [one["tenant"] for one in budgets]


def test_prices_are_set_by_form_and_refused_in_words(scene: Scene, sign_in: SignIn) -> None:
    money = sign_in(scene.money)
    form = {
        "flavor": "studio", "per_hour": "4.20", "currency": "EUR", "off_peak_per_hour": "2.10",
        "peak_days": "12345", "peak_from_hour": "8", "peak_until_hour": "20", "peak_zone": "Europe/Berlin",
        "reserved_hours": "24", "reserved_percent": "10", "back": "/prices/",
    }  # fmt: skip
    money.post(reverse("add-rate"), form)
    assert Rate.objects.latest("valid_from").peak_zone == "Europe/Berlin"
    assert "€2.1000" in money.get(reverse("prices")).content.decode()
    for wrong in ({"per_hour": "-1"}, {"peak_zone": "Mars"}, {"reserved_percent": "0"}, {"currency": "euro"}):
        page = money.post(reverse("add-rate"), form | wrong, follow=True).content.decode()
        assert "tone-red" in page, wrong
    assert Rate.objects.filter(per_hour=Decimal("4.2")).count() == 1


def test_an_outage_is_shown_then_recorded(scene: Scene, sign_in: SignIn) -> None:
    invoice = closed(scene)
    operator = sign_in(scene.operator)
    line = invoice.lines.get(lease=scene.ended)
    zone = ZoneInfo(scene.operator.timezone)
    form = {
        "what": f"gpu:{scene.ended.holds.get().gpu_id}",
        "starts_at": f"{line.starts_at.astimezone(zone) - MINUTE:%Y-%m-%dT%H:%M}",
        "ends_at": f"{line.ends_at.astimezone(zone) + MINUTE:%Y-%m-%dT%H:%M}",
        "reason": "dust",
    }
    shown = operator.post(reverse("add-outage"), form).content.decode()
    assert "1 invoice is corrected" in shown
    assert "€4.57" in shown
    assert not Outage.objects.exists()
    operator.post(reverse("add-outage"), form | {"sure": "yes"})
    (note,) = Invoice.objects.filter(kind="credit")
    assert (note.net, note.number[:1]) == (Decimal("-4.57"), "C")
    assert InvoiceLine.objects.filter(corrects=line).count() == 1


def test_the_budget_page_says_how_the_month_stands(scene: Scene, sign_in: SignIn) -> None:
    approver = sign_in(scene.approver)
    form = {"rule": "refuse", "value": "500", "currency": "EUR", "back": "/budget/"}
    approver.post(reverse("change-budget", args=["studio"]), form)
    page = approver.get(reverse("budget")).content.decode()
    assert "€500.00" in page
    assert "is refused" in page
    (told,) = approver.get(reverse("api-budgets")).json()
    assert (told["budget"], told["rule"], told["currency"]) == ("500.00", "refuse", "EUR")
    (euro,) = told["forecasts"]
    assert Decimal(euro["certain"]) == Decimal(euro["used"]) + Decimal(euro["booked"])
    assert approver.post(reverse("change-budget", args=["research"]), form).status_code == 404
