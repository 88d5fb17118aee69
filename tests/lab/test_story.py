"""The main job on real VFIO, over HTTP: two teams, one GPU after the other, a liar, kills and a power cut.

The acts are fixtures, each built on the one before: every machine here takes most of a minute to start.
"""

from __future__ import annotations

import csv
import io
import struct
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from hosts.protocol.homes import POOL_MARK
from lab.host import HOST_PORT, WORLD, Found
from lab.hypervisor.base import ADDRESS, HOMES
from lab.hypervisor.machine import GPU_MEMORY_BYTES, PLAIN, SHARED, WITH_AUDIO, LabError
from lab.portal import HOME_GIB
from lab.seed import SECRET_OFFSET, SECRET_WORDS
from tests.lab import fault_injection as faults
from tests.lab.stage import FLAVOR, RELEASE_SECONDS, Stage
from tools.pace import slowness

pytestmark = pytest.mark.timeout(500)  # an act is charged to the first test that needs it

SECRET = struct.pack(f"<{len(SECRET_WORDS)}I", *SECRET_WORDS)
DANA, WEI, LIN = ("studio", "member"), ("research", "member"), ("research", "approver")
STUDIO_FINANCE, AUDITOR = ("studio", "finance"), ("", "auditor")
READY = "leasehold tenant ready"
START_SECONDS = 200.0 * slowness()
GUEST_SECONDS = 150.0 * slowness()
BOOT_SECONDS = 200.0 * slowness()


def test_the_gpu_in_a_shared_group_is_refused_with_the_reason(stage: Stage) -> None:
    cards = stage.host.cards()
    (card,) = SHARED.functions
    assert (
        f"Shares IOMMU group {cards[card]['iommu_group']} with {SHARED.others[0]}" in cards[card]["refusal"]
    )
    leasable = {address for address, found in cards.items() if not found["refusal"]}
    assert leasable == {PLAIN.functions[0], WITH_AUDIO.functions[0]} == set(cards) - {card}


def test_both_functions_of_a_card_with_audio_are_bound(stage: Stage) -> None:
    assert stage.gpu(WITH_AUDIO)["functions"] == list(WITH_AUDIO.functions)
    for function in WITH_AUDIO.functions:
        driver = stage.host.hypervisor.run(f"basename $(readlink /sys/bus/pci/devices/{function}/driver)")
        assert driver.strip() == "vfio-pci"


@dataclass
class FirstLease:
    """A's lease, after three accidents, and what its guest then printed."""

    lease: dict[str, Any]
    restarts: int
    starts_before_power_cut: int
    starts: int
    printed: str


@pytest.fixture(scope="module")
def first(stage: Stage) -> FirstLease:
    """The worker is killed at bind and at start; once the lease is active, the hypervisor loses its power."""
    faults.kill_worker_at(stage.host, "provision:bind:after")
    lease_id = stage.book(DANA)
    faults.wait_killed(stage.host, seconds=START_SECONDS)
    faults.kill_worker_at(stage.host, "provision:start:after")
    faults.wait_killed(stage.host, seconds=START_SECONDS)
    lease = stage.wait_state(lease_id, DANA, "active", seconds=START_SECONDS)
    restarts, starts = faults.restarts(stage.host), stage.starts_of(lease)
    stage.host.hypervisor.power_off_hard()
    stage.host.hypervisor.boot()
    stage.host.hypervisor.wait_booted(seconds=BOOT_SECONDS)
    earlier = stage.host.serial_log(lease_id).count(READY)
    stage.host.wait_printed(lease_id, READY, times=earlier + 1, seconds=START_SECONDS + GUEST_SECONDS)
    return FirstLease(
        lease=lease,
        restarts=restarts,
        starts_before_power_cut=starts,
        starts=stage.starts_of(lease),
        printed=stage.host.serial_log(lease_id),
    )


def test_a_worker_killed_at_bind_and_at_start_goes_on_and_starts_the_machine_once(first: FirstLease) -> None:
    assert first.restarts == 2
    assert first.starts_before_power_cut == 1


def test_after_a_power_cut_of_the_hypervisor_the_same_lease_and_machine_come_back(
    stage: Stage, first: FirstLease
) -> None:
    assert first.starts == 2
    lease = stage.lease(first.lease["id"], DANA)
    assert (lease["state"], lease["machine"]) == ("active", "running")
    assert lease["active_at"] == first.lease["active_at"]


