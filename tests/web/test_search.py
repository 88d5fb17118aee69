"""Search finds what is the reader's to see, and nothing else; by the header, by keys, without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from playwright.sync_api import expect

from leasing.models import AuditEntry, Invoice
from tests.web.browsing import Visits
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.site import Site
from tests.web.test_access import invoice

MOST_STATEMENTS = 15
Finding = Callable[..., dict[str, str]]


def kinds(client: Client, words: str) -> dict[str, str]:
    """The groups that were found, each with its text."""
    page = client.get(reverse("search"), {"q": words}).content.decode()
    parts = re.findall(r'<section class="sheet" data-found="(\w+)">(.*?)</section>', page, re.DOTALL)
    return dict(parts)


def test_everybody_finds_their_own(scene: Scene, sign_in: SignIn) -> None:
    ada = sign_in(scene.ada)
    assert scene.active.machine_name in kinds(ada, scene.active.machine_name)["leases"]
    assert scene.active.machine_name in kinds(ada, str(scene.active.pk))["leases"]
    assert scene.ended.machine_name in kinds(ada, "MUSEUM renders")["leases"]
    found = kinds(ada, "petra")
    assert "Petra Hahn" in found["people"]
    assert "Ada Lindqvist" in kinds(ada, "ada")["people"]
    assert {"tenants", "flavors", "images"} <= {*kinds(ada, "studio"), *kinds(ada, scene.image.name)}
    lead = kinds(sign_in(scene.approver), "studio")["tenants"]
    assert reverse("team", args=["studio"]) in lead


def test_what_is_not_theirs_does_not_appear(scene: Scene, sign_in: SignIn) -> None:
    number = invoice_of(scene).number
    entry = AuditEntry.objects.filter(tenant=scene.studio).latest("pk").pk
    gpu = scene.gpus[0]
    secret = (
        scene.active.machine_name, "museum", "lindqvist", "petra", number, str(entry), gpu.address,
        f"S-{gpu.address}", gpu.host.name,
    )  # fmt: skip
    for who in (scene.bob, scene.stranger):
        client = sign_in(who)
        for words in secret:
            assert kinds(client, words) == {}, (who, words)
    assert kinds(sign_in(scene.stranger), scene.flavor.name) == {}
    assert "tenants" not in kinds(sign_in(scene.bob), "studio")
    assert kinds(sign_in(scene.operator), scene.active.machine_name) == {}


def test_operators_find_hosts_and_cards(scene: Scene, sign_in: SignIn) -> None:
    client, gpu = sign_in(scene.operator), scene.gpus[0]
    page = reverse("gpu", args=[gpu.pk])
    for words in (gpu.address, f"s-{gpu.address}", gpu.address[5:10]):
        assert page in kinds(client, words)["gpus"]
    assert reverse("host", args=[gpu.host_id]) in kinds(client, gpu.host.name.upper())["hosts"]
    assert reverse("keep-tenants") + "#tenant-research" in kinds(client, "research")["tenants"]


def test_numbers_of_invoices_and_of_the_audit_log(scene: Scene, sign_in: SignIn) -> None:
    made = invoice_of(scene)
    page = reverse("invoice", args=[made.pk])
    for who in (scene.finance, scene.approver, scene.auditor, scene.money):
        assert page in kinds(sign_in(who), made.number.lower())["invoices"]
    entry = AuditEntry.objects.filter(tenant=scene.studio).latest("pk").pk
    for who in (scene.approver, scene.auditor):
        assert reverse("audit-entry", args=[entry]) in kinds(sign_in(who), f"#{entry}")["entries"]
    assert "entries" not in kinds(sign_in(scene.auditor), "9" * 30)


def invoice_of(scene: Scene) -> Invoice:
    return Invoice.objects.get(pk=invoice(scene)["invoice_id"])


@pytest.mark.parametrize("words", ["a", "studio", "42", "ws-0"])
def test_it_asks_the_database_little_whatever_there_is(scene: Scene, sign_in: SignIn, words: str) -> None:
    for who in scene.everybody().values():
        client = sign_in(who)
        client.get(reverse("search"), {"q": words})
        with CaptureQueriesContext(connection) as asked:
            assert client.get(reverse("search"), {"q": words}).status_code == 200
        assert len(asked) <= MOST_STATEMENTS, who


def test_of_each_kind_a_handful(scene: Scene, sign_in: SignIn) -> None:
    for day in range(2, 12):
        scene.book(scene.ada, hours=1, start=timedelta(days=day), purpose="Kettle")
    found = kinds(sign_in(scene.ada), "kettle")["leases"]
    assert found.count("<li>") == 8
    assert "There are more." in found


def test_odd_words_find_nothing_and_break_nothing(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.auditor)
    for words in (
        "",
        " ",
        "x",
        "%",
        "%%%",
        "\x00\x00",
        "x" * 10_000,
        "工作站",
        "<script>",
        "-" * 40,
        "ws-",
        "'\"",
    ):
        assert kinds(client, words) == {}, words


@pytest.mark.django_db
@pytest.mark.timeout(90)
def test_a_slash_goes_to_the_field_on_every_page(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada)
    page.goto("/")
    page.keyboard.press("/")
    page.keyboard.type("museum/x")
    expect(page.get_by_role("searchbox")).to_have_value("museum/x")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("museum")
    page.keyboard.press("Enter")
    expect(page.locator('[data-found="leases"] a')).to_contain_text(site.scene.ended.machine_name)


@pytest.mark.django_db
@pytest.mark.timeout(90)
def test_where_there_is_no_room_for_the_field_a_slash_leads_to_its_page(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.approver, width=1280)
    page.goto("/")
    expect(page.get_by_role("searchbox")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.get_by_label("What you look for")).to_be_focused()


@pytest.mark.django_db
@pytest.mark.timeout(90)
def test_a_phone_has_a_way_to_it_without_javascript(visits: Visits, site: Site) -> None:
    page = visits.page(site.scene.ada, width=390, javascript=False)
    page.goto("/account/")
    page.get_by_role("button", name="Search").click()
    page.get_by_label("What you look for").fill(site.scene.active.machine_name)
    page.get_by_role("button", name="Search", exact=True).last.click()
    page.locator('[data-found="leases"] a').click()
    expect(page).to_have_url(re.compile(str(site.scene.active.pk)))
