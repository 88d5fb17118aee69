"""The demo's people, teams and catalogue. Written once; a second start keeps what is there."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

from knox.models import AuthToken

from hosts.models import FoundCard, Gpu, GpuModel
from leasing import fleet, policy
from leasing.actors import SYSTEM
from leasing.models import Flavor, Image, Person, Rate, Tenant

ROLES: tuple[policy.Role, ...] = ("member", "approver", "finance")
TENANTS = {
    "studio": ("Studio North", "Europe/Berlin", 1),
    "research": ("Research Lab", "Asia/Shanghai", 0),
}
NAMES = {
    ("studio", "member"): ("dana", "Dana", "Lind"),
    ("studio", "approver"): ("omar", "Omar", "Haddad"),
    ("studio", "finance"): ("ines", "Inês", "Costa"),
    ("research", "member"): ("wei", "Wei", "Zhang"),
    ("research", "approver"): ("lin", "Lin", "Chen"),
    ("research", "finance"): ("mei", "Mei", "Wang"),
}
GLOBAL_NAMES = {
    "operator": ("oskar", "Oskar", "Berg"),
    "platform-finance": ("petra", "Petra", "Novak"),
    "auditor": ("aoife", "Aoife", "Byrne"),
}


@dataclass(frozen=True)
class Account:
    """One way to sign in, as written to var/demo.json."""

    role: str
    tenant: str
    username: str
    password: str
    api_token: str


@dataclass(frozen=True)
class Offer:
    """A flavor of one of the simulated bus's models."""

    model: str
    slug: str
    name: str
    description: str
    gpu_count: int
    per_hour: Decimal


# The simulated bus calls its models so; the memory is what is really simulated.
MODELS = {"1234:a600": ("a6000", "Simulated A6000"), "1234:0140": ("l40", "Simulated L40")}
MEMORY_MIB = 64
OFFERS = (
    Offer("a6000", "studio", "Studio A6000", "CAD and rendering", 1, Decimal("3.80")),
    Offer("a6000", "studio-duo", "Studio 2×A6000", "Large scenes", 2, Decimal("7.20")),
    Offer("l40", "train", "Train L40", "Training and inference", 1, Decimal("2.60")),
)


def seed_catalogue(*, image_manifest: Path, now: datetime) -> None:
    """Write the models, flavors, rates and the image that are missing."""
    for vendor_device, (slug, name) in MODELS.items():
        _model(vendor_device, slug, name)
    for offer in OFFERS:
        _offer(offer, now=now)
    _image(image_manifest)


def seed_people(*, now: datetime) -> list[Account]:
    """Everybody, in their roles, with new passwords and tokens."""
    tenants = {slug: _tenant(slug) for slug in TENANTS}
    accounts = [
        _account(role, tenants[slug], NAMES[slug, role], now=now) for slug in TENANTS for role in ROLES
    ]
    return accounts + [_global_account(role, names, now=now) for role, names in GLOBAL_NAMES.items()]


def admit_found_gpus(*, now: datetime) -> int:
    """Take every leasable card into service; returns how many GPUs the demo has."""
    for card in FoundCard.objects.present().filter(refusal="").select_related("host"):
        model = GpuModel.objects.filter(vendor_device=card.fingerprint["vendor_device"]).first()
        if model and not Gpu.objects.filter(host=card.host, address=card.address).exists():
            gpu = fleet.admit_gpu(actor=SYSTEM, card_id=card.pk, model_id=model.pk, now=now)
            # A laptop is shared with its owner: the demo's machines are small whatever it has.
            gpu.share_vcpus, gpu.share_memory_mib, gpu.share_disk_gib = 1, 256, 1
            gpu.save(update_fields=["share_vcpus", "share_memory_mib", "share_disk_gib"])
    return Gpu.objects.count()


def write_accounts(path: Path, *, url: str, accounts: list[Account]) -> None:
    """The accounts as JSON, for programs that try the demo; readable by its owner only."""
    text = json.dumps({"url": url, "accounts": [asdict(account) for account in accounts]}, indent=2)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text + "\n")


def read_accounts(path: Path) -> list[Account]:
    if not path.exists():
        return []
    return [Account(**account) for account in json.loads(path.read_text())["accounts"]]


def _tenant(slug: str) -> Tenant:
    name, zone, gpus = TENANTS[slug]
    tenant, _ = Tenant.objects.get_or_create(
        slug=slug, defaults={"name": name, "timezone": zone, "concurrent_gpus": gpus}
    )
    return tenant


def _model(vendor_device: str, slug: str, name: str) -> None:
    GpuModel.objects.get_or_create(
        slug=slug,
        defaults={
            "name": name,
            "vendor_device": vendor_device,
            "memory_mib": MEMORY_MIB,
            "lead_seconds": 30,
            "turnaround_seconds": 60,
        },
    )


def _offer(offer: Offer, *, now: datetime) -> None:
    flavor, _ = Flavor.objects.get_or_create(
        slug=offer.slug,
        defaults={
            "name": offer.name,
            "description": offer.description,
            "gpu_count": offer.gpu_count,
            "model": GpuModel.objects.get(slug=offer.model),
        },
    )
    if not flavor.rates.exists():
        Rate.objects.create(
            flavor=flavor, per_hour=offer.per_hour, currency="EUR", valid_from=now - timedelta(days=1)
        )


def _image(manifest: Path) -> None:
    Image.objects.update_or_create(
        slug="tiny",
        version=1,
        defaults={
            "name": "Tiny Linux (demo)",
            "os_family": "linux",
            "format": Image.Format.DIRECT_KERNEL,
            "digest": sha256(manifest.read_bytes()).hexdigest(),
            "file_name": manifest.parent.name,
            "login": "A shell is open on the console.",
            "default_user": "root",
            # It serves a page that says whose it is.
            "ports": [80],
        },
    )


def _account(role: policy.Role, tenant: Tenant, names: tuple[str, str, str], *, now: datetime) -> Account:
    person, account = _person(role, tenant.slug, names, zone=tenant.timezone)
    policy.grant_role(actor=SYSTEM, person=person, tenant=tenant, role=role, now=now)
    return account


def _global_account(role: str, names: tuple[str, str, str], *, now: datetime) -> Account:
    person, account = _person(role, "", names, zone="UTC")
    policy.grant_global_role(actor=SYSTEM, person=person, role=role, now=now)
    return account


def _person(role: str, tenant: str, names: tuple[str, str, str], *, zone: str) -> tuple[Person, Account]:
    username, first, last = names
    password = secrets.token_urlsafe(9)
    person, _ = Person.objects.update_or_create(
        username=username,
        defaults={
            "email": f"{username}@demo.invalid",
            "first_name": first,
            "last_name": last,
            "timezone": zone,
        },
    )
    person.set_password(password)
    person.save(update_fields=["password"])
    _, text = AuthToken.objects.create(person)
    return person, Account(role, tenant, username, password, text)
