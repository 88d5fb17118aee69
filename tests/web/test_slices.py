"""The host's page divides a card and makes it whole; the API does the same."""

from __future__ import annotations

import re

import msgspec
import pytest
from django.test import Client
from django.urls import reverse

from hosts.models import Division, Gpu, GpuModel
from hosts.protocol import messages as m
from leasing.models import OutboxMessage
from tests.web.conftest import SignIn
from tests.web.scenes import Scene
from tests.web.test_api import Api
from tests.world import inventory

HALF = 32 << 20
PROFILES = (
    m.SliceProfile(name="vf", kind="vf", title="Virtual function", most=2, memory_bytes=HALF),
    m.SliceProfile(name="nvidia-592", kind="vgpu", title="NVIDIA A40-4Q", most=4, memory_bytes=HALF // 2),
    m.SliceProfile(name="1414", kind="mig-vgpu", title="NVIDIA H200X-1-18C", most=4),
)


class Divisible:
    """One clean GPU of the scene that nobody has booked, on a host that can divide it."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.model = GpuModel.objects.create(
            slug="half", name="Half an A6000", memory_mib=HALF >> 20, vendor_device="10de:2230"
        )
        self.gpu = Gpu.objects.filter(state="clean", holds=None)[0]
        self.show()

    def show(self, count: int = 0) -> None:
        """The host looks around, and sees so many slices."""
        addresses = [f"{self.gpu.address[:-1]}{index + 4}" for index in range(count)]
        part = m.SlicePart(parent=self.gpu.address, kind="vf", profile="vf")
        self.scene.more_cards = tuple(
            msgspec.structs.replace(each, part=part) for each in inventory(*addresses).cards
        )
        self.scene.beat()
        found = self.gpu.host.found_cards.present().filter(address=self.gpu.address)
        found.update(profiles=msgspec.to_builtins(PROFILES))

    def answer(self, event: m.Event) -> None:
        order = OutboxMessage.objects.filter(subject=f"gpu:{self.gpu.pk}").latest("created_at")
        assert self.scene.host.say(event, at=self.scene.now, command=order) == "applied"

    def made(self) -> None:
        self.answer(m.Divided(gpu_id=self.gpu.pk, tenure=self.gpu.tenure, profile="vf", slices=()))
        self.show(2)


@pytest.fixture
def divisible(scene: Scene) -> Divisible:
    return Divisible(scene)


def page_of(client: Client, gpu: Gpu) -> str:
    return re.sub(r"\s+", " ", client.get(reverse("host", args=[gpu.host_id])).content.decode())


def test_a_card_is_divided_and_made_whole_on_the_page_of_its_host(
    divisible: Divisible, sign_in: SignIn
) -> None:
    client, gpu = sign_in(divisible.scene.operator), divisible.gpu
    page = page_of(client, gpu)
    assert "NVIDIA A40-4Q" in page
    assert "vGPUs backed by MIG" in page
    form = {"profile": "vf", "count": "2", "model": str(divisible.model.pk)}
    client.post(reverse("divide-gpu", args=[gpu.pk]), form)
    assert "being divided" in page_of(client, gpu)
    divisible.made()
    page = page_of(client, gpu)
    assert "2 slices by" in page
    assert "Half an A6000" in page
    first = Gpu.objects.filter(parent=gpu)[0]
    assert reverse("gpu", args=[first.pk]) in page
    assert "is dirty" in client.post(reverse("undivide-gpu", args=[gpu.pk]), follow=True).content.decode()
    Gpu.objects.filter(parent=gpu).update(state="clean")
    client.post(reverse("undivide-gpu", args=[gpu.pk]))
    assert "being made whole" in page_of(client, gpu)
    divisible.answer(m.DivisionFailed(gpu_id=gpu.pk, tenure=gpu.tenure, reason="It is held.", divided=True))
    assert "It is held." in page_of(client, gpu)


def test_slices_of_a_card_that_is_whole_again_are_history(divisible: Divisible, sign_in: SignIn) -> None:
    client, gpu = sign_in(divisible.scene.operator), divisible.gpu
    client.post(
        reverse("divide-gpu", args=[gpu.pk]),
        {"profile": "vf", "count": "2", "model": str(divisible.model.pk)},
    )
    divisible.made()
    slice_, other = Gpu.objects.filter(parent=gpu)
    Gpu.objects.filter(pk=slice_.pk).update(state="quarantined")
    page, fleet = reverse("gpu", args=[slice_.pk]), reverse("fleet")
    assert "Try intake again" in client.get(page).content.decode()
    assert page in client.get(fleet).content.decode()
    Gpu.objects.filter(pk=other.pk).update(state="maintenance")
    Division.objects.update(state=Division.State.OVER)
    assert "Try intake again" not in client.get(page).content.decode()
    assert page not in page_of(client, gpu)
    assert page not in client.get(fleet).content.decode()


def test_who_only_reads_sees_the_slices_and_no_form(divisible: Divisible, sign_in: SignIn) -> None:
    page = page_of(sign_in(divisible.scene.auditor), divisible.gpu)
    assert "NVIDIA A40-4Q" in page
    assert reverse("divide-gpu", args=[divisible.gpu.pk]) not in page


def test_the_same_over_the_api(divisible: Divisible) -> None:
    gpu, operator = divisible.gpu, Api(divisible.scene.operator)
    asked = {"profile": "vf", "count": 2, "model": "half"}
    answer = operator.post(f"gpus/{gpu.pk}/divide/", asked)
    assert (answer.status_code, answer.json()["state"]) == (202, "ordered")
    divisible.made()
    assert Gpu.objects.filter(parent=gpu, model=divisible.model).count() == 2
    Gpu.objects.filter(parent=gpu).update(state="clean")
    answer = operator.post(f"gpus/{gpu.pk}/undivide/", {})
    assert (answer.status_code, answer.json()["state"]) == (202, "ending")
    assert Division.objects.get().state == "ending"
