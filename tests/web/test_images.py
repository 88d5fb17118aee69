"""The page of images: what is offered and by whom it is used; adding a version and retiring one."""

from __future__ import annotations

import re

from django.test import Client
from django.urls import reverse

from leasing.models import Image
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

NEW = {
    "slug": "tenant",
    "name": "Tenant",
    "os_family": "linux",
    "format": "qcow2",
    "digest": "AB" * 32,
    "file_name": "tenant-2.qcow2",
}


def page_of(client: Client) -> str:
    return re.sub(r"\s+", " ", client.get(reverse("images")).content.decode())


def test_an_operator_adds_a_version_and_offers_the_old_one_again(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    assert "3 workstations run from it" in page_of(client)
    client.post(reverse("add-image"), NEW)
    assert Image.objects.get(offered=True).digest == "ab" * 32
    page = page_of(client)
    assert "version 2" in page
    assert "Replaced by version 2." in page
    assert "3 workstations run from it" in page
    client.post(reverse("offer-image", args=[scene.image.pk]))
    assert Image.objects.get(offered=True) == scene.image


def test_what_streams_the_desktop_is_kept_until_it_is_said_anew(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)

    def offered(**more: object) -> object:
        client.post(reverse("add-image"), NEW | more)
        return Image.objects.get(offered=True).desktops

    assert offered(desktops=["sunshine", "looking-glass"]) == ["sunshine", "looking-glass"]
    assert "Sunshine, Looking Glass" in page_of(client)
    assert offered() == ["sunshine", "looking-glass"]
    assert offered(desktops=["teleport"]) == ["sunshine", "looking-glass"]
    assert offered(desktops=["sunshine", "sunshine"]) == ["sunshine", "looking-glass"]
    assert offered(desktops=["none"]) == []


def test_a_retired_image_is_not_on_the_booking_page(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.operator)
    back = {"back": reverse("images")}
    page = client.post(reverse("retire-image", args=[scene.image.pk]), back, follow=True).content.decode()
    assert "Say why in a few words" in page
    client.post(reverse("retire-image", args=[scene.image.pk]), back | {"reason": "holes"})
    assert "holes" in page_of(client)
    assert not sign_in(scene.ada).get(reverse("api-images")).json()["results"]


def test_an_auditor_reads_and_changes_nothing(scene: Scene, sign_in: SignIn) -> None:
    page = page_of(sign_in(scene.auditor))
    assert scene.image.digest in page
    assert "Retire this version" not in page
    assert "Add a version" not in page


def test_ports_are_chosen_kept_and_refused_where_they_are_none(scene: Scene, sign_in: SignIn) -> None:
    client, back = sign_in(scene.operator), {"back": reverse("images")}
    for given, ports in (("22, 3389", [22, 3389]), ("", [22, 3389]), ("-", []), ("80 443", [80, 443])):
        client.post(reverse("add-image"), NEW | {"ports": given})
        assert Image.objects.get(offered=True).ports == ports
    for given in ("ssh", "22;3389", "0", "70000", "22 22", "1" * 201):
        client.post(reverse("add-image"), NEW | back | {"ports": given})
        assert "ports" in page_of(client)
        assert Image.objects.get(offered=True).ports == [80, 443]