def test_the_guest_sees_its_gpu_on_its_own_bus_and_writes_to_it(first: FirstLease) -> None:
    assert "class 0x038000 id 0x1234:0x1111" in first.printed
    assert f"leasehold wrote {SECRET_OFFSET:x} on 0000:01:00.0" in first.printed


@dataclass
class Cleaned:
    """What a look into the GPU's memory finds after A's lease."""

    found: Found
    restarts: int


@pytest.fixture(scope="module")
def cleaned(stage: Stage, first: FirstLease) -> Cleaned:
    """A's lease ends; the worker is killed in the middle of the scrub."""
    faults.kill_worker_at(stage.host, "scrub:fill:after")
    stage.end(first.lease["id"], DANA)
    faults.wait_killed(stage.host, seconds=RELEASE_SECONDS)
    stage.wait_gpu(WITH_AUDIO, "clean")
    return Cleaned(found=stage.host.search(WITH_AUDIO, SECRET), restarts=faults.restarts(stage.host))


def test_the_secret_is_gone_and_the_record_says_how_that_was_proven(
    stage: Stage, first: FirstLease, cleaned: Cleaned
) -> None:
    assert cleaned.found == Found(offset=None, bytes_not_zero=0)
    record = stage.scrub_of(first.lease["id"], DANA)
    assert record["passed"]
    evidence = record["evidence"]
    (bar,), witness = evidence["methods"], evidence["witness"]
    assert bar["reached_bytes"] == witness["read_bytes"] == GPU_MEMORY_BYTES
    assert (bar["proven"], witness["proven"], witness["coverage"]) == (True, True, "full")
    assert (witness["mismatches"], witness["canaries_found"], witness["canaries_refused"]) == (0, 0, 0)
    assert witness["canaries_planted"] == 128
    assert not evidence["simulated"]
    assert {reset["method"] for reset in evidence["resets"]} == {"vfio-hot-reset"}


def test_a_worker_killed_in_mid_scrub_scrubs_again_and_says_so(
    stage: Stage, first: FirstLease, cleaned: Cleaned
) -> None:
    assert cleaned.restarts == 1  # since the power cut
    assert stage.scrub_of(first.lease["id"], DANA)["evidence"]["fills"] == 2


@dataclass
class SecondLease:
    """B's lease on the same GPU, what its guest printed, and what the liar left behind.

    `pages` are what was read on its forwarded port from outside, while it ran and after it.
    """

    lease: dict[str, Any]
    printed: str
    found: Found
    pages: tuple[str, str]


@pytest.fixture(scope="module")
def second(stage: Stage, cleaned: Cleaned) -> SecondLease:
    """B asks, is approved, reads and writes, looks around; then a scrubber that lies is to clean up.

    B's home volume is attached, which the worker makes in a folder that its unit lets it write to.
    """
    stage.host.make_world()
    lease_id = stage.book(WEI, with_home=True)
    assert stage.lease(lease_id, WEI)["state"] == "requested"
    stage.lab.portal.call(f"leases/{lease_id}/approve/", LIN, {"note": "for the test"})
    running = stage.wait_state(lease_id, WEI, "active", seconds=START_SECONDS)
    stage.host.wait_printed(lease_id, READY, seconds=GUEST_SECONDS)
    stage.host.wait_printed(lease_id, "reach 169.254.169.254", seconds=GUEST_SECONDS)
    (forward,) = running["access"]["forwards"]
    page = stage.host.fetch_from_world(forward["port"])
    printed = stage.host.serial_log(lease_id)
    faults.trust_lying_scrubber(stage.lab.portal, model=FLAVOR)
    stage.end(lease_id, WEI)
    lease = stage.wait_state(lease_id, WEI, "ended", seconds=RELEASE_SECONDS)
    stage.wait_gpu(WITH_AUDIO, "quarantined")
    pages = page, stage.host.fetch_from_world(forward["port"])
    found = stage.host.search(WITH_AUDIO, SECRET)
    return SecondLease(lease=lease, printed=printed, found=found, pages=pages)


def test_the_next_team_reads_zeroes_on_the_same_gpu(first: FirstLease, second: SecondLease) -> None:
    zeroes = " ".join(["0x00000000"] * len(SECRET_WORDS))
    assert f"leasehold read {SECRET_OFFSET:x} {zeroes}" in second.printed
    assert second.lease["tenant"] != first.lease["tenant"]


