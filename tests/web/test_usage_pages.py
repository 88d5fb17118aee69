"""Usage on its pages: figures that lead to their lines, lines that lead to what they rest on, and files."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.core.management import CommandError, call_command
from django.test import RequestFactory
from django.urls import reverse

from hosts.models import Gpu, Host
from leasing.actors import SYSTEM
from leasing.billing.closing import close_month
from leasing.billing.months import month_of
from leasing.exports.export import FORMS
from leasing.models import UsageSegment
from portal.streaming import PIECE, streamed
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_pages import text_of


@pytest.fixture
def days(scene: Scene) -> dict[str, str]:
    """Around the scene, in anybody's zone."""
    since, through = scene.until - timedelta(days=2), scene.until + timedelta(days=1)
    return {"since": f"{since:%F}", "through": f"{through:%F}"}


def money_in(text: str) -> list[Decimal]:
    return [Decimal(found) for found in re.findall(r"€([0-9.]+)", text)]


def test_the_figure_is_the_sum_of_the_lines_behind_it(
    scene: Scene, sign_in: SignIn, days: dict[str, str]
) -> None:
    UsageSegment.objects.filter(ends_at=None).update(ends_at=scene.until)
    client = sign_in(scene.auditor)
    page = client.get(reverse("usage"), days).content.decode()
    figure = re.search(r'<a class="figure plain-link" href="([^"]+)">€([0-9.]+)</a>', page)
    assert figure is not None
    lines = client.get(figure[1].replace("&amp;", "&")).content.decode()
    amounts = [Decimal(found) for found in re.findall(r'/usage/lines/\d+/">€([0-9.]+)</a>', lines)]
    assert Decimal(figure[2]) == sum(amounts) > 10
    assert len(amounts) == UsageSegment.objects.count()
    bars = re.findall(r'<a href="[^"]+" aria-label="[^"]+: €([0-9.]+)"', page)
    assert sum(Decimal(bar) for bar in bars) == Decimal(figure[2])


def test_the_report_over_the_api_has_the_figures_of_the_page(
    scene: Scene, sign_in: SignIn, days: dict[str, str]
) -> None:
    UsageSegment.objects.filter(ends_at=None).update(ends_at=scene.until)
    client = sign_in(scene.auditor)
    page = client.get(reverse("usage"), days).content.decode()
    figure = re.search(r'<a class="figure plain-link" href="[^"]+">€([0-9.]+)</a>', page)
    assert figure is not None
    for by in ("tenant", "person", "model"):
        told = client.get("/api/v1/usage/report/", days | {"by": by}).json()
        assert sum(Decimal(one["amount"]) for one in told["sums"]) == Decimal(figure[1])
        assert len(told["spans"]) == 4
        assert {one["span"] for one in told["sums"]} <= set(range(4))
    one_team = client.get("/api/v1/usage/report/", days | {"tenant": "studio"}).json()
    assert {one["key"] for one in one_team["sums"]} == {"studio"}
    approver = sign_in(scene.approver).get("/api/v1/usage/report/", days | {"by": "tenant"}).json()
    assert {one["key"] for one in approver["sums"]} == {"studio"}
    assert sign_in(scene.ada).get("/api/v1/usage/report/", days).status_code == 404


def test_the_fleets_time_over_the_api(scene: Scene, sign_in: SignIn, days: dict[str, str]) -> None:
    (told,) = sign_in(scene.operator).get("/api/v1/fleet-use/", days).json()
    assert told["slug"] == scene.model.slug
    assert told["booked"] > 0
    assert told["used"] + told["unused"] == max(told["booked"], told["used"])
    assert told["there"] == told["idle"] + told["repair"] + told["used"] + told["unused"]
    assert sign_in(scene.approver).get("/api/v1/fleet-use/", days).status_code == 404


@pytest.mark.parametrize("address", ["usage/report", "fleet-use"])
def test_odd_periods_are_refused_with_the_field(address: str, scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.money)
    for query in ({"since": "2026-03-02", "through": "2026-03-01"}, {"since": "soon"}, {"month": "2026-13"}):
        answer = client.get(f"/api/v1/{address}/", query)
        assert answer.status_code == 400
        assert set(query) & {error["field"] for error in answer.json()["errors"]}


def test_a_click_narrows(scene: Scene, sign_in: SignIn, days: dict[str, str]) -> None:
    client = sign_in(scene.auditor)
    page = client.get(reverse("usage"), days).content.decode()
    link = re.search(r'href="([^"]+tenant=studio[^"]+)">Studio<', page)
    assert link is not None
    narrowed = client.get(link[1].replace("&amp;", "&")).content.decode()
    assert ">ada</a>" in narrowed
    assert ">bob</a>" not in narrowed
    hours = client.get(reverse("usage"), days | {"show": "hours", "by": "model"}).content.decode()
    assert ">A6000</a>" in hours
    assert "€" not in hours


def test_months_take_the_place_of_days_when_they_are_many(scene: Scene, sign_in: SignIn) -> None:
    year = scene.until.year
    query = {"since": f"{year}-01-01", "through": f"{year}-12-31"}
    page = sign_in(scene.finance).get(reverse("usage"), query).content.decode()
    assert page.count('class="bars-field"') == 12
    month = sign_in(scene.finance).get(reverse("usage"), {"month": f"{scene.until:%Y-%m}"}).content.decode()
    assert 28 <= month.count('class="bars-field"') <= 31


