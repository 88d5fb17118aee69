"""What the lab's portal starts with: the demo's people, a catalogue for the emulated cards, later the GPUs.

It runs in the portal's environment, through `manage.py shell`.
"""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from django.core.management import call_command
from django.utils import timezone

from hosts.models import FoundCard, GpuModel
from lab.host import HOST_PORT, WORLD
from lab.hypervisor.base import ADDRESS
from lab.hypervisor.machine import GPU_MEMORY_BYTES, PLAIN, WITH_AUDIO
from leasing import fleet
from leasing.actors import SYSTEM
from leasing.models import Flavor, Image, Rate
from portal.demo import seed

VENDOR_DEVICE = "1234:1111"
MODELS = {PLAIN.functions[0]: "plain", WITH_AUDIO.functions[0]: "audio"}
# One of each kind: from inside, and through the BAR.
SCRUB_METHODS = {"plain": ["machine"], "audio": ["bar"]}
# A tenant reads this place in its GPU's memory, says what it found, and leaves its secret there.
SECRET_OFFSET = 0x1000
SECRET_WORDS = (0x5EC2E700, 0xC0FFEE42, 0xDEC0DE99, 0x0DDBA115)
READS_THEN_WRITES = (
    f"leasehold.read={SECRET_OFFSET:x}:{len(SECRET_WORDS)} "
    f"leasehold.write=auto:{SECRET_OFFSET:x}:{','.join(f'{word:08x}' for word in SECRET_WORDS)}"
)
# Emulated twice, a tenant has no use for more; pinning memory takes seconds per GiB.
SHARE = {"share_vcpus": 1, "share_memory_mib": 192, "share_disk_gib": 1}


def prepare(url: str, accounts: str, manifest: str) -> None:
    """An empty database becomes one with people, flavors and images."""
    call_command("migrate", verbosity=0)
    now = timezone.now()
    for slug in MODELS.values():
        model = GpuModel.objects.create(
            slug=slug,
            name=f"Emulated display, {slug}",
            vendor_device=VENDOR_DEVICE,
            memory_mib=GPU_MEMORY_BYTES >> 20,
            scrub_methods=SCRUB_METHODS[slug],
        )
        flavor = Flavor.objects.create(slug=slug, name=f"One {slug} GPU", model=model)
        yesterday = now - timedelta(days=1)
        Rate.objects.create(flavor=flavor, per_hour=Decimal("3.60"), currency="EUR", valid_from=yesterday)
    Image.objects.create(
        slug="tiny",
        name="Tiny Linux",
        os_family="linux",
        format=Image.Format.DIRECT_KERNEL,
        digest=hashlib.sha256(Path(manifest).read_bytes()).hexdigest(),
        file_name="tenant",
        cmdline=f"{READS_THEN_WRITES} leasehold.try={','.join(places_to_try())}",
        ports=[80],
    )
    seed.write_accounts(Path(accounts), url=url, accounts=seed.seed_people(now=now))


def places_to_try() -> list[str]:
    """What a machine tries to reach: the world, the broker, its host by two addresses, metadata."""
    broker = urlsplit(os.environ["LEASEHOLD_BROKER_FOR_HOSTS"])
    own = [f"{address}:{HOST_PORT}" for address in (ADDRESS, "172.29.0.1")]
    return [f"{WORLD}:80", f"{broker.hostname}:{broker.port}", *own, "169.254.169.254:80"]


def admit(*addresses: str) -> None:
    """Take cards into service, with small shares of their small host."""
    for card in FoundCard.objects.present().filter(address__in=addresses):
        model = GpuModel.objects.get(slug=MODELS[card.address])
        gpu = fleet.admit_gpu(actor=SYSTEM, card_id=card.pk, model_id=model.pk, now=timezone.now())
        type(gpu).objects.filter(pk=gpu.pk).update(**SHARE)
