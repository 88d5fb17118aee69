"""Cards that a reset would harm: which those are, and that no rung, nor VFIO itself, may use it on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hosts.agent.bus import BusError
from hosts.agent.known_bad import ALL_BUT_THE_CARDS_OWN, TABLE, forbidden, known_bad
from hosts.agent.slicing_bus import SlicingBus
from tests.agent.fake_sysfs import FakeHost, FakeKernel

GPU, PORT = "0000:01:00.0", "0000:00:01.0"

# The ids of a card by name, and what it must not be reset by.
CARDS = {
    "GH200 120GB": ("10de:2342", {"bus"}),
    "Tesla T4": ("10de:1eb8", {"bus"}),
    "RTX 5090": ("10de:2b85", {"flr"}),
    "RX 480": ("1002:67df", ALL_BUT_THE_CARDS_OWN),
    "RX Vega 64": ("1002:687f", ALL_BUT_THE_CARDS_OWN),
    "RX 5700 XT": ("1002:731f", ALL_BUT_THE_CARDS_OWN),
    "RX 9070 XT": ("1002:7550", {"bus"}),
    "MI300X": ("1002:74a1", ALL_BUT_THE_CARDS_OWN),
    "RTX A6000": ("10de:2230", set()),
    "H100 SXM5": ("10de:2330", set()),
    "RX 6800 XT": ("1002:73bf", set()),
    "a T4's number at AMD's": ("1002:1eb8", set()),
}


@pytest.mark.parametrize(("ids", "methods"), CARDS.values(), ids=CARDS)
def test_a_card_is_known_by_its_ids(ids: str, methods: set[str]) -> None:
    assert forbidden(ids) == methods
    assert (known_bad(ids) is None) == (not methods)


def test_every_row_says_where_it_is_known_from() -> None:
    for row in TABLE:
        assert row.source
        assert row.methods
        assert all(device & row.mask == device for device in row.devices), "it could never match"


def a_host(
    root: Path, vendor: int, device: int, **attributes: str
) -> tuple[FakeHost, FakeKernel, SlicingBus]:
    host = FakeHost(root)
    host.bridge(PORT, group=1, reset_subordinate="")
    host.function(GPU, group=7, bridge=PORT, driver="simdrm", vendor=vendor)
    for name, text in {"device": f"{device:#06x}", **attributes}.items():
        (host.path(GPU) / name).write_text(f"{text}\n")
    kernel = FakeKernel(host)
    return host, kernel, SlicingBus(root, kernel=kernel)


def rungs_of(bus: SlicingBus) -> list[str]:
    return [rung.method for rung in bus.reset_rungs(bus.card(GPU))]


def test_without_bus_resets_the_card_is_reset_by_itself(tmp_path: Path) -> None:
    host, _, bus = a_host(tmp_path / "root", 0x1002, 0x7550, reset_method="flr bus")
    assert rungs_of(bus) == ["sysfs-reset", "remove-rescan"]
    bus.bind(bus.card(GPU))
    assert (host.path(GPU) / "reset_method").read_text() == "flr\n"


def test_without_function_resets_the_bus_is_reset(tmp_path: Path) -> None:
    host, _, bus = a_host(tmp_path / "root", 0x1002, 0x7550, reset_method="flr bus")
    (host.path(GPU) / "device").write_text("0x2b85\n")
    (host.path(GPU) / "vendor").write_text("0x10de\n")
    assert rungs_of(bus) == ["vfio-hot-reset", "bridge-reset", "sysfs-reset", "remove-rescan"]
    display = bus._tree.function(GPU)
    assert display is not None
    assert display.permitted_resets == "bus"


def test_vfio_is_kept_from_it_before_anything_opens_the_card(tmp_path: Path) -> None:
    """VFIO resets by the kernel's choice at the first opening: that is made before the card is bound."""
    host, kernel, bus = a_host(tmp_path / "root", 0x1002, 0x7550, reset_method="flr bus")
    assert not bus.is_bound(bus.card(GPU))
    bus.bind(bus.card(GPU))
    names = [path.rpartition("/")[2] for path, _ in kernel.writes]
    assert names.index("reset_method") < names.index("bind")
    (host.path(GPU) / "reset_method").write_text("flr bus\n")
    assert not bus.is_bound(bus.card(GPU)), "somebody has changed it back"


def test_a_method_that_is_made_anew_is_confined_again(tmp_path: Path) -> None:
    host, kernel, bus = a_host(tmp_path / "root", 0x1002, 0x7550, reset_method="flr bus")
    bus.bind(card := bus.card(GPU))
    kernel.stale = {GPU}
    kernel.renewed = "bus flr"
    (rung,) = [rung for rung in bus.reset_rungs(card) if rung.method == "sysfs-reset"]
    rung.run()
    assert (host.path(GPU) / "reset_method").read_text() == "flr\n"
    assert kernel.done["reset"] == 1
    assert bus.is_bound(card)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (0x67DF, "It survives no reset but one of its own"),
        (0x74A1, "only a reboot of the host brings it back"),
    ],
)
def test_a_card_that_no_reset_leaves_unharmed_is_refused(tmp_path: Path, device: int, reason: str) -> None:
    _, kernel, bus = a_host(tmp_path / "root", 0x1002, device, reset_method="flr bus")
    card = bus.card(GPU)
    assert reason in card.refusal
    assert rungs_of(bus) == []
    with pytest.raises(BusError, match="may not be leased"):
        bus.bind(card)
    assert not kernel.done


def test_a_reset_of_the_cards_own_is_enough(tmp_path: Path) -> None:
    """With the module vendor-reset the kernel lists it first."""
    host, _, bus = a_host(tmp_path / "root", 0x1002, 0x67DF, reset_method="device_specific bus")
    assert bus.card(GPU).refusal == ""
    assert rungs_of(bus) == ["sysfs-reset", "remove-rescan"]
    bus.bind(bus.card(GPU))
    assert (host.path(GPU) / "reset_method").read_text() == "device_specific\n"


def test_a_kernel_that_cannot_be_told_may_not_choose(tmp_path: Path) -> None:
    host, _, bus = a_host(tmp_path / "root", 0x1002, 0x67DF)
    (host.path(GPU) / "reset_method").unlink()
    assert rungs_of(bus) == []
    assert "survives no reset but one of its own" in bus.card(GPU).refusal
