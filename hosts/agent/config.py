"""What the operator of a hypervisor decides (one TOML file), and what the portal told it at its enrolment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from hosts.agent.network.settings import NetworkSettings
from hosts.protocol.fields import Name, PciAddress, Sha256
from hosts.protocol.machine import UsbId

DEFAULT_CONFIG = Path("/etc/leasehold/host.toml")
PublicKey = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Seconds = Annotated[float, Meta(gt=0)]
Risk = Literal["boot_vga", "pcie_acs_override"]


class ConfigError(Exception):
    """The configuration cannot be used; the text says what to change."""


class Rom(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that a machine is shown instead of the ROM of the card at this address."""

    address: PciAddress
    file: Path
    sha256: Sha256

    def __post_init__(self) -> None:
        if not self.file.is_absolute():
            raise ValueError("`file` of a ROM must be an absolute path")


class HomePool(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where home volumes lie. Hosts that give the same name see the same files there."""

    name: Name
    directory: Path


class ReaderSystem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The system of reading machines, as `appliance.reader` built it, and the digest of its manifest."""

    directory: Path
    sha256: Sha256


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The operator's decisions, all of which may be left out. Times in seconds.

    `image_mib_per_second` bounds how fast images are fetched; 0 is as fast as they come. `read_gpu_errors`:
    guests whose agent permits it are made to run `dmesg`.
    """

    state_directory: Path = Path("/var/lib/leasehold")
    images_directory: Path = Path("/var/lib/leasehold/images")
    libvirt_uri: str = "qemu:///system"
    domain_type: Literal["kvm", "qemu"] = "kvm"
    bus: Literal["sysfs", "simulated"] = "sysfs"
    bus_directory: Path | None = None
    scrubbers: Path | None = None
    accepted_risks: tuple[Risk, ...] = ()
    roms: tuple[Rom, ...] = ()
    usb_devices: tuple[UsbId, ...] = ()
    network: NetworkSettings = NetworkSettings()
    home_pool: HomePool | None = None
    reader: ReaderSystem | None = None
    image_mib_per_second: Annotated[float, Meta(ge=0)] = 0.0
    resend_seconds: Seconds = 10.0
    inventory_seconds: Seconds = 60.0
    check_up_seconds: Seconds = 3600.0
    watch_seconds: Seconds = 1.0
    guest_seconds: Seconds = 10.0
    read_gpu_errors: bool = False
    reconcile_seconds: Seconds = 60.0
    stop_machines_on_exit: bool = False

    def __post_init__(self) -> None:
        if self.bus == "simulated" and self.bus_directory is None:
            raise ValueError("`bus_directory` must be set when `bus` is `simulated`")

    @property
    def reads_homes(self) -> bool:
        """Whether there is what reading machines are made of."""
        return self.reader is not None and self.home_pool is not None

    @property
    def journal_path(self) -> Path:
        return self.state_directory / "journal.sqlite3"

    @property
    def identity_path(self) -> Path:
        return self.state_directory / "identity.json"

    @property
    def next_identity_path(self) -> Path:
        """Keys that the portal may know already, and the worker does not use yet."""
        return self.state_directory / "identity.next.json"

    @property
    def enrolment_path(self) -> Path:
        return self.state_directory / "enrolment.json"

    @property
    def socket_path(self) -> Path:
        return self.state_directory / "control.socket"

    @property
    def disks_directory(self) -> Path:
        return self.state_directory / "disks"

    @property
    def machines_directory(self) -> Path:
        """Serial logs, seeds and firmware variables."""
        return self.state_directory / "machines"


class Enrolment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the portal answered. `broker_url` carries the password of the host's own broker account."""

    host: Name
    portal: str
    ca_file: str = ""
    broker_url: str
    control_keys: Annotated[tuple[PublicKey, ...], Meta(min_length=1)]

    def __repr__(self) -> str:
        return f"Enrolment({self.host})"


class Config(Settings, frozen=True, kw_only=True):
    """All that an enrolled host's worker needs."""

    host: Name
    portal: str
    ca_file: str = ""
    broker_url: str
    control_keys: tuple[PublicKey, ...]

    def __repr__(self) -> str:
        return f"Config({self.host})"


def load_settings(path: Path = DEFAULT_CONFIG) -> Settings:
    """The operator's decisions in the file at `path`; there need be none at the default path. ConfigError."""
    if path == DEFAULT_CONFIG and not path.exists():
        return Settings()
    try:
        if path.stat().st_mode & 0o022:
            raise ConfigError(f"{path} can be changed by others than its owner: run `chmod go-w {path}`.")
        return msgspec.toml.decode(path.read_bytes(), type=Settings, dec_hook=_decode_path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}.") from error


def load_enrolment(path: Path) -> Enrolment:
    """What `leasehold-host enrol` has written to `path`. ConfigError if it is not there, or not private."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} holds the broker's password: make it private with `chmod 600 {path}`.")
        return msgspec.json.decode(path.read_bytes(), type=Enrolment)
    except FileNotFoundError as error:
        raise ConfigError(
            "This host is not enrolled yet. Have an operator make a token at the portal, then run "
            "`leasehold-host enrol --portal URL --token-file FILE`."
        ) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{path}: {error}.") from error


def write_enrolment(path: Path, enrolment: Enrolment) -> None:
    """Replace what is at `path`, at once and for the owner alone."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(enrolment)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load_config(path: Path) -> Config:
    """Everything an enrolled host knows. ConfigError says what is missing."""
    settings = load_settings(path)
    enrolment = load_enrolment(settings.enrolment_path)
    return Config(**msgspec.structs.asdict(settings), **msgspec.structs.asdict(enrolment))


def _decode_path(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)
