"""A history with the real portal: its database and rules on one side, the host's own code on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from nacl.public import PrivateKey

from hosts.agent.plans import gpu_lock, lease_lock
from hosts.models import Division, Gpu, GpuModel, Host
from hosts.protocol.enrolment import NewKeys
from hosts.protocol.signing import public_hex
from leasing import fleet
from leasing.actors import SYSTEM, Actor
from leasing.apart import open_division, without_former_slices
from leasing.booking import request_lease
from leasing.cards import card_at, seal_of
from leasing.changing import change_end
from leasing.ending import end_lease
from leasing.enrolment.admission import trust_host
from leasing.errors import DomainError
from leasing.fleet import readmit_gpu
from leasing.goals import PowerAction
from leasing.homes import are_offered
from leasing.keys import portal_signing_key
from leasing.models import Flavor, HomeVolume, Image, Lease, Snapshot
from leasing.power import switch_power
from leasing.reports import receive_report
from leasing.slices import divide_gpu, undivide_gpu
from leasing.snapshots import take_snapshot
from leasing.states.home import HomeState
from leasing.states.snapshot import COMING, SnapshotState
from tests.agent.campaign.desk import Card
from tests.agent.campaign.history import ROUNDS, History
from tests.agent.host_in_a_box import HOST, MIB
from tests.world import World

LENGTHS = [timedelta(minutes=minutes) for minutes in (5, 30, 120, 240)]


class PortalHistory(History):
    """The same acts; who orders and believes is the portal."""

    card_bytes = 2 * MIB

    def __init__(self, seed: int, directory: Path) -> None:
        super().__init__(seed, directory)
        self.reported: set[str] = set()
        self.again_at = self.clock.now
        self.world = World(gpus=0)
        self.room.control.key = portal_signing_key()
        sealing = public_hex(PrivateKey.generate())
        keys = NewKeys(signing_key=public_hex(self.room.signing), sealing_key=sealing)
        self.host = trust_host(actor=SYSTEM, name=HOST, keys=keys, now=self.clock.now)
        self._choose_methods()
        self.models = {card.address: self._model(card) for card in self.desk.cards}
        self.part = GpuModel.objects.create(
            slug="part", name="Part", memory_mib=1, vendor_device="1234:a601", scrub_methods=["bar"]
        )
        self.flavors = [
            Flavor.objects.create(slug=f"{model.slug}-{count}", name="Sim", model=model, gpu_count=count)
            for model in {model.pk: model for model in (*self.models.values(), self.part)}.values()
            for count in (1, 2)
        ]
        for flavor in self.flavors:
            self.world.price(flavor)
        image = self.room.image
        self.image = Image.objects.create(
            slug="box", name="Box", os_family="linux", format=image.format, digest=image.digest,
            file_name=image.name,
        )  # fmt: skip

    def _model(self, card: Card) -> GpuModel:
        """What the card is sold as, and is scrubbed like."""
        ids, size = self.room.describe(card.address)
        found, _ = GpuModel.objects.get_or_create(
            slug=f"sim-{'-'.join(card.methods)}",
            defaults={
                "name": "Sim",
                "memory_mib": size // MIB,
                "vendor_device": ids,
                "scrub_methods": list(card.methods),
                "read_back": card.policy.read_back,
            },
        )
        return found

    def live(self, acts: int) -> None:
        self.calm = True
        self.exchange()
        for card in self.host.found_cards.all():
            model = self.models[card.address]
            fleet.admit_gpu(actor=SYSTEM, card_id=card.pk, model_id=model.pk, now=self.clock.now)
        if self.dice.random() < 0.8:
            self._round()
            self._round()
            self.rent()
        self.calm = False
        self._live_on(acts)

    def rent(self) -> None:
        with self._asking():
            request_lease(
                actor=self._ada(),
                tenant=self.world.studio,
                flavor=self.dice.choice(self.flavors),
                image=self.image,
                starts_at=self.clock.now,
                ends_at=self.clock.now + self.dice.choice(LENGTHS),
                with_home=self.dice.random() < 0.7 and are_offered(),
                now=self.clock.now,
            )

    def release(self) -> None:
        for lease in self._one():
            with self._asking():
                end_lease(actor=self._ada(), lease_id=lease.pk, now=self.clock.now)

    def power(self) -> None:
        action: PowerAction = self.dice.choice(["on", "off", "restart"])
        for lease in self._one():
            with self._asking():
                switch_power(actor=self._ada(), lease_id=lease.pk, action=action, now=self.clock.now)

    def extend(self) -> None:
        later = self.dice.choice(LENGTHS)
        for lease in self._one():
            ends_at = lease.ends_at + later
            with self._asking():
                change_end(actor=self._ada(), lease_id=lease.pk, ends_at=ends_at, now=self.clock.now)

    def save(self) -> None:
        """Now, of a machine that is switched off for it, or when the lease ends."""
        for lease in self.dice.sample(self._leases("active"), min(len(self._leases("active")), 1)):
            at_end = self.dice.random() < 0.5
            with self._asking():
                if not at_end and lease.machine != Lease.Machine.OFF:
                    switch_power(actor=self._ada(), lease_id=lease.pk, action="off", now=self.clock.now)
                else:
                    take_snapshot(actor=self._ada(), lease_id=lease.pk, at_end=at_end, now=self.clock.now)

    def divide(self, card: Card) -> None:
        actor, now = self.world.actor(self.world.operator), self.clock.now
        count = self.dice.choice([1, 2])
        for gpu in Gpu.objects.filter(address=card.address):
            with self._asking():
                if open_division(gpu):
                    undivide_gpu(actor=actor, gpu_id=gpu.pk, now=now)
                else:
                    part = self.part.pk
                    divide_gpu(actor=actor, gpu_id=gpu.pk, profile="vf", count=count, model_id=part, now=now)

    def take_in(self, card: Card) -> None:
        """Out of service, and back through an intake."""
        for gpu in Gpu.objects.filter(address=card.address):
            with self._asking():
                fleet.withdraw_gpu(actor=SYSTEM, gpu_id=gpu.pk, reason="tried", now=self.clock.now)
                readmit_gpu(actor=SYSTEM, gpu_id=gpu.pk, now=self.clock.now)

    def look_at_host(self) -> None:
        with self._asking():
            fleet.inspect_host(Host.objects.get(pk=self.host.pk), now=self.clock.now)

    def tend_cards(self) -> None:
        """Somebody is told, and lets what is out of service try again."""
        if self.calm:
            for division in Division.objects.filter(state=Division.State.STANDS).select_related("gpu"):
                self.divide(next(card for card in self.desk.cards if card.address == division.gpu.address))
        for gpu in self._in_service().filter(state__in=["quarantined", "missing"]).order_by("address"):
            card = card_at(gpu)
            with self._asking():
                accepted = seal_of(card.fingerprint) if card else ""
                readmit_gpu(actor=SYSTEM, gpu_id=gpu.pk, accepted=accepted, now=self.clock.now)

    def send(self) -> None:
        self.world.now = self.clock.now
        self.world.tick()
        sent = [envelope for host, envelope in self.world.sent if host.pk == self.host.pk]
        self.world.sent.clear()
        if not self.broker_away:
            self._deliver(sent)

    def report(self) -> None:
        """Each is sent once, and again with all that have no receipt yet when a while has passed."""
        if self.broker_away:
            return
        if self.clock.now >= self.again_at:
            self.reported.clear()
            self.again_at = self.clock.now + timedelta(minutes=1)
        fresh = [each for each in self.room.spooled() if each not in self.reported]
        for envelope in self._arriving(fresh, self.late_reports):
            self.reported.add(envelope)
            receive_report(envelope, now=self.clock.now)

    def pass_time(self) -> None:
        super().pass_time()
        self.send()

    def come_to_an_end(self) -> None:
        self.told.append("— the end —")
        self._calm_down_for_good()
        self._others_go_on()
        self._make_whole()
        self._until(lambda: not self._leases("provisioning"))
        for lease in self._leases("requested", "scheduled", "provisioning", "active"):
            with self._asking():
                end_lease(actor=self._ada(), lease_id=lease.pk, now=self.clock.now)
        self._until(lambda: not Lease.objects.exclude(state="ended").exists() and not self._unclean())
        self._check_end()

    def _check_end(self) -> None:
        left = [*Lease.objects.exclude(state="ended").values_list("pk", "state")]
        self._demand(not left, f"leases are left: {left}")
        self._demand(not self._unclean(), f"not clean: {self._unclean()}")
        for gpu in self._in_service():
            self._demand(self.room.is_blank(gpu.address), f"{gpu.address} is called clean and is not")
        self._demand(not self.room.machines.all(), f"left: {self.room.machines.all()}")
        self._demand(not self.room.disks(), f"disks are left: {self.room.disks()}")
        attached = [*HomeVolume.objects.exclude(state=HomeState.DETACHED).values_list("pk", "state")]
        self._demand(not attached, f"home volumes are left: {attached}")
        coming = [*Snapshot.objects.filter(state__in=COMING).values_list("pk", "state")]
        self._demand(not coming, f"nobody knows what became of {coming}")
        kept = {*Snapshot.objects.filter(state=SnapshotState.KEPT).values_list("pk", flat=True)}
        self._demand(self.room.pool() == kept, f"in the pool: {self.room.pool()}, not {kept}")
        self._demand(not self.room.cards.state.slices, f"slices are left: {self.room.cards.state.slices}")

    def _over(self) -> set[UUID]:
        return {*Lease.objects.filter(state="ended").values_list("pk", flat=True)}

    def _in_service(self) -> QuerySet[Gpu]:
        """Cards that serve whole, and the slices of those that do not."""
        divided = Division.objects.filter(state__in=Division.OPEN).values("gpu")
        return without_former_slices(Gpu.objects.exclude(pk__in=divided))

    def _ada(self) -> Actor:
        return self.world.actor(self.world.ada)

    def _one(self) -> list[Lease]:
        """A lease that has not ended, if there is one."""
        leases = self._leases("scheduled", "provisioning", "active")
        return self.dice.sample(leases, min(len(leases), 1))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with transaction.atomic():
                yield
        except DomainError as error:
            self.told.append(f"  refused: {error}")

    def _round(self) -> None:
        self.tend_cards()
        self.exchange()
        self._work_off()
        self.room.look()
        self.report()
        self._check()
        self.clock.sleep(130)

    def _go_round(self, is_done: Callable[[], bool]) -> None:
        self._until(is_done)

    def _on_the_way(self) -> Iterator[tuple[str, set[str]]]:
        for lease in self._leases("provisioning", "releasing"):
            cards = {gpu_lock(hold.gpu.address) for hold in lease.holds.select_related("gpu")}
            yield f"{lease.state} {lease.pk}", {lease_lock(lease.pk), *cards}
        for gpu in self._in_service().exclude(state__in=["clean", "leased"]):
            yield f"{gpu.state} {gpu.address}", {gpu_lock(gpu.address)}

    def _until(self, is_done: Callable[[], bool]) -> None:
        for _ in range(ROUNDS):
            self._round()
            if is_done():
                return

    def _unclean(self) -> list[tuple[str, str, str]]:
        gpus = self._in_service().exclude(state="clean")
        divided = Division.objects.filter(state__in=Division.OPEN)
        return [
            *gpus.values_list("address", "state", "state_reason"),
            *divided.values_list("gpu__address", "state", "reason"),
        ]

    def _leases(self, *states: str) -> list[Lease]:
        return [*Lease.objects.filter(state__in=states).order_by("requested_at", "pk")]
