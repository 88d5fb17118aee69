"""Who sees which leases and tenants: the database answers as the rules do, said again in Python."""

from __future__ import annotations

import random
from itertools import product

import pytest
from django.contrib.auth.models import Group, Permission

from leasing import policy
from leasing.models import (
    HandOver,
    Lease,
    Person,
    Share,
    Tenant,
    TenantGroupPermission,
    TenantPersonPermission,
)
from tests.domain.ground import NOW, Ground

OPEN = ("requested", "scheduled", "provisioning", "active", "releasing", "offered")
OUTCOMES = ("completed", "cancelled", "passed", "withdrawn")
STATES = [*((state, "") for state in OPEN), *(("ended", outcome) for outcome in OUTCOMES)]


class House:
    """Five people, of whom two are a group and the last is locked out; roles, shares and offers by dice."""

    def __init__(self, ground: Ground, dice: random.Random) -> None:
        self.tenants = [Tenant.objects.create(slug=f"t{n}", name=f"T{9 - n}") for n in range(3)]
        self.people = [
            Person.objects.create(username=f"p{n}", email=f"p{n}@example.org", is_active=n < 4)
            for n in range(5)
        ]
        self.roles: set[tuple[Person, Tenant, str]] = set()
        self._grant(dice)
        self.leases = [self._lease(ground, *one) for one in product(self.people, self.tenants, STATES)]
        running = [lease for lease in self.leases if lease.state in ("provisioning", "active")]
        shared = {*dice.sample(running, 24), *dice.sample(self.leases, 26)}
        chosen = [lease for lease in self.leases if lease in shared]
        self.shared = {lease.pk: dice.choice(self.people) for lease in dice.sample(chosen, len(chosen))}
        self.offered = {lease.pk: dice.choice(self.people) for lease in dice.sample(self.leases, 50)}
        for number, (pk, who) in enumerate(self.shared.items()):
            closed_at = None if number < 30 else NOW
            Share.objects.create(
                lease_id=pk, person=who, shared_by=who, level="view", shared_at=NOW, closed_at=closed_at
            )
        for number, (pk, who) in enumerate(self.offered.items()):
            decided = {} if number < 40 else {"state": "declined", "decided_at": NOW}
            HandOver.objects.create(lease_id=pk, giver=who, taker=who, offered_at=NOW, **decided)
        self.shared = dict(list(self.shared.items())[:30])
        self.offered = dict(list(self.offered.items())[:40])

    def sees(self, who: Person, lease: Lease) -> bool:
        """What is said of policy.visible_leases."""
        if not who.is_active or lease.state == "offered" or lease.outcome in ("passed", "withdrawn"):
            return False
        member = self.has(who, lease.tenant, "member")
        shared = self.shared.get(lease.pk) == who and lease.state in ("provisioning", "active")
        concerned = lease.owner == who or shared or self.offered.get(lease.pk) == who
        return (member and concerned) or self.has(who, lease.tenant, "approver")

    def has(self, who: Person, tenant: Tenant, role: str) -> bool:
        return who.is_active and (who, tenant, role) in self.roles

    def _grant(self, dice: random.Random) -> None:
        group = Group.objects.create(name="together")
        group.user_set.add(*self.people[2:4])
        for tenant, role in product(self.tenants, policy.ROLES):
            permission = Permission.objects.get(content_type__model="tenant", codename=role)
            granted = {"content_object": tenant, "permission": permission}
            for who in self.people:
                if dice.random() < 0.3:
                    TenantPersonPermission.objects.create(user=who, **granted)
                    self.roles.add((who, tenant, role))
            if dice.random() < 0.3:
                TenantGroupPermission.objects.create(group=group, **granted)
                self.roles |= {(who, tenant, role) for who in self.people[2:4]}

    def _lease(self, ground: Ground, owner: Person, tenant: Tenant, state: tuple[str, str]) -> Lease:
        waits = {"entry": ground.waiting(), "decide_by": NOW} if state[0] == "offered" else {}
        return ground.lease(owner=owner, tenant=tenant, state=state[0], outcome=state[1], **waits)


@pytest.mark.parametrize("seed", range(4))
def test_everybody_sees_what_the_rules_say(ground: Ground, seed: int) -> None:
    house = House(ground, random.Random(seed))
    for who in house.people:
        expected = {lease.pk for lease in house.leases if house.sees(who, lease)}
        led = [tenant for tenant in house.tenants if house.has(who, tenant, "approver")]
        assert pks(policy.visible_leases(who)) == pks(policy.visible_leases(who, led=led)) == expected
        own = {lease.pk for lease in house.leases if lease.owner == who}
        assert pks(policy.own_leases(who)) == expected & own
        roles = {
            tenant: {role for role in policy.ROLES if house.has(who, tenant, role)}
            for tenant in reversed(house.tenants)
        }
        assert list(policy.roles_of(who).items()) == [one for one in roles.items() if one[1]]
        for role in policy.ROLES:
            assert set(policy.tenants_with_role(who, role)) == {
                tenant for tenant in house.tenants if house.has(who, tenant, role)
            }


def test_auditors_see_all_that_was_ever_a_workstation(ground: Ground) -> None:
    house = House(ground, random.Random(5))
    auditor, locked_out = house.people[0], house.people[4]
    audits = Permission.objects.get(codename="audit_everything")
    locked_out.user_permissions.add(audits)
    auditors = Group.objects.create(name="auditors")
    auditors.permissions.add(audits)
    auditors.user_set.add(auditor)
    expected = {
        lease.pk
        for lease in house.leases
        if lease.state != "offered" and lease.outcome not in ("passed", "withdrawn")
    }
    assert pks(policy.visible_leases(auditor)) == expected
    own = {lease.pk for lease in house.leases if lease.owner == auditor}
    assert pks(policy.own_leases(auditor)) == expected & own
    assert pks(policy.visible_leases(locked_out)) == pks(policy.own_leases(locked_out)) == set()


def pks(leases: object) -> set[object]:
    return set(leases.values_list("pk", flat=True))  # type: ignore[attr-defined]
