"""What one look at the database finds for open pages: which leases, whether the fleet, and whose rights."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.contrib.auth.models import Group, Permission
from django.contrib.sessions.models import Session

from leasing.actors import SYSTEM
from leasing.audit.log import record
from leasing.ending import end_lease
from leasing.models import HandOver, ImageUpload, Lease, Person, Share
from leasing.policy import grant_role
from leasing.reasons import NONE, because
from portal.changes import Changes, Watch
from tests.web.scenes import Scene

pytestmark = pytest.mark.django_db


class Eyes:
    """Has looked twice, and found no change."""

    def __init__(self, *people: Person, keys: frozenset[str] = frozenset()) -> None:
        self.watch, self.keys = Watch(), keys
        self.people = frozenset(who.pk for who in people)
        self.look()
        assert self.look() == Changes(
            {}, frozenset(), fleet=False, lost=frozenset(), ended_sessions=frozenset()
        )

    def look(self) -> Changes:
        return self.watch.look(self.keys, self.people)

    def lost(self) -> set[UUID]:
        found = set(self.look().lost)
        assert not self.look().lost, "nobody is lost twice"
        return found


def share(lease: Lease, who: Person, **facts: Any) -> Share:
    asked = {"level": "view", "shared_by": lease.owner, "shared_at": lease.starts_at}
    return Share.objects.create(lease=lease, person=who, **asked, **facts)


def test_a_lease_is_told_of_with_whom_it_concerns(scene: Scene) -> None:
    share(scene.active, scene.bob)
    share(scene.active, scene.finance, closed_at=scene.now)
    share(scene.preparing, scene.bob)
    eyes = Eyes()
    record(action="test", actor=SYSTEM, subject=f"lease:{scene.active.pk}", now=scene.now)
    found = eyes.look()
    assert found.owners == {scene.active.pk: (scene.ada.pk, scene.studio.pk)}
    assert found.shares == {(scene.active.pk, scene.bob.pk)}
    assert not found.fleet


def test_what_moves_without_an_entry_is_seen(scene: Scene) -> None:
    eyes = Eyes()
    Lease.objects.filter(pk=scene.active.pk).update(machine="off")
    assert list(eyes.look().owners) == [scene.active.pk]
    soon, later = scene.now + timedelta(minutes=30), scene.now + timedelta(days=2)
    for starts_at, seen in ((soon, True), (later, False)):
        Lease.objects.filter(pk=scene.scheduled.pk).update(
            starts_at=starts_at, ends_at=starts_at + timedelta(hours=1), waiting_because=NONE
        )
        eyes = Eyes()
        Lease.objects.filter(pk=scene.scheduled.pk).update(waiting_because=because("host-silent", host="hv1"))
        assert (scene.scheduled.pk in eyes.look().owners) is seen


def test_evidence_is_told_to_the_page_of_its_lease(scene: Scene) -> None:
    scene.now = scene.until
    gpu = scene.active.holds.get().gpu
    end_lease(actor=scene.actor(scene.ada), lease_id=scene.active.pk, now=scene.now)
    scene.gone(scene.active)
    eyes = Eyes()
    scene.now += timedelta(seconds=20)
    scene.scrub(scene.host, gpu, lease=scene.active)
    found = eyes.look()
    assert scene.active.pk in found.owners
    assert found.fleet


def test_only_those_whose_rights_changed_are_lost(scene: Scene) -> None:
    eyes = Eyes(scene.ada, scene.bob)
    grant_role(actor=SYSTEM, person=scene.stranger, tenant=scene.studio, role="member", now=scene.now)
    assert eyes.lost() == set()
    grant_role(actor=SYSTEM, person=scene.ada, tenant=scene.studio, role="finance", now=scene.now)
    assert eyes.lost() == {scene.ada.pk}
    group = Group.objects.create(name="night shift")
    group.user_set.add(scene.bob)
    assert eyes.lost() == {scene.bob.pk}
    group.permissions.add(Permission.objects.get(codename="operate_fleet"))
    assert eyes.lost() == {scene.bob.pk}
    scene.ada.user_permissions.add(Permission.objects.get(codename="operate_fleet"))
    assert eyes.lost() == {scene.ada.pk}
    Person.objects.filter(pk=scene.bob.pk).update(is_active=False)
    assert eyes.lost() == {scene.bob.pk}


def test_shares_and_offers_are_rights_too(scene: Scene) -> None:
    eyes = Eyes(scene.ada, scene.bob)
    made = share(scene.active, scene.bob)
    assert eyes.lost() == {scene.bob.pk}
    Share.objects.filter(pk=made.pk).update(closed_at=scene.now)
    assert eyes.lost() == {scene.bob.pk}
    offer = HandOver.objects.create(
        lease=scene.active, giver=scene.ada, taker=scene.bob, offered_at=scene.now
    )
    assert eyes.lost() == {scene.bob.pk}
    HandOver.objects.filter(pk=offer.pk).update(state="asked")
    assert eyes.lost() == set()
    HandOver.objects.filter(pk=offer.pk).update(state="declined", decided_at=scene.now)
    assert eyes.lost() == {scene.bob.pk}


def test_who_began_to_watch_while_rights_changed_is_lost_to_be_safe(scene: Scene) -> None:
    eyes = Eyes(scene.ada)
    eyes.people |= {scene.bob.pk}
    grant_role(actor=SYSTEM, person=scene.stranger, tenant=scene.studio, role="member", now=scene.now)
    assert eyes.lost() == {scene.bob.pk}


def test_a_session_ends_when_it_is_gone_or_over(scene: Scene) -> None:
    keys = frozenset({"one", "two", "three"})
    for key in keys:
        Session.objects.create(session_key=key, expire_date=scene.until + timedelta(days=1))
    eyes = Eyes(keys=keys)
    Session.objects.filter(session_key="one").delete()
    Session.objects.filter(session_key="two").update(expire_date=scene.until - timedelta(days=1))
    assert eyes.look().ended_sessions == {"one", "two"}


def test_an_image_on_its_way_moves_the_fleets_page(scene: Scene) -> None:
    upload = ImageUpload.objects.create(
        file_name="disk.raw",
        format="raw",
        size=9,
        by=scene.operator,
        created_at=scene.now,
        changed_at=scene.now,
    )
    eyes = Eyes()
    ImageUpload.objects.filter(pk=upload.pk).update(received=5)
    found = eyes.look()
    assert found.fleet
    assert not found.owners
