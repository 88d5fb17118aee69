"""Waiting in line with a home volume or for a snapshot, and what is proposed while they are out of reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from nacl.public import PrivateKey

from hosts.models import UsbDevice
from leasing import holds, policy
from leasing.audit.verifier import verify_log
from leasing.booking import request_lease
from leasing.changing import change_end, change_window
from leasing.ending import end_lease
from leasing.errors import InvalidRequest, NothingFree
from leasing.extras import Extras, extras_for
from leasing.fsck import run_checks
from leasing.homes import remove_volume
from leasing.latest_end import extension_limit
from leasing.models import AuditEntry, Flavor, HomeVolume, Lease, Person, Snapshot, WaitlistEntry
from leasing.openings.spans import micros
from leasing.reasons import because
from leasing.slots import NearMisses, find_start, near_misses
from leasing.snapshots import remove_snapshot
from leasing.waitlist import claim_offer, join_waitlist, outlook
from leasing.wishes import line, wishes
from tests.domain.test_homes import a_world, give_pool
from tests.domain.test_homes import end as end_and_release
from tests.domain.test_snapshots import a_kept_one
from tests.world import ScriptedHost, World

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def everything_is_in_order() -> Any:
    yield
    assert verify_log().problems == []


def book(
    world: World, who: Person | None = None, *, start: float = 1, hours: float = 12, **more: Any
) -> Lease:
    who = who or world.bob
    return request_lease(
        actor=world.actor(who), tenant=policy.tenants_with_role(who, "member").get(),
        flavor=more.pop("flavor", world.flavor), image=world.image, starts_at=world.now + start * HOUR,
        ends_at=world.now + (start + hours) * HOUR, now=world.now, **more,
    )  # fmt: skip


def join(
    world: World, *, hours: float = 8, start: float = 1, deadline: float = 13, **wanted: Any
) -> WaitlistEntry:
    return join_waitlist(
        actor=world.actor(world.ada), tenant=world.studio, flavor=wanted.pop("flavor", world.flavor),
        image=wanted.pop("image", world.image), duration=hours * HOUR, earliest=world.now + start * HOUR,
        deadline=world.now + deadline * HOUR, now=world.now, **wanted,
    )  # fmt: skip


def a_plain_host(world: World, count: int = 1) -> ScriptedHost:
    host = world.enrol("hv2")
    world.admit(host, count)
    return host


def offered(entry: WaitlistEntry) -> Lease | None:
    return Lease.objects.filter(entry=entry, state="offered").first()


def end(world: World, lease: Lease) -> None:
    end_lease(actor=world.actor(lease.owner), lease_id=lease.pk, now=world.now)
    world.tick()


def told_as_it_was_claimed() -> dict[str, Any]:
    """What the log tells of the offer: all that it tells of its claim, but what only the claim decides."""
    offer, claim = (
        json.loads(AuditEntry.objects.get(action=f"lease.{event}").text)["detail"]
        for event in ("offer", "claim")
    )
    decided = {"from", "to", "event", "reason", "limits", "needs_approval_because"}
    told: dict[str, Any] = {name: offer.get(name) for name in claim.keys() - decided}
    assert told == {name: claim[name] for name in claim.keys() - decided}
    return told


def host_of(lease: Lease) -> str:
    (hold,) = lease.holds.select_related("gpu__host")
    return hold.gpu.host.name


def with_home(world: World) -> Extras:
    return extras_for(world.studio, world.ada, with_home=True)


def nearly(world: World, extras: Extras, *, start: float = 1, hours: float = 8) -> NearMisses:
    return near_misses(
        world.flavor, hours * HOUR, person=world.ada, tenant=world.studio, earliest=world.now + start * HOUR,
        extras=extras, now=world.now,
    )  # fmt: skip


def test_a_search_finds_what_can_have_the_home_and_says_what_could_be_had_without() -> None:
    world, _key = a_world(gpus=1)
    taken = book(world)
    a_plain_host(world)
    asked, extras = world.now + HOUR, with_home(world)
    assert find_start(world.flavor, 8 * HOUR, earliest=asked, now=world.now) == asked
    after = taken.ends_at + timedelta(seconds=world.model.turnaround_seconds + world.model.lead_seconds)
    assert find_start(world.flavor, 8 * HOUR, earliest=asked, extras=extras, now=world.now) == after
    found = nearly(world, extras)
    assert found.obstacles.reasons == [because("home-elsewhere")]
    assert found.plain is not None
    assert (found.plain.starts_at, found.plain.ends_at) == (asked, asked + 8 * HOUR)
    assert found.later[0].starts_at == after
    book(world, world.ada, with_home=True, start=14, hours=8)
    with pytest.raises(NothingFree, match="can have your home volume"):
        book(world, world.ada, with_home=True, start=1, hours=8)


def test_obstacles_are_told_of_hosts_that_could_serve() -> None:
    world, _key = a_world(gpus=1)
    book(world)
    a_plain_host(world)
    book(world)
    found = nearly(world, with_home(world))
    assert (found.obstacles.reasons, found.plain) == ([because("booked-by-others")], None)
    pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
    world.price(pair)
    world.flavor = pair
    a_third = world.enrol("hv3")
    world.admit(a_third, 2)
    book(world, flavor=pair)
    found = nearly(world, with_home(world))
    assert found.obstacles.reasons == [because("too-few-with-extras", gpus=2, model=world.model.name)]


def test_while_another_workstation_has_the_home_the_search_goes_on_after_it() -> None:
    world, _key = a_world(gpus=2)
    other = book(world, world.ada, with_home=True, start=1, hours=4)
    found = nearly(world, with_home(world))
    assert found.obstacles.reasons == [because("home-is-booked", other=other.machine_name)]
    assert found.later[0].starts_at == other.ends_at
    assert nearly(world, with_home(world), start=0, hours=8).shorter is not None


def test_who_waits_with_a_home_is_offered_only_what_can_have_it() -> None:
    world, _key = a_world(gpus=1)
    here = book(world)
    a_plain_host(world)
    elsewhere = book(world)
    assert {host_of(here), host_of(elsewhere)} == {"hv1", "hv2"}
    entry = join(world, with_home=True)
    end(world, elsewhere)
    assert offered(entry) is None
    assert outlook(entry, now=world.now).too_late
    end(world, here)
    offer = offered(entry)
    assert offer is not None
    assert (offer.with_home, host_of(offer)) == (True, "hv1")
    with pytest.raises(InvalidRequest, match="held for you"):
        book(world, world.ada, with_home=True, start=2, hours=1)
    claimed = claim_offer(actor=world.actor(world.ada), entry_id=entry.pk, now=world.now)
    assert (claimed.state, claimed.with_home) == ("scheduled", True)
    assert told_as_it_was_claimed()["with_home"] is True
    assert run_checks(world.now) == []


def test_nobody_joins_for_what_can_be_booked_with_it_and_anybody_for_what_can_only_be_without() -> None:
    world, _key = a_world(gpus=1)
    with pytest.raises(InvalidRequest, match="nothing to wait for"):
        join(world, with_home=True)
    book(world)
    a_plain_host(world)
    with pytest.raises(InvalidRequest, match="nothing to wait for"):
        join(world)
    assert join(world, with_home=True).with_home


def test_a_home_that_comes_free_is_looked_at_on_blocks_where_nothing_did() -> None:
    world, key = a_world(gpus=1)
    host = world.enrol("hv2")
    world.admit(host, 2)
    give_pool(host, "studio", key)
    pair = Flavor.objects.create(slug="pair", name="Pair", model=world.model, gpu_count=2)
    world.price(pair)
    own = book(world, world.ada, with_home=True)
    assert host_of(own) == "hv1"
    entry = join(world, flavor=pair, with_home=True)
    world.tick()
    world.tick()
    entry.refresh_from_db()
    assert (offered(entry), entry.fresh) == (None, False)
    end(world, own)
    offer = offered(entry)
    assert offer is not None
    assert set(offer.holds.values_list("gpu__host__name", flat=True)) == {"hv2"}


def give_up(world: World, lease: Lease) -> None:
    end_lease(actor=world.actor(lease.owner), lease_id=lease.pk, now=world.now)


def end_sooner(world: World, lease: Lease) -> None:
    change_end(actor=world.actor(lease.owner), lease_id=lease.pk, ends_at=world.now + 2 * HOUR, now=world.now)


def begin_later(world: World, lease: Lease) -> None:
    times = {"starts_at": world.now + 30 * HOUR, "ends_at": world.now + 42 * HOUR}
    change_window(actor=world.actor(lease.owner), lease_id=lease.pk, **times, now=world.now)


@pytest.mark.parametrize("give_back", [give_up, end_sooner, begin_later])
def test_a_home_that_comes_free_although_no_gpu_does_is_looked_at(
    give_back: Callable[[World, Lease], None],
) -> None:
    """Its workstation has lost its GPUs, which were shown to the line then."""
    world, _key = a_world(gpus=2)
    own = book(world, world.ada, with_home=True)
    gpus = list(own.holds.values_list("gpu", flat=True))
    entry = join(world, with_home=True, start=2)
    with transaction.atomic():
        holds.delay(own, gpus, None)
    assert not own.holds.exists()
    for _tick in range(3):
        world.tick()
    entry.refresh_from_db()
    assert (offered(entry), entry.fresh) == (None, False)
    give_back(world, own)
    world.tick()
    assert offered(entry) is not None


def test_nothing_is_offered_while_another_workstation_has_the_home() -> None:
    world, _key = a_world(gpus=2)
    free, other = book(world), book(world)
    own = join(world, with_home=True, hours=6)
    end(world, other)
    offer = offered(own)
    assert offer is not None
    second = join(world, with_home=True, hours=6, deadline=10)
    end(world, free)
    assert offered(second) is None
    assert outlook(second, now=world.now).free_from == offer.ends_at


def test_what_each_in_line_waits_for_is_found_for_many_with_as_few_statements_as_for_one(
    django_assert_num_queries: Any,
) -> None:
    """Entries of several people, some with a home volume, some with a device, who let something pass."""
    world, _key = a_world(gpus=8)
    there = world.host.row
    tablets = [UsbDevice.objects.create(host=there, usb_id="056a:0357", port=f"1-{n}") for n in range(3)]
    people = [Person.objects.create(username=f"p{n}", email=f"p{n}@example.org") for n in range(3)]
    entries = []
    for number, person in enumerate(people):
        first = timedelta(hours=number)
        base: dict[str, Any] = {
            "tenant": world.studio, "owner": person, "flavor": world.flavor, "image": world.image,
        }  # fmt: skip
        booked = book(world, start=1 + number, hours=2, usb=[tablets[number].pk])
        home = book(world, world.ada, start=5 + number, hours=2)
        Lease.objects.filter(pk=home.pk).update(owner=person, with_home=True)
        for wanted in ({"with_home": True}, {}, {"with_home": True}):
            entry = WaitlistEntry.objects.create(
                **base, **wanted, duration=HOUR, earliest_at=world.now, last_start_at=world.now + 20 * HOUR,
                joined_at=world.now, rank_at=world.now + first, passes=1,
            )  # fmt: skip
            if not wanted:
                entry.devices.set([tablets[number]])
            entries.append((entry, home if wanted else booked))
    # The line with its devices and their hosts; what was let pass; home volumes, and devices, in use.
    with django_assert_num_queries(3 + 1 + 2):
        found = {entry.pk: wish for entry, wish in wishes(line(), now=world.now)}
    assert len(found) == len(entries) == 9
    for entry, lease in entries:
        around = [span for span in found[entry.pk].apart if span.ends > micros(world.now)]
        (one,) = around
        assert one.starts <= micros(lease.starts_at) < micros(lease.ends_at) <= one.ends
        ((_same, alone),) = wishes(line().filter(pk=entry.pk), now=world.now)
        assert alone == found[entry.pk]


def test_for_the_first_in_line_only_gpus_are_kept_that_can_have_the_home() -> None:
    world, _key = a_world(gpus=1)
    book(world)
    book(world, start=14, hours=4)
    a_plain_host(world)
    book(world)
    entry = join(world, with_home=True, hours=8, deadline=20)
    world.tick()
    entry.refresh_from_db()
    assert entry.kept_from is not None
    assert {gpu.host.name for gpu in entry.kept_gpus.select_related("host")} == {"hv1"}
    assert run_checks(world.now) == []


def test_who_waits_for_a_snapshot_begins_with_it_and_waits_no_more_when_it_is_removed() -> None:
    world, _key = a_world(gpus=1)
    snapshot = a_kept_one(world)
    taken = book(world, start=1)
    first = join(world, snapshot=snapshot, hours=4)
    world.now += timedelta(seconds=1)
    second = join(world, snapshot=snapshot, hours=8)
    end(world, taken)
    offer = offered(first)
    assert offer is not None
    assert offer.snapshot == snapshot
    claimed = claim_offer(actor=world.actor(world.ada), entry_id=first.pk, now=world.now)
    assert claimed.snapshot == snapshot
    assert told_as_it_was_claimed()["snapshot"] == str(snapshot.pk)
    end_lease(actor=world.actor(world.ada), lease_id=claimed.pk, now=world.now)
    remove_snapshot(actor=world.actor(world.ada), snapshot_id=snapshot.pk, now=world.now)
    world.tick()
    for entry in (first, second):
        entry.refresh_from_db()
    told = Lease.objects.filter(entry=second, state="offered")
    assert (first.outcome, second.outcome, told.exists()) == ("served", "withdrawn", False)
    assert second.outcome_reason == because("wait-no-snapshot")
    assert Snapshot.objects.get().state == "removing"


def test_a_snapshot_of_another_image_is_refused_in_line_too() -> None:
    world, _key = a_world(gpus=1)
    snapshot = a_kept_one(world)
    book(world, start=1)
    Snapshot.objects.filter(pk=snapshot.pk).update(state="removing")
    with pytest.raises(InvalidRequest, match="no such snapshot"):
        join(world, snapshot=snapshot)


def test_a_home_that_is_removed_may_be_made_anew_anywhere() -> None:
    world, key = a_world(gpus=1)
    lease = book(world, world.ada, with_home=True, start=0, hours=2)
    world.start(lease)
    end_and_release(world, lease)
    taken = book(world)
    give_pool(a_plain_host(world), "other", key)
    entry = join(world, with_home=True)
    world.tick()
    assert offered(entry) is None
    remove_volume(actor=world.actor(world.ada), volume_id=HomeVolume.objects.get().pk, now=world.now)
    world.tick()
    offer = offered(entry)
    assert offer is not None
    assert host_of(offer) == "hv2" != host_of(taken)


def test_it_is_extended_until_the_next_workstation_with_its_home_at_most() -> None:
    world, _key = a_world(gpus=2)
    lease = book(world, world.ada, with_home=True, start=1, hours=4)
    following = book(world, world.ada, with_home=True, start=7, hours=4)
    limit = extension_limit(lease, now=world.now)
    assert (limit.until, limit.home, limit.taken) == (following.starts_at, True, False)
    extend: dict[str, Any] = {"actor": world.actor(world.ada), "lease_id": lease.pk, "now": world.now}
    with pytest.raises(NothingFree, match="then another workstation has its home volume"):
        change_end(**extend, ends_at=following.starts_at + HOUR)
    assert change_end(**extend, ends_at=following.starts_at).ends_at == following.starts_at
    assert not extension_limit(following, now=world.now).home


def test_nobody_waits_with_a_home_where_no_host_keeps_home_volumes() -> None:
    world = World(gpus=1)
    book(world)
    with pytest.raises(InvalidRequest, match="keeps home volumes"):
        join(world, with_home=True)
    give_pool(world.host, "studio", PrivateKey.generate())
    assert join(world, with_home=True).with_home
