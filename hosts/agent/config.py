"""What the operator of a hypervisor decides: one TOML file, checked as a whole before anything starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hosts.protocol.fields import Name

PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Seconds = Annotated[float, Meta(gt=0)]


class ConfigError(Exception):
    """The configuration file cannot be used; the text says what to change."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration. Times in seconds.

    `broker_url` carries the password of the host's own broker account, so the file must be private.
    """

    host: Name
    state_directory: Path
    broker_url: str
    control_keys: Annotated[tuple[PublicKey, ...], Meta(min_length=1)]
    images_directory: Path
    libvirt_uri: str = "qemu:///system"
    domain_type: Literal["kvm", "qemu"] = "kvm"
    bus: Literal["sysfs", "simulated"] = "sysfs"
    bus_directory: Path | None = None
    scrubbers: Path | None = None
    accepted_risks: tuple[Literal["boot_vga", "pcie_acs_override"], ...] = ()
    resend_seconds: Seconds = 10.0
    inventory_seconds: Seconds = 60.0
    check_up_seconds: Seconds = 3600.0
    watch_seconds: Seconds = 1.0
    stop_machines_on_exit: bool = False

    def __post_init__(self) -> None:
        if self.bus == "simulated" and self.bus_directory is None:
            raise ValueError("`bus_directory` must be set when `bus` is `simulated`")

    def __repr__(self) -> str:
        return f"Config({self.host})"

    @property
    def journal_path(self) -> Path:
        return self.state_directory / "journal.sqlite3"

    @property
    def identity_directory(self) -> Path:
        return self.state_directory / "identity"

    @property
    def socket_path(self) -> Path:
        return self.state_directory / "control.socket"

    @property
    def disks_directory(self) -> Path:
        return self.state_directory / "disks"

    @property
    def machines_directory(self) -> Path:
        """Serial logs and firmware variables."""
        return self.state_directory / "machines"


def load_config(path: Path) -> Config:
    """The configuration in the file at `path`, or ConfigError."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} holds the broker's password: make it private with `chmod 600 {path}`.")
        return msgspec.toml.decode(path.read_bytes(), type=Config, dec_hook=_decode_path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}.") from error


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)
