"""The real bus with cards that can be divided: virtual functions, vGPUs, and vGPUs that MIG backs.

None of it was tried on a vendor's card. What the host cannot see of a slice it does not claim: the memory of
a vGPU has no window here, so nothing proves one clean (docs/adr/0040-slices-of-a-card.md).
"""

from __future__ import annotations

import errno
import time
from collections.abc import Collection, Iterator
from contextlib import _GeneratorContextManager
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid5

from lxml import etree

from hosts.agent.bus import (
    BusError,
    Card,
    CardBusy,
    CardMissing,
    MemoryWindow,
    Registers,
    ResetFailed,
    ResetRung,
    Slice,
    divided_into,
)
from hosts.agent.fragments import hostdevs, mediated_device, root_port
from hosts.agent.holders import group_holders, holders
from hosts.agent.partitions import (
    CURRENT_TYPE,
    VF,
    Vgpu,
    carries_vgpus,
    create_file,
    describe,
    free_carriers,
    is_mediated_type,
    part_of,
    read_profiles,
    read_slices,
    read_vgpus,
    vgpus_on,
)
from hosts.agent.pci import PciFunction
from hosts.agent.sysfs import Kernel, SysfsBus
from hosts.protocol.messages import Fingerprint, SlicePart, SliceProfile

STALE_SECONDS, STALE_POLL_SECONDS = 10.0, 0.5
# So that a vGPU is called the same each time that it is made.
_NAMES = UUID("6f4e2a1c-6f5b-4e0d-9a53-7d1c5a7e0b1e")


