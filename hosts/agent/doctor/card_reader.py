"""Reads what `doctor` judges about one card."""

from __future__ import annotations

from hosts.agent.doctor.facts import (
    CardFacts,
    FunctionFacts,
    Grounds,
    GroupFacts,
    Link,
    Neighbour,
    Window,
)
from hosts.agent.doctor.reader import Reader
from hosts.agent.pci import Bar, PciFunction, PciTree

VFIO_IDS = "vfio-pci ids="
_ROM_ROW = 6
_HEADER_START = 16
_SHADOW = 0x2  # IORESOURCE_ROM_SHADOW of Linux' include/linux/ioport.h


def read_grounds(tree: PciTree, card: list[PciFunction]) -> Grounds:
    """`card` are the card's functions, the display first."""
    display = card[0]
    ours = {function.address for function in card}
    numbers = sorted({function.group for function in card if function.group is not None})
    return Grounds(
        functions=tuple(_function(function) for function in card),
        groups=tuple(_group(tree, number, ours) for number in numbers),
        physical_function=display.physical_function,
        is_boot_display=display.text("boot_vga") == "1",
        has_bridge=any(function.bridge for function in card),
        unassigned_bars=any(not bar.assigned for function in card for bar in function.bars()),
        bars=tuple(_bar_told(function, bar) for function in card for bar in function.bars()),
    )


def read_card(tree: PciTree, card: list[PciFunction], *, holders: tuple[str, ...]) -> CardFacts:
    display = card[0]
    rom_bytes, is_shadow = _rom(display)
    return CardFacts(
        grounds=read_grounds(tree, card),
        holders=holders,
        claimed_by=_claimed_by(tree, card),
        window=_window(display),
        rom_bytes=rom_bytes,
        rom_is_shadow=is_shadow,
        numa_node=display.numa_node,
        link=_link(display, "current"),
        best_link=best_link(display),
        power_state=display.text("power_state"),
        d3cold_allowed=display.text("d3cold_allowed"),
    )


def _bar_told(function: PciFunction, bar: Bar) -> str:
    where = f"at {bar.start:#x}" if bar.assigned else "unassigned"
    return f"{function.address} BAR {bar.index}: {bar.size:#x} {where}"


def _function(function: PciFunction) -> FunctionFacts:
    return FunctionFacts(
        address=function.address,
        ids=function.ids,
        driver=function.driver,
        config=function.header[:_HEADER_START].hex(" "),
        is_bridge=function.header_type == 1,
        is_alive=function.is_alive,
        virtual_functions=function.number("sriov_numvfs"),
        mediated=function.mediated(),
        can_reset=(function.path / "reset").exists(),
        reset_methods=function.text("reset_method"),
    )


def _group(tree: PciTree, number: int, ours: set[str]) -> GroupFacts:
    others = [each for each in tree.group_members(number) if each.address not in ours and not each.is_bridge]
    return GroupFacts(
        number=number,
        is_noiommu="noiommu" in tree.group_name(number),
        others=tuple(Neighbour(each.address, each.kind) for each in others),
    )


def _window(display: PciFunction) -> Window | None:
    bar = display.memory_bar()
    if bar is None:
        return None
    resizable = (display.path / f"resource{bar.index}_resize").exists()
    return Window(bar.index, bar.start, size=bar.size, most=display.memory_bytes(), resizable=resizable)


def _rom(display: PciFunction) -> tuple[int, bool]:
    """Size of the expansion ROM, and whether what is there is the firmware's copy in memory."""
    rows = display.text("resource").splitlines()
    if len(rows) <= _ROM_ROW or not (display.path / "rom").exists():
        return 0, False
    start, end, flags = (int(word, 16) for word in rows[_ROM_ROW].split())
    return (end - start + 1 if end else 0), bool(flags & _SHADOW)


def _link(function: PciFunction, which: str) -> Link:
    """`which` is current or max."""
    width = function.asked(f"{which}_link_width")
    return Link(int(width) if width.isdigit() else 0, function.asked(f"{which}_link_speed"))


def best_link(display: PciFunction) -> Link:
    """What both the card and the port above it can do."""
    ends = [_link(display, "max")]
    if display.bridge is not None:
        ends.append(_link(PciFunction(display.bridge), "max"))
    known = [end for end in ends if end.width]
    if not known:
        return Link()
    return Link(min(end.width for end in known), min(known, key=lambda end: end.rate).speed)


def _claimed_by(tree: PciTree, card: list[PciFunction]) -> str:
    """The place that has the kernel give every function of the card to vfio-pci at boot, or nothing."""
    reader = Reader(tree.root)
    places = [("/proc/cmdline", reader.text("proc/cmdline").replace("vfio-pci.ids=", VFIO_IDS))]
    for directory in ("etc/modprobe.d", "lib/modprobe.d", "run/modprobe.d"):
        places += list(reader.lines(directory, ending=".conf"))
    wanted = {function.ids for function in card}
    return next((place for place, line in places if wanted <= _ids_in(line)), "")


def _ids_in(line: str) -> set[str]:
    """The vendor:device ids that a line of modprobe's or of the kernel's parameters gives to vfio-pci."""
    _, found, rest = " ".join(line.split()).partition(VFIO_IDS)
    return (
        {":".join(each.split(":")[:2]).lower() for each in rest.split(" ")[0].split(",")} if found else set()
    )
