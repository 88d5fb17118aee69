"""How a workstation is reached: shown to who may use it, while it runs, in words that can be typed."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from hosts.protocol import messages as m
from leasing.fsck import run_checks
from leasing.models import Lease
from leasing.ssh_keys import add_ssh_key
from portal.changes import Watch
from tests.web.scenes import ACCESS, Scene
from tests.web.test_ssh_keys import KNOWN
from tests.world import inventory

pytestmark = pytest.mark.django_db
COMMAND = "ssh -p 22016 designer@hv1.studio.example"


@pytest.fixture
def scene(scene: Scene) -> Scene:
    """Its machines are signed in to over the network."""
    scene.image.cloud_init, scene.image.default_user = True, "designer"
    scene.image.save()
    return scene


def page(client: Client, scene: Scene, lease: Lease) -> str:
    client.force_login(scene.ada)
    return client.get(reverse("workstation", args=[lease.pk])).content.decode()


def test_the_page_says_what_to_type_and_which_key_to_expect(client: Client, scene: Scene) -> None:
    said = page(client, scene, scene.active)
    assert COMMAND in said
    assert ACCESS.host_key in said
    assert 'Remote Desktop: <code class="typed">hv1.studio.example:22017</code>' in said
    assert "You have no SSH key here" in said
    add_ssh_key(actor=scene.actor(scene.ada), line=KNOWN, now=scene.now)
    assert "You have no SSH key here" not in page(client, scene, scene.active)


def test_streaming_is_explained_where_the_image_has_it(client: Client, scene: Scene) -> None:
    assert "Moonlight" not in page(client, scene, scene.active)
    scene.image.desktops = ["sunshine"]
    scene.image.save()
    said = page(client, scene, scene.active)
    assert "ssh -L 47990:localhost:47990 -p 22016 designer@hv1.studio.example" in said
    assert "Looking Glass" not in said
    scene.image.desktops = ["looking-glass"]
    scene.image.save()
    said = page(client, scene, scene.active)
    assert "does not work over a network" in said
    assert "Moonlight" not in said


def test_a_file_opens_remote_desktop(client: Client, scene: Scene) -> None:
    address = reverse("remote-desktop", args=[scene.active.pk])
    assert f'href="{address}"' in page(client, scene, scene.active)
    answer = client.get(address)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{scene.active.machine_name}.rdp"'
    lines = answer.content.decode().split("\r\n")
    assert "full address:s:hv1.studio.example:22017" in lines
    assert "username:s:designer" in lines
    assert "drivestoredirect:s:" in lines
    client.force_login(scene.approver)
    assert client.get(address).status_code == 403
    only_ssh = msgspec.structs.replace(ACCESS, forwards=ACCESS.forwards[:1])
    Lease.objects.filter(pk=scene.active.pk).update(access=msgspec.to_builtins(only_ssh))
    client.force_login(scene.ada)
    assert client.get(address).status_code == 404


def test_what_it_usually_takes_is_said_while_it_comes_up(client: Client, scene: Scene) -> None:
    said = page(client, scene, scene.preparing)
    assert "usually" in said
    assert "data-so-far" in said
    assert "usually" not in page(client, scene, scene.active)


@pytest.mark.parametrize("address", ["", "hv1\r\ndrivestoredirect:s:*", "hv1 x", "a" * 254])
def test_a_host_writes_nothing_else_into_what_people_type(address: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"address": address}, type=m.Access)


def test_nobody_else_is_told(client: Client, scene: Scene) -> None:
    """An approver sees the lease, and may not use it."""
    client.force_login(scene.approver)
    said = client.get(reverse("workstation", args=[scene.active.pk])).content.decode()
    assert COMMAND not in said


def test_a_host_that_connects_none_is_called_so(client: Client, scene: Scene) -> None:
    Lease.objects.filter(pk=scene.active.pk).update(access=None)
    assert "the console is the way in" in page(client, scene, scene.active)


def test_whether_its_guest_answers_is_shown_and_what_it_says_is_called_its_own(
    client: Client, scene: Scene
) -> None:
    lease = scene.active
    assert "data-guest" not in page(client, scene, lease), "an older host tells nothing"
    scene.host.say(m.Guests(guests=(m.GuestFacts(lease_id=lease.pk, answers="none"),)), at=scene.now)
    assert 'data-guest="none"' in page(client, scene, lease)
    assert 'data-step="guest"' not in page(client, scene, lease), "it runs for hours; nobody waits any more"
    lease.steps.filter(name="confirm").update(finished_at=timezone.now())
    assert 'data-step="guest" data-step-state="started"' in page(client, scene, lease)
    assert client.get(f"/api/v1/leases/{lease.pk}/").json()["guest"]["answers"] == "none"
    watch = Watch()
    watch.look(frozenset(), frozenset())
    facts = m.GuestFacts(
        lease_id=lease.pk, answers="agent", hostname="<b>studio", system="Debian 12", addresses=("10.99.0.2",)
    )
    scene.host.say(m.Guests(guests=(facts,)), at=scene.now)
    assert list(watch.look(frozenset(), frozenset()).owners) == [lease.pk], (
        "who looks at the page sees it come"
    )
    said = page(client, scene, lease)
    assert 'data-guest="agent"' in said
    assert 'data-step="guest" data-step-state="done"' in said
    assert "&lt;b&gt;studio" in said
    assert "As the guest says; nobody else has looked." in said
    told = client.get(f"/api/v1/leases/{lease.pk}/").json()["guest"]
    assert (told["hostname"], told["addresses"]) == ("<b>studio", ["10.99.0.2"])


def test_it_is_gone_with_the_lease_and_fsck_would_see_it(client: Client, scene: Scene) -> None:
    scene.now += timedelta(hours=1)
    scene.finish(scene.active, scene.active.holds.get().gpu)
    assert COMMAND not in page(client, scene, scene.active)
    scene.active.refresh_from_db()
    assert scene.active.access is None
    assert run_checks(scene.now) == []
    Lease.objects.filter(pk=scene.active.pk).update(access={"address": "hv1"})
    assert [finding.check for finding in run_checks(scene.now)] == ["leftovers"]


def test_fsck_hears_of_a_network_that_a_host_still_has(scene: Scene) -> None:
    scene.now += timedelta(hours=1)
    scene.finish(scene.active, scene.active.holds.get().gpu)
    scene.now += timedelta(minutes=1)
    seen = inventory(*(gpu.address for gpu in scene.gpus))
    scene.host.say(msgspec.structs.replace(seen, networks=(scene.active.pk,)), at=scene.now)
    assert [finding.check for finding in run_checks(scene.now)] == ["machines"]


def test_the_api_says_the_same(client: Client, scene: Scene) -> None:
    client.force_login(scene.ada)
    told = client.get(f"/api/v1/leases/{scene.active.pk}/").json()["access"]
    assert told["address"] == ACCESS.address
    assert told["forwards"][0] == {"port": 22016, "inside": 22}
    assert told["host_key"] == ACCESS.host_key