def test_a_machine_reaches_the_world_and_neither_its_host_nor_the_broker_nor_metadata(
    second: SecondLease,
) -> None:
    reached = [line for line in second.printed.splitlines() if line.startswith("leasehold reaches")]
    refused = [line for line in second.printed.splitlines() if line.startswith("leasehold does not reach")]
    assert reached == [f"leasehold reaches {WORLD}:80"]
    assert len(refused) == 4
    assert f"leasehold does not reach {ADDRESS}:{HOST_PORT}" in refused
    assert any("reach 10.0.2.2:" in line for line in refused)


def test_who_is_outside_reaches_it_by_its_forwarded_port_until_it_ends(second: SecondLease) -> None:
    during, after = second.pages
    assert f"Welcome to {second.lease['machine_name']}" in during or "Welcome to tenant" in during
    assert after == ""


def test_a_home_volume_is_made_in_its_pool_attached_and_free_again_at_the_end(
    stage: Stage, second: SecondLease
) -> None:
    assert f"leasehold disk vda {HOME_GIB * 1024} MiB" in second.printed
    (home,) = stage.lab.portal.call("homes/", WEI)["results"]
    kept = set(stage.host.hypervisor.run(f"ls -A {HOMES}").split())
    assert kept == {POOL_MARK, f"{home['id']}.home.qcow2"}


def test_a_lying_scrubber_leaves_the_secret_and_is_caught_by_the_canaries(
    stage: Stage, second: SecondLease
) -> None:
    assert second.found.offset == SECRET_OFFSET
    record = stage.scrub_of(second.lease["id"], WEI)
    assert not record["passed"]
    assert [method["name"] for method in record["evidence"]["methods"]] == ["lying"]
    assert record["evidence"]["witness"]["canaries_found"] == 128
    assert any("canaries survived" in reason for reason in record["reasons"])


def test_a_gpu_that_a_liar_scrubbed_is_not_offered(stage: Stage, second: SecondLease) -> None:
    assert stage.gpu(WITH_AUDIO)["state"] == "quarantined"
    with pytest.raises(LabError, match=r": 4\d\d .*free"):
        stage.book(DANA)


def test_nothing_is_left_on_the_hypervisor(stage: Stage, second: SecondLease) -> None:
    run = stage.host.hypervisor.run
    assert run("virsh list --all --name").split() == []
    assert "qemu-system" not in run("ls -l /proc/[0-9]*/exe 2>/dev/null || true")
    assert run("find /var/lib/leasehold/disks /var/lib/leasehold/machines -type f").split() == []
    assert run("virsh net-list --all --name | grep leasehold || true").strip() == ""
    assert run("ip -o link | grep -c ' lh-' || true").strip() == "0"
    assert "elements" not in run("nft list set inet leasehold lanes")
    assert run("virsh secret-list | grep -c leasehold || true").strip() == "0"


def test_usage_to_the_second_is_in_the_csv(stage: Stage, first: FirstLease, second: SecondLease) -> None:
    lease = stage.lease(first.lease["id"], DANA)
    rows = list(csv.DictReader(io.StringIO(stage.lab.portal.call("usage/export/", STUDIO_FINANCE))))
    (row,) = [row for row in rows if row["lease"] == lease["id"]]
    lasted = datetime.fromisoformat(lease["stopped_at"]) - datetime.fromisoformat(lease["active_at"])
    assert abs(int(row["seconds"]) - lasted.total_seconds()) < 1
    assert row["tenant"] == "studio"
    assert second.lease["id"] not in {other["lease"] for other in rows}


def test_the_audit_log_tells_of_both_leases_and_verifies(
    stage: Stage, first: FirstLease, second: SecondLease
) -> None:
    for lease in (first.lease, second.lease):
        told = stage.lab.portal.call(f"audit/?subject=lease:{lease['id']}", AUDITOR)["results"]
        states = [entry["entry"]["detail"].get("to") for entry in reversed(told)]
        assert [state for state in states if state][-4:] == ["provisioning", "active", "releasing", "ended"]
    stage.lab.portal.manage("audit", "verify")


def test_every_invariant_holds(stage: Stage, second: SecondLease) -> None:
    stage.lab.portal.manage("fsck")
