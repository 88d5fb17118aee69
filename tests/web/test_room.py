"""How much is free now, and how much of it together: on the fleet page, and over the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from lxml import html

from hosts.models import Gpu, GpuModel
from leasing.models import Closure, Hold
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

NUMBERS = ("free", "gpus", "free_hosts", "hosts", "largest")


@pytest.fixture
def rooms(scene: Scene) -> dict[str, tuple[int, ...]]:
    """The GPUs of one host, of which one is held and one is closed; two are of another model, and free."""
    Hold.objects.all().delete()
    Closure.objects.all().delete()
    Gpu.objects.update(state="clean")
    other = GpuModel.objects.exclude(pk=scene.model.pk).order_by("slug").first()
    assert other is not None
    held, closed, *others = Gpu.objects.filter(model=scene.model).order_by("address")
    hour = timedelta(hours=1)
    Hold.objects.create(
        lease=scene.active, gpu=held, starts_at=scene.now - hour, ends_at=scene.now + 24 * hour
    )
    Closure.objects.create(
        host=closed.host, gpu=closed, starts_at=scene.now - hour, created_at=scene.now - hour
    )
    for gpu in others[-2:]:
        Gpu.objects.filter(pk=gpu.pk).update(model=other)
    left = len(others) - 2
    return {scene.model.slug: (left, left + 2, 0, 1, left), other.slug: (2, 2, 1, 1, 2)}


def test_the_page_and_the_api_say_the_same(
    scene: Scene, sign_in: SignIn, rooms: dict[str, tuple[int, ...]]
) -> None:
    tree: Any = html.fromstring(sign_in(scene.operator).get(reverse("fleet")).content.decode())
    shown = {}
    for row in tree.xpath("//table[@id='room']/tbody/tr"):
        name, free, whole, largest = (" ".join(cell.text_content().split()) for cell in row.xpath("./td"))
        numbers = tuple(int(number) for number in [*free.split(" / "), *whole.split(" / "), largest])
        shown[GpuModel.objects.get(name=name).slug] = numbers
    assert shown == rooms
    for reader in (scene.operator, scene.auditor):
        told = sign_in(reader).get(reverse("api-fleet-room")).json()
        assert {one["gpu_model"]: tuple(one[name] for name in NUMBERS) for one in told} == rooms


def test_the_description_says_what_is_counted(scene: Scene, sign_in: SignIn) -> None:
    schema = sign_in(scene.operator).get(reverse("api-schema"), {"format": "json"}).json()
    answer = schema["paths"]["/api/v1/fleet-room/"]["get"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"]["items"]["$ref"].endswith("/Room")
    fields = schema["components"]["schemas"]["Room"]["properties"]
    assert set(fields) == {"gpu_model", *NUMBERS}
