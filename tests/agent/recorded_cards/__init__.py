"""The files of real cards, as `/sys` and `/proc` showed them; serial numbers are replaced."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def lay_out(card: str, root: Path, *, driver: str) -> str:
    """The files of a recorded card below `root`, of which the BARs are empty; its address."""
    recorded: dict[str, Any] = json.loads((HERE / f"{card}.json").read_text())
    address: str = recorded["address"]
    device = root / "sys/devices/pci0000:00" / address
    drivers = root / "sys/bus/pci/drivers" / driver
    links = root / "sys/bus/pci/devices"
    told = root / "proc/driver/nvidia/gpus" / address
    for folder in (device, drivers, links, told):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in recorded["attributes"].items():
        (device / name).write_text(f"{text}\n")
    (device / "config").write_bytes(zlib.decompress(base64.b64decode(recorded["config"])))
    (device / "reset").touch()
    for name, size in recorded["sizes"].items():
        with (device / name).open("wb") as file:
            file.truncate(size)
    (device / "driver").symlink_to(drivers)
    (links / address).symlink_to(device)
    (told / "information").write_text(recorded["information"])
    return address
