"""The page of a GPU: what its card is, what became of it, and letting one back that has changed."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from hosts.models import Gpu
from hosts.protocol import messages as m
from leasing.cards import card_at, seal_of
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.world import KERNEL

DETAILS = m.CardDetails(board="Reference board", vbios="94.02.42.00.a1", link="x16 at 16.0 GT/s")


def seen(scene: Scene, gpu: Gpu, **changes: Any) -> None:
    """Its host reports the cards as they were, but for this one's."""
    kept = scene.host.row.found_cards.present()
    cards = []
    for row in kept:
        fingerprint = msgspec.convert(row.fingerprint, type=m.Fingerprint)
        if row.address == gpu.address:
            fingerprint = msgspec.structs.replace(fingerprint, **changes)
        cards.append(
            m.CardFacts(
                address=row.address,
                functions=tuple(row.functions),
                iommu_group=row.iommu_group,
                name=row.name,
                memory_bytes=row.memory_mib << 20,
                numa_node=row.numa_node,
                fingerprint=fingerprint,
                refusal=row.refusal,
                details=m.CardDetails(
                    board="Reference board", vbios="94.02.42.00.a1", link="x16 at 16.0 GT/s"
                ),
            )
        )
    inventory = m.Inventory(
        cards=tuple(cards),
        machines=scene.host.machines(),
        cpu_count=16,
        memory_mib=65536,
        disk_gib=1000,
        kernel=KERNEL,
        worker_version="test",
        simulated=True,
    )
    assert scene.host.say(inventory, at=timezone.now()) == "applied"


@pytest.fixture
def changed(scene: Scene) -> Gpu:
    """A GPU whose card has other firmware than when it was taken in."""
    gpu = Gpu.objects.filter(state="clean").first()
    assert gpu is not None
    seen(scene, gpu, rom_sha256="cd" * 32)
    gpu.refresh_from_db()
    assert gpu.state == "quarantined"
    return gpu


def page_of(client: Client, gpu: Gpu) -> str:
    return re.sub(r"\s+", " ", client.get(reverse("gpu", args=[gpu.pk])).content.decode())


def test_the_page_says_what_changed_and_what_the_card_is(scene: Scene, sign_in: SignIn, changed: Gpu) -> None:
    page = page_of(sign_in(scene.operator), changed)
    assert "The card is not what it was" in page
    assert "ab" * 32 in page
    assert "cd" * 32 in page
    for told in ("Reference board", "94.02.42.00.a1", "x16 at 16.0 GT/s"):
        assert told in page
    life = ("Its firmware changed", "Proven clean", "Taken into service", "First seen on its host")
    places = [page.index(words) for words in life]
    assert places == sorted(places)


def test_it_is_let_back_by_who_accepts_what_they_were_shown(
    scene: Scene, sign_in: SignIn, changed: Gpu
) -> None:
    client, url = sign_in(scene.operator), reverse("readmit-gpu", args=[changed.pk])
    page = page_of(client, changed)
    assert "Try intake again" not in page
    back = {"back": reverse("gpu", args=[changed.pk])}
    assert "not what it was" in client.post(url, back, follow=True).content.decode()
    changed.refresh_from_db()
    assert changed.state == "quarantined"
    shown = re.search(r'name="accepted" value="(\w+)"', page)
    assert shown is not None
    client.post(url, back | {"accepted": shown.group(1)})
    changed.refresh_from_db()
    assert (changed.state, changed.fingerprint["rom_sha256"]) == ("dirty", "cd" * 32)


def test_an_auditor_sees_it_and_accepts_nothing(scene: Scene, sign_in: SignIn, changed: Gpu) -> None:
    page = page_of(sign_in(scene.auditor), changed)
    assert "The card is not what it was" in page
    assert "Accept it" not in page


def test_the_api_tells_the_life_of_a_card_the_newest_first(
    scene: Scene, sign_in: SignIn, changed: Gpu
) -> None:
    client = sign_in(scene.operator)
    life = client.get(reverse("api-gpu-history", args=[changed.pk])).json()
    assert [each["action"] for each in life[:2]] == ["gpu.quarantine", "card.firmware"]
    assert life[-1]["action"] == "card.seen"
    assert life[1]["sentence"] == "Its firmware changed"
    assert "rom_sha256 was" in life[1]["reason"]


def test_the_api_lets_a_changed_card_back_by_its_seal(scene: Scene, sign_in: SignIn, changed: Gpu) -> None:
    client, url = sign_in(scene.operator), reverse("api-gpu-readmit", args=[changed.pk])
    refused = client.post(url, {}, content_type="application/json")
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "card-changed")
    cards = client.get(reverse("api-found-cards")).json()["results"]
    found = card_at(changed)
    assert found is not None
    seal = next(card["seal"] for card in cards if card["id"] == found.pk)
    assert seal == seal_of(found.fingerprint)
    assert client.post(url, {"accepted": seal}, content_type="application/json").status_code == 200
