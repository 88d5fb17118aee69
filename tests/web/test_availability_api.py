"""The calendar of a pool over the API: named to those who may know, seamless and nameless to others."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from hosts.models import Gpu
from leasing.errors import NothingFree
from leasing.models import Closure, Hold, Lease, Person
from leasing.openings.upkeep import rebuild
from tests.web.conftest import SignIn
from tests.web.scenes import Scene

PATH = "/api/v1/availability/"


def asked(client: Client, **query: str) -> dict[str, Any]:
    answer = client.get(PATH, {"model": "a6000", **query})
    assert answer.status_code == 200, answer.content
    found: dict[str, Any] = json.loads(answer.content)
    return found


def leases_in(found: dict[str, Any]) -> set[str]:
    stretches = [one for host in found["hosts"] for gpu in host["gpus"] for one in gpu]
    return {one["lease"] for one in stretches if one["lease"]}


def test_own_leases_are_named_and_others_are_not(scene: Scene, sign_in: SignIn) -> None:
    found = asked(sign_in(scene.ada))
    own = {str(pk) for pk in Lease.objects.filter(owner=scene.ada).values_list("pk", flat=True)}
    assert leases_in(found) == {one["id"] for one in found["leases"]}
    assert str(scene.active.pk) in leases_in(found) <= own
    assert {one["page"] for one in found["leases"]} == {f"/workstations/{pk}/" for pk in leases_in(found)}
    kinds = {one["kind"] for host in found["hosts"] for gpu in host["gpus"] for one in gpu}
    assert kinds == {"lease", "lead", "turnaround", "busy", "out-of-service"}


def test_a_stranger_learns_nothing_of_leases_hosts_and_gpus(scene: Scene, sign_in: SignIn) -> None:
    text = json.dumps(asked(sign_in(scene.bob)))
    for lease in Lease.objects.exclude(owner=scene.bob):
        assert str(lease.pk) not in text
        assert lease.machine_name not in text
    for secret in (scene.host.row.name, *Gpu.objects.values_list("address", flat=True)):
        assert secret not in text
    assert '"tenant": "studio"' not in text
    assert not [pk for pk in Gpu.objects.values_list("pk", flat=True) if str(pk) in text]


def test_two_strangers_on_one_gpu_look_like_one(scene: Scene, sign_in: SignIn) -> None:
    held = scene.theirs.holds.get()
    lease = Lease.objects.exclude(pk=scene.theirs.pk).filter(holds=None).latest("requested_at")
    then = held.ends_at + timedelta(hours=2)
    Hold.objects.create(lease=lease, gpu=held.gpu, starts_at=held.ends_at, ends_at=then)
    found = asked(sign_in(scene.finance))
    (busy,) = [
        one
        for host in found["hosts"]
        for gpu in host["gpus"]
        for one in gpu
        if one["kind"] == "busy" and one["ends_at"][:19] == f"{then:%Y-%m-%dT%H:%M:%S}"
    ]
    assert busy["lease"] is None
    assert busy["starts_at"] < f"{held.ends_at:%Y-%m-%dT%H:%M:%S}"


def test_those_who_read_the_fleet_read_its_names(scene: Scene, sign_in: SignIn) -> None:
    (host,) = asked(sign_in(scene.operator))["hosts"]
    assert (host["number"], host["name"]) == (1, scene.host.row.name)
    assert leases_in(asked(sign_in(scene.auditor))) > leases_in(asked(sign_in(scene.approver)))


def test_a_flavor_says_when_it_could_be_had(scene: Scene, sign_in: SignIn) -> None:
    client = sign_in(scene.ada)
    tomorrow = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=1)
    day = {"since": f"{tomorrow:%FT00:00:00Z}", "until": f"{tomorrow:%FT12:00:00Z}", "step_seconds": "21600"}
    Hold.objects.all().delete()
    Closure.objects.create(
        host=scene.host.row,
        starts_at=tomorrow.replace(hour=3),
        ends_at=tomorrow.replace(hour=5),
        created_at=scene.now,
    )
    rebuild(scene.host.row.pk)
    assert asked(client, **day)["hosts"][0]["leasable"] == []
    found = asked(client, flavor="studio", **day)
    assert [step["leasable"] for step in found["steps"]] == [False, True]
    first, second = found["hosts"][0]["leasable"]
    assert first["ends_at"] < f"{tomorrow:%FT03:00}" < f"{tomorrow:%FT05:00}" < second["starts_at"]
    assert (found["steps"][0]["free_least"], found["steps"][0]["unavailable"]) == (0, 6)


WRONG = {
    "no model": ({"model": ""}, 400),
    "unknown model": ({"model": "none"}, 404),
    "flavor of another model": ({"flavor": "train"}, 400),
    "ends before it begins": ({"since": "2026-03-02T00:00:00Z", "until": "2026-03-01T00:00:00Z"}, 400),
    "too long": ({"since": "2026-03-02T00:00:00Z", "until": "2026-06-01T00:00:00Z"}, 400),
    "too many steps": ({"step_seconds": "60"}, 400),
    "half a minute": ({"step_seconds": "90"}, 400),
    "too many hosts": ({"limit": "21"}, 400),
    "not a time": ({"since": "soon"}, 400),
    "the last moment": ({"since": "2099-12-31T23:59:59Z"}, 200),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_questions_are_answered_with_what_is_wrong(scene: Scene, sign_in: SignIn, case: str) -> None:
    query, status = WRONG[case]
    answer = sign_in(scene.ada).get(PATH, {"model": "a6000", **query})
    assert answer.status_code == status, answer.content


def test_a_model_that_is_not_on_offer_is_for_readers_of_the_fleet(scene: Scene, sign_in: SignIn) -> None:
    scene.flavor.offered = False
    scene.flavor.save()
    assert sign_in(scene.ada).get(PATH, {"model": "a6000"}).status_code == 404
    assert sign_in(scene.operator).get(PATH, {"model": "a6000"}).status_code == 200


def test_who_is_in_no_team_sees_no_pool(scene: Scene, sign_in: SignIn) -> None:
    assert sign_in(scene.stranger).get(PATH, {"model": "a6000"}).status_code == 404
    client = sign_in(scene.ada)
    Person.objects.filter(pk=scene.ada.pk).update(is_active=False)
    assert client.get(PATH, {"model": "a6000"}).status_code == 401


def test_slots_say_how_long_one_could_be_had_and_which_of_ones_own_are_in_the_way(
    scene: Scene, sign_in: SignIn
) -> None:
    ada, start = sign_in(scene.ada), scene.now + timedelta(days=5)
    mine = []
    with suppress(NothingFree):
        while True:
            mine.append(scene.book(scene.ada, hours=4, start=timedelta(days=5)))
    query = {"flavor": scene.flavor.slug, "earliest": (start - timedelta(hours=6)).isoformat()}
    free = ada.get(reverse("api-slots"), query | {"duration_seconds": 3600}).json()
    longest = datetime.fromisoformat(free["longest_until"])
    assert start - timedelta(hours=2) < longest <= start
    assert free["own"] == []
    soon = {"duration_seconds": "3600", "deadline": (start - timedelta(hours=4)).isoformat()}
    by_then = ada.get(reverse("api-slots"), query | soon).json()["longest_until"]
    assert datetime.fromisoformat(by_then) == start - timedelta(hours=4)
    late = {"earliest": start.isoformat(), "deadline": (start + timedelta(hours=3)).isoformat()}
    taken = ada.get(reverse("api-slots"), query | late | {"duration_seconds": 3 * 3600}).json()
    assert (taken["slots"], taken["longest_until"]) == ([], None)
    assert set(taken["own"]) <= {str(lease.pk) for lease in mine}
    assert taken["own"]
    assert "own-workstations" in {one["code"] for one in taken["obstacles"]}
    theirs = sign_in(scene.bob).get(reverse("api-slots"), query | late | {"duration_seconds": 3 * 3600})
    assert theirs.json()["own"] == []
