"""The book page: the price before the button, and answers to bad input that say what to do."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import parse_qsl, urlsplit
from zoneinfo import ZoneInfo

import pytest
from django.test import Client
from django.urls import reverse

from hosts.models import Gpu
from leasing.models import Flavor, Hold, Lease
from leasing.openings.upkeep import rebuild
from leasing.quotas import set_quota
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

BERLIN = ZoneInfo("Europe/Berlin")
GOOD = {
    "tenant": "studio",
    "flavor": "studio",
    "image": "tenant",
    "when": "now",
    "starts_at": "",
    "length": "2h",
    "ends_at": "",
    "purpose": "a test",
}


@pytest.fixture
def ada(scene: Scene, sign_in: SignIn) -> Client:
    return sign_in(scene.ada)


def local(**after: float) -> str:
    return (datetime.now(BERLIN) + timedelta(**after)).strftime("%Y-%m-%dT%H:%M")


def test_the_price_is_there_when_the_page_opens_and_follows_the_choice(ada: Client) -> None:
    assert "€15.20" in ada.get("/book/").content.decode()
    assert "€7.60" in ada.get("/book/price/", GOOD).content.decode()


def test_the_price_is_shown_without_javascript(ada: Client) -> None:
    before = Lease.objects.count()
    page = ada.post("/book/", GOOD | {"show_price": "1"}).content.decode()
    assert "€7.60" in page
    assert Lease.objects.count() == before


def test_whether_approval_is_needed_is_said_before(ada: Client, scene: Scene) -> None:
    assert "no approval needed" in ada.get("/book/price/", GOOD).content.decode()
    scene.studio.concurrent_gpus = 0
    scene.studio.save()
    page = ada.get("/book/price/", GOOD).content.decode()
    assert "needs approval" in page
    assert "at most 0." in page


def test_what_it_does_to_each_limit_is_said_before(ada: Client, scene: Scene) -> None:
    def measures(**changes: str) -> list[tuple[str, str]]:
        page = ada.get("/book/price/", GOOD | changes).content.decode()
        found = re.findall(r'data-measure="(\w+)">(.*?)</li>', page, re.S)
        return [(kind, " ".join(re.sub(r"<[^>]+>", " ", text).split())) for kind, text in found]

    set_quota(
        tenant=scene.studio, kind="budget", value=Decimal(400), currency="EUR",
        actor=scene.actor(scene.operator), now=scene.now,
    )  # fmt: skip
    shown = dict(measures())
    assert "+ 1 of 4" in shown["gpus"]
    assert "+ €7.60 of €400.00" in shown["budget"]
    assert "+ €3.80 of €400.00" in dict(measures(length="1h"))["budget"]
    assert measures(flavor="train") == [], "what cannot be had does nothing"


def test_a_quote_over_the_api_tells_each_limit_as_the_page_does(ada: Client, scene: Scene) -> None:
    for kind, value in (("budget", Decimal(400)), ("gpu-hours", Decimal("0.5"))):
        set_quota(
            tenant=scene.studio, kind=kind, value=value, currency="EUR" if kind == "budget" else "",
            actor=scene.actor(scene.operator), now=scene.now,
        )  # fmt: skip
    asked = {"tenant": "studio", "flavor": "studio", "duration_seconds": 7200}
    quote = ada.post(reverse("api-quote"), asked, content_type="application/json").json()
    told = [one for one in quote["measures"] if one["kind"] not in ("longest", "ahead")]
    page = ada.get("/book/price/", GOOD).content.decode()
    shown = re.findall(r'<li class="tone-(\w+)" data-measure="([\w-]+)">(.*?)</li>', page, re.S)
    assert {one["kind"] for one in told} == {"gpus", "budget", "gpu-hours"}
    for one, (tone, kind, drawn) in zip(told, shown, strict=True):
        words = re.sub(r"<[^>]+>", "", drawn)
        numbers = [Decimal(number) for number in re.findall(r"\d+(?:\.\d+)?", words)][-3:]
        assert [Decimal(one[name]) for name in ("there", "asked", "limit")] == numbers
        assert Decimal(one["after"]) == numbers[0] + numbers[1]
        assert (one["kind"], one["is_over"]) == (kind, tone == "red")
    month = datetime.now(BERLIN).strftime("%Y-%m")
    assert {one["month"] for one in told} >= {"", month}
    assert {one["currency"] for one in told} == {"", "EUR"}
    assert "needs approval" in page
    assert quote["approval_because"] in html.unescape(page)


def test_booking_leads_to_the_workstation(ada: Client) -> None:
    answer = ada.post("/book/", GOOD)
    lease = Lease.objects.latest("requested_at")
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"/workstations/{lease.pk}/"
    assert lease.purpose == "a test"


def test_times_are_the_readers(ada: Client) -> None:
    start, end = local(hours=60), local(hours=62)
    ada.post("/book/", GOOD | {"when": "at", "starts_at": start, "length": "until", "ends_at": end})
    lease = Lease.objects.latest("requested_at")
    assert lease.starts_at.astimezone(BERLIN).strftime("%Y-%m-%dT%H:%M") == start
    assert lease.ends_at - lease.starts_at == timedelta(hours=2)


BAD = {
    "zero length": (
        {"length": "until", "ends_at": "START", "when": "at", "starts_at": "START"},
        "Choose a later end",
    ),
    "ends before it starts": ({"length": "until", "ends_at": "YESTERDAY"}, "Choose a later end"),
    "starts in the past": ({"when": "at", "starts_at": "YESTERDAY"}, "Choose now or a later time"),
    "longer than a year": ({"length": "until", "ends_at": "FAR"}, "Choose an earlier end"),
    "further ahead than two years": ({"when": "at", "starts_at": "FURTHER"}, "Choose an earlier start"),
    "no start": ({"when": "at"}, "Say from when"),
    "no end": ({"length": "until"}, "Say until when"),
    "not a time": ({"when": "at", "starts_at": "tomorrow"}, "This is not a date and time"),
    "year one": ({"when": "at", "starts_at": "0001-01-01T00:00"}, "out of range"),
    "year ten thousand": ({"when": "at", "starts_at": "10000-01-01T00:00"}, "This is not a date and time"),
    "the hour that is skipped": ({"when": "at", "starts_at": "2027-03-28T02:30"}, "interpreted in time zone"),
    "unknown flavor": ({"flavor": "nonsense"}, "Choose another one"),
    "unknown image": ({"image": "nonsense"}, "Choose another one"),
    "another team": ({"tenant": "research"}, "Choose another one"),
    "unknown length": ({"length": "fortnight"}, "Select a valid choice"),
    "long purpose": ({"purpose": "x" * 501}, "at most 500"),
    "nothing free": ({"flavor": "train"}, "Choose another time"),
    "null byte": ({"purpose": "a\x00b"}, "Null characters"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_answered_in_the_form_with_what_to_do(ada: Client, case: str) -> None:
    changes, words = BAD[case]
    moments = {
        "START": local(hours=70),
        "YESTERDAY": local(days=-1),
        "FAR": local(days=368),
        "FURTHER": local(days=733),
    }
    before = Lease.objects.count()
    answer = ada.post("/book/", GOOD | {name: moments.get(value, value) for name, value in changes.items()})
    page = answer.content.decode()
    assert answer.status_code == 400
    assert words in page
    assert 'class="fault"' in page or 'role="alert"' in page
    assert Lease.objects.count() == before


def test_an_oversized_form_is_refused_before_it_is_read(ada: Client) -> None:
    answer = ada.post("/book/", GOOD | {"purpose": "x" * 300_000})
    assert answer.status_code == 413
    assert "Shorten it" in answer.content.decode()


def test_what_was_typed_stays_in_the_form(ada: Client) -> None:
    page = ada.post("/book/", GOOD | {"length": "until", "purpose": "stays here"}).content.decode()
    assert "stays here" in page


def occupy(scene: Scene, *, hours: int) -> None:
    """Everything is taken from now on."""
    spec = {"starts_at": datetime.now(UTC), "ends_at": datetime.now(UTC) + timedelta(hours=hours)}
    Hold.objects.all().delete()
    for gpu in Gpu.objects.filter(model=scene.model):
        Hold.objects.create(lease=Lease.objects.latest("requested_at"), gpu=gpu, **spec)
    rebuild(scene.host.row.pk)


def proposed(page: str) -> list[str]:
    """The addresses of what could be had instead."""
    return [html.unescape(found) for found in re.findall(r'<dd><a href="([^"]+)"', page)]


def test_when_it_is_taken_the_next_times_are_a_click_away(ada: Client, scene: Scene) -> None:
    occupy(scene, hours=5)
    page = ada.get("/book/price/", GOOD).content.decode()
    assert "not free then" in page
    assert ">later</dt>" in page
    first = proposed(page)[0]
    filled = ada.get(first).content.decode()
    assert "not free then" not in filled
    assert "€7.60" in filled
    form = dict(parse_qsl(urlsplit(first).query))
    assert ada.post("/book/", GOOD | form).status_code == 302
    lease = Lease.objects.latest("requested_at")
    assert lease.starts_at - datetime.now(UTC) > timedelta(hours=5)


def test_a_refused_booking_is_no_dead_end(ada: Client, scene: Scene) -> None:
    occupy(scene, hours=5)
    answer = ada.post("/book/", GOOD)
    assert answer.status_code == 400
    assert "not free then" in answer.content.decode()
    assert "/book/?" in answer.content.decode()


def test_a_shorter_time_is_a_click_away(ada: Client, scene: Scene) -> None:
    occupy(scene, hours=1)
    Hold.objects.update(
        starts_at=datetime.now(UTC) + timedelta(hours=9), ends_at=datetime.now(UTC) + timedelta(days=9)
    )
    rebuild(scene.host.row.pk)
    later = {"when": "at", "starts_at": local(hours=3), "length": "1d"}
    page = ada.get("/book/price/", GOOD | later).content.decode()
    assert ">shorter</dt>" in page
    filled = ada.get(proposed(page)[0]).content.decode()
    assert "not free then" not in filled
    assert "5 h" in filled


def test_a_smaller_one_and_another_model_are_a_click_away(ada: Client, scene: Scene) -> None:
    pair = Flavor.objects.create(slug="pair", name="Pair", model=scene.model, gpu_count=2)
    scene.price(pair)
    two_left = Gpu.objects.filter(model=scene.model, state="clean")[:1]
    Gpu.objects.filter(model=scene.model).exclude(pk__in=two_left).update(state="maintenance")
    Hold.objects.all().delete()
    rebuild(scene.host.row.pk)
    page = ada.get("/book/price/", GOOD | {"flavor": "pair"}).content.decode()
    assert ">smaller</dt>" in page
    assert "out of service" in page
    assert dict(parse_qsl(urlsplit(proposed(page)[-1]).query))["flavor"] == "studio"
    page = ada.get("/book/price/", GOOD | {"flavor": "train"}).content.decode()
    assert "No host has 4 GPUs of the kind H100" in page
    assert ">another</dt>" in page


def test_ones_own_workstation_that_is_in_the_way_is_linked(ada: Client, scene: Scene) -> None:
    Gpu.objects.filter(model=scene.model).exclude(holds__lease=scene.active).update(state="maintenance")
    rebuild(scene.host.row.pk)
    page = ada.get("/book/price/", GOOD).content.decode()
    assert "Your own workstations have the GPUs then." in page
    assert f"/workstations/{scene.active.pk}/" in page
    assert str(scene.theirs.pk) not in page


def test_the_end_is_changed_on_the_workstations_page(ada: Client) -> None:
    start, end = local(hours=60), local(hours=62)
    ada.post("/book/", GOOD | {"when": "at", "starts_at": start, "length": "until", "ends_at": end})
    lease = Lease.objects.latest("requested_at")
    page = f"/workstations/{lease.pk}/"
    assert "Change the end" in ada.get(page).content.decode()
    answer = ada.post(f"{page}end-at/", {"ends_at": local(hours=65), "back": page})
    assert answer.headers["Location"] == page
    before, lease.ends_at = lease.ends_at, Lease.objects.get(pk=lease.pk).ends_at
    assert lease.ends_at - before == timedelta(hours=3)
    for nonsense in ("", "tomorrow", local(hours=1)):
        ada.post(f"{page}end-at/", {"ends_at": nonsense, "back": page})
    assert Lease.objects.get(pk=lease.pk).ends_at == lease.ends_at
    assert "Say until when" in ada.get(page).content.decode()
