"""The virtual hypervisor is what the other tests take it for: stock Debian with an IOMMU and three GPUs."""

from __future__ import annotations

import pytest

from lab.hypervisor import option_rom
from lab.hypervisor.base import CLAIMED, HUGE_PAGES
from lab.hypervisor.machine import (
    GPU_MEMORY_BYTES,
    PLAIN,
    SHARED,
    WITH_AUDIO,
    LabError,
    VirtualGpu,
    VirtualHypervisor,
)

pytestmark = pytest.mark.timeout(900)  # whoever comes first builds the image and boots it
DEVICES = "/sys/bus/pci/devices"
GPUS = [PLAIN, WITH_AUDIO, SHARED]
BRIDGE = "0000:03:00.0"


@pytest.mark.parametrize("gpu", GPUS, ids=["plain", "with audio", "shared"])
def test_a_gpu_shares_its_iommu_group_with_whom_it_should(
    hypervisor: VirtualHypervisor, gpu: VirtualGpu
) -> None:
    members = set(hypervisor.run(f"ls {DEVICES}/{gpu.functions[0]}/iommu_group/devices").split())
    assert members - {BRIDGE} == {*gpu.functions, *gpu.others}


@pytest.mark.parametrize("gpu", GPUS, ids=["plain", "with audio", "shared"])
def test_a_gpu_comes_up_on_the_hosts_driver(hypervisor: VirtualHypervisor, gpu: VirtualGpu) -> None:
    device = f"{DEVICES}/{gpu.functions[0]}"
    assert hypervisor.run(f"basename $(readlink {device}/driver)").strip() == "bochs-drm"
    start, end, _ = hypervisor.run(f"head -n 1 {device}/resource").split()
    assert int(end, 16) - int(start, 16) + 1 == GPU_MEMORY_BYTES


def test_what_debian_ships_for_libvirt_is_only_made_stricter(hypervisor: VirtualHypervisor) -> None:
    packages = (
        "libvirt-daemon libvirt-daemon-config-nwfilter libvirt-daemon-system libvirt-daemon-driver-qemu "
        "libvirt-clients systemd apparmor"
    )
    changed = hypervisor.run(f"dpkg --verify {packages} | grep -v /usr/share/ || true")
    assert {line.split()[-1] for line in changed.splitlines()} == {
        "/etc/apparmor/parser.conf",
        "/etc/libvirt/qemu.conf",
    }


def test_of_what_machines_read_the_role_adds_two_things(hypervisor: VirtualHypervisor) -> None:
    let = hypervisor.run("grep -v '^#' /etc/apparmor.d/local/abstractions/libvirt-qemu")
    assert let.split("\n") == [
        "/sys/devices/system/node/node[0-9]*/cpumap r,",
        f'"{option_rom.FILE}" r,',
        "",
    ]


def test_machines_are_confined_and_virtualised_as_in_production(hypervisor: VirtualHypervisor) -> None:
    capabilities = hypervisor.run("virsh capabilities")
    assert "<model>apparmor</model>" in capabilities
    assert "<domain type='kvm'/>" in capabilities


def test_a_machine_that_nothing_confines_is_refused(hypervisor: VirtualHypervisor) -> None:
    domain = (
        "<domain type='kvm'><name>unconfined</name><memory>8192</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os>"
        "<seclabel type='none' model='apparmor'/></domain>"
    )
    hypervisor.put("/root/unconfined.xml", domain.encode())
    refused = hypervisor.attempt("virsh create /root/unconfined.xml")
    assert refused.status
    assert "unconfined" in refused.errors.lower()


def test_the_roles_kernel_parameters_are_in_force(hypervisor: VirtualHypervisor) -> None:
    assert {"intel_iommu=on", "iommu=pt"} <= set(hypervisor.run("cat /proc/cmdline").split())


def test_cards_that_the_role_names_are_claimed_at_boot_and_huge_pages_set_aside(
    hypervisor: VirtualHypervisor,
) -> None:
    assert f"vfio_pci: add [{CLAIMED}" in hypervisor.run("dmesg")
    pages = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
    assert int(hypervisor.run(f"cat {pages}")) == HUGE_PAGES


def test_machines_disks_lie_on_the_device_that_the_role_names(hypervisor: VirtualHypervisor) -> None:
    told = hypervisor.run("findmnt --noheadings --output FSTYPE,OPTIONS --mountpoint /var/lib/leasehold")
    kind, options = told.split()
    assert kind == "ext4"
    assert {"rw", "nodev", "nosuid", "noexec"} <= set(options.split(","))


def test_a_file_is_carried_in_and_out_with_its_mode(hypervisor: VirtualHypervisor) -> None:
    data = bytes(range(256)) * 3000
    hypervisor.put("/root/carried", data, mode=0o600)
    assert hypervisor.get("/root/carried") == data
    assert hypervisor.run("stat -c %a /root/carried").strip() == "600"


def test_a_failing_command_says_why(hypervisor: VirtualHypervisor) -> None:
    with pytest.raises(LabError, match="No such file"):
        hypervisor.run("cat /nowhere")


def test_a_command_has_a_deadline_and_the_next_one_works(hypervisor: VirtualHypervisor) -> None:
    with pytest.raises(LabError, match="Still running"):
        hypervisor.run("sleep 30", seconds=1)
    assert hypervisor.run("echo alive").strip() == "alive"
