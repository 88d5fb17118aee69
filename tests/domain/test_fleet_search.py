"""What the fleet page counts, finds and shows, on rows of which each differs in one thing."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from hosts.models import FoundCard, Gpu, Host, HostCheckUp
from leasing.fleet_search import ATTENTION, count_gpus, count_hosts, find_hosts, gpus_with_next_hold
from leasing.maintenance.service import open_closures
from leasing.maintenance.standing import standings_of
from leasing.models import Closure, Hold
from leasing.packing import room_now
from leasing.states.gpu import BOOKABLE, GpuState
from leasing.timing import HOST_SILENT_AFTER
from tests.domain.ground import NOW, Ground

HOUR, MOMENT = timedelta(hours=1), timedelta(microseconds=1)


def host(name: str, **facts: Any) -> Host:
    """In touch, unless something else is said."""
    number = Host.objects.count()
    keys = {"signing_key": f"{number:064x}", "key_id": f"{number:016x}", "sealing_key": "00" * 32}
    return Host.objects.create(name=name, account=name, **{"last_seen_at": NOW, **keys, **facts})


def gpu(ground: Ground, on: Host, *, state: str = "clean", slot: int = 1) -> Gpu:
    return Gpu.objects.create(
        host=on,
        model=ground.model,
        address=f"0000:{slot:02x}:00.0",
        state=state,
        state_since=NOW,
        share_vcpus=1,
        share_memory_mib=1,
        share_disk_gib=1,
    )


def card(on: Host, *, slot: int = 1, gone_at: datetime | None = None) -> FoundCard:
    return FoundCard.objects.create(
        host=on, address=f"0000:{slot:02x}:00.0", memory_mib=1, first_seen_at=NOW, gone_at=gone_at
    )


def hold(ground: Ground, of: Gpu, starts: float, ends: float, **facts: Any) -> Hold:
    """From and until so many hours from now."""
    window = {"starts_at": NOW + starts * HOUR, "ends_at": NOW + ends * HOUR}
    return Hold.objects.create(lease=ground.lease(**window, **facts), gpu=of, **window)


@pytest.fixture
def fleet(ground: Ground) -> Ground:
    """Beside the ground's host: an orderly one, and one for each thing that can be the matter."""
    Host.objects.filter(pk=ground.host.pk).update(last_seen_at=NOW)
    for slot, state in enumerate(BOOKABLE, 1):
        gpu(ground, host(f"orderly-{state}"), state=state, slot=slot)
    orderly = Host.objects.get(name="orderly-clean")
    card(orderly, slot=int(orderly.gpus.get().address[5:7], 16))
    card(orderly, slot=9, gone_at=NOW)
    HostCheckUp.objects.create(host=orderly, taken_at=NOW, simulated=False, failed=0, warned=3)
    host("barely-heard", last_seen_at=NOW - HOST_SILENT_AFTER + MOMENT)
    host("silent", last_seen_at=NOW - HOST_SILENT_AFTER)
    host("never-heard", last_seen_at=None)
    for state in (GpuState.QUARANTINED, GpuState.MAINTENANCE, GpuState.MISSING):
        gpu(ground, host(state.value), state=state)
    HostCheckUp.objects.create(host=host("failing"), taken_at=NOW, simulated=False, failed=1)
    undecided = host("undecided")
    gpu(ground, undecided, slot=1)
    card(undecided, slot=2)
    gpu(ground, host("retired", last_seen_at=None, retired_at=NOW), state="missing")
    return ground


ODD = ["failing", "maintenance", "missing", "never-heard", "quarantined", "silent", "undecided"]


def found(**asked: str) -> list[str]:
    return [one.name for one in find_hosts(now=NOW, **asked)]


def test_each_thing_that_is_the_matter_calls_for_attention_and_nothing_else(fleet: Ground) -> None:
    assert found(show=ATTENTION) == ODD
    everything = found()
    assert set(everything) == set(Host.objects.exclude(name="retired").values_list("name", flat=True))
    assert everything == sorted(everything)
    assert count_hosts(now=NOW) == (len(everything), len(ODD))