class SlicingBus(SysfsBus):
    """A PciBus over the files of a host, slices included."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        kernel: Kernel | None = None,
        accepted_risks: Collection[str] = (),
    ) -> None:
        super().__init__(root, kernel=kernel, accepted_risks=accepted_risks)
        # As they were offered: once all of a kind are made, no file tells of it any more.
        self._known: dict[tuple[str, str], SliceProfile] = {}

    def cards(self, *, without: Collection[str] = ()) -> tuple[Card, ...]:
        found = {card.address: card for card in super().cards(without=without)}
        for vgpu in self._mediated():
            if vgpu.address not in {*without, *self.hanging()}:
                found[vgpu.address] = self._vgpu_card(vgpu)
        return tuple(card for _, card in sorted(found.items()))

    def card(self, address: str) -> Card:
        vgpu = self._vgpu(address)
        if vgpu is None:
            return super().card(address)
        self._hanging.refuse(vgpu.parent)
        return self._vgpu_card(vgpu)

    def slices(self, card: Card) -> tuple[Slice, ...]:
        self._hanging.refuse(card.address)
        return read_slices(self._whole(card))

    def divide(self, card: Card, profile: str, count: int) -> None:
        display = self._whole(card)
        if read_slices(display):
            raise BusError(f"{card.address} is divided already.")
        self._give_to_host(display)
        if profile == VF:
            self._make_functions(display, count)
            return
        if display.number("sriov_totalvfs") and not display.number("sriov_numvfs"):
            self._switch_functions(display, on=True)
        for index in range(count):
            self._make_vgpu(display, profile, index, count)

    def undivide(self, card: Card) -> None:
        """CardBusy if somebody has a slice open: the kernel would wait for them, and nothing ends that."""
        display = self._whole(card)
        vgpus = read_vgpus(display)
        mediated = [PciFunction(vgpu.path) for vgpu in vgpus if vgpu.is_mediated]
        if found := group_holders(self._tree.root, [*mediated, *display.virtual_functions()]):
            raise CardBusy(f"{card.address} stays divided: {', '.join(found)} has a slice of it open.")
        for vgpu in vgpus:
            self._remove(card, vgpu)
        if not display.number("sriov_numvfs"):
            return
        if vgpus or any(carries_vgpus(each) for each in display.virtual_functions()):
            self._switch_functions(display, on=False)
        else:
            self._write(card.address, [(display.path / "sriov_numvfs", "0")])

    def host_drivers(self, address: str) -> tuple[str, ...]:
        """A vGPU is in the hands of its maker's driver, as it has to be."""
        return () if self._vgpu(address) else super().host_drivers(address)

    def incarnation(self, address: str) -> str:
        vgpu = self._vgpu(address)
        return PciFunction(vgpu.path).incarnation if vgpu else super().incarnation(address)

    def dead_because(self, card: Card) -> str:
        if not _is_vgpu(card):
            return super().dead_because(card)
        vgpu = self._vgpu(card.address)
        if vgpu is None:
            return "it is gone from the bus"
        with self._hanging.explained(vgpu.parent, BusError):
            return vgpu.carrier.dead_because

    def is_bound(self, card: Card) -> bool:
        return self._vgpu(card.address) is not None if _is_vgpu(card) else super().is_bound(card)

    def bind(self, card: Card) -> None:
        if not _is_vgpu(card):
            super().bind(card)
        elif refusal := self.card(card.address).refusal:
            raise BusError(f"{card.address} may not be leased. {refusal}")

    def holders(self, card: Card) -> tuple[str, ...]:
        if not _is_vgpu(card):
            return super().holders(card)
        vgpu = self._present(card)
        if not vgpu.is_mediated:  # its maker's driver has nodes that do not tell for which card they are open
            return ()
        return holders(self._tree.root, [PciFunction(vgpu.path)])

    def fingerprint(self, card: Card) -> Fingerprint:
        return self.card(card.address).fingerprint if _is_vgpu(card) else super().fingerprint(card)

    def reset_rungs(self, card: Card) -> tuple[ResetRung, ...]:
        if not _is_vgpu(card):
            return super().reset_rungs(card)
        return (ResetRung("vgpu-made-anew", "slice", lambda: self._make_anew(card)),)

    def gpu_fragments(self, card: Card, *, slot: int) -> list[etree._Element]:
        if not _is_vgpu(card):
            return super().gpu_fragments(card, slot=slot)
        if self._present(card).is_mediated:
            return [root_port(slot), mediated_device(card.address, slot=slot)]
        return [root_port(slot), *hostdevs(card.functions, slot=slot)]

    def memory(self, card: Card) -> _GeneratorContextManager[MemoryWindow]:
        if _is_vgpu(card):
            raise _no_window(card)
        return super().memory(card)

    def registers(self, card: Card) -> _GeneratorContextManager[Registers]:
        if _is_vgpu(card):
            raise _no_window(card)
        return super().registers(card)

    def _card(self, display: PciFunction) -> Card:
        if display.physical_function:
            return self._virtual_card(display)
        card, offered = super()._card(display), read_profiles(display)
        self._known.update({(display.address, profile.name): profile for profile in offered})
        if count := len(read_slices(display)):
            return replace(card, refusal=divided_into(count))
        if display.number("sriov_numvfs"):
            refusal = f"Its virtual functions are switched on. {card.refusal}".strip()
            return replace(card, profiles=offered, refusal=refusal)
        return replace(card, profiles=offered)

    def _virtual_card(self, function: PciFunction) -> Card:
        if vgpu := next((each for each in vgpus_on(function) if not each.is_mediated), None):
            return self._vgpu_card(vgpu)
        card = super()._card(function)
        if carries_vgpus(function):
            return replace(card, refusal="It is there to carry vGPUs, and is none itself.")
        part = SlicePart(parent=function.physical_function, kind="vf", profile=VF)
        return replace(card, part=part, name=f"{card.name}, virtual function")

    def _vgpu_card(self, vgpu: Vgpu) -> Card:
        known = self._known.get((vgpu.parent, vgpu.type_id))
        name, memory = describe(vgpu, known)
        carrier = vgpu.carrier
        return Card(
            address=vgpu.address,
            functions=(vgpu.address,),
            iommu_group=PciFunction(vgpu.path).group if vgpu.is_mediated else carrier.group,
            name=name,
            memory_bytes=memory,
            numa_node=carrier.numa_node,
            fingerprint=Fingerprint(
                vendor_device=carrier.ids, subsystem=carrier.subsystem, modes=f"vgpu={vgpu.type_id}"
            ),
            part=part_of(vgpu, known),
        )

    def _whole(self, card: Card) -> PciFunction:
        display = self._tree.function(card.address)
        if display is None:
            raise CardMissing(f"{card.address} is gone from the bus.")
        return display

    def _present(self, card: Card) -> Vgpu:
        vgpu = self._vgpu(card.address)
        if vgpu is None:
            raise CardMissing(f"The vGPU {card.address} is gone.")
        return vgpu

    def _vgpu(self, address: str) -> Vgpu | None:
        function = self._tree.function(address)
        if function is not None:
            return next((each for each in vgpus_on(function) if not each.is_mediated), None)
        return next((each for each in self._mediated() if each.address == address), None)

    def _mediated(self) -> Iterator[Vgpu]:
        for display in self._tree.displays():
            if display.address not in self.hanging():
                yield from (vgpu for vgpu in vgpus_on(display) if vgpu.is_mediated)

    def _give_to_host(self, display: PciFunction) -> None:
        """Only a driver of its own can divide a card, and vfio-pci is none."""
        if display.driver != "vfio-pci" and display.driver:
            return
        unbind = [(display.path / "driver/unbind", display.address)] if display.driver else []
        probe = (self._pci / "drivers_probe", display.address)
        self._write(display.address, [*unbind, (display.path / "driver_override", "\n"), probe])
        if not display.driver:
            raise BusError(f"No driver of this host takes {display.address}: it cannot be divided.")

    def _make_functions(self, display: PciFunction, count: int) -> None:
        """No driver of the host may take them before vfio-pci does."""
        most = display.number("sriov_totalvfs")
        if count > most:
            raise BusError(f"{display.address} has at most {most} virtual functions.")
        no_probe = display.path / "sriov_drivers_autoprobe"
        before = [(no_probe, "0")] if no_probe.exists() else []
        self._write(display.address, [*before, (display.path / "sriov_numvfs", str(count))])

    def _switch_functions(self, display: PciFunction, *, on: bool) -> None:
        """By the maker's own program: its driver has to be told."""
        with self._hanging.explained(display.address, BusError):
            self._kernel.switch_nvidia_functions(display.address, on=on)

    def _make_vgpu(self, display: PciFunction, type_id: str, index: int, count: int) -> None:
        carrier = next(free_carriers(display, type_id), None)
        if carrier is None:
            told = f"{index} of {count} vGPUs of type {type_id} were made on {display.address}"
            raise BusError(f"{told}; its driver allows no more. MIG-backed types need their GPU instances.")
        if is_mediated_type(carrier, type_id):
            name = uuid5(_NAMES, f"{display.address}/{index}")
            self._write(display.address, [(create_file(carrier, type_id), str(name))])
        else:
            self._write(display.address, [(carrier.path / CURRENT_TYPE, type_id)])

    def _remove(self, card: Card, vgpu: Vgpu) -> None:
        """One that is still busy may be so with a machine that has just stopped."""
        deadline = time.monotonic() + STALE_SECONDS
        while True:
            try:
                self._write(card.address, [self._removal(vgpu)])
                return
            except BusError as error:
                cause = error.__cause__
                is_busy = isinstance(cause, OSError) and cause.errno == errno.EBUSY
                if not is_busy or time.monotonic() > deadline:
                    raise
            time.sleep(STALE_POLL_SECONDS)

    def _removal(self, vgpu: Vgpu) -> tuple[Path, str]:
        if vgpu.is_mediated:
            return self._tree.mediated_devices / vgpu.address / "remove", "1"
        return vgpu.carrier.path / CURRENT_TYPE, "0"

    def _make_anew(self, card: Card) -> None:
        """What a vGPU has for a reset: its maker's driver starts a fresh one on the same function."""
        vgpu = self._present(card)
        if vgpu.is_mediated:
            again = (create_file(vgpu.carrier, vgpu.type_id), vgpu.address)
        else:
            again = (vgpu.carrier.path / CURRENT_TYPE, vgpu.type_id)
        self._write_reset(card, [self._removal(vgpu), again])
        if self._vgpu(card.address) is None:
            raise ResetFailed(f"The vGPU {card.address} did not come back.")


def _is_vgpu(card: Card) -> bool:
    return card.part is not None and card.part.kind != "vf"


def _no_window(card: Card) -> BusError:
    return BusError(
        f"The host cannot look into the memory of the vGPU {card.address}: nothing here proves it clean."
    )
