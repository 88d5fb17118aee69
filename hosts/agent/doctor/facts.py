"""What `doctor` judges: facts about a host and its cards, read by others, without any opinion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Platform:
    """What decides whether the kernel can isolate devices. Texts are as the kernel wrote them, or empty."""

    cmdline: str = ""
    iommus: tuple[str, ...] = ()
    ecaps: tuple[str, ...] = ()
    unsafe_interrupts: str = ""
    noiommu_mode: str = ""
    lockdown: str = ""


@dataclass(frozen=True)
class Processor:
    """`vendor` is GenuineIntel or AuthenticAMD; `virtualisation` is vmx, svm or empty."""

    vendor: str = ""
    virtualisation: str = ""
    has_kvm: bool = False
    isolated: str = ""
    numa_nodes: int = 1


@dataclass(frozen=True)
class HugePages:
    """Pages of one size, in KiB."""

    size_kib: int
    count: int


@dataclass(frozen=True)
class HypervisorFacts:
    """Versions of what answers at `uri`; `error` says why nothing does.

    `unanswered` are the latest calls that were given up, in words.
    """

    uri: str
    libvirt: Version | None = None
    qemu: Version | None = None
    error: str = ""
    unanswered: tuple[str, ...] = ()


@dataclass(frozen=True)
class FilterFacts:
    """What networks of machines need: nftables, which `nft` says (or the error), and dnsmasq at its path.

    `dropping` are chains of others that drop what they do not know, as `family table chain`.
    """

    nft: str = ""
    error: str = ""
    dnsmasq: str = ""
    dropping: tuple[str, ...] = ()


@dataclass(frozen=True)
class Storage:
    """The file system below `path`. Sizes in bytes."""

    path: str
    kind: str
    total: int
    free: int


@dataclass(frozen=True)
class FolderFacts:
    """A folder, or the nearest one above it that is there, and whether it can be written to.

    `read_only` is said of its file system.
    """

    path: str
    there: str
    read_only: bool = False
    writable: bool = True


@dataclass(frozen=True)
class HomePoolFacts:
    """The pool that host.toml names, and what is found at its directory.

    `error` says why there is no such directory, `mark_error` why its mark cannot be read.
    """

    name: str
    path: str
    error: str = ""
    mark: str = ""
    mark_error: str = ""
    read_only: bool = False
    writable: bool = True


@dataclass(frozen=True)
class Clock:
    """Whether the kernel's clock follows a time service, and its own estimate of the error. None: unknown."""

    synchronised: bool | None
    error_us: int = 0


@dataclass(frozen=True)
class HostFacts:
    """A whole host. `denied` are the files that could not be read for lack of rights; without a `filter`
    its machines have no network that needs one, without a `home_pool` none has a home volume."""

    simulated: bool
    domain_type: Literal["kvm", "qemu"]
    accepted_risks: frozenset[str]
    is_root: bool
    denied: tuple[str, ...]
    platform: Platform
    processor: Processor
    huge_pages: tuple[HugePages, ...]
    hypervisor: HypervisorFacts
    filter: FilterFacts | None
    storage: Storage
    images: FolderFacts
    home_pool: HomePoolFacts | None
    clock: Clock


@dataclass(frozen=True)
class Neighbour:
    """A device in a card's IOMMU group that is not of the card, and no bridge."""

    address: str
    kind: str


@dataclass(frozen=True)
class GroupFacts:
    """One IOMMU group of a card."""

    number: int
    is_noiommu: bool = False
    others: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class FunctionFacts:
    """One PCI function. `config` is the beginning of its configuration space, in hexadecimal digits;
    `reset_methods` is what the kernel lists; `can_reset` whether it has any at all; `mediated` are the
    mediated devices, such as vGPUs, that were made of it."""

    address: str
    ids: str = ""
    driver: str = ""
    config: str = ""
    is_bridge: bool = False
    is_alive: bool = True
    virtual_functions: int = 0
    mediated: tuple[str, ...] = ()
    can_reset: bool = True
    reset_methods: str = ""


@dataclass(frozen=True)
class Grounds:
    """What decides whether a card may be leased. The display function comes first.

    `bars` are the memory BARs of all functions, each with its size and address in words.
    """

    functions: tuple[FunctionFacts, ...]
    groups: tuple[GroupFacts, ...] = ()
    physical_function: str = ""
    is_boot_display: bool = False
    has_bridge: bool = True
    unassigned_bars: bool = False
    bars: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        return self.functions[0].address


@dataclass(frozen=True)
class Link:
    """A PCIe link: lanes, and transfers per second as the kernel writes them; width 0 is unknown."""

    width: int = 0
    speed: str = ""

    @property
    def rate(self) -> float:
        """In GT/s."""
        number = self.speed.split(" ")[0]
        return float(number) if number.replace(".", "", 1).isdigit() else 0.0

    def __str__(self) -> str:
        return f"x{self.width} at {self.speed.removesuffix(' PCIe')}"


@dataclass(frozen=True)
class Window:
    """The memory BAR: sizes in bytes, `most` as far as the card can be resized (or its size)."""

    index: int
    address: int
    size: int
    most: int
    resizable: bool


@dataclass(frozen=True)
class CardFacts:
    """All that is looked at on one card. `rom_bytes` is 0 where there is no ROM."""

    grounds: Grounds
    holders: tuple[str, ...] = ()
    claimed_by: str = ""
    window: Window | None = None
    rom_bytes: int = 0
    rom_is_shadow: bool = False
    numa_node: int = -1
    link: Link = Link()
    best_link: Link = Link()
    power_state: str = ""
    d3cold_allowed: str = ""
    simulated: bool = False
