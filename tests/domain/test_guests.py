"""What a host is told about the guest: its owner's keys as they are at the start, and nobody else's."""

from __future__ import annotations

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from hosts.protocol.messages import Mount
from leasing import goals
from leasing.models import Image, Person, SshKey
from tests.domain.test_first_lease import book
from tests.world import World

pytestmark = pytest.mark.django_db
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGIVdXM+GJSIWZABFD3ltQ8IYOYCXkPHxyFmxyZ0fIZL"


@pytest.fixture
def world() -> World:
    world = World(gpus=1)
    Image.objects.update(
        cloud_init=True,
        default_user="designer",
        firmware="uefi-secure",
        tpm=True,
        hides_hypervisor=True,
        mounts=[{"source": "nas:/projects", "target": "/projects", "type": "nfs4"}],
    )
    world.image.refresh_from_db()
    return world


def keep(world: World, person: Person, text: str) -> None:
    SshKey.objects.create(
        person=person, name="k", text=text, fingerprint=f"SHA256:{text[-8:]}", created_at=world.now
    )


def test_the_guest_knows_its_owners_keys(world: World) -> None:
    lease = book(world, hours=1)
    keep(world, world.ada, KEY)
    keep(world, world.bob, KEY.replace("fIZL", "fIZM"))
    order = goals.provision(lease).machine
    assert order.guest is not None
    assert (order.guest.hostname, order.guest.user) == (lease.machine_name, "designer")
    assert order.guest.ssh_keys == (KEY,)
    assert order.guest.mounts == (Mount(source="nas:/projects", target="/projects", type="nfs4"),)
    assert (order.image.firmware, order.image.tpm, order.image.hides_hypervisor) == (
        "uefi-secure",
        True,
        True,
    )


def test_an_image_without_cloud_init_is_told_nothing(world: World) -> None:
    world.image.cloud_init = False
    world.image.save()
    keep(world, world.ada, KEY)
    assert goals.provision(book(world, hours=1)).machine.guest is None


def test_a_flavor_asks_for_what_is_plugged_in_for_it(world: World) -> None:
    world.flavor.usb_devices = ["056a:0357"]
    world.flavor.save()
    assert goals.provision(book(world, hours=1)).machine.usb == ("056a:0357",)
    world.flavor.usb_devices = ["056a:*"]
    with pytest.raises(ValidationError, match="USB"):
        world.flavor.full_clean()


def test_cloud_init_needs_a_user(world: World) -> None:
    with pytest.raises(IntegrityError, match="cloud_init_has_user"), transaction.atomic():
        Image.objects.update(default_user="")


@pytest.mark.parametrize(
    "mounts",
    [[{"source": "a"}], [{"source": "a b", "target": "/x"}], [{"source": "a", "target": "/x"}] * 9, {"a": 1}],
)
def test_mounts_are_checked(world: World, mounts: object) -> None:
    world.image.mounts = mounts
    with pytest.raises(ValidationError, match="mounts"):
        world.image.full_clean()
