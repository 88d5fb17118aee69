"""How a card can be divided and how it is divided now, by the kernel's and the makers' files. Reads only.

Virtual functions of SR-IOV lie beside their card. A vGPU of NVIDIA's is made by a driver of the host: as a
mediated device (`mdev_supported_types` of the card or of its virtual functions), or, with newer drivers, on a
virtual function (`nvidia/current_vgpu_type`). One that is backed by MIG shows itself by its name alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hosts.agent import nvidia
from hosts.agent.bus import Slice
from hosts.agent.pci import PciFunction, read_text
from hosts.protocol.messages import SlicePart, SliceProfile
from hosts.protocol.slices import SliceKind

VF = "vf"
CURRENT_TYPE = "nvidia/current_vgpu_type"
_CREATABLE_TYPES = "nvidia/creatable_vgpu_types"
_MEDIATED_TYPES = "mdev_supported_types"
_NO_TYPE = ("", "0")
MIB, GIB = 1 << 20, 1 << 30
_FRAMEBUFFER = re.compile(r"framebuffer=(\d+)M")
# NVIDIA A40-4Q has 4 GiB; NVIDIA A100-1-5C has 5 GiB on one slice of MIG.
_SIZE_IN_NAME = re.compile(r"-(\d+-)?(\d+)[A-Z]")


@dataclass(frozen=True)
class Vgpu:
    """A vGPU: what it is called, the function that carries it, and the type that it was made by.

    `path` is another one each time that it is made; a mediated one has a folder of its own.
    """

    address: str
    carrier: PciFunction
    type_id: str
    path: Path

    @property
    def is_mediated(self) -> bool:
        return self.address != self.carrier.address

    @property
    def parent(self) -> str:
        """Address of the whole card."""
        return self.carrier.physical_function or self.carrier.address


def read_profiles(card: PciFunction) -> tuple[SliceProfile, ...]:
    """Ways in which the card can be divided now; those of vGPUs show only while its maker's driver has it."""
    found: dict[str, SliceProfile] = {}
    for carrier in _carriers(card):
        for one in (*_mediated_types(carrier), *_creatable_types(carrier)):
            most = one.most + (found[one.name].most if one.name in found else 0)
            found[one.name] = SliceProfile(
                name=one.name, kind=one.kind, title=one.title, most=most, memory_bytes=one.memory_bytes
            )
    total = card.number("sriov_totalvfs")
    if total and not nvidia.is_nvidia(card.ids):
        found[VF] = SliceProfile(name=VF, kind="vf", title="SR-IOV virtual function", most=total)
    return tuple(found.values())


def read_slices(card: PciFunction) -> tuple[Slice, ...]:
    """What the card is divided into now. A virtual function that waits for a vGPU is no slice yet."""
    made = [Slice(vgpu.address, vgpu.type_id) for vgpu in read_vgpus(card)]
    plain = [Slice(each.address, VF) for each in card.virtual_functions() if not carries_vgpus(each)]
    return (*made, *plain)


def read_vgpus(card: PciFunction) -> tuple[Vgpu, ...]:
    """Every vGPU of a whole card."""
    return tuple(vgpu for carrier in _carriers(card) for vgpu in vgpus_on(carrier))


def vgpus_on(carrier: PciFunction) -> Iterator[Vgpu]:
    """Those that one function carries."""
    for device in sorted(carrier.path.glob(f"{_MEDIATED_TYPES}/*/devices/*")):
        yield Vgpu(device.name, carrier, device.parent.parent.name, device)
    current = carrier.text(CURRENT_TYPE)
    if current not in _NO_TYPE:
        yield Vgpu(carrier.address, carrier, current, carrier.path)


def carries_vgpus(function: PciFunction) -> bool:
    """Whether vGPUs are made of it; it is then no slice by itself."""
    has_files = (function.path / CURRENT_TYPE).exists() or (function.path / _MEDIATED_TYPES).exists()
    return has_files or nvidia.is_nvidia(function.ids)


def free_carriers(card: PciFunction, type_id: str) -> Iterator[PciFunction]:
    """Functions on which one more vGPU of the type can be made, as the driver says at this moment."""
    for carrier in _carriers(card):
        if any(each.name == type_id and each.most for each in _mediated_types(carrier)) or (
            carrier.text(CURRENT_TYPE) == "0"
            and any(each.name == type_id for each in _creatable_types(carrier))
        ):
            yield carrier


def is_mediated_type(carrier: PciFunction, type_id: str) -> bool:
    return create_file(carrier, type_id).exists()


def create_file(carrier: PciFunction, type_id: str) -> Path:
    """Whoever writes a UUID there makes a mediated device of it."""
    return carrier.path / _MEDIATED_TYPES / type_id / "create"


def part_of(vgpu: Vgpu, known: SliceProfile | None) -> SlicePart:
    """`known` is the profile as it was offered, if that was seen."""
    kind = known.kind if known else _kind(_title_of(vgpu))
    return SlicePart(parent=vgpu.parent, kind=kind, profile=vgpu.type_id)


def describe(vgpu: Vgpu, known: SliceProfile | None) -> tuple[str, int]:
    """Its name, and its memory in bytes: 0 if neither its driver nor its name tells."""
    if known:
        return known.title, known.memory_bytes
    title = _title_of(vgpu)
    return title or f"vGPU of type {vgpu.type_id}", _memory_of(title, vgpu.path.parent.parent)


def _title_of(vgpu: Vgpu) -> str:
    return read_text(vgpu.path.parent.parent / "name") if vgpu.is_mediated else ""


def _carriers(card: PciFunction) -> list[PciFunction]:
    return [card, *card.virtual_functions()]


def _mediated_types(carrier: PciFunction) -> Iterator[SliceProfile]:
    for folder in sorted(carrier.path.glob(f"{_MEDIATED_TYPES}/*")):
        title = read_text(folder / "name") or folder.name
        yield SliceProfile(
            name=folder.name,
            kind=_kind(title),
            title=title[:200],
            most=int(read_text(folder / "available_instances") or "0"),
            memory_bytes=_memory_of(title, folder),
        )


def _creatable_types(carrier: PciFunction) -> Iterator[SliceProfile]:
    """Lines such as `592 : NVIDIA L4-1Q`, below a heading."""
    for line in carrier.text(_CREATABLE_TYPES).splitlines():
        number, _, title = (part.strip() for part in line.partition(":"))
        if number.isdigit():
            yield SliceProfile(
                name=number, kind=_kind(title), title=title[:200], most=1, memory_bytes=_size_in(title)
            )


def _kind(title: str) -> SliceKind:
    named = _SIZE_IN_NAME.search(title)
    return "mig-vgpu" if named and named[1] else "vgpu"


def _memory_of(title: str, folder: Path) -> int:
    described = _FRAMEBUFFER.search(read_text(folder / "description"))
    return int(described[1]) * MIB if described else _size_in(title)


def _size_in(title: str) -> int:
    named = _SIZE_IN_NAME.search(title)
    return int(named[2]) * GIB if named else 0
