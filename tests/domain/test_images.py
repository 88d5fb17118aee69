"""Versions of images: one is offered, leases keep theirs, and what they run from is not replaced."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.db import IntegrityError, transaction
from django.db.models import F

from hosts.protocol import messages as m
from leasing.ending import end_lease
from leasing.errors import DomainError, InvalidRequest, NotVisible, WrongState
from leasing.fsck import run_checks
from leasing.images import add_version, images_in_use, offer_image, retire_image
from leasing.models import AuditEntry, Image, Lease
from leasing.waitlist import join_waitlist
from tests.domain.test_first_lease import book, bring_up
from tests.world import World

pytestmark = pytest.mark.django_db
FACTS: dict[str, Any] = {
    "name": "Tenant",
    "os_family": "linux",
    "format": "qcow2",
    "digest": "12" * 32,
    "file_name": "tenant-2.qcow2",
    "cmdline": "",
    "login": "",
    "default_user": "",
}


@pytest.fixture
def world(db: None) -> World:
    return World(gpus=2)


def add(world: World, slug: str = "tenant", **changes: Any) -> Image:
    facts = {**FACTS, **changes}
    return add_version(actor=world.actor(world.operator), slug=slug, facts=facts, now=world.now)


def retire(world: World, image: Image) -> Image:
    return retire_image(
        actor=world.actor(world.operator), image_id=image.pk, reason="holes in it", now=world.now
    )


def test_a_new_version_is_offered_in_place_of_the_last(world: World) -> None:
    second = add(world)
    assert [image.version for image in Image.objects.filter(offered=True)] == [2]
    world.image.refresh_from_db()
    assert (world.image.retired_at, world.image.retired_because) == (world.now, "Replaced by version 2.")
    assert add(world, "other").version == 1
    entries = AuditEntry.objects.filter(subject="image:tenant-2")
    assert [entry.action for entry in entries] == ["image.add"]
    assert second.offered


def test_a_running_lease_keeps_its_version_and_a_booked_one_starts_with_it(world: World) -> None:
    running, booked = book(world, hours=1), book(world, hours=2)
    bring_up(world, running)
    add(world)
    for lease in (running, booked):
        lease.refresh_from_db()
        assert lease.image == world.image
    world.tick()
    order = msgspec.json.decode(world.command(booked, "provision").goal, type=m.Provision)
    assert order.machine.image.digest == world.image.digest
    counts = dict(images_in_use().values_list("version", F("running") + F("booked")))
    assert counts == {1: 2, 2: 0}


def test_what_is_retired_is_not_booked_any_more(world: World) -> None:
    lease = book(world)
    bring_up(world, lease)
    retire(world, world.image)
    world.image.refresh_from_db()
    with pytest.raises(InvalidRequest, match="no longer offered"):
        book(world)
    world.tick(after=timedelta(hours=1))
    lease.refresh_from_db()
    assert lease.state == "active"
    assert run_checks(world.now) == []


def test_a_retired_version_is_offered_again_in_place_of_the_newer(world: World) -> None:
    second = add(world)
    offer_image(actor=world.actor(world.operator), image_id=world.image.pk, now=world.now)
    second.refresh_from_db()
    world.image.refresh_from_db()
    assert (world.image.offered, world.image.retired_at, second.offered) == (True, None, False)
    with pytest.raises(WrongState):
        retire(world, second)
    with pytest.raises(WrongState):
        offer_image(actor=world.actor(world.operator), image_id=world.image.pk, now=world.now)


def test_a_file_that_is_in_use_keeps_its_content(world: World) -> None:
    second = add(world)
    world.image = second
    book(world)
    with pytest.raises(InvalidRequest, match="which is in use") as refused:
        add(world, digest="34" * 32)
    assert refused.value.field == "file_name"
    assert Image.objects.get(offered=True) == second
    third = add(world, digest="34" * 32, file_name="tenant-3.qcow2")
    fourth = add(world, digest="56" * 32, file_name="tenant-3.qcow2")
    assert fourth.version == 4
    world.image = fourth
    book(world)
    with pytest.raises(InvalidRequest, match="which is in use"):
        offer_image(actor=world.actor(world.operator), image_id=third.pk, now=world.now)


def test_who_waits_gets_the_new_version(world: World) -> None:
    booked = [book(world) for _ in range(2)]
    entry = join_waitlist(
        actor=world.actor(world.ada),
        tenant=world.studio,
        flavor=world.flavor,
        image=world.image,
        duration=timedelta(hours=1),
        earliest=world.now,
        deadline=world.now + timedelta(hours=2),
        purpose="",
        now=world.now,
    )
    second = add(world)
    entry.refresh_from_db()
    assert entry.image == second
    end_lease(actor=world.actor(world.ada), lease_id=booked[0].pk, now=world.now)
    world.tick()
    offer = Lease.objects.get(state="offered")
    assert offer.image == second
    third = add(world, digest="34" * 32, file_name="tenant-3.qcow2")
    offer.refresh_from_db()
    assert offer.image == third
    assert run_checks(world.now) == []


def test_what_a_new_version_leaves_out_is_as_it_was(world: World) -> None:
    add(world, login="By key", cloud_init=True, default_user="ada", firmware="uefi-secure")
    facts = {"digest": "34" * 32, "file_name": "tenant-3.qcow2"}
    third = add_version(actor=world.actor(world.operator), slug="tenant", facts=facts, now=world.now)
    assert (third.login, third.cloud_init, third.default_user, third.firmware) == (
        "By key",
        True,
        "ada",
        "uefi-secure",
    )
    with pytest.raises(InvalidRequest):
        add(world, cloud_init=True, default_user="")
    third.refresh_from_db()
    assert third.offered


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("digest", "12" * 31),
        ("digest", "G" * 64),
        ("file_name", "../secret"),
        ("file_name", "a/b"),
        ("format", "vmdk"),
        ("name", " "),
        ("cmdline", "x" * 501),
        ("default_user", "Not A Login"),
        ("mounts", [{"source": "only"}]),
    ],
)
def test_what_is_not_possible_is_refused_by_name(world: World, field: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        add(world, **{field: value})
    assert refused.value.field == field
    assert Image.objects.count() == 1


def test_only_operators_may(world: World) -> None:
    def attempts() -> list[Any]:
        actor = world.actor(world.ada)
        return [
            lambda: add_version(actor=actor, slug="tenant", facts=FACTS, now=world.now),
            lambda: retire_image(actor=actor, image_id=world.image.pk, reason="x", now=world.now),
            lambda: offer_image(actor=actor, image_id=world.image.pk, now=world.now),
        ]

    for attempt in attempts():
        with pytest.raises(NotVisible):
            attempt()


def test_the_database_offers_one_version_only(world: World) -> None:
    second = add(world)
    with pytest.raises(IntegrityError), transaction.atomic():
        Image.objects.filter(pk__in=[world.image.pk, second.pk]).update(offered=True)


def test_an_unknown_version_is_not_there(world: World) -> None:
    with pytest.raises(DomainError):
        offer_image(actor=world.actor(world.operator), image_id=999, now=world.now)
