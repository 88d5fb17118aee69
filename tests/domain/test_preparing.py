"""How long it usually takes: said of the same GPUs and system, once enough of them have come up."""

from __future__ import annotations

from datetime import timedelta

import pytest

from leasing.models import Image, LeaseStep
from leasing.preparing import usual_preparation
from tests.domain.ground import NOW, Ground

pytestmark = pytest.mark.django_db


def come_up(
    ground: Ground, seconds: int, *, number: int, image: Image | None = None, up: bool = True
) -> None:
    """Its first step begins so many minutes from now, and its last one ends so many seconds later."""
    began = NOW + timedelta(minutes=number)
    ended = began + timedelta(seconds=seconds)
    lease = ground.lease(starts_at=began, ends_at=began + timedelta(hours=1))
    lease.image, lease.active_at = image or lease.image, ended if up else None
    lease.save()
    facts = {"lease": lease, "index": 1, "total": 2, "state": "done", "attempt": 1}
    LeaseStep.objects.create(plan="provision", name="bind", started_at=began, finished_at=began, **facts)
    LeaseStep.objects.create(plan="provision", name="confirm", started_at=began, finished_at=ended, **facts)
    LeaseStep.objects.create(
        plan="release", name="stop", started_at=ended, finished_at=ended + timedelta(hours=1), **facts
    )


def test_it_is_the_median_of_the_last_ones_alike() -> None:
    ground = Ground()
    lease = ground.lease(starts_at=NOW, ends_at=NOW + timedelta(hours=1))
    other = Image.objects.create(
        slug="other", name="Other", os_family="linux", format="raw", digest="0" * 64, file_name="other.raw"
    )
    come_up(ground, 30, number=1)
    come_up(ground, 50, number=2)
    come_up(ground, 900, number=3, image=other)
    come_up(ground, 900, number=4, up=False)
    assert usual_preparation(lease) is None, "two are too few"
    come_up(ground, 40, number=5)
    assert usual_preparation(lease) == timedelta(seconds=40)
    for number in range(20):
        come_up(ground, 7, number=10 + number)
    assert usual_preparation(lease) == timedelta(seconds=7), "what was long ago is forgotten"