@pytest.mark.parametrize(
    "query",
    [
        {"month": "2026-13"},
        {"month": "1999-12"},
        {"month": "now"},
        {"since": "2026-03-01"},
        {"lease": "ws-1"},
        {"model": "nonsense"},
        {"by": "colour"},
    ],
)
def test_an_odd_filter_is_refused(query: dict[str, str], scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.finance)
    for name in ("usage", "usage-lines", "usage-export"):
        assert client.get(reverse(name), query).status_code == 400


def test_an_approver_reads_figures_and_takes_no_files(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.approver)
    page = text_of(client, "usage")
    assert "€" in page
    assert "Research" not in page
    assert "Download" not in page
    assert client.get(reverse("usage") + "?tenant=research").status_code == 400


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_filter_everywhere(
    form: str, scene: Scene, sign_in: SignIn, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    UsageSegment.objects.filter(ends_at=None).update(ends_at=scene.until)
    client, chosen = sign_in(scene.auditor), {"person": "ada", "month": f"{scene.ended.starts_at:%Y-%m}"}
    page = client.get(reverse("usage-export"), chosen | {"form": form})
    api = client.get(reverse("api-usage-export"), chosen | {"form": form})
    call_command("usage", "export", form=form, **chosen)
    printed = capfdbinary.readouterr().out
    assert page.headers["Content-Type"] == api.headers["Content-Type"] == FORMS[form].media_type
    assert page.headers["Content-Disposition"].endswith(f'.{FORMS[form].suffix}"')
    files = [page.getvalue(), api.getvalue(), printed]
    if form.endswith("csv"):
        assert files[0] == files[1] == files[2]
        named = {"csv": "person", "focus-csv": "Tags"}[form]
        rows = list(csv.DictReader(io.StringIO(files[0].decode())))
        assert rows
        assert all("ada" in row[named] for row in rows)
    else:
        assert {file[:4] for file in files} == {{"xlsx": b"PK\x03\x04"}.get(form, b"PAR1")}


def test_the_command_refuses_what_it_cannot_mean() -> None:
    with pytest.raises(CommandError, match="Say the zone"):
        call_command("usage", "export", "--since", "2026-03-01")


def test_a_line_leads_to_everything_it_rests_on_and_back(scene: Scene, sign_in: SignIn) -> None:
    line = scene.ended.segments.get()
    client = sign_in(scene.auditor)
    page = text_of(client, "usage-line", line.pk)
    gpu = scene.ended.holds.get().gpu
    for address in (
        reverse("workstation", args=[scene.ended.pk]),
        reverse("certificate", args=[scene.ended.pk]),
        reverse("gpu", args=[gpu.pk]),
        reverse("host", args=[gpu.host_id]),
        f"{reverse('audit')}?subject=lease:{scene.ended.pk}",
    ):
        assert f'href="{address}"' in page
        assert client.get(address).status_code == 200
    lines = f"{reverse('usage-lines')}?lease={scene.ended.pk}"
    for name, pk in (("workstation", scene.ended.pk), ("gpu", gpu.pk)):
        assert f'href="{lines}"' in text_of(client, name, pk)
    assert f'href="{reverse("usage-line", args=[line.pk])}"' in client.get(lines).content.decode()


def test_finance_reads_the_chain_without_what_is_not_theirs(scene: Scene, sign_in: SignIn) -> None:
    page = text_of(sign_in(scene.finance), "usage-line", scene.ended.segments.get().pk)
    assert "proven clean" in page
    assert "Ada Lindqvist" in page
    for private in ("hv1", str(Gpu.objects.first()), "/workstations/", "/audit/", "/fleet/"):
        assert private not in page


def test_an_approved_line_names_who_approved(scene: Scene, sign_in: SignIn) -> None:
    lease = scene.ended
    type(lease).objects.filter(pk=lease.pk).update(
        decided_by=scene.approver, decided_at=scene.now, decision_note="For the museum"
    )
    page = text_of(sign_in(scene.finance), "usage-line", lease.segments.get().pk)
    assert "Petra Hahn" in page
    assert "For the museum" in page


def test_what_is_sent_is_made_piece_by_piece_under_asgi() -> None:
    """Django itself would make all of it before it sends the first byte."""
    made: list[int] = []

    def parts() -> Iterator[bytes]:
        for number in range(10):
            made.append(number)
            yield bytes(PIECE)

    request = ASGIRequest({"type": "http", "method": "GET", "path": "/", "headers": []}, io.BytesIO())

    async def read() -> list[int]:
        response, seen = streamed(request, parts, "x", "text/plain"), []
        async for _piece in response:
            seen.append(len(made))
            if len(seen) == 4:
                break
        response.close()
        return seen

    with ThreadPoolExecutor(1) as thread:  # the browser's driver has a loop in this one
        assert thread.submit(lambda: asyncio.run(read())).result() == [1, 2, 3, 4]
    assert made == [0, 1, 2, 3]
    plain = streamed(RequestFactory().get("/"), lambda: ["a", b"b"], "x", "text/plain")
    assert plain.getvalue() == b"ab"


def test_an_invoice_leads_to_the_line_and_the_line_back(scene: Scene, sign_in: SignIn) -> None:
    """A month later, when the workstation's month is closed."""
    line = scene.ended.segments.get()
    month = month_of(line.starts_at, scene.studio.timezone)
    Host.objects.update(last_seen_at=month.ends_at)
    name, later = month.name, month.ends_at + timedelta(hours=1)
    (invoice,) = close_month(actor=SYSTEM, tenant=scene.studio, name=name, now=later).invoices
    client = sign_in(scene.finance)
    page = text_of(client, "invoice", invoice.pk)
    assert f'href="{reverse("usage-line", args=[line.pk])}"' in page
    chain = text_of(client, "usage-line", line.pk)
    assert f'href="{reverse("invoice", args=[invoice.pk])}">{invoice.number}<' in chain
