"""A small world for tests: two tenants, people in every role, one host that speaks as a script says."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from nacl.public import PrivateKey
from nacl.signing import SigningKey

from hosts.models import Gpu, GpuModel, Host
from hosts.protocol import messages as m
from hosts.protocol.codec import PROTOCOL, encode
from hosts.protocol.enrolment import NewKeys
from hosts.protocol.first_evidence import summary
from hosts.protocol.signing import REPORT, Signer, public_hex
from leasing import fleet, policy
from leasing.actors import SYSTEM, Actor
from leasing.enrolment.admission import trust_host
from leasing.models import Flavor, Image, Lease, OutboxMessage, Person, Rate, Tenant
from leasing.reports import receive_report
from leasing.states.lease import ON_HOST
from leasing.tick import tick

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
VENDOR_DEVICE = "10de:2230"
KERNEL = "6.1"
MEMORY_BYTES = 64 * 2**20


def person(name: str) -> Person:
    return Person.objects.create(username=name, email=f"{name}@example.org")


def fingerprint(address: str) -> m.Fingerprint:
    return m.Fingerprint(vendor_device=VENDOR_DEVICE, serial=f"S-{address}", rom_sha256="ab" * 32)


def method_record(name: str = "bar", **changes: object) -> m.MethodRecord:
    """A method that overwrote all of the memory; `changes` make it another."""
    facts: dict[str, object] = {
        "name": name,
        "version": "2",
        "digest": "cd" * 32,
        "kind": "overwrite",
        "proven_on": (VENDOR_DEVICE,),
        "proven": True,
        "reached_bytes": MEMORY_BYTES,
        "written_bytes": MEMORY_BYTES,
        "pattern": "00",
        "seconds": 0.5,
    }
    return m.MethodRecord(**{**facts, **changes})  # type: ignore[arg-type]


def witness(**changes: object) -> m.Witness:
    """A host that planted canaries, read everything and found nothing; `changes` make it another."""
    facts: dict[str, object] = {
        "window": "bar",
        "window_bytes": MEMORY_BYTES,
        "proven": True,
        "seed": "5eed" * 8,
        "canaries_planted": 32,
        "canary_places": tuple(range(0, MEMORY_BYTES, MEMORY_BYTES // 32)),
        "coverage": "full",
        "read_bytes": MEMORY_BYTES,
        "seconds": 0.25,
    }
    return m.Witness(**{**facts, **changes})  # type: ignore[arg-type]


def evidence(address: str, *, at: datetime, **changes: object) -> m.ScrubEvidence:
    """Evidence of a scrub that passes; `changes`, to the witness too, make it one that should not."""
    seen = {name: changes.pop(name) for name in tuple(changes) if name in m.Witness.__struct_fields__}
    methods, watched = (method_record(),), witness(**seen)
    facts: dict[str, object] = {
        **summary(methods, watched),
        "simulated": True,
        "memory_bytes": MEMORY_BYTES,
        "methods": methods,
        "witness": watched,
        "fills": 1,
        "resets": (m.ResetRecord(method="hot-reset", scope="bus", seconds=0.5, attempts=1),),
        "fingerprint_before": fingerprint(address),
        "fingerprint_after": fingerprint(address),
        "started_at": at,
        "finished_at": at,
        "kernel": KERNEL,
        "verdict": "passed",
    }
    return m.ScrubEvidence(**{**facts, **changes})  # type: ignore[arg-type]


def inventory(*addresses: str, machines: tuple[m.MachineFacts, ...] = ()) -> m.Inventory:
    """A host with a card at each address."""
    cards = tuple(
        m.CardFacts(
            address=address,
            functions=(address,),
            iommu_group=index,
            name="Scripted A6000",
            memory_bytes=MEMORY_BYTES,
            numa_node=index % 2,
            fingerprint=fingerprint(address),
        )
        for index, address in enumerate(addresses)
    )
    return m.Inventory(
        cards=cards,
        machines=machines,
        cpu_count=16,
        memory_mib=65536,
        disk_gib=1000,
        kernel=KERNEL,
        worker_version="test",
        simulated=True,
    )


@dataclass
class ScriptedHost:
    """A host whose reports the test writes. It signs them with a real key and numbers them."""

    row: Host
    key: SigningKey
    journal_id: UUID = field(default_factory=uuid4)
    sequence: int = 0
    protocol: int = PROTOCOL

    def envelope(
        self,
        event: m.Event,
        *,
        at: datetime,
        command: OutboxMessage | m.Command | None = None,
    ) -> str:
        self.sequence += 1
        report = m.Report(
            protocol=self.protocol,
            host=self.row.account,
            journal_id=self.journal_id,
            sequence=self.sequence,
            command_id=command.command_id if command else None,
            subject=command.subject if command else f"host:{self.row.account}",
            generation=command.generation if command else 0,
            occurred_at=at,
            event=event,
        )
        return Signer(self.key, REPORT).sign(encode(report))

    def say(
        self,
        event: m.Event,
        *,
        at: datetime,
        now: datetime | None = None,
        command: OutboxMessage | None = None,
    ) -> str:
        """Report an event; returns the verdict of the control plane, empty if it took none."""
        stored = receive_report(self.envelope(event, at=at, command=command), now=now or at)
        if stored is None:
            return ""
        stored.refresh_from_db()
        return stored.verdict

    def inventory(self, *addresses: str, at: datetime) -> None:
        """Cards at these addresses, and every machine that it should have."""
        self.say(inventory(*addresses, machines=self.machines()), at=at)

    def machines(self) -> tuple[m.MachineFacts, ...]:
        """Those that it should have."""
        leases = Lease.objects.filter(host=self.row, state__in=ON_HOST)
        return tuple(
            m.MachineFacts(name=lease.machine_name, state="running", lease_id=lease.pk) for lease in leases
        )


class World:
    """Everything a story needs. `now` moves only when the story says so."""

    def __init__(self, *, gpus: int = 2, concurrent_gpus: int = 4, start: datetime = START) -> None:
        self.now = start
        self.sent: list[tuple[Host, str]] = []
        self.model = GpuModel.objects.create(
            slug="a6000", name="A6000", memory_mib=64, vendor_device=VENDOR_DEVICE
        )
        self.flavor = Flavor.objects.create(slug="studio", name="Studio A6000", model=self.model)
        self.price(self.flavor)
        self.image = Image.objects.create(
            slug="tenant",
            name="Tenant",
            os_family="linux",
            format="direct-kernel",
            digest="ef" * 32,
            file_name="tenant",
        )
        self.studio = Tenant.objects.create(slug="studio", name="Studio", concurrent_gpus=concurrent_gpus)
        self.research = Tenant.objects.create(
            slug="research", name="Research", concurrent_gpus=concurrent_gpus
        )
        self.ada, self.bob = person("ada"), person("bob")
        self.approver, self.finance = person("approver"), person("finance")
        self.operator, self.auditor = person("operator"), person("auditor")
        self._grant_roles()
        self.host = self.enrol("hv1")
        self.gpus = self.admit(self.host, gpus)

    def price(self, flavor: Flavor) -> Rate:
        valid_from = self.now - timedelta(days=365)
        return Rate.objects.create(
            flavor=flavor, per_hour=Decimal("3.8"), currency="EUR", valid_from=valid_from
        )

    def _grant_roles(self) -> None:
        roles: tuple[tuple[Person, Tenant, policy.Role], ...] = (
            (self.ada, self.studio, "member"),
            (self.bob, self.research, "member"),
            (self.approver, self.studio, "approver"),
            (self.finance, self.studio, "finance"),
        )
        for who, tenant, role in roles:
            policy.grant_role(actor=SYSTEM, person=who, tenant=tenant, role=role, now=self.now)
        for who, global_role in ((self.operator, "operator"), (self.auditor, "auditor")):
            policy.grant_global_role(actor=SYSTEM, person=who, role=global_role, now=self.now)

    def enrol(self, name: str) -> ScriptedHost:
        key = SigningKey.generate()
        keys = NewKeys(signing_key=public_hex(key), sealing_key=public_hex(PrivateKey.generate()))
        return ScriptedHost(trust_host(actor=SYSTEM, name=name, keys=keys, now=self.now), key)

    def admit(self, host: ScriptedHost, count: int) -> list[Gpu]:
        """Bring GPUs into service, proven clean by an intake."""
        host.inventory(*(f"0000:{index + 1:02x}:00.0" for index in range(count)), at=self.now)
        gpus = [
            fleet.admit_gpu(actor=SYSTEM, card_id=card.pk, model_id=self.model.pk, now=self.now)
            for card in host.row.found_cards.present()
        ]
        self.tick()
        for gpu in gpus:
            self.scrub(host, gpu)
            gpu.refresh_from_db()
        return gpus

    def tick(self, *, after: timedelta = timedelta(0)) -> None:
        self.now += after
        tick(now=self.now, send=lambda host, envelope: self.sent.append((host, envelope)))

    def scrub(self, host: ScriptedHost, gpu: Gpu, *, lease: Lease | None = None, **changes: object) -> None:
        """The host scrubs a GPU and reports its evidence."""
        gpu.refresh_from_db()
        command = OutboxMessage.objects.filter(subject=f"gpu:{gpu.pk}").order_by("-generation").first()
        host.say(m.ScrubStarted(gpu_id=gpu.pk, tenure=gpu.tenure), at=self.now, command=command)
        host.say(
            m.Scrubbed(
                gpu_id=gpu.pk,
                tenure=gpu.tenure,
                lease_id=lease.pk if lease else None,
                evidence=evidence(gpu.address, at=self.now, **changes),
            ),
            at=self.now,
            command=command,
        )

    def start(self, lease: Lease) -> None:
        """The host builds the machine, and it runs."""
        self.tick()
        order = self.command(lease, "provision")
        self.host.say(m.Accepted(), at=self.now, command=order)
        self.host.say(m.MachineRunning(lease_id=lease.pk), at=self.now, command=order)
        lease.refresh_from_db()

    def command(self, lease: Lease, kind: str) -> OutboxMessage:
        return OutboxMessage.objects.filter(lease=lease, kind=kind).latest("created_at")

    def actor(self, who: Person) -> Actor:
        return Actor.of_person(who)