def test_hosts_are_found_by_a_part_of_their_name_and_by_the_state_of_a_gpu(fleet: Ground) -> None:
    assert found(name="HEARD") == ["barely-heard", "never-heard"]
    assert found(name="heard", show=ATTENTION) == ["never-heard"]
    assert found(show="missing") == ["missing"]
    assert found(show="clean") == ["orderly-clean", "undecided"]
    assert found(show="dirty", name="hv") == ["hv1"]


def test_gpus_are_counted_by_state(fleet: Ground) -> None:
    assert count_gpus() == {
        "clean": 2, "leased": 1, "dirty": 3, "scrubbing": 1, "quarantined": 1, "maintenance": 1, "missing": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("holds", "next_one"),
    [
        ([], None),
        ([(-5, -4), (-3, 0)], None),
        ([(-5, -4), (-3, 2), (2, 4)], (-3, 2)),
        ([(-5, -4), (0, 1), (2, 4)], (0, 1)),
        ([(-5, -4), (-3, -2), (1, 2), (3, 4)], (1, 2)),
        ([(3, 4), (1, 2)], (1, 2)),
    ],
)
def test_the_hold_in_force_is_shown_or_else_the_next_one(
    ground: Ground, holds: list[tuple[float, float]], next_one: tuple[float, float] | None
) -> None:
    hold(ground, ground.other_gpu, -1, 1)
    for starts, ends in holds:
        hold(ground, ground.gpu, starts, ends)
    shown = gpus_with_next_hold(now=NOW).get(pk=ground.gpu.pk)
    expected = (None, None) if next_one is None else tuple(NOW + hours * HOUR for hours in next_one)
    assert (shown.next_starts_at, shown.next_ends_at) == expected  # type: ignore[attr-defined]


def test_what_is_free_now_is_what_nobody_has_or_holds_and_nothing_closes(ground: Ground) -> None:
    Gpu.objects.update(state="clean")
    spots = [gpu(ground, host(f"h{number}"), slot=number) for number in range(1, 8)]
    before, during, after, leased, closed, host_closed, out = spots
    hold(ground, before, -9, -8)
    hold(ground, before, -3, 0)
    hold(ground, during, -9, -8)
    hold(ground, during, 0, 1)
    hold(ground, after, 1, 2)
    Gpu.objects.filter(pk=leased.pk).update(state="leased")
    Gpu.objects.filter(pk=out.pk).update(state="maintenance")
    close(closed.host, closed, -1, None)
    close(host_closed.host, None, 0, 1)
    close(before.host, None, 1, 2)
    close(after.host, None, -2, 0)
    (room,) = room_now([ground.model], now=NOW)
    assert (room.gpus, room.free, room.hosts, room.free_hosts, room.largest) == (9, 4, 8, 3, 2)


def close(at: Host, what: Gpu | None, starts: float, ends: float | None) -> Closure:
    return Closure.objects.create(
        host=at,
        gpu=what,
        starts_at=NOW + starts * HOUR,
        ends_at=None if ends is None else NOW + ends * HOUR,
        created_at=NOW,
    )


def test_how_closures_stand_is_asked_at_once(ground: Ground, django_assert_num_queries: Any) -> None:
    elsewhere = host("elsewhere")
    hold(ground, gpu(ground, elsewhere), -1, 9)
    hold(ground, ground.gpu, -3, -2)
    hold(ground, ground.gpu, -2, 3)
    hold(ground, ground.gpu, 3, 5)
    hold(ground, ground.gpu, 5, 7, state="ended", outcome="completed")
    both = hold(ground, ground.other_gpu, 3, 6)
    Hold.objects.create(lease=both.lease, gpu=ground.gpu, starts_at=NOW + 7 * HOUR, ends_at=NOW + 8 * HOUR)
    closures = [
        close(ground.host, None, -9, 5),
        close(ground.host, ground.gpu, 3, None),
        close(ground.host, ground.other_gpu, 1, 3),
        close(ground.host, None, -9, -1),
    ]
    with django_assert_num_queries(1):
        standings = standings_of(open_closures(now=NOW).filter(host=ground.host), now=NOW)
    shown = {one.closure.pk: (one.in_force, one.leases, one.empties_at) for one in standings}
    assert shown == {
        closures[0].pk: (True, 3, NOW + 6 * HOUR),
        closures[1].pk: (False, 2, NOW + 8 * HOUR),
        closures[2].pk: (False, 0, None),
    }
