"""What operators keep: flavors, tenants, and the emergency stop."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from leasing import emergency, flavors
from leasing.errors import InvalidRequest, NotVisible, WrongState
from leasing.membership import tenants
from leasing.models import EmergencyStop, Flavor, Tenant
from leasing.policy import has_role
from tests.domain.test_together import all_is_well, book, running, world
from tests.world import World, inventory

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
__all__ = ["world"]


def stop(world: World, scope: str, name: str = "", **more: Any) -> EmergencyStop:
    actor = world.actor(world.operator)
    found = emergency.preview_stop(actor=actor, scope=scope, name=name)
    asked = {"bookings": True, "machines": True, "reason": "smoke", "typed": found.typed, "seen": found.seen}
    return emergency.stop(actor=actor, scope=scope, name=name, now=world.now, **{**asked, **more})


def heard_of(world: World) -> None:
    """Machines start on hosts that have been heard of lately."""
    world.host.say(inventory(*(gpu.address for gpu in world.gpus)), at=world.now)


def test_a_flavor_is_described_anew_but_not_rebuilt_under_who_has_it(world: World) -> None:
    actor, slug = world.actor(world.operator), world.flavor.slug
    book(world, world.ada, after=HOUR)
    facts = {"name": "Atelier", "description": "drawing"}
    flavors.change_flavor(actor=actor, slug=slug, facts=facts, now=world.now)
    with pytest.raises(WrongState):
        flavors.change_flavor(actor=actor, slug=slug, facts={"numa": "required"}, now=world.now)
    flavors.retire_flavor(actor=actor, slug=slug, now=world.now)
    world.flavor.refresh_from_db()
    with pytest.raises(InvalidRequest):
        book(world, world.ada, after=HOUR)
    flavors.offer_flavor(actor=actor, slug=slug, now=world.now)
    made = flavors.add_flavor(
        actor=actor, facts={"slug": "duo", "name": "Duo", "model": world.model, "gpu_count": 2}, now=world.now
    )
    assert Flavor.objects.get(slug="duo") == made
    for wrong in ({"slug": "duo"}, {"slug": "many", "gpu_count": 17}, {"slug": "usb", "usb_devices": ["x"]}):
        with pytest.raises(InvalidRequest):
            flavors.add_flavor(actor=actor, facts={"name": "X", "model": world.model, **wrong}, now=world.now)
    with pytest.raises(NotVisible):
        flavors.retire_flavor(actor=world.actor(world.ada), slug=slug, now=world.now)
    all_is_well(world)


def test_a_tenant_is_added_with_its_owner_and_keeps_its_zone(world: World) -> None:
    actor = world.actor(world.operator)
    made = tenants.add_tenant(
        actor=actor,
        slug="film",
        facts={"name": "Film", "timezone": "Asia/Shanghai"},
        owner="bob",
        now=world.now,
    )
    assert has_role(world.bob, made, "owner")
    with pytest.raises(InvalidRequest):
        tenants.add_tenant(actor=actor, slug="late", facts={"name": "L"}, owner="nobody", now=world.now)
    assert not Tenant.objects.filter(slug="late").exists()
    book(world, world.ada, after=HOUR)
    with pytest.raises(WrongState):
        tenants.change_tenant(actor=actor, slug="studio", facts={"timezone": "Asia/Tokyo"}, now=world.now)
    tenants.change_tenant(actor=actor, slug="studio", facts={"concurrent_gpus": 0}, now=world.now)
    assert book(world, world.ada, after=HOUR).state == "requested"
    all_is_well(world)


@pytest.mark.parametrize("scope", ["tenant", "host", "all"])
def test_a_stop_ends_what_runs_and_keeps_the_rest_until_it_is_lifted(scope: str, world: World) -> None:
    runs, ahead = running(world), book(world, world.ada, after=HOUR)
    name = {"tenant": "studio", "host": world.host.row.name, "all": ""}[scope]
    made = stop(world, scope, name)
    for lease in (runs, ahead):
        lease.refresh_from_db()
    assert (runs.state, runs.outcome, ahead.state) == ("releasing", "failed", "scheduled")
    assert "smoke" in str(runs.outcome_reason)
    if scope != "host":
        with pytest.raises(WrongState, match="stopped bookings"):
            book(world, world.ada, after=2 * HOUR)
    with pytest.raises(WrongState, match="already"):
        stop(world, scope, name)
    world.now += HOUR
    heard_of(world)
    world.tick()
    ahead.refresh_from_db()
    assert ahead.state == "scheduled"
    emergency.lift_stop(actor=world.actor(world.operator), stop_id=made.pk, now=world.now)
    world.now += timedelta(minutes=1)
    heard_of(world)
    world.tick()
    ahead.refresh_from_db()
    assert ahead.state == "provisioning"
    all_is_well(world)


def test_a_stop_is_hard_to_hit_by_accident(world: World) -> None:
    lease = running(world)
    for wrong in (
        {"typed": "studio"},
        {"typed": ""},
        {"bookings": False, "machines": False},
        {"reason": " "},
    ):
        with pytest.raises(InvalidRequest):
            stop(world, "tenant", "studio", **wrong)
    with pytest.raises(WrongState, match="changed"):
        stop(world, "all", seen="x")
    with pytest.raises(NotVisible):
        emergency.preview_stop(actor=world.actor(world.approver), scope="all", name="")
    lease.refresh_from_db()
    assert lease.state == "active"
    stop(world, "all", machines=False)
    lease.refresh_from_db()
    assert lease.state == "active"
    fresh = tenants.add_tenant(
        actor=world.actor(world.operator), slug="film", facts={"name": "Film"}, owner="bob", now=world.now
    )
    assert fresh.no_bookings_since == world.now
